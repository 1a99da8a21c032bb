"""What operators ask and what engines answer, through the store alone."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from poller.errors import LeaseTaken, NotFound
from poller.store.control import ALL, Ask, ControlStore, OperatorPause, Post, State
from poller.store.state import LeaseKeeper
from tests.living import cut, posts

if TYPE_CHECKING:
    from tests.integration.conftest import Practice

__all__ = ["posts"]
WHO: Any = {"actor": "ann", "reason": "because"}
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def store(engine: Engine) -> ControlStore:
    return ControlStore(engine)


def held(pauses: list[OperatorPause]) -> list[tuple[str, str]]:
    return [(one.practice, one.feed) for one in pauses]


def test_where_no_engine_runs_nobody_is_asked(store: ControlStore) -> None:
    asked = store.ask(Ask.RELOAD, ALL, **WHO)
    assert (asked.engines, store.answers(asked)) == (0, [])


def test_every_engine_that_lives_is_asked_once_and_answers_for_itself(store: ControlStore, posts: list[Post]) -> None:
    asked = store.ask(Ask.READ_NOW, "A", patient="p1", **WHO)
    assert asked.engines == 2
    late = Post(posts[0]._database, "host", 3)
    assert late.look()[1] == [], "one that begins later was not asked"
    late.close()
    (order,) = posts[0].look()[1]
    assert (order.ask, order.practice, order.patient, order.actor) == (Ask.READ_NOW, "A", "p1", "ann")
    posts[0].answer(order, State.UNDER_WAY, {"total": 4})
    assert posts[0].look()[1] == [], "what is under way is not begun again"
    first, second = store.answers(asked)
    assert (first.engine, first.state, first.said) == ("host:1", State.UNDER_WAY, {"total": 4})
    assert (second.state, second.lives) == (State.WAITING, True)
    (same,) = posts[1].look()[1]
    posts[1].answer(same, State.DECLINED, {})
    assert [one.state.is_final for one in store.answers(asked)] == [False, True]


def test_only_the_engine_that_is_named_is_asked(store: ControlStore, posts: list[Post]) -> None:
    store.ask(Ask.RELOAD, ALL, engine=posts[1].engine, **WHO)
    assert [len(post.look()[1]) for post in posts] == [0, 1]


def test_a_death_is_known_at_once_and_who_was_only_cut_off_is_back_under_its_number(
    database_url: str, store: ControlStore, posts: list[Post]
) -> None:
    asked = store.ask(Ask.RELOAD, ALL, **WHO)
    cut(database_url, posts[0])
    assert [one.lives for one in store.answers(asked)] == [False, True]
    assert store.ask(Ask.RELOAD, ALL, **WHO).engines == 1
    number = posts[0].engine
    try:
        orders = posts[0].look()[1]
    except DBAPIError:
        orders = posts[0].look()[1]
    assert (posts[0].engine, [order.control for order in orders]) == (number, [asked.control]), "and is asked still"
    assert all(one.lives for one in store.answers(asked))


def test_a_pause_holds_for_its_time_and_no_longer_and_the_last_word_counts(
    engine: Engine, store: ControlStore, posts: list[Post]
) -> None:
    store.pause("A", "Observation", HOUR, **WHO)
    asked = store.pause("A", ALL, None, **WHO)
    store.pause("B", ALL, dt.timedelta(microseconds=1), **WHO)
    assert asked.until is None
    pauses, orders = posts[0].look()
    assert held(pauses) == [("A", "*"), ("A", "Observation")], "that of B is over"
    assert [order.ask for order in orders] == [Ask.PAUSE] * 3
    store.pause("A", "Observation", dt.timedelta(microseconds=1), actor="bob", reason="enough")
    assert held(store.pauses("A")) == [("A", "*")]
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT actor FROM poller.control ORDER BY control")).scalars().all()
    assert kept == ["ann", "ann", "ann", "bob"], "what was said stays"


def test_resuming_a_practice_ends_all_its_pauses_and_a_feed_s_only_its_own(store: ControlStore) -> None:
    for feed in (ALL, "Goal", "Condition"):
        store.pause("A", feed, None, **WHO)
    store.pause("B", ALL, None, **WHO)
    _, over = store.resume("A", "Goal", **WHO)
    assert held(over) == [("A", "Goal")]
    with pytest.raises(NotFound, match="paused as a whole, not feed Goal"):
        store.resume("A", "Goal", **WHO)
    _, over = store.resume("A", ALL, **WHO)
    assert held(over) == [("A", "*"), ("A", "Condition")]
    with pytest.raises(NotFound, match="not paused by an operator"):
        store.resume("A", ALL, **WHO)
    assert held(store.pauses()) == [("B", "*")]


def test_a_practice_that_was_taken_twice_is_given_back_whole(engine: Engine, practice: Practice) -> None:
    practice.keeper.take(practice.code)
    practice.keeper.take("other")
    other = LeaseKeeper(engine)
    with pytest.raises(LeaseTaken):
        other.take(practice.code)
    practice.keeper.release(practice.code)
    other.take(practice.code)
    with pytest.raises(LeaseTaken):
        other.take("other")
    other.close()


@pytest.mark.parametrize("how", ["retired", "paused", "another is paused"])
def test_of_what_is_not_read_no_absence_is_settled_until_it_is_back(
    store: ControlStore, practice: Practice, how: str
) -> None:
    """An absence that was noted before is evidence of then: a delete must not be told of a feed that was taken out since."""
    practice.whole(practice.observation("o1"), practice.observation("o2"))
    practice.whole(practice.observation("o1"))
    assert [absence.id for absence in practice.deletes.due(practice.code)] == ["o2"]
    if how == "retired":
        practice.state.retire_feeds(practice.lease, ["Patient"], practice.at(100))
        assert practice.deletes.due(practice.code) == []
        practice.state.register_feed(practice.lease, "Observation", practice.at(200))
    elif how == "paused":
        store.pause(practice.code, "Observation", None, **WHO)
        assert practice.deletes.due(practice.code) == []
        store.resume(practice.code, "Observation", **WHO)
    else:
        store.pause("another", "Observation", None, **WHO)
        store.pause(practice.code, "Condition", None, **WHO)
    assert [absence.id for absence in practice.deletes.due(practice.code)] == ["o2"]
