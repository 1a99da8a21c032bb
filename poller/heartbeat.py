"""Signs of life of one engine's practices, in the metrics and in the store: a dead man's switch is what hears them no more.

Each practice gives its own: one whose rounds stand still is noticed while the others go on.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog
from sqlalchemy.exc import DBAPIError

from poller import metrics

log = structlog.get_logger(__name__)

KEEP_EVERY = dt.timedelta(seconds=15)
"""Between two notes in the store; :data:`poller.core.health.GONE` is several times that."""


class Keeper(Protocol):
    """Keeps signs of life."""

    def note(self, engine: int | None, ages: Mapping[str, dt.timedelta]) -> None:
        """By practice, how long ago it was last looked after. Raises DBAPIError."""
        ...


class Heartbeat:
    """Hears practices, and tells the store of all of them in one statement. All methods belong to one event loop."""

    def __init__(self, store: Keeper, engine: Callable[[], int | None]) -> None:
        """``engine`` says this engine's number in the store, once it has one."""
        self._store = store
        self._engine = engine
        self._heard: dict[str, float] = {}
        """By practice, when it was heard since the store was told, by the monotonic clock."""
        self._known: set[str] = set()
        """Practices that were ever heard."""
        self._news = asyncio.Event()
        """Set by what must not wait for the next regular note."""

    def beat(self, practice: str, now: dt.datetime) -> None:
        """A practice was looked after: what is late of it was told, or it is left alone by an operator's word."""
        metrics.LAST_LOOK.labels(practice).set(now.timestamp())
        self._heard[practice] = time.monotonic()
        if practice not in self._known:
            self._known.add(practice)
            self._news.set()

    async def run(self) -> None:
        """Tell the store at once of a practice that is heard for the first time; until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self.keep()

    async def keep(self) -> None:
        """Tell the store of those that were heard since; what it does not take is told by the next beats."""
        heard, self._heard = self._heard, {}
        if not heard:
            return
        now = time.monotonic()
        ages = {practice: dt.timedelta(seconds=now - at) for practice, at in heard.items()}
        try:
            await asyncio.to_thread(self._store.note, self._engine(), ages)
        except DBAPIError as error:
            log.warning("signs of life will be noted later", action="heartbeat.fail", error=type(error).__name__)
