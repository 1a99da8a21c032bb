"""Keeps every feed of a practice on the highest rung that is proven: surveys the server, switches rungs, steps down, climbs again."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from poller import metrics
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.core import ladder, pause
from poller.core.capability import PracticeReport, TypeReport
from poller.core.ladder import Footing
from poller.core.model import Failure, Kind, Strategy, Target
from poller.core.pause import Reason
from poller.store.repository import Lease
from poller.store.state import FeedState, Progress, StateStore
from poller.targets import Targets

log = structlog.get_logger(__name__)

SURVEY_EVERY = dt.timedelta(days=1)
"""How often it is asked anew what the server allows."""

_SOON = dt.timedelta(minutes=1)
"""After a first way of reading was found, whether there is a better one; or after nothing was there to compare by."""

_REST = 10
"""So many times as long as a survey's calls take of the budget, before the next."""

_SAMPLE = 6
"""Patients by whom rungs are proven and compared."""


class Comparison(Protocol):
    """What reading the same resources by two rungs came to."""

    @property
    def equal(self) -> bool | None:
        """None: nothing could be compared."""
        ...

    @property
    def reason(self) -> str:
        """In our words."""
        ...


class Surveyor(Protocol):
    """Finds out, by evidence, how a practice can be read."""

    async def survey(
        self, feeds: Sequence[str], sample: Sequence[str], now: dt.datetime, *, thorough: bool
    ) -> PracticeReport:
        """What the server allows for these feeds; not ``thorough``: a first way of reading each, in few calls."""
        ...

    async def same(self, feed: str, a: Strategy, b: Strategy, sample: Sequence[str]) -> Comparison:
        """Whether two rungs show the same resources with the same content."""
        ...


class Reports(Protocol):
    """Where surveys are kept."""

    def save(self, lease: Lease, report: PracticeReport) -> None:
        """Keep a survey and its evidence."""
        ...

    def latest(self, practice: str) -> PracticeReport | None:
        """What is known of the practice."""
        ...


