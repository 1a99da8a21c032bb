"""The way to a delete: missing from complete passes, asked about, allowed by the breaker or held for the operator."""

from __future__ import annotations

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from poller.core.model import Coverage, Kind, Target
from poller.store.deletes import Breaker, Settled

if TYPE_CHECKING:
    from tests.integration.conftest import Practice

HOUR = dt.timedelta(hours=1)


def missing(practice: Practice) -> list[str]:
    return [absence.id for absence in practice.deletes.listed("p1", ["missing"])]


def test_only_a_complete_pass_makes_an_absence(practice: Practice) -> None:
    practice.whole(practice.observation("o1"), practice.observation("o2"))
    for coverage in (Coverage.UNPROVEN, Coverage.INCOMPLETE):
        practice.whole(practice.observation("o1"), coverage=coverage, counts=True)
        assert missing(practice) == []
    practice.whole(practice.observation("o1"))
    assert missing(practice) == ["o2"]


def test_a_window_makes_no_absence(practice: Practice) -> None:
    window = Target("p1", "Observation", Kind.WINDOW)
    practice.register(practice.target, window)
    practice.whole(practice.observation("o1"))
    practice.whole(target=window)
    assert missing(practice) == []


def test_what_was_read_after_the_pass_began_is_not_missing_from_it(practice: Practice) -> None:
    practice.read(practice.observation("o1"), second=5, took=5)
    practice.whole(second=10)
    assert missing(practice) == []
    practice.whole(second=11)
    assert missing(practice) == ["o1"]


def test_the_seen_again_is_not_missing_whatever_was_held_against_it(practice: Practice) -> None:
    practice.whole(practice.observation("o1"))
    for state in ("missing", "held", "released", "discarded"):
        practice.whole()
        with practice.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE poller.absence SET state = '{state}'")  # noqa: S608
        practice.read(practice.observation("o1"))
        assert practice.rows("SELECT FROM poller.absence") == []


def test_a_confirming_read_leaves_the_evidence_to_its_caller(practice: Practice) -> None:
    practice.whole(practice.observation("o1"))
    practice.whole()
    practice.read(practice.observation("o1"), keep_absences=True)
    assert missing(practice) == ["o1"]


def test_a_patients_target_misses_only_what_it_has_shown(by_patient: Practice) -> None:
    targets = [Target("p1", "Observation", Kind.PATIENT, patient=name) for name in ("a", "b")]
    by_patient.register(*targets)
    by_patient.whole(by_patient.observation("o1"), by_patient.observation("o2"), target=targets[0])
    by_patient.whole(by_patient.observation("o3", subject={"reference": "Patient/b"}), target=targets[1])
    by_patient.whole(by_patient.observation("o1"), target=targets[0])
    assert missing(by_patient) == ["o2"]
    by_patient.whole(by_patient.observation("o1"), by_patient.observation("o2"), target=targets[0])
    by_patient.whole(target=targets[1])
    assert missing(by_patient) == ["o3"]


def test_postponed_questions_wait_for_twice_as_many_passes_each_time(practice: Practice) -> None:
    practice.whole(practice.observation("o1"))
    practice.whole()
    waited = []
    for _ in range(9):
        [absence] = practice.deletes.due("p1")
        practice.deletes.postpone(practice.lease, absence, "still answered")
        passes = 0
        while not practice.deletes.due("p1"):
            practice.whole()
            passes += 1
        waited.append(passes)
    assert waited == [1, 2, 4, 8, 16, 32, 64, 64, 64]


def test_a_server_error_makes_the_next_complete_pass_necessary(practice: Practice) -> None:
    practice.whole(practice.observation("o1"))
    practice.whole()
    [absence] = practice.deletes.due("p1")
    practice.deletes.renew(practice.lease, absence, "server error")
    assert practice.deletes.due("p1") == []
    practice.whole(coverage=Coverage.UNPROVEN)
    assert practice.deletes.due("p1") == []
    practice.whole(second=500)
    [again] = practice.deletes.due("p1")
    assert (again.pass_began, again.passes, again.checks) == (practice.at(500), 2, 0)
    assert again.first_missing_at == absence.first_missing_at


