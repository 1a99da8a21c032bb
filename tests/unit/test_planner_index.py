"""The index against its definition, the week's clock, and what learning comes to."""

from __future__ import annotations

import datetime as dt
import math
import zoneinfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.core.planner import prior
from poller.core.planner.index import Index
from poller.core.planner.kernels import Kernels
from poller.core.planner.learning import FADE, Learned, censored_rate
from poller.core.planner.prior import DAY, EDGES, HOUR
from poller.core.planner.rows import Row, Rows
from poller.core.planner.visits import Visit, Visits
from poller.core.planner.week import Week, hour_of_week

ZONE = zoneinfo.ZoneInfo("America/New_York")
NOW = 1_795_698_000.0
TYPES = ("Encounter", "Observation/laboratory")


def built(last: float, visits: list[float], *, now: float = NOW, cost: float = 1.0, wide: bool = False) -> Index:
    rows, known, learned = Rows(), Visits(), Learned()
    for name in TYPES:
        learned.type_number(name)
    rows.add([Row("row", TYPES, None if wide else ("p",), cost=cost, last=last)], now)
    patient = rows.patient_number("p")
    for place, start in enumerate(visits):
        known.note(patient, str(place), Visit(start, place % 2))
    index = Index(rows, known, learned, ZONE)
    index.retune(np.array([3.0, 1.0]), now)
    return index


def by_hand(last: float, visits: list[float], now: float, cost: float) -> float:
    """The definition, summed over small steps."""
    step = 30.0
    at = np.arange(last, now, step) + step / 2
    week = prior.week()
    rate = np.zeros(len(at))
    for name, weight in zip(TYPES, (3.0, 1.0), strict=True):
        hours = np.array([hour_of_week(float(instant), ZONE) for instant in at])
        rate += weight * prior.of_type(name).background / DAY * week[hours]
        for place, start in enumerate(visits):
            kernel = prior.kernel(name, prior.CLASSES[place % 2]) / np.diff(EDGES)
            bins = np.searchsorted(EDGES, at - start, side="right") - 1
            within = (bins >= 0) & (bins < len(kernel))
            rate += weight * np.where(within, kernel[np.clip(bins, 0, len(kernel) - 1)], 0.0)
    return float((rate * (now - at)).sum() * step / cost)


@settings(max_examples=12, deadline=None)
@given(st.floats(0.05, 100), st.lists(st.floats(-2, 120), max_size=3), st.sampled_from([1.0, 4.0]), st.booleans())
def test_the_index_is_the_integral_that_defines_it(hours: float, visits: list[float], cost: float, wide: bool) -> None:
    last, starts = NOW - hours * HOUR, [NOW - ago * HOUR for ago in visits]
    index = built(last, starts, cost=cost, wide=wide)
    value = index.all_values(np.array([0]), NOW)[0][0]
    assert value == pytest.approx(by_hand(last, starts, NOW, cost), rel=0.02, abs=0.5)


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 50), st.lists(st.floats(-10, 120), max_size=3), st.floats(1, 3600))
def test_what_waits_never_becomes_worth_less(hours: float, visits: list[float], later: float) -> None:
    index = built(NOW - hours * HOUR, [NOW - ago * HOUR for ago in visits])
    row = np.array([0])
    value, slope, rate = (float(part[0]) for part in index.all_values(row, NOW))
    after = float(index.all_values(row, NOW + later)[0][0])
    assert 0 <= value <= after * (1 + 1e-9) + 1e-9
    assert slope >= 0
    assert rate >= 0
    longer = built(NOW - (hours + 1) * HOUR, [NOW - ago * HOUR for ago in visits])
    assert float(longer.all_values(row, NOW)[0][0]) >= value - 1e-6


