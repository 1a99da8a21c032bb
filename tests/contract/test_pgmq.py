"""What is peculiar to queues in Postgres."""

from __future__ import annotations

import random
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from poller.broker.pgmq import PgmqBroker, consumer_options
from poller.core.envelope import Message
from poller.core.sink import Sink
from poller.errors import BrokerError

if TYPE_CHECKING:
    from tests.broker_bench import Pgmq

pytest_plugins = ["tests.broker_bench"]


def test_order_survives_reused_space(pgmq: Pgmq) -> None:
    """With ``fifo_mode=grouped`` this fails: pgmq hands a batch out in the order in which it updated the rows, their place on disk."""
    chance = random.Random(1)  # noqa: S311 - a test
    sent: list[bytes] = []
    got: list[bytes] = []
    with (
        closing(pgmq.broker().publisher(pgmq.sink)) as publisher,
        psycopg.connect(pgmq.conninfo, autocommit=True) as janitor,
    ):
        for turn in range(40):
            bodies = [
                b'{"n":%d,"x":"%s"}' % (n, b"x" * chance.randint(100, 1500)) for n in range(len(sent), len(sent) + 12)
            ]
            publisher.publish(
                [Message(f"{n}", f"r/{turn}-{n}", "fhir.A.T.updated", b, {}) for n, b in enumerate(bodies)]
            )
            sent += bodies
            got += pgmq.received(chance.randint(5, 12))
            if turn % 3 == 0:
                janitor.execute(f'VACUUM ANALYZE pgmq."q_{pgmq.sink.queues[0]}"')
    got += pgmq.received(len(sent) - len(got))
    assert got == sent


def test_the_queue_of_a_dead_tail_goes_at_the_next_look(pgmq: Pgmq) -> None:
    def tails() -> int:
        with psycopg.connect(pgmq.conninfo) as connection:
            row = connection.execute("SELECT count(*) FROM pgmq.meta WHERE starts_with(queue_name, 'tail_')").fetchone()
            return int(row[0]) if row else 0

    with psycopg.connect(pgmq.conninfo, autocommit=True) as connection:
        connection.execute("SELECT pgmq.create('tail_of_one_that_was_killed')")
    stopping = threading.Event()
    with closing(pgmq.broker().publisher(pgmq.sink)) as publisher:
        publisher.open()
        living = pgmq.broker().tail(pgmq.sink.exchange, ["fhir.*.*.*"], stopping)

        def watch() -> None:
            for _ in living:
                stopping.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        while not stopping.is_set():
            publisher.publish([Message("1", "r", "fhir.A.T.updated", b"{}", {})])
        watcher.join(20)
        assert tails() == 0
        with psycopg.connect(pgmq.conninfo, autocommit=True) as connection:
            connection.execute("SELECT pgmq.create('tail_of_another')")
        publisher.tend()
        assert tails() == 0


def test_a_database_without_pgmq_is_an_error_that_says_so(empty_database: str) -> None:
    publisher = PgmqBroker(empty_database).publisher(Sink("s", "x", ()))
    with pytest.raises(BrokerError, match="has no pgmq"):
        publisher.open()


@pytest.mark.parametrize("name", ["q" * 48, "a.b"])
def test_a_name_that_pgmq_cannot_keep_apart_is_refused(pgmq: Pgmq, name: str) -> None:
    publisher = pgmq.broker().publisher(Sink("s", pgmq.sink.exchange, (name, "a_b")))
    with pytest.raises(BrokerError, match="name"):
        publisher.open()


def test_a_consumer_is_given_keywords_since_kombu_misreads_a_uri_with_a_socket() -> None:
    options = consumer_options("postgresql://postgres@/queue?host=/var/run/x")
    assert options["conn_string"] == "user=postgres dbname=queue host=/var/run/x"
