"""``poller`` with one of its guarantees broken on purpose, as a process: ``python -m tests.acceptance.broken VARIANT COMMAND …``."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

import poller.app
import poller.demo
import poller.logs
from poller.cli import main
from poller.core.model import Event
from poller.store.log import EventLog
from poller.store.repository import Recorded, Repository

_GAP = 0.4
"""Seconds between two steps that should be one."""


def _pause() -> None:
    """Say that now would be the moment to be killed, and leave time for it."""
    sys.stderr.write('{"action": "broken.gap"}\n')
    time.sleep(_GAP)


class SplitRepository(Repository):
    """Commits snapshot and history first, and the events in a transaction of their own."""

    _written = threading.local()

    def _append(self, _connection: Any, context: Any, writes: Any, now: Any) -> None:
        self._written.later = (context, writes, now)

    def record(self, *arguments: Any, **more: Any) -> Recorded:
        self._written.later = None
        recorded = super().record(*arguments, **more)
        if self._written.later is not None:
            _pause()
            with self._engine.begin() as connection:
                super()._append(connection, *self._written.later)
        return recorded


class HastyLog(EventLog):
    """Moves the cursor on when events are read, not when they are confirmed."""

    def after(self, practice: str, epoch: int, sequence: int, limit: int, *, bodies: bool) -> list[Event]:
        events = super().after(practice, epoch, sequence, limit, bodies=bodies)
        if events:
            super().advance("full", practice, events[-1].epoch, events[-1].sequence, None)
            _pause()
        return events

    def advance(self, *_: Any) -> None:
        return


class LateLog(EventLog):
    """Not broken, only slow: the cursor moves on a while after the broker has confirmed, so that a crash makes duplicates."""

    def advance(self, sink: str, practice: str, epoch: int, sequence: int, routed: str | None) -> None:
        if sink == "full" and routed is not None:
            _pause()
        super().advance(sink, practice, epoch, sequence, routed)


def chatty(_format: Any = None, _level: Any = None) -> None:
    """Log as most programs do: every library, every word."""
    logging.basicConfig(level=logging.DEBUG)


class ForgetfulConsumer(poller.demo.Consumer):
    """Loses every seventh event."""

    _count = 0

    def _take(self, body: object, message: Any) -> None:
        self._count += 1
        if self._count % 7:
            super()._take(body, message)
        else:
            message.ack()


VARIANTS = {
    "split-commit": (poller.app, "Repository", SplitRepository),
    "hasty-cursor": (poller.app, "EventLog", HastyLog),
    "late-cursor": (poller.app, "EventLog", LateLog),
    "forgetful-consumer": (poller.demo, "Consumer", ForgetfulConsumer),
    "chatty": (poller.logs, "configure", chatty),
}

if __name__ == "__main__":
    module, name, variant = VARIANTS[sys.argv.pop(1)]
    setattr(module, name, variant)
    main()
