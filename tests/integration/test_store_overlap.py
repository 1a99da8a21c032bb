"""Reads that overlap: the order of answers says nothing, so the one that may be older decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poller.core.model import Coverage
from poller.store.deletes import Settled

if TYPE_CHECKING:
    from tests.integration.conftest import Practice

KEY = frozenset({("Observation", "o1")})


def test_an_older_read_that_arrives_late_is_left_for_another(practice: Practice) -> None:
    practice.read(practice.observation(value="1"), second=0)
    practice.read(practice.observation(value="3"), second=11, took=1)
    late = practice.whole(practice.observation(value="2"), second=10, ended=practice.at(20))
    assert (late.changes, late.outdated) == ((), KEY)
    assert practice.actions() == [("created", "o1", 1), ("updated", "o1", 2)]
    [state] = practice.state.targets("p1", ())
    assert state.reread
    practice.whole(practice.observation(value="3"), second=30)
    [state] = practice.state.targets("p1", ())
    assert not state.reread
    assert len(practice.actions()) == 2


def test_a_newer_read_that_arrives_first_wins_over_the_first_sight_too(practice: Practice) -> None:
    practice.read(practice.observation(value="2"), second=5)
    assert practice.read(practice.observation(value="1"), second=4, took=10).outdated == KEY
    assert practice.read(practice.observation(value="2"), second=4, took=10).outdated == frozenset(), "says the same"


def test_a_read_that_began_when_the_stored_one_ended_is_left(practice: Practice) -> None:
    practice.read(practice.observation(value="1"), second=0, took=5)
    assert practice.read(practice.observation(value="2"), second=5).outdated == KEY
    assert practice.read(practice.observation(value="2"), second=5.001).outdated == frozenset()


def test_only_the_rows_in_question_are_left(practice: Practice) -> None:
    practice.read(practice.observation("o1"), second=10)
    mixed = practice.read(practice.observation("o1", value="old"), practice.observation("o2"), second=9)
    assert mixed.outdated == KEY
    assert [key for key, _ in mixed.changes] == [("Observation", "o2")]


def test_a_delete_confirmed_by_an_older_read_is_moot(practice: Practice) -> None:
    practice.read(practice.observation(value="1"), second=0)
    practice.whole(second=10)
    [absence] = practice.deletes.due("p1")
    practice.read(practice.observation(value="2"), second=21, keep_absences=True)
    assert practice.confirm(absence, second=20) is Settled.MOOT
    assert practice.live() == ["o1"]


def test_a_stale_page_does_not_bring_the_deleted_back(practice: Practice) -> None:
    practice.read(practice.observation(), second=0)
    practice.whole(second=10)
    [absence] = practice.deletes.due("p1")
    assert practice.confirm(absence, second=20) is Settled.DELETED
    stale = practice.read(practice.observation(), second=19, took=30)
    assert (stale.changes, stale.outdated) == ((), KEY)
    assert practice.live() == []
    assert practice.read(practice.observation(), second=60).outdated == frozenset()
    assert [action for action, _, _ in practice.actions()] == ["created", "deleted", "restored"]


def test_what_was_left_stays_owed_until_a_pass_counts(practice: Practice) -> None:
    practice.read(practice.observation(value="3"), second=11)
    practice.whole(practice.observation(value="2"), second=10, ended=practice.at(20))
    practice.whole(second=30, coverage=Coverage.INCOMPLETE)
    [state] = practice.state.targets("p1", ())
    assert state.reread, "a pass that shows nothing settles nothing"
    practice.whole(practice.observation(value="3"), second=40)
    [state] = practice.state.targets("p1", ())
    assert not state.reread


def test_a_stale_page_is_no_evidence_against_an_absence(practice: Practice) -> None:
    practice.read(practice.observation(), second=0)
    practice.whole(second=10)
    practice.read(practice.observation(), second=9, took=30)
    assert [absence.id for absence in practice.deletes.due("p1")] == ["o1"]
    practice.read(practice.observation(), second=50)
    assert practice.deletes.due("p1") == []


def test_an_absence_seen_through_meanwhile_is_not_settled_by_the_read_before(practice: Practice) -> None:
    practice.read(practice.observation(), second=0)
    practice.whole(second=10)
    [absence] = practice.deletes.due("p1")
    practice.read(practice.observation(), second=30)
    practice.whole(second=40)
    assert practice.confirm(absence, second=20) is Settled.MOOT
    [again] = practice.deletes.due("p1")
    assert practice.confirm(again, second=50) is Settled.DELETED


def test_an_outdated_row_of_an_earlier_batch_is_remembered_by_the_end(practice: Practice) -> None:
    practice.whole(outdated=True, second=10)
    [state] = practice.state.targets("p1", ())
    assert state.reread