def test_between_two_looks_the_hot_set_has_the_index_of_then() -> None:
    index = built(NOW - HOUR, [NOW - HOUR])
    index.rank_all(NOW, 1.0)
    assert index.best(NOW + 200, 1, np.zeros(0, dtype=np.int64)) == [0]
    assert index.price == pytest.approx(float(index.all_values(np.array([0]), NOW + 200)[0][0]), rel=0.02)


@pytest.mark.parametrize("day", ["2026-03-08", "2026-11-01", "2026-06-10"])
def test_the_week_follows_the_wall_clock_when_clocks_are_changed(day: str) -> None:
    profile = np.zeros(168)
    profile[6 * 24 + 12 :: 168] = 168.0  # all life is on Sundays from 12 to 13
    noon = dt.datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=ZONE).timestamp()
    week = Week(profile, ZONE, noon)
    sunday = dt.date.fromisoformat(day).weekday() == 6
    assert float(week.first(noon + HOUR) - week.first(noon)) == pytest.approx(168 * HOUR if sunday else 0)
    assert float(week.first(noon) - week.first(noon - 6 * HOUR)) == 0


@settings(max_examples=50, deadline=None)
@given(st.floats(-50 * DAY, 20 * DAY), st.floats(0, 3 * DAY))
def test_the_week_s_integrals_are_those_of_its_profile(offset: float, length: float) -> None:
    week = Week(prior.week(), ZONE, NOW)
    since = NOW + offset
    at = np.linspace(since, since + length, 2000)
    middles = (at[1:] + at[:-1]) / 2
    life = float((week.c(middles) * np.diff(at)).sum())
    assert float(week.first(since + length) - week.first(since)) == pytest.approx(life, rel=0.02, abs=60)
    for exact, quick in zip((week.c(since), week.first(since), week.second(since)), week.instant(since), strict=True):
        assert quick == pytest.approx(float(exact))


def test_a_kernel_s_tables_add_up_to_what_a_visit_brings() -> None:
    expected = np.stack([[prior.kernel(name, visit_class) for name in TYPES] for visit_class in prior.CLASSES])
    tables = Kernels(expected)
    _, first, _ = tables.integrals(np.array([0, 1]), np.array([1, 0]), np.array([200 * HOUR, 200 * HOUR]))
    assert first == pytest.approx([expected[0, 1].sum(), expected[1, 0].sum()])


@settings(max_examples=20, deadline=None)
@given(st.floats(0.02, 4.0), st.floats(0.3, 3.0), st.integers(0, 2**32 - 1))
def test_whether_anything_was_found_tells_the_rate_also_where_much_is_missed(
    rate: float, days: float, seed: int
) -> None:
    """X/T would say 1 / days at the most, however much changes."""
    rng = np.random.default_rng(seed)
    intervals = rng.choice([days, days / 4], 4000)
    positive = rng.poisson(rate * intervals) > 0
    buckets = [intervals == days, intervals == days / 4]
    got, weight = censored_rate(
        np.array([part.sum() for part in buckets], dtype=float),
        np.array([positive[part].sum() for part in buckets], dtype=float),
        np.array([intervals[part].sum() for part in buckets]),
    )
    deviation = math.sqrt(rate / max(weight, 1e-9))
    assert got == pytest.approx(rate, abs=5 * deviation + 0.02 * rate)


def test_rates_go_from_the_prior_to_what_is_found_and_follow_a_change() -> None:
    learned = Learned()
    kind = learned.type_number("Observation/laboratory")
    rng = np.random.default_rng(3)
    assert learned.rate[kind] == prior.of_type("Observation/laboratory").background
    for truth in (0.03, 0.09):
        for _ in range(60):
            exposure = rng.uniform(0.2, 1.5, 400)
            learned.passes(np.full(400, kind), exposure)
            for index, changes in enumerate(rng.poisson(truth * exposure)):
                if changes:
                    learned.of_background(kind, float(exposure[index]), float(changes), 1.0)
            learned.learn(400, 1.0)
        assert learned.rate[kind] == pytest.approx(truth, rel=0.15)
    assert 0.9 < FADE < 1
