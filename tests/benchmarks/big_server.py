"""A practice of any size that holds none of it: each resource is made from its number when it is asked for, by search or by export.

``python tests/benchmarks/big_server.py [--resources 200000] [--port 0]`` writes its root URL as its first line and serves until stopped;
:func:`running` does so for a ``with`` block. An open R4 server of one practice, ``BIGBIG``, whose Group ``all`` holds every patient. Any
bearer, or none, may read; the token endpoint gives one to anybody. ``POST /_edit?every=100`` edits each hundredth resource of each type.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import operator
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from poller.simulator.capability import capability_statement, smart_configuration
from poller.simulator.exchange import FHIR_JSON, FHIR_ROOT, TOKEN_PATH

CODE = "BIGBIG"
GROUP = "all"
RESOURCES = 200_000
FILE_ROWS = 50_000
PAGE = 500
MOST = 1_000
BEGAN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
EDITED = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
"""Stamps of the edits; all else is as old as :data:`BEGAN`."""

SHARES = {
    "Patient": 0.01,
    "Encounter": 0.08,
    "Condition": 0.09,
    "MedicationRequest": 0.10,
    "DiagnosticReport": 0.07,
    "DocumentReference": 0.05,
    "Observation": 0.60,
}
_CHUNK = 262_144
_FILLER = 1_080
"""Hexadecimal digits that bring a resource to about 2 KB."""
_COMPARE = {"": operator.ge, "ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}

_OWN = {
    "Patient": '"active":true,"name":[{{"family":"Family{n}","given":["Given"]}}],"birthDate":"1970-01-01"',
    "Encounter": '"status":"finished","class":{{"code":"AMB"}},"subject":{{"reference":"Patient/{p}"}},"period":{{"start":"2025-05-05"}}',
    "Condition": (
        '"clinicalStatus":{{"coding":[{{"code":"active"}}]}},"code":{{"text":"Condition {n}"}},"subject":{{"reference":"Patient/{p}"}}'
    ),
    "MedicationRequest": (
        '"status":"active","intent":"order","medicationCodeableConcept":{{"text":"Drug {n}"}},"subject":{{"reference":"Patient/{p}"}}'
    ),
    "DiagnosticReport": '"status":"final","code":{{"text":"Report {n}"}},"subject":{{"reference":"Patient/{p}"}}',
    "DocumentReference": (
        '"status":"current","type":{{"text":"Note {n}"}},"subject":{{"reference":"Patient/{p}"}},'
        '"content":[{{"attachment":{{"contentType":"text/plain","url":"Binary/b{n}"}}}}]'
    ),
    "Observation": (
        '"status":"final","category":[{{"coding":[{{"code":"laboratory"}}]}}],"code":{{"coding":[{{"system":"http://loinc.org",'
        '"code":"{c}-1"}}]}},"subject":{{"reference":"Patient/{p}"}},"effectiveDateTime":"2025-05-05T08:00:00Z",'
        '"valueQuantity":{{"value":{v}.20,"unit":"mmol/L"}}'
    ),
}
_META = (
    '"meta":{{"versionId":"{version}","lastUpdated":"{stamp}","security":[{{"system":"http://terminology.hl7.org/CodeSystem/v3-ActReason",'
    '"code":"HTEST"}}]}}'
)


class Big:
    """The content: how many resources of each type there are, and what each says."""

    def __init__(self, resources: int = RESOURCES) -> None:
        self.counts = {kind: max(int(resources * share), 1) for kind, share in SHARES.items()}
        self.counts["Observation"] += resources - sum(self.counts.values())
        self.every = 0
        """Each so-many-th resource of a type is edited; 0 for none."""

    @property
    def patients(self) -> int:
        """How many patients there are; number n of another type belongs to patient n modulo this."""
        return self.counts["Patient"]

    @staticmethod
    def name(kind: str, number: int) -> str:
        """The logical id, 48 characters long: those of eClinicalWorks have 43 to 64, and ids are what a poller must remember."""
        return f"{kind[:3].lower()}-{number:044d}"

    def number(self, kind: str, name: str) -> int | None:
        """The inverse of :meth:`name`; None for an id that there is not."""
        digits = name.rpartition("-")[2]
        number = int(digits) if digits.isdigit() else -1
        return number if 0 <= number < self.counts.get(kind, 0) and name == self.name(kind, number) else None

    def edited(self, number: int) -> bool:
        """Whether this one was edited."""
        return self.every > 0 and number % self.every == 0

    def body(self, kind: str, number: int) -> bytes:
        """The resource as JSON, about 2 KB."""
        edited = self.edited(number)
        own = _OWN[kind].format(
            n=number, p=self.name("Patient", number % self.patients), c=number % 997, v=number % 200
        )
        meta = _META.format(version=1 + edited, stamp=(EDITED if edited else BEGAN).isoformat())
        filler = hashlib.shake_256(f"{kind}/{number}/{edited}".encode()).hexdigest(_FILLER // 2)
        told = ",".join(
            f'{{"url":"urn:filler:{at}","valueString":"{filler[at : at + 120]}"}}' for at in range(0, _FILLER, 120)
        )
        text = f'{{"resourceType":"{kind}","id":"{self.name(kind, number)}",{meta},{own},"extension":[{told}]}}'
        return text.encode()

    def group(self) -> bytes:
        """The Group of all patients."""
        members = [{"entity": {"reference": f"Patient/{self.name('Patient', one)}"}} for one in range(self.patients)]
        head = {"resourceType": "Group", "id": GROUP, "type": "person", "actual": True}
        return orjson.dumps({**head, "identifier": [{"value": GROUP}], "member": members})

    def numbers(self, kind: str, query: Mapping[str, str], windows: Sequence[str] = ()) -> Sequence[int]:
        """What a search finds, as the resources' numbers. ValueError for a window that is none."""
        found: Sequence[int] = range(self.counts[kind])
        if "patient" in query:
            patient = self.number("Patient", query["patient"].rpartition("/")[2])
            found = () if patient is None else range(patient, self.counts[kind], self.patients)
        if "_id" in query:
            named = (self.number(kind, name) for name in query["_id"].split(","))
            found = [number for number in named if number is not None and number in found]
        if kind == "Observation" and query.get("category", "laboratory").rpartition("|")[2] != "laboratory":
            return ()
        old, new = (all(_within(stamp, window) for window in windows) for stamp in (BEGAN, EDITED))
        if old and (new or not self.every):
            return found
        if new and self.every and isinstance(found, range) and found.step == 1:
            return found[:: self.every]
        return [number for number in found if (new if self.edited(number) else old)]

    def lines(self, kind: str, numbers: Sequence[int]) -> Iterator[bytes]:
        """NDJSON of these, in pieces of about 256 KB."""
        piece = bytearray()
        for number in numbers:
            piece += self.body(kind, number)
            piece += b"\n"
            if len(piece) >= _CHUNK:
                yield bytes(piece)
                piece.clear()
        yield bytes(piece)


