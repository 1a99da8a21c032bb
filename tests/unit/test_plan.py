"""Which targets are owed a pass, and what a pass proves."""

from __future__ import annotations

import dataclasses
import datetime as dt
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.model import Coverage, Kind, Origin, Strategy, Target
from poller.core.plan import (
    PatientState,
    Schedule,
    TargetState,
    counts_as_whole,
    due,
    everything_targets,
    groups_of,
    late,
    origin_of,
    retry_after,
    wanted_targets,
)

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
SWEEP = Target("p1", "Observation", Kind.SWEEP)
WINDOW = Target("p1", "Observation", Kind.WINDOW)
READ = TargetState(SWEEP, NOW - 60 * MINUTE, baseline_at=NOW - 30 * MINUTE, complete_began=NOW, last_began=NOW)

TIMES = st.integers(-7200, 0).map(lambda seconds: NOW + dt.timedelta(seconds=seconds))
STATES = st.builds(
    lambda patient, **rest: TargetState(
        Target("p1", "Observation", Kind.PATIENT, patient=patient), NOW - 200 * MINUTE, **rest
    ),
    st.sampled_from(["a", "b", "c", "d"]),
    baseline_at=st.none() | TIMES,
    last_began=st.none() | TIMES,
    complete_began=st.none() | TIMES,
    failures=st.integers(0, 12),
    unproven_streak=st.integers(0, 3),
    reread=st.booleans(),
)
EVERY = st.integers(1, 3600).map(lambda seconds: dt.timedelta(seconds=seconds))


def scheduled(schedule: Schedule) -> dict[tuple[str, Kind], Schedule]:
    return {("Observation", kind): schedule for kind in Kind}


def is_due(state: TargetState, schedule: Schedule, now: dt.datetime = NOW) -> bool:
    return due([state], scheduled(schedule), now) == [state.target]


@given(STATES, EVERY, st.integers(0, 7200))
def test_what_is_owed_stays_owed_until_it_is_read(state: TargetState, every: dt.timedelta, later: int) -> None:
    if is_due(state, Schedule(every)):
        assert is_due(state, Schedule(every), NOW + dt.timedelta(seconds=later))


@given(STATES, EVERY)
def test_the_schedule_is_the_latest_it_is_owed(state: TargetState, every: dt.timedelta) -> None:
    assert is_due(state, Schedule(every), (state.last_began or NOW) + every)


@given(STATES, EVERY)
def test_nothing_is_owed_again_within_a_second(state: TargetState, every: dt.timedelta) -> None:
    if state.last_began is not None:
        assert not is_due(state, Schedule(every), state.last_began + dt.timedelta(milliseconds=999))


@given(st.lists(STATES, max_size=6, unique_by=lambda state: state.target), EVERY)
def test_the_longest_owed_comes_first(states: list[TargetState], every: dt.timedelta) -> None:
    calm = [
        dataclasses.replace(state, failures=0, reread=False, unproven_streak=0, baseline_at=NOW) for state in states
    ]
    found = due(calm, scheduled(Schedule(every)), NOW)
    began = {state.target: state.last_began or NOW - 10_000 * MINUTE for state in calm}
    assert [began[target] for target in found] == sorted(began[target] for target in found)
    assert set(found) == {state.target for state in calm if state.last_began is None or state.last_began + every <= NOW}


@given(STATES)
def test_what_has_no_schedule_is_not_read(state: TargetState) -> None:
    assert due([state], {}, NOW) == []
    never = Schedule(cron=lambda _: None)
    assert is_due(state, never) == (state.last_began is None or is_due(state, Schedule(dt.timedelta(days=9))))


def test_a_retry_waits_twice_as_long_each_time_up_to_the_schedule() -> None:
    waits = [retry_after(failures, dt.timedelta(hours=1)).total_seconds() for failures in range(1, 13)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
    assert retry_after(12, 5 * MINUTE) == 5 * MINUTE
    assert retry_after(12, None) == 15 * MINUTE


@given(st.integers(0, 10**6), st.none() | EVERY)
def test_a_retry_is_bounded(failures: int, interval: dt.timedelta | None) -> None:
    assert dt.timedelta(0) < retry_after(failures, interval) <= min(15 * MINUTE, interval or 15 * MINUTE)
    assert retry_after(failures, interval) <= retry_after(failures + 1, interval)


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 300),
        ({"reread": True}, 1),
        ({"baseline_at": None}, 1),
        ({"unproven_streak": 1}, 1),
        ({"unproven_streak": 2}, 300),
        ({"failures": 1}, 1),
        ({"failures": 5, "reread": True, "baseline_at": None}, 16),
        ({"failures": 12}, 300),
    ],
)
def test_when_the_next_pass_is_owed(changes: dict[str, object], seconds: int) -> None:
    state = dataclasses.replace(READ, **changes)  # type: ignore[arg-type] # names from the table above
    schedule = Schedule(5 * MINUTE)
    assert not is_due(state, schedule, NOW + dt.timedelta(seconds=seconds - 0.001))
    assert is_due(state, schedule, NOW + dt.timedelta(seconds=seconds))