class Ladder:
    """The rungs of one practice's feeds."""

    def __init__(
        self,
        config: PracticeConfig,
        lease: Lease,
        surveyor: Surveyor,
        reports: Reports,
        states: StateStore,
        targets: Targets,
        clock: Clock,
    ) -> None:
        self._config = config
        self._lease = lease
        self._surveyor = surveyor
        self._reports = reports
        self._states = states
        self._targets = targets
        self._clock = clock
        self._log = log.bind(practice=config.code)
        self._footing: dict[str, Footing] = {}
        self._tries: dict[str, int] = {}
        self._passes = 0
        self._served: dict[tuple[str, Kind], int] = {}
        self._failed: dict[tuple[str, Kind], int] = {}
        self._rest_until = clock.now()
        self._sampled = False
        """Whether the last survey had patients to ask by."""
        self._moving = asyncio.Lock()
        self.survey_at: dict[str, dt.datetime] = {}
        """When each feed is to be surveyed next."""

    def survey_no_later_than(self, feed: str, at: dt.datetime) -> None:
        """Ask anew then, or sooner if that is planned already: refusals that go on must not put it off and off."""
        if feed in self._config.feeds:
            self.survey_at[feed] = min(at, self.survey_at.get(feed, at))

    async def recall(self) -> None:
        """Take up every feed whose rung is known from a survey not long ago; the others are to be surveyed."""
        now = self._clock.now()
        await self._targets.load_patients()
        last = await asyncio.to_thread(self._reports.latest, self._config.code)
        found = last.types if last is not None else {}
        thorough = {name for name, one in found.items() if one.thorough or one.offers[:1] == ladder.ORDER[:1]}
        taken_up: dict[str, Strategy] = {}
        feeds = list(self._config.feeds)
        registered = await asyncio.to_thread(self._states.register_feeds, self._lease, feeds, now)
        for feed, known in ((feed, registered[feed]) for feed in feeds):
            self._footing[feed] = Footing(known.strategy, known.offers, known.bars)
            fresh_until = _fresh_until(known)
            if known.strategy is None or fresh_until is None or not self._still_allowed(feed, known.strategy):
                self.survey_at[feed] = now
                continue
            self.survey_at[feed] = fresh_until if feed in thorough else min(fresh_until, now + _SOON)
            self._log.info(f"feed is read by {known.strategy.value}: {known.reason}", action="feed.recall", feed=feed)
            taken_up[feed] = known.strategy
        await self._targets.adopt_all(taken_up)

    def _still_allowed(self, feed: str, strategy: Strategy) -> bool:
        forced = self._config.strategy_of(feed)
        return strategy.value == forced if forced != "auto" else strategy.value not in self._config.forbidden(feed)

    def due(self, now: dt.datetime) -> list[str]:
        """The feeds that are to be surveyed now: all that are not read yet, so that reading begins; else one, the longest owed.

        Asking thoroughly takes calls from reading, so there is a rest after each feed: it gets a tenth of the budget.
        """
        owed = sorted((at, feed) for feed, at in self.survey_at.items() if at <= now)
        unread = [feed for feed in self._config.feeds if feed not in self._targets.strategies]
        if unread and not self._sampled and self._targets.sample(1):
            return unread  # there was no patient to ask by
        if first := [feed for _, feed in owed if feed in unread]:
            return first
        return [feed for _, feed in owed[:1]] if now >= self._rest_until else []

    async def survey(self, feeds: Sequence[str]) -> PracticeReport:
        """Ask the server how these feeds can be read, keep the answer, and follow it."""
        sample, began = self._targets.sample(_SAMPLE), self._clock.now()
        thorough = any(feed in self._targets.strategies for feed in feeds)
        report = await self._surveyor.survey(feeds, sample, began, thorough=thorough)
        self._sampled = bool(sample) or report.patients > 0
        pace = dt.timedelta(minutes=1) / (self._config.budget.calls_per_minute * self._config.budget.share)
        self._rest_until = self._clock.now() + _REST * report.calls * pace
        await asyncio.to_thread(self._reports.save, self._lease, report)
        for feed in feeds:
            if (found := report.types.get(feed)) is not None:
                await self._follow(feed, found)
            else:
                self._again_soon(feed)
        return report

    async def _follow(self, feed: str, found: TypeReport) -> None:
        now = self._clock.now()
        if found.settled and found.readable:
            self._tries.pop(feed, None)
            whole_answer = found.thorough or found.offers[:1] == (ladder.ORDER[0],)
            self.survey_at[feed] = now + (SURVEY_EVERY if whole_answer and not found.unproven else _SOON)
        else:
            self._again_soon(feed)
        metrics.UNREADABLE_FEEDS.labels(self._config.code, feed).set(found.readable is False)
        if not found.offers:
            say = self._log.info if found.readable is None else self._log.warning
            say(f"the feed cannot be read now: {found.reason}", action="feed.survey", feed=feed)
            if found.readable is False:
                await asyncio.to_thread(self._states.refuse, self._lease, feed, found.reason, found.advice, now)
            return
        async with self._moving:
            footing = self._footing.get(feed, Footing())
            await self._move(feed, Footing(footing.strategy, found.offers, footing.bars), found.reason, found.evidence)

    def _again_soon(self, feed: str) -> None:
        """What is open or refused is asked again, with gaps that grow to an hour."""
        tries = self._tries[feed] = self._tries.get(feed, 0) + 1
        jitter = random.random()  # noqa: S311 - spreads calls, no secret
        self.survey_at[feed] = self._clock.now() + pause.gap(Reason.REFUSED, tries, jitter, whole=False)

    async def _move(
        self, feed: str, footing: Footing, reason: str, evidence: Mapping[str, Mapping[str, object]]
    ) -> None:
        """Stand the feed on the best rung there is; up only after both rungs have shown the same."""
        before = self._targets.strategies.get(feed)
        while True:
            rung = await self._choose(feed, footing)
            if rung is None or rung is before:
                break
            if not ladder.is_climb(before, rung) or self._config.strategy_of(feed) != "auto" or before is None:
                break
            compared = await self._surveyor.same(feed, before, rung, self._targets.sample(_SAMPLE))
            if compared.equal:
                break
            if compared.equal is None:
                self._log.info(
                    f"stays with {before.value}, {rung.value} could not be compared: {compared.reason}",
                    action="feed.stay",
                    feed=feed,
                )
                self._again_soon(feed)
                if footing.barred(before, self._clock.now()) is not None:
                    rung = await self._below(feed, footing) or before
                elif before in footing.offers:
                    rung = before
                break
            self._log.warning(
                f"{before.value} and {rung.value} are not interchangeable: {compared.reason}",
                action="feed.differ",
                feed=feed,
            )
            footing = footing.bar(
                rung, f"not interchangeable with {before.value}: {compared.reason}", self._clock.now()
            )
        await self._stand(feed, footing, rung, reason, evidence)

    async def _below(self, feed: str, footing: Footing) -> Strategy | None:
        """The rung to step down to from one that fails, where a higher one could not be compared with it."""
        below = ladder.lower(footing, self._config.forbidden(feed), self._clock.now())
        return await self._choose(feed, replace(footing, offers=tuple(below)))

    async def _choose(self, feed: str, footing: Footing) -> Strategy | None:
        progress = await asyncio.to_thread(self._states.progress, self._config.code, feed)
        return ladder.choose(
            footing,
            self._config.strategy_of(feed),
            self._config.forbidden(feed),
            self._clock.now(),
            half_read=progress is Progress.PARTIAL,
        )

    async def _stand(
        self,
        feed: str,
        footing: Footing,
        rung: Strategy | None,
        reason: str,
        evidence: Mapping[str, Mapping[str, object]],
    ) -> None:
        before = self._targets.strategies.get(feed)
        now = self._clock.now()
        if rung is None:
            self._log.warning(
                "no way of reading the feed is left: those that are proven are forbidden or have failed",
                action="feed.stuck",
                feed=feed,
            )
            rung = before
        self._footing[feed] = footing.on(rung)
        if rung is None:
            return
        await asyncio.to_thread(self._states.save_rung, self._lease, feed, self._footing[feed], reason, evidence, now)
        if rung is not before:
            self._log.info(
                f"feed is read by {rung.value}: {reason}", action="feed.rung", feed=feed, strategy=rung.value
            )
            await self._targets.adopt(feed, rung)

    def after_pass(self, target: Target, failure: Failure | None) -> dict[str, str]:
        """Count a pass for the feeds that it read; returns those that must step down, each with the reason."""
        if failure is None:
            self.note_served(target)
        reasons: dict[str, str] = {}
        if failure is not None and failure.is_server_error and not self._serves_others(target):
            return reasons
        for feed in target.reads:
            footing, reason = ladder.after_pass(self._footing.get(feed, Footing()), target.kind, failure)
            self._footing[feed] = footing
            if reason is not None:
                reasons[feed] = reason
        return reasons

    def note_served(self, target: Target) -> None:
        """Note that a pass was answered."""
        self._passes += 1
        self._served[target.resource_type, target.kind] = self._passes

    def _serves_others(self, target: Target) -> bool:
        """Whether the server has answered passes of another kind since this kind failed last: else it is sick, and no rung's affair."""
        own = target.resource_type, target.kind
        elsewhere = max((at for other, at in self._served.items() if other != own), default=0)
        is_news = elsewhere > self._failed.get(own, 0)
        self._failed[own] = self._passes
        return is_news

    def after_contradiction(self, feed: str) -> str | None:
        """Count a resource that a complete pass had not shown and that is there; returns why the feed must step down, if it must."""
        footing, reason = ladder.after_contradiction(self._footing.get(feed, Footing()))
        self._footing[feed] = footing
        return reason

    def is_lowest(self, feed: str) -> bool:
        """Whether there is no rung to step down to."""
        footing = self._footing.get(feed, Footing())
        forced = self._config.strategy_of(feed) != "auto"
        return forced or not ladder.lower(footing, self._config.forbidden(feed), self._clock.now())

    async def step_down(self, feed: str, reason: str, missed: int = 0, *, rung: Strategy | None = None) -> bool:
        """Leave the present rung for a day and take the next; whether there is one. The server is asked again soon.

        ``rung`` is the one that was found to fail, if not the present one: where the feed has left it by now, nothing happens.
        """
        async with self._moving:
            footing, now = self._footing.get(feed, Footing()), self._clock.now()
            present = footing.strategy
            if present is None or rung not in {None, present} or self._config.strategy_of(feed) != "auto":
                return False
            if not ladder.lower(footing, self._config.forbidden(feed), now):
                self._footing[feed] = footing.on(present)
                return False
            metrics.STEP_DOWNS.labels(self._config.code, feed, present.value).inc()
            self._log.warning(
                f"the feed steps down from {present.value}: {reason}", action="feed.step-down", feed=feed, missed=missed
            )
            await asyncio.to_thread(self._states.step_down, self._lease, feed, missed, now)
            await self._move(feed, footing.bar(present, reason, now), f"{present.value} failed: {reason}", {})
            return True


def _fresh_until(known: FeedState) -> dt.datetime | None:
    decided = max((at for at in (known.probed_at, known.stepped_down_at) if at is not None), default=None)
    return decided + SURVEY_EVERY if decided is not None else None
