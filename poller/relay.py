"""Hop 8 of a change's way: events after each sink's cursor go to its broker, and the cursor follows what was confirmed.

The log is the truth. Whatever happens (a crash, a broker that is away, a refusal) the next thing sent is the first event behind the cursor.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Protocol

import structlog

from poller import metrics
from poller.core.backoff import pause
from poller.core.envelope import message, wire_sequence
from poller.errors import BrokerError, PollerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from poller.broker.port import Publisher
    from poller.core.envelope import Message
    from poller.core.model import Event
    from poller.core.sink import Sink
    from poller.store.log import Position

log = structlog.get_logger(__name__)

_BATCH = 500
"""Events read, sent and passed by the cursor together."""


class EventLog(Protocol):
    """What the relay asks of the store."""

    def positions(self, sink: str) -> list[Position]:
        """Where the sink stands in every practice's log."""
        ...

    def after(self, practice: str, epoch: int, sequence: int, limit: int, *, bodies: bool) -> list[Event]:
        """The events after a position, in order; with bodies if asked."""
        ...

    def advance(self, sink: str, practice: str, epoch: int, sequence: int, routed: str | None) -> None:
        """Move the cursor on. Raises StoreError if another relay has moved it."""
        ...


@dataclass
class _Trouble:
    """What keeps a sink, or one practice's stream to it, from going on, and until when to leave it alone."""

    reason: str | None = None
    times: int = 0
    until: float = 0.0

    def remaining(self) -> float:
        """Seconds to leave it alone."""
        return max(0.0, self.until - time.monotonic())

    def happened(self, reason: str) -> bool:
        """Note it; whether it is news."""
        news = reason != self.reason
        self.times = 1 if self.reason is None else self.times + 1
        self.reason = reason
        self.until = time.monotonic() + pause(self.times, random.random())  # noqa: S311 - spreads retries, guards nothing
        return news

    def over(self) -> bool:
        """Note that it went well; whether that is news."""
        news = self.reason is not None
        self.reason, self.times, self.until = None, 0, 0.0
        return news


@dataclass
class Outlet:
    """A sink and the way there."""

    sink: Sink
    publisher: Publisher
    trouble: _Trouble = field(default_factory=_Trouble)
    streams: dict[str, _Trouble] = field(default_factory=dict)
    """By practice."""

    def stream(self, practice: str) -> _Trouble:
        """The state of one practice's stream to this sink."""
        return self.streams.setdefault(practice, _Trouble())