def test_a_window_waits_for_the_sweep_that_says_where_it_starts() -> None:
    state = TargetState(WINDOW, NOW)
    assert not is_due(state, Schedule(MINUTE))
    assert is_due(dataclasses.replace(state, cursor_at=NOW), Schedule(MINUTE))


def test_active_hours_are_local_and_do_not_hold_up_a_baseline() -> None:
    helsinki = zoneinfo.ZoneInfo("Europe/Helsinki")
    schedule = Schedule(MINUTE, active=lambda local: 14 <= local.hour < 15, zone=helsinki)
    state = dataclasses.replace(READ, last_began=NOW - 60 * MINUTE)
    assert is_due(state, schedule, NOW), "14:00 there"
    assert not is_due(state, schedule, NOW + 60 * MINUTE)
    assert is_due(dataclasses.replace(state, baseline_at=None), schedule, NOW + 60 * MINUTE)


def test_a_cron_schedule_counts_from_the_last_beginning() -> None:
    hourly = Schedule(cron=lambda after: after.replace(minute=0, second=0) + 60 * MINUTE)
    state = dataclasses.replace(READ, last_began=NOW + 5 * MINUTE)
    assert not is_due(state, hourly, NOW + 59 * MINUTE)
    assert is_due(state, hourly, NOW + 60 * MINUTE)


@pytest.mark.parametrize(
    ("coverage", "streak", "whole"),
    [
        (Coverage.COMPLETE, 0, True),
        (Coverage.UNPROVEN, 0, False),
        (Coverage.UNPROVEN, 1, True),
        (Coverage.UNPROVEN, 5, True),
        (Coverage.INCOMPLETE, 5, False),
    ],
)
def test_what_counts_as_the_whole_read(coverage: Coverage, streak: int, *, whole: bool) -> None:
    assert counts_as_whole(coverage, streak) == whole


@pytest.mark.parametrize(
    ("kind", "strategy", "read", "live", "origin"),
    [
        (Kind.SWEEP, Strategy.WINDOW, False, False, Origin.BASELINE),
        (Kind.SWEEP, Strategy.WINDOW, True, False, Origin.RECONCILE),
        (Kind.WINDOW, Strategy.WINDOW, False, False, Origin.LIVE),
        (Kind.SWEEP, Strategy.SWEEP, False, False, Origin.BASELINE),
        (Kind.SWEEP, Strategy.SWEEP, True, False, Origin.LIVE),
        (Kind.PATIENT, Strategy.PATIENT, False, False, Origin.BASELINE),
        (Kind.PATIENT, Strategy.PATIENT, False, True, Origin.LIVE),
        (Kind.NAMES, Strategy.PATIENT, False, False, Origin.BASELINE),
        (Kind.NAMES, Strategy.PATIENT, True, False, Origin.LIVE),
    ],
)
def test_the_origin_of_what_is_found(kind: Kind, strategy: Strategy, origin: Origin, *, read: bool, live: bool) -> None:
    state = TargetState(Target("p1", "Observation", kind), NOW, live=live, baseline_at=NOW if read else None)
    assert origin_of(state, strategy) is origin


def test_the_targets_of_each_strategy() -> None:
    def wanted(
        strategy: Strategy, resource_type: str = "Observation", categories: tuple[str, ...] = ()
    ) -> list[Target]:
        patients = [PatientState("a", 0), PatientState("b", 1), PatientState("c", 2, gone=True)]
        groups = groups_of(patients, 2, enumerated=True)
        return wanted_targets("p1", resource_type, strategy, categories, patients, ["x"], groups)

    assert wanted(Strategy.WINDOW) == [SWEEP, WINDOW]
    assert wanted(Strategy.SWEEP) == [SWEEP]
    assert wanted(Strategy.PATIENT, "Patient") == [Target("p1", "Patient", Kind.NAMES, names=("x",))]
    assert [(t.patient, t.category) for t in wanted(Strategy.PATIENT)] == [("a", None), ("b", None), ("c", None)]
    both = wanted(Strategy.PATIENT, categories=("lab", "vital"))
    assert [(t.patient, t.category) for t in both[:3]] == [("a", "lab"), ("a", "vital"), ("b", "lab")]
    assert len({target.key for target in both}) == 6
    windows = wanted(Strategy.PATIENT_WINDOW)
    assert [(t.kind, t.patient) for t in windows[:2]] == [(Kind.PATIENT, "a"), (Kind.PATIENT_WINDOW, "a")]
    grouped = wanted(Strategy.PATIENTS)
    assert [(t.kind, t.patients or t.patient) for t in grouped] == [(Kind.PATIENTS, ("a", "b")), (Kind.PATIENT, "c")]
    assert wanted(Strategy.EVERYTHING) == [], "one pass reads several types; no feed has targets of its own"


