"""What the engine asks of a broker."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    from poller.core.envelope import Message
    from poller.core.sink import Sink

WINDOW = 500
"""Messages that are sent at most before whoever publishes is told of their answers: as many may arrive twice after a crash."""


class Cause(StrEnum):
    """What a refusal is about, which decides whether it can be of one event alone."""

    UNROUTABLE = "unroutable"
    """No queue is bound that wants it: of this event, or of all, as others will show."""
    UNACCEPTABLE = "unacceptable"
    """The broker takes no such message: too large. Of this event, and for good."""
    NOT_TAKEN = "not-taken"
    """A queue is full, or its leader is away: of whatever comes, until that has changed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run of messages."""

    confirmed: int
    """How many of them, from the first on without a gap, the broker has taken and routed to a queue."""
    refused: str | None = None
    """Why the next one was not taken; None when all were."""
    cause: Cause | None = None


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

    def publish(self, messages: Sequence[Message], settled: Callable[[int], None] | None = None) -> Outcome:
        """Send in order; return when each has its answer or the first was refused.

        ``settled`` is told meanwhile how many from the first on have been taken, so that :data:`WINDOW` are never sent beyond what it
        knows of. What it raises ends the publish like a broker that is gone.

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

    def queue_publisher(self, queue: str) -> Publisher:
        """A closed publisher into a durable queue, made if need be, past all exchanges. Any number may be open at once."""
        ...

    def tail(self, exchange: str, patterns: Sequence[str], stopping: threading.Event) -> Iterator[bytes]:
        """Bodies of the messages that pass ``exchange`` from now on, until ``stopping``.

        From a temporary queue of its own: takes nothing from anyone's. Raises BrokerError.
        """
        ...


@runtime_checkable
class Eraser(Protocol):
    """A broker of which something can be taken away."""

    def delete_queue(self, queue: str) -> int | None:
        """Delete a queue, and the one for its dead letters; messages that were there, None where there was no queue. Raises BrokerError."""
        ...

    def sweep(self, queue: str, practice: str) -> int | None:
        """Take a practice's messages out of a queue; how many. None where single messages cannot be taken out. Raises BrokerError."""
        ...
