"""pgmq, queues in Postgres, by kombu: the embedded broker.

Two things differ from kombu's transport as it is. All of a publisher goes over one connection, in one transaction a batch: that connection
holds the lock that shuts other publishers out, so nothing can be committed without it; and libpq's settings arrive whole (kombu takes a
connection string apart and forgets ``sslmode``). And what a publish reached is counted, since one that reaches no queue vanishes silently.

No headers: kombu cannot send them to a topic; the body holds every attribute.
"""
# mypy: disable-error-code="no-untyped-call"
# kombu says it is typed and is not.

from __future__ import annotations

import secrets
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from kombu.connection import Connection
from kombu.entity import Exchange
from kombu.messaging import Producer
from kombu.transport import pgmq as kombu_pgmq
from pgmq import PGMQueue
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

from poller.broker.port import WINDOW, Cause, Outcome
from poller.broker.topology import declare_on_pgmq, declare_queue_on_pgmq, pgmq_name
from poller.core.envelope import CONTENT_TYPE
from poller.errors import BrokerError, Fenced

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    from poller.core.envelope import Message
    from poller.core.sink import Sink

VISIBILITY_TIMEOUT = 30
"""Seconds after which a message that was read and not acknowledged is given out again."""
_TAIL = "tail_"
_TAIL_POLL = 0.5
_SWEEP_EVERY = 60.0
"""Seconds between two looks for queues whose tail has died."""


def consumer_options(conninfo: str) -> dict[str, Any]:
    """``transport_options`` for a plain kombu consumer of these queues: ``Connection("pgmq://", transport_options=…)``.

    ``round_robin`` gives strict order, since nothing of ours is grouped; ``grouped`` reads the right messages but hands a batch out
    in whatever order the planner updated it. The conninfo becomes keywords: kombu does not understand a URI that names a socket.
    """
    return {
        "conn_string": make_conninfo("", **conninfo_to_dict(conninfo)),
        "init_extension": False,
        "fifo_mode": "round_robin",
        "visibility_timeout": VISIBILITY_TIMEOUT,
        "polling_interval": 0.2,
    }


