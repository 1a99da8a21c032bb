"""``poller`` with one of its guarantees broken on purpose, as a process: ``python -m tests.acceptance.broken VARIANT COMMAND …``."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from typing import Any

import poller.app
import poller.demo
import poller.logs
from poller.cli import main
from poller.core.model import Event
from poller.core.sink import Step
from poller.store.log import Position
from poller.store.repository import Recorded, Repository
from poller.store.sinks import SinkLog

_GAP = 0.4
"""Seconds between two steps that should be one."""

_hold = threading.Event()
"""Set by SIGUSR1: whoever comes between two such steps from then on stays there until the process is killed."""


def _pause() -> None:
    """Say that now would be the moment to be killed, and leave time for it."""
    sys.stderr.write('{"action": "broken.gap"}\n')
    time.sleep(_GAP)
    while _hold.is_set():
        sys.stderr.write('{"action": "broken.held"}\n')
        time.sleep(3600)  # hopes for nothing: the test kills this process here, and no later


class SplitRepository(Repository):
    """Commits snapshot and history first, and the events in a transaction of their own."""

    _written = threading.local()

    def _append(self, _connection: Any, context: Any, writes: Any, news: Any, now: Any) -> None:
        self._written.later = (context, writes, news, now)

    def record(self, *arguments: Any, **more: Any) -> Recorded:
        self._written.later = None
        recorded = super().record(*arguments, **more)
        if self._written.later is not None:
            _pause()
            with self._engine.begin() as connection:
                super()._append(connection, *self._written.later)
        return recorded


class HastyLog(SinkLog):
    """Moves the cursor on when events are read, not when they are confirmed."""

    def after(self, practice: str, epoch: int, sequence: int, limit: int, **more: bool) -> list[Event]:
        events = super().after(practice, epoch, sequence, limit, **more)
        if events:
            (at,) = (position for position in self.positions("full") if position.practice == practice)
            super().advance("full", at, Step(events[-1], None, delivered=len(events), filtered=0))
            _pause()
        return events

    def advance(self, _sink: str, position: Position, _step: Step) -> Position:
        return position


class LateLog(SinkLog):
    """Not broken, only slow: the cursor moves on a while after the broker has confirmed, so that a crash makes duplicates."""

    def advance(self, sink: str, position: Position, step: Step) -> Position:
        if sink == "full" and step.routed is not None:
            _pause()
        return super().advance(sink, position, step)


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
    "hasty-cursor": (poller.app, "SinkLog", HastyLog),
    "late-cursor": (poller.app, "SinkLog", LateLog),
    "forgetful-consumer": (poller.demo, "Consumer", ForgetfulConsumer),
    "chatty": (poller.logs, "configure", chatty),
}

if __name__ == "__main__":
    module, name, variant = VARIANTS[sys.argv.pop(1)]
    setattr(module, name, variant)
    signal.signal(signal.SIGUSR1, lambda *_: _hold.set())
    main()
