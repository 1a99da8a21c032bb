"""What runs beside a practice's cycle: patients are looked for where no search shows them, attachments fetched, exports made."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from poller.clock import Clock
from poller.config import PracticeConfig
from poller.core.export import Job, Use
from poller.store.exports import ExportStore
from poller.store.repository import Lease
from poller.store.state import StateStore
from poller.targets import Targets

log = structlog.get_logger(__name__)

FIND_EVERY = dt.timedelta(seconds=10)
FETCH_EVERY = dt.timedelta(seconds=2)
_EXPORT_AGAIN = dt.timedelta(hours=1)
"""After an export that did not come to its end."""


class Finder(Protocol):
    """Looks for patients."""

    async def find(self, now: dt.datetime) -> bool:
        """Whether there are new ones."""
        ...


class Fetcher(Protocol):
    """Fetches attachments."""

    async def fetch_due(self, now: dt.datetime) -> int:
        """How many were fetched."""
        ...


class Report(Protocol):
    """How an export ended."""

    @property
    def job(self) -> Job:
        """The job, which is over."""
        ...


class Exporter(Protocol):
    """Makes bulk exports."""

    async def run(self, use: Use, types: list[str], since: dt.datetime | None = None) -> Report:
        """Export these types to the end."""
        ...


@dataclass(frozen=True, slots=True)
class Errands:
    """What is run; None for what the configuration does not ask for."""

    finder: Finder
    fetcher: Fetcher
    exporter: Exporter | None
    exports: ExportStore


class Beside:
    """Runs the errands of one practice, each one at a time."""

    def __init__(
        self,
        config: PracticeConfig,
        lease: Lease,
        errands: Errands,
        states: StateStore,
        targets: Targets,
        clock: Clock,
    ) -> None:
        self._config = config
        self._lease = lease
        self._errands = errands
        self._states = states
        self._targets = targets
        self._clock = clock
        self._log = log.bind(practice=config.code)
        self._next: dict[str, dt.datetime] = {}
        self.after_export: Callable[[], None] = lambda: None
        """Told when an export has ended: it may have noted absences."""
        self._running: set[str] = set()
        self._taken_in = False

    def due(self, now: dt.datetime) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """The errands to be run now, for the caller to start side by side."""
        errands = {"find": self._find, "fetch": self._fetch, "export": self._export}
        started = []
        for name, errand in errands.items():
            if name in self._running or self._next.get(name, now) > now:
                continue
            self._running.add(name)
            started.append(self._ended(name, errand))
        return started

    def _ended(
        self, name: str, errand: Callable[[], Awaitable[dt.timedelta]]
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        async def run() -> None:
            try:
                self._next[name] = self._clock.now() + await errand()
            finally:
                self._running.discard(name)

        return run

    async def _find(self) -> dt.timedelta:
        if await self._errands.finder.find(self._clock.now()):
            await self._targets.register()  # read soon, not when targets are next gone through
        return FIND_EVERY

    async def _fetch(self) -> dt.timedelta:
        fetched = await self._errands.fetcher.fetch_due(self._clock.now())
        return dt.timedelta(0) if fetched else FETCH_EVERY

    async def _export(self) -> dt.timedelta:
        if self._errands.exporter is None or self._config.bulk is None:
            return dt.timedelta(days=1)
        if not self._taken_in:
            await self._targets.take_in()  # the last one may have ended with this process's forerunner
            self._taken_in = True
        types = sorted(self._config.feeds)
        use = await asyncio.to_thread(self._wanted, types)
        if use is None:
            return dt.timedelta(minutes=1)
        await asyncio.to_thread(self._states.register_bulk, self._lease, types, self._clock.now())
        report = await self._errands.exporter.run(use, types)
        await self._targets.register()  # it may have shown something of a patient who is gone, or of one who is new
        await self._targets.take_in()  # what has gone since the kick-off: no pass has ever shown it
        self.after_export()
        if not report.job.is_whole:
            return _EXPORT_AGAIN
        for resource_type in types:
            await asyncio.to_thread(self._states.enliven, self._lease, resource_type)
        await self._targets.register()
        return dt.timedelta(0)

    def _wanted(self, types: list[str]) -> Use | None:
        """Which export is owed: the first that shows all, or one that checks what polls have found since."""
        if self._config.bulk is None:
            return None
        known = self._errands.exports.last_whole(self._config.code, self._config.bulk.group)
        if "first-load" in self._config.bulk.use and any(feed not in known for feed in types):
            return Use.FIRST_LOAD
        last = min((known[feed] for feed in types if feed in known), default=None)
        is_owed = last is None or last + self._config.bulk.every <= self._clock.now()
        return Use.RECONCILE if "reconcile" in self._config.bulk.use and is_owed else None
