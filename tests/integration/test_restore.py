"""A restore of an older dump. With a new epoch no new content has an old id and nothing real is dropped; without one, both happen."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from poller.core import jsontext
from poller.store.engine import ENGINE, RELAY, open_engine
from poller.store.sinks import SinkLog
from poller.store.state import LeaseKeeper
from tests.relaying import Consumed, History, passed, running, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from poller.core.sink import Sink
    from tests.broker_bench import Bench

pytest_plugins = ["tests.relay_bench"]


@contextmanager
def living(conninfo: str) -> Iterator[History]:
    """The database as a poller has it open."""
    engine, relay = open_engine(conninfo, ENGINE), open_engine(conninfo, RELAY)
    leases = LeaseKeeper(engine)
    yield History(engine, SinkLog(relay), leases)
    leases.close()
    engine.dispose()
    relay.dispose()


@contextmanager
def by_template(conninfo: str) -> Iterator[Callable[[], str]]:
    """A dump, and the restore of it: a copy that Postgres makes of the files."""
    name, dump = conninfo_to_dict(conninfo)["dbname"], f"poller_dump_{secrets.token_hex(4)}"
    with psycopg.connect(make_conninfo(conninfo, dbname="postgres"), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{dump}" TEMPLATE "{name}"')
        yield lambda: make_conninfo(conninfo, dbname=dump)
        admin.execute(f'DROP DATABASE "{dump}" WITH (FORCE)')


@contextmanager
def by_pg_dump(conninfo: str) -> Iterator[Callable[[], str]]:
    """A dump as an operator makes one, and its restore into an empty database."""
    if shutil.which("pg_dump") is None or shutil.which("psql") is None:
        pytest.skip("pg_dump and psql are not there")
    dumped = subprocess.run(["pg_dump", "--dbname", conninfo], capture_output=True, check=False)
    if dumped.returncode:
        pytest.skip("this pg_dump is older than the server")
    target = f"poller_restored_{secrets.token_hex(4)}"
    restored = make_conninfo(conninfo, dbname=target)
    with psycopg.connect(make_conninfo(conninfo, dbname="postgres"), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{target}"')

        def restore() -> str:
            psql = ["psql", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", restored]
            subprocess.run(psql, input=dumped.stdout, stdout=subprocess.DEVNULL, check=True)
            return restored

        yield restore
        admin.execute(f'DROP DATABASE "{target}" WITH (FORCE)')


class Holding(Consumed):
    """A consumer that keeps contents."""

    def __init__(self) -> None:
        super().__init__()
        self.contents: dict[str, Any] = {}
        self.dropped = 0

    def _apply(self, event: Any) -> None:
        before = len(self.complaints)
        super()._apply(event)
        if len(self.complaints) > before:
            self.dropped += 1
        else:
            self.contents[event["subject"]] = event["data"]["resource"]["value"]


def deliver(bench: Bench, history: History, sink: Sink, consumer: Holding) -> None:
    with running(history.log, bench.broker(), sink):
        until(lambda: passed(history.log, sink, "A"))
    consumer.take(bench.received(bench.depth()))


def lose_and_restore(
    bench: Bench, conninfo: str, dumping: Callable[[str], Any], *, new_epoch: bool
) -> tuple[Holding, dict[str, Any]]:
    """A life, a dump, more of it, a loss, the dump again, and changes after it. The consumer, and what the source has in the end."""
    sink, consumer = replace(bench.sink, payload="full-resource"), Holding()
    with living(conninfo) as history:
        for id_, value in (("o1", "1"), ("o2", "1"), ("o1", "2")):
            history.change("A", id_, value)
        deliver(bench, history, sink, consumer)
    with dumping(conninfo) as restore:
        with living(conninfo) as history:
            history.change("A", "o1", "3")  # what the dump does not know, and the consumer does
            history.change("A", "o3", "3")
            history.change("A", "o2", "3")
            deliver(bench, history, sink, consumer)
        with living(restore()) as history:
            if new_epoch:
                history.log_of_engine().start_epoch("A")
            for id_, value in (("o1", "40"), ("o3", "3"), ("o2", "41"), ("o4", "1"), ("o2", "42")):
                history.change("A", id_, value)
            deliver(bench, history, sink, consumer)
            books = history.books(sink)
            assert (books.waiting, books.missing) == (0, 0)
    truth = {
        f"Observation/{id_}": jsontext.loads(value)
        for id_, value in (("o1", "40"), ("o2", "42"), ("o3", "3"), ("o4", "1"))
    }
    return consumer, truth


@pytest.mark.parametrize("dumping", [by_template, by_pg_dump])
def test_with_a_new_epoch_a_restore_costs_no_consumer_a_change(
    bench: Bench, database_url: str, dumping: Callable[[str], Any]
) -> None:
    consumer, truth = lose_and_restore(bench, database_url, dumping, new_epoch=True)
    assert consumer.complaints == [], "no id with another content, and nothing new that looks old"
    assert consumer.contents == truth
    assert consumer.sequences == sorted(consumer.sequences)
    assert consumer.gaps == set()


def test_without_a_new_epoch_it_is_found_out(rabbit: Bench, database_url: str) -> None:
    """That this test can fail: numbers are given twice, and what is new looks old."""
    consumer, truth = lose_and_restore(rabbit, database_url, by_template, new_epoch=False)
    assert consumer.dropped > 0
    assert consumer.contents != truth
