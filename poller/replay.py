"""First replay: events of the past again, with their ids, to a queue of their own, without one call to the source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from poller.core.envelope import Message, message, wire_sequence
from poller.core.model import Event
from poller.core.sink import Payload
from poller.store.log import EventLog, Selection


class DirectBroker(Protocol):
    """Puts messages into a named queue, past all exchanges."""

    def publish_to_queue(self, queue: str, messages: Iterable[Message]) -> int:
        """Make the queue if need be and put the messages into it, in order; returns how many. Raises BrokerError."""
        ...


def replay(
    log: EventLog,
    broker: DirectBroker,
    selection: Selection,
    *,
    base_url: str,
    payload: Payload,
    queue: str,
    replay_id: str,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Publish the selected events to ``queue`` again; returns how many.

    They are the events as first published but for ``origin`` (``replay``), ``replayid``, and ``previoussequence``, which chains what is in
    this queue. Raises NotFound for a practice without history, BrokerError when the broker fails: then run it again, ids stay the same.
    """
    events = log.select(selection, bodies=payload == "full-resource")
    return broker.publish_to_queue(queue, _messages(events, base_url, payload, replay_id, progress))


def _messages(
    events: Iterable[Event], base_url: str, payload: Payload, replay_id: str, progress: Callable[[int], None] | None
) -> Iterator[Message]:
    previous: str | None = None
    for count, event in enumerate(events, start=1):
        yield message(event, base_url=base_url, payload=payload, previous_sequence=previous, replay_id=replay_id)
        previous = wire_sequence(event.epoch, event.sequence)
        if progress is not None:
            progress(count)
