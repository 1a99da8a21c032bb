"""Surveys are kept: the latest is in force, with what earlier ones knew of other types; no more than some are kept."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest

from poller.core.capability import Finding, PracticeReport, TokenReport, TypeReport, conclude
from poller.core.model import Strategy
from poller.core.refusals import Why
from poller.errors import LeaseLost
from poller.store.engine import ENGINE, open_engine
from poller.store.probes import KEPT, ProbeStore
from poller.store.repository import Lease
from tests.integration.conftest import Practice

T0 = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)


def report(second: int, *types: str, **findings: Any) -> PracticeReport:
    at = T0 + dt.timedelta(seconds=second)
    found = {name: conclude(TypeReport(name, at, None, Why.READABLE, **findings)) for name in types}
    return PracticeReport(at, TokenReport(granted=True, scopes=("system/*.read",)), types=found)


@pytest.fixture
def practice(database_url: str) -> Iterator[Practice]:
    engine = open_engine(database_url, ENGINE)
    made = Practice(engine)
    yield made
    made.keeper.close()
    engine.dispose()


def test_the_latest_is_in_force_and_the_types_it_did_not_ask_about_stay(practice: Practice) -> None:
    store = ProbeStore(practice.engine)
    assert store.latest(practice.code) is None
    store.save(practice.lease, report(1, "Observation", "Coverage", by_patient=Finding.YES))
    store.save(practice.lease, report(2, "Observation", whole=Finding.YES))
    latest = store.latest(practice.code)
    assert latest is not None
    assert latest.probed_at == T0 + dt.timedelta(seconds=2)
    assert {name: one.offers for name, one in latest.types.items()} == {
        "Observation": (Strategy.SWEEP,),
        "Coverage": (Strategy.PATIENT,),
    }
    assert latest.types["Coverage"].probed_at == T0 + dt.timedelta(seconds=1)
    assert store.latest("other") is None


def test_a_poller_that_lost_the_practice_saves_nothing_and_a_person_may_ask_at_any_time(practice: Practice) -> None:
    store = ProbeStore(practice.engine)
    with pytest.raises(LeaseLost):
        store.save(Lease(practice.code, practice.lease.epoch - 1), report(1, "Observation"))
    assert store.latest(practice.code) is None
    assert store.save_asked(practice.code, report(2, "Observation")).by == "operator"
    latest = store.latest(practice.code)
    assert latest is not None
    assert latest.by == "operator"


def test_no_more_than_some_are_kept(practice: Practice) -> None:
    store = ProbeStore(practice.engine)
    store.save_asked("other", report(0, "Observation"))
    for second in range(KEPT + 3):
        store.save(practice.lease, report(second, "Observation"))
    kept = practice.rows(
        "SELECT practice, count(*) AS n, min(probed_at) AS first FROM poller.probe GROUP BY practice ORDER BY 1"
    )
    assert [(row.practice, row.n) for row in kept] == [("other", 1), (practice.code, KEPT)]
    assert kept[1].first == T0 + dt.timedelta(seconds=3)


def test_what_another_release_wrote_and_this_one_does_not_understand_counts_for_nothing(practice: Practice) -> None:
    store = ProbeStore(practice.engine)
    store.save(practice.lease, report(1, "Observation"))
    with practice.engine.begin() as connection:
        connection.exec_driver_sql("""UPDATE poller.probe SET report = '{"probed_at": "soon"}'""")
    assert store.latest(practice.code) is None
    store.save(practice.lease, report(2, "Coverage"))
    latest = store.latest(practice.code)
    assert latest is not None
    assert set(latest.types) == {"Coverage"}
