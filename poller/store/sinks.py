"""Where sinks stand in the log, what became of each event, and what is parked: everything that a sink remembers.

One relay at a time writes here for a sink. Each step checks that the cursor stands where the relay believes, so that one that was only
asleep while another went on writes nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from poller.core.envelope import event_id, wire_sequence
from poller.core.model import Action, Event, Origin
from poller.core.sink import Sink, Step
from poller.errors import Code, NotFound, StoreError
from poller.store.engine import reading, sql
from poller.store.log import EventLog, Place, Position, Selection
from poller.store.vault import Vault

_LISTED = 10_000
"""Parked events that are shown at once."""


@dataclass(frozen=True, slots=True)
class Books:
    """What became of a practice's events at a sink."""

    sink: str
    practice: str
    start: str
    started_at: dt.datetime
    recorded: int
    """Changes ever recorded in the practice's log."""
    skipped: int
    """Before the sink's start."""
    delivered: int
    filtered: int
    discarded: int
    """Given up by a person."""
    parked: int
    released: int
    """Of those parked, to be tried again."""
    waiting: int
    in_snapshot: bool
    ordinal: int
    """Resources of the snapshot that have been passed."""
    held: str | None
    moved_at: dt.datetime | None

    @property
    def missing(self) -> int:
        """Changes of which nobody can say what became of them; 0, or something is wrong."""
        passed = self.skipped + self.delivered + self.filtered + self.discarded
        return self.recorded - passed - self.parked - self.waiting


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that is parked."""

    practice: str
    epoch: int
    sequence: int
    ordinal: int
    resource_type: str
    id: str
    reason: str
    released: bool
    parked_at: dt.datetime

    @property
    def place(self) -> tuple[int, int, int]:
        """Where it stands in the order."""
        return self.epoch, self.sequence, self.ordinal


@dataclass(frozen=True, slots=True)
class Wish:
    """An event that an operator wants parked when the sink comes to it."""

    practice: str
    epoch: int
    sequence: int
    words: str
    """Why, and who asked."""

    @property
    def place(self) -> Place:
        """Where the event stands in the log."""
        return self.epoch, self.sequence


class SinkLog(EventLog):
    """The log as a relay reads it, with the cursors that it moves. Safe to use from several threads."""

    def begin(self, sink: Sink) -> None:
        """Let a new sink take its place in the log; nothing for one that has begun. See :class:`~poller.core.sink.Start`."""
        start = sink.start
        binds = {
            "sink": sink.name,
            "start": start.at if start.since is None else start.since.isoformat(),
            "since": start.since,
            "in_log": start.at in {"beginning", "time"},
            "snapshot": start.at == "snapshot",
        }
        with self._engine.begin() as connection:
            connection.execute(sql("begin_sink"), binds)

    def settle_holds(self, sink: str) -> list[tuple[str, str, bool]]:
        """Grant the holds that replays ask for, and end those that have lapsed: practice, replay, whether it has lapsed.

        Only for whoever publishes for the sink, while nothing of it is under way.
        """
        with self._engine.begin() as connection:
            return [(*row,) for row in connection.execute(sql("settle_holds"), {"sink": sink})]

    def advance(self, sink: str, position: Position, step: Step) -> Position:
        """Move the cursor from ``position`` past the step, park and book, all or nothing. Returns where it stands then.

        Raises StoreError if the cursor does not stand there: then another relay has moved it.
        """
        last, routed = step.last, position.routed if step.routed is None else _wire(step.routed)
        to = replace(
            position, epoch=last.epoch, sequence=last.sequence, routed=routed, snapshot_type=None, snapshot_id=None
        )
        booked = {"delivered": step.delivered, "filtered": step.filtered}
        if last.ordinal:
            to = replace(to, ordinal=last.ordinal, snapshot_type=last.resource_type, snapshot_id=last.id)
            booked = {"delivered": 0, "filtered": 0}  # the books are of the log
        with self._engine.begin() as connection:
            self._move(connection, sink, position, _stays(to) | booked)
            if step.parked:
                connection.execute(
                    sql("park"),
                    _whose(sink, position.practice)
                    | {
                        "epochs": [one.event.epoch for one in step.parked],
                        "sequences": [one.event.sequence for one in step.parked],
                        "ordinals": [one.event.ordinal for one in step.parked],
                        "types": [one.event.resource_type for one in step.parked],
                        "ids": [one.event.id for one in step.parked],
                        "reasons": [one.reason for one in step.parked],
                        "refused": [not one.behind for one in step.parked],
                        "released": [one.released for one in step.parked],
                    },
                )
        return to

    def end_snapshot(self, sink: str, position: Position) -> None:
        """All resources have gone out; the log follows. Raises StoreError as :meth:`advance`."""
        to = _stays(position) | {"snapshot_type": None, "snapshot_id": None}
        with self._engine.begin() as connection:
            self._move(connection, sink, position, to)

    def parked_among(self, sink: str, practice: str, events: Sequence[Event]) -> set[tuple[str, str]]:
        """Those resources of ``events`` of which events are parked."""
        keys = sorted({(event.resource_type, event.id) for event in events})
        binds = _whose(sink, practice) | {"types": [kind for kind, _ in keys], "ids": [id_ for _, id_ in keys]}
        with reading(self._engine) as connection:
            return {tuple(row) for row in connection.execute(sql("parked_among"), binds)}

    def to_park(self, sink: str, practice: str | None = None) -> list[Wish]:
        """What operators want parked, and the sink has not come to."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql("parking_asked"), {"sink": sink, "practice": practice})
            return [Wish(*row) for row in rows]

    def meet(self, sink: str, position: Position) -> list[bool]:
        """Of each event that an operator wanted parked, and the sink has passed since: whether it was."""
        binds = _whose(sink, position.practice) | {"epoch": position.epoch, "sequence": position.sequence}
        with self._engine.begin() as connection:
            return list(connection.execute(sql("meet_parking"), binds).scalars())

    def released(self, sink: Sink, practice: str, limit: int) -> list[Event]:
        """The first released events, in order."""
        binds = _whose(sink.name, practice) | {"limit": limit}
        with reading(self._engine) as connection:
            rows = connection.execute(sql("parked_released"), binds).all()
        return [self._parked(sink, practice, row) for row in rows]

    def _parked(self, sink: Sink, practice: str, row: Any) -> Event:
        """The event of a parked row, as it was or would have been sent."""
        if row.ordinal:
            found = self._snapshot(practice, (row.epoch, row.sequence), ("", ""), 1, (row.resource_type, row.id))
            events = [_shown(practice, row, one, row.ordinal, self._vault) for one in found]
        else:
            events = self.after(practice, row.epoch, row.sequence - 1, 1, bodies=sink.reads_bodies, of_deleted=True)
        if not events or (events[0].epoch, events[0].sequence) != (row.epoch, row.sequence):
            raise StoreError(
                f"sink {sink.name}: a parked event of practice {practice} is not in the log any more; discard it with"
                " `poller sinks discard`"
            )
        return events[0]

    def unpark(self, sink: str, position: Position, events: Sequence[Event], delivered: Sequence[Event]) -> None:
        """Take ``events`` out: those ``delivered`` (in order) have gone to the queues, the rest the filter does not want any more.

        Raises StoreError if they are not all there, or the cursor was moved.
        """
        of_log = [event for event in delivered if not event.ordinal]
        booked = {
            "delivered": len(of_log),
            "filtered": sum(not event.ordinal for event in events) - len(of_log),
            "routed": _wire(delivered[-1]) if delivered else position.routed,
        }
        places = {
            "epochs": [event.epoch for event in events],
            "sequences": [event.sequence for event in events],
            "ordinals": [event.ordinal for event in events],
        }
        with self._engine.begin() as connection:
            self._move(connection, sink, position, _stays(position) | booked)
            gone = connection.execute(sql("unpark"), _whose(sink, position.practice) | places).all()
            if len(gone) != len(events):
                raise _moved(sink, position.practice)

    def park_again(self, sink: str, practice: str, event: Event, reason: str) -> None:
        """A released event was refused once more."""
        binds = _whose(sink, practice) | {
            "epoch": event.epoch,
            "sequence": event.sequence,
            "ordinal": event.ordinal,
            "resource_type": event.resource_type,
            "id": event.id,
            "reason": reason,
        }
        with self._engine.begin() as connection:
            connection.execute(sql("lock_cursor"), binds)
            connection.execute(sql("park_again"), binds)

    def snapshot(self, practice: str, position: Position, limit: int) -> list[Event]:
        """The next resources of the snapshot that the sink starts from, as events: each as created, with its bodies.

        As they were at the cursor's place in the log, so the log behind it neither repeats nor lacks anything. Ids and sequences are the
        same however often it is asked for.
        """
        after = (position.snapshot_type or "", position.snapshot_id or "")
        rows = self._snapshot(practice, (position.epoch, position.sequence), after, limit)
        return [
            _shown(practice, position, row, position.ordinal + n, self._vault) for n, row in enumerate(rows, start=1)
        ]

    def _snapshot(
        self,
        practice: str,
        at: tuple[int, int],
        after: tuple[str, str],
        limit: int,
        only: tuple[str | None, str | None] = (None, None),
    ) -> Sequence[Any]:
        binds = {
            "practice": practice,
            "epoch": at[0],
            "sequence": at[1],
            "after_type": after[0],
            "after_id": after[1],
            "only_type": only[0],
            "only_id": only[1],
            "limit": limit,
        }
        with self._engine.connect() as connection:
            return connection.execute(sql("read_snapshot"), binds).all()

    def _move(self, connection: Connection, sink: str, position: Position, to: Mapping[str, Any]) -> None:
        binds = {
            "from_epoch": position.epoch,
            "from_sequence": position.sequence,
            "from_ordinal": position.ordinal,
            "from_routed": position.routed,
        }
        if (
            connection.execute(sql("advance_cursor"), _whose(sink, position.practice) | binds | dict(to)).first()
            is None
        ):
            raise _moved(sink, position.practice)

    def note_trouble(self, sink: str, practice: str, reason: str) -> None:
        """Keep why the sink does not go on in a practice; :data:`~poller.core.audit.WHOLE`: in none."""
        with self._engine.begin() as connection:
            connection.execute(sql("note_trouble"), _whose(sink, practice) | {"reason": reason})

    def clear_trouble(self, sink: str, practice: str | None = None) -> None:
        """It goes on there; None: whatever was noted of it is over."""
        with self._engine.begin() as connection:
            connection.execute(sql("clear_trouble"), {"sink": sink, "practice": practice})

    # What a person asks and says.

    def books(self) -> list[Books]:
        """The books of every sink that has begun, in every practice."""
        with self._engine.connect() as connection:
            return [Books(*row) for row in connection.execute(sql("books"))]

    def parked(
        self,
        sink: str,
        practice: str | None = None,
        resource: tuple[str | None, str | None] = (None, None),
        limit: int = _LISTED,
    ) -> list[Parked]:
        """What is parked, in order."""
        binds = {"sink": sink, "practice": practice, "resource_type": resource[0], "id": resource[1], "limit": limit}
        with self._engine.connect() as connection:
            return [Parked(*row) for row in connection.execute(sql("list_parked"), binds)]

    def release(self, sink: str, practice: str, resource_type: str | None = None, id_: str | None = None) -> int:
        """Let parked events go on; how many. The relay sends them in their order. Raises NotFound for a sink that has no cursor there."""
        binds = _whose(sink, practice) | {"resource_type": resource_type, "id": id_}
        with self._engine.begin() as connection:
            self._lock(connection, binds)
            return connection.execute(sql("release_parked"), binds).rowcount

    def ask_parking(self, sink: Sink, selection: Selection, *, actor: str, reason: str) -> Place:
        """Have the first event of a selection parked that the sink wants and has not come to; its place. The relay parks it there.

        Raises NotFound for a sink that has no cursor there, where nothing of the selection waits, and where that is asked already.
        """
        whose = _whose(sink.name, selection.practice)
        while True:
            with self._engine.begin() as connection:
                cursor = self._lock(connection, whose)
            begin, end = self.span(selection)
            pages = self.pages(selection, max(begin, cursor), end, bodies=sink.only.reads_bodies, of_deleted=True)
            event = next((event for page in pages for event in page if sink.wants(event)), None)
            if event is None:
                raise NotFound(
                    "nothing of that waits for this sink: it has gone out, or is parked, or the sink does not want it; see"
                    " `poller sinks list` and `poller sinks show`"
                )
            place = {"epoch": event.epoch, "sequence": event.sequence, "actor": actor, "reason": reason}
            with self._engine.begin() as connection:
                # not held while events are gone through, for which the relay would wait; it may have passed the one that was found
                if self._lock(connection, whose) >= (event.epoch, event.sequence):
                    continue
                if connection.execute(sql("ask_parking"), whose | place).first() is None:
                    raise NotFound("that is asked already; the sink parks the event when it comes to it")
            return event.epoch, event.sequence

    def discard(self, sink: str, practice: str, parked: Sequence[Parked]) -> int:
        """Give these up for good, as far as they are parked still; how many. Raises NotFound as :meth:`release`."""
        places = {
            "epochs": [one.epoch for one in parked],
            "sequences": [one.sequence for one in parked],
            "ordinals": [one.ordinal for one in parked],
        }
        binds = _whose(sink, practice) | places
        with self._engine.begin() as connection:
            self._lock(connection, binds)
            return int(connection.execute(sql("discard_parked"), binds).scalar_one())

    @staticmethod
    def _lock(connection: Connection, binds: Mapping[str, Any]) -> Place:
        """Where the cursor stands, which nobody moves until the transaction ends."""
        cursor = connection.execute(sql("lock_cursor"), binds).first()
        if cursor is None:
            raise NotFound(
                f"sink {binds['sink']} has not begun in practice {binds['practice']}; see `poller sinks list`"
            )
        return cursor.epoch, cursor.sequence


