"""What is known of targets: windows and their cursor, live and baseline, coming and going."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from poller.core.ladder import Bar, Footing
from poller.core.model import Coverage, Kind, Strategy, Target
from poller.core.plan import TargetState, counts_as_whole

if TYPE_CHECKING:
    from tests.integration.conftest import Practice

WINDOW = Target("p1", "Observation", Kind.WINDOW)
SWEEP = Target("p1", "Observation", Kind.SWEEP)
NAMES = Target("p1", "Patient", Kind.NAMES, names=("a", "b"))


def of_patient(name: str, category: str | None = None) -> Target:
    return Target("p1", "Observation", Kind.PATIENT, category=category, patient=name)


def state_of(practice: Practice, target: Target) -> TargetState:
    [state] = practice.state.targets("p1", NAMES.names, target.key)
    return state


def test_a_windows_cursor_moves_only_with_what_counts_and_never_back(practice: Practice) -> None:
    practice.register(WINDOW, SWEEP)

    def cursor_after(coverage: Coverage, to: float, *, counts: bool = True, outdated: bool = False) -> float | None:
        moment = practice.at(to)
        practice.whole(target=WINDOW, coverage=coverage, counts=counts, outdated=outdated, cursor_at=moment)
        cursor = state_of(practice, WINDOW).cursor_at
        return None if cursor is None else (cursor - practice.at(0)).total_seconds()

    assert cursor_after(Coverage.INCOMPLETE, 10, counts=False) is None
    assert cursor_after(Coverage.UNPROVEN, 20, counts=False) is None
    assert cursor_after(Coverage.COMPLETE, 30, outdated=True) is None
    assert cursor_after(Coverage.COMPLETE, 40) == 40
    assert cursor_after(Coverage.COMPLETE, 35) == 40
    assert cursor_after(Coverage.INCOMPLETE, 50, counts=False) == 40
    assert cursor_after(Coverage.COMPLETE, 60, outdated=True) == 40
    assert cursor_after(Coverage.COMPLETE, 70) == 70
    practice.whole(target=WINDOW, cursor_at=None)
    assert state_of(practice, WINDOW).cursor_at == practice.at(70), "without a Date it stays"


def test_an_outdated_row_of_the_last_batch_keeps_the_cursor(practice: Practice) -> None:
    practice.register(WINDOW, SWEEP)
    practice.read(practice.observation(value="2"), second=50)
    practice.whole(practice.observation(value="1"), second=40, target=WINDOW, cursor_at=practice.at(40))
    state = state_of(practice, WINDOW)
    assert (state.cursor_at, state.reread) == (None, True)


def test_unproven_twice_in_a_row_counts(practice: Practice) -> None:
    practice.register(WINDOW, SWEEP)
    counted = []
    for coverage in (Coverage.UNPROVEN, Coverage.COMPLETE, Coverage.UNPROVEN, Coverage.UNPROVEN, Coverage.INCOMPLETE):
        counts = counts_as_whole(coverage, state_of(practice, WINDOW).unproven_streak)
        counted.append(counts)
        practice.whole(target=WINDOW, coverage=coverage, counts=counts)
    assert counted == [False, True, False, True, False]
    assert state_of(practice, WINDOW).unproven_streak == 0


def test_a_pass_leaves_its_marks_on_its_own_target(practice: Practice) -> None:
    practice.register(WINDOW, SWEEP)
    practice.whole(target=SWEEP, second=10)
    assert state_of(practice, WINDOW).last_began is None
    first = state_of(practice, SWEEP)
    assert (first.last_began, first.complete_began, first.baseline_at) == (
        practice.at(10),
        practice.at(10),
        practice.at(12),
    )
    for second, failures in ((20, 1), (30, 2)):
        practice.whole(target=SWEEP, second=second, coverage=Coverage.INCOMPLETE, failure="server")
        state = state_of(practice, SWEEP)
        assert (state.last_began, state.failures) == (practice.at(second), failures)
        assert (state.complete_began, state.baseline_at) == (practice.at(10), practice.at(12))
    practice.whole(target=SWEEP, second=40)
    again = state_of(practice, SWEEP)
    assert (again.failures, again.complete_began, again.baseline_at) == (0, practice.at(40), practice.at(12))


def test_an_incomplete_pass_without_a_failure_is_retried_with_growing_pauses_too(practice: Practice) -> None:
    for failures in (1, 2, 3):
        practice.whole(coverage=Coverage.INCOMPLETE)
        assert state_of(practice, SWEEP).failures == failures


def test_a_sweep_sets_the_first_windows_start_and_what_windows_must_show(practice: Practice) -> None:
    practice.register(WINDOW, SWEEP)
    broken = Coverage.INCOMPLETE
    practice.whole(target=SWEEP, window_from=practice.at(5), coverage=broken)
    assert state_of(practice, WINDOW).cursor_at is None
    practice.whole(practice.observation("o2"), target=SWEEP, window_from=practice.at(6))
    practice.whole(practice.observation("o3"), target=SWEEP, window_from=practice.at(9))
    assert state_of(practice, WINDOW).cursor_at == practice.at(6), "only the first one sets it"
    assert state_of(practice, WINDOW).sweep_found == ()
    practice.read(practice.observation("o1"), target=SWEEP, tells_window=WINDOW)
    practice.read(practice.observation("o4"), practice.observation("o5"), target=SWEEP, tells_window=WINDOW)
    practice.read(practice.observation("o5"), target=SWEEP, tells_window=WINDOW)
    assert sorted(state_of(practice, WINDOW).sweep_found) == ["o1", "o4", "o5"]
    practice.whole(target=WINDOW, coverage=Coverage.INCOMPLETE, judged=["o1"])
    assert sorted(state_of(practice, WINDOW).sweep_found) == ["o1", "o4", "o5"]
    practice.whole(practice.observation("o4"), target=WINDOW, judged=["o1", "o9"])
    assert state_of(practice, WINDOW).sweep_found == ("o5",), "judged and shown are settled"


def test_who_appears_after_the_first_enumeration_is_live(by_patient: Practice) -> None:
    by_patient.register(NAMES)
    by_patient.whole(by_patient.patient("old"), target=NAMES)
    new = by_patient.context(NAMES, patients_live=True)
    by_patient.repository.record(new, [by_patient.version(by_patient.patient("new"), 50)], by_patient.at(51))
    assert [patient.id for patient in by_patient.state.patients("p1")] == ["old", "new"]
    by_patient.register(of_patient("old"), of_patient("new"), of_patient("never seen"), second=60)
    live = {state.target.patient: state.live for state in by_patient.state.targets("p1", ()) if state.target.patient}
    assert live == {"old": False, "new": True, "never seen": False}
    by_patient.state.register_feed(by_patient.lease, "Condition", by_patient.at(100))
    later = Target("p1", "Condition", Kind.PATIENT, patient="new")
    by_patient.state.register_targets(by_patient.lease, "Condition", [later], by_patient.at(100))
    assert not state_of(by_patient, later).live, "a feed set up afterwards has its baseline to read first"


def test_a_target_that_returns_keeps_its_state(practice: Practice) -> None:
    practice.register(WINDOW, SWEEP)
    practice.whole(target=WINDOW, second=10, cursor_at=practice.at(7))
    known = state_of(practice, WINDOW)
    practice.register(SWEEP)
    assert [state.target for state in practice.state.targets("p1", ())] == [SWEEP]
    practice.register(WINDOW, SWEEP, second=99)
    assert state_of(practice, WINDOW) == known
    practice.state.retire_feeds(practice.lease, ["Patient"], practice.at(100))
    assert practice.state.targets("p1", ()) == []
    practice.register(WINDOW, SWEEP, second=101)
    assert state_of(practice, WINDOW) == known


def test_patients_targets_know_what_a_sweep_has_found(practice: Practice) -> None:
    vital = practice.observation("o2", category=[{"coding": [{"code": "vital-signs"}]}])
    other = practice.observation("o3", subject={"reference": "Patient/b"})
    gone = practice.observation("o4")
    practice.whole(practice.observation("o1"), vital, other, gone)
    practice.delete("o4")
    laboratory, all_of_b = of_patient("a", "laboratory"), of_patient("b")
    practice.register(laboratory, all_of_b)
    members = practice.rows("SELECT target, id FROM poller.member ORDER BY id")
    assert members == [(laboratory.key, "o1"), (all_of_b.key, "o3")]
    practice.whole(target=laboratory)
    assert [absence.id for absence in practice.deletes.due("p1")] == ["o1"]


def test_names_are_the_configurations_not_the_tables(by_patient: Practice) -> None:
    by_patient.register(NAMES)
    [state] = by_patient.state.targets("p1", ("x",), NAMES.key)
    assert state.target == dataclasses.replace(NAMES, names=("x",))


def test_a_feeds_verdict_is_kept_and_stepping_down_shows(practice: Practice) -> None:
    feed = practice.state.register_feed(practice.lease, "Observation", practice.at(1))
    assert (feed.strategy, feed.reason, feed.probed_at) == (None, "", None)
    bars = {Strategy.EVERYTHING: Bar("it failed", practice.at(99))}
    footing = Footing(Strategy.WINDOW, (Strategy.WINDOW, Strategy.SWEEP), bars)
    evidence = {"asked": {"status": 200}}
    practice.state.save_rung(practice.lease, "Observation", footing, "probed", evidence, practice.at(5))
    feed = practice.state.register_feed(practice.lease, "Observation", practice.at(6))
    assert (feed.strategy, feed.reason, feed.probed_at) == (Strategy.WINDOW, "probed", practice.at(5))
    assert (feed.offers, feed.bars) == (footing.offers, bars)
    practice.state.step_down(practice.lease, "Observation", 3, practice.at(7))
    feed = practice.state.register_feed(practice.lease, "Observation", practice.at(8))
    assert (feed.strategy, feed.stepped_down_at, feed.found_by_sweep) == (Strategy.WINDOW, practice.at(7), 3)