class PgmqBroker:
    """A database with pgmq in it, named by a libpq URI or keyword string."""

    def __init__(self, conninfo: str, password: str | None = None) -> None:
        self._conninfo = make_conninfo(conninfo, **({"password": password} if password is not None else {}))

    def publisher(self, sink: Sink) -> PgmqPublisher:
        """A closed publisher for ``sink``."""
        return PgmqPublisher(
            self._connect,
            exchange=sink.exchange,
            topology=lambda channel: declare_on_pgmq(channel, sink),
            fence=f"poller.relay.{sink.exchange}",
        )

    def queue_publisher(self, queue: str) -> PgmqPublisher:
        """A closed publisher into a durable queue past all exchanges, made if need be."""
        return PgmqPublisher(
            self._connect,
            exchange="",
            topology=lambda channel: declare_queue_on_pgmq(channel, queue),
            routing_key=queue,
        )

    def delete_queue(self, queue: str) -> int | None:
        """Drop a queue; messages that were there, None where there was none. Raises BrokerError."""
        name = pgmq_name(queue)
        with _speaking(), closing(self._connect()) as session:
            if not _is_there(session, name):
                return None
            row = session.execute(SQL("SELECT count(*) FROM pgmq.{}").format(Identifier(f"q_{name}"))).fetchone()
            _drop(session, name)
        return int(row[0]) if row is not None else None

    def sweep(self, queue: str, practice: str) -> int | None:
        """Take a practice's messages out of a queue, and out of its archive. Raises BrokerError."""
        name, gone = pgmq_name(queue), 0
        with _speaking(), closing(self._connect()) as session:
            for table in (f"q_{name}", f"a_{name}") if _is_there(session, name) else ():
                theirs = SQL("DELETE FROM pgmq.{} WHERE starts_with(message #>> '{{properties,correlation_id}}', %s)")
                gone += session.execute(theirs.format(Identifier(table)), (f"fhir.{practice}.",)).rowcount
        return gone

    def tail(self, exchange: str, patterns: Sequence[str], stopping: threading.Event) -> Iterator[bytes]:
        """Bodies of what passes ``exchange`` from now on, from a queue that goes when this ends; were it killed, at the next look."""
        with _speaking(), closing(self._connect()) as session:
            sweep_tails(session)
            name = f"{_TAIL}{secrets.token_hex(6)}"
            session.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (name,))
            connection = _kombu(session)
            channel = connection.channel()
            Exchange(exchange, type="topic", durable=True)(channel).declare()
            channel.queue_declare(queue=name)
            try:
                for pattern in patterns:
                    channel.queue_bind(queue=name, exchange=exchange, routing_key=pattern)
                while not stopping.is_set():
                    message = channel.basic_get(name, no_ack=True)
                    if message is None:
                        stopping.wait(_TAIL_POLL)
                    else:
                        yield message.body
            finally:
                _drop(session, name)

    def _connect(self) -> psycopg.Connection[Any]:
        session = psycopg.connect(
            self._conninfo,
            autocommit=True,
            application_name="poller:queue",
            connect_timeout=5,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
        if session.execute("SELECT to_regclass('pgmq.topic_bindings')").fetchone() == (None,):
            session.close()
            raise BrokerError(
                "the queue's database has no pgmq (1.10 or later): CREATE EXTENSION pgmq, or run pgmq's SQL in it"
            )
        return session


class PgmqPublisher:
    """A :class:`~poller.broker.port.Publisher`: a run of messages is one transaction, so none is ever in flight beside another."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        *,
        exchange: str,
        topology: Callable[[Any], None],
        fence: str | None = None,
        routing_key: str | None = None,
    ) -> None:
        self._connect = connect
        self._exchange = exchange
        self._topology = topology
        self._fence = fence
        self._routing_key = routing_key
        self._session: psycopg.Connection[Any] | None = None
        self._producer: Any = None
        self._swept = 0.0
        self._halted = False

    def open(self) -> None:
        """Connect, shut other publishers out, declare. Raises BrokerError."""
        if self._session is not None:
            return
        self._halted = False
        with self._speaking():
            self._session = session = self._connect()
            if self._fence is not None:
                lock = session.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (self._fence,))
                if lock.fetchone() == (False,):
                    raise Fenced(
                        "another relay publishes to this exchange, and only one may: stop it, or wait until it is gone"
                    )
            self._make(session)

    def declare(self) -> None:
        """Declare again."""
        self.open()
        with self._speaking():
            assert self._session is not None  # noqa: S101 - open() has just said so
            self._make(self._session)

    def publish(self, messages: Sequence[Message], settled: Callable[[int], None] | None = None) -> Outcome:
        """Send, so many in a transaction, up to the first message that no queue wants, or that the database does not take for itself."""
        taken = 0
        for first in range(0, len(messages), WINDOW):
            outcome = self._publish(messages[first : first + WINDOW])
            taken += outcome.confirmed
            if outcome.refused is not None:
                return Outcome(taken, outcome.refused, outcome.cause)
            if settled is not None:
                settled(taken)
        return Outcome(taken)

    def _publish(self, messages: Sequence[Message]) -> Outcome:
        self.open()
        taken = 0
        with self._speaking():
            assert self._session is not None  # noqa: S101 - open() has just said so
            try:
                with self._session.transaction():
                    for message in messages:
                        if self._halted:
                            raise BrokerError("publishing was told to stop")
                        if self._send(message) == 0:
                            return Outcome(taken, "unroutable: no queue is bound that wants it", Cause.UNROUTABLE)
                        taken += 1
            except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded) as error:
                refused = f"not acceptable to the queue's database (SQLSTATE {error.sqlstate})"
            else:
                return Outcome(taken)
        before = self._publish(messages[:taken])  # rolled back with it
        return before if before.refused is not None else Outcome(taken, refused, Cause.UNACCEPTABLE)

    def tend(self) -> None:
        """Notice a lost connection, and sometimes clear away the queues of dead tails, which would grow for ever."""
        if self._session is None:
            return
        with self._speaking():
            if time.monotonic() - self._swept > _SWEEP_EVERY:
                sweep_tails(self._session)
                self._swept = time.monotonic()
            else:
                self._session.execute("SELECT 1")

    def halt(self) -> None:
        """Make a publish give up before its next message."""
        self._halted = True

    def close(self) -> None:
        """Close the connection; Postgres rolls back what is open and gives the lock free."""
        if self._session is not None:
            self._session.close()
            self._session = self._producer = None

    def _make(self, session: psycopg.Connection[Any]) -> None:
        """Over a channel of its own: an older one would believe that its bindings are still there."""
        channel = _kombu(session).channel()
        self._topology(channel)
        self._producer = Producer(channel, auto_declare=False)

    def _send(self, message: Message) -> int:
        """How many queues took it."""
        self._producer.publish(
            message.body,
            exchange=self._exchange,
            routing_key=self._routing_key or message.routing_key,
            content_type=CONTENT_TYPE,
            content_encoding="utf-8",
            message_id=message.id,
            # by which a practice's messages are known where the queue's name stands in the place of the routing key
            correlation_id=message.routing_key,
        )
        reached: int = self._producer.channel.reached
        return reached

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turn psycopg's errors into ours, and let go of a connection of which nothing is known any more."""
        try:
            with _speaking():
                yield
        except BrokerError:
            self.close()
            raise


def sweep_tails(session: psycopg.Connection[Any]) -> None:
    """Drop the queues of tails that died: those whose lock nobody holds."""
    dead = session.execute(
        "SELECT queue_name FROM pgmq.meta"
        " WHERE starts_with(queue_name, %s) AND pg_try_advisory_lock(hashtextextended(queue_name, 0))",
        (_TAIL,),
    )
    for (name,) in dead.fetchall():
        _drop(session, name)
        session.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (name,))


