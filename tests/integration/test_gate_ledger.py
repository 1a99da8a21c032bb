"""The budget in Postgres: one row a practice, by the database's clock."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from poller.config.model import BudgetConfig
from poller.core import budget
from poller.core.model import Purpose
from poller.source.gate import Gate
from poller.store.engine import ENGINE, open_engine, sql
from poller.store.ledger import PostgresLedger


@pytest.fixture
def ledger_engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url, ENGINE, pool_size=8)
    yield made
    made.dispose()


@pytest.fixture
def ledger(ledger_engine: Engine) -> PostgresLedger:
    return PostgresLedger(ledger_engine)


def next_at(engine: Engine, practice: str) -> dt.datetime:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT next_at FROM poller.budget WHERE practice = :p"), {"p": practice})
        value: dt.datetime = found.scalar_one()
    return value


def test_blocks_follow_one_another_without_gap_or_overlap(ledger: PostgresLedger) -> None:
    first, second = ledger.grant("P", 4, 60.0), ledger.grant("P", 2, 60.0)
    assert (first.count, first.spacing, second.count) == (4, 1.0, 2)
    assert first.delay < 0.1
    assert 3.0 < second.delay <= 4.0


def test_practices_do_not_share_a_budget(ledger: PostgresLedger) -> None:
    ledger.grant("P", 60, 60.0)
    assert ledger.grant("Q", 1, 60.0).delay < 0.1


def test_time_that_passed_unused_gives_no_burst(ledger: PostgresLedger) -> None:
    ledger.grant("P", 1, 6000.0)
    time.sleep(0.05)
    grant = ledger.grant("P", 10, 6000.0)
    assert grant.delay < 0.05
    assert ledger.grant("P", 1, 6000.0).delay > 0.02


def test_whatever_asks_at_once_gets_permits_of_its_own(ledger: PostgresLedger, ledger_engine: Engine) -> None:
    """Eight threads, 200 grants: the permits together take exactly the time that so many must."""
    ledger.grant("P", 1, 60.0)
    before = next_at(ledger_engine, "P")
    with ThreadPoolExecutor(8) as threads:
        grants = list(threads.map(lambda number: ledger.grant("P", 1 + number % 3, 60.0), range(200)))
    assert next_at(ledger_engine, "P") - before == dt.timedelta(seconds=sum(grant.count for grant in grants))


def test_a_lock_out_is_kept_for_whoever_comes_after(ledger: PostgresLedger, ledger_engine: Engine) -> None:
    ledger.block("P", 30)
    ledger.block("P", 10)
    grant = PostgresLedger(ledger_engine).grant("P", 3, 60.0)
    assert grant.count == 0
    assert 29 < grant.delay <= 30
    ledger.block("P", 60)
    assert 59 < ledger.grant("P", 3, 60.0).delay <= 60


def test_after_a_lock_out_permits_start_anew(ledger: PostgresLedger) -> None:
    ledger.grant("P", 1, 600.0)
    ledger.block("P", 0.2)
    while (grant := ledger.grant("P", 2, 600.0)).count == 0:
        assert 0 < grant.delay <= 0.2
        time.sleep(grant.delay)
    assert grant.delay < 0.1


def test_a_grant_reads_one_row_by_its_key(ledger_engine: Engine) -> None:
    with ledger_engine.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(
            connection.execute(
                text(f"EXPLAIN {sql('grant_permits').text}"), {"practice": "P", "length": dt.timedelta(seconds=1)}
            ).scalars()
        )
    assert "budget_pkey" in plan
    assert "Seq Scan" not in plan


def test_two_processes_gates_keep_one_pace_in_real_time(ledger: PostgresLedger) -> None:
    """600 a minute for three seconds through two gates: never more than the pace and one second's lateness allow."""
    departures: list[float] = []

    async def main() -> None:
        config = BudgetConfig(calls_per_minute=600, share=1.0, max_in_flight=12)
        gates = [Gate("P", config, ledger) for _ in range(2)]
        end = time.monotonic() + 3

        async def work(gate: Gate) -> None:
            while time.monotonic() < end:
                async with gate.permit(Purpose.DETECT):
                    departures.append(time.monotonic())

        await asyncio.gather(*(work(gate) for gate in gates for _ in range(5)))

    asyncio.run(main())
    spacing = budget.spacing(budget.pace(600))
    took = max(departures) - min(departures)
    assert len(departures) <= (took + budget.LIFE) / spacing + 1
    assert len(departures) >= 15
