"""From a request to its answer: count it, refuse it or serve it, and spoil it where a fault is due. No network, no clock."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field, replace
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import orjson

from poller.simulator.capability import DECLARED, SEARCH_ONLY, capability_statement, smart_configuration
from poller.simulator.faults import Fault
from poller.simulator.search import Refused, Searches
from poller.simulator.tokens import Refusal
from poller.simulator.truth import Call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poller.simulator.practice import Practice
    from poller.simulator.truth import CallKind
    from poller.simulator.world import World

TOKEN_PATH = "/oauth/oauth2/token"  # noqa: S105 - a path
FHIR_ROOT = "/fhir/r4/"
_FHIR_JSON = "application/fhir+json;charset=UTF-8"
_OLD_FHIR_JSON = "application/json+fhir;charset=UTF-8"
_HTML = (
    b"<!DOCTYPE html><html><head><title>Maintenance</title></head><body><h1>We will be right back</h1></body></html>"
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the network brought it."""

    path: str
    query: tuple[tuple[str, str], ...]
    authorization: str
    root: str
    """Scheme and host as the caller named them, e.g. ``http://127.0.0.1:8765``."""
    arrived: float
    """Monotonic seconds."""
    now: dt.datetime
    form: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back, and how."""

    status: int
    body: bytes
    content_type: str = _FHIR_JSON
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    """Seconds for which it is held."""
    announced: int | None = None
    """Length to announce where it is not the body's: the connection is cut after the body."""
    calls: tuple[Call, ...] = ()
    """Entries of the call log to finish when it has gone."""


def outcome(status: int, code: str, diagnostics: str) -> Answer:
    """An OperationOutcome."""
    issue = {"severity": "error", "code": code, "diagnostics": diagnostics}
    return Answer(status, orjson.dumps({"resourceType": "OperationOutcome", "issue": [issue]}))


def _described(practice: Practice, request: Request, rest: str, base_url: str) -> Answer:
    """What a practice says of itself, without a token."""
    if rest == "metadata":
        return Answer(200, orjson.dumps(capability_statement(practice.spec.mode, base_url)))
    settings = smart_configuration(base_url, request.root + TOKEN_PATH)
    return Answer(200, orjson.dumps(settings), "application/json")


_INSTEAD: Mapping[Fault | None, Answer] = {
    Fault.ERROR_500: outcome(500, "exception", "Internal Server Error"),
    Fault.ERROR_503: Answer(503, b"Service Unavailable", "text/plain"),
    Fault.SPURIOUS_429: Answer(429, b"Too Many Requests", "text/plain"),
}


