"""What the engine asks of a broker."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from poller.errors import BrokerError

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator, Sequence

    from poller.core.envelope import Message
    from poller.core.sink import Sink


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run of messages."""

    confirmed: int
    """How many of them, from the first on without a gap, the broker has taken and routed to a queue."""
    refused: str | None = None
    """Why the next one was not taken; None when all were."""


class Publisher(Protocol):
    """Sends the messages of one sink. Used by one thread, :meth:`halt` apart.

    Only one publisher of an exchange can be open at a time, over all processes: a second one would break the order.
    """

    def open(self) -> None:
        """Connect, declare exchange, queues and bindings, shut others out; nothing when open already. Raises BrokerError."""
        ...

    def declare(self) -> None:
        """Make exchange, queues and bindings again, where someone has taken them away. Raises BrokerError."""
        ...

    def publish(self, messages: Sequence[Message]) -> Outcome:
        """Send in order; return when each has its answer or the first was refused.

        Never has two messages of one resource in flight: were the earlier refused, the later would overtake it. What was sent behind a
        refused message may have been taken as well, and will be sent again under the same id. Raises BrokerError when the broker is
        gone, and then nothing is known of any message: send them all again.
        """
        ...

    def tend(self) -> None:
        """Keep the connection alive while there is nothing to send. Raises BrokerError when it is gone."""
        ...

    def halt(self) -> None:
        """Make a publish under way give up soon, with a BrokerError. Safe from any thread."""
        ...

    def close(self) -> None:
        """Let go of the connection, and of the exchange. Safe to repeat; :meth:`open` opens again."""
        ...


class Broker(Protocol):
    """A message broker."""

    def publisher(self, sink: Sink) -> Publisher:
        """A closed publisher for ``sink``."""
        ...

    def publish_to_queue(self, queue: str, messages: Iterable[Message]) -> int:
        """Put ``messages`` into a durable queue, made if need be, past all exchanges; how many. Raises BrokerError unless all are in."""
        ...

    def tail(self, exchange: str, patterns: Sequence[str], stopping: threading.Event) -> Iterator[bytes]:
        """Bodies of the messages that pass ``exchange`` from now on, until ``stopping``.

        From a temporary queue of its own: takes nothing from anyone's. Raises BrokerError.
        """
        ...


def send_all(publisher: Publisher, messages: Iterable[Message], *, batch: int = 1000) -> int:
    """Publish ``messages`` to the last, however many; how many they were. Raises BrokerError at the first that is refused."""
    publisher.open()
    remaining, total = iter(messages), 0
    while run := list(islice(remaining, batch)):
        outcome = publisher.publish(run)
        total += outcome.confirmed
        if outcome.refused is not None:
            raise BrokerError(f"after {total} messages the next was {outcome.refused}")
    return total
