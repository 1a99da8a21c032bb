"""One sink's way out: what is behind its cursor, what is refused, and what is parked for it.

A refusal of everything (a full queue, a broker without memory, an exchange without queues) holds the stream: nothing is lost by waiting.
A refusal of one event alone must not. So an event that was refused :data:`TRIES` times is parked only if the broker says that it will never
take it, or if it was unroutable and, at once afterwards, another event was taken.
"""

from __future__ import annotations

import threading
import time
from itertools import takewhile
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import DBAPIError

from poller import metrics
from poller.broker.port import Cause
from poller.core.audit import WHOLE
from poller.core.envelope import message
from poller.core.pace import Pace
from poller.core.sink import Fate, go_around, park_first, sort_out, witnesses
from poller.errors import BrokerError, PollerError
from poller.outlet import Run
from poller.spans import span

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping, Sequence

    from poller.broker.port import Outcome
    from poller.core.envelope import Message
    from poller.core.model import Event
    from poller.core.sink import Step
    from poller.outlet import Outlet, SinkLog
    from poller.store.log import Position

log = structlog.get_logger(__name__)

_BATCH = 2000
"""Events read and sent in one go; the cursor follows meanwhile, and at most :data:`poller.broker.port.WINDOW` are sent beyond it."""
_FEW = 500
"""Events read where one is sent, and by others behind it is told whether all are refused; and resources of a snapshot read in one go, whose
bodies nothing bounds."""
_RELEASED = 50
"""Released events sent together: few, since what is sent behind one that is refused again arrives twice."""
TRIES = 3
"""Refusals of an event before it is asked whether others pass."""
_WITNESSES = 4
"""Other events by which that is asked."""

_RESTORED = (
    "the log ends before what was already sent: this database was restored from a backup. Start a new epoch for the"
    " practice before anything is published"
)
_OVERTAKEN = (
    "events that this sink has not had are past retention, dropped while it was not configured. Give it another name, and"
    " start: snapshot, to begin from what is there now"
)


