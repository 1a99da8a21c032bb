"""Replays, how far each is, and the holds by which one goes into a live queue."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from poller.core.sink import Payload
from poller.errors import NotFound, StoreError
from poller.store.engine import sql
from poller.store.log import Place, Selection

HOLD = dt.timedelta(minutes=2)
"""How long a hold lasts that nobody keeps alive: longer than a broker bears a silent connection, so that a replay that hangs for as long
can publish nothing any more when delivery goes on."""


@dataclass(frozen=True, slots=True)
class ReplayRecord:
    """A replay as it is kept."""

    replay: str
    selection: Selection
    payload: Payload
    queue: str | None
    """Where it goes,"""
    file: str | None
    """or here."""
    sink: str | None
    """Whose live queue that is."""
    at: Place
    """The last event that has gone out, or been passed."""
    end: Place
    routed: str | None
    """Wire sequence of the last one that went out."""
    made_by: str
    sent: int = 0
    written: int = 0
    """Bytes in the file up to there."""
    state: str = "running"
    """``running`` also while stopped; ``done``, ``cancelled``."""
    began_at: dt.datetime | None = None
    moved_at: dt.datetime | None = None

    @property
    def practice(self) -> str:
        """Of the selection."""
        return self.selection.practice


class ReplayStore:
    """Keeps replays and holds. Each method is a transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, record: ReplayRecord) -> None:
        """Note a replay that begins."""
        binds = _key(record) | {"selection": json.dumps(record.selection.to_json()), "payload": record.payload}
        binds |= {"queue": record.queue, "file": record.file, "sink": record.sink, "made_by": record.made_by}
        binds |= {"epoch": record.at[0], "sequence": record.at[1]}
        binds |= {"last_epoch": record.end[0], "last_sequence": record.end[1]}
        with self._engine.begin() as connection:
            connection.execute(sql("begin_replay"), binds)

    def move(
        self, record: ReplayRecord, to: Place, *, routed: str | None, sent: int, written: int, state: str = "running"
    ) -> None:
        """Note that ``sent`` more events went out, up to ``to``. Raises StoreError if it does not stand at ``record.at`` any more."""
        binds = _key(record) | {"epoch": to[0], "sequence": to[1], "routed": routed, "sent": sent, "written": written}
        binds |= {"state": state, "from_epoch": record.at[0], "from_sequence": record.at[1]}
        with self._engine.begin() as connection:
            if connection.execute(sql("move_replay"), binds).first() is None:
                raise StoreError(f"replay {record.replay} was cancelled, or another process carries it on")

    def find(self, replay: str) -> ReplayRecord:
        """A replay by its id. Raises NotFound."""
        found = self._listed(replay)
        if not found:
            raise NotFound(f"no replay {replay}; `poller replay list` shows them")
        return found[0]

    def listed(self) -> Sequence[ReplayRecord]:
        """All replays, the latest first."""
        return self._listed(None)

    def cancel(self, record: ReplayRecord) -> bool:
        """Give a replay up and let delivery go on; whether it was still to be carried on."""
        with self._engine.begin() as connection:
            was_running = connection.execute(sql("cancel_replay"), _key(record)).first() is not None
            if record.sink is not None:
                connection.execute(sql("end_hold"), _key(record) | {"sink": record.sink})
        return was_running

    def ask_hold(self, record: ReplayRecord, length: dt.timedelta = HOLD) -> None:
        """Ask for delivery to the sink to wait. Raises StoreError while another replay holds it."""
        with self._engine.begin() as connection:
            if connection.execute(sql("ask_hold"), self._hold(record) | {"length": length}).first() is None:
                raise StoreError(
                    f"another replay holds sink {record.sink} in practice {record.practice}; wait for it, or end it with"
                    " `poller replay cancel`"
                )

    def keep_hold(self, record: ReplayRecord, length: dt.timedelta = HOLD) -> Place | None:
        """Keep the hold for longer. Where the sink stands, or None where it was not granted or has lapsed."""
        with self._engine.begin() as connection:
            row = connection.execute(sql("keep_hold"), self._hold(record) | {"length": length}).first()
        return (row.epoch, row.sequence) if row is not None else None

    def end_hold(self, record: ReplayRecord) -> None:
        """Let delivery go on."""
        with self._engine.begin() as connection:
            connection.execute(sql("end_hold"), self._hold(record))

    @staticmethod
    def _hold(record: ReplayRecord) -> dict[str, Any]:
        return _key(record) | {"sink": record.sink}

    def _listed(self, replay: str | None) -> list[ReplayRecord]:
        with self._engine.connect() as connection:
            return [_record(row) for row in connection.execute(sql("list_replays"), {"replay": replay})]


def _key(record: ReplayRecord) -> dict[str, Any]:
    return {"practice": record.practice, "replay": record.replay}


def _record(row: Any) -> ReplayRecord:
    return ReplayRecord(
        replay=row.replay,
        selection=Selection.from_json(row.practice, row.selection),
        payload=row.payload,
        queue=row.queue,
        file=row.file,
        sink=row.sink,
        at=(row.epoch, row.sequence),
        end=(row.last_epoch, row.last_sequence),
        routed=row.routed,
        made_by=row.made_by,
        sent=row.sent,
        written=row.written,
        state=row.state,
        began_at=row.began_at,
        moved_at=row.moved_at,
    )
