"""What an Encounter tells of a visit, whatever it looks like."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.core.visits import REMEMBERED, Visit, is_remembered, visit_of

NOON = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)
ENCOUNTER: dict[str, Any] = {
    "resourceType": "Encounter",
    "id": "e1",
    "status": "planned",
    "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
    "period": {"start": "2026-11-26T07:00:00-05:00"},
}

json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30) | st.sampled_from(["2026-11-26", "0001-01-01T00:00:00+14:00"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["start", "code", "coding", "end"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def test_a_visit_counts_from_its_start() -> None:
    assert visit_of(ENCOUNTER, "p1") == Visit("e1", "p1", NOON, "AMB", "planned")


def test_a_day_alone_is_its_noon() -> None:
    visit = visit_of(ENCOUNTER | {"period": {"start": "2026-11-26"}}, "p1")
    assert visit is not None
    assert visit.start == NOON


def test_the_class_of_a_newer_release_is_understood() -> None:
    visit = visit_of(ENCOUNTER | {"class": [{"coding": [{"code": "vr"}]}]}, "p1")
    assert visit is not None
    assert visit.kind == "VR"


@pytest.mark.parametrize(
    "change",
    [
        {"resourceType": "Observation"},
        {"period": {}},
        {"period": None},
        {"period": {"start": "soon"}},
        {"period": {"start": "2026-11-26T07:00:00"}},
        {"id": None},
        {"id": "x" * 300},
    ],
)
def test_what_tells_of_no_visit_is_none(change: dict[str, Any]) -> None:
    assert visit_of(ENCOUNTER | change, "p1") is None


def test_a_visit_of_nobody_known_is_none() -> None:
    assert visit_of(ENCOUNTER, None) is None


@pytest.mark.parametrize("status", ["cancelled", "entered-in-error", "noshow"])
def test_of_a_visit_that_never_took_place_nothing_is_expected(status: str) -> None:
    visit = visit_of(ENCOUNTER | {"status": status}, "p1")
    assert visit is not None
    assert not visit.takes_place


def test_a_visit_is_forgotten_after_some_days_and_remembered_ahead() -> None:
    visit = Visit("e1", "p1", NOON, "AMB", "finished")
    assert is_remembered(visit, NOON - dt.timedelta(days=90))
    assert is_remembered(visit, NOON + REMEMBERED - dt.timedelta(seconds=1))
    assert not is_remembered(visit, NOON + REMEMBERED)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["id", "status", "class", "period"]), json_like))
def test_no_encounter_is_too_odd(odd: dict[str, Any]) -> None:
    visit = visit_of({"resourceType": "Encounter"} | odd, "p1")
    assert visit is None or visit.start.tzinfo is dt.UTC
