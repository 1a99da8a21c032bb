"""What a courier works with: the log as a sink sees it, the way to the broker, and what stands in it."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from poller import metrics
from poller.core.backoff import pause
from poller.core.sink import settle

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from poller.broker.port import Publisher
    from poller.core.model import Event
    from poller.core.sink import Fate, Sink, Step
    from poller.store.log import Position
    from poller.store.sinks import Wish


class SinkLog(Protocol):
    """What the relay asks of the store."""

    def begin(self, sink: Sink) -> None:
        """Let a new sink take its place in the log."""
        ...

    def settle_holds(self, sink: str) -> list[tuple[str, str, bool]]:
        """Grant the holds that are asked for, and end those that have lapsed."""
        ...

    def positions(self, sink: str) -> list[Position]:
        """Where the sink stands in every practice's log."""
        ...

    def after(
        self, practice: str, epoch: int, sequence: int, limit: int, *, bodies: bool, of_deleted: bool = False
    ) -> list[Event]:
        """The events after a position, in order; with bodies if asked."""
        ...

    def snapshot(self, practice: str, position: Position, limit: int) -> list[Event]:
        """The next resources of the snapshot that the sink starts from, as events."""
        ...

    def end_snapshot(self, sink: str, position: Position) -> None:
        """The snapshot has gone out."""
        ...

    def parked_among(self, sink: str, practice: str, events: Sequence[Event]) -> set[tuple[str, str]]:
        """Those resources of ``events`` of which events are parked."""
        ...

    def to_park(self, sink: str, practice: str) -> Sequence[Wish]:
        """What operators want parked, and the sink has not come to."""
        ...

    def meet(self, sink: str, position: Position) -> list[bool]:
        """Of each event that an operator wanted parked, and the sink has passed since: whether it was."""
        ...

    def advance(self, sink: str, position: Position, step: Step) -> Position:
        """Move the cursor past the step, park and book; where it stands then. Raises StoreError if another relay has moved it."""
        ...

    def released(self, sink: Sink, practice: str, limit: int) -> list[Event]:
        """The first parked events that are to be tried again, in order."""
        ...

    def unpark(self, sink: str, position: Position, events: Sequence[Event], delivered: Sequence[Event]) -> None:
        """Take events out of the parked ones, those delivered having gone to the queues. Raises StoreError as above."""
        ...

    def park_again(self, sink: str, practice: str, event: Event, reason: str) -> None:
        """A released event was refused once more."""
        ...

    def note_trouble(self, sink: str, practice: str, reason: str) -> None:
        """Keep why the sink does not go on in a practice, or in all."""
        ...

    def clear_trouble(self, sink: str, practice: str | None = None) -> None:
        """It goes on there; None: in all, whatever was noted."""
        ...


@dataclass
class Trouble:
    """What keeps a sink, or one practice's stream to it, from going on, and until when to leave it alone."""

    reason: str | None = None
    times: int = 0
    until: float = 0.0
    event: uuid.UUID | None = None
    """The event that is refused."""
    refusals: int = 0
    """Of that event, in a row."""
    said: set[str] = field(default_factory=set)
    """The reasons that there have been since it went well: a broker that is away can be so in several ways by turns."""

    def remaining(self) -> float:
        """Seconds to leave it alone."""
        return max(0.0, self.until - time.monotonic())

    def tries_of(self, event: Event) -> int:
        """How often this event was refused in a row."""
        return self.refusals if self.event == event.event_id else 0

    def happened(self, reason: str, event: Event | None = None) -> bool:
        """Note it; whether this reason is news."""
        news = reason not in self.said
        self.said.add(reason)
        self.times = 1 if self.reason is None else self.times + 1
        self.refusals = self.tries_of(event) + 1 if event is not None else 0
        self.event = event.event_id if event is not None else None
        self.reason = reason
        self.until = time.monotonic() + pause(self.times, random.random())  # noqa: S311 - spreads retries, guards nothing
        return news

    def over(self) -> bool:
        """Note that it went well; whether that is news."""
        news = self.reason is not None
        self.reason, self.times, self.until, self.event, self.refusals = None, 0, 0.0, None, 0
        self.said.clear()
        return news


@dataclass
class Run:
    """Events on their way to a sink, and what of them its cursor has passed."""

    log: SinkLog
    sink: str
    position: Position
    events: Sequence[Event]
    fates: Sequence[Fate]
    _passed: int = 0
    _taken: int = 0

    def book(self, taken: int) -> None:
        """Move the cursor behind the first ``taken`` of the events to send, and what needs no sending next to them."""
        step = settle(self.events[self._passed :], self.fates[self._passed :], taken - self._taken)
        if step is not None:
            self._taken = taken
            self.move(step)

    def move(self, step: Step) -> None:
        """Move it past a step."""
        self.position = self.log.advance(self.sink, self.position, step)
        self._passed += step.passed
        metrics.PUBLISHED.labels(self.sink, self.position.practice).inc(step.delivered)


@dataclass
class Outlet:
    """A sink and the way there."""

    sink: Sink
    publisher: Publisher
    trouble: Trouble = field(default_factory=Trouble)
    streams: dict[str, Trouble] = field(default_factory=dict)
    """By practice."""

    def stream(self, practice: str) -> Trouble:
        """The state of one practice's stream to this sink."""
        return self.streams.setdefault(practice, Trouble())
