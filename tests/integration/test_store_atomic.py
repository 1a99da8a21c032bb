"""A batch is committed whole or not at all, wherever the connection breaks; a poller that was replaced writes nothing."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from poller.core.model import Coverage, Kind, Target
from poller.errors import LeaseLost, LeaseTaken
from poller.store.deletes import Settled
from poller.store.repository import PassEnd
from poller.store.state import LeaseKeeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import Practice


def end_backend(database_url: str, connection: Any) -> None:
    """The server ends the session, and this returns when it is gone."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))


def survive_breaks(practice: Practice, database_url: str, work: Callable[[], Any]) -> int:
    """Break the connection before each statement in turn: nothing may be left of it. Then do the work. Returns the statements."""
    before = practice.tables()
    for statement in range(1, 100):
        with practice.failing_before(statement, functools.partial(end_backend, database_url)) as sent:
            try:
                work()
            except DBAPIError:
                assert practice.tables() == before, f"something is left of {sent[-1]}"
            else:
                assert len(sent) == statement - 1
                return len(sent)
    raise AssertionError("never done")


def test_a_batch_is_written_whole_or_not_at_all(practice: Practice, database_url: str) -> None:
    target = Target("p1", "Observation", Kind.PATIENT, patient="a")
    practice.register(target)
    shown = [practice.observation(f"o{n}") for n in range(4)]
    practice.whole(*shown, second=10, target=target)
    practice.whole(*shown[1:], second=20, target=target)
    news = [
        practice.observation("o0"),
        practice.observation("o1", value="2"),
        practice.patient("b"),
        practice.observation("new"),
    ]
    versions = [practice.version(resource, 30.5) for resource in news]
    end = PassEnd(practice.at(30), practice.at(32), Coverage.COMPLETE, seen=["o0", "o1", "new"], counts=True)
    work = functools.partial(practice.repository.record, practice.context(target), versions, practice.at(32), end)
    assert survive_breaks(practice, database_url, work) >= 12
    assert practice.actions()[4:] == [("created", "new", 1), ("created", "b", 1), ("updated", "o1", 2)]
    assert [absence.id for absence in practice.deletes.due("p1")] == ["o2", "o3"]
    assert len(practice.rows("SELECT FROM poller.member")) == 6
    done = practice.tables()
    assert work().changes == ()
    assert {name: done[name] for name in ("snapshot", "history", "event")} == {
        name: practice.tables()[name] for name in ("snapshot", "history", "event")
    }


def test_a_delete_is_written_whole_or_not_at_all(practice: Practice, database_url: str) -> None:
    practice.whole(practice.patient("a"), practice.observation("o1"))
    practice.register(Target("p1", "Patient", Kind.SWEEP))
    practice.whole(target=Target("p1", "Patient", Kind.SWEEP))
    [absence] = practice.deletes.due("p1")
    settled: list[Settled] = []

    def work() -> None:
        settled.append(practice.confirm(absence, second=100))

    assert survive_breaks(practice, database_url, work) >= 8
    assert settled == [Settled.DELETED]
    assert practice.actions()[-1] == ("deleted", "a", 2)


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_without_an_answer_is_found_out_by_reading_again(practice: Practice, *, committed: bool) -> None:
    def break_off(connection: Any) -> None:
        if committed:
            connection.connection.driver_connection.commit()
        raise ConnectionError

    with practice.at_next_commit(break_off), pytest.raises(ConnectionError):
        practice.read(practice.observation())
    practice.read(practice.observation())
    assert practice.actions() == [("created", "o1", 1)]


def test_a_poller_that_was_replaced_writes_nothing(practice: Practice) -> None:
    practice.whole(practice.observation())
    practice.whole()
    [absence] = practice.deletes.due("p1")
    practice.keeper.close()
    successor = LeaseKeeper(practice.engine)
    assert successor.take("p1").epoch == 2
    before = practice.tables()
    write: list[Callable[[], Any]] = [
        lambda: practice.read(practice.observation(value="2")),
        lambda: practice.read(practice.observation()),
        practice.whole,
        lambda: practice.confirm(absence),
        lambda: practice.deletes.postpone(practice.lease, absence, "x"),
        lambda: practice.deletes.renew(practice.lease, absence, "x"),
        lambda: practice.register(Target("p1", "Condition", Kind.SWEEP)),
        lambda: practice.state.register_practice(practice.lease),
        lambda: practice.state.retire_feeds(practice.lease, [], practice.at(0)),
        lambda: practice.state.step_down(practice.lease, "Observation", 1, practice.at(0)),
    ]
    for attempt in write:
        with pytest.raises(LeaseLost):
            attempt()
    assert practice.tables() == before
    successor.close()


def test_a_practice_has_one_poller_until_that_one_is_gone(practice: Practice, database_url: str) -> None:
    second = LeaseKeeper(practice.engine)
    with pytest.raises(LeaseTaken):
        second.take("p1")
    assert second.take("p2").epoch == 1, "another practice is free"
    assert practice.keeper.alive()
    assert practice.keeper._connection is not None
    end_backend(database_url, practice.keeper._connection.connection.dbapi_connection)
    assert second.take("p1").epoch == 2
    assert not practice.keeper.alive()
    assert not practice.keeper.alive(), "and does not come back by itself"
    with pytest.raises(LeaseTaken):
        practice.keeper.take("p1")
    second.close()
    assert practice.keeper.take("p1").epoch == 3
    assert practice.keeper.alive()


def test_a_takeover_waits_for_the_commit_in_flight(practice: Practice) -> None:
    held, on = threading.Event(), threading.Event()

    def pause(_connection: Any) -> None:
        held.set()
        assert on.wait(10)

    practice.keeper.close()
    successor = LeaseKeeper(practice.engine)
    with practice.at_next_commit(pause), ThreadPoolExecutor(2) as pool:
        writing = pool.submit(practice.read, practice.observation())
        assert held.wait(10)
        taking = pool.submit(successor.take, "p1")
        while not practice.someone_waits():
            assert not taking.done()
        on.set()
        assert writing.result(10).changes
        assert taking.result(10).epoch == 2
    with pytest.raises(LeaseLost):
        practice.read(practice.observation(value="2"))
    assert practice.actions() == [("created", "o1", 1)]
    successor.close()
