"""The benchmark of the planner runs, its bound is one, and its gates can be missed."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pytest

from tests.benchmarks import schedule
from tests.benchmarks.schedule_bound import _integral, cheapest
from tests.benchmarks.schedule_wide import practice_wide


def test_it_runs_and_ours_is_better_than_a_sweep() -> None:
    options = argparse.Namespace(
        quick=True,
        patients=100,
        calls=250.0,
        arms="uniform,signal,bound",
        world="clinic",
        stress=False,
        wide=False,
        json=True,
    )
    found = schedule.run(1, options)
    assert found["signal"]["mean"] < found["uniform"]["mean"]
    assert found["signal"]["types"].keys() == found["uniform"]["types"].keys()
    assert found["bound"]["mean"] > 0
    assert set(schedule.ratios(found)) == {"signal / bound", "uniform / signal"}


@pytest.mark.parametrize(
    ("name", "met", "missed"),
    [(name, value, value + 1) for name, (way, value) in schedule.GATES.items() if way == "at most"],
)
def test_a_gate_is_missed_by_the_median_alone(name: str, met: float, missed: float) -> None:
    assert schedule.judged([{name: met}, {name: met}, {name: missed}])[name]["met"]
    assert not schedule.judged([{name: met}, {name: missed}, {name: missed}])[name]["met"]


def test_the_bound_s_shortest_path_is_the_least_of_all_schedules() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        times = np.cumsum(rng.random(30)) * 100
        first = np.cumsum(rng.random(30) ** 3)
        second, price = _integral(times, first), rng.random(30) * 300
        least = [0.0]
        for place in range(1, 30):
            waits = [
                least[last] + second[place] - second[last] - first[last] * (times[place] - times[last])
                for last in range(place)
            ]
            least.append(min(waits) + (price[place] if place < 29 else 0.0))
        assert cheapest(times, first, second, price)[0] == pytest.approx(least[-1])


def test_practice_wide_is_as_fast_as_the_budget_allows() -> None:
    found: dict[str, Any] = practice_wide(1, 0.01)
    assert found["planner"]["p95"] <= 1.2 * found["limit"]
    assert found["every 5m"]["p50"] > 10 * found["planner"]["p50"]
