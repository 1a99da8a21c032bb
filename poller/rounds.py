"""Goes round all practices with one job of the scheduler: each is looked at when its turn comes, never twice at once.

A job for each practice twice a second costs the scheduler more than the practices cost: with 1,000 of them, a core.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

log = structlog.get_logger(__name__)

EVERY = dt.timedelta(seconds=0.1)
"""How often it is looked whose turn it is."""


@dataclass(eq=False, slots=True)
class Round:
    """A job that is run again and again, until :meth:`end`."""

    practice: str
    job: Callable[[], Awaitable[None]]
    seconds: float
    _over: bool = field(default=False, init=False)
    _running: asyncio.Task[None] | None = field(default=None, init=False)

    def end(self) -> None:
        """Begin it no more."""
        self._over = True

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._over

    def begin(self) -> None:
        """Run it, unless it runs still: then it misses a turn."""
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            await self.job()
        except Exception:  # one practice's trouble stays its own, and its next turn comes
            log.exception(
                "an unexpected error; it is tried again at the next turn", action="round.fail", practice=self.practice
            )


class Rounds:
    """Every round there is. All methods belong to one event loop."""

    def __init__(self, scheduler: AsyncIOScheduler) -> None:
        self._turns: list[tuple[float, int, Round]] = []
        self._numbers = itertools.count()
        scheduler.add_job(
            self.go,
            "interval",
            seconds=EVERY.total_seconds(),
            coalesce=True,
            misfire_grace_time=None,
            max_instances=1,
        )

    def add(self, practice: str, job: Callable[[], Awaitable[None]], every: dt.timedelta) -> Round:
        """Run a job every so often, the first time at once. What was missed, as over a suspension, is not made up for."""
        made = Round(practice, job, every.total_seconds())
        heapq.heappush(self._turns, (time.monotonic(), next(self._numbers), made))
        return made

    async def go(self) -> None:
        """Begin what is due."""
        now = time.monotonic()
        while self._turns and self._turns[0][0] <= now:
            due, _, one = heapq.heappop(self._turns)
            if one.is_over:
                continue
            one.begin()
            following = due + one.seconds if due + one.seconds > now else now + one.seconds
            heapq.heappush(self._turns, (following, next(self._numbers), one))
