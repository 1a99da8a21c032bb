"""In which order the passes of a practice begin: what schedules owe, and what the planner finds worth a call.

Where nothing is planned, the longest owed is read first, whatever it is. Else the lanes of :mod:`poller.core.lanes` take turns.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from poller.clock import Clock
from poller.config import PracticeConfig
from poller.core import lanes, plan, planner
from poller.core.lanes import SHARED, Lane
from poller.core.model import Kind, Purpose, Target
from poller.core.plan import TargetState
from poller.planning import Planning
from poller.targets import Targets

_A_LONG_LOOK = 0.05
"""Seconds that it may take to find what is owed, before that is done less often."""

_PLACES_FOR_WINDOWS = 2
"""Calls in flight that sweeps leave to the windows beside them."""

_PAUSED_FOR = 30.0
"""Seconds for which a target of a paused feed is put off."""

_MOST_PUT_OFF = 20
"""Targets of paused feeds that are passed over at once."""

_LOOK_AT_HOURS = dt.timedelta(seconds=5)
"""Between two looks at which feeds' hours are over."""

_LANES = {
    planner.Lane.DEADLINE: Lane.DEADLINE,
    planner.Lane.FIRST: Lane.BACKFILL,
    planner.Lane.INDEX: Lane.INDEX,
}


class Turn(NamedTuple):
    """A pass that is to begin now."""

    state: TargetState
    lane: Lane
    purpose: Purpose


