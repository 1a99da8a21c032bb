"""One practice's planner, kept in line with its targets and with what passes find, and remembered by the store.

The planner itself (:mod:`poller.core.planner`) is pure. Here it is told which targets there are, who came to a visit, and what each pass
found; once a night it learns from that.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

import structlog
from sqlalchemy.exc import DBAPIError

from poller import metrics
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.core import budget, plan
from poller.core.model import Kind, Strategy, Target
from poller.core.plan import TargetState
from poller.core.planner import Choice, Planner, Row
from poller.core.visits import Visit
from poller.demands import accepted, account_of, bound_by, planned_names
from poller.errors import LeaseLost
from poller.store.planning import PlanningStore
from poller.store.repository import Lease
from poller.targets import Targets

log = structlog.get_logger(__name__)

SAVE_EVERY = dt.timedelta(minutes=15)
"""A crash forgets at most what was found in so long; nothing of it is needed to lose no change."""

VISITS_EVERY = dt.timedelta(hours=1)
"""How often visits that are told of elsewhere (by exports, by another process) are taken over from the store."""

AHEAD = dt.timedelta(days=7)
"""Visits that begin later are taken over later."""

LEARN_HOUR = 3
"""Of the practice's own time: the hour in which least changes, and least is asked."""

FORESEE_EVERY = dt.timedelta(minutes=10)

_PIECE = 2_000
"""Targets that are taken in before others get a turn: some ten milliseconds."""

_ENOUGH = 20
"""So many changes of a type since an aim was last corrected, and their median says something."""

_KEPT_DELAYS = 1_000


@dataclass(frozen=True, slots=True)
class Pass:
    """What the planner is to know of a pass."""

    state: TargetState
    """As it was before."""
    began: dt.datetime
    ended: dt.datetime
    counts: bool
    """Whether it was a whole read."""
    calls: int
    found: Counter[str] = field(default_factory=Counter)
    """Changes by resource type, baselines left out."""
    whom: Counter[str] = field(default_factory=Counter)
    """The same by patient."""


def type_name(feed: str, category: str | None) -> str:
    """How the planner names what a target reads, e.g. ``Observation/laboratory``."""
    return f"{feed}/{category}" if category is not None else feed


