"""RabbitMQ, by kombu over py-amqp, with confirms in flight.

Why by hand: kombu's own confirms wait for each message (1,450 a second against 6,000 to 10,000 with a window), and its ``retry=True`` sends
again behind our back, out of order.
"""

# mypy: disable-error-code="no-untyped-call"
# kombu says it is typed and is not.

from __future__ import annotations

import re
import secrets
import ssl
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import amqp
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer, Producer

from poller.broker.distrust import why_no_tls
from poller.broker.port import WINDOW, Cause, Outcome
from poller.broker.topology import dead_letter_queue, declare_on_rabbit, declare_queue_on_rabbit
from poller.core.envelope import CONTENT_TYPE
from poller.errors import BrokerError, Fenced

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from poller.core.envelope import Message
    from poller.core.sink import Sink

_CONNECT_TIMEOUT = 5
HEARTBEAT = 10
"""Seconds. A broker that says nothing for two of them is taken for gone, and takes us for gone."""
PATIENCE = 30.0
"""Seconds without any answer, while messages are in flight, after which the connection is given up."""
_SLICE = 0.5
"""Seconds between two looks at whether to go on waiting."""
_LOCKED = 405
_INEQUIVALENT = 406
_PERSISTENT = 2
_GONE = (OSError, amqp.AMQPError)
_TOO_LARGE = re.compile(r"message size \d+ is larger than (?:configured )?max size (\d+)")
"""In RabbitMQ's words (rabbit_channel, since 3.8). It closes the channel, and does not say which message it was."""


class RabbitBroker:
    """A RabbitMQ server or cluster, named by an ``amqp://`` or ``amqps://`` URL, or several with ``;`` between, tried in turn."""

    def __init__(self, url: str, password: str | None = None, ca: Path | None = None) -> None:
        """``ca``: certificates of the CAs to believe, instead of the system's."""
        self._urls = url.split(";")
        self._password = password
        self._ca = ca

    def connect(self) -> Any:
        """A kombu connection to the first host that answers.

        TLS always verifies the server's certificate and name: py-amqp by itself would not. kombu's own failover is not used: it forgets
        such settings from the second host on, and pauses where the caller has pauses of its own.
        """
        failures = []
        for url in self._urls:
            connection = Connection(
                url,
                password=self._password,
                ssl=self._tls(url),
                heartbeat=HEARTBEAT,
                connect_timeout=_CONNECT_TIMEOUT,
                transport_options={"write_timeout": int(PATIENCE)},
            )
            try:
                connection.ensure_connection(max_retries=0, interval_start=0, reraise_as_library_errors=False)
            except _GONE as error:
                failures.append(error)
                connection.collect(socket_timeout=1)
            else:
                return connection
        raise failures[-1]

    def _tls(self, url: str) -> dict[str, Any] | bool:
        if not url.startswith("amqps:"):
            return False
        context = {"purpose": ssl.Purpose.SERVER_AUTH, "cafile": self._ca, "check_hostname": True}
        return {"context": context, "server_hostname": urlsplit(url).hostname}

    def publisher(self, sink: Sink, *, window: int = WINDOW, patience: float = PATIENCE) -> RabbitPublisher:
        """A closed publisher for ``sink``."""
        return RabbitPublisher(
            self.connect,
            exchange=sink.exchange,
            topology=lambda channel: declare_on_rabbit(channel, sink),
            fence=f"poller.relay.{sink.exchange}",
            window=window,
            patience=patience,
        )

    def queue_publisher(self, queue: str) -> RabbitPublisher:
        """A closed publisher into a durable queue by the default exchange, made if need be."""
        return RabbitPublisher(
            self.connect,
            exchange="",
            topology=lambda channel: declare_queue_on_rabbit(channel, queue),
            routing_key=queue,
        )

    def delete_queue(self, queue: str) -> int | None:
        """Delete a queue and its dead letters; messages that were there, None where there was no queue. Raises BrokerError."""
        with self._channel() as channel:
            found = [channel.queue_delete(name) for name in (queue, dead_letter_queue(queue))]
        return sum(filter(None, found)) if any(one is not None for one in found) else None

    def sweep(self, queue: str, practice: str) -> int | None:  # noqa: ARG002 - as the port has it
        """None: RabbitMQ gives single messages to consumers only."""
        return None

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        with _speaking():
            connection = self.connect()
            try:
                yield connection.channel()
            finally:
                connection.collect(socket_timeout=1)

    def tail(self, exchange: str, patterns: Sequence[str], stopping: threading.Event) -> Iterator[bytes]:
        """Bodies of what passes ``exchange`` from now on; a reader that falls far behind loses the oldest."""
        arguments = {"x-max-length": 10_000, "x-overflow": "drop-head"}
        name = f"poller.tail.{secrets.token_hex(6)}"
        received: list[bytes] = []
        with _speaking():
            connection = self.connect()
        try:
            with _speaking():
                channel = connection.channel()
                queue = Queue(name, exclusive=True, auto_delete=True, durable=False, queue_arguments=arguments)(channel)
                queue.queue_declare()
                for pattern in patterns:
                    queue.bind_to(exchange=exchange, routing_key=pattern)
                Consumer(
                    channel,
                    [queue],
                    auto_declare=False,
                    no_ack=True,
                    accept=[CONTENT_TYPE],
                    on_message=lambda message: received.append(_octets(message.body)),
                ).consume()
            while not stopping.is_set():
                with _speaking():
                    _drain(connection, _SLICE)
                yield from received
                received.clear()
        finally:
            connection.collect(socket_timeout=1)


