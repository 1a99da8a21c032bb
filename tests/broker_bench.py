"""Both brokers behind one face, so that one suite can run over each, and a way to break the line between."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer
from pgmq.install import install_pgmq_from_sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from poller.broker.pgmq import PgmqBroker, consumer_options
from poller.broker.rabbit import RabbitBroker
from poller.core.envelope import CONTENT_TYPE
from poller.core.sink import Only, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Proxy:
    """A wire that can be cut, and that can keep the broker's answers back."""

    def __init__(self, host: str, port: int) -> None:
        """``host``: a name, or the directory of a Postgres socket."""
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._down = False
        self._trigger: bytes | None = None
        self.withheld = threading.Event()
        """Answers are being kept back."""
        threading.Thread(target=self._accept, daemon=True).start()

    def withhold_after(self, trigger: bytes) -> None:
        """Keep answers back from when the client sends ``trigger`` on."""
        self._trigger = trigger

    def release(self) -> None:
        self._trigger = None
        self.withheld.clear()

    def cut(self, *, stay_down: bool = False) -> None:
        self._down = stay_down
        self.release()
        pairs, self._pairs = self._pairs, []
        for one in (sock for pair in pairs for sock in pair):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def up(self) -> None:
        self._down = False

    def close(self) -> None:
        self.cut(stay_down=True)
        self._listener.close()

    def _reach(self) -> socket.socket:
        host, port = self._target
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._down:
                    client.close()
                    continue
                server = self._reach()
                self._pairs.append((client, server))
                threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                watched = [client] if self.withheld.is_set() else [client, server]
                for ready in select.select(watched, [], [], 0.02)[0]:
                    octets = ready.recv(65536)
                    if not octets:
                        raise ConnectionResetError
                    if ready is client and self._trigger is not None and self._trigger in octets:
                        self.withheld.set()
                    (server if ready is client else client).sendall(octets)
        self.cut(stay_down=self._down)


class _Bench:
    """A broker with an exchange and a queue of the test's own."""

    sink: Sink
    kind: str
    commit: bytes
    """What on the wire makes a publish final."""

    def consumer(self) -> Any:
        """A kombu connection as any consumer would make it."""
        raise NotImplementedError

    def broker(self) -> Any:
        """The broker as the engine has it."""
        raise NotImplementedError

    def unbind(self) -> None:
        """Take the binding away that lets everything through."""
        raise NotImplementedError

    def bind(self, pattern: str = "fhir.*.*.*") -> None:
        """Bind the queue."""
        raise NotImplementedError

    def taking_only(self, pattern: str) -> Sink:
        """The sink as its publisher sees it when its queue, bound by ``pattern`` alone, is none that it declares itself."""
        with contextlib.closing(self.broker().publisher(self.sink)) as publisher:
            publisher.open()
        self.unbind()
        self.bind(pattern)
        return replace(self.sink, queues=())

    def received(self, count: int, queue: str | None = None, *, seconds: float = 90) -> list[bytes]:
        """The next ``count`` bodies in the queue, acknowledged. Fails when they do not come."""
        bodies: list[bytes] = []

        def take(message: Any) -> None:
            assert message.content_type == CONTENT_TYPE
            bodies.append(message.body.encode() if isinstance(message.body, str) else message.body)
            message.ack()

        with self.consumer() as connection:
            taken_from = Queue(queue or self.sink.queues[0], no_declare=True)
            channel = connection.channel()
            with Consumer(channel, [taken_from], accept=[CONTENT_TYPE], on_message=take, prefetch_count=100):
                while len(bodies) < count:
                    connection.drain_events(timeout=seconds)
        return bodies

    def depth(self, queue: str | None = None) -> int:
        """How many messages wait in the queue."""
        with self.consumer() as connection:
            found = connection.channel().queue_declare(queue or self.sink.queues[0], passive=True)
            return int(found.message_count)


