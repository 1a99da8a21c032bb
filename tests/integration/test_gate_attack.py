"""Guarantee 1 under attack: several gates over the shipped statements on a real Postgres, in virtual time.

The database's clock is set forward and back, Postgres answers late, processes stall, crash between grant and call, and are replaced; calls
take up to a second to arrive. No 60 seconds, however aligned, may see more arrivals than the limit, and work goes on after each blow.

Not among the blows, since no process could know better: a clock that is set in the very seconds in which a process is new, or in which
Postgres is so slow that its answers do not show it. ARCHITECTURE.md says so.

Shown to fail, and shown again at every run: gates that do not notice a clock that was set forward, or that do not share their ledger.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poller.config.model import BudgetConfig
from poller.core import budget
from poller.core.budget import Bearing
from poller.core.model import Purpose
from poller.source.gate import Gate
from poller.source.grants import Grants
from tests.databases import Databases
from tests.gate_bench import VirtualLoop, VirtualPostgres, most_within, virtually

LIMIT = 100
SECONDS = 100.0
APART = 2 * budget.REACH
"""Seconds between two blows: longer than what one leaves behind."""


@dataclass(frozen=True)
class Blow:
    """Something that goes wrong, so many seconds after the one before."""

    kind: str
    after: float
    size: float
    gate: int = 0


blows = st.lists(
    st.builds(
        Blow,
        st.sampled_from(["set", "stall", "slow", "crash"]),
        st.floats(APART, 30),
        st.floats(-1, 1),
        st.integers(0, 2),
    ),
    max_size=5,
)


@dataclass
class Attack:
    """Three gates of one practice, each with more to do than there is budget for."""

    postgres: VirtualPostgres
    practice: str
    make: type[Gate] = Gate
    shared: bool = True
    seed: int = 1
    arrivals: list[float] = field(default_factory=list)
    departures: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)  # noqa: S311 - repeatable
        self.round_trip = 0.02
        self.ahead = 0.0
        """By how much the database's clock has been set."""

    async def run(self, script: list[Blow]) -> None:
        self.loop = asyncio.get_running_loop()
        self.gates = [self._open(number) for number in range(3)]
        self.workers = [self._work(gate) for gate in self.gates]
        begins = self.loop.time()
        await asyncio.sleep(APART)
        for blow in script:
            await asyncio.sleep(blow.after)
            await self._strike(blow)
        await asyncio.sleep(max(0.0, begins + SECONDS - self.loop.time()))
        for number in range(3):
            await self._end(number)

    async def _strike(self, blow: Blow) -> None:
        match blow.kind:
            case "set":
                self.ahead += 10 ** (8 * abs(blow.size) - 2) * (1 if blow.size > 0 else -1)  # 10 ms to 11 days
            case "stall":
                assert isinstance(self.loop, VirtualLoop)
                self.loop.virtual += 5 * abs(blow.size)
            case "slow":
                self.round_trip = 2 * abs(blow.size)
                await asyncio.sleep(5)
                self.round_trip = 0.02
            case "crash":
                await self._end(blow.gate)
                self.gates[blow.gate] = self._open(blow.gate)
                self.workers[blow.gate] = self._work(self.gates[blow.gate])

    async def _end(self, number: int) -> None:
        for worker in self.workers[number]:
            worker.cancel()
        await asyncio.gather(*self.workers[number], return_exceptions=True)
        await self.gates[number].aclose()

    def _open(self, number: int) -> Gate:
        ledger = self.postgres.ledger()
        name = self.practice if self.shared else f"{self.practice}/{number}"
        config = BudgetConfig(calls_per_minute=LIMIT, share=1.0, max_in_flight=6)
        # One asks alone, as a command does; the others in a transaction with whoever asks in their process.
        together = Grants(ledger, in_thread=self._in_thread).grant if number else None
        return self.make(name, config, ledger, together=together, in_thread=self._in_thread)

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        await asyncio.sleep(self.rng.uniform(0, self.round_trip))
        self.postgres.now = 1_800_000_000.0 + self.loop.time() + self.ahead
        answer = call(*arguments)
        await asyncio.sleep(self.rng.uniform(0, self.round_trip))
        return answer

    def _work(self, gate: Gate) -> list[asyncio.Task[None]]:
        async def work() -> None:
            while True:
                async with gate.permit(Purpose.DETECT):
                    left = self.loop.time()
                    self.departures.append(left)
                    self.arrivals.append(left + self.rng.uniform(0, 1))
                    await asyncio.sleep(self.rng.uniform(0.2, 3))

        return [asyncio.create_task(work()) for _ in range(8)]

    @property
    def longest_pause(self) -> float:
        times = sorted(self.departures)
        return max(after - before for before, after in itertools.pairwise(times))


class Unaware(Gate):
    """Broken on purpose: takes a clock that was set forward for time that has passed."""

    async def _was_set_forward(self, seen: Bearing) -> bool:
        self._bearing = seen
        return False


@pytest.fixture(scope="module")
def postgres(databases: Databases) -> Iterator[VirtualPostgres]:
    """One database for all examples."""
    with databases.lend() as conninfo, VirtualPostgres(conninfo) as made:
        yield made


_count = iter(range(10**6))


def attack(postgres: VirtualPostgres, script: list[Blow], **more: Any) -> Attack:
    made = Attack(postgres, f"P{next(_count)}", **more)
    virtually(made.run(script))
    return made


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=blows, seed=st.integers(0, 1000))
def test_no_blow_lets_more_arrive_than_the_limit_or_stops_the_work(
    postgres: VirtualPostgres, script: list[Blow], seed: int
) -> None:
    found = attack(postgres, script, seed=seed)
    assert most_within(60, found.arrivals) <= LIMIT
    assert most_within(60, found.departures) <= LIMIT
    assert found.longest_pause <= 5 + budget.REACH + 2.5, "a blow, what it leaves behind, and a slow answer"


def test_undisturbed_gates_use_up_the_grant(postgres: VirtualPostgres) -> None:
    found = attack(postgres, [])
    assert len(found.departures) >= 0.95 * SECONDS / budget.spacing(budget.pace(LIMIT))


SET_FORWARD = [Blow("set", APART, 0.5)] * 7


@pytest.mark.parametrize(
    ("broken", "script"),
    [({"make": Unaware}, SET_FORWARD), ({"shared": False}, [])],
    ids=["unaware of a set clock", "not sharing"],
)
def test_what_is_broken_is_found_out(postgres: VirtualPostgres, broken: dict[str, Any], script: list[Blow]) -> None:
    assert most_within(60, attack(postgres, script, **broken).arrivals) > LIMIT
    assert most_within(60, attack(postgres, script).arrivals) <= LIMIT


def test_a_clock_that_was_set_back_stops_the_work_where_the_ledger_does_not_know_what_it_said(
    postgres: VirtualPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = [Blow("set", APART, -0.6)]
    assert attack(postgres, script).longest_pause <= budget.REACH

    def forgets(self: Attack, call: Callable[..., Any], *arguments: Any) -> Any:
        with self.postgres.admin() as admin:
            admin.execute("UPDATE poller.budget SET told_at = NULL")
        return original(self, call, *arguments)

    original = Attack._in_thread
    monkeypatch.setattr(Attack, "_in_thread", forgets)
    broken = Attack(postgres, f"P{next(_count)}")
    virtually(broken.run(script))
    assert max(broken.departures) < 1_000 + SECONDS - 30
