"""What the planner chooses: the index, its lanes, and what it never does."""

from __future__ import annotations

import json
import zoneinfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.core.planner import Lane, Planner, Row

ZONE = zoneinfo.ZoneInfo("America/New_York")
NOW = 1_795_698_000.0  # 2026-11-26, a Thursday
HOUR = 3600.0
DAY = 24 * HOUR
TYPES = ("Encounter", "Observation/laboratory", "DocumentReference", "AllergyIntolerance")


def practice(
    patients: int = 20, *, calls_per_minute: float = 60.0, last: float | None = NOW - HOUR, limit: float | None = None
) -> Planner:
    planner = Planner(zone=ZONE, calls_per_minute=calls_per_minute, signal=True)
    planner.add(
        [
            Row(f"{kind}/p{patient}", (kind,), (f"p{patient}",), last=last, max_staleness=limit)
            for patient in range(patients)
            for kind in TYPES
        ],
        NOW,
    )
    return planner


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 200), st.sets(st.integers(0, 19)), st.sampled_from([None, 2 * HOUR]))
def test_no_choice_is_under_way_or_twice_there(count: int, busy: set[int], limit: float | None) -> None:
    planner = practice(limit=limit)
    under_way = {f"Encounter/p{patient}" for patient in busy}
    chosen = [choice.key for choice in planner.choose(NOW, count, under_way)]
    assert len(chosen) == len(set(chosen)) == min(count, 80 - len(busy))
    assert not under_way & set(chosen)


@pytest.mark.parametrize("last", [None, NOW - HOUR])
def test_every_row_is_read_in_the_end(last: float | None) -> None:
    planner = practice(last=last)
    read = set()
    for second in range(400):
        for choice in planner.choose(NOW + second, 1):
            planner.note_pass(choice.key, NOW + second, {})
            read.add(choice.key)
    assert len(read) == len(planner) == 80


def test_a_patient_who_was_just_here_is_read_first() -> None:
    planner = practice()
    planner.choose(NOW, 1)
    planner.note_visit("p7", NOW - HOUR, "AMB", "finished", NOW, "e1")
    chosen = planner.choose(NOW, 3)
    assert {choice.key.rpartition("/")[2] for choice in chosen} == {"p7"}
    planner.note_visit("p7", NOW - HOUR, "AMB", "cancelled", NOW, "e1")
    assert {choice.key.rpartition("/")[2] for choice in planner.choose(NOW, 3)} != {"p7"}


def test_who_has_come_is_read_sooner_long_after_the_visit_too() -> None:
    planner = practice()
    planner.choose(NOW, 1)
    planner.note_visit("p7", NOW - HOUR, "AMB", "finished", NOW, "e1")
    later = NOW + 30 * DAY
    planner.learn(later)
    for patient in range(20):
        for kind in TYPES:
            planner.note_pass(f"{kind}/p{patient}", later, {})
    first, *_ = planner.choose(later + 2 * HOUR, 1)
    assert first.key.endswith("/p7")


def test_a_new_patient_does_not_wait_for_what_goes_on() -> None:
    planner = practice(200)
    planner.choose(NOW, 4)
    planner.add([Row("Encounter/new", ("Encounter",), ("new",))], NOW)
    assert planner.choose(NOW + 1, 4)[0] == ("Encounter/new", Lane.FIRST)


def test_a_row_is_not_begun_twice_within_a_second() -> None:
    planner = Planner(zone=ZONE, calls_per_minute=200)
    planner.add([Row("w", ("Condition",), None, last=NOW - 5)], NOW)
    assert planner.choose(NOW, 3) == [("w", Lane.INDEX)]
    planner.note_pass("w", NOW, {})
    assert planner.choose(NOW + 0.5, 3) == []
    assert planner.choose(NOW + 1.5, 3) == [("w", Lane.INDEX)]


def test_a_state_goes_through_json_and_chooses_the_same() -> None:
    planner = practice(50)
    for patient in range(0, 50, 3):
        planner.note_visit(f"p{patient}", NOW - patient * HOUR, "AMB", "finished", NOW, f"e{patient}")
    rng = np.random.default_rng(1)
    for second in range(300):
        for choice in planner.choose(NOW + second, 1):
            kind = choice.key.rpartition("/")[0]
            planner.note_pass(choice.key, NOW + second, {kind: 1} if rng.random() < 0.3 else {})
    planner.learn(NOW + 301)
    rows = planner.rows
    again = Planner.restore(json.loads(json.dumps(planner.state())), zone=ZONE, calls_per_minute=60, signal=True)
    again.add(
        [
            Row(key, (key.rpartition("/")[0],), (key.rpartition("/")[2],), last=float(rows.last[number]))
            for key, number in rows.numbers.items()
        ],
        NOW + 301,
    )
    assert again.choose(NOW + 302, 60) == planner.choose(NOW + 302, 60)


def test_a_pass_may_end_before_anything_was_chosen() -> None:
    """A schedule owed it, or a person asked for it."""
    planner = Planner(zone=ZONE, calls_per_minute=60.0)
    planner.add([Row("all/p1", TYPES, ("p1",), last=NOW - HOUR)], NOW)
    planner.note_pass("all/p1", NOW, {"Encounter": 1})
    assert [choice.key for choice in planner.choose(NOW + HOUR, 1)] == ["all/p1"]
