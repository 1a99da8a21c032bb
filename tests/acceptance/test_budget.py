"""Guarantee 1, the budget: counted where calls arrive, over gates and processes that share a practice, and through a takeover.

The limit is 1,200 a minute here, so that a few seconds hold enough calls. What the engine promises for 60 seconds it keeps for any
stretch: it holds no more than its permits, those of the second in which a permit is good, and one. The soak test counts minutes at 250.

Shown to fail, and shown again at every run: two gates that do not share their ledger are held to the same; too many calls arrive, and a
429 that one of them was given does not stop the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, text

from poller.clock import SystemClock
from poller.core import budget
from poller.core.model import Kind, Purpose, Target
from poller.simulator.truth import max_calls_in_60s
from poller.source.connection import open_source
from poller.store.engine import ENGINE, open_engine
from poller.store.ledger import PostgresLedger
from tests.acceptance.parts import wait_until
from tests.acceptance.rig import ECW, OPEN, Rig, spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from poller.core.budget import Grant
    from poller.source.gate import Ledger
    from poller.source.strategies import Source
    from tests.acceptance.parts import Services

LIMIT = 1200
SPACING = budget.spacing(budget.pace(LIMIT))
STRETCH = 3.0
JITTER = 0.25
"""Seconds that a call may take to its arrival on a machine that has other things to do."""


@dataclass(frozen=True)
class Arrivals:
    """When calls of a practice arrived, and when one of them was answered 429."""

    times: tuple[float, ...]
    locked_out: float
    turned: float
    """When the server's minute turned after that."""

    def most(self, seconds: float = STRETCH) -> int:
        """The most within so many seconds, however aligned."""
        return max(sum(start <= each < start + seconds for each in self.times) for start in self.times)

    def too_many(self) -> bool:
        """Whether any stretch held more than the permits that may have been used in it."""
        return self.most() > (STRETCH + budget.LIFE + JITTER) / SPACING + 1

    def between(self, start: float, end: float) -> int:
        return sum(start <= each < end for each in self.times)

    def used(self, start: float, end: float) -> float:
        """The part of the paced grant that was used between two instants."""
        return self.between(start, end) * SPACING / (end - start)

    def in_lock_out(self) -> int:
        """Calls that arrived when nothing might: a permit's life after the 429, until the minute had turned."""
        return self.between(self.locked_out + budget.LIFE + JITTER, self.turned)


def refuse_one(rig: Rig, code: str, seconds: float) -> dt.datetime:
    """Have the next call of a practice answered 429, when its server's minute turns in so many seconds; when that is."""
    now = rig.server.clock()
    turn = now + dt.timedelta(seconds=seconds)
    skew = (60 - turn.second - turn.microsecond / 1e6) % 60
    rig.world.set_faults(code, spurious_429=1.0, first=1, skew_seconds=skew)
    return turn


def arrivals(rig: Rig, code: str, turn: dt.datetime) -> Arrivals:
    calls = rig.world.calls(code)
    refused = next(call for call in calls if call.status == 429)
    turned = refused.arrived + (turn - refused.arrived_at).total_seconds()
    return Arrivals(tuple(sorted(call.arrived for call in calls)), refused.finished or refused.arrived, turned)


class LonelyLedger(PostgresLedger):
    """Broken on purpose: knows only of its own gate."""

    def __init__(self, ledger: PostgresLedger, name: str) -> None:
        super().__init__(ledger._engine)
        self._name = name

    def grant(self, practice: str, want: int, per_minute: float) -> Grant:
        return super().grant(f"{practice}/{self._name}", want, per_minute)

    def block(self, practice: str, seconds: float) -> None:
        super().block(f"{practice}/{self._name}", seconds)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Callable[[], PostgresLedger]]:
    """Makes ledgers over one database, each with connections of its own."""
    with contextlib.ExitStack() as stack:

        def make() -> PostgresLedger:
            engine = open_engine(database_url, ENGINE, pool_size=2)
            stack.callback(engine.dispose)
            return PostgresLedger(engine)

        yield make


def is_locked_out(engine: Engine) -> bool:
    """Whether any process may know by now."""
    with engine.connect() as connection:
        locked = text("SELECT count(*) FROM poller.budget WHERE blocked_until > clock_timestamp()")
        return bool(connection.execute(locked).scalar_one())


