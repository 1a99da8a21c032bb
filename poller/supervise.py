"""Keeps one practice polled: takes its lease, finds out how it can be read, runs its cycle, and begins again after a failure.

One practice's trouble stays its own: nothing here stops another.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy.exc import DBAPIError

from poller import metrics
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.core.model import Strategy
from poller.cycle import REFUSALS_BEFORE_PROBE, Cycle, PassReport, Reader, is_refusal
from poller.errors import LeaseLost, LeaseTaken, StoreError
from poller.reconcile import Confirmer, Reconciler
from poller.store.deletes import DeleteStore
from poller.store.repository import Lease, Repository
from poller.store.state import FeedState, LeaseKeeper, StateStore

log = structlog.get_logger(__name__)

TICK = dt.timedelta(seconds=0.5)
"""How often it is looked what is owed; a pass that ends looks too."""
PROBE_EVERY = dt.timedelta(days=1)
_PROBE_RETRY = dt.timedelta(seconds=5)
_PROBE_RETRY_CEILING = dt.timedelta(minutes=15)
_LATENESS_EVERY = dt.timedelta(seconds=5)
_RESTART_CEILING = 30.0
_LEASE_RETRY = 2.0


class Verdict(Protocol):
    """What a probe decided."""

    @property
    def strategy(self) -> Strategy | None:
        """None: undecided, ask again later."""
        ...

    @property
    def reason(self) -> str:
        """Why, for the operator."""
        ...

    @property
    def evidence(self) -> Mapping[str, Any]:
        """Statuses and findings; no ids."""
        ...


class Source(Reader, Confirmer, Protocol):
    """Everything that is asked of a practice's server."""

    async def probe(self, resource_type: str, now: dt.datetime) -> Verdict:
        """Find out, by evidence, how a resource type can be read."""
        ...


@dataclass(frozen=True, slots=True)
class Stores:
    """The parts of the store that polling writes to."""

    keeper: LeaseKeeper
    states: StateStore
    repository: Repository
    deletes: DeleteStore


class Supervisor:
    """One practice, for as long as the process runs."""

    def __init__(
        self,
        config: PracticeConfig,
        stores: Stores,
        open_source: Callable[[], AbstractAsyncContextManager[Source]],
        scheduler: AsyncIOScheduler,
        clock: Clock,
        digest_key: bytes,
        on_commit: Callable[[], None],
    ) -> None:
        self._config = config
        self._stores = stores
        self._open_source = open_source
        self._scheduler = scheduler
        self._clock = clock
        self._digest_key = digest_key
        self._on_commit = on_commit
        self._log = log.bind(practice=config.code)

    async def run(self, stop: asyncio.Event) -> None:
        """Poll until ``stop``; after a failure of the store begin again, waiting longer each time."""
        failures = 0
        while not stop.is_set():
            try:
                await self._serve(stop)
                failures = 0
            except LeaseTaken as error:
                self._log.info(str(error), action="lease.wait")
                await _wait(stop, _LEASE_RETRY)
            except LeaseLost as error:
                self._log.warning(str(error), action="lease.lose")
                await _wait(stop, _LEASE_RETRY)
            except (StoreError, DBAPIError) as error:
                failures += 1
                self._log.error(
                    "the store failed; the practice begins again",
                    action="practice.restart",
                    error=type(error).__name__,
                    failures=failures,
                )
                await _wait(stop, min(_RESTART_CEILING, 0.5 * 2 ** min(failures, 8)))
            # A defect of ours in one practice must not end the others: it is said, and the practice goes on.
            except Exception:  # noqa: BLE001
                failures += 1
                self._log.exception(
                    "an unexpected error; the practice begins again", action="practice.restart", failures=failures
                )
                await _wait(stop, min(_RESTART_CEILING, 0.5 * 2 ** min(failures, 8)))

    async def _serve(self, stop: asyncio.Event) -> None:
        lease = await asyncio.to_thread(self._stores.keeper.take, self._config.code)
        await asyncio.to_thread(self._stores.states.register_practice, lease)
        await asyncio.to_thread(self._stores.states.retire_feeds, lease, list(self._config.feeds), self._clock.now())
        async with self._open_source() as source:
            service = _Service(
                self._config, self._stores, lease, source, self._clock, self._digest_key, self._on_commit
            )
            jobs = [
                self._scheduler.add_job(
                    job,
                    "interval",
                    seconds=every.total_seconds(),
                    coalesce=True,
                    misfire_grace_time=None,
                    max_instances=1,
                )
                for job, every in ((service.tick, TICK), (service.observe, _LATENESS_EVERY))
            ]
            try:
                await service.until(stop)
            finally:
                for job in jobs:
                    job.remove()
                await service.stop()


