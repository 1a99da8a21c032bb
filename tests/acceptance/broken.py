"""``poller`` with one of its guarantees broken on purpose, as a process: ``python -m tests.acceptance.broken VARIANT run …``."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import poller.app
from poller.cli import main
from poller.core.model import Event
from poller.store.log import EventLog
from poller.store.repository import Recorded, Repository

_GAP = 0.4
"""Seconds between two steps that should be one."""


class SplitRepository(Repository):
    """Commits snapshot and history first, and the events in a transaction of their own."""

    _written = threading.local()

    def _append(self, _connection: Any, context: Any, writes: Any, now: Any) -> None:
        self._written.later = (context, writes, now)

    def record(self, *arguments: Any, **more: Any) -> Recorded:
        self._written.later = None
        recorded = super().record(*arguments, **more)
        if self._written.later is not None:
            time.sleep(_GAP)
            with self._engine.begin() as connection:
                super()._append(connection, *self._written.later)
        return recorded


class HastyLog(EventLog):
    """Moves the cursor on when events are read, not when they are confirmed."""

    def after(self, practice: str, epoch: int, sequence: int, limit: int, *, bodies: bool) -> list[Event]:
        events = super().after(practice, epoch, sequence, limit, bodies=bodies)
        if events:
            for sink in ("full",):
                super().advance(sink, practice, events[-1].epoch, events[-1].sequence, None)
            time.sleep(_GAP)
        return events

    def advance(self, *_: Any) -> None:
        return


VARIANTS = {"split-commit": ("Repository", SplitRepository), "hasty-cursor": ("EventLog", HastyLog)}

if __name__ == "__main__":
    name, variant = VARIANTS[sys.argv.pop(1)]
    setattr(poller.app, name, variant)
    main()