def _within(stamp: dt.datetime, window: str) -> bool:
    """Whether a stamp is in a window such as ``ge2026-01-01``."""
    prefix = window[:2] if window[:2] in _COMPARE else ""
    bound = dt.datetime.fromisoformat(window.removeprefix(prefix))
    return bool(_COMPARE[prefix](stamp, bound if bound.tzinfo else bound.replace(tzinfo=dt.UTC)))


class _Served:
    """The routes."""

    def __init__(self, big: Big) -> None:
        self.big = big
        self.jobs: dict[str, tuple[tuple[str, ...], str | None]] = {}

    def routes(self) -> list[Route]:
        base = f"{FHIR_ROOT}{CODE}"
        return [
            Route(TOKEN_PATH, self.token, methods=["POST"]),
            Route("/_edit", self.edit, methods=["POST"]),
            Route(f"{base}/metadata", self.metadata),
            Route(f"{base}/.well-known/smart-configuration", self.smart),
            Route(f"{base}/Group/{GROUP}/$export", self.export),
            Route(f"{base}/$export-poll-location", self.poll, methods=["GET", "DELETE"]),
            Route(f"{base}/$export-file/{{job}}/{{kind}}/{{first:int}}.ndjson", self.file),
            Route(f"{base}/Patient/{{name}}/$everything", self.everything),
            Route(f"{base}/{{kind}}", self.search),
            Route(f"{base}/{{kind}}/{{name}}", self.read),
        ]

    async def token(self, _: Request) -> Response:
        granted = {"access_token": "big", "token_type": "Bearer", "expires_in": 3600, "scope": "system/*.r"}
        return Response(orjson.dumps(granted), media_type="application/json")

    async def edit(self, http: Request) -> Response:
        self.big.every = int(http.query_params.get("every", "100"))
        return Response(status_code=204)

    async def metadata(self, http: Request) -> Response:
        return _json(capability_statement("open", _base(http)))

    async def smart(self, http: Request) -> Response:
        base = _base(http)
        return _json(smart_configuration(base, base.removesuffix(f"{FHIR_ROOT}{CODE}") + TOKEN_PATH))

    async def read(self, http: Request) -> Response:
        kind, name = http.path_params["kind"], http.path_params["name"]
        if (kind, name) == ("Group", GROUP):
            return Response(self.big.group(), media_type=FHIR_JSON)
        number = self.big.number(kind, name)
        if number is None:
            return _outcome(404, "not-found")
        return Response(self.big.body(kind, number), media_type=FHIR_JSON)

    async def search(self, http: Request) -> Response:
        kind, query = http.path_params["kind"], dict(http.query_params)
        base = _base(http)
        if kind == "Group":
            return _bundle(base, [("Group", GROUP, self.big.group())], 1, [("self", f"{base}/Group")])
        if kind not in self.big.counts:
            return _outcome(404, "not-supported")
        try:
            numbers = self.big.numbers(kind, query, http.query_params.getlist("_lastUpdated"))
            first, size = int(query.get("_offset", "0")), min(int(query.get("_count", str(PAGE))), MOST)
        except ValueError:
            return _outcome(400, "value")
        pairs = [pair for pair in http.query_params.multi_items() if pair[0] != "_offset"]
        links = [("self", _url(base, kind, [*pairs, ("_offset", str(first))] if first else pairs))]
        if size and first + size < len(numbers):
            links.append(("next", _url(base, kind, [*pairs, ("_offset", str(first + size))])))
        shown = numbers[first : first + size]
        rows = [(kind, self.big.name(kind, number), self.big.body(kind, number)) for number in shown]
        return _bundle(base, rows, len(numbers), links)

    async def everything(self, http: Request) -> Response:
        """A patient's resources in one page: about a hundred."""
        base, patient = _base(http), self.big.number("Patient", http.path_params["name"])
        if patient is None:
            return _outcome(404, "not-found")
        rows = [
            (kind, self.big.name(kind, number), self.big.body(kind, number))
            for kind, count in self.big.counts.items()
            for number in range(patient, count, self.big.patients)
        ]
        own = _url(base, f"Patient/{http.path_params['name']}/$everything", http.query_params.multi_items())
        return _bundle(base, rows, len(rows), [("self", own)])

    async def export(self, http: Request) -> Response:
        if "respond-async" not in http.headers.get("prefer", ""):
            return _outcome(400, "required")
        asked = [kind for value in http.query_params.getlist("_type") for kind in value.split(",")]
        since = http.query_params.get("_since")
        if not set(asked) <= self.big.counts.keys():
            return _outcome(400, "not-supported")
        name = f"job{len(self.jobs) + 1}"
        self.jobs[name] = (tuple(asked or self.big.counts), since)
        where = f"{_base(http)}/$export-poll-location?job_id={name}"
        return Response(status_code=202, headers={"content-location": where, "retry-after": "1"})

    async def poll(self, http: Request) -> Response:
        name, base = http.query_params.get("job_id", ""), _base(http)
        if name not in self.jobs:
            return _outcome(404, "not-found")
        if http.method == "DELETE":
            del self.jobs[name]
            return Response(status_code=202)
        kinds, since = self.jobs[name]
        output = [
            {"type": kind, "url": f"{base}/$export-file/{name}/{kind}/{first}.ndjson"}
            for kind in kinds
            for first in range(0, len(self._exported(kind, since)), FILE_ROWS)
        ]
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        head = {"transactionTime": now, "request": f"{base}/Group/{GROUP}/$export", "requiresAccessToken": True}
        return Response(orjson.dumps({**head, "output": output, "error": []}), media_type="application/json")

    async def file(self, http: Request) -> Response:
        name, kind, first = (http.path_params[part] for part in ("job", "kind", "first"))
        if name not in self.jobs or kind not in self.big.counts:
            return _outcome(404, "not-found")
        numbers = self._exported(kind, self.jobs[name][1])[first : first + FILE_ROWS]

        async def pieces() -> AsyncIterator[bytes]:
            for piece in self.big.lines(kind, numbers):
                yield piece

        return StreamingResponse(pieces(), media_type="application/fhir+ndjson")

    def _exported(self, kind: str, since: str | None) -> Sequence[int]:
        return self.big.numbers(kind, {}, () if since is None else (f"ge{since}",))