def _whose(sink: str, practice: str) -> dict[str, Any]:
    return {"sink": sink, "practice": practice}


def _stays(position: Position) -> dict[str, Any]:
    """Binds of advance_cursor that leave the cursor where it is."""
    return {
        "epoch": position.epoch,
        "sequence": position.sequence,
        "ordinal": position.ordinal,
        "routed": position.routed,
        "delivered": 0,
        "filtered": 0,
        "snapshot_type": position.snapshot_type,
        "snapshot_id": position.snapshot_id,
    }


def _moved(sink: str, practice: str) -> StoreError:
    return StoreError(
        f"sink {sink}: its cursor in practice {practice} was moved by another relay; run one relay only",
        Code.CURSOR_MOVED,
    )


def _wire(event: Event) -> str:
    return wire_sequence(event.epoch, event.sequence, event.ordinal)


def _shown(practice: str, at: Any, row: Any, ordinal: int, vault: Vault) -> Event:
    """A resource of a snapshot as an event. Its id is that of a change that created the resource so, in this version."""
    return Event(
        practice=practice,
        epoch=at.epoch,
        sequence=at.sequence,
        event_id=event_id(practice, row.resource_type, row.id, row.version, Action.CREATED, bytes(row.digest)),
        resource_type=row.resource_type,
        id=row.id,
        version=row.version,
        action=Action.CREATED,
        origin=Origin.BASELINE,
        changed=(),
        categories=tuple(row.categories or ()),
        status=row.status,
        partition_key=row.partition_key,
        detected_at=row.changed_at,
        previous_read=None,
        last_modified=row.last_modified,
        body=vault.written(practice, (row.resource_type, row.id), row.codec, bytes(row.body)),
        ordinal=ordinal,
    )
