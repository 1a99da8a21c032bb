"""A practice's cycle: what is owed is planned, read, compared, decided and committed.

The way of a change through this module: :meth:`Cycle.tick` (what is owed) → :meth:`Cycle.run_pass` (one target, batch by batch) →
:meth:`Cycle._commit` (canonical form, comparison and commit, on a thread) → the relay is told.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from poller import metrics
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.config.attachments import attachment_rules
from poller.core import plan
from poller.core.canonical import reduce
from poller.core.decide import origin_of_change
from poller.core.lanes import Lane
from poller.core.model import (
    Action,
    Batch,
    Coverage,
    Failure,
    FailureKind,
    Kind,
    Origin,
    Purpose,
    Strategy,
    Target,
    Version,
)
from poller.core.pages import Problem
from poller.core.plan import TargetState
from poller.core.window import initial_cursor, next_cursor
from poller.lateness import Lateness
from poller.order import Order, Turn, purpose_of
from poller.planning import Pass, Planning
from poller.spans import span
from poller.store.planning import PlanningStore
from poller.store.repository import (
    Key,
    Lease,
    PassContext,
    PassEnd,
    Recorded,
    Repository,
    key_in,
    name_in,
    origin_in,
)
from poller.store.state import StateStore
from poller.targets import Targets
from poller.withheld import without_withheld

log = structlog.get_logger(__name__)


class Reading(Protocol):
    """One pass under way: iterate over its batches, then ask what it proved."""

    coverage: Coverage
    failure: Failure | None
    server_date: dt.datetime | None
    began: dt.datetime
    ended: dt.datetime
    flaws: Counter[Problem]
    """Entries that could not be read, by why."""
    calls: int
    """Requests sent so far."""

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
    orphan: bool = False
    """Whether its patient is gone, so that a refusal says nothing of the feed."""
    missed: tuple[Key, ...] = ()
    """What a content read had found changed and this window, which covers the change, did not show."""
    doubted: tuple[Version, ...] = ()
    """What it showed with elements missing, and what is therefore to be read by its id before it is believed."""


@dataclass(frozen=True, slots=True)
class Came:
    """What one pass came to."""

    changes: int
    coverage: Coverage
    failure: Failure | None
    began: dt.datetime
    found: Sequence[tuple[Key, Action]] = ()
    """The changes, baselines left out."""


@dataclass(slots=True)
class _Progress:
    """What a pass has come to so far."""

    seen: list[str] = field(default_factory=list)
    changes: list[tuple[Key, Action]] = field(default_factory=list)
    outdated: bool = False
    new_patients: bool = False
    found: Counter[str] = field(default_factory=Counter)
    """Changes by type, baselines left out."""
    whom: Counter[str] = field(default_factory=Counter)
    """The same by patient."""
    news: list[tuple[Key, Action]] = field(default_factory=list)
    """The same, each."""
    doubted: list[Version] = field(default_factory=list)


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
        memory: PlanningStore | None = None,
    ) -> None:
        self._config = config
        self._lease = lease
        self._reader = reader
        self._repository = repository
        self._clock = clock
        self._digest_key = digest_key
        self._rules = attachment_rules(config)
        self._on_commit = on_commit
        self._log = log.bind(practice=config.code)
        self.targets = Targets(config, lease, states, clock)
        self.planning = Planning(config, lease, self.targets, clock, memory)
        self.order = Order(config, self.targets, self.planning, clock)
        self.lateness = Lateness(config, self.targets, self.planning, clock)
        self._running: dict[Target, asyncio.Task[Came]] = {}
        self._lanes: dict[Target, Lane] = {}
        """Why each of them began."""
        self._asked: list[tuple[str, Callable[[TargetState], Turn], asyncio.Future[Came | None]]] = []
        """Keys of targets that a person waits for, and the turn that each has."""
        self._stopping = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set to the error that ended the cycle: the store failed, or the lease was lost."""
        self.after_pass: Callable[[PassReport], None] | None = None
        """Told of each committed pass; the reconciler and the ladder listen here."""
        self.believed: set[bytes] = set()
        """Digests of what is shown with elements missing and is believed all the same."""

    async def adopt(self, resource_type: str, strategy: Strategy) -> None:
        """Read a feed by this strategy from now on."""
        await self.targets.adopt(resource_type, strategy)

    def tick(self) -> None:
        """Start the passes whose turn it is, as many as may be in flight."""
        self._begin_asked()
        if len(self._running) < self._config.budget.max_in_flight:
            self.order.look()
        while len(self._running) < self._config.budget.max_in_flight:
            if self._stopping or self.failed.done():
                return
            turn = self.order.next(self._lanes)
            if turn is None:
                return
            self._begin(turn)

    def read_at_once(self, key: str) -> asyncio.Future[Came | None]:
        """Read a target before all that is owed; what comes of it, or None if it is not in force any more.

        A pass of it that is under way has begun before this was asked: it ends first. Cancelled when the cycle ends.
        """
        return self._ask(key, lambda state: Turn(state, Lane.OWED, Purpose.ASKED))

    def reconcile(self, key: str) -> asyncio.Future[Came | None]:
        """The same without haste: its calls wait as those of whole reads beside windows do."""
        return self._ask(key, self.order.reconciling)

    def _ask(self, key: str, turn: Callable[[TargetState], Turn]) -> asyncio.Future[Came | None]:
        came: asyncio.Future[Came | None] = asyncio.get_running_loop().create_future()
        self._asked.append((key, turn, came))
        self.tick()
        return came

    def _begin_asked(self) -> None:
        """They need no place among the passes: the gate bounds the calls in flight, and knows what they are for."""
        waiting, self._asked = self._asked, []
        for key, turn, came in waiting:
            state = self.targets.states.get(key)
            if came.done():
                continue
            if self._stopping or self.failed.done():
                came.cancel()
            elif state is None:
                came.set_result(None)
            elif any(key == other.key for other in self._running):
                self._asked.append((key, turn, came))
            else:
                task = self._begin(turn(state))
                task.add_done_callback(functools.partial(_tell, came))

    def _begin(self, turn: Turn) -> asyncio.Task[Came]:
        task = asyncio.create_task(self.run_pass(turn.state, turn))
        self._running[turn.state.target] = task
        self._lanes[turn.state.target] = turn.lane
        task.add_done_callback(functools.partial(self._ended, turn.state.target))
        return task

    def _ended(self, target: Target, task: asyncio.Task[Came]) -> None:
        self._running.pop(target, None)
        self._lanes.pop(target, None)
        if task.cancelled() or self.failed.done():
            return
        if (error := task.exception()) is not None:
            self.failed.set_exception(error)
            return
        self.tick()

    async def run_pass(self, state: TargetState, turn: Turn | None = None) -> Came:
        """Read one target whole and commit it batch by batch; the last batch carries what the pass proved."""
        target = state.target
        with span("pass", practice=self._config.code, feed=target.resource_type, kind=target.kind) as told:
            came = await self._run(state, turn)
            told.add(
                changes=came.changes,
                coverage=came.coverage,
                failure=came.failure.kind if came.failure is not None else None,
            )
        return came

    async def _run(self, state: TargetState, turn: Turn | None) -> Came:
        target = state.target
        context = self._context(state)
        reading = self._reader.read(target, state.cursor_at, turn.purpose if turn is not None else purpose_of(state))
        progress = _Progress()
        held: Batch | None = None
        async for batch in reading:
            if held is not None:
                await self._commit(context, held, progress, None)
            progress.seen.extend(name_in(target, (shown.resource_type, shown.id)) for shown in batch.sightings)
            held = batch
        end = self._end(state, reading, progress)
        await self._commit(context, held or Batch(()), progress, end)
        self._charge(state, reading, progress, end, turn.lane if turn is not None else Lane.OWED)
        await self._settle(state, reading, progress, end)
        return Came(len(progress.changes), reading.coverage, reading.failure, reading.began, progress.news)

    def _charge(self, state: TargetState, reading: Reading, progress: _Progress, end: PassEnd, lane: Lane) -> None:
        """Let the planner learn from a pass, and its lane pay for it."""
        metrics.LANE_CALLS.labels(self._config.code, lane.value).inc(reading.calls)
        self.order.charge(lane, reading.calls)
        self.planning.note_pass(
            Pass(state, reading.began, reading.ended, end.counts, reading.calls, progress.found, progress.whom)
        )

    def _context(self, state: TargetState) -> PassContext:
        return PassContext(
            lease=self._lease,
            target=state.target,
            origin=plan.origin_of(state, self.targets.strategy_of(state.target)),
            previous_read=state.complete_began,
            patients_live=self.targets.enumerated(state),
            baseline=state.baseline_types if state.target.kind.is_everything else frozenset(),
            references=self._config.patients.references,
            believes=frozenset(self.believed) if self._may_be_cut(state.target) else None,
            missed_by=self.targets.missing(state.target),
            tells_window=self.targets.window_beside(state),
        )

    def _may_be_cut(self, target: Target) -> bool:
        """Whether what a pass shows with less in it may be cut by the operation; what an operator has forced is taken as it is."""
        return target.kind.is_everything and all(self._config.strategy_of(feed) == "auto" for feed in target.reads)

    async def _commit(self, context: PassContext, batch: Batch, progress: _Progress, end: PassEnd | None) -> None:
        def work() -> Recorded:
            config, now = self._config, self._clock.now()
            kept = without_withheld(config, self._repository, context, batch.sightings, now)
            noise, drop = config.noise, config.drop
            versions.extend(reduce(one, self._digest_key, self._rules, noise, drop=drop) for one in kept)
            return self._repository.record(context, versions, self._clock.now(), end)

        versions: list[Version] = []
        with span("commit", resources=len(batch.sightings)) as told:
            recorded = await asyncio.to_thread(work)
            told.add(changes=len(recorded.changes))
        self.planning.note_visits(recorded.visits)
        progress.outdated = progress.outdated or bool(recorded.outdated)
        progress.changes.extend((key, decision.action) for key, decision in recorded.changes)
        progress.new_patients = progress.new_patients or bool(recorded.new_patients)
        progress.doubted.extend(recorded.doubted)
        shown = {version.key: version for version in versions} if recorded.changes else {}
        for key, decision in recorded.changes:
            origin = origin_of_change(origin_in(context, key[0]), decision.action)
            metrics.CHANGES.labels(self._config.code, key[0], decision.action.value, origin.value).inc()
            if origin is not Origin.BASELINE:
                progress.found[key[0]] += 1
                progress.news.append((key, decision.action))
                if (patient := shown[key].detail.patient) is not None:
                    progress.whom[patient] += 1
        if recorded.outdated:
            for feed, _ in recorded.outdated:
                metrics.OUTDATED.labels(self._config.code, feed).inc()
        if recorded.changes:
            self._on_commit()

    def _end(self, state: TargetState, reading: Reading, progress: _Progress) -> PassEnd:
        kind = state.target.kind
        counts = plan.counts_as_whole(reading.coverage, state.unproven_streak)
        overlap = self._config.overlap
        beside_windows = plan.beside_windows(kind, self.targets.strategy_of(state.target))
        return PassEnd(
            began=reading.began,
            ended=reading.ended,
            coverage=reading.coverage,
            failure=reading.failure.kind.value if reading.failure else None,
            cursor_at=next_cursor(state.cursor_at, reading.server_date, reading.began, overlap)
            if kind.is_window
            else None,
            seen=progress.seen,
            counts=counts,
            outdated=progress.outdated,
            window_from=initial_cursor(reading.server_date, reading.began, overlap) if beside_windows else None,
            judged=state.sweep_found,
            orphaned=state.orphan and may_be_gone(reading.failure),
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
        self._note_flaws(target, reading)
        if not await self.targets.reload(target):
            return  # retired while it was read
        came_or_went = any(
            kind == "Patient" and action in {Action.CREATED, Action.RESTORED} for (kind, _), action in progress.changes
        )
        enumerated = target.kind is Kind.NAMES and state.baseline_at is None and end.counts
        if came_or_went or progress.new_patients or enumerated:
            await self.targets.register()
        if self.after_pass is not None and target.key in self.targets.states:
            missed = sorted(set(end.judged) - set(progress.seen)) if target.kind.is_window and end.counts else []
            self.after_pass(
                PassReport(
                    target,
                    reading.failure,
                    self.targets.states[target.key].failures,
                    state.orphan,
                    tuple(key_in(target, name) for name in missed),
                    tuple(progress.doubted),
                )
            )

    def _note_flaws(self, target: Target, reading: Reading) -> None:
        """Say which entries could not be read: their resources are not compared until they can be."""
        for problem, count in reading.flaws.items():
            metrics.UNREADABLE.labels(self._config.code, target.resource_type, problem.value).inc(count)
            self._log.warning(
                "entries that cannot be read are left out",
                action="pass.flaw",
                feed=target.resource_type,
                problem=problem.value,
                entries=count,
            )

    async def observe(self) -> None:
        """Say which feeds are late, and let the planner learn and be remembered."""
        await self.lateness.observe()
        await self.planning.keep()

    async def stop(self) -> None:
        """End the passes under way; what they have committed stays, the rest is read again."""
        self._stopping = True
        self._begin_asked()
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.planning.stop()


def _tell(came: asyncio.Future[Came | None], task: asyncio.Task[Came]) -> None:
    """Hand on what a pass came to. What made it fail ends the cycle, and is told there."""
    if came.done():
        return
    if task.cancelled() or task.exception() is not None:
        came.cancel()
    else:
        came.set_result(task.result())


def may_be_gone(failure: Failure | None) -> bool:
    """Whether a search for one patient was refused as it may be for a patient who is gone."""
    return failure is not None and failure.kind is FailureKind.REFUSED and failure.status in {400, 404, 410}


REFUSALS_BEFORE_PROBE = 2
"""So many refused passes in a row, and the feed's way of being read is asked for anew."""


def is_refusal(failure: Failure | None) -> bool:
    """Whether the source said that it will not be read this way."""
    return failure is not None and failure.kind is FailureKind.REFUSED
