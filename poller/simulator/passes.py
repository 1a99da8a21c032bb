"""Complete passes, as the server saw them: which searches were answered whole, when, and with what."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from poller.simulator.truth import Call, SearchScope

_OK = 200


Way = Literal["search", "patients", "everything"]
"""By what a patient's resources of a type were read: a search of their own, one for several patients, or ``$everything``."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one target was shown by a search whose every page, from the first to the last, was answered and not spoilt."""

    scope: SearchScope
    """Of one type, and of one patient at most."""
    began: dt.datetime
    """When the first page's request arrived."""
    ended: dt.datetime
    """When the last page had gone."""
    rows: frozenset[str]
    """Ids."""
    way: Way = "search"


def _whole(pages: Sequence[Call]) -> bool:
    numbers = {call.page for call in pages}
    return any(call.last for call in pages) and numbers == set(range(1, max(numbers) + 1))


def _asks_what_is_possible(call: Call) -> bool:
    """Whether a window of all time, or of a time to come: what only a poller asks that finds out how it may read."""
    values = [value for name, value in call.query if name == "_lastUpdated"]
    limit = f"ge{call.arrived_at + dt.timedelta(days=30):%Y-%m-%d}"
    return any(value.startswith("ge1970-") or (value.startswith("ge") and value > limit) for value in values)


def _inquiries(calls: Iterable[Call]) -> set[int]:
    """Readings of a whole type asked for right after such a window, by a poller that does not say so: no pass of any schedule."""
    before: dict[str, bool] = {}
    found = set()
    for call in sorted(calls, key=lambda one: one.arrived):
        if call.kind != "search" or call.page > 1 or call.surveying:
            continue
        type_name = call.path.rpartition("/")[2]
        if before.get(type_name) and call.scope is not None and not call.query:
            found.add(call.read)
        before[type_name] = _asks_what_is_possible(call)
    return found


def _targets(whole: Pass) -> Iterator[Pass]:
    """The passes of single targets that a pass over several patients or types was."""
    scope = whole.scope
    if not (scope.types or scope.patients):
        yield whole
        return
    by_owner: dict[str, set[str]] = defaultdict(set)
    for name in whole.rows:
        owner, _, row = name.partition("/")
        by_owner[owner].add(row)
    for kind in scope.types:
        one = replace(scope, resource_type=kind, patient=scope.patient, types=())
        yield replace(whole, scope=one, rows=frozenset(by_owner[kind]), way="everything")
    for patient in scope.patients:
        one = replace(scope, patient=patient, patients=())
        yield replace(whole, scope=one, rows=frozenset(by_owner[patient]), way="patients")


def _without_comparisons(passes: Sequence[Pass]) -> list[Pass]:
    """Less what was read one way just before or after another: how a poller compares two ways, and so no pass of a schedule.

    A pass of a patient's type counts if the one before it was made the same way, or, for the first, the one after it.
    """
    of_target: dict[tuple[str, str], list[Pass]] = defaultdict(list)
    for one in passes:
        if one.scope.patient is not None and not one.scope.windowed and not one.scope.narrowed:
            of_target[one.scope.resource_type, one.scope.patient].append(one)
    compared = set()
    for made in of_target.values():
        neighbours = [made[1] if len(made) > 1 else made[0], *made]
        compared |= {id(one) for one, other in zip(made, neighbours, strict=False) if one.way != other.way}
    return [one for one in passes if id(one) not in compared]


def complete_passes(calls: Iterable[Call]) -> list[Pass]:
    """The complete passes in a call log, target by target, in the order in which they began."""
    calls = list(calls)
    inquiries = _inquiries(calls)
    readings: dict[int, list[Call]] = defaultdict(list)
    for call in calls:
        if call.surveying or call.read in inquiries:
            continue
        if call.kind == "search" and call.status == _OK and call.intact and call.scope is not None and call.read:
            readings[call.read].append(call)
    found: list[Pass] = []
    for pages in readings.values():
        ends = [call.finished_at for call in pages if call.finished_at is not None]
        scope = pages[0].scope
        if scope is None or len(ends) < len(pages) or not _whole(pages):
            continue
        rows = frozenset(name for call in pages for name in call.rows)
        found.extend(_targets(Pass(scope, min(call.arrived_at for call in pages), max(ends), rows)))
    return _without_comparisons(sorted(found, key=lambda one: one.began))