def _is_there(session: psycopg.Connection[Any], queue: str) -> bool:
    return session.execute("SELECT FROM pgmq.meta WHERE queue_name = %s", (queue,)).fetchone() is not None


def _drop(session: psycopg.Connection[Any], queue: str) -> None:
    """Unbind, then drop: a publisher that still saw the binding would find no table."""
    session.execute("DELETE FROM pgmq.topic_bindings WHERE queue_name = %s", (queue,))
    session.execute("SELECT pgmq.drop_queue(%s)", (queue,))


class _Channel(kombu_pgmq.Channel):
    """kombu's channel, which tells how many queues the last publish reached."""

    reached = 0

    def _put_topic(self, exchange: str, message: dict[str, Any], routing_key: str, **_: Any) -> None:
        session = self.transport_options["session"].only
        self.reached = self.pgmq.send_topic(self._topic_key(exchange, routing_key), message, conn=session)

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.pgmq.send(self._queue_name(queue), message, conn=self.transport_options["session"].only)
        self.reached = 1


class _Transport(kombu_pgmq.Transport):
    """kombu's transport over the one connection that it is given."""

    Channel = _Channel
    client: Any

    def _create_pgmq_client(self) -> PGMQueue:
        pool: Any = self.client.transport_options["session"]
        return PGMQueue(pool=pool, init_extension=False, conn_string="host=unused")


class _Session:
    """One connection in the shape of a pool."""

    def __init__(self, only: psycopg.Connection[Any]) -> None:
        self.only = only

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        yield self.only


def _kombu(session: psycopg.Connection[Any]) -> Any:
    return Connection("pgmq://", transport=_Transport, transport_options={"session": _Session(session)})


@contextmanager
def _speaking() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        # Never the server's own words: they may quote a row.
        raise BrokerError(
            f"the queue's database cannot be reached or refused ({error.sqlstate or type(error).__name__})"
        ) from None