def _base(http: Request) -> str:
    return f"{http.url.scheme}://{http.url.netloc}{FHIR_ROOT}{CODE}"


def _url(base: str, kind: str, pairs: Sequence[tuple[str, str]]) -> str:
    return f"{base}/{kind}?{urlencode(pairs)}" if pairs else f"{base}/{kind}"


def _json(value: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(value), media_type=FHIR_JSON)


def _outcome(status: int, code: str) -> Response:
    issue = [{"severity": "error", "code": code}]
    return Response(orjson.dumps({"resourceType": "OperationOutcome", "issue": issue}), status, media_type=FHIR_JSON)


def _bundle(
    base: str, rows: Sequence[tuple[str, str, bytes]], total: int, links: Sequence[tuple[str, str]]
) -> Response:
    told = [{"relation": relation, "url": url} for relation, url in links]
    head = orjson.dumps({"resourceType": "Bundle", "type": "searchset", "total": total, "link": told})
    entries = b",".join(
        b'{"fullUrl":"%s/%s/%s","resource":%s,"search":{"mode":"match"}}'
        % (base.encode(), kind.encode(), name.encode(), body)
        for kind, name, body in rows
    )
    return Response(head[:-1] + b',"entry":[' + entries + b"]}" if rows else head, media_type=FHIR_JSON)


def create_app(resources: int = RESOURCES) -> Starlette:
    """The server as an ASGI app."""
    return Starlette(routes=_Served(Big(resources)).routes())


@contextmanager
def running(resources: int = RESOURCES) -> Iterator[str]:
    """A server in a process of its own; its FHIR base. Its token endpoint is at the root, under ``TOKEN_PATH``."""
    command = [sys.executable, str(Path(__file__)), "--resources", str(resources)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None:
                raise RuntimeError("the big server cannot be heard")
            root = next(islice(process.stdout, 1), "").strip()
            if not root:
                raise RuntimeError("the big server did not start")
            yield f"{root}{FHIR_ROOT}{CODE}"
        finally:
            process.terminate()


class _Told(uvicorn.Server):
    """Writes where it serves, once it does."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        sys.stdout.write(f"http://127.0.0.1:{port}\n")
        sys.stdout.flush()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--resources", type=int, default=RESOURCES)
    arguments.add_argument("--port", type=int, default=0)
    given = arguments.parse_args()
    settings = uvicorn.Config(
        create_app(given.resources), port=given.port, log_level="critical", access_log=False, lifespan="off"
    )
    _Told(settings).run()


if __name__ == "__main__":
    main()
