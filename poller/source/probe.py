"""How a feed can be read, by evidence: what the server makes of ``_lastUpdated``, and of a search over the whole practice."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from poller.core import pages
from poller.core.faults import Shape
from poller.core.model import Failure, FailureKind, Purpose, Strategy
from poller.core.window import BEGINNING, instant
from poller.source import links
from poller.source.strategies import Source, where

FUTURE = dt.timedelta(days=366)
"""A window that starts so far ahead must come back empty."""

_REFUSING = frozenset({400, 422, 501})
"""Statuses by which a server says that it does not search that way. Others (403, 404) may pass, or want an operator."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How to read a feed; ``strategy`` None: undecided, ask again later."""

    strategy: Strategy | None
    reason: str
    """A sentence for people and logs."""
    evidence: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Search → status and findings; no ids, no bodies."""


class _Said(Enum):
    YES = "yes"
    IGNORED = "ignored"
    NO = "no"
    UNCLEAR = "unclear"


async def probe(source: Source, resource_type: str, now: dt.datetime) -> Verdict:
    """Decide how a feed is to be read, in at most three calls. A strategy set by an operator is taken as it is."""
    if source.practice.strategy != "auto":
        return Verdict(Strategy(source.practice.strategy), "set in the configuration")
    evidence: dict[str, Mapping[str, object]] = {}
    said = await _ask_window(source, resource_type, now + FUTURE, evidence, "future", is_empty=True)
    if said is _Said.YES:
        said = await _ask_window(source, resource_type, BEGINNING, evidence, "past", is_empty=False)
    match said:
        case _Said.YES:
            return await _ask_whole(source, resource_type, evidence, windows=True)
        case _Said.NO:
            return Verdict(Strategy.PATIENT, _by_patient("_lastUpdated is refused", resource_type), evidence)
        case _Said.UNCLEAR:
            return Verdict(None, "no clear answer to _lastUpdated", evidence)
        case _Said.IGNORED:
            return await _ask_whole(source, resource_type, evidence, windows=False)


async def _ask_window(
    source: Source,
    resource_type: str,
    start: dt.datetime,
    evidence: dict[str, Mapping[str, object]],
    name: str,
    *,
    is_empty: bool,
) -> _Said:
    """What the server makes of a window that starts there, and (``is_empty``) can hold nothing."""
    query = where(resource_type, {"_lastUpdated": f"ge{instant(start)}"})
    said, page, status = await _ask(source, query, resource_type)
    if page is None:
        evidence[name] = {"status": status}
        return said
    is_named = links.names(page.self_link, "_lastUpdated")
    found_none = not page.showings and not page.problems and not page.total and page.next is None
    evidence[name] = {"status": status, "empty": found_none, "named": is_named}
    return _Said.YES if is_named and (found_none or not is_empty) else _Said.IGNORED


async def _ask_whole(
    source: Source, resource_type: str, evidence: dict[str, Mapping[str, object]], *, windows: bool
) -> Verdict:
    """Whether the type can be searched without any parameter: by the sweep beside windows, without which none begins, or in their place."""
    said, _, status = await _ask(source, where(resource_type, {}), resource_type)
    evidence["bare"] = {"status": status}
    match said:
        case _Said.YES if windows:
            reason = "_lastUpdated is honoured: a window in the future is empty, and the self links name it"
            return Verdict(Strategy.WINDOW, reason, evidence)
        case _Said.YES:
            reason = "_lastUpdated is ignored; the whole practice is read and compared by content"
            return Verdict(Strategy.SWEEP, reason, evidence)
        case _Said.NO:
            refused = (
                "_lastUpdated is honoured but a search without any parameter is refused"
                if windows
                else "_lastUpdated is ignored and a search without a patient is refused"
            )
            return Verdict(Strategy.PATIENT, _by_patient(refused, resource_type), evidence)
        case _:
            return Verdict(None, "no clear answer to a search over the whole practice", evidence)


async def _ask(source: Source, query: str, resource_type: str) -> tuple[_Said, pages.Page | None, int | None]:
    """One search, tried once."""
    answer = await source.client.get(query, Purpose.PROBE, retries=0)
    if answer.failure is not None:
        is_refusal = answer.failure.kind is FailureKind.REFUSED and answer.status in _REFUSING
        is_its_own = answer.shape is not Shape.OTHER  # a web page is a proxy's refusal, not the FHIR server's
        return (_Said.NO if is_refusal and is_its_own else _Said.UNCLEAR), None, answer.status
    page = pages.read_page(answer.body, resource_type, answer.began, answer.ended)
    if isinstance(page, Failure):
        return _Said.UNCLEAR, None, answer.status
    return _Said.YES, page, answer.status


def _by_patient(finding: str, resource_type: str) -> str:
    way = "patients are enumerated by name" if resource_type == "Patient" else "read patient by patient"
    return f"{finding}; {way} and compared by content"
