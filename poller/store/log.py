"""The event log as it is read: by relays, by a replay, by a person."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text

from poller.core.envelope import wire_sequence
from poller.core.model import Action, Event, Origin
from poller.core.noise import hidden
from poller.errors import NotFound
from poller.store.engine import reading, sql, sql_in_binary
from poller.store.events import event_of
from poller.store.vault import PLAIN, Vault

_PAGE = 5_000
_PAGE_OF_BODIES = 1_000
"""Events; each body is looked up before it is known whether it still fits the page."""

IN_LOG_ORDER = text("SET LOCAL enable_sort = off")
"""For read_events: walk the index in the log's order and stop at the page's end. Statistics never know of the rows last appended, and
without them the planner would sort a whole backlog for each page of it."""

_PAGE_BYTES = 8 * 1024 * 1024
"""Of stored bodies in a page: one of attachments would else fill the memory."""

_DROPPING = dt.timedelta(hours=1)
"""How long dropping a month may take: it is seen only once it has been done."""

_EVERYTHING: dict[str, Any] = {
    "resource_type": None,
    "partition_key": None,
    "since": None,
    "until": None,
    "epoch": 0,
    "sequence": 0,
    "last_epoch": 2**62,
    "last_sequence": 0,
    "bytes": _PAGE_BYTES,
    "of_deleted": False,
    "listed": False,
    "event_ids": [],
    "references": [],
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
    ordinal: int = 0
    """How many resources of its snapshot the sink has passed."""
    snapshot_type: str | None = None
    snapshot_id: str | None = None
    """The last of them while the snapshot goes out, empty before the first; None when none is under way."""
    held: str | None = None
    """Who holds the sink back in this practice; None: nobody does."""
    parked: int = 0
    released: bool = False
    """Whether parked events are to be tried again."""
    overtaken: bool = False
    """Whether events behind its cursor are gone: retention has dropped them while the sink was not configured."""
    asked: bool = False
    """Whether an operator wants something parked that it has not come to."""


Place = tuple[int, int]
"""Epoch and sequence."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a replay takes; None means all."""

    practice: str
    resource_type: str | None = None
    patient: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    first: Place | None = None
    last: Place | None = None
    resources: tuple[tuple[str, str], ...] = ()
    """Only events of these, by type and id,"""
    events: tuple[uuid.UUID, ...] = ()
    """or with these ids. They are looked for along the log, in one go."""

    def to_json(self) -> dict[str, Any]:
        """As a replay is kept."""
        return {
            "type": self.resource_type,
            "patient": self.patient,
            "since": self.since and self.since.isoformat(),
            "until": self.until and self.until.isoformat(),
            "first": self.first,
            "last": self.last,
            "resources": self.resources,
            "events": [str(one) for one in self.events],
        }

    @classmethod
    def from_json(cls, practice: str, kept: Mapping[str, Any]) -> Selection:
        """The inverse."""
        since, until = (kept[name] and dt.datetime.fromisoformat(kept[name]) for name in ("since", "until"))
        return cls(
            practice,
            kept["type"],
            kept["patient"],
            since,
            until,
            tuple(kept["first"]) if kept["first"] else None,
            tuple(kept["last"]) if kept["last"] else None,
            tuple((type_, id_) for type_, id_ in kept["resources"]),
            tuple(uuid.UUID(one) for one in kept["events"]),
        )

    def binds(self) -> dict[str, Any]:
        """Of read_events and count_events, but for where to go on."""
        return _EVERYTHING | {
            "practice": self.practice,
            "resource_type": self.resource_type,
            "partition_key": f"Patient/{self.patient}" if self.patient else None,
            "since": self.since,
            "until": self.until,
            "listed": bool(self.resources or self.events),
            "event_ids": list(self.events),
            "references": ["/".join(resource) for resource in self.resources],
        }


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
    hidden: tuple[str, ...] = ()
    """Noise paths at which it differs from the version before, which are not among the changes."""
    hidden_since: tuple[str, ...] = ()
    """Noise paths at which something differed when the resource was read since, last noted at ``hidden_at``."""
    hidden_at: dt.datetime | None = None


