"""Keeps practices polled: takes each one's lease, finds out how it can be read, runs its cycle, and begins again after a failure.

One practice's trouble stays its own: nothing here stops another. What is wanted of a practice may change while it runs: its configuration,
or what an operator has paused. Then what runs ends, as it would at a restart, and begins anew by what is wanted now; a practice of which
nothing changes notices nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError

from poller import metrics
from poller.beside import Errands
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.config.difference import without_feeds
from poller.core.pause import PRACTICE
from poller.errors import Code, LeaseLost, LeaseTaken, PollerError, StoreError
from poller.rounds import Rounds
from poller.service import Service, Source, Stores
from poller.store.engine import sqlstate
from poller.store.repository import Lease
from poller.store.state import LeaseKeeper

log = structlog.get_logger(__name__)

TICK = dt.timedelta(seconds=0.5)
"""How often it is looked what is owed, at the most; a pass that ends looks too."""
_LONGEST_TICK = dt.timedelta(seconds=5)
_TICKS = 60
"""So many looks between two reads of what is read most often, and no more: with 1,000 practices each costs."""
_LATENESS_EVERY = dt.timedelta(seconds=5)
_RESTART_CEILING = 30.0
_LEASE_RETRY = 2.0


S = TypeVar("S", bound=Source)


def _unheard(_practice: str, _said: object) -> None:
    """Nobody listens for signs of life."""


def _code(error: Exception) -> str:
    """What may be told of an error: our own code, or Postgres's; never words, which may hold a patient's data."""
    if isinstance(error, PollerError):
        return error.code.value
    if isinstance(error, DBAPIError):
        state = sqlstate(error)
        return state if state.startswith("SQLSTATE") else Code.STORE_UNREACHABLE.value
    return Code.DEFECT.value


class Supervisor(Generic[S]):
    """One practice, for as long as it is wanted."""

    def __init__(
        self,
        config: PracticeConfig,
        stores: Stores,
        open_source: Callable[[PracticeConfig], AbstractAsyncContextManager[S]],
        rounds: Rounds,
        clock: Clock,
        digest_key: bytes,
        on_commit: Callable[[], None],
        errands: Callable[[PracticeConfig, Lease, S], Errands] | None = None,
        paused: Collection[str] = (),
        looked: Callable[[str, dt.datetime], None] = _unheard,
        fared: Callable[[str, str | None], None] = _unheard,
    ) -> None:
        """``paused``: the feeds that an operator has paused; :data:`PRACTICE` for all.

        ``looked`` is told each time the practice was looked after; ``fared`` of each error that it begins again after, by its code, and, by
        None, of passes that end well.
        """
        self._looked = looked
        self._fared = fared
        self._errands = errands
        self._config = config
        self._paused = frozenset(paused)
        self._resumed: dict[str, dt.datetime] = {}
        """When a feed's pause ended: it owed nothing before."""
        self._stores = stores
        self._open_source = open_source
        self._rounds = rounds
        self._clock = clock
        self._digest_key = digest_key
        self._on_commit = on_commit
        self._log = log.bind(practice=config.code)
        self._ending = False
        self._turn = asyncio.Event()
        """What is wanted has changed, or nothing is wanted any more."""
        self._still = asyncio.Event()
        """Nothing runs: no call to the practice is under way."""
        self._still.set()
        self._serving: PracticeConfig | None = None
        self.service: Service | None = None
        """What runs, while it does."""
        self._dropped: set[str] = set()
        """Feeds that were retired, and still show in metrics."""

    @property
    def is_paused(self) -> bool:
        """Whether an operator has the whole practice left alone."""
        return self._wanted is None

    @property
    def _wanted(self) -> PracticeConfig | None:
        """What is to be read: the configuration without what is paused; None for nothing."""
        return None if PRACTICE in self._paused else without_feeds(self._config, self._paused)

    async def run(self) -> None:
        """Poll until :meth:`end`; after a failure of the store begin again, waiting longer each time."""
        failures = 0
        while not self._ending:
            self._turn.clear()
            self._show()
            wanted = self._wanted
            if wanted is None:
                self._looked(self._config.code, self._clock.now())
                await self._rest(_LATENESS_EVERY.total_seconds())
                continue
            try:
                await self._serve(wanted)
                failures = 0
            except LeaseTaken as error:
                self._log.info(str(error), action="lease.wait")
                await self._rest(_LEASE_RETRY)
            except LeaseLost as error:
                self._log.warning(str(error), action="lease.lose")
                await self._rest(_LEASE_RETRY)
            except (StoreError, DBAPIError) as error:
                failures += 1
                self._fared(self._config.code, _code(error))
                self._log.error(
                    "the store failed; the practice begins again",
                    action="practice.restart",
                    error=sqlstate(error) if isinstance(error, DBAPIError) else str(error),
                    failures=failures,
                )
                await self._rest(min(_RESTART_CEILING, 0.5 * 2 ** min(failures, 8)))
            # A defect of ours in one practice must not end the others: it is said, and the practice goes on.
            except Exception as error:  # noqa: BLE001
                failures += 1
                self._fared(self._config.code, _code(error))
                self._log.exception(
                    "an unexpected error; the practice begins again", action="practice.restart", failures=failures
                )
                await self._rest(min(_RESTART_CEILING, 0.5 * 2 ** min(failures, 8)))

    def change(self, config: PracticeConfig) -> None:
        """Poll by this configuration from now on. What is the same changes nothing."""
        self._dropped |= self._config.feeds.keys() - config.feeds.keys()
        before, self._config = self._wanted, config
        self._follow(before)

    def hold(self, paused: Collection[str]) -> None:
        """Leave exactly these feeds alone, or the whole practice. What is the same changes nothing."""
        if self._paused == frozenset(paused):
            return
        before, was = self._wanted, self._paused
        self._paused = frozenset(paused)
        now = self._clock.now()
        over = was - self._paused
        for feed in self._config.feeds if PRACTICE in over else over:
            self._resumed[feed] = now
        self._log.info(
            "what an operator has paused has changed",
            action="operator.pause",
            paused=sorted(self._paused),
            over=sorted(over),
        )
        self._show()
        self._follow(before)

    def _follow(self, before: PracticeConfig | None) -> None:
        if self._wanted != before:
            self._turn.set()

    async def settled(self) -> None:
        """Wait until nothing runs any more by what was wanted before."""
        if self._serving is not None and self._serving != self._wanted:
            await self._still.wait()

    def end(self) -> None:
        """Want nothing more: :meth:`run` ends soon."""
        self._ending = True
        self._turn.set()

    def _show(self) -> None:
        """Have the metrics say what is wanted; what ran until now may have said something else at last."""
        for feed in self._dropped - self._config.feeds.keys():
            metrics.forget(self._config.code, feed)
        for feed in (PRACTICE, *self._config.feeds):
            is_paused = bool(self._paused & {PRACTICE, feed})
            metrics.PAUSED_BY_OPERATOR.labels(self._config.code, feed).set(is_paused)
            if is_paused and feed != PRACTICE:
                metrics.LATE.labels(self._config.code, feed).set(
                    0
                )  # nothing is owed; when it was read last still shows

    async def _serve(self, config: PracticeConfig) -> None:
        lease = await asyncio.to_thread(self._stores.keeper.take, config.code)
        await asyncio.to_thread(self._stores.states.register_practice, lease)
        # What is paused is not retired: its targets stay as they are, and are not read.
        await asyncio.to_thread(self._stores.states.retire_feeds, lease, list(self._config.feeds), self._clock.now())
        self._serving = config
        self._still.clear()
        try:
            async with self._open_source(config) as source:
                await self._read(config, lease, source)
        finally:
            self._serving = None
            self._still.set()

    async def _read(self, config: PracticeConfig, lease: Lease, source: S) -> None:
        errands = self._errands(config, lease, source) if self._errands is not None else None
        service = Service(config, self._stores, lease, source, self._clock, self._digest_key, self._on_commit, errands)
        service.owed_from(self._resumed)
        service.ended_well = lambda: self._fared(config.code, None)
        jobs = [
            self._rounds.add(config.code, job, every)
            for job, every in (
                (service.tick, tick_of(config)),
                (functools.partial(self._look, service), _LATENESS_EVERY),
            )
        ]
        self.service = service
        try:
            await service.until(self._turn)
        finally:
            self.service = None
            for job in jobs:
                job.end()
            await service.stop()

    async def _look(self, service: Service) -> None:
        await service.observe()
        self._looked(self._config.code, self._clock.now())

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._turn.wait(), seconds)


