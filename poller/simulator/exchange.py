"""A request as the network brought it, and the answer that goes back."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from poller.simulator.truth import Call

TOKEN_PATH = "/oauth/oauth2/token"  # noqa: S105 - a path
FHIR_ROOT = "/fhir/r4/"
FHIR_JSON = "application/fhir+json;charset=UTF-8"


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
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A body that is made while it is sent, of unannounced length."""

    chunks: Callable[[], Iterator[bytes]]
    size: int
    """Bytes in all."""
    until: int | None = None
    """Where it is broken off; None for nowhere."""
    silent: bool = False
    """Whether a body that is broken off ends as if it were whole; else the connection is gone."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back, and how."""

    status: int
    body: bytes
    content_type: str = FHIR_JSON
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    """Seconds for which it is held."""
    announced: int | None = None
    """Length to announce where it is not the body's: the connection is cut after the body."""
    stream: Stream | None = None
    """Sent instead of ``body``."""
    calls: tuple[Call, ...] = ()
    """Entries of the call log to finish when it has gone."""


def outcome(status: int, code: str, diagnostics: str) -> Answer:
    """An OperationOutcome."""
    issue = {"severity": "error", "code": code, "diagnostics": diagnostics}
    return Answer(status, orjson.dumps({"resourceType": "OperationOutcome", "issue": [issue]}))
