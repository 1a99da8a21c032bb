"""When feeds are owed a pass, from what the configuration says."""

from __future__ import annotations

import datetime as dt
import functools

from poller.config import FeedConfig, PracticeConfig
from poller.config.values import cron_trigger
from poller.core import plan
from poller.core.plan import Schedule


def feed_schedules(feed: FeedConfig, practice: PracticeConfig) -> tuple[Schedule, Schedule]:
    """A feed's schedules: for detection, and for the sweep beside windows. That of what the planner decides owes nothing."""
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
