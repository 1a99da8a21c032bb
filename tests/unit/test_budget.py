from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poller.core import budget
from poller.core.budget import Bearing, Grant, Throttle, Waiting
from tests.gate_bench import most_within


@dataclass
class Book:
    """What the database does with a grant: after everything granted before, never before its own clock."""

    per_minute: float
    next_at: float = float("-inf")
    instants: list[float] = field(default_factory=list)

    def grant(self, count: int, now: float) -> Grant:
        spacing = budget.spacing(self.per_minute)
        start = max(self.next_at, now)
        self.next_at = start + count * spacing
        self.instants += [start + number * spacing for number in range(count)]
        return Grant(start - now, count, spacing)


limits = st.integers(1, 2_000)
shares = st.sampled_from([1.0, 0.8, 0.5, 0.25])


@given(limit=limits, share=shares, data=st.data())
def test_whatever_is_asked_and_used_no_more_than_the_limit_arrives_in_any_60_seconds(
    limit: int, share: float, data: st.DataObject
) -> None:
    """Any number of processes, each asking at any time, over any round trip, leaving at any moment of a permit's life, and up to a second
    of network: the bound holds for a closed interval of 60 seconds, however aligned.

    Broken on purpose: with PACE = 1.0, or LIFE = 2.0, Hypothesis finds a counterexample.
    """
    per_minute = budget.pace(limit, share)
    book = Book(per_minute)
    now, departures, arrivals = 0.0, [], []
    asks = st.tuples(
        st.floats(0, 3),
        st.integers(1, 4 * budget.block(per_minute)),
        st.floats(0, 0.9),
        st.floats(0, 1),
        st.floats(0, 1),
    )
    for pause, want, round_trip, lateness, jitter in data.draw(st.lists(asks, min_size=1, max_size=60)):
        now += pause
        at_database = now + round_trip * jitter
        grant = book.grant(min(want, budget.block(per_minute)), at_database)
        for number, permit in enumerate(
            budget.permits(grant, at_database, Bearing.of(at_database, now, now + round_trip))
        ):
            true_instant = at_database + grant.delay + number * grant.spacing
            assert permit.not_before >= true_instant - 1e-9, "never before its true instant"
            assert permit.not_after <= true_instant + budget.LIFE + 1e-9, "never later than its life"
            if permit.not_before <= permit.not_after:
                left = permit.not_before + (permit.not_after - permit.not_before) * lateness
                departures.append(left)
                arrivals.append(left + (jitter if number % 2 else 1 - jitter))
    ours = max(1, int(limit * share))
    assert most_within(60.0, departures) <= ours
    assert most_within(60.0, arrivals) <= ours


@given(limit=limits)
def test_the_worst_that_lateness_and_the_network_can_do_stays_within_the_limit(limit: int) -> None:
    """Permits used without a pause; a call that leaves and travels as late as it may, then 60 seconds of calls as early as they may."""
    spacing = budget.spacing(budget.pace(limit))
    instants = [number * spacing for number in range(2 * limit + 4)]
    assert most_within(60.0 + budget.LIFE + 1.0, instants) <= limit


@given(limit=st.integers(20, 100_000))
def test_the_pace_uses_at_least_95_percent_of_the_limit(limit: int) -> None:
    assert 60.0 / budget.spacing(budget.pace(limit)) >= 0.95 * limit


@given(limit=limits, share=shares)
def test_a_block_is_at_most_a_second_of_calls(limit: int, share: float) -> None:
    per_minute = budget.pace(limit, share)
    assert budget.block(per_minute) == 1 or budget.block(per_minute) * budget.spacing(per_minute) <= budget.BLOCK + 1e-3


@given(
    answered=st.datetimes(timezones=st.just(dt.UTC)),
    asked=st.none() | st.floats(0, 1e6),
)
def test_a_lock_out_reaches_past_the_turn_of_the_servers_minute(answered: dt.datetime, asked: float | None) -> None:
    ends = answered.replace(microsecond=0) + dt.timedelta(
        seconds=budget.lock_out(answered.replace(microsecond=0), asked)
    )
    turn = answered.replace(second=0, microsecond=0) + dt.timedelta(minutes=1)
    assert ends >= turn + dt.timedelta(seconds=budget.LOCK_OUT_MARGIN)
    assert budget.lock_out(answered, asked) <= budget.LONGEST_LOCK_OUT + budget.LOCK_OUT_MARGIN
    assert budget.lock_out(None) >= 60.0


def test_a_lock_out_in_the_last_second_is_short_and_one_in_the_first_a_whole_minute() -> None:
    late = dt.datetime(2026, 11, 22, 15, 4, 59, tzinfo=dt.UTC)
    assert budget.lock_out(late) == 1 + budget.LOCK_OUT_MARGIN
    assert budget.lock_out(late.replace(second=0)) == 60 + budget.LOCK_OUT_MARGIN
    assert budget.lock_out(late, 30) == 30 + budget.LOCK_OUT_MARGIN
    assert budget.lock_out_until(late, late) == late + dt.timedelta(seconds=3)