class EventLog:
    """Reads the log. Safe to use from several threads."""

    def __init__(self, engine: Engine, vault: Vault = PLAIN) -> None:
        self._engine = engine
        self._vault = vault

    def positions(self, sink: str) -> list[Position]:
        """Where the sink stands in every practice's log."""
        with reading(self._engine) as connection:
            return [Position(*row) for row in connection.execute(sql("positions"), {"sink": sink})]

    def after(
        self, practice: str, epoch: int, sequence: int, limit: int, *, bodies: bool, of_deleted: bool = False
    ) -> list[Event]:
        """The events after a position, in order; with the bodies that a full-resource payload needs if ``bodies``.

        ``of_deleted``: a delete comes with the body before it, for filters that look into bodies.
        """
        binds = _EVERYTHING | {
            "practice": practice,
            "epoch": epoch,
            "sequence": sequence,
            "limit": limit,
            "bodies": bodies,
            "of_deleted": of_deleted,
        }
        return [event_of(row, self._vault) for row in self._page(binds)]

    def _page(self, binds: Mapping[str, Any]) -> Sequence[Any]:
        with self._engine.begin() as connection:
            if binds["partition_key"] is None:  # one patient's few events are found by their own index, and sorted
                connection.execute(IN_LOG_ORDER)
            return connection.execute(sql_in_binary("read_events"), binds).all()

    def require_history(self, practice: str) -> tuple[int, int]:
        """Epoch and head of a practice's log. Raises NotFound for a practice that was never polled."""
        with self._engine.connect() as connection:
            head = connection.execute(
                text("SELECT epoch, head FROM poller.practice_log WHERE practice = :practice"), {"practice": practice}
            ).first()
        if head is None:
            raise NotFound(
                f"practice {practice} has no history here; `poller history` knows only practices that were polled"
            )
        return head.epoch, head.head

    def span(self, selection: Selection) -> tuple[Place, Place]:
        """Where a selection begins (the place before it) and ends, as the log is now.

        Raises NotFound for a practice without history, and where the selection reaches further back than what is kept.
        """
        head = self.require_history(selection.practice)
        with self._engine.connect() as connection:
            gone = connection.execute(sql("earliest"), {"practice": selection.practice}).first()
        begin = (selection.first[0], selection.first[1] - 1) if selection.first is not None else (0, 0)
        if gone is not None:
            place = gone.epoch, gone.sequence
            is_early = selection.since is not None and selection.since < gone.before
            ends_early = (selection.until is not None and selection.until <= gone.before) or (
                selection.last is not None and selection.last <= place
            )
            if is_early or ends_early or (selection.first is not None and begin < place):
                raise NotFound(
                    f"that is past retention: what is kept was found at {gone.before.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ} or later, and"
                    f" comes behind sequence {wire_sequence(*place)}"
                )
        return begin, min(head, selection.last) if selection.last is not None else head

    def count(self, selection: Selection, begin: Place, end: Place) -> dict[tuple[str, str], int]:
        """How many events a selection has after ``begin`` up to ``end``, by type and action."""
        binds = selection.binds() | {"epoch": begin[0], "sequence": begin[1]}
        binds |= {"last_epoch": end[0], "last_sequence": end[1]}
        with self._engine.connect() as connection:
            rows = connection.execute(sql("count_events"), binds)
            return {(row.resource_type, row.action): row.events for row in rows}

    def pages(
        self,
        selection: Selection,
        begin: Place,
        end: Place,
        *,
        bodies: bool,
        of_deleted: bool = False,
        began_at: dt.datetime | None = None,
    ) -> Iterator[list[Event]]:
        """The events of a selection after ``begin`` up to ``end``, in log order.

        ``began_at``: when that was begun of which this is the rest; None where it begins now. Raises NotFound where retention has dropped
        something of it since: what is left would look like all.
        """
        limit = _PAGE_OF_BODIES if bodies else _PAGE
        binds = selection.binds() | {"epoch": begin[0], "sequence": begin[1], "limit": limit, "bodies": bodies}
        binds |= {"last_epoch": end[0], "last_sequence": end[1], "of_deleted": of_deleted}
        known = self._dropped_at(selection) if began_at is None else began_at - _DROPPING
        for rows in self._rows(binds):
            self._require_kept(selection, (binds["epoch"], binds["sequence"]), known)
            yield [event_of(row, self._vault) for row in rows]
        self._require_kept(selection, (binds["epoch"], binds["sequence"]), known)

    def _rows(self, binds: dict[str, Any]) -> Iterator[Sequence[Any]]:
        """Page after page; ``binds`` stand behind the one before until the next is asked for."""
        while rows := self._page(binds):
            yield rows
            binds |= {"epoch": rows[-1].epoch, "sequence": rows[-1].sequence}

    def _dropped_at(self, selection: Selection) -> dt.datetime | None:
        with self._engine.connect() as connection:
            gone = connection.execute(sql("earliest"), {"practice": selection.practice}).first()
        return gone.dropped_at if gone is not None else None

    def _require_kept(self, selection: Selection, behind: Place, known: dt.datetime | None) -> None:
        """Make sure that nothing of the selection behind a place was dropped after ``known``. Asked once the page is read, not before."""
        with self._engine.connect() as connection:
            gone = connection.execute(sql("earliest"), {"practice": selection.practice}).first()
        if gone is None or behind >= (gone.epoch, gone.sequence) or (known is not None and gone.dropped_at <= known):
            return
        if selection.since is None or selection.since < gone.before:
            raise NotFound(
                f"retention has dropped events up to {wire_sequence(gone.epoch, gone.sequence)} since this began, and not all had gone out;"
                " what is kept needs a new replay"
            )

    def select(self, selection: Selection, *, bodies: bool) -> Iterator[Event]:
        """The events of a selection in log order, up to the head as it is now. Raises as :meth:`span`."""
        begin, end = self.span(selection)
        for page in self.pages(selection, begin, end, bodies=bodies):
            yield from page

    def history(self, practice: str, resource_type: str, id_: str) -> list[HistoryRow]:
        """All versions of a resource that are kept, oldest first. Raises NotFound."""
        binds = {"practice": practice, "resource_type": resource_type, "id": id_}
        with self._engine.connect() as connection:
            rows = connection.execute(sql("resource_history"), binds).all()
        if not rows:
            raise NotFound("no version of this resource is kept; check the practice, the type and the id")
        key = resource_type, id_
        bodies = [
            self._vault.resource(practice, key, row.codec, bytes(row.body)) if row.body is not None else None
            for row in rows
        ]
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
                body=body,
                hidden=hidden(before, body, row.noise) if before is not None and body is not None else (),
                hidden_since=tuple(row.hidden_since or ()),
                hidden_at=row.hidden_at,
            )
            for row, body, before in zip(rows, bodies, [None, *bodies], strict=False)
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
