from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from poller.core import budget
from poller.core.budget import Grant


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


def most_within(seconds: float, instants: list[float]) -> int:
    ordered = sorted(instants)
    return max((bisect_right(ordered, at + seconds) - index for index, at in enumerate(ordered)), default=0)


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
        for number, permit in enumerate(budget.permits(grant, now, now + round_trip)):
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
