"""A practice's cycle: what is owed is planned, read, compared, decided and committed.

The way of a change through this module: :meth:`Cycle.tick` (what is owed) → :meth:`Cycle.run_pass` (one target, batch by batch) →
:meth:`Cycle._commit` (canonical form, comparison and commit, on a thread) → the relay is told.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from poller import metrics
from poller.clock import Clock
from poller.config import FeedConfig, PracticeConfig
from poller.config.values import cron_trigger
from poller.core import plan
from poller.core.canonical import reduce
from poller.core.decide import origin_of_change
from poller.core.model import Action, Batch, Coverage, Failure, FailureKind, Kind, Purpose, Strategy, Target
from poller.core.plan import Schedule, TargetState
from poller.core.window import initial_cursor, next_cursor
from poller.store.repository import Key, Lease, PassContext, PassEnd, Recorded, Repository
from poller.store.state import StateStore

log = structlog.get_logger(__name__)

_PLACES_FOR_WINDOWS = 2
"""Calls in flight that sweeps leave to the windows beside them."""


class Reading(Protocol):
    """One pass under way: iterate over its batches, then ask what it proved."""

    coverage: Coverage
    failure: Failure | None
    server_date: dt.datetime | None
    began: dt.datetime
    ended: dt.datetime

    def __aiter__(self) -> AsyncIterator[Batch]:
        """The batches, in page order."""
        ...


class Reader(Protocol):
    """Reads targets from the source."""

    def read(self, target: Target, since: dt.datetime | None, purpose: Purpose) -> Reading:
        """Begin a pass."""
        ...


@dataclass(frozen=True, slots=True)
class PassReport:
    """A pass that has been committed."""

    target: Target
    failure: Failure | None
    failures: int
    """How many passes of the target in a row have failed."""
    missed: tuple[str, ...] = ()
    """Ids that a sweep had found changed and that this window, which covers their change, did not show."""


@dataclass(slots=True)
class _Progress:
    """What a pass has come to so far."""

    seen: list[str] = field(default_factory=list)
    changes: list[tuple[Key, Action]] = field(default_factory=list)
    outdated: bool = False


class Cycle:
    """Reads one practice for as long as its lease holds."""

    def __init__(
        self,
        config: PracticeConfig,
        lease: Lease,
        reader: Reader,
        repository: Repository,
        states: StateStore,
        clock: Clock,
        digest_key: bytes,
        on_commit: Callable[[], None],
    ) -> None:
        self._config = config
        self._lease = lease
        self._reader = reader
        self._repository = repository
        self._store = states
        self._clock = clock
        self._digest_key = digest_key
        self._on_commit = on_commit
        self._log = log.bind(practice=config.code)
        self._states: dict[str, TargetState] = {}
        self._strategies: dict[str, Strategy] = {}
        self._schedules: dict[tuple[str, Kind], Schedule] = {}
        self._late: dict[str, bool] = {}
        self._running: dict[Target, asyncio.Task[None]] = {}
        self._loading = asyncio.Lock()
        self._stopping = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set to the error that ended the cycle: the store failed, or the lease was lost."""
        self.after_pass: Callable[[PassReport], None] | None = None
        """Told of each committed pass; the reconciler and the probe listen here."""

    async def adopt(self, resource_type: str, strategy: Strategy) -> None:
        """Read a feed by this strategy from now on."""
        self._strategies[resource_type] = strategy
        feed = self._config.feeds[resource_type]
        detection, whole = feed_schedules(feed, self._config)
        self._schedules |= {
            (resource_type, Kind.WINDOW): detection,
            (resource_type, Kind.SWEEP): whole if strategy is Strategy.WINDOW else detection,
            (resource_type, Kind.PATIENT): detection,
            (resource_type, Kind.NAMES): detection,
        }
        await self.register_targets([resource_type])

    async def register_targets(self, resource_types: Sequence[str] | None = None) -> None:
        """Bring targets in line with strategies and patients, and load what is known of them.

        One at a time: an older list of patients would retire the targets of those found since, and what was loaded earlier would put a
        target back to before its last pass.
        """
        async with self._loading:
            await self._register_targets(resource_types)

    async def _register_targets(self, resource_types: Sequence[str] | None) -> None:
        practice = self._config.code
        patients = await asyncio.to_thread(self._store.patients, practice)
        for resource_type in resource_types or list(self._strategies):
            feed, strategy = self._config.feeds[resource_type], self._strategies[resource_type]
            targets = plan.wanted_targets(
                practice, resource_type, strategy, feed.categories, patients, self._config.patients.names
            )
            await asyncio.to_thread(
                self._store.register_targets, self._lease, resource_type, targets, self._clock.now()
            )
        loaded = await asyncio.to_thread(self._store.targets, practice, self._config.patients.names)
        self._states = {state.target.key: state for state in loaded if state.target.resource_type in self._strategies}

    def tick(self) -> None:
        """Start the passes that are owed, the longest owed first, as many as may be in flight."""
        now = self._clock.now()
        running = {target.key for target in self._running}
        waiting = (state for state in list(self._states.values()) if state.target.key not in running)
        for target in plan.due(waiting, self._schedules, now):
            if len(self._running) >= self._config.budget.max_in_flight or self._stopping or self.failed.done():
                return
            if target.kind is Kind.SWEEP and self._sweeps_enough():
                continue
            task = asyncio.create_task(self.run_pass(self._states[target.key]))
            self._running[target] = task
            task.add_done_callback(functools.partial(self._ended, target))

    def _sweeps_enough(self) -> bool:
        """Whether one sweep more would leave no places for windows: sweeps of all feeds at once may last for an hour."""
        if not any(state.target.kind is Kind.WINDOW for state in self._states.values()):
            return False
        sweeps = sum(target.kind is Kind.SWEEP for target in self._running)
        return sweeps >= max(1, self._config.budget.max_in_flight - _PLACES_FOR_WINDOWS)

    def _ended(self, target: Target, task: asyncio.Task[None]) -> None:
        self._running.pop(target, None)
        if task.cancelled() or self.failed.done():
            return
        if (error := task.exception()) is not None:
            self.failed.set_exception(error)
            return
        self.tick()

    async def run_pass(self, state: TargetState) -> None:
        """Read one target whole and commit it batch by batch; the last batch carries what the pass proved."""
        target = state.target
        context = self._context(state)
        reading = self._reader.read(target, state.cursor_at, _purpose(state))
        progress = _Progress()
        held: Batch | None = None
        async for batch in reading:
            if held is not None:
                await self._commit(context, held, progress, None)
            progress.seen.extend(sighting.id for sighting in batch.sightings)
            held = batch
        end = self._end(state, reading, progress)
        await self._commit(context, held or Batch(()), progress, end)
        await self._settle(state, reading, progress, end)

    def _context(self, state: TargetState) -> PassContext:
        resource_type = state.target.resource_type
        return PassContext(
            lease=self._lease,
            target=state.target,
            origin=plan.origin_of(state, self._strategies[resource_type]),
            previous_read=state.complete_began,
            patients_live=state.baseline_at is not None or state.target.kind is Kind.WINDOW,
            tells_window=self._window_beside(state),
        )

    def _window_beside(self, state: TargetState) -> Target | None:
        """The window that must show what this sweep finds changed; None where none has a start yet, or nothing is found but a baseline."""
        target = state.target
        if target.kind is not Kind.SWEEP or self._strategies[target.resource_type] is not Strategy.WINDOW:
            return None
        window = self._states.get(replace(target, kind=Kind.WINDOW).key)
        if state.baseline_at is None or window is None or window.cursor_at is None:
            return None
        return window.target

    async def _commit(self, context: PassContext, batch: Batch, progress: _Progress, end: PassEnd | None) -> None:
        def work() -> Recorded:
            versions = [reduce(sighting, self._digest_key) for sighting in batch.sightings]
            return self._repository.record(context, versions, self._clock.now(), end)

        recorded = await asyncio.to_thread(work)
        progress.outdated = progress.outdated or bool(recorded.outdated)
        progress.changes.extend((key, decision.action) for key, decision in recorded.changes)
        feed = context.target.resource_type
        for _, decision in recorded.changes:
            origin = origin_of_change(context.origin, decision.action)
            metrics.CHANGES.labels(self._config.code, feed, decision.action.value, origin.value).inc()
        if recorded.outdated:
            metrics.OUTDATED.labels(self._config.code, feed).inc(len(recorded.outdated))
        if recorded.changes:
            self._on_commit()

    def _end(self, state: TargetState, reading: Reading, progress: _Progress) -> PassEnd:
        kind = state.target.kind
        counts = plan.counts_as_whole(reading.coverage, state.unproven_streak)
        overlap = self._config.overlap
        beside_windows = kind is Kind.SWEEP and self._strategies[state.target.resource_type] is Strategy.WINDOW
        return PassEnd(
            began=reading.began,
            ended=reading.ended,
            coverage=reading.coverage,
            failure=reading.failure.kind.value if reading.failure else None,
            cursor_at=next_cursor(state.cursor_at, reading.server_date, reading.began, overlap)
            if kind is Kind.WINDOW
            else None,
            seen=progress.seen,
            counts=counts,
            outdated=progress.outdated,
            window_from=initial_cursor(reading.server_date, reading.began, overlap) if beside_windows else None,
            judged=state.sweep_found,
        )

    async def _settle(self, state: TargetState, reading: Reading, progress: _Progress, end: PassEnd) -> None:
        """Take note of what the pass came to: reload the target, find new patients' targets, tell who listens."""
        target = state.target
        metrics.PASSES.labels(self._config.code, target.resource_type, target.kind.value, reading.coverage.value).inc()
        self._log.debug(
            "pass ended",
            action="pass.end",
            feed=target.resource_type,
            kind=target.kind.value,
            coverage=reading.coverage.value,
            resources=len(progress.seen),
            changes=len(progress.changes),
            failure=end.failure,
        )
        if reading.failure is not None:
            self._log.warning(
                "a pass ended early and will be tried again",
                action="pass.fail",
                feed=target.resource_type,
                kind=target.kind.value,
                failure=reading.failure.kind.value,
                status=reading.failure.status,
                detail=reading.failure.detail,
            )
        if not await self._reload(target):
            return  # retired while it was read
        if target.kind is Kind.SWEEP:
            await self._reload(
                replace(target, kind=Kind.WINDOW)
            )  # the sweep has told the window beside it where to start
        if target.resource_type == "Patient" and any(
            action in {Action.CREATED, Action.RESTORED} for _, action in progress.changes
        ):
            await self.register_targets()
        if self.after_pass is not None:
            missed = sorted(set(end.judged) - set(progress.seen)) if target.kind is Kind.WINDOW and end.counts else []
            self.after_pass(PassReport(target, reading.failure, self._states[target.key].failures, tuple(missed)))

    async def _reload(self, target: Target) -> bool:
        """Take the target's state from the store; whether it is still in force."""
        async with self._loading:
            loaded = await asyncio.to_thread(
                self._store.targets, self._config.code, self._config.patients.names, target.key
            )
            for state in loaded:
                self._states[target.key] = state
            return bool(loaded)

    def observe_lateness(self) -> None:
        """Say which feeds are late: what was owed a whole read and did not get it."""
        now = self._clock.now()
        for resource_type in self._config.feeds:
            states = [state for state in self._states.values() if state.target.resource_type == resource_type]
            late = resource_type not in self._strategies or plan.late(
                states, self._schedules, now, self._config.timeout
            )
            metrics.LATE.labels(self._config.code, resource_type).set(late)
            oldest = min((state.complete_began or state.registered_at for state in states), default=None)
            if oldest is not None:
                metrics.LAST_WHOLE_READ.labels(self._config.code, resource_type).set(oldest.timestamp())
            if late != self._late.get(resource_type, False):
                self._late[resource_type] = late
                say = self._log.warning if late else self._log.info
                say(
                    "feed is late" if late else "feed is fresh again",
                    action="feed.late" if late else "feed.fresh",
                    feed=resource_type,
                )

    async def stop(self) -> None:
        """End the passes under way; what they have committed stays, the rest is read again."""
        self._stopping = True
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _purpose(state: TargetState) -> Purpose:
    if state.baseline_at is None and not state.live and state.target.kind is not Kind.WINDOW:
        return Purpose.BACKFILL
    return Purpose.RECONCILE if state.target.kind is Kind.SWEEP else Purpose.DETECT