@dataclass
class Rabbit(_Bench):
    sink: Sink
    url: str
    opened: list[Callable[[], None]] = field(default_factory=list)
    kind = "rabbit"
    commit = b"specversion"  # in every message

    def broker(self, proxy: Proxy | None = None) -> RabbitBroker:
        url = urlsplit(self.url)
        if proxy is not None:
            url = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{proxy.port}")
        return RabbitBroker(urlunsplit(url))

    def proxy(self) -> Proxy:
        url = urlsplit(self.url)
        proxy = Proxy(url.hostname or "127.0.0.1", url.port or 5672)
        self.opened.append(proxy.close)
        return proxy

    def consumer(self) -> Any:
        return Connection(self.url)

    def for_consumers(self) -> dict[str, str]:
        """The sample consumer's environment."""
        return {"BROKER_URL": self.url}

    def unbind(self) -> None:
        with Connection(self.url) as connection:
            connection.channel().queue_unbind(self.sink.queues[0], self.sink.exchange, "fhir.*.*.*")

    def bind(self, pattern: str = "fhir.*.*.*") -> None:
        with Connection(self.url) as connection:
            connection.channel().queue_bind(self.sink.queues[0], self.sink.exchange, pattern)

    def close(self) -> None:
        for close in self.opened:
            close()
        with Connection(self.url) as connection:
            channel = connection.channel()
            channel.exchange_delete(self.sink.exchange)
            for queue in self.sink.queues:
                channel.queue_delete(queue)
                channel.queue_delete(f"{queue}.dead")


@dataclass
class Pgmq(_Bench):
    sink: Sink
    conninfo: str
    opened: list[Callable[[], None]] = field(default_factory=list)
    kind = "pgmq"
    commit = b"COMMIT"

    def broker(self, proxy: Proxy | None = None) -> PgmqBroker:
        if proxy is None:
            return PgmqBroker(self.conninfo)
        return PgmqBroker(make_conninfo(self.conninfo, host="127.0.0.1", port=proxy.port, sslmode="disable"))

    def proxy(self) -> Proxy:
        parts = conninfo_to_dict(self.conninfo)
        proxy = Proxy(str(parts["host"]), int(parts.get("port") or 5432))
        self.opened.append(proxy.close)
        return proxy

    def consumer(self) -> Any:
        return Connection("pgmq://", transport_options=consumer_options(self.conninfo) | {"wait_time_seconds": 1})

    def for_consumers(self) -> dict[str, str]:
        """The sample consumer's environment."""
        options = consumer_options(self.conninfo)
        return {"BROKER_URL": "pgmq://", "QUEUE_DATABASE": str(options["conn_string"]), "VISIBILITY_TIMEOUT": "3"}

    def unbind(self) -> None:
        with psycopg.connect(self.conninfo) as connection:
            connection.execute("DELETE FROM pgmq.topic_bindings WHERE queue_name = %s", (self.sink.queues[0],))

    def bind(self, pattern: str = "fhir.*.*.*") -> None:
        with psycopg.connect(self.conninfo) as connection:
            topic = f"kombu.topic.{self.sink.exchange}.{pattern}"
            connection.execute("SELECT pgmq.bind_topic(%s, %s)", (topic, self.sink.queues[0]))

    def close(self) -> None:
        for close in self.opened:
            close()


@pytest.fixture(scope="session")
def queue_conninfo(postgres_server: str) -> Iterator[str]:
    """A database with pgmq."""
    name = f"poller_test_queue_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"')
        conninfo = make_conninfo(postgres_server, dbname=name)
        with psycopg.connect(conninfo) as connection:
            install_pgmq_from_sql(conn=connection)
        yield conninfo
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def a_sink() -> Sink:
    mark = secrets.token_hex(4)
    return Sink("changes", f"test_x_{mark}", (f"test_q_{mark}",), only=Only())


@pytest.fixture
def rabbit(rabbit_url: str) -> Iterator[Rabbit]:
    bench = Rabbit(a_sink(), rabbit_url)
    yield bench
    bench.close()


@pytest.fixture
def pgmq(queue_conninfo: str) -> Iterator[Pgmq]:
    bench = Pgmq(a_sink(), queue_conninfo)
    yield bench
    bench.close()


@pytest.fixture(params=["rabbit", "pgmq"])
def bench(request: pytest.FixtureRequest) -> Bench:
    found: Bench = request.getfixturevalue(request.param)
    return found


Bench: TypeAlias = Rabbit | Pgmq
