"""Signs of life: each practice gives its own, and the store is told of those that were heard."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
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
        self.fares: list[Mapping[str, str | None]] = []
        self.is_away = False
        self.news = threading.Semaphore(0)

    def note(self, engine: int | None, ages: Mapping[str, dt.timedelta]) -> None:
        if self.is_away:
            raise DBAPIError("", None, Exception())
        self.told.append((engine, ages))
        self.news.release()

    def note_failures(self, engine: int | None, failures: Mapping[str, str | None]) -> None:
        if self.is_away:
            raise DBAPIError("", None, Exception())
        assert engine == 7
        self.fares.append(dict(failures))
        self.news.release()


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


def test_the_first_sign_of_life_of_a_practice_is_told_at_once() -> None:
    async def told() -> list[set[str]]:
        kept = Kept()
        heartbeat = Heartbeat(kept, lambda: 7)
        task = asyncio.create_task(heartbeat.run())
        try:
            for practices, is_news in ((("HEARTD", "HEARTE"), True), (("HEARTD",), False), (("HEARTF",), True)):
                for practice in practices:
                    heartbeat.beat(practice, NOW)
                assert not is_news or await asyncio.to_thread(kept.news.acquire, timeout=10)
        finally:
            task.cancel()
        return [set(ages) for _, ages in kept.told]

    assert asyncio.run(told()) == [{"HEARTD", "HEARTE"}, {"HEARTD", "HEARTF"}]


def test_how_a_practice_fares_is_told_until_the_store_takes_it_and_what_is_no_news_is_not() -> None:
    kept = Kept()
    heartbeat = Heartbeat(kept, lambda: 7)
    heartbeat.fare("HEARTG", "key-missing")
    kept.is_away = True
    asyncio.run(heartbeat.keep())
    heartbeat.fare("HEARTH", None)
    kept.is_away = False
    asyncio.run(heartbeat.keep())
    for failure in (None, None, "defect", None):
        heartbeat.fare("HEARTH", failure)
        asyncio.run(heartbeat.keep())
    assert kept.fares == [{"HEARTG": "key-missing", "HEARTH": None}, {"HEARTH": "defect"}, {"HEARTH": None}]
