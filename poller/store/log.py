"""The event log as it is read: by relays, by a replay, by a person."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text

from poller.core.canonical import decode_body
from poller.core.envelope import wire_sequence
from poller.core.model import Action, Event, Origin
from poller.errors import NotFound, StoreError
from poller.store.engine import sql

_PAGE = 500

IN_LOG_ORDER = text("SET LOCAL enable_sort = off")
"""For read_events: walk the index in the log's order and stop at the page's end. Statistics never know of the rows last appended, and
without them the planner would sort a whole backlog for each page of it."""

_EVERYTHING: dict[str, Any] = {
    "resource_type": None,
    "partition_key": None,
    "since": None,
    "until": None,
    "epoch": 0,
    "sequence": 0,
    "last_epoch": 2**62,
    "last_sequence": 0,
}
"""Binds of read_events that select everything."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a sink stands in a practice's log."""

    practice: str
    epoch: int
    sequence: int
    """Sequence of the last event the sink has passed; 0 before the first."""
    routed: str | None
    """Wire sequence last routed to the sink's queues."""
    head_epoch: int
    head: int
    """Sequence of the last event in the log."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a replay takes; None means all."""

    practice: str
    resource_type: str | None = None
    patient: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One version of a resource, as ``poller history`` lists it."""

    version: int
    action: Action
    recorded_at: dt.datetime
    origin: Origin | None
    changed: tuple[str, ...]
    status: str | None
    sequence: str | None
    event_id: str | None
    last_modified: dt.datetime | None
    evidence: str | None
    body: Mapping[str, Any] | None


class EventLog:
    """Reads the log and moves cursors. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def positions(self, sink: str) -> list[Position]:
        """Where the sink stands in every practice's log."""
        with self._engine.connect() as connection:
            return [Position(*row) for row in connection.execute(sql("positions"), {"sink": sink})]

    def after(self, practice: str, epoch: int, sequence: int, limit: int, *, bodies: bool) -> list[Event]:
        """The events after a position, in order; with the bodies that a full-resource payload needs if ``bodies``."""
        binds = _EVERYTHING | {
            "practice": practice,
            "epoch": epoch,
            "sequence": sequence,
            "limit": limit,
            "bodies": bodies,
        }
        return [_event(row) for row in self._page(binds)]

    def _page(self, binds: Mapping[str, Any]) -> Sequence[Any]:
        with self._engine.connect() as connection:
            if binds["partition_key"] is None:  # one patient's few events are found by their own index, and sorted
                connection.execute(IN_LOG_ORDER)
            return connection.execute(sql("read_events"), binds).all()

    def advance(self, sink: str, practice: str, epoch: int, sequence: int, routed: str | None) -> None:
        """Move the sink's cursor on. Raises StoreError if another relay has moved it as far already."""
        binds = {"sink": sink, "practice": practice, "epoch": epoch, "sequence": sequence, "routed": routed}
        with self._engine.begin() as connection:
            if connection.execute(sql("advance_cursor"), binds).first() is None:
                raise StoreError(
                    f"sink {sink}: its cursor in practice {practice} was moved by another relay; run one relay only"
                )

    def select(self, selection: Selection, *, bodies: bool) -> Iterator[Event]:
        """The events of a replay in log order, up to the head as it was when the replay began."""
        with self._engine.connect() as connection:
            head = connection.execute(
                text("SELECT epoch, head FROM poller.practice_log WHERE practice = :practice"),
                {"practice": selection.practice},
            ).first()
        if head is None:
            raise NotFound(
                f"practice {selection.practice} has no history here; `poller history` knows only practices that were polled"
            )
        binds = _EVERYTHING | {
            "practice": selection.practice,
            "resource_type": selection.resource_type,
            "partition_key": f"Patient/{selection.patient}" if selection.patient else None,
            "since": selection.since,
            "until": selection.until,
            "last_epoch": head.epoch,
            "last_sequence": head.head,
            "limit": _PAGE,
            "bodies": bodies,
        }
        while True:
            rows = self._page(binds)
            yield from map(_event, rows)
            if len(rows) < _PAGE:
                return
            binds |= {"epoch": rows[-1].epoch, "sequence": rows[-1].sequence}

    def history(self, practice: str, resource_type: str, id_: str) -> list[HistoryRow]:
        """All versions of a resource that are kept, oldest first. Raises NotFound."""
        binds = {"practice": practice, "resource_type": resource_type, "id": id_}
        with self._engine.connect() as connection:
            rows = connection.execute(sql("resource_history"), binds).all()
        if not rows:
            raise NotFound("no version of this resource is kept; check the practice, the type and the id")
        return [
            HistoryRow(
                version=row.version,
                action=Action(row.action),
                recorded_at=row.recorded_at,
                origin=Origin(row.origin) if row.origin else None,
                changed=tuple(row.changed or ()),
                status=row.status,
                sequence=wire_sequence(row.epoch, row.sequence) if row.epoch is not None else None,
                event_id=str(row.event_id) if row.event_id else None,
                last_modified=row.last_modified,
                evidence=row.evidence,
                body=_body(row.codec, row.body),
            )
            for row in rows
        ]

    def start_epoch(self, practice: str) -> int:
        """Begin a new epoch of a practice's log, after a restore of the database. Returns its number, the time in Unix seconds.

        The time, since the same backup may be restored twice and must not begin the same epoch twice. Versions go on from a floor far above
        what the lost log can have given out, so that no new content bears an old number. Whoever polls the practice is fenced.
        """
        with self._engine.begin() as connection:
            epoch = connection.execute(sql("start_epoch"), {"practice": practice}).scalar()
        if epoch is None:
            raise NotFound(f"practice {practice} has no log here")
        return int(epoch)


def _body(codec: int | None, body: bytes | None) -> Mapping[str, Any] | None:
    return decode_body(codec, bytes(body)) if codec is not None and body is not None else None


def _event(row: Any) -> Event:
    return Event(
        practice=row.practice,
        epoch=row.epoch,
        sequence=row.sequence,
        event_id=row.event_id,
        resource_type=row.resource_type,
        id=row.id,
        version=row.version,
        action=Action(row.action),
        origin=Origin(row.origin),
        changed=tuple(row.changed),
        categories=tuple(row.categories),
        status=row.status,
        partition_key=row.partition_key,
        detected_at=row.recorded_at,
        previous_read=row.previous_read,
        last_modified=row.last_modified,
        body=_body(row.codec, row.body),
        previous_body=_body(row.previous_codec, row.previous_body),
    )