class Order:
    """The passes of one practice, in the order in which they are to begin."""

    def __init__(self, config: PracticeConfig, targets: Targets, planning: Planning, clock: Clock) -> None:
        self._config = config
        self._targets = targets
        self._planning = planning
        self._clock = clock
        self._most = config.budget.max_in_flight
        self._owed: dict[Lane, deque[Target]] = {}
        self._chosen: deque[tuple[str, Lane]] = deque()
        """What the planner has chosen and has not had its turn yet."""
        self._look_at = 0.0
        """When it is to be looked again what is owed, by the monotonic clock."""
        self._hours_at = clock.now()
        """When it is to be looked again whose hours are over."""
        self._parts = lanes.parts_of(config.gives_way)
        self._spent: dict[Lane, float] = {}
        self.allows: Callable[[str], bool] = lambda _feed: True
        """Whether a feed may be read now, or is paused."""

    def look(self) -> None:
        """Find what is owed a pass.

        Where there are hundreds of thousands of targets, to go through them after each pass would leave no time for passes: then what was
        found holds for ten times as long as that took.
        """
        began = time.monotonic()
        if began >= self._look_at:
            due = plan.due(self._targets.watched.values(), self._targets.schedules, self._clock.now())
            self._owed = {lane: deque[Target]() for lane in Lane}
            for target in due:
                self._owed[self._lane_of(target)].append(target)
            took = time.monotonic() - began
            self._look_at = began + took * 11 if took > _A_LONG_LOOK else began
        self._planning.pause([feed for feed in self._planning.feeds if not self.allows(feed)])
        if self._planning.feeds and (now := self._clock.now()) >= self._hours_at:
            self._hours_at = now + _LOOK_AT_HOURS
            self._planning.close(self._closed(now))

    def next(self, running: Mapping[Target, Lane]) -> Turn | None:
        """The next pass to begin beside those that run; None if nothing is to be read now."""
        busy = {target.key for target in running}
        if not self._planning.feeds:
            return self._next_owed(Lane.OWED, busy, running)
        in_flight = Counter(running.values())
        lane = self._turn(in_flight)
        choice = self._choice(busy, first=1.0 if lane is Lane.BACKFILL else 0.0)
        if choice is not None and choice[1] is Lane.DEADLINE:
            return self._begin_chosen()
        found = self._next_owed(Lane.OWED, busy, running)
        for each in (lane, *SHARED):
            if found is None and each is not None:
                found = self._next_shared(each, busy, running)
        if found is not None and self._chosen and self._chosen[0][0] == found.state.target.key:
            self._chosen.clear()  # a schedule or a failure owed it as well
        return found

    def reconciling(self, state: TargetState) -> Turn:
        """The turn of a pass that a person asks for, to see what detection has missed: by the part of the calls that whole reads have."""
        purpose = Purpose.DETECT if self._planning.has_read_rows else Purpose.RECONCILE
        return Turn(state, Lane.RECONCILE, purpose)

    def charge(self, lane: Lane, calls: int) -> None:
        """Note what a pass has cost."""
        if lane in SHARED:
            self._spent = lanes.charge(self._spent, lane, calls)

    # --- what schedules owe

    def _lane_of(self, target: Target) -> Lane:
        """Where nothing is planned, everything is owed alike."""
        if not self._planning.feeds:
            return Lane.OWED
        if self._targets.states[target.key].baseline_types:
            return Lane.BACKFILL
        return Lane.OWED if self._targets.detected_by(target) else Lane.RECONCILE

    def _next_owed(self, lane: Lane, busy: Collection[str], running: Collection[Target]) -> Turn | None:
        queue = self._owed.get(lane, deque[Target]())
        while queue:
            target = queue.popleft()
            state = self._targets.states.get(target.key)
            if state is None or target.key in busy or not self.allows(target.resource_type):
                continue
            if target.kind is Kind.SWEEP and self._sweeps_enough(running):
                continue
            return Turn(state, lane, self._purpose(state, lane))
        return None

    def _sweeps_enough(self, running: Collection[Target]) -> bool:
        """Whether one sweep more would leave no places for windows: sweeps of all feeds at once may last for an hour."""
        if not any(state.target.kind is Kind.WINDOW for state in self._targets.states.values()):
            return False
        sweeps = sum(target.kind is Kind.SWEEP for target in running)
        return sweeps >= max(1, self._most - _PLACES_FOR_WINDOWS)

    # --- what lanes share

    def _turn(self, in_flight: Mapping[Lane, int]) -> Lane | None:
        """The lane whose turn it is, of those that have something to read and a place for it."""
        waiting = set(self._waiting())
        if len(waiting) > 1:
            waiting = {
                lane
                for lane in waiting
                if lane is Lane.INDEX or in_flight[lane] < lanes.places(self._parts[lane], self._most)
            }
        return lanes.turn(self._spent, self._parts, waiting)

    def _waiting(self) -> Iterator[Lane]:
        if self._planning.has_read_rows:
            yield Lane.INDEX
        if self._owed.get(Lane.RECONCILE):
            yield Lane.RECONCILE
        if self._owed.get(Lane.BACKFILL) or self._planning.has_unread_rows:
            yield Lane.BACKFILL

    def _next_shared(self, lane: Lane, busy: Collection[str], running: Collection[Target]) -> Turn | None:
        found = self._next_owed(lane, busy, running) if lane is not Lane.INDEX else None
        return found or (self._begin_chosen() if self._chosen and lane is not Lane.RECONCILE else None)

    def _choice(self, busy: set[str], first: float) -> tuple[str, Lane] | None:
        """What the planner would read next."""
        if not any(map(self.allows, self._planning.feeds)):
            self._chosen.clear()
            return None
        for _ in range(_MOST_PUT_OFF):
            if not self._chosen:
                self._chosen.extend((key, _LANES[lane]) for key, lane in self._planning.choose(1, busy, first))
            if not self._chosen:
                return None
            key, _ = self._chosen[0]
            state = self._targets.states.get(key)
            if state is not None and key not in busy and any(map(self.allows, self._planning.feeds_of(state.target))):
                return self._chosen[0]
            self._chosen.popleft()
            if key not in busy:
                self._planning.put_off(key, _PAUSED_FOR)
        return None

    def _begin_chosen(self) -> Turn:
        key, lane = self._chosen.popleft()
        state = self._targets.states[key]
        if lane is Lane.BACKFILL and not state.baseline_types:
            lane = Lane.OWED  # a patient who is new in the practice: what is found is news
        return Turn(state, lane, self._purpose(state, lane))

    def _purpose(self, state: TargetState, lane: Lane) -> Purpose:
        """What the gate is told. Of lanes that share, it serves whoever asked first: else those that wait for less would have none."""
        if lane is Lane.DEADLINE:
            return Purpose.DEADLINE
        if lane in SHARED and self._planning.has_read_rows:
            return Purpose.DETECT
        return purpose_of(state)

    def _closed(self, now: dt.datetime) -> Iterator[str]:
        local = now.astimezone(self._config.zone)
        for feed in self._planning.feeds:
            active = self._config.feeds[feed].active
            if active is not None and not active.includes(local):
                yield feed


def purpose_of(state: TargetState) -> Purpose:
    """What the calls of a pass are for, where lanes have no say."""
    if state.baseline_types:
        return Purpose.BACKFILL
    return Purpose.RECONCILE if state.target.kind is Kind.SWEEP else Purpose.DETECT