class _Service:
    """A practice while its lease holds."""

    def __init__(
        self,
        config: PracticeConfig,
        stores: Stores,
        lease: Lease,
        source: Source,
        clock: Clock,
        digest_key: bytes,
        on_commit: Callable[[], None],
    ) -> None:
        self._config = config
        self._states = stores.states
        self._lease = lease
        self._source = source
        self._clock = clock
        self._log = log.bind(practice=config.code)
        self._cycle = Cycle(config, lease, source, stores.repository, stores.states, clock, digest_key, on_commit)
        self._cycle.after_pass = self._after_pass
        self._reconciler = Reconciler(
            config, lease, source, stores.repository, stores.deletes, clock, digest_key, on_commit
        )
        self._probe_at: dict[str, dt.datetime] = {}
        self._probe_failures: dict[str, int] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._settling = False
        self._settle_again = False
        self._probing = False
        self._known = False

    async def tick(self) -> None:
        """Probe what is to be probed and read what is owed."""
        if not self._probing and (not self._known or any(at <= self._clock.now() for at in self._probe_at.values())):
            self._probing = True
            self._spawn(self._probe_all())
        self._cycle.tick()

    async def observe(self) -> None:
        """Say what is late."""
        self._cycle.observe_lateness()

    async def until(self, stop: asyncio.Event) -> None:
        """Wait for ``stop``; raises what ended the cycle."""
        stopped = asyncio.create_task(stop.wait())
        try:
            ends: set[asyncio.Future[Any]] = {stopped, self._cycle.failed}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._cycle.failed.done():
                self._cycle.failed.result()
        finally:
            stopped.cancel()

    async def stop(self) -> None:
        """End everything under way."""
        await self._cycle.stop()
        for task in list(self._work):
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        self._cycle.failed.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._cycle.failed.done():
            self._cycle.failed.set_exception(error)

    def _after_pass(self, report: PassReport) -> None:
        if report.missed:
            self._spawn(self._judge_windows(report))
        if is_refusal(report.failure) and report.failures % REFUSALS_BEFORE_PROBE == 0:
            self._probe_no_later_than(
                report.target.resource_type, self._clock.now() + _delay(report.failures // REFUSALS_BEFORE_PROBE)
            )
        if report.failure is None:
            self._settle_again = True
            if not self._settling:
                self._settling = True
                self._spawn(self._settle())

    def _probe_no_later_than(self, feed: str, at: dt.datetime) -> None:
        """Ask anew then, or sooner if that is planned already: refusals that go on must not put it off and off."""
        self._probe_at[feed] = min(at, self._probe_at.get(feed, at))

    async def _settle(self) -> None:
        try:
            while self._settle_again:
                self._settle_again = False
                await self._reconciler.settle_absences()
        finally:
            self._settling = False

    async def _judge_windows(self, report: PassReport) -> None:
        feed = report.target.resource_type
        missed = await self._reconciler.truly_missed(feed, report.missed)
        if missed == 0:
            return
        metrics.FOUND_ONLY_BY_SWEEP.labels(self._config.code, feed).inc(missed)
        self._log.warning(
            "windows missed changes that a sweep found; the feed is read by sweeps until the next probe",
            action="feed.step-down",
            feed=feed,
            missed=missed,
        )
        now = self._clock.now()
        await asyncio.to_thread(self._states.step_down, self._lease, feed, missed, now)
        self._probe_at[feed] = now + PROBE_EVERY
        await self._cycle.adopt(feed, Strategy.SWEEP)

    async def _probe_all(self) -> None:
        try:
            if not self._known:
                await self._recall()
            for feed, at in sorted(self._probe_at.items(), key=lambda item: item[1]):
                if at <= self._clock.now():
                    await self._probe(feed)
        finally:
            self._probing = False

    async def _recall(self) -> None:
        """Take up every feed whose way of being read is known from a probe not long ago; the others are to be probed."""
        now = self._clock.now()
        for resource_type in self._config.feeds:
            known = await asyncio.to_thread(self._states.register_feed, self._lease, resource_type, now)
            fresh_until = _fresh_until(known)
            if known.strategy is None or fresh_until is None or not self._still_allowed(known.strategy):
                self._probe_at[resource_type] = now
            else:
                self._probe_at[resource_type] = fresh_until
                self._log.info(
                    f"feed is read by {known.strategy.value}: {known.reason}", action="feed.recall", feed=resource_type
                )
                await self._cycle.adopt(resource_type, known.strategy)
        self._known = True

    def _still_allowed(self, strategy: Strategy) -> bool:
        return self._config.strategy in {"auto", strategy.value}

    async def _probe(self, feed: str) -> None:
        verdict = await self._source.probe(feed, self._clock.now())
        now = self._clock.now()
        if verdict.strategy is None:
            self._probe_failures[feed] = self._probe_failures.get(feed, 0) + 1
            self._probe_at[feed] = now + _delay(self._probe_failures[feed])
            self._log.warning(f"undecided how to read the feed: {verdict.reason}", action="feed.probe", feed=feed)
            return
        self._probe_failures.pop(feed, None)
        self._probe_at[feed] = now + PROBE_EVERY
        self._log.info(
            f"feed is read by {verdict.strategy.value}: {verdict.reason}",
            action="feed.probe",
            feed=feed,
            strategy=verdict.strategy.value,
        )
        await asyncio.to_thread(
            self._states.save_verdict, self._lease, feed, verdict.strategy, verdict.reason, dict(verdict.evidence), now
        )
        await self._cycle.adopt(feed, verdict.strategy)
        self._cycle.tick()


def _fresh_until(known: FeedState) -> dt.datetime | None:
    decided = max((at for at in (known.probed_at, known.stepped_down_at) if at is not None), default=None)
    return decided + PROBE_EVERY if decided is not None else None


def _delay(failures: int) -> dt.timedelta:
    return min(_PROBE_RETRY_CEILING, _PROBE_RETRY * int(2 ** min(failures - 1, 10)))


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
