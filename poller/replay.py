"""Replay: events of the past again, with their ids, without one call to the source.

To a queue of its own, to a file, or into a live queue. There an event of the past must never come behind a later one that was delivered
meanwhile; so delivery to that sink waits, for the whole practice, from where the sink stood when nothing was under way, until the replay
has come to that place (:class:`Hold`). How far a replay is, is kept; a stop repeats at most what was last sent, under the same ids.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from poller.broker.port import Broker, Publisher
from poller.core.envelope import Message, message
from poller.core.model import Event
from poller.core.pace import Pace
from poller.core.sink import Payload, Sink
from poller.errors import BrokerError, Fenced, PollerError, StoreError
from poller.store.log import EventLog, Place, Position, Selection
from poller.store.replays import ReplayRecord, ReplayStore

_BATCH = 500
_CHECKPOINT = 5_000
"""Events between two notes of how far a file is: each waits for the disk."""
_KEEP_EVERY = 15.0
_PATIENCE = 60.0
"""Seconds to wait until delivery has stopped."""


class Destination(Protocol):
    """Where a replay goes."""

    checkpoint: int
    """Events after which it is worth noting how far it is."""

    def send(self, messages: Sequence[Message]) -> None:
        """Send in order; all of them, or an error. Raises BrokerError."""
        ...

    def settle(self) -> int:
        """Make sure that what was sent stays; bytes in the file, 0 where there is none."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class QueueDestination:
    """A queue, past all exchanges; what :meth:`send` returns from is confirmed."""

    checkpoint = 1

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        publisher.open()

    def send(self, messages: Sequence[Message]) -> None:
        """Publish. Raises BrokerError for what is refused."""
        outcome = self._publisher.publish(messages)
        if outcome.refused is not None:
            raise BrokerError(f"the queue refuses the next event ({outcome.refused}); mend it, then resume")

    def settle(self) -> int:
        """Nothing is left to do."""
        return 0

    def close(self) -> None:
        """Close the connection."""
        self._publisher.close()


def _lines(messages: Sequence[Message]) -> bytes:
    return b"\n".join([*(one.body for one in messages), b""])