class Front:
    """Answers requests for a world; callers hold its lock."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._searches = {code: Searches(practice) for code, practice in world.practices.items()}

    def answer(self, request: Request) -> Answer:
        """The answer to any request but those of the control paths."""
        if request.path == TOKEN_PATH:
            return self._token(request)
        code, _, rest = request.path.removeprefix(FHIR_ROOT).partition("/")
        practice = self._world.practices.get(code)
        if practice is None or not request.path.startswith(FHIR_ROOT):
            return outcome(400, "processing", "Invalid request")
        practice.chart.reveal(request.now)
        kind, resource_type = _kind(rest)
        call = Call(request.arrived, request.now, request.path, request.query, kind)
        practice.calls.append(call)
        answer = self._limited(practice, request.now) or self._spoilt(practice, call, resource_type, request, rest)
        return self._dated(practice, replace(answer, calls=(call,)), request.now)

    def _limited(self, practice: Practice, now: dt.datetime) -> Answer | None:
        if practice.admit(now):
            return None
        return Answer(429, b"Too Many Requests", "text/plain;charset=UTF-8")

    def _dated(self, practice: Practice, answer: Answer, now: dt.datetime) -> Answer:
        """The answer with the practice's Date, its status noted."""
        for call in answer.calls:
            call.status = answer.status if answer.announced is None else 0
        served = practice.served_at(now).astimezone(dt.UTC)
        return replace(answer, headers=(*answer.headers, ("date", format_datetime(served, usegmt=True))))

    def _spoilt(self, practice: Practice, call: Call, resource_type: str | None, request: Request, rest: str) -> Answer:
        """The true answer, or what a fault makes of it."""
        faults, rng = practice.faults, practice.fault_rng
        fault = faults.draw(rng, call.kind, resource_type)
        delay = faults.delay(rng, call.kind, resource_type)
        if fault in _INSTEAD:
            return replace(_INSTEAD[fault], delay=delay)
        answer = replace(self._served(practice, call, request, rest), delay=delay)
        if fault is None:
            return answer
        call.intact = False
        if fault is Fault.HTML:
            return replace(answer, status=200, body=_HTML, content_type="text/html;charset=UTF-8")
        half = answer.body[: len(answer.body) * 2 // 3]
        return replace(answer, body=half, announced=len(answer.body) if fault is Fault.CUT_CONNECTION else None)

    def _served(self, practice: Practice, call: Call, request: Request, rest: str) -> Answer:
        """The answer of a server in good health."""
        base_url = f"{request.root}{FHIR_ROOT}{practice.spec.code}"
        if call.kind == "token":
            return self._issue(practice, request)
        if call.kind == "metadata":
            return _described(practice, request, rest, base_url)
        grant = self._world.tokens.grant(request.authorization, request.now)
        if grant is None or practice.spec.code not in grant.practices:
            return outcome(401, "login", "Access token is missing, unknown or has expired")
        resource_type, _, name = rest.partition("/")
        if not grant.covers(resource_type):
            return outcome(403, "forbidden", "The operation is not supported for the scope")
        if call.kind == "search":
            return self._search(practice, call, request, resource_type, base_url)
        return self._read(practice, resource_type, name, request.now)

    def _search(self, practice: Practice, call: Call, request: Request, resource_type: str, base_url: str) -> Answer:
        try:
            page = self._searches[practice.spec.code].page(resource_type, request.query, base_url)
        except Refused as refused:
            return outcome(refused.status, refused.code, refused.diagnostics)
        call.scope, call.read, call.page, call.last = page.scope, page.read, page.number, page.last
        call.intact, call.rows = page.intact, page.rows
        old = practice.spec.mode == "ecw" and resource_type == "Patient"
        return Answer(200, page.body, _OLD_FHIR_JSON if old else _FHIR_JSON)

    def _read(self, practice: Practice, resource_type: str, name: str, now: dt.datetime) -> Answer:
        ecw = practice.spec.mode == "ecw"
        if ecw and resource_type == "Practitioner" and "." in name:
            return outcome(500, "exception", "String index out of range: -1")
        if resource_type not in DECLARED or resource_type in SEARCH_ONLY or "/" in name:
            return outcome(404, "not-supported", "Unknown resource type or operation")
        row = practice.chart.row(resource_type, name)
        if row is not None:
            if ecw:
                return Answer(200, row.body)
            modified = format_datetime(row.stamp.astimezone(dt.UTC), usegmt=True)
            return Answer(200, row.body, headers=(("etag", f'W/"{row.number}"'), ("last-modified", modified)))
        if not ecw and practice.chart.was_seen(resource_type, name, now):
            return outcome(410, "deleted", "Resource was deleted")
        return outcome(404, "not-found", "Resource is not known")

    def _token(self, request: Request) -> Answer:
        """A token call counts against every practice that the app may read; the first of them spoils it."""
        own = sorted(self._world.tokens.practices_of(self._world.tokens.client_of(request.form)))
        practices = [self._world.practices[code] for code in own]
        if not practices:
            return _refusal(Refusal(401, "invalid_client", "Client authentication failed"))
        calls = tuple(Call(request.arrived, request.now, request.path, (), "token") for _ in practices)
        for practice, call in zip(practices, calls, strict=True):
            practice.calls.append(call)
        refused = [answer for practice in practices if (answer := self._limited(practice, request.now))]
        answer = refused[0] if refused else self._spoilt(practices[0], calls[0], None, request, "")
        return self._dated(practices[0], replace(answer, calls=calls), request.now)

    def _issue(self, practice: Practice, request: Request) -> Answer:
        faults = practice.faults
        if faults.access_denied and practice.fault_rng.random() < faults.access_denied:
            return _refusal(Refusal(500, "access_denied", "FHIR app authentication is not enabled"))
        audiences: Sequence[str] = (request.root + TOKEN_PATH,)
        try:
            granted: dict[str, Any] = self._world.tokens.issue(
                request.form, audiences, self._world.practices, request.now
            )
        except Refusal as refusal:
            return _refusal(refusal)
        headers = (("cache-control", "no-store"), ("pragma", "no-cache"))
        return Answer(200, orjson.dumps(granted), "application/json;charset=UTF-8", headers)


def _refusal(refusal: Refusal) -> Answer:
    body = orjson.dumps({"error": refusal.error, "error_description": refusal.description})
    return Answer(refusal.status, body, "application/json;charset=UTF-8")


def _kind(rest: str) -> tuple[CallKind, str | None]:
    """What a path below the base asks for, and of which type."""
    if rest in {"metadata", ".well-known/smart-configuration"}:
        return "metadata", None
    parts = rest.split("/")
    if parts[0] and len(parts) == 1:
        return "search", parts[0]
    return ("read", parts[0]) if len(parts) == 2 and parts[1] else ("other", parts[0])  # noqa: PLR2004 - type and id
