"""From a request to its answer: count it, refuse it or serve it, and spoil it where a fault is due. No network, no clock."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from poller.simulator.access import check_activated, covers, granted
from poller.simulator.bulk import Exports, kind_of
from poller.simulator.capability import capability_statement, smart_configuration
from poller.simulator.everything import patient_asked
from poller.simulator.exchange import FHIR_JSON, FHIR_ROOT, TOKEN_PATH, Answer, Request, outcome
from poller.simulator.faults import Fault
from poller.simulator.reads import read
from poller.simulator.refusals import Refused
from poller.simulator.search import Searches
from poller.simulator.tokens import Refusal
from poller.simulator.truth import Call
from poller.simulator.wrapping import wrapped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poller.simulator.practice import Practice
    from poller.simulator.tokens import Grant
    from poller.simulator.truth import CallKind
    from poller.simulator.world import World

_OLD_FHIR_JSON = "application/json+fhir;charset=UTF-8"
_HTML = (
    b"<!DOCTYPE html><html><head><title>Maintenance</title></head><body><h1>We will be right back</h1></body></html>"
)


def _described(practice: Practice, request: Request, rest: str, base_url: str) -> Answer:
    """What a practice says of itself, without a token."""
    spec = practice.spec
    if rest == "metadata":
        statement = capability_statement(spec.mode, base_url, everything=spec.everything != "off")
        return Answer(200, orjson.dumps(statement))
    if spec.open_access:
        return outcome(404, "not-found", "There is no authorization here")
    settings = smart_configuration(base_url, request.root + TOKEN_PATH)
    return Answer(200, orjson.dumps(settings), "application/json")


_INSTEAD: Mapping[Fault | None, Answer] = {
    Fault.ERROR_500: outcome(500, "exception", "Internal Server Error"),
    Fault.ERROR_503: Answer(503, b"Service Unavailable", "text/plain"),
    Fault.SPURIOUS_429: Answer(429, b"Too Many Requests", "text/plain"),
    Fault.HTML_404: Answer(404, _HTML, "text/html;charset=UTF-8"),
}


def _sent(practice: Practice, answer: Answer, request: Request) -> Answer:
    """The answer as it leaves, its status noted."""
    for call in answer.calls:
        call.status = answer.status if answer.announced is None else 0
    return wrapped(practice, answer, request)


class Front:
    """Answers requests for a world; callers hold its lock."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._searches = {code: Searches(practice) for code, practice in world.practices.items()}
        self._exports = {code: Exports(practice) for code, practice in world.practices.items()}

    def answer(self, request: Request) -> Answer:
        """The answer to any request but those of the control paths."""
        if request.path == TOKEN_PATH:
            return self._token(request)
        code, _, rest = request.path.removeprefix(FHIR_ROOT).partition("/")
        practice = self._world.practices.get(code)
        if practice is None or not request.path.startswith(FHIR_ROOT):
            return outcome(400, "processing", "Invalid request")
        practice.reach(request.now)
        kind, resource_type = _kind(rest)
        call = Call(request.arrived, request.now, request.path, request.query, kind)
        call.surveying = "survey" in request.headers.get("user-agent", "")
        practice.calls.append(call)
        answer = self._limited(practice, request.now) or self._spoilt(practice, call, resource_type, request, rest)
        return _sent(practice, replace(answer, calls=(call,)), request)

    def _limited(self, practice: Practice, now: dt.datetime) -> Answer | None:
        if practice.admit(now):
            return None
        return Answer(429, b"Too Many Requests", "text/plain;charset=UTF-8")

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
            return replace(answer, status=200, body=_HTML, content_type="text/html;charset=UTF-8", stream=None)
        if answer.stream is not None:
            until = answer.stream.size * 2 // 3
            return replace(answer, stream=replace(answer.stream, until=until, silent=fault is Fault.CUT_JSON))
        half = answer.body[: len(answer.body) * 2 // 3]
        return replace(answer, body=half, announced=len(answer.body) if fault is Fault.CUT_CONNECTION else None)

    def _served(self, practice: Practice, call: Call, request: Request, rest: str) -> Answer:
        """The answer of a server in good health."""
        base_url = f"{request.root}{FHIR_ROOT}{practice.spec.code}"
        if call.kind in {"token", "metadata"}:
            issued = call.kind == "token"
            return self._issue(practice, request) if issued else _described(practice, request, rest, base_url)
        grant = granted(practice, self._world.tokens, request)
        if isinstance(grant, Answer):
            return grant
        if call.kind in {"bulk", "file"}:
            return self._exports[practice.spec.code].answer(request, rest, base_url, partial(covers, practice, grant))
        try:
            return self._found(practice, call, request, rest, grant)
        except Refused as refused:
            return outcome(refused.status, refused.code, refused.diagnostics)

    def _found(self, practice: Practice, call: Call, request: Request, rest: str, grant: Grant) -> Answer:
        """What a token's holder searched for or read. Raises Refused."""
        resource_type, _, name = rest.partition("/")
        if not covers(practice, grant, resource_type):
            raise Refused(403, "The scope of the token does not allow this", "forbidden")
        if call.kind == "search":
            return self._search(practice, call, request, rest, grant)
        return read(practice, resource_type, name, request)

    def _search(self, practice: Practice, call: Call, request: Request, rest: str, grant: Grant) -> Answer:
        """A page of a search, or of a patient's ``$everything``; noted in the call. Raises Refused."""
        base_url = f"{request.root}{FHIR_ROOT}{practice.spec.code}"
        searches, patient = self._searches[practice.spec.code], patient_asked(rest)
        if patient is None:
            page = searches.page(rest, request.query, base_url)
        else:
            page = searches.everything(patient, request.query, base_url, partial(covers, practice, grant))
        call.scope, call.read, call.page, call.last = page.scope, page.read, page.number, page.last
        call.intact, call.rows = page.intact, page.rows
        old = practice.spec.mode == "ecw" and rest == "Patient"
        return Answer(200, page.body, _OLD_FHIR_JSON if old else FHIR_JSON)

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
        return _sent(practices[0], replace(answer, calls=calls), request)

    def _issue(self, practice: Practice, request: Request) -> Answer:
        faults = practice.faults
        if faults.access_denied and practice.fault_rng.random() < faults.access_denied:
            return _refusal(Refusal(500, "access_denied", "FHIR app authentication is not enabled"))
        audiences: Sequence[str] = (request.root + TOKEN_PATH,)
        try:
            own = self._world.tokens.practices_of(self._world.tokens.client_of(request.form))
            check_activated(self._world.practices[code] for code in sorted(own))
            token: dict[str, Any] = self._world.tokens.issue(
                request.form, audiences, self._world.practices, request.now
            )
        except Refusal as refusal:
            return _refusal(refusal)
        headers = (("cache-control", "no-store"), ("pragma", "no-cache"))
        return Answer(200, orjson.dumps(token), "application/json;charset=UTF-8", headers)


def _refusal(refusal: Refusal) -> Answer:
    body = orjson.dumps({"error": refusal.error, "error_description": refusal.description})
    return Answer(refusal.status, body, "application/json;charset=UTF-8")


def _kind(rest: str) -> tuple[CallKind, str | None]:
    """What a path below the base asks for, and of which type."""
    if rest in {"metadata", ".well-known/smart-configuration"}:
        return "metadata", None
    exporting = kind_of(rest)
    if exporting is not None:
        return exporting, None
    parts = rest.split("/")
    if (parts[0] and len(parts) == 1) or patient_asked(rest) is not None:
        return "search", parts[0]
    return ("read", parts[0]) if len(parts) == 2 and parts[1] else ("other", parts[0])  # noqa: PLR2004 - type and id
