"""Complete passes, as the server saw them: which searches were answered whole, when, and with what."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datetime as dt
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


def complete_passes(calls: Iterable[Call]) -> list[Pass]:
    """The complete passes in a call log, in the order in which they began."""
    readings: dict[int, list[Call]] = defaultdict(list)
    for call in calls:
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