def a_rig(home: Path, services: Services, limit: int = LIMIT, codes: Sequence[str] = (ECW, OPEN)) -> Rig:
    specs = [spec(code, mode="open", limit=limit, page_size=2) for code in codes]
    return Rig(home, services, specs, every={"every": "200ms", "sweep_every": "300ms"})


async def read_on(source: Source, code: str) -> None:
    target = Target(code, "Observation", Kind.SWEEP)
    while True:
        async for _ in source.read(target, None, Purpose.DETECT):
            pass


async def hammer(rig: Rig, code: str, ledgers: Sequence[Ledger]) -> Arrivals:
    """A gate over each ledger, with more to do than the budget allows; after a while the practice answers 429, once."""
    async with contextlib.AsyncExitStack() as stack:
        practice = rig.config().practices[code]
        sources = [await stack.enter_async_context(open_source(practice, one, SystemClock())) for one in ledgers]
        work = [asyncio.create_task(read_on(source, code)) for source in sources for _ in range(6)]
        await asyncio.sleep(3.5)  # under load
        turn = refuse_one(rig, code, 3.0)
        await asyncio.sleep(3.0 + budget.LOCK_OUT_MARGIN + 1.0)  # locked out, and on again
        assert not any(task.done() for task in work)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
    return arrivals(rig, code, turn)


def test_gates_share_a_practice_and_a_lock_out(
    services: Services, ledger: Callable[[], PostgresLedger], tmp_path: Path
) -> None:
    async def both() -> tuple[Arrivals, Arrivals]:
        lonely = [LonelyLedger(ledger(), name) for name in "ab"]
        return await asyncio.gather(hammer(rig, OPEN, [ledger(), ledger()]), hammer(rig, ECW, lonely))

    with a_rig(tmp_path, services) as rig:
        shared, apart = asyncio.run(both())
    assert not shared.too_many(), shared.most()
    assert shared.used(shared.times[0] + 1.0, shared.locked_out) >= 0.95
    assert shared.in_lock_out() == 0
    assert shared.between(shared.turned, shared.times[-1] + 1) > 5
    assert apart.too_many(), "two gates apart must be found out"
    assert apart.in_lock_out() > 5, "a gate that does not hear of the other's 429 must be found out"


def test_the_poller_that_takes_over_keeps_the_budget_and_the_lock_out(services: Services, tmp_path: Path) -> None:
    with a_rig(tmp_path, services, codes=[OPEN]) as rig:
        first = rig.poller(name="first")
        first.wait_started()
        second = rig.poller(name="second")
        wait_until("the first is at full load", lambda: len(rig.world.calls(OPEN)) > 30, 20)
        second.wait_started()
        began = time.monotonic()
        time.sleep(3.5)  # under load
        turn = refuse_one(rig, OPEN, 5.0)
        engine = rig.installation().engine(ENGINE, 1)
        wait_until("the 429 is noted for all", lambda: is_locked_out(engine), 5, 0.01)
        first.kill()
        before = len(rig.world.calls(OPEN))
        wait_until("the second polls", lambda: len(rig.world.calls(OPEN)) > before + 20, 20)
        assert any(line.get("action") == "feed.recall" for line in second.said())
        found = arrivals(rig, OPEN, turn)
    assert not found.too_many(), found.most()
    assert found.used(began, found.locked_out) >= 0.95
    assert found.in_lock_out() == 0


@pytest.mark.soak
def test_no_minute_holds_more_than_the_limit_through_crashes(services: Services, tmp_path: Path) -> None:
    with a_rig(tmp_path, services, limit=250, codes=[OPEN]) as rig:
        for number in range(8):
            poller = rig.poller(name=f"poller{number}")
            poller.wait_started()
            time.sleep(20.0)
            if number < 7:
                poller.kill()
        calls = rig.world.calls(OPEN)
        assert max_calls_in_60s(calls) <= 250
        assert all(call.status != 429 for call in calls)
        last = [call.arrived for call in calls if call.arrived > calls[-1].arrived - 15]
        assert len(last) >= 0.95 * 15 * budget.pace(250) / 60
