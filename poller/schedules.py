"""When feeds are owed a pass, from what the configuration says."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Mapping

from poller.config import FeedConfig, PracticeConfig
from poller.config.values import cron_trigger
from poller.core import plan
from poller.core.model import EVERY_TYPE, Kind, Strategy
from poller.core.plan import Schedule

Schedules = Mapping[tuple[str, Kind], Schedule]
"""By resource type and kind."""

_OF_EVERYTHING = (Kind.EVERYTHING, Kind.EVERYTHING_WINDOW)
_APART = frozenset({Kind.BULK, *_OF_EVERYTHING})
"""Kinds that no schedule of one feed rules."""


def feed_schedules(feed: FeedConfig, practice: PracticeConfig) -> tuple[Schedule, Schedule]:
    """A feed's schedules: for detection, and for the sweep beside windows. That of what the planner decides owes nothing."""
    zone = practice.zone
    active = feed.active.includes if feed.active is not None else None
    return (
        Schedule(feed.every, _next_after(feed.cron, zone), active, zone),
        Schedule(feed.sweep_every, _next_after(feed.sweep_cron, zone), active, zone),
    )


def schedules_of_type(practice: PracticeConfig, feed: str, strategy: Strategy) -> dict[tuple[str, Kind], Schedule]:
    """When the targets that read one feed alone are owed a pass."""
    detection, whole = feed_schedules(practice.feeds[feed], practice)
    return {
        (feed, kind): whole if plan.beside_windows(kind, strategy) else detection for kind in Kind if kind not in _APART
    }


def schedules_of_several(
    practice: PracticeConfig, strategies: Mapping[str, Strategy]
) -> dict[tuple[str, Kind], Schedule]:
    """When the targets that read several feeds in one pass are owed one: as soon as one of the feeds owes it."""
    together: dict[tuple[str, Kind], Schedule] = {}
    of_everything = [feed for feed, rung in sorted(strategies.items()) if rung.is_of_everything and feed != "Patient"]
    for kind in _OF_EVERYTHING:
        parts = [_part_of(practice, feed, strategies[feed], kind) for feed in of_everything]
        joined = Schedule.together([part for part in parts if part is not None])
        if joined is not None:
            together[EVERY_TYPE, kind] = joined
    return together


def lateness_schedules(
    practice: PracticeConfig, feed: str, strategy: Strategy, schedules: Schedules
) -> Mapping[tuple[str, Kind], Schedule]:
    """The schedules by which one feed is late, of all that are in force; of passes that serve several only what this one asks of them."""
    if not strategy.is_of_everything or feed == "Patient":
        return schedules
    own = {(EVERY_TYPE, kind): _part_of(practice, feed, strategy, kind) for kind in _OF_EVERYTHING}
    return {key: schedule for key, schedule in own.items() if schedule is not None}


def _part_of(practice: PracticeConfig, feed: str, strategy: Strategy, kind: Kind) -> Schedule | None:
    """What a feed asks of passes that read several types."""
    detection, whole = feed_schedules(practice.feeds[feed], practice)
    with_windows = strategy is Strategy.EVERYTHING_WINDOW
    if kind is Kind.EVERYTHING_WINDOW:
        return detection if with_windows else None
    return whole if with_windows else detection


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