class _Flight:
    """The messages of one publish: those in flight, and what became of the others."""

    def __init__(
        self, messages: Sequence[Message], first_tag: int, window: int, settled: Callable[[int], None] | None
    ) -> None:
        self._messages = messages
        self._first = first_tag
        self._window = window
        self._tell = settled
        self._told = 0
        self._sent = 0
        self._open: dict[int, None] = {}
        """Indexes of messages without an answer, in order."""
        self._first_refused: int | None = None
        self._returned: set[str] = set()
        self.resources: set[str] = set()
        """Of the messages without an answer: one each."""
        self.refused: str | None = None
        self.cause: Cause | None = None

    def takes(self, message: Message) -> bool:
        """Whether ``message`` may be sent now."""
        under_way = len(self._open) if self._tell is None else self._sent - self._told
        return message.resource not in self.resources and under_way < self._window

    def tell(self, least: int | None = None) -> None:
        """Tell whoever wants to know how many were taken, when it is half a window more: the other half is under way meanwhile."""
        least = self._window // 2 if least is None else least
        if self._tell is not None and (taken := self.settled()) - self._told >= least:
            self._tell(taken)
            self._told = taken

    def send(self, message: Message) -> None:
        """Note that the next message has left."""
        self._open[self._sent] = None
        self._sent += 1
        self.resources.add(message.resource)

    def on_return(self, _error: Exception, _exchange: str, _routing_key: str, returned: Any) -> None:
        """Unroutable. The ack that follows does not mean what it says."""
        self._returned.add(returned.properties["message_id"])

    def on_ack(self, tag: int, multiple: bool) -> None:
        """Taken, unless returned before."""
        for index in self._meant(tag, multiple):
            returned = self._messages[index].id in self._returned
            if returned:
                self._settle(index, "unroutable: no queue is bound that wants it", Cause.UNROUTABLE)
            else:
                self._settle(index)

    def on_nack(self, tag: int, multiple: bool) -> None:
        """Not taken: a queue is full, or the broker had an error."""
        for index in self._meant(tag, multiple):
            self._settle(index, "not taken: a queue is full or its leader is away", Cause.NOT_TAKEN)

    def outcome(self) -> Outcome:
        """What can be said once nothing is in flight."""
        return Outcome(self._sent if self._first_refused is None else self._first_refused, self.refused, self.cause)

    def settled(self) -> int:
        """How many from the first on were taken, whatever became of the others."""
        known = [self._sent, *self._open]
        return min(known if self._first_refused is None else [*known, self._first_refused])

    def _meant(self, tag: int, multiple: bool) -> list[int]:
        last = tag - self._first
        return [index for index in self._open if index <= last] if multiple else [last]

    def _settle(self, index: int, refused: str | None = None, cause: Cause | None = None) -> None:
        del self._open[index]
        self.resources.discard(self._messages[index].resource)
        if refused is not None and (self._first_refused is None or index < self._first_refused):
            self._first_refused, self.refused, self.cause = index, refused, cause


