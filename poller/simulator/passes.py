"""Complete passes, as the server saw them: which searches were answered whole, when, and with what."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from poller.simulator.truth import Call, SearchScope

_OK = 200


@dataclass(frozen=True, slots=True)
class Pass:
    """A search whose every page, from the first to the last, was answered and not spoilt."""

    scope: SearchScope
    began: dt.datetime
    """When the first page's request arrived."""
    ended: dt.datetime
    """When the last page had gone."""
    rows: frozenset[str]


def _whole(pages: Sequence[Call]) -> bool:
    numbers = {call.page for call in pages}
    return any(call.last for call in pages) and numbers == set(range(1, max(numbers) + 1))


def _asks_what_is_possible(call: Call) -> bool:
    """Whether a window of all time, or of a time to come: what only a poller asks that finds out how it may read."""
    values = [value for name, value in call.query if name == "_lastUpdated"]
    limit = f"ge{call.arrived_at + dt.timedelta(days=30):%Y-%m-%d}"
    return any(value.startswith("ge1970-") or (value.startswith("ge") and value > limit) for value in values)


def _inquiries(calls: Iterable[Call]) -> set[int]:
    """Readings of a whole type asked for right after such a window: part of finding out, and no pass of any schedule."""
    before: dict[str, bool] = {}
    found = set()
    for call in sorted(calls, key=lambda one: one.arrived):
        if call.kind != "search" or call.page > 1:
            continue
        type_name = call.path.rpartition("/")[2]
        if before.get(type_name) and call.scope is not None and not call.query:
            found.add(call.read)
        before[type_name] = _asks_what_is_possible(call)
    return found


def complete_passes(calls: Iterable[Call]) -> list[Pass]:
    """The complete passes in a call log, in the order in which they began."""
    calls = list(calls)
    inquiries = _inquiries(calls)
    readings: dict[int, list[Call]] = defaultdict(list)
    for call in calls:
        if call.read in inquiries:
            continue
        if call.kind == "search" and call.status == _OK and call.intact and call.scope is not None and call.read:
            readings[call.read].append(call)
    found = []
    for pages in readings.values():
        ends = [call.finished_at for call in pages if call.finished_at is not None]
        scope = pages[0].scope
        if scope is None or len(ends) < len(pages) or not _whole(pages):
            continue
        rows = frozenset(name for call in pages for name in call.rows)
        found.append(Pass(scope, min(call.arrived_at for call in pages), max(ends), rows))
    return sorted(found, key=lambda one: one.began)
