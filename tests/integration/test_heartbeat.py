"""A poller gives signs of life for each practice that it holds, and for one that an operator has it leave alone."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from poller.config import PracticeConfig
from poller.core.model import Purpose, Strategy, Target
from poller.core.pause import PRACTICE
from poller.errors import KeyMissing
from poller.rounds import Rounds
from poller.service import Stores
from poller.store.deletes import DeleteStore
from poller.store.engine import READER, open_engine
from poller.store.heartbeat import HeartbeatStore
from poller.store.repository import Repository
from poller.store.state import LeaseKeeper, StateStore
from poller.store.status import StatusStore
from poller.supervise import Supervisor
from tests.integration.conftest import KEY
from tests.integration.test_service import Server

CODE = "FAMLYM"


def supervisor(
    engine: Engine,
    server: Server,
    rounds: Rounds,
    heard: asyncio.Queue[str],
    *paused: str,
    fared: Callable[[str, str | None], None] = lambda _practice, _failure: None,
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
        fared=fared,
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


def test_the_latest_sign_of_life_is_the_one_that_counts(engine: Engine, database_url: str) -> None:
    store, status = HeartbeatStore(engine), StatusStore(open_engine(database_url, READER))
    for hours in (30, 5):
        store.note(None, {CODE: dt.timedelta(hours=hours), "OTHERP": dt.timedelta()})
        seen = status.look([CODE])
        looked_at = seen.practices[CODE].looked_at
        assert looked_at is not None
        assert dt.timedelta(hours=hours) <= seen.now - looked_at < dt.timedelta(hours=hours + 1)
    assert status.look(["NEWONE"]).practices["NEWONE"].looked_at is None


class Sick(Server):
    """Reading what it serves raises, until nothing is left to raise."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__(offers={"Goal": (Strategy.SWEEP,)})
        self.errors = list(errors)

    def read(self, target: Target, since: dt.datetime | None, purpose: Purpose) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return super().read(target, since, purpose)


def test_a_practice_that_begins_again_and_again_says_why_until_a_pass_ends_well(engine: Engine) -> None:
    """It gives signs of life all the while. What is kept is a code: an error's words may hold a patient's data."""
    broken = psycopg.errors.CheckViolation("Patient/p1")
    errors = (
        KeyMissing("k1"),
        DBAPIError("Patient/p1", None, broken),
        ValueError("Patient/p1"),
    )

    async def scenario() -> list[str | None]:
        fared = asyncio.Queue[str | None]()
        scheduler = AsyncIOScheduler(timezone=dt.UTC)
        rounds, heard = Rounds(scheduler), asyncio.Queue[str]()
        one = supervisor(
            engine, Sick(*errors), rounds, heard, fared=lambda _practice, failure: fared.put_nowait(failure)
        )
        scheduler.start()
        task, found = asyncio.create_task(one.run()), list[str | None]()
        try:
            while not found or found[-1] is not None:
                found.append(await asyncio.wait_for(fared.get(), 90))
        finally:
            one.end()
            await asyncio.wait_for(task, 90)
            scheduler.shutdown(wait=False)
        return found

    assert asyncio.run(scenario()) == ["key-missing", "SQLSTATE 23514", "defect", None]


def test_why_it_begins_again_is_kept_with_its_beginning_until_it_is_over(engine: Engine, database_url: str) -> None:
    store, status = HeartbeatStore(engine), StatusStore(open_engine(database_url, READER))
    store.note(None, {CODE: dt.timedelta(hours=5)})
    seen = []
    for failure in ("key-missing", "defect", None, None, "defect"):
        store.note_failures(7, {CODE: failure, "OTHERP": None})
        row = status.look([CODE]).practices[CODE]
        seen.append((row.failure, row.failed_at))
    assert [failure for failure, _ in seen] == ["key-missing", "defect", None, None, "defect"]
    assert seen[0][1] == seen[1][1] != seen[4][1]
    assert seen[2][1] is None