def test_deleted_rows_are_not_missing_and_keep_no_traces(by_patient: Practice) -> None:
    target = Target("p1", "Observation", Kind.PATIENT, patient="a")
    by_patient.register(target)
    by_patient.whole(by_patient.observation("o1"), target=target)
    by_patient.whole(target=target)
    [absence] = by_patient.deletes.due("p1")
    assert by_patient.confirm(absence) is Settled.DELETED
    assert by_patient.rows("SELECT FROM poller.absence UNION ALL SELECT FROM poller.member") == []
    assert by_patient.confirm(absence) is Settled.MOOT
    by_patient.whole(target=target)
    assert missing(by_patient) == []
    [(body, codec, deleted)] = by_patient.rows("SELECT body, codec, deleted FROM poller.snapshot")
    assert (body, codec, deleted) == (None, None, True)
    by_patient.whole(by_patient.observation("o1"), target=target)
    by_patient.whole(target=target)
    assert missing(by_patient) == ["o1"], "restored, it belongs to the target again"


def test_past_the_breaker_deletes_are_held_until_the_operator_speaks(practice: Practice) -> None:
    ids = [f"o{number:02}" for number in range(40)]
    practice.whole(*map(practice.observation, ids))
    tight = Breaker(0.05, 1, HOUR)
    settled = practice.delete(*ids[:6], breaker=tight)
    assert settled == [Settled.DELETED] * 2 + [Settled.HELD] * 4
    assert practice.deletes.due("p1") == [], "held: not asked about again"
    assert practice.deletes.rule("p1", "released", "Observation", "o02") == 1
    assert practice.deletes.rule("p1", "discarded", None, "o03") == 1
    [released] = practice.deletes.due("p1")
    assert practice.confirm(released, breaker=tight) is Settled.DELETED, "released: past the breaker"
    practice.whole(*map(practice.observation, ids[6:]))
    states = [(absence.id, absence.state) for absence in practice.deletes.listed("p1", ["held", "discarded"])]
    assert states == [("o03", "discarded"), ("o04", "held"), ("o05", "held")]
    assert practice.deletes.due("p1") == []
    assert practice.deletes.rule("p1", "released", None, None) == 2
    assert practice.deletes.rule("p2", "released", None, None) == 0


def test_the_breaker_forgets_after_its_window(practice: Practice) -> None:
    practice.whole(*[practice.observation(f"o{number}") for number in range(4)])
    tight = Breaker(0.0, 1, dt.timedelta(seconds=100))
    assert practice.delete("o0", "o1", breaker=tight) == [Settled.DELETED, Settled.HELD]
    practice.deletes.rule("p1", "discarded", None, None)
    for _ in range(12):
        practice.tick()
    assert practice.delete("o2", "o3", breaker=tight) == [Settled.DELETED, Settled.HELD]


@pytest.mark.parametrize("workers", [2, 6])
def test_confirmations_at_once_do_not_pass_the_breaker(practice: Practice, workers: int) -> None:
    ids = [f"o{number}" for number in range(12)]
    practice.whole(*map(practice.observation, ids))
    practice.whole()
    due = practice.deletes.due("p1")
    start = threading.Barrier(workers)

    def confirm(number: int) -> Settled:
        if number < workers:
            start.wait()
        return practice.confirm(due[number], second=100, breaker=Breaker(0.0, 3, HOUR))

    with ThreadPoolExecutor(workers) as pool:
        settled = list(pool.map(confirm, range(12)))
    assert settled.count(Settled.DELETED) == 3
    assert settled.count(Settled.HELD) == 9


def test_a_patient_who_is_gone_is_read_until_nothing_of_theirs_is_left(by_patient: Practice) -> None:
    names = Target("p1", "Patient", Kind.NAMES, names=("a",))
    target = Target("p1", "Observation", Kind.PATIENT, patient="a")
    by_patient.register(names, target)
    by_patient.whole(by_patient.patient("a"), by_patient.patient("b"), target=names)
    by_patient.whole(by_patient.observation("o1"), target=target)
    by_patient.whole(target=names)
    assert [by_patient.confirm(absence) for absence in by_patient.deletes.due("p1")] == [Settled.DELETED] * 2
    assert [patient.id for patient in by_patient.state.patients("p1")] == ["a"]
    by_patient.whole(target=target)
    assert [by_patient.confirm(absence) for absence in by_patient.deletes.due("p1")] == [Settled.DELETED]
    assert [patient.id for patient in by_patient.state.patients("p1")] == []
    by_patient.whole(by_patient.patient("a"), target=names)
    assert [patient.id for patient in by_patient.state.patients("p1")] == ["a"], "and again when they return"


def test_missing_resources_are_asked_about_longest_missing_first(practice: Practice) -> None:
    practice.whole(*map(practice.observation, ["a", "b", "c"]))
    practice.whole(practice.observation("a"), practice.observation("c"))
    practice.whole(practice.observation("c"))
    assert [absence.id for absence in practice.deletes.due("p1")] == ["b", "a"]
    assert [absence.id for absence in practice.deletes.due("p1", limit=1)] == ["b"]
