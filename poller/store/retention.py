"""How long history and events are kept: whole months are dropped, once nobody needs them any more."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text

from poller.store.engine import sql


@dataclass(frozen=True, slots=True)
class Expired:
    """A month of the log that is older than what is kept."""

    month: dt.date
    """Its first day."""
    held_by: str | None
    """The sink that has not passed it yet, or the poller that keeps it, and the practice; None: it was dropped."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a poller wants kept of one of its practices."""

    poller: str
    practice: str
    sink: str | None = None
    """What this sink of the poller has not passed;"""
    keep: dt.timedelta | None = None
    """without a sink: what is younger than this, None: all."""


@dataclass(frozen=True, slots=True)
class Earliest:
    """Where a practice's log begins, if something of it was dropped."""

    epoch: int
    sequence: int
    """Of the last event that is gone."""
    at: dt.datetime
    """What was recorded from then on is all there; the state at any time since can be told."""


class Retention:
    """Drops what is older than is to be kept. Safe to call from many processes at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def expire(self, keep: dt.timedelta, needs: Sequence[Need]) -> list[Expired]:
        """Drop every whole month older than ``keep``, by the database's clock, of which none of ``needs``, those of all pollers, has any.

        Oldest first, each in a transaction of its own, until one is held: then later ones are not looked at. Raises DBAPIError rather
        than wait long for a lock, as behind a backup; what is left is dropped next time.
        """
        found: list[Expired] = []
        binds = {"keep": keep, **_rows(needs)}
        while True:
            with self._engine.begin() as connection:
                connection.execute(text("SET LOCAL lock_timeout = '2s'"))
                row = connection.execute(sql("expire"), binds).one()
            if row.month is None:
                return found
            found.append(Expired(row.month, row.held_by))
            if row.held_by is not None:
                return found

    def earliest(self, practice: str) -> Earliest | None:
        """Where the practice's log begins; None: nothing of it was dropped."""
        with self._engine.connect() as connection:
            row = connection.execute(sql("earliest"), {"practice": practice}).first()
        return Earliest(row.epoch, row.sequence, row.before) if row is not None else None


def _rows(needs: Sequence[Need]) -> dict[str, list[Any]]:
    return {
        "pollers": [one.poller for one in needs],
        "practices": [one.practice for one in needs],
        "sinks": [one.sink for one in needs],
        "keeps": [one.keep for one in needs],
    }