def tick_of(config: PracticeConfig) -> dt.timedelta:
    """How often it is looked what a practice is owed: as often as its quickest feed is worth, :data:`TICK` to five seconds.

    Where the planner decides, something may be worth a call at any time.
    """
    feeds = config.feeds.values()
    if any(feed.planned or feed.every is None for feed in feeds):
        return TICK
    quickest = min((feed.every for feed in feeds if feed.every is not None), default=_LONGEST_TICK)
    return min(max(quickest / _TICKS, TICK), _LONGEST_TICK)


class Supervision:
    """The supervisors of all practices of one engine."""

    def __init__(self, make: Callable[[PracticeConfig, frozenset[str]], Supervisor[Any]], keeper: LeaseKeeper) -> None:
        """``make`` builds the supervisor of a practice; its second argument says what is paused of it."""
        self._make = make
        self._keeper = keeper
        self._running: dict[str, tuple[Supervisor[Any], asyncio.Task[None]]] = {}
        self._paused: Mapping[str, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def of(self, practice: str) -> Supervisor[Any] | None:
        """A practice's supervisor; None if this engine is not configured for it."""
        found = self._running.get(practice)
        return found[0] if found is not None else None

    async def follow(self, practices: Mapping[str, PracticeConfig]) -> None:
        """Have exactly these practices polled: new ones begin, those that are not named end and give their lease back.

        Returns when nothing runs any more by what was wanted before.
        """
        gone = {code: self._running.pop(code) for code in self._running.keys() - practices.keys()}
        for supervisor, _ in gone.values():
            supervisor.end()
        await asyncio.gather(*(task for _, task in gone.values()), return_exceptions=True)
        for code in gone:
            with contextlib.suppress(DBAPIError):  # then the session is gone, and the lease with it
                await asyncio.to_thread(self._keeper.release, code)
            metrics.forget(code)
            log.info("the practice is polled no more", action="practice.end", practice=code)
        for code, config in practices.items():
            if code in self._running:
                self._running[code][0].change(config)
            else:
                supervisor = self._make(config, self._paused.get(code, frozenset()))
                self._running[code] = supervisor, asyncio.create_task(supervisor.run())
        await self._settled()

    async def hold(self, paused: Mapping[str, frozenset[str]]) -> None:
        """Leave exactly these alone, by practice; returns when no call for what is paused is under way any more."""
        self._paused = paused
        for code, (supervisor, _) in self._running.items():
            supervisor.hold(paused.get(code, frozenset()))
        await self._settled()

    async def _settled(self) -> None:
        await asyncio.gather(*(supervisor.settled() for supervisor, _ in self._running.values()))

    async def end(self) -> None:
        """Have nothing polled any more."""
        running, self._running = self._running, {}
        for supervisor, _ in running.values():
            supervisor.end()
        await asyncio.gather(*(task for _, task in running.values()), return_exceptions=True)