@given(
    exchanges=st.lists(st.tuples(st.floats(0.001, 100), st.floats(0, 5), st.floats(0, 1)), min_size=1, max_size=20),
    true=st.floats(-1e6, 1e6),
    drift=st.floats(-4e-4, 4e-4),
)
@example([(1.0, 1.0, 0.0), (1.0, 0.0, 0.0)], 0.0, -0.00028)
def test_a_bearing_always_holds_the_truth_and_only_gets_better(
    exchanges: list[tuple[float, float, float]], true: float, drift: float
) -> None:
    """The ledger's clock drifts, and its answers take any time there and back."""
    bearing, now, ahead = None, 0.0, true
    for pause, round_trip, part in exchanges:
        asked = now + pause
        at_ledger, answered = asked + round_trip * part, asked + round_trip
        ahead = true + drift * at_ledger
        seen = Bearing.of(at_ledger - ahead, asked, answered)
        if bearing is not None:
            assert bearing.ahead(seen) == pytest.approx(0, abs=1e-6), "nobody has set a clock"
            bearing = bearing.joined(seen)
        else:
            bearing = seen
        slack = 1e-3 + 1e-3 * round_trip
        assert bearing.low - slack <= ahead <= bearing.high + slack
        assert bearing.high - bearing.low <= round_trip * 1.002 + 1e-4
        now = answered


@given(
    round_trips=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    parts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    pause=st.floats(0, 100),
    step=st.floats(-1e6, 1e6).filter(lambda step: abs(step) > 1.1),
)
def test_a_bearing_shows_a_clock_that_was_set(
    round_trips: tuple[float, float], parts: tuple[float, float], pause: float, step: float
) -> None:
    first, second = round_trips
    before = Bearing.of(parts[0] * first, 0.0, first)
    asked = first + pause
    after = Bearing.of(asked + parts[1] * second + step, asked, asked + second)
    found = before.ahead(after)
    assert (found > 0) is (step > 0)
    assert (found < 0) is (step < 0)
    assert abs(found) <= abs(step) + 1e-6


@given(st.lists(st.tuples(st.floats(0, 7200), st.none() | st.floats(0, 60)), max_size=30))
def test_a_pace_stays_within_its_bounds_falls_with_refusals_only_and_comes_back(
    steps: list[tuple[float, float | None]],
) -> None:
    throttle = Throttle()
    for pause, left_ago in steps:
        waited = Throttle(throttle.part, throttle.since + pause)
        assert waited.now >= throttle.now
        throttle = waited.refused(left_ago) if left_ago is not None else waited
        assert budget.LEAST_PART <= throttle.now <= 1
        assert throttle.now == waited.now or throttle.now == max(budget.LEAST_PART, waited.now * budget.CUT)
    assert Throttle(throttle.part, throttle.since + 6000).now == 1.0


def test_a_refusal_that_left_before_the_cut_could_be_felt_cuts_nothing() -> None:
    cut = Throttle().refused(0.5)
    assert cut == Throttle(budget.CUT, 0.0)
    assert Throttle(cut.part, 10).refused(9) == Throttle(cut.part, 10)
    assert Throttle(cut.part, 10).refused(10 - budget.REACH - 0.1).part < cut.part


def test_a_limit_set_too_high_is_found_and_kept_near_with_few_429s() -> None:
    """250 configured, 100 allowed, by the calendar minute: six hours of it."""
    now, throttle, refusals, done = 0.0, Throttle(), 0, 0
    spacing = budget.spacing(budget.pace(250))
    used: dict[int, int] = {}
    while now < 6 * 3600:
        minute = int(now // 60)
        used[minute] = used.get(minute, 0) + 1
        if used[minute] > 100:
            refusals += 1
            throttle = throttle.refused(0.0)
            wait = 60 - now % 60 + budget.LOCK_OUT_MARGIN
        else:
            done += 1
            wait = spacing / throttle.now
        now += wait
        throttle = Throttle(throttle.part, throttle.since + wait)
    assert refusals <= 6 * 6
    assert done >= 0.75 * 100 * 360


@given(
    waiting=st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1000)), min_size=1, max_size=20),
    passed_by=st.integers(0, 20),
)
def test_the_next_to_leave_is_the_most_urgent_but_one_in_ten_has_waited_longest(
    waiting: list[tuple[int, float]], passed_by: int
) -> None:
    waiting.sort(key=lambda item: item[1])
    queue = [Waiting(rank, number, since) for number, (rank, since) in enumerate(waiting)]
    chosen = queue[budget.next_to_leave(queue, 1000.0, passed_by)]
    first = min(queue, key=lambda one: (one.rank, one.number))
    if chosen is not first:
        assert passed_by >= budget.ONE_IN - 1
        assert first.rank > 0
        assert chosen is queue[0]
        assert chosen.since < 1000 - budget.PATIENCE
    elif passed_by >= budget.ONE_IN - 1 and first.rank > 0:
        assert queue[0].since >= 1000 - budget.PATIENCE or queue[0] is first
