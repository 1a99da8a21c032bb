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

    def note_failures(self, engine: int | None, failures: Mapping[str, str | None]) -> None:
        """By practice, the code of the error in which reading it ended; None: a pass has ended well since. Raises DBAPIError."""
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
        self._fares: dict[str, str | None] = {}
        """By practice, what of :meth:`fare` the store has not been told."""
        self._sound: set[str] = set()
        """Practices of which a pass has ended well, and nothing has failed since."""
        self._news = asyncio.Event()
        """Set by what must not wait for the next regular note."""

    def beat(self, practice: str, now: dt.datetime) -> None:
        """A practice was looked after: what is late of it was told, or it is left alone by an operator's word."""
        metrics.LAST_LOOK.labels(practice).set(now.timestamp())
        self._heard[practice] = time.monotonic()
        if practice not in self._known:
            self._known.add(practice)
            self._news.set()

    def fare(self, practice: str, failure: str | None) -> None:
        """Reading a practice ended in an error of this code and begins anew; or, None, a pass of it has ended well."""
        if failure is None and practice in self._sound:
            return
        (self._sound.add if failure is None else self._sound.discard)(practice)
        self._fares[practice] = failure
        self._news.set()

    async def run(self) -> None:
        """Tell the store at once of a practice that is heard for the first time, and of how one fares; until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self.keep()

    async def keep(self) -> None:
        """Tell the store of those that were heard since; what it does not take is told by the next beats."""
        heard, self._heard = self._heard, {}
        fares, self._fares = self._fares, {}
        if not heard and not fares:
            return
        now = time.monotonic()
        ages = {practice: dt.timedelta(seconds=now - at) for practice, at in heard.items()}
        try:
            if ages:
                await asyncio.to_thread(self._store.note, self._engine(), ages)
            if fares:
                await asyncio.to_thread(self._store.note_failures, self._engine(), fares)
        except DBAPIError as error:
            self._fares = fares | self._fares  # no later beat repeats them
            log.warning("signs of life will be noted later", action="heartbeat.fail", error=type(error).__name__)
