"""Which feeds are late: what was owed a whole read, or was promised one, and did not get it."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Iterable, Mapping, Sequence

import structlog

from poller import metrics
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.core import plan
from poller.core.model import Strategy
from poller.core.plan import TargetState
from poller.demands import accepted, account_of, bound_by, planned_names
from poller.planning import Planning
from poller.schedules import lateness_schedules, schedules_of_several, schedules_of_type
from poller.targets import Targets

log = structlog.get_logger(__name__)

TO_BEGIN = dt.timedelta(minutes=2)
"""How long it may take to find out how a feed can be read."""

_MANY = 5_000
"""More targets than these are looked at on a thread: for fewer the way there is longer than the look."""

_A_LONG_LOOK = 0.05
_REST = 50
"""So many times as long as it took to look at all targets, before the next look, where that took long (seconds)."""


class FromStore:
    """Which feeds of one practice are late, told from what the store holds, as the poller that reads it tells it from what it knows."""

    def __init__(
        self, config: PracticeConfig, strategies: Mapping[str, Strategy], patients: int, now: dt.datetime
    ) -> None:
        """``strategies``: how feeds are read, those that are not read yet left out; ``patients``: how many are known and not gone."""
        self._config = config
        self._strategies = {feed: rung for feed, rung in strategies.items() if feed in config.feeds}
        self._now = now
        self._schedules = schedules_of_several(config, self._strategies)
        for feed, rung in self._strategies.items():
            self._schedules |= schedules_of_type(config, feed, rung)
        self._limits = accepted(account_of(config, self._strategies, patients, now))

    def is_late(self, feed: str, states: Iterable[TargetState], owed_from: dt.datetime | None) -> bool:
        """Whether a feed is late that is read by targets of these states; False while it is not known how it is read.

        Of targets that are alike, of one kind and category, the one that was read longest ago speaks for all.
        """
        strategy = self._strategies.get(feed)
        if strategy is None:
            return False
        schedules = lateness_schedules(self._config, feed, strategy, self._schedules)
        return plan.late(states, schedules, self._now, self._config.timeout, owed_from, self._bound_of)

    def _bound_of(self, state: TargetState) -> dt.timedelta | None:
        return bound_by(self._limits, planned_names(self._config, state.target, self._strategies))


class Lateness:
    """The dead man's switch of one practice: it looks at what was read, not at what was tried."""

    def __init__(self, config: PracticeConfig, targets: Targets, planning: Planning, clock: Clock) -> None:
        self._config = config
        self._targets = targets
        self._planning = planning
        self._clock = clock
        self._log = log.bind(practice=config.code)
        self._late: dict[str, bool] = {}
        self._began = clock.now()
        self.resumed: Mapping[str, dt.datetime] = {}
        """When operators' pauses of feeds ended."""
        self._look_at = 0.0

    async def observe(self) -> None:
        """Say which feeds are late. Hundreds of thousands of targets are looked at on a thread, and less often."""
        began = time.monotonic()
        if began < self._look_at:
            return
        now, is_many = self._clock.now(), len(self._targets.states) > _MANY
        of_feeds = await asyncio.to_thread(self._targets.of_feeds) if is_many else self._targets.of_feeds()
        for feed in self._config.feeds:
            states = of_feeds.get(feed, [])
            if feed not in self._targets.strategies:
                late = now - self._began > TO_BEGIN
            elif is_many:
                late = await asyncio.to_thread(self._is_late, feed, states, now)
            else:
                late = self._is_late(feed, states, now)
            self._say(feed, states, late=late)
        took = time.monotonic() - began
        self._look_at = began + took * _REST if took > _A_LONG_LOOK else began

    def _is_late(self, feed: str, states: Sequence[TargetState], now: dt.datetime) -> bool:
        schedules, resumed = self._targets.schedules_of(feed), self.resumed.get(feed)
        return plan.late(states, schedules, now, self._config.timeout, resumed, self._planning.bound_of)

    def _say(self, feed: str, states: Sequence[TargetState], *, late: bool) -> None:
        metrics.LATE.labels(self._config.code, feed).set(late)
        oldest = min((state.complete_began or state.registered_at for state in states), default=None)
        if oldest is not None:
            metrics.LAST_WHOLE_READ.labels(self._config.code, feed).set(oldest.timestamp())
        if late != self._late.get(feed, False):
            self._late[feed] = late
            say = self._log.warning if late else self._log.info
            say(
                "feed is late" if late else "feed is fresh again",
                action="feed.late" if late else "feed.fresh",
                feed=feed,
            )
