"""Visits are written with the Encounter's version, and what was learned is kept under the lease."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from poller.core.model import Kind, Target
from poller.core.visits import REMEMBERED, Visit
from poller.errors import LeaseLost
from poller.store.planning import PlanningStore

if TYPE_CHECKING:
    from tests.integration.conftest import Practice

ENCOUNTERS = Target("p1", "Encounter", Kind.SWEEP)
FAR = dt.timedelta(days=400)


def encounter(practice: Practice, id_: str = "e1", start: dt.datetime | None = None, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": id_,
        "status": "planned",
        "class": {"code": "AMB"},
        "subject": {"reference": "Patient/a"},
        "period": {"start": (start or practice.at(3600)).isoformat()},
    } | more


@pytest.fixture
def store(practice: Practice) -> PlanningStore:
    practice.register(ENCOUNTERS)
    return PlanningStore(practice.engine)


def visits(store: PlanningStore, practice: Practice, until: dt.timedelta = FAR) -> list[Visit]:
    now = practice.at(100)
    return store.visits("p1", now, now + until)


def test_an_encounter_s_visit_is_known_and_follows_it(practice: Practice, store: PlanningStore) -> None:
    told = practice.read(encounter(practice), target=ENCOUNTERS)
    planned = Visit("e1", "a", practice.at(3600), "AMB", "planned")
    assert told.visits == (planned,)
    assert visits(store, practice) == [planned]
    assert practice.read(encounter(practice), target=ENCOUNTERS).visits == ()
    told = practice.read(encounter(practice, start=practice.at(7200), status="arrived"), target=ENCOUNTERS)
    assert visits(store, practice) == list(told.visits) == [Visit("e1", "a", practice.at(7200), "AMB", "arrived")]


def test_visits_of_long_ago_and_far_ahead_are_left_out(practice: Practice, store: PlanningStore) -> None:
    old, last_year = practice.at(0) - REMEMBERED + dt.timedelta(seconds=150), practice.at(0) - dt.timedelta(days=365)
    told = practice.read(
        encounter(practice, "e1", old),
        encounter(practice, "e2", last_year),
        encounter(practice, "e3", practice.at(86400)),
        target=ENCOUNTERS,
    )
    assert [visit.id for visit in told.visits] == ["e1", "e3"]
    assert [visit.id for visit in visits(store, practice, dt.timedelta(hours=1))] == ["e1"]
    store.forget_visits(practice.lease, practice.at(200))
    assert [row.id for row in practice.rows("SELECT id FROM poller.visit")] == ["e3"]


def test_a_visit_that_moves_to_long_ago_or_is_deleted_is_forgotten(practice: Practice, store: PlanningStore) -> None:
    for id_ in ("e1", "e2"):
        practice.read(encounter(practice, id_), target=ENCOUNTERS)
    practice.read(encounter(practice, "e1", practice.at(0) - dt.timedelta(days=30)), target=ENCOUNTERS)
    assert [visit.id for visit in visits(store, practice)] == ["e2"]
    practice.whole(encounter(practice, "e1", practice.at(0) - dt.timedelta(days=30)), target=ENCOUNTERS)
    (absence,) = practice.deletes.due("p1")
    practice.confirm(absence)
    assert visits(store, practice) == []


def test_a_crash_leaves_neither_the_version_nor_its_visit(practice: Practice, store: PlanningStore) -> None:
    class CrashError(Exception):
        pass

    def crash(_connection: object) -> None:
        raise CrashError

    with pytest.raises(CrashError), practice.at_next_commit(crash):
        practice.read(encounter(practice), target=ENCOUNTERS)
    assert visits(store, practice) == []
    assert practice.live() == []


def test_what_was_learned_is_kept_under_the_lease(practice: Practice, store: PlanningStore) -> None:
    assert store.load("p1") is None
    store.save(practice.lease, {"rates": {"Observation": 0.5}}, practice.at(1))
    store.save(practice.lease, {"rates": {"Observation": 0.25}}, practice.at(2))
    assert store.load("p1") == {"rates": {"Observation": 0.25}}
    successor = practice.keeper.take("p1")
    with pytest.raises(LeaseLost):
        store.save(practice.lease, {}, practice.at(3))
    with pytest.raises(LeaseLost):
        store.forget_visits(practice.lease, practice.at(3))
    store.save(successor, {"rates": {}}, practice.at(4))
    assert store.load("p1") == {"rates": {}}