class Relay:
    """Carries the log to the sinks, on a thread of its own."""

    def __init__(
        self, event_log: EventLog, outlets: Sequence[Outlet], sources: Mapping[str, str], *, poll: float = 1.0
    ) -> None:
        """``sources``: base URL by practice. ``poll``: seconds between two looks at the log without :meth:`notify`."""
        self._log = event_log
        self._outlets = outlets
        self._sources = sources
        self._poll = poll
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self.run, name="relay", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def notify(self) -> None:
        """There is something new in the log. Safe from any thread."""
        self._wake.set()

    def stop(self, timeout: float | None = 20.0) -> None:
        """End soon, wherever it stands, and wait for it; nothing is lost by it."""
        self._stopping.set()
        self._wake.set()
        for outlet in self._outlets:
            outlet.publisher.halt()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def troubles(self) -> dict[str, str]:
        """What keeps sinks, or one practice's events to them, from going on; nothing when all is well. Safe from any thread."""
        found = {o.sink.name: o.trouble.reason for o in self._outlets if o.trouble.reason is not None}
        for outlet in self._outlets:
            for practice, stream in list(outlet.streams.items()):
                if stream.reason is not None:
                    found[f"{outlet.sink.name}, practice {practice}"] = stream.reason
        return found

    def run(self) -> None:
        """Turn after turn until stopped."""
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                busy = [self._turn(outlet) for outlet in self._outlets]
                if not any(busy):
                    self._wake.wait(self._poll)
        finally:
            for outlet in self._outlets:
                outlet.publisher.close()

    def _turn(self, outlet: Outlet) -> bool:
        """Serve one sink once. Returns whether it is worth coming back at once."""
        if outlet.trouble.remaining():
            return False
        try:
            busy = self._serve(outlet)
        except Exception as error:  # noqa: BLE001 - whatever it was: said aloud, shown, and tried again, for events must not stop for good
            if not self._stopping.is_set():
                self._away(outlet, error)
            return False
        if outlet.trouble.over():
            log.info("the sink takes events again", action="relay.recovered", sink=outlet.sink.name)
        return busy

    def _away(self, outlet: Outlet, error: Exception) -> None:
        """Let go of the connection and wait; only our own errors have words that may be logged."""
        outlet.publisher.close()
        reason = str(error) if isinstance(error, PollerError) else type(error).__name__
        if outlet.trouble.happened(reason):
            away = "relay.broker_away" if isinstance(error, BrokerError) else "relay.failed"
            log.error("events wait in the log", action=away, sink=outlet.sink.name, reason=reason)

    def _serve(self, outlet: Outlet) -> bool:
        outlet.publisher.open()
        outlet.publisher.tend()
        busy = False
        for position in self._log.positions(outlet.sink.name):
            lag = position.head - (position.sequence if position.epoch == position.head_epoch else 0)
            metrics.SINK_LAG.labels(outlet.sink.name, position.practice).set(max(0, lag))
            if self._stopping.is_set():
                return False
            behind = (position.epoch, position.sequence) != (position.head_epoch, position.head)
            if behind and not outlet.stream(position.practice).remaining():
                busy |= self._carry(outlet, position)
        return busy

    def _carry(self, outlet: Outlet, position: Position) -> bool:
        """Send a batch of one practice's events. Returns whether that went well and more may wait."""
        sink, practice = outlet.sink, position.practice
        if hindrance := self._hindrance(position):
            self._stuck(outlet, practice, hindrance, "relay.halted")
            return False
        stream = outlet.stream(practice)
        if stream.reason is not None:
            outlet.publisher.declare()
        limit = (
            _BATCH if stream.reason is None else 1
        )  # what was refused is tried alone, lest its successors arrive again and again
        full = sink.payload == "full-resource"
        events = self._log.after(practice, position.epoch, position.sequence, limit, bodies=full)
        wanted = [event for event in events if sink.wants(event)]
        outcome = outlet.publisher.publish(list(self._messages(sink, wanted, position.routed)))
        refused = wanted[outcome.confirmed] if outcome.refused is not None else None
        passed = list(takewhile(lambda event: event is not refused, events))
        if passed:
            last = wanted[outcome.confirmed - 1] if outcome.confirmed else None
            routed = wire_sequence(last.epoch, last.sequence) if last is not None else position.routed
            self._log.advance(sink.name, practice, passed[-1].epoch, passed[-1].sequence, routed)
            metrics.PUBLISHED.labels(sink.name, practice).inc(outcome.confirmed)
        if outcome.refused is not None:
            self._stuck(outlet, practice, outcome.refused, "relay.refused")
            return False
        if stream.over():
            metrics.REFUSED.labels(sink.name, practice).set(0)
            log.info(
                "the sink takes this practice's events again", action="relay.resumed", sink=sink.name, practice=practice
            )
        return bool(events)

    def _hindrance(self, position: Position) -> str | None:
        """Why nothing of this practice may be sent now."""
        if (position.epoch, position.sequence) > (position.head_epoch, position.head):
            return (
                "the log ends before what was already sent: this database was restored from a backup. Start a new epoch for the"
                " practice before anything is published"
            )
        if position.practice not in self._sources:
            return "the practice is no longer configured, though events of it wait"
        return None

    def _stuck(self, outlet: Outlet, practice: str, reason: str, action: str) -> None:
        """Leave this practice's stream alone for a while; the others go on."""
        metrics.REFUSED.labels(outlet.sink.name, practice).set(1)
        if outlet.stream(practice).happened(reason):
            log.error(
                "this practice's events wait in the log",
                action=action,
                sink=outlet.sink.name,
                practice=practice,
                reason=reason,
            )

    def _messages(self, sink: Sink, events: Sequence[Event], routed: str | None) -> Iterator[Message]:
        """Chain each event to the one routed to this sink before it."""
        for event in events:
            source = self._sources[event.practice]
            yield message(event, base_url=source, payload=sink.payload, previous_sequence=routed)
            routed = wire_sequence(event.epoch, event.sequence)