class FileDestination:
    """A file of NDJSON, one event a line; what stands behind ``written`` bytes, from a replay that was stopped, is cut off."""

    checkpoint = _CHECKPOINT

    def __init__(self, path: Path, written: int = 0) -> None:
        """Raises PollerError for a file that cannot be written, is there already, or is shorter than it was."""
        try:
            self._file: BinaryIO = path.open("r+b" if written else "xb")
            size = self._file.seek(0, os.SEEK_END)
            if size < written:
                raise PollerError(
                    f"{path} is shorter than it was when the replay stopped; begin the replay anew, to another file"
                )
            self._file.truncate(written)
            self._file.seek(written)
        except FileExistsError:
            raise PollerError(f"{path} is there already; name another file") from None
        except OSError as error:
            raise PollerError(f"{path} cannot be written ({error.strerror})") from None

    def send(self, messages: Sequence[Message]) -> None:
        """Write."""
        self._file.write(_lines(messages))

    def settle(self) -> int:
        """Wait for the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class StreamDestination:
    """Standard output, as NDJSON. What a reader of it has is not known, so nothing can be resumed."""

    checkpoint = _CHECKPOINT

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def send(self, messages: Sequence[Message]) -> None:
        """Write."""
        self._stream.write(_lines(messages))

    def settle(self) -> int:
        """Hand on what is buffered."""
        self._stream.flush()
        return 0

    def close(self) -> None:
        """It is not ours to close."""
        self.settle()


class Hold:
    """Keeps delivery to a sink from going on in a practice while a replay goes into one of its queues."""

    def __init__(self, store: ReplayStore, record: ReplayRecord) -> None:
        self._store = store
        self._record = record
        self._kept = time.monotonic()

    def wait(
        self,
        settle: Callable[[], object],
        publisher: Publisher,
        check: Callable[[], None],
        *,
        patience: float = _PATIENCE,
    ) -> Place:
        """Ask, and wait until whoever publishes for the sink has granted it; the place where it stands.

        Where nobody publishes, ``publisher`` of the sink gets its exclusive right, and ``settle`` grants while it is ours. Raises
        BrokerError when neither comes about. ``check`` is asked once nothing moves any more, and raises if there must be no replay.
        """
        self._store.ask_hold(self._record)
        until = time.monotonic() + patience
        try:
            while (place := self._store.keep_hold(self._record)) is None:
                _check_patience(until)
                try:
                    publisher.open()
                    settle()
                except Fenced:
                    time.sleep(0.2)  # a relay publishes, and will grant it at its next turn
                finally:
                    publisher.close()
            check()
        except BaseException:
            self._store.end_hold(self._record)
            raise
        return place

    def keep(self) -> None:
        """Keep it alive. Raises StoreError if it has lapsed: delivery has gone on."""
        if time.monotonic() - self._kept < _KEEP_EVERY:
            return
        self.renew()

    def renew(self) -> None:
        """The same at once."""
        if self._store.keep_hold(self._record) is None:
            raise StoreError(
                f"replay {self._record.replay} has paused for too long, and delivery to sink {self._record.sink} has gone on; what is left"
                " would come behind it. Begin a new replay"
            )
        self._kept = time.monotonic()

    def end(self) -> None:
        """Let delivery go on."""
        self._store.end_hold(self._record)


def _check_patience(until: float) -> None:
    if time.monotonic() > until:
        raise BrokerError(
            "delivery to the sink did not stop: its poller is busy with a broker that does not answer; try again later"
        )


def check_live(sink: Sink, practice: str, positions: Sequence[Position]) -> None:
    """Make sure that a replay can go into a queue of ``sink``. Raises PollerError with what to do first."""
    position = next((one for one in positions if one.practice == practice), None)
    if position is None or not position.sequence:
        raise PollerError(
            f"sink {sink.name} has delivered nothing of practice {practice} yet; there is nothing to replay into it"
        )
    if position.snapshot_type is not None:
        raise PollerError(
            f"sink {sink.name} is still at its snapshot of practice {practice}; replay when that has gone out"
        )
    if position.parked:
        raise PollerError(
            f"events of practice {practice} are parked for sink {sink.name}, and would come behind the replay; first `poller sinks release`"
            " or discard them"
        )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's search for cycles, of which a replay makes none: it took nearly half of the time, going through all that lives."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass
class Player:
    """Carries a replay to its end, or until ``stopping``."""

    log: EventLog
    record: ReplayRecord
    destination: Destination
    base_url: str
    store: ReplayStore | None = None
    """None: how far it is, is not kept."""
    hold: Hold | None = None
    wants: Callable[[Event], bool] = lambda _: True
    reads_bodies: bool = False
    """Whether ``wants`` looks into bodies."""
    rate: float | None = None
    """Events a second at most."""
    progress: Callable[[int], None] = lambda _: None
    """Told of every run of events that went out."""

    def play(self, stopping: threading.Event | None = None) -> bool:
        """Go on from where the record stands; whether it came to its end. Raises BrokerError and StoreError; then resume.

        Raises NotFound where retention has overtaken it: then what is kept needs a new one.
        """
        with _uncollected():
            return self._play(stopping or threading.Event())

    def _play(self, stop: threading.Event) -> bool:
        pace = Pace(self.rate) if self.rate is not None else None
        record, unsettled = self.record, 0
        bodies = record.payload == "full-resource" or self.reads_bodies
        pages = self.log.pages(
            record.selection,
            record.at,
            record.end,
            bodies=bodies,
            of_deleted=self.reads_bodies,
            began_at=record.began_at,
        )
        at, routed = record.at, record.routed
        for page in pages:
            wanted = [event for event in page if event.id and self.wants(event)]  # without: its patient was forgotten
            while wanted:
                if stop.is_set():
                    self._note(at, routed, unsettled)
                    return False
                count = _BATCH if pace is None else min(_BATCH, pace.allowed(time.monotonic()))
                if pace is not None and count == 0:
                    stop.wait(pace.wait())
                    continue
                batch, wanted = wanted[:count], wanted[count:]
                if self.hold is not None:
                    self.hold.keep()
                messages = list(self._messages(batch, routed))
                self.destination.send(messages)
                if pace is not None:
                    pace.spend(len(batch))
                at, unsettled = (batch[-1].epoch, batch[-1].sequence), unsettled + len(batch)
                routed = messages[-1].sequence
                self.progress(len(batch))
                if unsettled >= self.destination.checkpoint:
                    self._note(at, routed, unsettled)
                    unsettled = 0
            at = (page[-1].epoch, page[-1].sequence)
            gc.collect(1)  # what others on the way have made, if they have
        self._note(at, routed, unsettled, "done")
        return True

    def _note(self, at: Place, routed: str | None, sent: int, state: str = "running") -> None:
        written = self.destination.settle()
        if self.store is not None:
            self.store.move(self.record, at, routed=routed, sent=sent, written=written, state=state)
        total = self.record.sent + sent
        self.record = replace(self.record, at=at, routed=routed, sent=total, written=written, state=state)

    def _messages(self, events: Sequence[Event], routed: str | None) -> Iterator[Message]:
        """The events as first published but for origin, replayid, and previoussequence, which chains what the replay sends."""
        replay, payload = self.record.replay, self.record.payload
        for event in events:
            made = message(event, base_url=self.base_url, payload=payload, previous_sequence=routed, replay_id=replay)
            yield made
            routed = made.sequence


def replay(
    log: EventLog, broker: Broker, selection: Selection, *, base_url: str, payload: Payload, queue: str, replay_id: str
) -> int:
    """Publish the selected events to ``queue`` again, in one go and without keeping how far; returns how many.

    Raises NotFound for a practice without history and for what is past retention, BrokerError when the broker fails.
    """
    begin, end = log.span(selection)
    record = ReplayRecord(replay_id, selection, payload, queue, None, None, begin, end, None, "")
    destination = QueueDestination(broker.queue_publisher(queue))
    try:
        player = Player(log, record, destination, base_url)
        player.play()
    finally:
        destination.close()
    return player.record.sent