class Planning:
    """The planner of one practice. All methods belong to one event loop."""

    def __init__(
        self, config: PracticeConfig, lease: Lease, targets: Targets, clock: Clock, store: PlanningStore | None
    ) -> None:
        self._config = config
        self._lease = lease
        self._targets = targets
        self._clock = clock
        self._store = store
        self._log = log.bind(practice=config.code)
        self._feeds = frozenset(feed for feed, said in config.feeds.items() if said.planned)
        self._planner: Planner | None = None
        self._groups: dict[str, tuple[str, ...]] = {}
        """The patients of targets that read several, by key."""
        self._rungs: dict[str, Strategy] = {}
        """How feeds were read when targets were last taken in."""
        self._limits: dict[str, float] = {}
        self._for_worth: float | None = None
        """Calls a minute that schedules leave to the planner, once that is known."""
        self._delays: dict[str, deque[float]] = {}
        self._closed: frozenset[str] = frozenset()
        self._paused: frozenset[str] = frozenset()
        self._filling = asyncio.Lock()
        self._next_save = self._next_visits = self._next_forecast = clock.now()
        self._learned_at = clock.now()
        if self._feeds:
            targets.after_load = self._fill
            targets.after_reload = self._refresh

    @property
    def feeds(self) -> frozenset[str]:
        """The feeds that the planner reads."""
        return self._feeds

    @property
    def has_read_rows(self) -> bool:
        """Whether there are targets to be read again."""
        return self._planner is not None and len(self._planner) > self._planner.unread

    @property
    def has_unread_rows(self) -> bool:
        """Whether there are targets that were never read."""
        return self._planner is not None and self._planner.unread > 0

    # --- what there is to read

    def names_of(self, target: Target) -> tuple[str, ...]:
        """What the planner reads by a target; nothing where a schedule alone says when."""
        return planned_names(self._config, target, self._targets.strategies)

    def feeds_of(self, target: Target) -> tuple[str, ...]:
        """The planned feeds that a target reads."""
        return tuple(feed for feed in target.reads if feed in self._feeds)

    def bound_of(self, state: TargetState) -> dt.timedelta | None:
        """How long a target may go without a whole read: what the planner promises of it; None for what it does not read."""
        return bound_by(self._limits, self.names_of(state.target))

    async def _fill(self) -> None:
        """Take in the targets that have come and let go of those that went, a piece at a time, so that passes go on meanwhile."""
        async with self._filling:
            is_new = self._planner is None
            planner = self._planner = self._planner or await self._restored()
            self._tune(planner)
            states, known = self._targets.states, planner.rows.numbers
            planner.retire(list(known.keys() - states.keys()))
            changed = self._rungs != self._targets.strategies
            keys = list(states) if changed else [*(states.keys() - known.keys()), *self._groups]
            for start in range(0, len(keys), _PIECE):
                self._take_in(planner, [state for key in keys[start : start + _PIECE] if (state := states.get(key))])
                await asyncio.sleep(0)
            self._rungs = dict(self._targets.strategies)
            self._promise(planner)
            if is_new:
                await self._take_over_visits()

    def _take_in(self, planner: Planner, states: Iterable[TargetState]) -> None:
        """Give these targets the rows that they are to have."""
        rows = []
        for state in states:
            target, names = state.target, self.names_of(state.target)
            key = target.key
            if key in planner:
                is_same = bool(names) and planner.reads(key) == names
                if is_same and self._groups.get(key, target.patients) == target.patients:
                    continue
                planner.retire([key])
            if names and (row := self._row(state, names)) is not None:
                rows.append(row)
        if rows:
            planner.add(rows, self._now())

    def _refresh(self, state: TargetState) -> None:
        """Take in a target that could not be read before: a window that has its start by now, a group that has grown."""
        if self._planner is not None and (state.target.key not in self._planner or state.target.patients):
            self._take_in(self._planner, [state])

    def _row(self, state: TargetState, names: tuple[str, ...]) -> Row | None:
        target = state.target
        if target.kind.is_window and state.cursor_at is None:
            return None
        whom: tuple[str, ...] | None = None
        if target.kind is Kind.PATIENTS:
            if not target.patients:
                return None
            whom = self._groups[target.key] = target.patients
        elif target.patient is not None and target.kind is not Kind.DAYS:
            whom = (target.patient,)
        is_read = state.baseline_at is not None or target.kind.is_window
        last = state.complete_began if is_read else None
        limits = [self._limits[name] for name in names if name in self._limits]
        # one that lies ahead, as after a step of the clock, would keep the target unread until then
        began = min(last, self._clock.now()).timestamp() if last is not None else None
        return Row(target.key, names, whom, self._cost(target), min(limits, default=None), began)

    def _cost(self, target: Target) -> float:
        """Calls of a pass, as far as they are known beforehand; what a practice-wide pass truly takes is learned from passes."""
        if target.kind is Kind.NAMES:
            return float(len(target.names))
        if target.kind is Kind.DAYS:
            # Each practitioner's windows show a part of what the planner takes each of them for: all visits of the practice.
            days = 2 * self._config.patients.days.days + 1
            return float(days * max(1, len(self._config.patients.practitioners)))
        return 1.0

    def _tune(self, planner: Planner) -> None:
        """Tell the planner how many patients there are, and whether visits come to be known without asking for each patient's."""
        strategy = self._targets.strategies.get("Encounter")
        wide = strategy in {Strategy.WINDOW, Strategy.SWEEP}
        by_days = strategy is not None and bool(self._config.patients.practitioners)
        planner.set_signal(wide or by_days)
        planner.set_population(sum(not patient.gone for patient in self._targets.patients))

    def _promise(self, planner: Planner) -> None:
        """Take the ``max_staleness`` that holds for each type, now that it is known how many targets there are."""
        patients = sum(not patient.gone for patient in self._targets.patients)
        weighed = account_of(self._config, self._targets.strategies, patients, self._clock.now())
        self._limits, self._for_worth = accepted(weighed), weighed.for_worth
        planner.set_limits(self._limits)

    # --- what is to be read now

    def choose(self, count: int, busy: Collection[str], first: float) -> list[Choice]:
        """At most ``count`` targets to read now, most urgent first; ``first`` is the part of them that may be targets never read."""
        if self._planner is None or not len(self._planner):
            return []
        return self._planner.choose(self._now(), count, busy, first=first)

    def put_off(self, key: str, seconds: float) -> None:
        """Do not choose a target for so long."""
        if self._planner is not None:
            self._planner.defer(key, self._now() + seconds)

    def pause(self, feeds: Iterable[str]) -> None:
        """Choose nothing at all of these feeds, whatever it is owed: they are paused."""
        paused = frozenset(feeds) & self._feeds
        if self._planner is not None and paused != self._paused:
            self._paused = paused
            self._planner.pause(paused)

    def close(self, feeds: Iterable[str]) -> None:
        """Choose nothing of these feeds but first reads and what a promise needs: their hours are over."""
        closed = frozenset(feeds) & self._feeds
        if self._planner is not None and closed != self._closed:
            self._closed = closed
            self._planner.close(closed)

    # --- what came of it

    def note_visits(self, visits: Iterable[Visit]) -> None:
        """Expect what follows these visits."""
        if self._planner is None:
            return
        now = self._now()
        for visit in visits:
            self._planner.note_visit(visit.patient, visit.start.timestamp(), visit.kind, visit.status, now, visit.id)

    def note_pass(self, done: Pass) -> None:
        """Learn from a pass, and count how fresh what it found was."""
        target = done.state.target
        previous = done.state.complete_began
        if previous is not None and done.found and self._targets.detected_by(target):
            self._measure(target, done, previous)
        planner, key = self._planner, target.key
        if planner is None or key not in planner:
            return
        if not done.counts:
            planner.defer(key, (done.began + plan.retry_after(done.state.failures + 1, None)).timestamp())
            return
        names = {name.partition("/")[0]: name for name in self.names_of(target)}
        baseline = done.state.baseline_types
        found = {names[feed]: count for feed, count in done.found.items() if feed in names and feed not in baseline}
        is_first = previous is None or bool(baseline)
        planner.note_pass(key, done.began.timestamp(), None if is_first else found, done.whom)
        if target.patient is None and target.kind is not Kind.NAMES and done.calls:
            planner.note_cost(key, float(done.calls))

    def _measure(self, target: Target, done: Pass, previous: dt.datetime) -> None:
        """The delay of a change, from halfway between two reads, which it lies between, to the end of the one that found it."""
        delay = (done.ended - done.began + (done.began - previous) / 2).total_seconds()
        for feed, count in done.found.items():
            name = type_name(feed, target.category)
            histogram = metrics.FRESHNESS.labels(self._config.code, feed)
            delays = self._delays.setdefault(name, deque(maxlen=_KEPT_DELAYS))
            for _ in range(min(count, _KEPT_DELAYS)):
                histogram.observe(delay)
                delays.append(delay)

    # --- from time to time

    async def keep(self) -> None:
        """Learn if the night has come, remember what was learned, and say what is to be expected."""
        planner, now = self._planner, self._clock.now()
        if planner is None:
            return
        if self._is_time_to_learn(now):
            self._learn(planner, now)
            self._next_save = self._next_forecast = now
        if now >= self._next_visits:
            self._next_visits = now + VISITS_EVERY
            await self._take_over_visits()
        if now >= self._next_forecast and len(planner):
            self._next_forecast = now + FORESEE_EVERY
            self._foresee(planner)
        if now >= self._next_save:
            self._next_save = now + SAVE_EVERY
            await self._save(planner, now)

    async def stop(self) -> None:
        """Remember what was learned, if we may."""
        if self._planner is not None:
            with contextlib.suppress(LeaseLost, DBAPIError):
                await self._save(self._planner, self._clock.now())

    def _is_time_to_learn(self, now: dt.datetime) -> bool:
        """Whether a quiet hour has begun since we last learned."""
        local = now.astimezone(self._config.zone)
        quiet = local.replace(hour=LEARN_HOUR, minute=0, second=0, microsecond=0)
        if quiet > local:
            quiet -= dt.timedelta(days=1)
        return self._learned_at < quiet.astimezone(dt.UTC)

    def _learn(self, planner: Planner, now: dt.datetime) -> None:
        self._learned_at = now
        planner.learn(now.timestamp())
        measured = {name: median(delays) for name, delays in self._delays.items() if len(delays) >= _ENOUGH}
        planner.correct(measured)
        self._delays.clear()
        self._log.info("learned what changes when", action="plan.learn", targets=len(planner))

    def _foresee(self, planner: Planner) -> None:
        for name, expected in planner.forecast(self._for_worth).types.items():
            for quantile, seconds in (("0.5", expected.p50), ("0.95", expected.p95)):
                feed, _, category = name.partition("/")
                metrics.PREDICTED.labels(self._config.code, feed, category, quantile).set(seconds)

    async def _save(self, planner: Planner, now: dt.datetime) -> None:
        if self._store is not None:
            await asyncio.to_thread(self._store.save, self._lease, planner.state(), now)
            await asyncio.to_thread(self._store.forget_visits, self._lease, now)

    async def _take_over_visits(self) -> None:
        if self._store is not None:
            now = self._clock.now()
            self.note_visits(await asyncio.to_thread(self._store.visits, self._config.code, now, now + AHEAD))

    async def _restored(self) -> Planner:
        """The planner as it was left, here or in another process; a new practice's knows what practices have in common."""
        state = None
        if self._store is not None:
            state = await asyncio.to_thread(self._store.load, self._config.code)
        weights, aims = self._worth()
        limit = self._config.budget
        planner = Planner(
            zone=self._config.zone,
            calls_per_minute=budget.pace(limit.calls_per_minute, limit.share),
            weights=weights,
            aims=aims,
            state=state,
        )
        self._closed = self._paused = frozenset()  # which the next look tells it
        if planner.learned_at is not None:
            self._learned_at = dt.datetime.fromtimestamp(planner.learned_at, dt.UTC)
        return planner

    def _worth(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Weights and aims by type, as the configuration has them."""
        weights: dict[str, float] = {}
        aims: dict[str, float] = {}
        for feed in self._feeds:
            said = self._config.feeds[feed]
            for category in (None, *said.categories):
                weights[type_name(feed, category)] = said.weight_of(feed, category)
            if said.aim is not None:
                aims[feed] = said.aim.total_seconds()
                weights = {name: weight for name, weight in weights.items() if name.partition("/")[0] != feed}
        return weights, aims

    def _now(self) -> float:
        return self._clock.now().timestamp()