class Courier:
    """Carries the log to one sink."""

    def __init__(
        self, event_log: SinkLog, outlet: Outlet, sources: Mapping[str, str], poll: float, theirs: Container[str] = ()
    ) -> None:
        """``theirs``: the practices of other pollers on the store, which are left out unless ``sources`` has them."""
        self._log = event_log
        self._outlet = outlet
        self.sink = self._sink = outlet.sink
        self._publisher = outlet.publisher
        self._sources = sources
        self._theirs = theirs
        self._left_out: set[str] = set()
        self._poll = poll
        self._lull = poll
        """Seconds until the next look, unless there is news."""
        self._pace = Pace(outlet.sink.pace) if outlet.sink.pace is not None else None
        self._begun = False
        self._furthest: dict[str, tuple[tuple[int, int], tuple[int, int, int]]] = {}
        """By practice: the furthest head and cursor that were ever seen."""
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"relay:{outlet.sink.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def notify(self) -> None:
        """There is something new in the log."""
        self._wake.set()

    def halt(self) -> None:
        """Make it end soon."""
        self._stopping.set()
        self._wake.set()
        self._publisher.halt()

    def join(self, timeout: float) -> None:
        """Wait until it has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def troubles(self) -> dict[str, str]:
        """What keeps it from going on."""
        name, trouble = self._sink.name, self._outlet.trouble
        found = {name: trouble.reason} if trouble.reason is not None else {}
        for practice, stream in list(self._outlet.streams.items()):
            if stream.reason is not None:
                found[f"{name}, practice {practice}"] = stream.reason
        return found

    def _run(self) -> None:
        """Turn after turn until stopped."""
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                if not self._turn():
                    self._wake.wait(self._lull)
        finally:
            self._publisher.close()

    def _turn(self) -> bool:
        """Go once through all practices. Returns whether it is worth coming back at once."""
        self._lull = self._poll
        trouble = self._outlet.trouble
        if trouble.remaining():
            return False
        try:
            busy = self._serve()
        except Exception as error:  # noqa: BLE001 - whatever it was: said aloud, shown, and tried again, for events must not stop for good
            if not self._stopping.is_set():
                self._away(error)
            return False
        metrics.AWAY.labels(self._sink.name).set(0)
        if trouble.over():
            self._keep(WHOLE, None)
            log.info("the sink takes events again", action="relay.recovered", sink=self._sink.name)
        return busy

    def _away(self, error: Exception) -> None:
        """Let go of the connection and wait; only our own errors have words that may be logged."""
        self._publisher.close()
        reason = str(error) if isinstance(error, PollerError) else type(error).__name__
        metrics.AWAY.labels(self._sink.name).set(1)
        if self._outlet.trouble.happened(reason):
            away = "relay.broker_away" if isinstance(error, BrokerError) else "relay.failed"
            log.error("events wait in the log", action=away, sink=self._sink.name, reason=reason)
            self._keep(WHOLE, reason)

    def _serve(self) -> bool:
        if self._outlet.trouble.reason is not None:  # what waits grows while the broker is away, and must be seen to
            for position in self._positions():
                self._measure(position)
        self._publisher.open()
        self._publisher.tend()
        if not self._begun:
            self._log.begin(self._sink)
            self._log.clear_trouble(self._sink.name)  # what a relay before this one has noted
            self._begun = True
        busy = False
        self._settle_holds()
        positions = self._positions()
        known = {position.practice for position in positions}
        self._furthest = {
            code: place for code, place in self._furthest.items() if code in known
        }  # others were forgotten
        for position in positions:
            self._measure(position)
            if position.asked:
                self._meet(position)
            if self._stopping.is_set():
                return False
            behind = (position.epoch, position.sequence) != (position.head_epoch, position.head)
            if position.held is None and (behind or position.released or position.snapshot_type is not None):
                busy |= self._try_to_carry(position)
        return busy

    def _positions(self) -> list[Position]:
        """Where the sink stands, in what is ours. What became another poller's is not shown, or complained of, any more."""
        found = self._log.positions(self._sink.name)
        theirs = {one.practice for one in found if one.practice in self._theirs and one.practice not in self._sources}
        for practice in theirs - self._left_out:
            if self._outlet.streams.pop(practice, None) is not None:
                self._keep(practice, None)
            metrics.forget_stream(self._sink.name, practice)
        self._left_out = theirs
        return [one for one in found if one.practice not in theirs]

    def _try_to_carry(self, position: Position) -> bool:
        """What cannot be read of one practice (:func:`poller.core.canonical.body_text`) stops none of the others."""
        try:
            return self._carry(position)
        except ValueError as error:
            self._stuck(position.practice, type(error).__name__, "relay.failed")
            return False

    def _settle_holds(self) -> None:
        """Stop a practice where a replay goes into a queue of this sink; nothing of it is under way now."""
        for practice, replay, has_lapsed in self._log.settle_holds(self._sink.name):
            told = {"sink": self._sink.name, "practice": practice, "replay": replay}
            if has_lapsed:
                log.warning("a replay has not gone on, so delivery does", action="relay.hold-lapsed", **told)
            else:
                log.info("delivery waits for a replay", action="relay.held", **told)

    def _meet(self, position: Position) -> None:
        """Say what came of an operator's wish to have events parked."""
        told = {"sink": self._sink.name, "practice": position.practice}
        for was_parked in self._log.meet(self._sink.name, position):
            if was_parked:
                log.warning("an event is parked since an operator wants it so", action="relay.parked-as-asked", **told)
            else:
                log.warning("an event that was to be parked had gone out", action="relay.asked-too-late", **told)

    def _measure(self, position: Position) -> None:
        """Show where the sink stands."""
        lag = position.head - (position.sequence if position.epoch == position.head_epoch else 0)
        metrics.SINK_LAG.labels(self._sink.name, position.practice).set(max(0, lag))
        metrics.PARKED.labels(self._sink.name, position.practice).set(position.parked)

    def _carry(self, position: Position) -> bool:
        """Send a batch of one practice's events. Returns whether that went well and more may wait."""
        stream = self._outlet.stream(position.practice)
        if stream.remaining():
            return False
        if hindrance := self._hindrance(position):
            self._stuck(position.practice, hindrance, "relay.halted")
            return False
        alone = stream.reason is not None  # what was refused is tried alone, lest its successors arrive again and again
        room = self._room()
        if room == 0:
            return False
        limit = _FEW if alone else min(_BATCH, room * 2)
        if alone:
            self._publisher.declare()
        elif position.released:
            return self._send_released(position, min(room, _RELEASED))
        if position.snapshot_type is not None:
            events = self._log.snapshot(position.practice, position, min(limit, _FEW))
            if not events:
                self._log.end_snapshot(self._sink.name, position)
                return True
        else:
            events = self._after(position, limit)
        return self._send(position, events, 1 if alone else room)

    def _after(self, position: Position, limit: int) -> list[Event]:
        bodies = self._sink.reads_bodies
        return self._log.after(
            position.practice, position.epoch, position.sequence, limit, bodies=bodies, of_deleted=bodies
        )

    def _room(self) -> int:
        """How many events may be sent now."""
        if self._pace is None:
            return _BATCH
        room = min(_BATCH, self._pace.allowed(time.monotonic()))
        if room == 0:
            self._lull = min(self._poll, self._pace.wait())
        return room

    def _send(self, position: Position, events: Sequence[Event], most: int) -> bool:
        practice, sink = position.practice, self._sink
        parked = self._log.parked_among(sink.name, practice, events) if position.parked else set[tuple[str, str]]()
        wishes = self._log.to_park(sink.name, practice) if position.asked else ()
        fates = sort_out(events, sink, parked, {wish.place for wish in wishes})
        to_send = [event for event, fate in zip(events, fates, strict=True) if fate is Fate.SEND][:most]
        run = Run(self._log, sink.name, position, events, fates)
        outcome = self._publish(to_send, position.routed, run.book)
        around = self._past_refusal(position, events, fates, outcome) if most == 1 else None
        if around is None:
            run.book(outcome.confirmed)
        else:
            run.move(around)
            self._say_parked(practice, outcome.refused or "", len(around.parked))
            self._flows(practice)
            return True
        if outcome.refused is not None:
            self._stuck(practice, outcome.refused, "relay.refused", to_send[outcome.confirmed])
            return False
        self._flows(practice)
        return bool(events)

    def _past_refusal(
        self, position: Position, events: Sequence[Event], fates: Sequence[Fate], outcome: Outcome
    ) -> Step | None:
        """The step past an event that is refused for itself; None while it may be a refusal of all.

        ``outcome`` is of the first event to send, tried alone.
        """
        if outcome.refused is None or outcome.cause is Cause.NOT_TAKEN:
            return None
        refused = events[fates.index(Fate.SEND)]
        if self._outlet.stream(position.practice).tries_of(refused) + 1 < TRIES:
            return None
        if outcome.cause is Cause.UNACCEPTABLE:
            return park_first(events, fates, outcome.refused)
        for index in witnesses(events, fates, _WITNESSES):
            if self._publish([events[index]], position.routed).confirmed:
                return go_around(events, fates, index, outcome.refused)
        return None

    def _send_released(self, position: Position, most: int) -> bool:
        """Try the first released events again, in order."""
        practice, sink = position.practice, self._sink
        events = self._log.released(sink, practice, most)
        wanted = [event for event in events if sink.wants(event)]
        self._publisher.declare()
        outcome = self._publish(wanted, position.routed)
        delivered = wanted[: outcome.confirmed]
        refused = wanted[outcome.confirmed] if outcome.refused is not None else None
        gone = list(takewhile(lambda event: event is not refused, events))
        if gone:
            self._log.unpark(sink.name, position, gone, delivered)
            metrics.PUBLISHED.labels(sink.name, practice).inc(len(delivered))
        if refused is None:
            return True
        assert outcome.refused is not None  # noqa: S101 - it is what refused is made of
        if outcome.cause is Cause.NOT_TAKEN:
            self._stuck(practice, outcome.refused, "relay.refused", refused)
            return False
        self._log.park_again(sink.name, practice, refused, outcome.refused)
        self._say_parked(practice, outcome.refused, 1)
        return True

    def _publish(
        self, events: Sequence[Event], routed: str | None, settled: Callable[[int], None] | None = None
    ) -> Outcome:
        """Send events, each chained to the one routed to this sink before it."""
        if not events:
            return self._publisher.publish([], settled)
        with span("publish", sink=self._sink.name, practice=events[0].practice, events=len(events)) as told:
            outcome = self._publisher.publish(list(self._messages(events, routed)), settled)
            told.add(confirmed=outcome.confirmed, refused=outcome.cause)
        if self._pace is not None:
            self._pace.spend(outcome.confirmed)
        return outcome

    def _messages(self, events: Sequence[Event], routed: str | None) -> Iterator[Message]:
        for event in events:
            source = self._sources[event.practice]
            made = message(event, base_url=source, payload=self._sink.payload, previous_sequence=routed)
            yield made
            routed = made.sequence

    def _hindrance(self, position: Position) -> str | None:
        """Why nothing of this practice may be sent now."""
        head = (position.head_epoch, position.head)
        place = (position.epoch, position.sequence, position.ordinal)
        furthest_head, furthest = self._furthest.get(position.practice, (head, place))
        if place[:2] > head or head < furthest_head or place < furthest:
            return _RESTORED
        self._furthest[position.practice] = (head, place)
        if position.practice not in self._sources:
            return "the practice is no longer configured, though events of it wait"
        return _OVERTAKEN if position.overtaken else None

    def _stuck(self, practice: str, reason: str, action: str, event: Event | None = None) -> None:
        """Leave this practice's stream alone for a while; the others go on."""
        metrics.REFUSED.labels(self._sink.name, practice).set(1)
        if self._outlet.stream(practice).happened(reason, event):
            log.error(
                "this practice's events wait in the log",
                action=action,
                sink=self._sink.name,
                practice=practice,
                reason=reason,
            )
            self._keep(practice, reason)

    def _flows(self, practice: str) -> None:
        """This practice's events go on."""
        if self._outlet.stream(practice).over():
            metrics.REFUSED.labels(self._sink.name, practice).set(0)
            self._keep(practice, None)
            log.info(
                "the sink takes this practice's events again",
                action="relay.resumed",
                sink=self._sink.name,
                practice=practice,
            )

    def _keep(self, practice: str, reason: str | None) -> None:
        """Let `poller status` tell it, as far as there is a store to keep it in."""
        try:
            if reason is None:
                self._log.clear_trouble(self._sink.name, practice)
            else:
                self._log.note_trouble(self._sink.name, practice, reason)
        except DBAPIError as error:
            log.warning(
                "what keeps the sink could not be noted", action="relay.unnoted", sink=self._sink.name, error=error
            )

    def _say_parked(self, practice: str, reason: str, events: int) -> None:
        log.error(
            "events are parked, others go on",
            action="relay.parked",
            sink=self._sink.name,
            practice=practice,
            events=events,
            reason=reason,
        )
