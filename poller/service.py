"""A practice while its lease holds: its cycle, its ladder, its reconciler, and the pauses that its source makes necessary."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from poller import metrics
from poller.asking import Tell, read_patient
from poller.beside import Beside, Errands
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.core import faults, pause
from poller.core.capability import PracticeReport
from poller.core.faults import Consequence
from poller.core.ladder import REFUSALS
from poller.core.model import EVERY_TYPE, Failure, FailureKind, Gone, Kind, Strategy
from poller.core.pause import Pause, Standing
from poller.cycle import Cycle, PassReport, Reader, may_be_gone
from poller.errors import PollerError
from poller.ladder import Ladder, Reports, Surveyor
from poller.reconcile import Confirmer, Reconciler
from poller.reconciling import Reconciling
from poller.store.deletes import Absence, DeleteStore
from poller.store.planning import PlanningStore
from poller.store.repository import Lease, Repository
from poller.store.state import LeaseKeeper, StateStore

log = structlog.get_logger(__name__)

_SURVEY_SOON = dt.timedelta(seconds=5)
"""After a rung has failed: what the server allows may have changed for good."""


_DOUBTED_AT_ONCE = 20
"""Reads of what a pass showed with elements missing; the rest is doubted again."""

_UNREAD = 3
"""So many reads in vain, and it is believed."""


class Source(Reader, Confirmer, Surveyor, Protocol):
    """Everything that a cycle asks of a practice's server."""


@dataclass(frozen=True, slots=True)
class Stores:
    """The parts of the store that polling writes to."""

    keeper: LeaseKeeper
    states: StateStore
    repository: Repository
    deletes: DeleteStore
    reports: Reports
    planning: PlanningStore | None = None


