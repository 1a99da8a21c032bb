"""Lanes share calls in the configured parts, whoever waits when, and whatever a pass costs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.core.lanes import MEMORY, SHARED, Lane, charge, parts_of, places, turn

orders = st.permutations([lane.value for lane in SHARED])
costs = st.fixed_dictionaries({lane: st.integers(1, 20) for lane in SHARED})


def test_what_gives_way_first_has_the_smallest_part() -> None:
    parts = parts_of(["backfill", "reconcile", "index"])
    assert parts[Lane.BACKFILL] < parts[Lane.RECONCILE] < parts[Lane.INDEX]
    assert sum(parts.values()) == pytest.approx(1.0)


@settings(deadline=None)
@given(orders, costs, st.sets(st.sampled_from(SHARED), min_size=1))
def test_who_waits_gets_its_part_of_the_calls(order: list[str], cost: dict[Lane, int], waiting: set[Lane]) -> None:
    parts = parts_of(order)
    spent: dict[Lane, float] = {}
    had = dict.fromkeys(SHARED, 0)
    for _ in range(1500):
        lane = turn(spent, parts, waiting)
        assert lane is not None
        spent = charge(spent, lane, cost[lane])
        had[lane] += cost[lane]
    whole = sum(parts[lane] for lane in waiting)
    for lane in waiting:
        assert had[lane] / sum(had.values()) == pytest.approx(parts[lane] / whole, abs=0.08)


@settings(deadline=None)
@given(orders, st.sampled_from(SHARED), st.integers(1, 2000))
def test_who_had_nothing_to_read_saves_up_no_more_than_a_burst(order: list[str], idle: Lane, length: int) -> None:
    parts = parts_of(order)
    spent: dict[Lane, float] = {}
    for _ in range(length):
        lane = turn(spent, parts, set(SHARED) - {idle})
        assert lane is not None
        spent = charge(spent, lane, 1)
    burst = 0
    while turn(spent, parts, SHARED) is idle:
        spent = charge(spent, idle, 1)
        burst += 1
    assert burst <= -MEMORY * math.log(1 - parts[idle]) + 1


def test_nobody_waits_and_nobody_has_a_turn() -> None:
    assert turn({}, parts_of([lane.value for lane in SHARED]), ()) is None


def test_every_lane_has_a_place() -> None:
    assert places(0.2, 12) == 2
    assert places(0.2, 1) == 1
