"""What can be wrong with an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx

from tests.acceptance.hypo.answering import Found, refusal
from tests.acceptance.hypo.script import Fault

Body = dict[str, Any]


def _connect() -> httpx.Response:
    raise httpx.ConnectError("refused")


def _cut_off() -> httpx.Response:
    raise httpx.ReadError("reset")


INSTEAD: Mapping[Fault, Callable[[], httpx.Response]] = {
    Fault.ERROR_500: lambda: refusal(500, "exception"),
    Fault.BUSY_503: lambda: httpx.Response(503, headers={"Retry-After": "86400"}),
    Fault.THROTTLED_429: lambda: httpx.Response(429, headers={"Retry-After": "soon"}),
    Fault.UNAUTHORIZED_401: lambda: refusal(401, "login"),
    Fault.FORBIDDEN_403: lambda: refusal(403, "forbidden"),
    Fault.REFUSED_400: lambda: refusal(400),
    Fault.REDIRECT_302: lambda: httpx.Response(302, headers={"Location": "https://elsewhere.example.org/"}),
    Fault.PROXY_404: lambda: httpx.Response(404, html="<h1>Not found</h1>"),
    Fault.SUPPORTED_404: lambda: refusal(404, "not-supported"),
    Fault.CONNECT: _connect,
    Fault.CUT_OFF: _cut_off,
    Fault.TIMEOUT: lambda: refusal(500, "timeout"),  # comes too late
    Fault.HTML: lambda: httpx.Response(200, html="<h1>Maintenance</h1>"),
    Fault.CUT_JSON: lambda: httpx.Response(200, content=b'{"resourceType":"Bundle","entry":[{"resource":'),
    Fault.EMPTY: lambda: httpx.Response(200),
    Fault.NO_FHIR: lambda: httpx.Response(200, json={"error": "403", "error_description": "invalid_request"}),
    Fault.OUTCOME: lambda: refusal(200, "processing"),
}
"""What comes instead of the answer."""


def spoil(found: Found, fault: Fault) -> Found:  # noqa: PLR0911 - a table, one return a row
    """The page with other rows, another next link or another total than it should have."""
    match fault:
        case Fault.HOLE | Fault.OUTCOME_ENTRY:
            return replace(found, rows=found.rows[1:])
        case Fault.ENDS_EARLY:
            return replace(found, following=None)
        case Fault.REPEATS if found.following is not None and found.end - found.start > 1:
            return replace(found, following=found.position(found.end - 1))
        case Fault.SKIPS if found.following is not None:
            return replace(found, following=found.position(found.end + 1))
        case Fault.TOTAL_HIGH:
            return replace(found, total=found.total + 3, lies=True)
        case Fault.TOTAL_LOW:
            return replace(found, total=0, lies=True)
        case _:
            return found


def _with_entry(resource: Body, mode: str = "match") -> Callable[[Body], Body]:
    entry = {"resource": resource, "search": {"mode": mode}}
    return lambda body: body | {"entry": [*body["entry"], entry]}


def _outcome(severity: str) -> Body:
    return {"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": "processing"}]}


def _with_next(link: Callable[[str], str]) -> Callable[[Body], Body]:
    def change(body: Body) -> Body:
        own = body["link"][0]
        return body | {"link": [own, {"relation": "next", "url": link(own["url"])}]}

    return change


def _subset(body: Body) -> Body:
    """The first resource cut down, as a server does that sends summaries."""
    system = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"
    first = body["entry"][:1]
    cut = [
        {
            "resource": {k: e["resource"][k] for k in ("resourceType", "id")}
            | {"meta": {"tag": [{"system": system, "code": "SUBSETTED"}]}}
        }
        for e in first
    ]
    return body | {"entry": [*cut, *body["entry"][1:]]}


def _no_self(body: Body) -> Body:
    return body | {"link": body["link"][1:]}


AFTERWARDS: Mapping[Fault | None, Callable[[Body], Body]] = {
    Fault.OUTCOME_ENTRY: _with_entry(_outcome("error"), "outcome"),
    Fault.WARNING_ENTRY: _with_entry(_outcome("warning"), "outcome"),
    Fault.WRONG_TYPE: _with_entry({"resourceType": "Practitioner", "id": "x"}),
    Fault.NO_ID: _with_entry({"resourceType": "Observation", "status": "final"}),
    Fault.SUBSETTED: _subset,
    Fault.CIRCLE: _with_next(lambda own: own),
    Fault.ASTRAY: _with_next(lambda _: "https://ehr.example.org/fhir/r4/OTHER/Observation?_page=2"),
    Fault.NO_SELF: _no_self,
}
"""What is done to a bundle that was right."""