class Service:
    """Reads one practice, settles what passes leave open, and leaves it alone when it does not let us in."""

    def __init__(
        self,
        config: PracticeConfig,
        stores: Stores,
        lease: Lease,
        source: Source,
        clock: Clock,
        digest_key: bytes,
        on_commit: Callable[[], None],
        errands: Errands | None = None,
    ) -> None:
        self._config = config
        self._states = stores.states
        self._lease = lease
        self._source = source
        self._clock = clock
        self._log = log.bind(practice=config.code)
        self._cycle = Cycle(
            config, lease, source, stores.repository, stores.states, clock, digest_key, on_commit, stores.planning
        )
        self._cycle.after_pass = self._after_pass
        self._cycle.order.allows = self._allows
        self._ladder = Ladder(config, lease, source, stores.reports, stores.states, self._cycle.targets, clock)
        self._reconciler = Reconciler(
            config, lease, source, stores.repository, stores.deletes, clock, digest_key, on_commit
        )
        self._reconciler.on_contradiction = self._contradicted
        self._beside = Beside(config, lease, errands, stores.states, self._cycle.targets, clock) if errands else None
        if self._beside is not None:
            self._beside.after_export = self._settle_soon
        self.ended_well: Callable[[], None] = lambda: None
        """Called after each pass that ends well."""
        self._standing = Standing()
        self._keeping = asyncio.Lock()
        self._refused_by: dict[tuple[str, Kind], set[str]] = {}
        """By type and kind: the targets that were refused since one was read."""
        self._refused_groups: Counter[str] = Counter()
        """By key of a target of several patients: its refusals in a row."""
        self._unread: Counter[bytes] = Counter()
        """By digest: how often what a pass showed with elements missing could not be read by its id."""
        self._work: set[asyncio.Task[None]] = set()
        self._asked: set[asyncio.Task[dict[str, Any]]] = set()
        self._settling = False
        self._settle_again = False
        self._settled = asyncio.Event()
        """Set while nothing is to be settled."""
        self._settled.set()
        self._reconciling = Reconciling(config, self._cycle, self._reconciler, self._settled)
        self._surveying = False
        self._known = False

    def owed_from(self, resumed: Mapping[str, dt.datetime]) -> None:
        """Owe feeds nothing from before operators' pauses of them ended."""
        self._cycle.lateness.resumed = resumed

    async def read_now(self, patient: str, tell: Tell) -> dict[str, Any]:
        """Read all that a patient has, before everything else. Raises NotFound for one whom nobody knows, and PollerError."""
        if (held := self._standing.practice) is not None:
            raise PollerError(f"the practice is paused by itself: {held.words}")
        cycle, reconciler = self._cycle, self._reconciler
        reading = read_patient(patient, cycle, reconciler, self._states, self._lease, self._clock, tell)
        task = asyncio.create_task(reading)
        self._asked.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled():
                raise PollerError("the practice was stopped or begun anew while it was read; ask again") from None
            raise
        finally:
            self._asked.discard(task)

    async def reconcile(self, feed: str, tell: Tell) -> dict[str, Any]:
        """Read all of a feed, or of :data:`ALL`, and say what detection had missed. Raises PollerError."""
        if (held := self._standing.practice) is not None:
            raise PollerError(f"the practice is paused by itself: {held.words}")
        return await self._reconciling.ask(feed, tell)

    async def tick(self) -> None:
        """Survey what is to be surveyed and read what is owed."""
        if not self._surveying and (not self._known or self._to_survey()):
            self._surveying = True
            self._spawn(self._survey_all())
        self._cycle.tick()
        if self._beside is not None and self._known and self._standing.practice is None:
            for errand in self._beside.due(self._clock.now()):
                self._spawn(errand())

    async def observe(self) -> None:
        """Say what is late, and keep what was learned."""
        await self._cycle.observe()

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
        self._reconciling.stop()
        for task in [*self._work, *self._asked]:
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
        self._reconciling.note_pass(report)
        if report.failure is None:
            self.ended_well()
        if report.missed:
            self._spawn(self._judge_windows(report))
        if report.doubted:
            self._spawn(self._read_doubted(report))
        if _may_be_for_the_patient(report):
            self._spawn(self._ask_after_patient(report))
        else:
            self._judge_pass(report)
        if report.failure is None or report.orphan:
            self._settle_soon()

    def _judge_pass(self, report: PassReport) -> None:
        is_shut_group = self._is_shut_group(report)
        if not self._speaks_for_feed(report) and not is_shut_group:
            return
        target = report.target
        reasons = self._ladder.after_pass(target, report.failure)
        if report.failure is not None and is_shut_group:
            reasons = dict.fromkeys(target.reads, f"refused: {report.failure.detail}")
        for feed, reason in reasons.items():
            self._spawn(self._step_down(feed, reason, self._cycle.targets.strategies.get(feed)))
        self._stand(None if target.resource_type == EVERY_TYPE else target.reads[0], report.failure)

    async def _ask_after_patient(self, report: PassReport) -> None:
        """What is refused for a patient who is gone says nothing of the feed; two who go on one day would look like a rung's end."""
        if not isinstance(await self._source.confirm("Patient", report.target.patient or ""), Gone):
            self._judge_pass(report)

    def _settle_soon(self) -> None:
        self._settle_again = True
        if not self._settling:
            self._settling = True
            self._settled.clear()
            self._spawn(self._settle())

    def _is_shut_group(self, report: PassReport) -> bool:
        """Whether several patients in one search were refused again: they are not read at all, whoever else is."""
        target, failure = report.target, report.failure
        if target.kind is not Kind.PATIENTS or (failure is not None and failure.kind is not FailureKind.REFUSED):
            return False
        self._refused_groups[target.key] = self._refused_groups[target.key] + 1 if failure is not None else 0
        return self._refused_groups[target.key] >= REFUSALS

    def _speaks_for_feed(self, report: PassReport) -> bool:
        """Whether a pass says something of its whole feed.

        A refusal by one target of many does not, however often it is repeated: that patient may be gone, or closed to us. Nor do day
        windows, beside which the feed is read anyway.
        """
        target, failure = report.target, report.failure
        if failure is None:
            self._refused_by.pop((target.resource_type, target.kind), None)
            return True
        if report.orphan or target.kind is Kind.DAYS:
            return False
        if failure.kind is not FailureKind.REFUSED:
            return True
        refused_by = self._refused_by.setdefault((target.resource_type, target.kind), set())
        refused_by.add(target.key)
        alike = sum(
            state.target.kind is target.kind and not state.orphan  # who is gone will never say anything of the feed
            for state in self._cycle.targets.of_feed(target.reads[0])
        )
        return len(refused_by) >= min(2, alike)

    async def _settle(self) -> None:
        try:
            while self._settle_again:
                self._settle_again = False
                deleted, gone = self._reconciler.deleted, self._reconciler.patients_gone
                await self._reconciler.settle_absences()
                # One who is gone is searched for alone: asked for with others, they would be refused together. Or nothing is left of one.
                if self._reconciler.patients_gone > gone or (
                    self._reconciler.deleted > deleted and self._cycle.targets.has_orphans
                ):
                    await self._cycle.targets.register()
        finally:
            self._settling = False
            self._settled.set()

    async def _judge_windows(self, report: PassReport) -> None:
        rungs = dict(self._cycle.targets.strategies)
        missed = await self._reconciler.truly_missed(report.missed)
        if missed == 0:
            return
        for feed in report.target.reads:
            metrics.FOUND_ONLY_BY_SWEEP.labels(self._config.code, feed).inc(missed)
            reason = "windows missed changes that a whole read found"
            await self._ladder.step_down(feed, reason, missed, rung=rungs.get(feed))

    async def _read_doubted(self, report: PassReport) -> None:
        """Of what came with elements missing, tell a resource that has lost them from a way of reading that has.

        It is read by its id, and what that shows is recorded. What cannot be read is believed at last, and so is what nothing can be
        done about.
        """
        rungs = dict(self._cycle.targets.strategies)
        for version in report.doubted[:_DOUBTED_AT_ONCE]:
            feed, digest = version.resource_type, await self._reconciler.read_again(version)
            if digest is None:
                self._unread[version.digest] += 1
            elif digest != version.digest and (reason := self._ladder.after_contradiction(feed)) is not None:
                self._spawn(self._step_down(feed, reason, rungs.get(feed)))
                return
            if self._unread[version.digest] >= _UNREAD or (digest != version.digest and self._ladder.is_lowest(feed)):
                self._cycle.believed.add(version.digest)

    async def _step_down(self, feed: str, reason: str, rung: Strategy | None) -> None:
        await self._ladder.step_down(feed, reason, rung=rung)
        self._ladder.survey_no_later_than(feed, self._clock.now() + _SURVEY_SOON)
        self._cycle.tick()

    def _contradicted(self, absence: Absence, patient: str | None) -> None:
        """A pass over some patients has nothing to show of another, to whom a resource was moved before the rung was changed."""
        state, feed = self._cycle.targets.states.get(absence.target), absence.resource_type
        if state is None or patient not in (state.target.patients or (state.target.patient,)):
            return
        if (reason := self._ladder.after_contradiction(feed)) is not None:
            self._spawn(self._step_down(feed, reason, self._cycle.targets.strategies.get(feed)))

    def _to_survey(self) -> list[str]:
        """The feeds to be surveyed now: those whose time has come or, while the practice is paused, one of them when it is tried again."""
        now = self._clock.now()
        held = self._standing.practice
        if held is not None:
            feed = self._standing.feed_to_try(self._config.feeds)
            return [feed] if feed is not None and held.next_try <= now else []
        tried = [feed for feed, held in self._standing.pauses.items() if held.next_try <= now]
        due = [feed for feed in self._ladder.due(now) if feed not in self._standing.pauses]
        return list(dict.fromkeys([*tried, *due]))

    async def _survey_all(self) -> None:
        try:
            if not self._known:
                self._standing = Standing(await asyncio.to_thread(self._states.pauses, self._config.code))
                self._show_pauses()
                await self._ladder.recall()
                self._known = True
            if feeds := self._to_survey():
                self._judge_survey(feeds, await self._ladder.survey(feeds))
                self._cycle.tick()
        finally:
            self._surveying = False

    def _judge_survey(self, feeds: Sequence[str], report: PracticeReport) -> None:
        """What a survey says of our standing: it is also how a paused practice is tried."""
        failure = _failure_of(report)
        if failure is not None:
            self._stand(None, failure)
            return
        for feed in feeds:
            found = report.types.get(feed)
            if found is None or found.readable is None:
                self._stand(feed, Failure(FailureKind.SERVER, None, "the survey was not clear"))
            elif found.readable:
                self._stand(feed, None)
            else:  # a token was had, so the practice knows us; this type is refused by itself
                refused = Failure(FailureKind.REFUSED, 403, found.why.value)
                held = feed in self._standing.pauses
                self._stand(feed if held else None, refused, Consequence.PAUSE_FEED if held else Consequence.STEP_DOWN)

    def _stand(self, feed: str | None, failure: Failure | None, consequence: Consequence | None = None) -> None:
        """Take note of what a pass or a survey says of how we stand with the practice."""
        before = self._standing.pauses
        if failure is None and not before and self._standing == Standing():
            return
        if failure is not None and consequence is None:
            said = faults.consequence(failure)
            consequence = Consequence.PAUSE_FEED if said is Consequence.STEP_DOWN and self._is_lowest(feed) else said
        jitter = random.random()  # noqa: S311 - spreads calls, no secret
        now = self._clock.now()
        self._standing = pause.after(self._standing, feed, failure, list(self._config.feeds), now, jitter, consequence)
        if pause.PRACTICE in before and self._standing.practice is None:
            for name in self._config.feeds:
                if name not in self._cycle.targets.strategies:
                    self._ladder.survey_no_later_than(name, now)
        if self._standing.pauses != before:
            self._tell_pauses(before)
            self._show_pauses()
            self._spawn(self._keep_pauses())

    def _is_lowest(self, feed: str | None) -> bool:
        return feed is not None and self._ladder.is_lowest(feed)

    def _tell_pauses(self, before: Mapping[str, Pause]) -> None:
        now = self._clock.now()
        for feed, held in self._standing.pauses.items():
            whole = feed == pause.PRACTICE
            if feed not in before:
                say = self._log.error if held.is_alert(now) else self._log.warning
                say(
                    f"{'the practice' if whole else 'the feed'} is paused: {held.words}; it is tried again by itself",
                    action="practice.pause" if whole else "feed.pause",
                    **({} if whole else {"feed": feed}),
                )
        for feed in before:
            if feed not in self._standing.pauses:
                whole = feed == pause.PRACTICE
                self._log.info(
                    f"{'the practice' if whole else 'the feed'} is read again",
                    action="practice.resume" if whole else "feed.resume",
                    **({} if whole else {"feed": feed}),
                )

    def _show_pauses(self) -> None:
        for feed in (pause.PRACTICE, *self._config.feeds):
            metrics.PAUSED.labels(self._config.code, feed).set(feed in self._standing.pauses)

    async def _keep_pauses(self) -> None:
        # Two at once would write the same pause twice, which the store refuses, or the older ones last.
        async with self._keeping:
            await asyncio.to_thread(self._states.save_pauses, self._lease, dict(self._standing.pauses))

    def _allows(self, feed: str) -> bool:
        """Whether passes of a feed may begin. A pause ends by a survey, not by a pass."""
        return self._standing.practice is None and feed not in self._standing.pauses


def _failure_of(report: PracticeReport) -> Failure | None:
    """What kept a survey from saying anything about any feed: no token, or no answer at all."""
    if not report.token.granted:
        return Failure(report.token.kind or FailureKind.UNAUTHORIZED, report.token.status, report.token.why)
    return None


def _may_be_for_the_patient(report: PassReport) -> bool:
    """Whether a pass was refused as a search for a patient who is gone may be, though nobody has said so yet."""
    target = report.target
    is_of_one = target.patient is not None and target.kind not in {Kind.PATIENTS, Kind.DAYS}
    return is_of_one and not report.orphan and may_be_gone(report.failure)
