"""Promises that are kept, minutes of bulk edits, aims, and forecasts."""

from __future__ import annotations

import zoneinfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.core.planner import Lane, Planner, Row
from poller.core.planner.deadlines import ACCEPTED, work_until
from poller.core.planner.steering import MOST

ZONE = zoneinfo.ZoneInfo("America/New_York")
NOW = 1_795_698_000.0
HOUR = 3600.0
RATE = 60.0


@settings(max_examples=6, deadline=None)
@given(
    st.integers(1, 3),
    st.floats(0.2, ACCEPTED),
    st.sampled_from(["even", "bunched", "visits"]),
    st.integers(0, 2**32 - 1),
)
def test_what_was_accepted_is_kept(limits: int, load: float, how: str, seed: int) -> None:
    """For any accepted load: rows of several limits, also if all were read at once, also if visits ask for everything else."""
    rng = np.random.default_rng(seed)
    hours = rng.uniform(0.15, 0.5, limits)
    rows, deadlines = [], []
    for number, limit in enumerate(hours):
        count = max(1, int(load / limits * RATE / 60 * limit * HOUR))
        ago = np.full(count, 0.15 * limit * HOUR) if how == "bunched" else rng.random(count) * 0.8 * limit * HOUR
        rows += [
            Row(
                f"{number}/{place}",
                ("Condition",),
                (f"p{place}",),
                max_staleness=limit * HOUR,
                last=NOW - float(ago[place]),
            )
            for place in range(count)
        ]
        deadlines += [limit * HOUR] * count
    planner = Planner(zone=ZONE, calls_per_minute=RATE, signal=True)
    planner.add(rows, NOW)
    planner.add([Row(f"free/{place}", ("Encounter",), (f"p{place}",), last=NOW) for place in range(50)], NOW)
    if how == "visits":
        for place in range(50):
            planner.note_visit(f"p{place}", NOW, "AMB", "in-progress", NOW)
    last = {row.key: row.last or 0.0 for row in rows}
    limit_of = dict(zip(last, deadlines, strict=True))
    for second in range(0, int(2.2 * max(hours) * HOUR), 10):
        now = NOW + second
        for choice in planner.choose(now, int(RATE / 60 * 10)):
            if choice.key in last:
                assert now - last[choice.key] <= limit_of[choice.key]
                last[choice.key] = now
            planner.note_pass(choice.key, now, {})
        if second % 600 == 0:
            assert all(now - last[key] <= limit_of[key] for key in last)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(1e3, 1e5)), min_size=1, max_size=50), st.floats(0.01, 2))
def test_the_work_that_cannot_wait_grows_with_the_horizon_and_covers_what_is_due(
    rows: list[tuple[float, float]], rate: float
) -> None:
    due, limit = (np.array(column) for column in zip(*rows, strict=True))
    cost = np.ones(len(rows))
    near, far = (work_until(due, cost, limit, rate, horizon) for horizon in (600.0, 6000.0))
    assert near <= far + 1e-9
    assert far >= (due <= 6000 - due.max() / 512).sum()


def test_a_migration_teaches_nothing() -> None:
    planner = Planner(zone=ZONE, calls_per_minute=600, signal=True)
    planner.add([Row(f"c/{place}", ("Condition",), (f"p{place}",), last=NOW) for place in range(2000)], NOW)
    kind = planner.type_number("Condition")
    before = planner.knowledge().rate[kind]
    now = NOW + HOUR
    planner.choose(now, 1)
    for place in range(500):  # all of it within a minute
        planner.note_pass(f"c/{place}", now + place / 10, {"Condition": 10})
    planner.learn(now + 600)
    assert planner.knowledge().rate[kind] <= before
    assert not planner.state()["patients"]


def test_without_a_signal_encounters_weigh_more() -> None:
    planner = Planner(zone=ZONE, calls_per_minute=60, weights={"Encounter": 2.0})
    planner.add([Row("e", ("Encounter",), ("p",), last=NOW)], NOW)
    assert planner.knowledge().weights.tolist() == [6.0]
    planner.set_signal(known=True)
    planner.choose(NOW, 1)
    assert planner.knowledge().weights.tolist() == [2.0]


def test_an_aim_that_is_missed_weighs_more_day_by_day_and_never_without_bound() -> None:
    planner = Planner(zone=ZONE, calls_per_minute=60, aims={"Observation": 600.0})
    assert planner.correct({"Observation/laboratory": 600.0, "Condition": 9e9}) == {}
    weights = [planner.correct({"Observation/laboratory": 3000.0})["Observation/laboratory"] for _ in range(30)]
    assert weights[0] < 1.5
    assert weights == sorted(weights)
    assert weights[-1] == MOST
    assert planner.correct({"Observation/laboratory": 60.0})["Observation/laboratory"] < MOST


@pytest.mark.parametrize("count", [3, 200])
def test_a_first_load_leaves_something_for_what_is_read_already(count: int) -> None:
    planner = Planner(zone=ZONE, calls_per_minute=60, signal=True)
    planner.add([Row(f"old/{place}", ("Encounter",), (f"p{place}",), last=NOW - HOUR) for place in range(300)], NOW)
    planner.add([Row(f"new/{place}", ("Goal",), (f"q{place}",)) for place in range(5000)], NOW)
    lanes = [choice.lane for tick in range(20) for choice in planner.choose(NOW + tick, count)]
    assert 0.5 < lanes.count(Lane.FIRST) / len(lanes) < 0.9


@pytest.mark.parametrize("cpm", [20.0, 80.0])
def test_a_forecast_spends_the_budget_and_halves_delays_for_twice_of_it(cpm: float) -> None:
    planner = Planner(zone=ZONE, calls_per_minute=cpm, signal=True)
    planner.add([Row(f"c/{place}", ("Condition",), (f"p{place}",), last=NOW) for place in range(3000)], NOW)
    known, twice = planner.forecast(), planner.forecast(2 * cpm)
    assert known.total.calls_per_minute == pytest.approx(cpm, rel=0.01)
    assert twice.total.mean == pytest.approx(known.total.mean / 2, rel=0.05)
    assert known.total.p50 < known.total.p95 <= known.total.worst
