"""Virtual time: an event loop in which waiting costs nothing, and a clock that tells its time. One thread, the same course each time."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import selectors
from collections.abc import Callable
from typing import Any

T0 = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)

_LOOK = 0.001
"""Seconds that a look at the clock takes, so that no two things happen at one instant."""


class _Sleepless(selectors.SelectSelector):
    """Waits for nothing: the loop's own time goes on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits for something that will never happen")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps to the next thing that is to happen.

    Work for threads is done on the loop: asyncio's own after ``commit`` seconds, others' at once.
    """

    def __init__(self, commit: float = 0.0) -> None:
        self._sleepless = _Sleepless()
        self._commit = commit
        super().__init__(self._sleepless)

    def time(self) -> float:
        return self._sleepless.now

    def look(self) -> float:
        """The time, and a little later from now on."""
        self._sleepless.now += _LOOK
        return self._sleepless.now

    def run_in_executor(  # type: ignore[override]  # the future of a call is all that asyncio.to_thread wants
        self, executor: Any, func: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        """Do the work later, also if nobody waits for it any more by then: a thread cannot be called back."""
        came: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            try:
                result = func(*arguments)
            except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
                if not came.cancelled():
                    came.set_exception(error)
            else:
                if not came.cancelled():
                    came.set_result(result)

        self.call_later(self._commit if executor is None else 0.0, work, context=contextvars.copy_context())
        return came


class VirtualClock:
    """The loop's time as time of day. Each look is a millisecond later than the one before."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> dt.datetime:
        return T0 + dt.timedelta(microseconds=round(self._loop.look() * 1_000_000))
