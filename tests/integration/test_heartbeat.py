"""A poller gives signs of life for each practice that it holds, and for one that an operator has it leave alone."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy import Engine

from poller.config import PracticeConfig
from poller.core.pause import PRACTICE
from poller.rounds import Rounds
from poller.service import Stores
from poller.store.deletes import DeleteStore
from poller.store.heartbeat import HeartbeatStore
from poller.store.repository import Repository
from poller.store.state import LeaseKeeper, StateStore
from poller.store.status import StatusStore
from poller.supervise import Supervisor
from tests.integration.conftest import KEY
from tests.integration.test_service import Server

CODE = "FAMLYM"


def supervisor(
    engine: Engine, server: Server, rounds: Rounds, heard: asyncio.Queue[str], *paused: str
) -> Supervisor[Any]:
    @contextlib.asynccontextmanager
    async def open_source(_config: PracticeConfig) -> AsyncIterator[Server]:
        yield server

    config = PracticeConfig.model_validate(
        {"code": CODE, "base_url": "https://ehr.example/A", "auth": "none", "feeds": {"Goal": {"every": "5m"}}}
    )
    stores = Stores(LeaseKeeper(engine), StateStore(engine), Repository(engine, KEY), DeleteStore(engine), server)
    return Supervisor(
        config,
        stores,
        open_source,
        rounds,
        server.clock,
        KEY,
        lambda: None,
        paused=paused,
        looked=lambda practice, _now: heard.put_nowait(practice),
    )


async def heard_of(engine: Engine, *paused: str) -> tuple[str, int]:
    """The first sign of life, and how often the server was read or asked by then."""
    server, heard = Server(), asyncio.Queue[str]()
    scheduler = AsyncIOScheduler(timezone=dt.UTC)
    one = supervisor(engine, server, Rounds(scheduler), heard, *paused)
    scheduler.start()
    task = asyncio.create_task(one.run())
    try:
        practice = await asyncio.wait_for(heard.get(), 90)
    finally:
        one.end()
        await asyncio.wait_for(task, 90)
        scheduler.shutdown(wait=False)
    return practice, len(server.read_by) + len(server.surveyed) if paused else 0


def test_a_practice_that_is_read_is_heard_of(engine: Engine) -> None:
    assert asyncio.run(heard_of(engine))[0] == CODE


def test_one_that_an_operator_has_paused_is_heard_of_without_a_call(engine: Engine) -> None:
    assert asyncio.run(heard_of(engine, PRACTICE)) == (CODE, 0)


def test_the_latest_sign_of_life_is_the_one_that_counts(engine: Engine) -> None:
    store, status = HeartbeatStore(engine), StatusStore(engine)
    for hours in (30, 5):
        store.note(None, {CODE: dt.timedelta(hours=hours), "OTHERP": dt.timedelta()})
        seen = status.look([CODE])
        looked_at = seen.practices[CODE].looked_at
        assert looked_at is not None
        assert dt.timedelta(hours=hours) <= seen.now - looked_at < dt.timedelta(hours=hours + 1)
    assert status.look(["NEWONE"]).practices["NEWONE"].looked_at is None
