"""Which targets are to be read now, and what a pass proved. Pure: state and ``now`` in, targets out."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from poller.core.model import Coverage, Kind, Origin, Strategy, Target

NextAfter = Callable[[dt.datetime], dt.datetime | None]
"""The next time a cron schedule fires strictly after the given one."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a target is owed a pass: every so often, or by cron; and only at the active hours."""

    every: dt.timedelta | None = None
    cron: NextAfter | None = None
    active: Callable[[dt.datetime], bool] | None = None
    """Whether local time ``t`` is within the active hours."""
    zone: dt.tzinfo = field(default_factory=lambda: zoneinfo.ZoneInfo("UTC"))

    def due_at(self, last_began: dt.datetime | None) -> dt.datetime | None:
        """When the pass after the one begun at ``last_began`` is owed; None for a cron that never fires again.

        What was never read is owed from the beginning of time: at once.
        """
        if last_began is None:
            return dt.datetime.min.replace(tzinfo=dt.UTC)
        if self.every is not None:
            return last_began + self.every
        return self.cron(last_began) if self.cron is not None else None

    def allows(self, now: dt.datetime) -> bool:
        """Whether ``now`` is within the active hours."""
        return self.active is None or self.active(now.astimezone(self.zone))


@dataclass(frozen=True, slots=True)
class TargetState:
    """What is known of a target."""

    target: Target
    registered_at: dt.datetime
    live: bool = False
    """Whether its first pass shows what is new in the practice (a patient who appeared later), not its baseline."""
    baseline_at: dt.datetime | None = None
    cursor_at: dt.datetime | None = None
    last_began: dt.datetime | None = None
    complete_began: dt.datetime | None = None
    failures: int = 0
    unproven_streak: int = 0
    reread: bool = False
    sweep_found: tuple[str, ...] = ()


_BACKOFF_BASE = dt.timedelta(seconds=1)
_BACKOFF_CEILING = dt.timedelta(minutes=15)


def retry_after(failures: int, interval: dt.timedelta | None) -> dt.timedelta:
    """How long after a failed pass the next try is owed: doubling from a second, never past the schedule or 15 minutes."""
    ceiling = min(interval, _BACKOFF_CEILING) if interval is not None else _BACKOFF_CEILING
    doublings = min(max(failures - 1, 0), 10)
    return min(ceiling, _BACKOFF_BASE * int(2**doublings))


def due(
    states: Iterable[TargetState], schedules: Mapping[tuple[str, Kind], Schedule], now: dt.datetime
) -> list[Target]:
    """Targets owed a pass at ``now``, the longest owed first.

    ``schedules`` is keyed by resource type and kind. A target whose rows were left for another read is owed one at once; one whose pass
    failed is owed a retry. A baseline comes before the hours matter: a feed that was never read is a hole, not a matter of freshness.
    """
    owed: list[tuple[dt.datetime, Target]] = []
    for state in states:
        schedule = schedules.get((state.target.resource_type, state.target.kind))
        if schedule is None or (state.baseline_at is not None and not schedule.allows(now)):
            continue
        if state.target.kind is Kind.WINDOW and state.cursor_at is None:
            continue  # windows start where the first sweep began, once it is whole
        at = _owed_at(state, schedule)
        if at is not None and at <= now:
            owed.append((at, state.target))
    owed.sort(key=lambda item: (item[0], item[1].key))
    return [target for _, target in owed]


def _owed_at(state: TargetState, schedule: Schedule) -> dt.datetime | None:
    at = schedule.due_at(state.last_began)
    if state.last_began is None:
        return at
    if state.failures:
        retry = state.last_began + retry_after(state.failures, schedule.every)
        return retry if at is None else min(at, retry)
    if state.reread or state.baseline_at is None or state.unproven_streak == 1:  # owed more than the schedule says
        soon = state.last_began + _BACKOFF_BASE
        return soon if at is None else min(at, soon)
    return at


def counts_as_whole(coverage: Coverage, unproven_streak: int) -> bool:
    """Whether a pass fulfils what the schedule owed: it may end a baseline and move a window's cursor.

    A complete one does. An unproven one is repeated once; the second in a row counts, since ``total`` may simply lie for ever, but it is
    never evidence of an absence.
    """
    return coverage is Coverage.COMPLETE or (coverage is Coverage.UNPROVEN and unproven_streak >= 1)


def origin_of(state: TargetState, strategy: Strategy) -> Origin:
    """The origin of what a pass of this target finds."""
    if state.baseline_at is None and not state.live and state.target.kind is not Kind.WINDOW:
        return Origin.BASELINE
    if state.target.kind is Kind.SWEEP and strategy is Strategy.WINDOW:
        return Origin.RECONCILE
    return Origin.LIVE


def wanted_targets(
    practice: str,
    resource_type: str,
    strategy: Strategy,
    categories: Sequence[str],
    patients: Iterable[str],
    names: Sequence[str],
) -> list[Target]:
    """The targets of a feed read by this strategy."""
    if strategy is Strategy.WINDOW:
        return [Target(practice, resource_type, Kind.SWEEP), Target(practice, resource_type, Kind.WINDOW)]
    if strategy is Strategy.SWEEP:
        return [Target(practice, resource_type, Kind.SWEEP)]
    if resource_type == "Patient":
        return [Target(practice, resource_type, Kind.NAMES, names=tuple(names))]
    return [
        Target(practice, resource_type, Kind.PATIENT, category=category, patient=patient)
        for patient in patients
        for category in (categories or (None,))
    ]


_LONGEST_OPENING = dt.timedelta(hours=1)
_NO_EXCUSE = dt.timedelta(days=8)
"""Whatever the active hours, they came in so long."""


def _opened_just_now(schedule: Schedule, owed: dt.datetime, patience: dt.timedelta, now: dt.datetime) -> bool:
    """Whether nothing is late yet, since the active hours have not lasted as long as a reading may take: an hour at the most.

    Without that bound a feed that is owed a reading less often than its hours are long would never be late.
    """
    return now - owed < _NO_EXCUSE and not schedule.allows(now - min(patience, _LONGEST_OPENING))


def late(
    states: Iterable[TargetState], schedules: Mapping[tuple[str, Kind], Schedule], now: dt.datetime, grace: dt.timedelta
) -> bool:
    """Whether a feed is late: one of its targets was owed a whole read that did not come within ``grace`` and another round.

    Holds for a feed that failed as for one that was forgotten: it looks at what was read, not at what was tried.
    """
    for state in states:
        schedule = schedules.get((state.target.resource_type, state.target.kind))
        if schedule is None or not schedule.allows(now):
            continue
        owed = schedule.due_at(state.complete_began or state.registered_at)
        again = schedule.due_at(owed) if owed is not None else None
        if owed is None or again is None:
            continue
        if again + grace < now and not _opened_just_now(schedule, again, again - owed + grace, now):
            return True
    return False
