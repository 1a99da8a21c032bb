"""Which targets are to be read now, and what a pass proved. Pure: state and ``now`` in, targets out."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from poller.core.model import EVERY_TYPE, Coverage, Kind, Origin, Strategy, Target

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
    also: tuple[Schedule, ...] = ()
    """Schedules of other feeds that the same pass serves: it is owed when the first of them all owes it."""

    def due_at(self, last_began: dt.datetime | None) -> dt.datetime | None:
        """When the pass after the one begun at ``last_began`` is owed; None for a cron that never fires again.

        What was never read is owed from the beginning of time: at once.
        """
        if last_began is None:
            return dt.datetime.min.replace(tzinfo=dt.UTC)
        if self.every is not None:
            own: dt.datetime | None = last_began + self.every
        else:
            own = self.cron(last_began) if self.cron is not None else None
        owed = [at for at in (own, *(other.due_at(last_began) for other in self.also)) if at is not None]
        return min(owed, default=None)

    @property
    def is_set(self) -> bool:
        """Whether it ever owes a pass; else the planner decides alone."""
        return self.every is not None or self.cron is not None or any(other.is_set for other in self.also)

    def allows(self, now: dt.datetime) -> bool:
        """Whether ``now`` is within the active hours, of one of the feeds if it serves several."""
        own = self.active is None or self.active(now.astimezone(self.zone))
        return own or any(other.allows(now) for other in self.also)

    @staticmethod
    def together(schedules: Sequence[Schedule]) -> Schedule | None:
        """One schedule for a pass that serves several feeds; None for none."""
        if not schedules:
            return None
        return replace(schedules[0], also=(*schedules[0].also, *schedules[1:]))


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
    known: frozenset[str] = frozenset()
    """Types that were read whole by it or by what stood in its place; for targets of several types."""
    orphan: bool = False
    """Whether its patient is gone, so that there may be no whole pass any more."""

    @property
    def baseline_types(self) -> frozenset[str]:
        """The types whose first whole read is still to come: what a pass creates of them is what was there, not news."""
        if self.target.kind.is_window:
            return frozenset()
        if self.target.kind.is_everything:
            return frozenset(self.target.types) - self.known
        return frozenset() if self.live or self.baseline_at is not None else frozenset(self.target.reads)


@dataclass(frozen=True, slots=True)
class PatientState:
    """A patient whose resources are to be read."""

    id: str
    ordinal: int
    """Its place in the order in which patients were found; groups of several are cut from that."""
    gone: bool = False
    enumerated: bool = True
    """Whether a search over all patients shows it, so that no read of its own is needed to see it change."""


_BACKOFF_BASE = dt.timedelta(seconds=1)
_BACKOFF_CEILING = dt.timedelta(minutes=15)
_AHEAD = dt.timedelta(minutes=1)
"""So far may the clocks of two processes, each held by the database's, seem apart."""


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
    failed is owed a retry; one that was read in the future, before a clock was put back, is owed a pass now. A baseline comes before the
    hours matter: a feed that was never read is a hole, not a matter of freshness.
    """
    owed: list[tuple[dt.datetime, Target]] = []
    for state in states:
        schedule = schedules.get((state.target.resource_type, state.target.kind))
        if schedule is None or (state.baseline_at is not None and not schedule.allows(now)):
            continue
        if state.target.kind.is_window and state.cursor_at is None:
            continue  # windows start where the first content read began, once it is whole
        at = now if _is_ahead(state.last_began, now) else _owed_at(state, schedule)
        if at is not None and at <= now:
            owed.append((at, state.target))
    owed.sort(key=lambda item: (item[0], item[1].key))
    return [target for _, target in owed]


def _is_ahead(at: dt.datetime | None, now: dt.datetime) -> bool:
    """Whether a clock that was put back since has noted a time that is still to come; until then it would keep a target unread."""
    return at is not None and at > now + _AHEAD


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


def is_unsettled(state: TargetState) -> bool:
    """Whether another pass is owed, whatever a schedule or the planner says: the last one failed, proved too little, or left rows over."""
    return state.last_began is not None and (
        state.failures > 0 or state.reread or state.baseline_at is None or state.unproven_streak == 1
    )


def counts_as_whole(coverage: Coverage, unproven_streak: int) -> bool:
    """Whether a pass fulfils what the schedule owed: it may end a baseline and move a window's cursor.

    A complete one does. An unproven one is repeated once; the second in a row counts, since ``total`` may simply lie for ever, but it is
    never evidence of an absence.
    """
    return coverage is Coverage.COMPLETE or (coverage is Coverage.UNPROVEN and unproven_streak >= 1)


def origin_of(state: TargetState, strategy: Strategy) -> Origin:
    """The origin of what a pass of this target finds, types in :attr:`TargetState.baseline_types` left aside.

    What a content read finds beside windows, they should have found.
    """
    if not state.target.kind.is_everything and state.baseline_types:
        return Origin.BASELINE
    return Origin.RECONCILE if beside_windows(state.target.kind, strategy) else Origin.LIVE


_WITH_WINDOWS = {
    Strategy.WINDOW: Kind.SWEEP,
    Strategy.PATIENT_WINDOW: Kind.PATIENT,
    Strategy.EVERYTHING_WINDOW: Kind.EVERYTHING,
}


def beside_windows(kind: Kind, strategy: Strategy) -> bool:
    """Whether reads of this kind are the content reads beside the windows of the strategy."""
    return _WITH_WINDOWS.get(strategy) is kind


def detected_by(target: Target, strategies: Mapping[str, Strategy]) -> tuple[str, ...]:
    """The feeds whose changes a target is there to find; none for a content read beside windows, and for what exports show."""
    if target.kind is Kind.BULK:
        return ()
    return tuple(
        feed for feed in target.reads if feed in strategies and not beside_windows(target.kind, strategies[feed])
    )


def wanted_targets(
    practice: str,
    resource_type: str,
    strategy: Strategy,
    categories: Sequence[str],
    patients: Sequence[PatientState],
    names: Sequence[str],
    groups: Mapping[str, tuple[str, ...]],
) -> list[Target]:
    """The targets of a feed read by this strategy; none of its own where one pass reads several types, see :func:`everything_targets`.

    Patients whom no enumeration shows are read one by one, so that the Patient feed sees them change and go.
    """
    each = categories or (None,)
    match strategy:
        case Strategy.WINDOW:
            return [Target(practice, resource_type, kind) for kind in (Kind.SWEEP, Kind.WINDOW)]
        case Strategy.SWEEP:
            return [Target(practice, resource_type, Kind.SWEEP)]
        case _ if resource_type == "Patient":
            by_name = [Target(practice, resource_type, Kind.NAMES, names=tuple(names))] if names else []
            return by_name + [
                Target(practice, resource_type, Kind.PATIENT, patient=patient.id)
                for patient in patients
                if not (names and patient.enumerated) and not patient.gone
            ]
        case Strategy.EVERYTHING | Strategy.EVERYTHING_WINDOW:
            return []
        case Strategy.PATIENTS:
            return [
                Target(practice, resource_type, Kind.PATIENTS, category, group, patients=members)
                for group, members in groups.items()
                for category in each
            ] + [
                # a search for one who is gone may be refused, and would take the others of the group with it
                Target(practice, resource_type, Kind.PATIENT, category, patient.id)
                for patient in patients
                if patient.gone
                for category in each
            ]
        case Strategy.PATIENT | Strategy.PATIENT_WINDOW:
            kinds = (Kind.PATIENT,) if strategy is Strategy.PATIENT else (Kind.PATIENT, Kind.PATIENT_WINDOW)
            return [
                Target(practice, resource_type, kind, category, patient.id)
                for patient in patients
                for category in each
                for kind in kinds
            ]
        case _:
            assert_never(strategy)


def everything_targets(
    practice: str, strategies: Mapping[str, Strategy], patients: Sequence[PatientState]
) -> list[Target]:
    """The targets that read several types of a patient in one pass, for the feeds that are read so."""
    whole = tuple(
        sorted(feed for feed, strategy in strategies.items() if strategy.is_of_everything and feed != "Patient")
    )
    windows = tuple(feed for feed in whole if strategies[feed] is Strategy.EVERYTHING_WINDOW)
    return [
        Target(practice, EVERY_TYPE, kind, patient=patient.id, types=types)
        for kind, types in ((Kind.EVERYTHING, whole), (Kind.EVERYTHING_WINDOW, windows))
        if types
        for patient in patients
    ]


def groups_of(patients: Sequence[PatientState], size: int, *, enumerated: bool) -> dict[str, tuple[str, ...]]:
    """Patients in groups of ``size``, named ``<size>.<number>``: always the same ones together, whoever comes and goes.

    Before the first enumeration is over (``enumerated``) only full groups count: who joined one later would look new in the practice.
    """
    groups: dict[str, list[str]] = {}
    last = max((patient.ordinal for patient in patients), default=-1) + 1
    for patient in patients:
        if patient.gone:
            continue
        groups.setdefault(f"{size}.{patient.ordinal // size}", []).append(patient.id)
    return {
        name: tuple(members)
        for name, members in groups.items()
        if enumerated or (int(name.partition(".")[2]) + 1) * size <= last
    }


_LONGEST_OPENING = dt.timedelta(hours=1)
_NO_EXCUSE = dt.timedelta(days=8)
"""Whatever the active hours, they came in so long."""


def _opened_just_now(schedule: Schedule, owed: dt.datetime, patience: dt.timedelta, now: dt.datetime) -> bool:
    """Whether nothing is late yet, since the active hours have not lasted as long as a reading may take: an hour at the most.

    Without that bound a feed that is owed a reading less often than its hours are long would never be late.
    """
    return now - owed < _NO_EXCUSE and not schedule.allows(now - min(patience, _LONGEST_OPENING))


def late(
    states: Iterable[TargetState],
    schedules: Mapping[tuple[str, Kind], Schedule],
    now: dt.datetime,
    grace: dt.timedelta,
    owed_from: dt.datetime | None = None,
    bound_of: Callable[[TargetState], dt.timedelta | None] = lambda _: None,
) -> bool:
    """Whether a feed is late: one of its targets was owed a whole read that did not come within ``grace`` and another round.

    Holds for a feed that failed as for one that was forgotten: it looks at what was read, not at what was tried. A patient who is gone may
    not be searched for any more; what they had is settled resource by resource. ``owed_from``: when an operator's pause of the feed ended;
    before that nothing was owed. ``bound_of`` says how long ago the last whole read of what the planner reads may be.
    """
    for state in states:
        schedule = schedules.get((state.target.resource_type, state.target.kind))
        if schedule is None or state.orphan:
            continue
        read = state.complete_began or state.registered_at
        if _is_ahead(read, now):
            read = min(state.registered_at, now)
        since = read if owed_from is None else max(read, owed_from)
        bound = bound_of(state)
        if bound is not None and since + bound + grace < now:
            return True
        if not schedule.allows(now):
            continue
        owed = schedule.due_at(since)
        again = schedule.due_at(owed) if owed is not None else None
        if owed is None or again is None:
            continue
        if again + grace < now and not _opened_just_now(schedule, again, again - owed + grace, now):
            return True
    return False
