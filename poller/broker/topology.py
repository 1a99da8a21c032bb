"""Exchanges, queues and bindings, as the configuration names them."""

# mypy: disable-error-code="no-untyped-call"
# kombu says it is typed and is not.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kombu.entity import Exchange, Queue

from poller.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poller.core.sink import Sink

DELIVERY_LIMIT = 100
"""Redeliveries after which a message is dead-lettered. RabbitMQ 4 would drop it after 20, said or not; and a consumer that is killed again
and again with a hundred messages at hand must not lose those it never looked at."""

PGMQ_NAME_LENGTH = 47
"""pgmq makes tables of queue names."""


def dead_letter_queue(queue: str) -> str:
    """Where a queue's dead letters go."""
    return f"{queue}.dead"


def rabbit_arguments(queue: str) -> dict[str, Any]:
    """Arguments of a queue that holds events: replicated, one consumer at a time (order), never dropping silently."""
    return {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-overflow": "reject-publish",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_letter_queue(queue),
        "x-dead-letter-strategy": "at-least-once",
    }


def dead_letter_arguments() -> dict[str, Any]:
    """Arguments of a queue that holds dead letters: kept until someone looks."""
    return {"x-queue-type": "quorum", "x-overflow": "reject-publish"}


def declare_on_rabbit(channel: Any, sink: Sink) -> None:
    """Make what ``sink`` needs; nothing where it is there already. amqp's errors pass, 406 when something is there with other arguments."""
    Exchange(sink.exchange, type="topic", durable=True)(channel).declare()
    for name in sink.queues:
        declare_queue_on_rabbit(channel, name)
        _bind(channel, name, sink)


def declare_queue_on_rabbit(channel: Any, name: str) -> None:
    """A durable queue for events, and the one for its dead letters, which must be there first."""
    dead = dead_letter_queue(name)
    for queue, arguments in ((dead, dead_letter_arguments()), (name, rabbit_arguments(name))):
        Queue(queue, durable=True, queue_arguments=arguments)(channel).queue_declare()


def declare_on_pgmq(channel: Any, sink: Sink) -> None:
    """The same for pgmq, where a queue has no arguments. Raises BrokerError for names that pgmq cannot tell apart."""
    Exchange(sink.exchange, type="topic", durable=True)(channel).declare()
    tables: Mapping[str, str] = {pgmq_name(name): name for name in sink.queues}
    if len(tables) != len(set(sink.queues)):
        raise BrokerError(f"sink {sink.name}: two of its queues have the same name once pgmq has put _ for punctuation")
    for name in sink.queues:
        declare_queue_on_pgmq(channel, name)
        _bind(channel, name, sink)


def declare_queue_on_pgmq(channel: Any, name: str) -> None:
    """A durable queue. Raises BrokerError for a name that pgmq has no room for."""
    if len(pgmq_name(name)) > PGMQ_NAME_LENGTH:
        raise BrokerError(f"queue {name}: pgmq takes names of at most {PGMQ_NAME_LENGTH} characters")
    Queue(name, durable=True)(channel).queue_declare()


def pgmq_name(queue: str) -> str:
    """What kombu makes of a queue's name, as pgmq knows it."""
    return re.sub(r"[^\w]|[^\x00-\x7f]", "_", queue)


def _bind(channel: Any, queue: str, sink: Sink) -> None:
    """Bind by the sink's filter.

    Bindings of a filter that was wider stay, harmless: the relay filters by itself before it publishes.
    """
    bound = Queue(queue)(channel)
    for pattern in sink.only.patterns():
        bound.bind_to(exchange=sink.exchange, routing_key=pattern)
