"""One job of the scheduler goes round all practices, and none of them keeps another from its turn."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Callable

import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from structlog.testing import capture_logs

from poller.config.model import PracticeConfig
from poller.rounds import Rounds
from poller.supervise import TICK, tick_of

SOON = dt.timedelta(milliseconds=10)


async def wait_until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110 - what is waited for happens in the scheduler
            await asyncio.sleep(0.01)


def test_every_practice_has_its_turn_whatever_the_others_do() -> None:
    async def main() -> None:
        turns: Counter[str] = Counter()
        at_once: Counter[str] = Counter()
        for_ever = asyncio.Event()

        async def good() -> None:
            turns["good"] += 1

        async def bad() -> None:
            turns["bad"] += 1
            raise ValueError("a patient's name")

        async def slow() -> None:
            turns["slow"] += 1
            at_once["slow"] += 1
            await for_ever.wait()
            at_once["slow"] -= 1

        scheduler = AsyncIOScheduler(timezone=dt.UTC)
        rounds = Rounds(scheduler)
        scheduler.start()
        jobs = [rounds.add(job.__name__, job, SOON) for job in (good, bad, slow)]
        with capture_logs() as said:
            await wait_until(lambda: turns["good"] >= 5 and turns["bad"] >= 5)
        assert len(scheduler.get_jobs()) == 1
        assert turns["slow"] == at_once["slow"] == 1, "never twice at once"
        assert {line["practice"] for line in said if line.get("action") == "round.fail"} == {"bad"}
        for_ever.set()
        await wait_until(lambda: turns["slow"] >= 3)
        jobs[0].end()
        ended, others = turns["good"], turns["bad"]
        await wait_until(lambda: turns["bad"] >= others + 3)
        assert turns["good"] == ended
        scheduler.shutdown(wait=False)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("every", "ticks"),
    [
        ([dt.timedelta(seconds=2), dt.timedelta(hours=1)], TICK),
        ([dt.timedelta(minutes=2)], dt.timedelta(seconds=2)),
        ([dt.timedelta(days=1)], dt.timedelta(seconds=5)),
        ([dt.timedelta(days=1), None], TICK),
    ],
)
def test_who_reads_seldom_is_looked_at_seldom_but_not_where_the_planner_decides(
    every: list[dt.timedelta | None], ticks: dt.timedelta
) -> None:
    feeds = {
        name: {"every": each} if each is not None else {}
        for name, each in zip(("Patient", "Encounter"), every, strict=False)
    }
    config = PracticeConfig.model_validate(
        {"code": "P", "base_url": "https://ehr.example/P", "auth": "none", "feeds": feeds}
    )
    assert tick_of(config) == ticks