def test_one_pass_reads_the_types_that_are_read_so_whole_and_since_when() -> None:
    strategies = {
        "Patient": Strategy.EVERYTHING,
        "Goal": Strategy.EVERYTHING,
        "Observation": Strategy.EVERYTHING_WINDOW,
        "Coverage": Strategy.PATIENT,
    }
    targets = everything_targets("p1", strategies, [PatientState("a", 0)])
    assert [(t.kind, t.types) for t in targets] == [
        (Kind.EVERYTHING, ("Goal", "Observation")),
        (Kind.EVERYTHING_WINDOW, ("Observation",)),
    ]


def test_a_patient_whom_no_name_shows_is_read_alone() -> None:
    patients = [PatientState("a", 0), PatientState("b", 1, enumerated=False)]
    targets = wanted_targets("p1", "Patient", Strategy.PATIENT, (), patients, ["x"], {})
    assert [(t.kind, t.patient) for t in targets] == [(Kind.NAMES, None), (Kind.PATIENT, "b")]
    targets = wanted_targets("p1", "Patient", Strategy.PATIENT, (), patients, [], {})
    assert [(t.kind, t.patient) for t in targets] == [(Kind.PATIENT, "a"), (Kind.PATIENT, "b")], "nor are there names"


def test_groups_are_the_same_whoever_comes_and_goes() -> None:
    patients = [PatientState(str(n), n) for n in range(5)]
    assert groups_of(patients, 2, enumerated=True) == {"2.0": ("0", "1"), "2.1": ("2", "3"), "2.2": ("4",)}
    assert groups_of(patients, 2, enumerated=False) == {"2.0": ("0", "1"), "2.1": ("2", "3")}, "it may yet be joined"
    assert groups_of(patients[:2] + patients[3:], 2, enumerated=True) == {
        "2.0": ("0", "1"),
        "2.1": ("3",),
        "2.2": ("4",),
    }
    assert groups_of([dataclasses.replace(patients[0], gone=True), patients[1]], 2, enumerated=True) == {"2.0": ("1",)}


def test_a_pass_for_several_feeds_is_owed_when_the_first_of_them_owes_it() -> None:
    schedule = Schedule.together([Schedule(every=10 * MINUTE), Schedule(every=MINUTE, active=lambda _: False)])
    assert schedule is not None
    assert schedule.due_at(NOW) == NOW + MINUTE
    assert schedule.allows(NOW)
    assert Schedule.together([]) is None


GRACE = dt.timedelta(seconds=30)


@pytest.mark.parametrize(
    ("changes", "minutes", "is_late"),
    [
        ({}, 10.4, False),
        ({}, 10.6, True),
        ({"last_began": NOW + 10 * MINUTE, "failures": 9}, 10.6, True),
        ({"complete_began": None}, 0, True),
        ({"complete_began": None, "registered_at": NOW}, 10.4, False),
        ({"complete_began": None, "registered_at": NOW}, 10.6, True),
    ],
)
def test_a_feed_is_late_by_what_was_read_not_by_what_was_tried(
    changes: dict[str, object], minutes: float, *, is_late: bool
) -> None:
    state = dataclasses.replace(READ, **changes)  # type: ignore[arg-type] # names from the table above
    assert late([state], scheduled(Schedule(5 * MINUTE)), NOW + minutes * MINUTE, GRACE) == is_late


def test_nothing_is_late_at_the_opening_of_the_active_hours() -> None:
    schedules = scheduled(Schedule(5 * MINUTE, active=lambda local: 12 <= local.hour < 14))
    state = dataclasses.replace(READ, complete_began=NOW - 24 * 60 * MINUTE, registered_at=NOW - 99 * 60 * MINUTE)
    lateness = [late([state], schedules, NOW + after * MINUTE, GRACE) for after in (-1, 0, 5.4, 5.6, 119, 121)]
    assert lateness == [False, False, False, True, True, False]


@given(st.lists(STATES, min_size=1, max_size=4), EVERY)
def test_one_late_target_makes_the_feed_late(states: list[TargetState], every: dt.timedelta) -> None:
    schedules = scheduled(Schedule(every))
    assert late(states, schedules, NOW, GRACE) == any(late([state], schedules, NOW, GRACE) for state in states)
    assert not late(states, {}, NOW, GRACE)
    assert not late(states, scheduled(Schedule(every, active=lambda _: False)), NOW, GRACE)


@pytest.mark.parametrize("schedule", [Schedule(5 * MINUTE), Schedule(cron=lambda at: at + 60 * MINUTE)])
def test_what_was_read_in_the_future_is_owed_now_and_late_if_that_does_not_come(schedule: Schedule) -> None:
    """A clock was put back by six hours: nothing may be left alone for so long."""
    ahead = NOW + 360 * MINUTE
    state = dataclasses.replace(READ, last_began=ahead, complete_began=ahead, registered_at=NOW - 7 * 1440 * MINUTE)
    assert is_due(state, schedule)
    assert late([state], scheduled(schedule), NOW, MINUTE)
    soon = dataclasses.replace(state, last_began=NOW + MINUTE / 2, complete_began=NOW + MINUTE / 2)
    assert not is_due(soon, schedule), "clocks of two processes are never quite the same"
    assert not late([soon], scheduled(schedule), NOW, MINUTE)