def feed_schedules(feed: FeedConfig, practice: PracticeConfig) -> tuple[Schedule, Schedule]:
    """A feed's schedules: for detection, and for the sweep beside windows."""
    zone = practice.zone
    active = feed.active.includes if feed.active is not None else None
    return (
        Schedule(feed.every, _next_after(feed.cron, zone), active, zone),
        Schedule(feed.sweep_every, _next_after(feed.sweep_cron, zone), active, zone),
    )


def _next_after(cron: str | None, zone: dt.tzinfo) -> plan.NextAfter | None:
    if cron is None:
        return None
    trigger, by_the_wall = cron_trigger(cron, zone), cron_trigger(cron, dt.UTC)

    @functools.lru_cache(1 << 16)  # asked of every target at every look, and thousands of targets may share it
    def after_utc(last: dt.datetime) -> dt.datetime | None:
        after = (last + dt.timedelta(microseconds=1)).astimezone(zone)
        fires: dt.datetime | None = trigger.get_next_fire_time(None, after)
        if fires is not None and fires.astimezone(dt.UTC) <= last:
            # APScheduler takes the second of the two hours when clocks are put back for the first: all would be owed all through it.
            shown = by_the_wall.get_next_fire_time(None, after.replace(tzinfo=dt.UTC, fold=0))
            fires = shown and shown.replace(tzinfo=zone, fold=1)
        return fires and fires.astimezone(dt.UTC)

    def next_after(last: dt.datetime) -> dt.datetime | None:
        return after_utc(last.astimezone(dt.UTC))

    return next_after


REFUSALS_BEFORE_PROBE = 2
"""So many refused passes in a row, and the feed's way of being read is asked for anew."""


def is_refusal(failure: Failure | None) -> bool:
    """Whether the source said that it will not be read this way."""
    return failure is not None and failure.kind is FailureKind.REFUSED
