"""kombu's other transports, plainly: what a URL reaches, promised to nobody.

Each publish is taken for accepted when the call returns, so events arrive at least once as far as the transport keeps what it has accepted.
There are no confirms, nothing tells an event that no queue took, and nothing shuts a second relay out: run one.
"""
# mypy: disable-error-code="no-untyped-call"
# kombu says it is typed and is not.

from __future__ import annotations

from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from poller.broker.port import WINDOW, Outcome
from poller.core.envelope import CONTENT_TYPE
from poller.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from poller.core.envelope import Message
    from poller.core.sink import Sink

_CONNECT_TIMEOUT = 5
_PERSISTENT = 2
NEEDS: Mapping[str, tuple[str, str] | None] = {
    "azureservicebus": ("azure.servicebus", "azure-servicebus"),
    "azurestoragequeues": ("azure.storage.queue", "azure-storage-queue"),
    "confluentkafka": ("confluent_kafka", "confluent-kafka"),
    "consul": ("consul", "python-consul2"),
    "etcd": ("etcd", "python-etcd"),
    "filesystem": None,
    "gcpubsub": ("google.cloud.pubsub_v1", "google-cloud-pubsub"),
    "kafka": ("confluent_kafka", "confluent-kafka"),
    "mongodb": ("pymongo", "pymongo"),
    "qpid": ("qpidtoollibs", "qpid-tools"),
    "redis": ("redis", "redis"),
    "rediss": ("redis", "redis"),
    "sqs": ("boto3", "boto3"),
    "zookeeper": ("kazoo", "kazoo"),
}
"""By transport: the module that it needs, and the package that has it."""


def kombu_options(url: str) -> tuple[str, dict[str, Any]]:
    """URL and ``transport_options`` for kombu's ``Connection``: the directory of ``filesystem`` is not part of a URL there."""
    parts = urlsplit(url)
    if parts.scheme != "filesystem":
        return url, {}
    folder = unquote(parts.path)
    return "filesystem://", {
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": str(Path(folder) / "control"),
    }


class PlainBroker:
    """Whatever one of kombu's transports reaches by its URL."""

    def __init__(self, url: str, password: str | None = None) -> None:
        """Raises ConfigError where the transport needs a package that is not installed."""
        self.transport = urlsplit(url).scheme
        needed = NEEDS[self.transport]
        if needed is not None and not _is_there(needed[0]):
            told = f"broker.url: kombu's transport {self.transport} needs the Python package {needed[1]}, which is not installed"
            raise ConfigError([f"{told}; install it beside the poller, or write embedded or amqps://user@host//"])
        self._url, self._options = kombu_options(url)
        self._password = password

    def connect(self) -> Any:
        """A kombu connection."""
        for name in ("data_folder_in", "control_folder"):
            if name in self._options:
                Path(self._options[name]).mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = Connection(
            self._url, password=self._password, transport_options=self._options, connect_timeout=_CONNECT_TIMEOUT
        )
        connection.connect()
        return connection

    def publisher(self, sink: Sink) -> PlainPublisher:
        """A closed publisher for ``sink``."""
        return PlainPublisher(self.connect, sink.exchange, lambda channel: _declare(channel, sink))

    def queue_publisher(self, queue: str) -> PlainPublisher:
        """A closed publisher into a durable queue by the default exchange, made if need be."""
        return PlainPublisher(self.connect, "", lambda channel: _declare_queue(channel, queue), queue)

    def tail(self, exchange: str, patterns: Sequence[str], stopping: threading.Event) -> Iterator[bytes]:  # noqa: ARG002 - as the port has it
        """Nothing: most of these transports know bindings only in the process that made them. Raises BrokerError."""
        raise BrokerError(f"`poller tail` is not there for {self.transport}; consume the sink's queue instead")


class PlainPublisher:
    """A :class:`~poller.broker.port.Publisher` that takes a message for accepted when kombu's publish returns."""

    def __init__(
        self,
        connect: Callable[[], Any],
        exchange: str,
        topology: Callable[[Any], None],
        routing_key: str | None = None,
    ) -> None:
        self._connect = connect
        self._exchange = exchange
        self._topology = topology
        self._routing_key = routing_key
        self._connection: Any = None
        self._producer: Any = None
        self._halted = False

    def open(self) -> None:
        """Connect and declare. Nobody is shut out. Raises BrokerError."""
        if self._connection is not None:
            return
        self._halted = False
        with self._speaking():
            self._connection = self._connect()
            channel = self._connection.channel()
            self._topology(channel)
            self._producer = Producer(channel, auto_declare=False)

    def declare(self) -> None:
        """Declare again. Raises BrokerError."""
        self.open()
        with self._speaking():
            self._topology(self._producer.channel)

    def publish(self, messages: Sequence[Message], settled: Callable[[int], None] | None = None) -> Outcome:
        """Send one after the other. Raises BrokerError; then send again what ``settled`` was not told of."""
        self.open()
        for taken, message in enumerate(messages):
            if settled is not None and taken and taken % WINDOW == 0:
                settled(taken)
            if self._halted:
                self.close()
                raise BrokerError("publishing was told to stop")
            with self._speaking():
                self._producer.publish(
                    message.body,
                    exchange=self._exchange,
                    routing_key=self._routing_key or message.routing_key,
                    content_type=CONTENT_TYPE,
                    content_encoding="utf-8",
                    headers=message.headers,
                    message_id=message.id,
                    delivery_mode=_PERSISTENT,
                    retry=False,
                )
        return Outcome(len(messages))

    def tend(self) -> None:
        """Nothing: whether the connection holds, the next publish shows."""

    def halt(self) -> None:
        """Make a publish give up before its next message."""
        self._halted = True

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.collect(socket_timeout=1)
            self._connection = self._producer = None

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turn the transport's errors into ours, and let go of the connection, of which nothing is known any more."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - nobody says which errors a transport raises
            self.close()
            # Never its own words: they may quote a message.
            raise BrokerError(f"the broker cannot be reached or refused ({type(error).__name__})") from None


def _declare(channel: Any, sink: Sink) -> None:
    exchange = Exchange(sink.exchange, type="topic", durable=True)
    exchange(channel).declare()
    for name in sink.queues:
        _declare_queue(channel, name)
        for pattern in sink.only.patterns():
            Queue(name)(channel).bind_to(exchange=sink.exchange, routing_key=pattern)


def _declare_queue(channel: Any, name: str) -> None:
    Queue(name, durable=True)(channel).queue_declare()


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False
