"""Export jobs as they are stored, who may store them, and what a deletion that is told of comes to."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from poller.core.export import FileDone, Gap, Job, State, Use
from poller.core.manifest import File, FileKind, Manifest
from poller.core.model import Kind, Target
from poller.errors import LeaseLost
from poller.store.exports import ExportStore
from poller.store.repository import Lease

if TYPE_CHECKING:
    from tests.integration.conftest import Practice

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def job(**changes: Any) -> Job:
    given: dict[str, Any] = {"group": "g1", "types": ("Patient",), "since": None, "use": Use.FIRST_LOAD}
    return Job(**({"id": uuid.uuid4()} | given | {"state": State.REQUESTED, "started_at": NOW} | changes))


MANIFEST = Manifest(
    NOW,
    needs_token=True,
    files=(
        File(FileKind.ERROR, 0, "OperationOutcome", "https://h/e"),
        File(FileKind.OUTPUT, 0, "Patient", "https://h/1", 3),
    ),
)

FULL = {
    "group": "g'é/1",
    "types": ("Observation", "Patient"),
    "since": NOW - HOUR,
    "use": Use.RECONCILE,
    "poll_url": "https://h/$poll?job=1&x='%",
    "polled_at": NOW + HOUR / 60,
    "next_poll_at": NOW + HOUR,
    "polls": 7,
    "manifest": MANIFEST,
    "transaction_time": NOW - HOUR / 3,
    "content_at": NOW - HOUR / 7,
    "files_done": (FileDone("error/0"), FileDone("output/0", frozenset({Gap.SHORT, Gap.OUTDATED}))),
    "rows": 2**40,
    "failure": "blocked",
    "ended_at": NOW + 2 * HOUR,
}


FIRST = ("group", "types", "since", "use")
"""What never changes of a job."""


@pytest.fixture
def store(practice: Practice) -> ExportStore:
    return ExportStore(practice.engine)


def test_a_job_comes_back_as_it_was(practice: Practice, store: ExportStore) -> None:
    for number, state in enumerate(State):
        for changes in ({}, FULL):
            kept = job(**changes | {"state": state, "started_at": NOW + number * HOUR})
            store.save(practice.lease, job(id=kept.id, **{name: changes[name] for name in FIRST if name in changes}))
            store.save(practice.lease, kept)
            assert kept in store._load("p1", list(State))


def test_the_oldest_job_under_way_is_the_one_that_goes_on(practice: Practice, store: ExportStore) -> None:
    assert store.unfinished("p1") is None
    older = job(state=State.IN_PROGRESS)
    for one in (job(started_at=NOW + HOUR), older, job(state=State.DONE, started_at=NOW - HOUR)):
        store.save(practice.lease, one)
    assert store.unfinished("p1") == older
    assert store.unfinished("p2") is None


def test_jobs_that_the_server_may_still_hold_are_those_that_are_over_and_have_an_address(
    practice: Practice, store: ExportStore
) -> None:
    held = [job(state=State.CANCELLED, poll_url="u"), job(state=State.DONE, poll_url="u", started_at=NOW + HOUR)]
    for one in (*held, job(state=State.DONE), job(state=State.IN_PROGRESS, poll_url="u")):
        store.save(practice.lease, one)
    assert store.unreleased("p1") == held


def test_the_next_begins_where_the_last_of_its_group_ended(practice: Practice, store: ExportStore) -> None:
    def since(group: str, *types: str) -> dt.datetime | None:
        return store.next_since("p1", group, types, HOUR / 60)

    ended = {"state": State.DONE, "transaction_time": NOW, "content_at": NOW - HOUR / 2}
    store.save(practice.lease, job(types=("Patient", "Goal"), **ended))
    store.save(practice.lease, job(started_at=NOW + HOUR, **ended | {"failure": "incomplete"}))
    assert since("g1", "Patient") == NOW - HOUR / 60
    assert since("g1", "Patient", "Observation") is None
    assert since("g2", "Patient") is None
    assert store.last_whole("p1", "g1") == {"Patient": NOW - HOUR / 2, "Goal": NOW - HOUR / 2}


def test_only_the_holder_of_the_lease_writes(practice: Practice, store: ExportStore) -> None:
    practice.whole(practice.observation("o1"))
    lost = Lease("p1", practice.lease.epoch - 1)
    with pytest.raises(LeaseLost):
        store.save(lost, job())
    with pytest.raises(LeaseLost):
        store.note_deleted(lost, [("Observation", "o1")], practice.at(1000), practice.at(1001))
    assert store.unfinished("p1") is None
    assert practice.rows("SELECT FROM poller.absence") == []


# --- deletions


FIRST = ("group", "types", "since", "use")
"""What never changes of a job."""


@pytest.fixture
def stored(practice: Practice) -> Practice:
    """Three observations, read by second 12; o3 is deleted."""
    practice.whole(*map(practice.observation, ["o1", "o2", "o3"]))
    practice.delete("o3")
    return practice


def note(practice: Practice, *ids: str, second: float) -> int:
    found = [("Observation", id_) for id_ in ids]
    return ExportStore(practice.engine).note_deleted(
        practice.lease, found, practice.at(second), practice.at(second + 1)
    )


def test_what_is_told_to_be_deleted_is_missing_until_it_is_asked_for(stored: Practice) -> None:
    assert note(stored, "o1", "o1", "o3", "unknown", second=500) == 1
    [absence] = stored.deletes.due("p1")
    assert (absence.id, absence.pass_began, absence.passes) == ("o1", stored.at(500), 1)
    assert absence.reason == "listed as deleted by an export"
    assert stored.live() == ["o1", "o2"]


def test_what_was_read_after_the_export_began_is_not_missing_from_it(stored: Practice) -> None:
    stored.read(stored.observation("o1", value="2"), second=600, took=5)
    assert note(stored, "o1", "o2", second=604) == 1
    assert [absence.id for absence in stored.deletes.due("p1")] == ["o2"]


def test_the_same_export_counts_once_and_a_later_one_again(stored: Practice) -> None:
    stored.whole(stored.observation("o2"), second=400)
    assert note(stored, "o1", second=500) == 1
    assert note(stored, "o1", second=500) == 0
    assert note(stored, "o1", second=300) == 0, "older than the evidence there is"
    [absence] = stored.deletes.due("p1")
    assert (absence.passes, absence.pass_began) == (2, stored.at(500))
    stored.deletes.postpone(stored.lease, absence, "still answered")
    assert stored.deletes.due("p1") == []
    assert note(stored, "o1", second=700) == 1
    assert [again.id for again in stored.deletes.due("p1")] == ["o1"]


def test_a_deletion_that_a_read_confirms_is_recorded(stored: Practice) -> None:
    stored.state.register_bulk(stored.lease, ["Observation"], stored.at(0))
    stored.read(stored.observation("o1"), second=450, target=Target("p1", "Observation", Kind.BULK))
    note(stored, "o1", second=500)
    [absence] = stored.deletes.due("p1")
    stored.confirm(absence, second=600)
    assert stored.live() == ["o2"]
    assert stored.rows("SELECT FROM poller.member WHERE id = 'o1'") == []
