"""What is put around an answer on its way out: the practice's Date, headers that a fault adds, and compression."""

from __future__ import annotations

import datetime as dt
import gzip
from dataclasses import replace
from email.utils import format_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poller.simulator.exchange import Answer, Request
    from poller.simulator.practice import Practice

_ASKS_TO_WAIT = frozenset({429, 503})


def wrapped(practice: Practice, answer: Answer, request: Request) -> Answer:
    """The answer with all its headers, its body compressed where a fault and the caller want it so."""
    faults = practice.faults
    served = practice.served_at(request.now).astimezone(dt.UTC)
    headers = [*answer.headers, ("date", format_datetime(served, usegmt=True))]
    headers += [
        (name.strip().lower(), value.strip()) for name, _, value in (one.partition(":") for one in faults.headers)
    ]
    if faults.retry_after and answer.status in _ASKS_TO_WAIT:
        headers.append(("retry-after", faults.retry_after))
    body = answer.body
    asked = "gzip" in request.headers.get("accept-encoding", "")
    plain = answer.stream is None and answer.announced is None and body
    if faults.gzip and asked and plain and practice.fault_rng.random() < faults.gzip:
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers.append(("content-encoding", "gzip"))
    return replace(answer, headers=tuple(headers), body=body)
