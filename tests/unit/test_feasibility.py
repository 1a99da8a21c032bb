"""What is accepted can be kept, what is refused is told a value that is then accepted, and defaults give way without being asked."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.core.feasibility import KEPT, LONGEST, PROMISED, UNASKED, Ask, Load, Part, Verdict, weigh

RATE = 241.25
HOUR = 3600.0
FEEDS = ("Condition", "DiagnosticReport", "Encounter", "Observation")


def load(
    feed: str, rows: float, *, every: float | None = None, staleness: float | None = None, said: bool = True
) -> Load:
    return Load((Ask(Part(feed), every, staleness, said and staleness is not None),), rows, 1.0)


def test_a_promise_that_is_too_much_is_told_what_it_costs_and_what_would_fit() -> None:
    verdict = weigh(
        [load("Observation", 510_000, staleness=72 * HOUR), load("Condition", 43_200, staleness=12 * HOUR)],
        RATE,
        30_000,
    )
    (refused,) = verdict.refused
    assert (refused.feed, refused.key, refused.asked) == ("Observation", "staleness", 72 * HOUR)
    assert refused.costs == pytest.approx(118, abs=0.1)
    assert refused.part == PROMISED
    assert refused.taken == pytest.approx(60)
    assert refused.fits == 79 * HOUR
    assert refused.patients == 28_000
    assert verdict.accepted[Part("Observation")] == refused.fits


def test_a_schedule_that_is_too_much_is_told_so() -> None:
    verdict = weigh([load("Observation", 21_000, every=HOUR), load("Condition", 3_000, every=HOUR)], RATE, 3_000)
    (refused,) = verdict.refused
    assert (refused.feed, refused.key, refused.part) == ("Observation", "interval", KEPT)
    assert (refused.costs, refused.taken) == (350, 50)
    assert refused.fits == 130 * 60, "rounded up to what a person would write"
    assert refused.patients == 1_600


def test_what_no_schedule_could_carry_says_so() -> None:
    full = KEPT * RATE * 60
    verdict = weigh([load("Condition", full, every=HOUR), load("Observation", 10, staleness=HOUR)], RATE, 0)
    (refused,) = verdict.refused
    assert (refused.feed, refused.fits, refused.patients) == ("Observation", None, None)
    assert verdict.accepted[Part("Observation")] is None


def test_a_schedule_keeps_its_own_promise() -> None:
    both = Load((Ask(Part("Observation"), HOUR, 24 * HOUR, said=True),), 10_000, 1.0)
    verdict = weigh([both], RATE, 10_000)
    assert not verdict.refused
    assert verdict.promised == 0


def test_defaults_are_relaxed_together_and_what_was_said_is_not() -> None:
    loads = [
        load("DiagnosticReport", 120_000, staleness=24 * HOUR, said=False),
        load("Condition", 360_000, staleness=72 * HOUR, said=False),
        load("Encounter", 30_000, staleness=24 * HOUR),
    ]
    verdict = weigh(loads, RATE, 30_000)
    assert not verdict.refused
    assert verdict.accepted[Part("Encounter")] == 24 * HOUR
    reports, others = verdict.accepted[Part("DiagnosticReport")], verdict.accepted[Part("Condition")]
    assert reports is not None
    assert others is not None
    assert reports > 24 * HOUR
    assert others / reports == pytest.approx(3, rel=0.05)
    assert verdict.promised == pytest.approx(UNASKED * RATE, rel=0.05)
    assert verdict.promised <= UNASKED * RATE


def test_defaults_that_fit_stay_as_they_are() -> None:
    verdict = weigh([load("Condition", 3_000, staleness=72 * HOUR, said=False)], RATE, 3_000)
    assert (verdict.relaxed, verdict.accepted) == (1.0, {Part("Condition"): 72 * HOUR})


def test_where_nothing_is_left_there_is_no_default_promise() -> None:
    full = KEPT * RATE * 60
    verdict = weigh([load("Encounter", full, every=HOUR), load("Condition", 9, staleness=HOUR, said=False)], RATE, 9)
    assert (verdict.relaxed, verdict.accepted, verdict.refused) == (math.inf, {Part("Condition"): None}, ())


def test_what_one_search_reads_is_paid_for_once() -> None:
    asks = tuple(Ask(Part(feed), staleness=24 * HOUR * place, said=True) for place, feed in enumerate(FEEDS, 1))
    verdict = weigh([Load(asks, 30_000, 1.0)], RATE, 30_000)
    assert verdict.promised == pytest.approx(30_000 / 1440)
    loads = [Load((Ask(Part("Encounter"), HOUR), *asks[:2]), 30_000, 1.0)]
    assert {one.feed for one in weigh(loads, RATE, 30_000).refused} == {"Encounter"}


def test_closed_hours_leave_less_room() -> None:
    half = Load(
        (Ask(Part("Condition"), staleness=24 * HOUR, said=True, open_in=lambda seconds: seconds / 2),), 120_000, 1.0
    )
    assert weigh([half], RATE, 30_000).promised == pytest.approx(120_000 / 720)


parts = st.sampled_from(FEEDS)
spans = st.floats(60, 30 * 24 * HOUR)


@st.composite
def practices(draw: st.DrawFn) -> list[Load]:
    """Loads as a configuration can have them: each feed by searches of its own, or some of them together in one search."""
    feeds = draw(st.lists(parts, min_size=1, unique=True))
    together = draw(st.sets(st.sampled_from(feeds)))
    asks: dict[str, list[Ask]] = {}
    for feed in feeds:
        exact = draw(st.none() | spans)
        said = draw(st.booleans())
        staleness = draw(spans) if said or exact is None else None
        if exact is not None and staleness is not None:
            staleness = max(staleness, exact)
        part_of_time = draw(st.sampled_from([1.0, 0.3]))
        categories = draw(st.sampled_from([(None,), ("laboratory", "exam")])) if feed not in together else (None,)
        asks[feed] = [
            Ask(
                Part(feed, category),
                exact,
                staleness,
                said and staleness is not None,
                functools.partial(operator.mul, part_of_time),
            )
            for category in categories
        ]
    patients = draw(st.integers(1, 40_000))
    alone = [
        Load((ask,), patients, draw(st.sampled_from([1.0, 1.5])), True)
        for feed in feeds
        if feed not in together
        for ask in asks[feed]
    ]
    shared = [Load(tuple(ask for feed in sorted(together) for ask in asks[feed]), patients, 2.0)] if together else []
    wide = [Load((Ask(Part("Patient"), 3600.0),), 1, draw(st.floats(1, 50)), False)]
    return [*alone, *shared, *draw(st.sampled_from([wide, []]))] or wide


def followed(loads: Sequence[Load], verdict: Verdict) -> list[Load]:
    """The same with what every refusal says would fit."""
    told = {(one.feed, one.key): one.fits for one in verdict.refused}

    def ask(one: Ask) -> Ask:
        interval = told.get((one.part.feed, "interval"), one.interval)
        staleness = told.get((one.part.feed, "staleness"), one.staleness) if one.said else one.staleness
        return replace(one, interval=interval, staleness=staleness, said=one.said and staleness is not None)

    return [replace(each, asks=tuple(map(ask, each.asks))) for each in loads]


@settings(max_examples=50)
@given(practices(), st.floats(10, 5000))
def test_who_writes_what_would_fit_is_accepted(loads: list[Load], rate: float) -> None:
    verdict = weigh(loads, rate, 100)
    if all(one.fits is not None for one in verdict.refused):
        after = weigh(followed(loads, verdict), rate, 100)
        assert not after.refused
        assert after.exact <= KEPT * rate * (1 + 1e-6)
        assert after.promised <= PROMISED * rate * (1 + 1e-6)
        assert after.exact + after.promised <= KEPT * rate * (1 + 1e-6)
    assert all(one.fits is None or one.asked < one.fits <= LONGEST * 1.01 for one in verdict.refused)


@settings(max_examples=50)
@given(practices(), st.floats(10, 5000), st.integers(1, 40_000))
def test_for_as_many_patients_as_a_refusal_names_all_would_be_accepted(
    loads: list[Load], rate: float, patients: int
) -> None:
    for refused in weigh(loads, rate, patients).refused:
        if refused.patients is not None:
            assert refused.patients <= patients
            fewer = [
                replace(each, rows=each.rows * refused.patients / patients) if each.by_patient else each
                for each in loads
            ]
            assert not weigh(fewer, rate, refused.patients).refused


@settings(max_examples=50)
@given(practices(), st.floats(10, 5000))
def test_more_calls_never_make_a_refusal(loads: list[Load], rate: float) -> None:
    refused = {(one.feed, one.key) for one in weigh(loads, rate, 100).refused}
    richer = weigh(loads, rate * 1.5, 100)
    if not refused:
        assert not richer.refused
    assert richer.relaxed <= weigh(loads, rate, 100).relaxed * (1 + 1e-5) or refused


@settings(max_examples=50)
@given(practices(), st.floats(10, 5000))
def test_a_default_never_makes_a_refusal_and_never_becomes_shorter(loads: list[Load], rate: float) -> None:
    verdict = weigh(loads, rate, 100)
    unasked = {ask.part for each in loads for ask in each.asks if not ask.said and ask.staleness is not None}
    silent = [
        replace(each, asks=tuple(ask if ask.said else replace(ask, staleness=None) for ask in each.asks))
        for each in loads
    ]
    assert weigh(silent, rate, 100).refused == verdict.refused
    for each in loads:
        for ask in each.asks:
            held = verdict.accepted.get(ask.part)
            if ask.part in unasked and held is not None and ask.staleness is not None:
                assert held >= ask.staleness
