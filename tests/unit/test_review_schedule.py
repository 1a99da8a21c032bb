"""Schedules at their edges: weekdays as crontab counts them, the hour that comes twice, and feeds that nobody would call late."""

from __future__ import annotations

import datetime as dt
import zoneinfo

import pytest

from poller.config.active import ActiveHours
from poller.config.feed import FeedConfig
from poller.config.values import cron_trigger
from poller.core.model import Kind, Target
from poller.core.plan import Schedule, TargetState, late
from poller.schedules import _next_after

NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
MONDAY = dt.datetime(2026, 11, 16, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("weekdays", "days"),
    [
        ("1-5", ["Mon", "Tue", "Wed", "Thu", "Fri"]),
        ("mon-fri", ["Mon", "Tue", "Wed", "Thu", "Fri"]),
        ("0", ["Sun"]),
        ("7", ["Sun"]),
        ("6,0", ["Sat", "Sun"]),
        ("5-7", ["Fri", "Sat", "Sun"]),
        ("0-2", ["Mon", "Tue", "Sun"]),
        ("*", ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]),
        ("1-5/2", ["Mon", "Wed", "Fri"]),
    ],
)
def test_weekdays_are_numbered_as_crontab_does(weekdays: str, days: list[str]) -> None:
    """APScheduler counts from Monday, 0: ``1-5`` would leave Mondays out and read on Saturdays."""
    FeedConfig(cron=f"0 6 * * {weekdays}")
    trigger = cron_trigger(f"0 6 * * {weekdays}", dt.UTC)
    found = []
    for day in range(7):
        midnight = MONDAY + dt.timedelta(days=day)
        if trigger.get_next_fire_time(None, midnight).date() == midnight.date():
            found.append(f"{midnight:%a}")
    assert found == days


@pytest.mark.parametrize("cron", ["30 1 * * *", "*/5 * * * *"])
def test_the_next_time_is_later_than_the_last_also_in_the_hour_that_comes_twice(cron: str) -> None:
    """Else everything is owed all through that hour."""
    next_after = _next_after(cron, NEW_YORK)
    assert next_after is not None
    at = dt.datetime(2026, 11, 1, 4, tzinfo=dt.UTC)
    for _ in range(40):
        following = next_after(at)
        assert following is not None
        assert following.astimezone(dt.UTC) > at.astimezone(dt.UTC)
        at = following


@pytest.mark.parametrize(
    "every", [dt.timedelta(minutes=5), dt.timedelta(hours=3), dt.timedelta(hours=13), dt.timedelta(days=1)]
)
@pytest.mark.parametrize("hours", ["08:00-18:00", "02:00-02:30"])
def test_a_feed_that_is_not_read_for_weeks_is_late_whatever_its_hours(every: dt.timedelta, hours: str) -> None:
    schedule = Schedule(every, active=ActiveHours(hours=hours).includes)
    state = TargetState(Target("p1", "Observation", Kind.SWEEP), MONDAY, baseline_at=MONDAY, complete_began=MONDAY)
    begin = MONDAY + dt.timedelta(days=14, hours=int(hours[:2]))
    moments = [begin + dt.timedelta(minutes=minute) for minute in range(20, 29)]
    found = [
        late([state], {("Observation", Kind.SWEEP): schedule}, moment, dt.timedelta(seconds=30)) for moment in moments
    ]
    assert all(found)


def test_a_reading_has_an_hour_from_the_opening_however_seldom_it_is_owed() -> None:
    schedule = Schedule(dt.timedelta(hours=13), active=ActiveHours(hours="08:00-18:00").includes)
    read = MONDAY + dt.timedelta(hours=9)
    state = TargetState(Target("p1", "Observation", Kind.SWEEP), MONDAY, baseline_at=read, complete_began=read)
    opening = MONDAY + dt.timedelta(days=2, hours=8)
    found = [
        late([state], {("Observation", Kind.SWEEP): schedule}, opening + dt.timedelta(minutes=m), dt.timedelta(0))
        for m in (0, 59, 61, 300)
    ]
    assert found == [False, False, True, True]