class RabbitPublisher:
    """A :class:`~poller.broker.port.Publisher`: one connection, one channel in confirm mode."""

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        exchange: str,
        topology: Callable[[Any], None],
        fence: str | None = None,
        routing_key: str | None = None,
        window: int = WINDOW,
        patience: float = PATIENCE,
    ) -> None:
        self._connect = connect
        self._exchange = exchange
        self._topology = topology
        self._fence = fence
        self._routing_key = routing_key
        self._window = window
        self._patience = patience
        self._connection: Any = None
        self._channel: Any = None
        self._producer: Any = None
        self._tag = 0
        self._largest: int | None = None
        """Bytes of the largest body that the broker takes, once it has said so."""
        self._halted = False

    def open(self) -> None:
        """Connect, shut other publishers out, declare, confirm. Raises BrokerError."""
        if self._connection is not None:
            return
        self._halted = False
        with self._speaking():
            self._connection = self._connect()
            self._channel = self._connection.channel()
            if self._fence is not None:
                # Lives as long as this connection: another one's declaration of it is refused.
                Queue(self._fence, exclusive=True, durable=False, auto_delete=True)(self._channel).queue_declare()
            self._topology(self._channel)
            self._largest = None
            self._begin(self._channel)

    def _begin(self, channel: Any) -> None:
        """Publish over this channel, with confirms, which count from one."""
        self._channel = channel
        channel.confirm_select()
        self._producer = Producer(channel, auto_declare=False)
        self._tag = 0

    def declare(self) -> None:
        """Declare again; what was too large may be taken now."""
        self.open()
        self._largest = None
        with self._speaking():
            self._topology(self._channel)

    def publish(self, messages: Sequence[Message], settled: Callable[[int], None] | None = None) -> Outcome:
        """Send with a window in flight; see :class:`~poller.broker.port.Publisher`."""
        self.open()
        flight = _Flight(messages, self._tag + 1, self._window, settled)
        with self._speaking(), self._listening(flight):
            try:
                too_large = self._fly(flight, messages)
            except amqp.PreconditionFailed as error:
                if (limit := _TOO_LARGE.search(str(error))) is None:
                    raise
                self._largest = int(limit[1])
                self._begin(self._connection.channel())  # the broker has closed the other one, and the connection holds
            else:
                outcome = flight.outcome()
                if too_large is None or outcome.refused is not None:
                    return outcome
                reason = f"too large: {len(too_large.body)} bytes, and the broker takes {self._largest} at most"
                return Outcome(outcome.confirmed, reason, Cause.UNACCEPTABLE)
        known = flight.settled()
        rest = self.publish(messages[known:], settled and (lambda taken: settled(known + taken)))
        return Outcome(known + rest.confirmed, rest.refused, rest.cause)

    def _fly(self, flight: _Flight, messages: Sequence[Message]) -> Message | None:
        """Send what may be sent, and wait for all answers. Returns the message at which it stopped for its size, if it did."""
        too_large = None
        for message in messages:
            if self._largest is not None and len(message.body) > self._largest:
                too_large = message
                break
            if not flight.takes(message):
                self._wait(flight, partial(flight.takes, message))
            if flight.refused is not None:
                break
            self._send(message)
            flight.send(message)
        self._wait(flight, lambda: not flight.resources)
        return too_large

    def tend(self) -> None:
        """Read what the broker says, heartbeats above all, and answer them."""
        if self._connection is not None:
            with self._speaking():
                _drain(self._connection, 0.001)

    def halt(self) -> None:
        """Make a publish give up at its next look."""
        self._halted = True

    def close(self) -> None:
        """Close the connection without waiting for an answer; the broker gives the fence free when it sees it."""
        if self._connection is not None:
            self._connection.collect(socket_timeout=1)
            self._connection = self._channel = self._producer = None

    def _send(self, message: Message) -> None:
        self._producer.publish(
            message.body,
            exchange=self._exchange,
            routing_key=self._routing_key or message.routing_key,
            content_type=CONTENT_TYPE,
            content_encoding="utf-8",
            headers=message.headers,
            message_id=message.id,
            delivery_mode=_PERSISTENT,
            mandatory=True,
        )
        self._tag += 1

    def _wait(self, flight: _Flight, done: Callable[[], bool]) -> None:
        """Read answers until ``done`` or, with something refused, until nothing is in flight."""
        heard = time.monotonic()
        while not (done() or (flight.refused is not None and not flight.resources)):
            if self._halted:
                self._land(flight)
                self.close()
                raise BrokerError("publishing was told to stop")
            before = len(flight.resources)
            _drain(self._connection, _SLICE)
            flight.tell()
            if len(flight.resources) != before:
                heard = time.monotonic()
            elif time.monotonic() - heard > self._patience:
                self.close()
                raise BrokerError(
                    f"the broker has confirmed nothing for {self._patience:.0f} s (is it out of memory or disk?)"
                )

    def _land(self, flight: _Flight) -> None:
        """Give what is in flight a moment, so that little of it arrives twice."""
        until = time.monotonic() + _SLICE
        while flight.resources and (left := until - time.monotonic()) > 0:
            _drain(self._connection, left)
        flight.tell(1)

    @contextmanager
    def _listening(self, flight: _Flight) -> Iterator[None]:
        """Lead the broker's answers to ``flight``."""
        answers = {"basic_ack": flight.on_ack, "basic_nack": flight.on_nack, "basic_return": flight.on_return}
        for name, callback in answers.items():
            self._channel.events[name] = {callback}
        yield

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turn amqp's errors into ours, and let go of the connection, of which nothing is known any more."""
        try:
            with _speaking():
                yield
        except BrokerError:
            self.close()
            raise


@contextmanager
def _speaking() -> Iterator[None]:
    try:
        yield
    except _GONE as error:
        kind = Fenced if getattr(error, "reply_code", None) == _LOCKED else BrokerError
        raise kind(_explain(error)) from error


def _explain(error: Exception) -> str:
    """What is wrong and what would be right. Brokers name queues and exchanges in their words, never a message."""
    code, words = getattr(error, "reply_code", None), str(error) or type(error).__name__
    if code == _LOCKED:
        return f"another relay publishes to this exchange, and only one may: stop it, or wait until the broker misses it ({words})"
    if code == _INEQUIVALENT:
        return f"a queue or exchange is there already, made otherwise: delete it, or name another in the configuration ({words})"
    if (distrust := why_no_tls(error)) is not None:
        return distrust
    return f"the broker cannot be reached or ended the connection ({words})"


def _drain(connection: Any, seconds: float) -> None:
    """Read what has come, waiting at most so long for the first of it, and keep the heartbeat."""
    with suppress(TimeoutError):
        connection.drain_events(timeout=seconds)
    connection.heartbeat_check()


def _octets(body: bytes | str) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body)
