"""Signs of life: each practice gives its own, and the store is told of those that were heard."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping

from prometheus_client import REGISTRY
from sqlalchemy.exc import DBAPIError

from poller import metrics
from poller.heartbeat import Heartbeat

NOW = dt.datetime(2026, 11, 27, 2, tzinfo=dt.UTC)


class Kept:
    """A store that keeps what it is told, unless it is away."""

    def __init__(self) -> None:
        self.told: list[tuple[int | None, Mapping[str, dt.timedelta]]] = []
        self.is_away = False

    def note(self, engine: int | None, ages: Mapping[str, dt.timedelta]) -> None:
        if self.is_away:
            raise DBAPIError("", None, Exception())
        self.told.append((engine, ages))


def test_the_store_is_told_of_who_was_heard_since_and_a_store_that_is_away_ends_nothing() -> None:
    kept = Kept()
    heartbeat = Heartbeat(kept, lambda: 7)
    for practice in ("HEARTA", "HEARTB", "HEARTA"):
        heartbeat.beat(practice, NOW)
    asyncio.run(heartbeat.keep())
    asyncio.run(heartbeat.keep())
    ((engine, ages),) = kept.told
    assert (engine, set(ages)) == (7, {"HEARTA", "HEARTB"})
    assert all(dt.timedelta() <= age for age in ages.values())
    kept.is_away = True
    heartbeat.beat("HEARTB", NOW)
    asyncio.run(heartbeat.keep())
    kept.is_away = False
    heartbeat.beat("HEARTB", NOW)
    asyncio.run(heartbeat.keep())
    assert set(kept.told[1][1]) == {"HEARTB"}


def test_the_metric_tells_when_and_is_gone_with_its_practice() -> None:
    heartbeat = Heartbeat(Kept(), lambda: None)
    heartbeat.beat("HEARTC", NOW)
    told = {"practice": "HEARTC"}
    assert REGISTRY.get_sample_value("poller_last_look_timestamp", told) == NOW.timestamp()
    metrics.forget("HEARTC")
    assert REGISTRY.get_sample_value("poller_last_look_timestamp", told) is None
