"""What state a feed and a practice are in, and what is to be done next: total, and never better than what is known."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.config import PracticeConfig
from poller.core import plan
from poller.core.advice import ago
from poller.core.facts import BudgetFacts, ConfigFacts, FeedFacts, Hold, PatientSourceFacts, PracticeFacts, SinkFacts
from poller.core.health import GONE, Cause, FeedState, State, is_gone, judge, judge_configuration
from poller.core.model import Kind, Strategy, Target
from poller.core.plan import Schedule, TargetState
from poller.lateness import FromStore

NOW = dt.datetime(2026, 11, 27, 2, tzinfo=dt.UTC)
TIMES = st.integers(-100_000, 0).map(lambda seconds: NOW + dt.timedelta(seconds=seconds))
COUNTS = st.integers(0, 3)
REASONS = st.sampled_from(["no access: token: 403", "unreachable: no connection", "refused: 403"])
OPERATORS = st.builds(Hold, TIMES, st.just("their server is moved"), st.just("ann@host"), st.none() | TIMES)
OWN = st.builds(Hold, TIMES, REASONS)
FEEDS = st.builds(
    FeedFacts,
    feed=st.sampled_from(["Observation", "Condition", "Goal"]),
    read_by=st.none() | st.sampled_from(["sweep", "patient"]),
    late=st.booleans(),
    searches=COUNTS,
    unread=COUNTS,
    failing=COUNTS,
    failure=st.none() | st.sampled_from(["server", "transport", "locked-out", "refused", "unauthorized", "malformed"]),
    last_complete=st.none() | TIMES,
    oldest=st.none() | TIMES,
    refused_since=st.none() | TIMES,
    reason=st.just("build too old"),
    advice=st.none() | st.just("needs build 12.0.2"),
    retired_at=st.none() | TIMES,
    paused=st.none() | OPERATORS,
    shut_out=st.none() | OWN,
    held_deletes=COUNTS,
    nobody=st.booleans(),
)
SINKS = st.builds(
    SinkFacts,
    sink=st.sampled_from(["changes", "full"]),
    recorded=st.integers(0, 9),
    delivered=COUNTS,
    parked=COUNTS,
    waiting=COUNTS,
    configured=st.booleans(),
    begun=st.booleans(),
    wanted_since=st.none() | TIMES,
    in_snapshot=st.booleans(),
    moved_at=st.none() | TIMES,
    oldest_waiting=st.none() | TIMES,
    parked_for=st.sampled_from([(), (("unroutable: x", 2),), (("too large: x", 1),), (("x", 1),)]),
)
BUDGETS = st.builds(
    BudgetFacts,
    limit=st.just(250),
    leave=st.just(241.0),
    used=st.integers(0, 241),
    part=st.floats(0.05, 1),
    blocked_until=st.none() | TIMES,
)
PRACTICES = st.builds(
    PracticeFacts,
    code=st.just("FAMLYM"),
    feeds=st.lists(FEEDS, max_size=3, unique_by=lambda feed: feed.feed).map(tuple),
    sinks=st.lists(SINKS, max_size=2, unique_by=lambda sink: sink.sink).map(tuple),
    budget=BUDGETS,
    last_look=st.none() | TIMES,
    failure=st.none() | st.sampled_from(["key-missing", "SQLSTATE 23514", "defect"]),
    failing_since=st.none() | TIMES,
    began=st.none() | st.integers(-90, 0).map(lambda seconds: NOW + dt.timedelta(seconds=seconds)),
    paused=st.none() | OPERATORS,
    shut_out=st.none() | OWN,
    in_force=st.booleans(),
    configured=st.booleans(),
    failing_sources=st.lists(
        st.builds(
            PatientSourceFacts, st.sampled_from(["roster", "group"]), st.none() | st.just("x"), st.none() | TIMES
        ),
        max_size=2,
    ).map(tuple),
).map(lambda facts: facts if facts.configured else replace(facts, feeds=(), in_force=False))
BAD = {FeedState.LATE, FeedState.REFUSED}


@given(PRACTICES)
def test_every_practice_has_a_state_and_every_finding_a_next_step(facts: PracticeFacts) -> None:
    health = judge(facts, NOW)
    assert [feed.facts for feed in health.feeds] == list(facts.feeds)
    trouble = [one for one in health.findings if one.cause.is_trouble]
    assert (health.state in {State.DEGRADED, State.UNATTENDED}) == bool(trouble), (
        "what is wrong is named, and only that"
    )
    assert all(one.what and one.next for one in health.findings)
    causes = [list(Cause).index(one.cause) for one in health.findings]
    assert causes == sorted(causes), "most urgent first"


@given(PRACTICES)
def test_no_feed_is_bad_without_a_finding_that_accounts_for_it(facts: PracticeFacts) -> None:
    health = judge(facts, NOW)
    causes = {one.cause for one in health.findings}
    named = {feed for one in health.findings for feed in one.feeds}
    for feed in health.feeds:
        if feed.state in BAD or (feed.state is FeedState.PAUSED and facts.paused is None):
            assert feed.facts.feed in named or causes & {Cause.NO_POLLER, Cause.SHUT_OUT}


@given(PRACTICES)
def test_where_no_poller_looks_nothing_is_fresh(facts: PracticeFacts) -> None:
    if is_gone(facts, NOW):
        health = judge(facts, NOW)
        assert health.state is State.UNATTENDED
        assert health.findings[0].cause is Cause.NO_POLLER
        assert FeedState.FRESH not in {feed.state for feed in health.feeds}
        assert FeedState.BASELINE not in {feed.state for feed in health.feeds}


@given(FEEDS, PRACTICES)
def test_what_is_retired_or_paused_by_an_operator_is_never_late(feed: FeedFacts, practice: PracticeFacts) -> None:
    (found,) = judge(replace(practice, feeds=(feed,)), NOW).feeds
    if feed.retired_at is not None:
        assert found.state is FeedState.RETIRED
    elif feed.paused is not None or practice.paused is not None:
        assert found.state is FeedState.PAUSED


@given(PRACTICES, st.integers(0, 1000))
def test_a_feed_that_is_late_is_never_better_for_it_and_time_alone_makes_nothing_better(
    facts: PracticeFacts, later: int
) -> None:
    order = [State.HEALTHY, State.STARTING, State.PAUSED, State.DEGRADED, State.UNATTENDED]
    before = judge(facts, NOW)
    worse = judge(replace(facts, feeds=tuple(replace(feed, late=True) for feed in facts.feeds)), NOW)
    after = judge(facts, NOW + dt.timedelta(seconds=later))
    assert order.index(worse.state) >= order.index(before.state)
    assert order.index(after.state) >= order.index(before.state)


def test_a_look_is_good_for_a_minute() -> None:
    facts = PracticeFacts("FAMLYM", (), (), BudgetFacts(250, 241), last_look=NOW - GONE)
    assert not is_gone(facts, NOW)
    assert is_gone(facts, NOW + dt.timedelta(microseconds=1))
    assert is_gone(replace(facts, last_look=None), NOW)
    assert not is_gone(replace(facts, last_look=NOW + GONE), NOW)
    assert is_gone(replace(facts, last_look=NOW + GONE + dt.timedelta(microseconds=1)), NOW), "a clock was put back"
    assert not is_gone(replace(facts, last_look=None, in_force=False), NOW), "nobody was told to read it yet"


@given(st.integers(1, 9), st.booleans(), st.none() | TIMES, st.lists(st.just("poller.yaml:3: x"), max_size=2))
def test_the_configuration_is_trouble_when_it_is_broken_or_refused(
    revision: int, differs: bool, refused: dt.datetime | None, problems: list[str]
) -> None:
    facts = ConfigFacts(revision, NOW, tuple(problems), differs or bool(problems), refused, ("poller.yaml:4: y",))
    found = judge_configuration(facts, "poller.yaml")
    assert any(one.cause.is_trouble for one in found) == (bool(problems) or (refused is not None and differs))
    assert all("poller.yaml" in one.what + one.next for one in found)
    assert bool(found) == facts.differs


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0s ago"), (119, "119s ago"), (120, "2m ago"), (7_200, "2h ago"), (200_000, "2d ago")]
)
def test_how_long_ago(seconds: int, said: str) -> None:
    assert ago(NOW - dt.timedelta(seconds=seconds), NOW) == said


# --- the one that was read longest ago speaks for those that are alike

EVERY = st.integers(1, 20_000).map(lambda seconds: dt.timedelta(seconds=seconds))
HOURS: st.SearchStrategy[Callable[[dt.datetime], bool] | None] = st.none() | st.integers(1, 23).map(
    lambda until: lambda local: local.hour < until
)
READS = st.lists(TIMES, min_size=1, max_size=5)


def hourly(last: dt.datetime) -> dt.datetime | None:
    return last.replace(minute=0, second=0, microsecond=0) + dt.timedelta(hours=1)


@given(READS, EVERY, HOURS, st.none() | TIMES, st.none() | EVERY)
def test_the_oldest_read_says_whether_any_is_late(
    reads: list[dt.datetime],
    every: dt.timedelta,
    active: Callable[[dt.datetime], bool] | None,
    resumed: dt.datetime | None,
    bound: dt.timedelta | None,
) -> None:
    states = [
        TargetState(Target("p", "Goal", Kind.PATIENT, patient=str(n)), at, complete_began=at)
        for n, at in enumerate(reads)
    ]
    oldest = min(states, key=lambda state: state.registered_at)
    for schedule in (Schedule(every, active=active), Schedule(cron=hourly), Schedule()):
        by = {("Goal", Kind.PATIENT): schedule}
        grace = dt.timedelta(seconds=30)
        late = [plan.late(some, by, NOW, grace, resumed, lambda _: bound) for some in (states, [oldest])]
        assert late[0] == late[1]


def test_a_planned_feed_is_late_by_its_promise_and_one_with_a_schedule_by_that() -> None:
    feeds = {"Goal": {}, "Condition": {"every": "5m"}}
    config = PracticeConfig.model_validate(
        {"code": "FAMLYM", "base_url": "https://ehr.example/A", "auth": "none", "feeds": feeds}
    )
    lateness = FromStore(config, {"Goal": Strategy.SWEEP, "Condition": Strategy.SWEEP}, 10, NOW)

    def is_late(feed: str, hours: float, owed_from: dt.datetime | None = None) -> bool:
        at = NOW - dt.timedelta(hours=hours)
        return lateness.is_late(
            feed, [TargetState(Target("FAMLYM", feed, Kind.SWEEP), at, complete_began=at)], owed_from
        )

    assert [is_late("Goal", hours) for hours in (1, 71, 73)] == [False, False, True]
    assert [is_late("Condition", hours) for hours in (0.1, 1)] == [False, True]
    assert not is_late("Condition", 1, NOW - dt.timedelta(minutes=5))
    assert not lateness.is_late("Coverage", [], None), "how it is read is not known"
