"""The budget in Postgres: one row a practice, by the database's clock."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from poller.config.model import BudgetConfig
from poller.core import budget
from poller.core.budget import Throttle
from poller.core.model import Purpose
from poller.source.gate import Gate
from poller.store.engine import ENGINE, open_engine, sql
from poller.store.ledger import PostgresLedger
from tests.gate_bench import VirtualPostgres

FAST = budget.pace(250)
NUMBERS = itertools.count()


@pytest.fixture
def ledger_engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url, ENGINE, pool_size=8)
    yield made
    made.dispose()


@pytest.fixture
def ledger(ledger_engine: Engine) -> PostgresLedger:
    return PostgresLedger(ledger_engine)


@pytest.fixture
def postgres(database_url: str) -> Iterator[VirtualPostgres]:
    with VirtualPostgres(database_url) as made:
        yield made


def test_blocks_follow_one_another_without_gap_or_overlap(ledger: PostgresLedger) -> None:
    first, second = ledger.grant("P", 4, 600.0), ledger.grant("P", 2, 600.0)
    assert first.told is not None
    assert second.told is not None
    assert (first.count, second.count) == (4, 2)
    assert first.spacing == pytest.approx(0.1)
    assert first.delay < 0.1
    assert first.told + first.delay + 0.4 == pytest.approx(second.told + second.delay, abs=1e-5)


def test_practices_do_not_share_a_budget(ledger: PostgresLedger) -> None:
    ledger.grant("P", 60, 60.0)
    assert ledger.grant("Q", 1, 60.0).delay < 0.1


def test_time_that_passed_unused_gives_no_burst(ledger: PostgresLedger) -> None:
    ledger.grant("P", 1, 6000.0)
    time.sleep(0.05)
    grant = ledger.grant("P", 10, 6000.0)
    assert grant.delay < 0.05
    assert ledger.grant("P", 1, 6000.0).delay > 0.02


def test_whatever_asks_at_once_gets_permits_of_its_own(ledger: PostgresLedger) -> None:
    """Eight threads, 200 grants: no permit lies nearer to another than the spacing, whose they may be."""
    with ThreadPoolExecutor(8) as threads:
        grants = list(threads.map(lambda number: ledger.grant("P", 1 + number % 3, 15_000.0), range(200)))
    instants = sorted(
        (grant.told or 0.0) + grant.delay + number * grant.spacing for grant in grants for number in range(grant.count)
    )
    assert len(instants) == sum(1 + number % 3 for number in range(200))
    assert min(after - before for before, after in itertools.pairwise(instants)) > 0.004 - 1e-5


def test_a_lock_out_is_kept_for_whoever_comes_after(ledger: PostgresLedger, ledger_engine: Engine) -> None:
    ledger.block("P", 30)
    ledger.block("P", 10)
    grant = PostgresLedger(ledger_engine).grant("P", 3, 60.0)
    assert (grant.count, grant.locked) == (0, True)
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
    second = dt.timedelta(seconds=1)
    binds = {"practices": ["P"], "wants": [1], "raise": budget.RAISE, "block": second, "alone": False}
    lengths = {key: [second] for key in ("gaps", "leads", "horizons")}
    with ledger_engine.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        explained = connection.execute(text(f"EXPLAIN {sql('grant_permits').text}"), binds | lengths)
        plan = "\n".join(explained.scalars())
    assert "budget_pkey" in plan
    assert "Seq Scan" not in plan


def test_a_block_is_a_second_at_most_and_nothing_reaches_past_the_horizon(postgres: VirtualPostgres) -> None:
    ledger = postgres.ledger()
    assert ledger.grant("P", 1000, FAST).count == budget.block(FAST)
    granted = [ledger.grant("P", 1000, FAST) for _ in range(5)]
    refused = granted[-1]
    assert [grant.count for grant in granted[-2:]] == [0, 0]
    assert not refused.locked
    assert max(grant.delay + grant.count * grant.spacing for grant in granted if grant.count) <= budget.URGENT_HORIZON
    urgent = ledger.grant("P", 1000, FAST, 0.0, budget.URGENT_HORIZON)
    assert urgent.count == budget.block(FAST)
    assert urgent.delay + urgent.count * urgent.spacing <= budget.REACH
    postgres.now += refused.delay + urgent.count * urgent.spacing
    assert ledger.grant("P", 1, FAST).count == 1, "it said when to ask again"


def test_permits_for_a_slow_asker_begin_when_the_answer_is_there(postgres: VirtualPostgres) -> None:
    ledger = postgres.ledger()
    assert ledger.grant("P", 1, FAST, 1.5).delay == 1.5
    assert ledger.grant("P", 1, FAST, 1.5).delay == pytest.approx(1.5 + budget.spacing(FAST))


@pytest.mark.parametrize("hours", [0.0001, 1, 1000])
def test_a_clock_that_is_set_back_stops_nothing_and_gives_nothing_twice(
    postgres: VirtualPostgres, hours: float
) -> None:
    ledger = postgres.ledger()
    grants = [ledger.grant("P", 4, FAST), ledger.grant("P", 4, FAST)]
    ends = grants[-1].delay + 4 * budget.spacing(FAST)
    postgres.now -= hours * 3600
    after = ledger.grant("P", 1, FAST)
    assert after.count == 1
    assert after.delay == pytest.approx(ends, abs=1e-5)


def test_a_lock_out_survives_a_clock_that_is_set_back_and_ends_in_time(postgres: VirtualPostgres) -> None:
    ledger = postgres.ledger()
    ledger.grant("P", 1, FAST)
    ledger.block("P", 30, 0.0)
    postgres.now -= 7200
    assert ledger.grant("P", 1, FAST).delay == pytest.approx(30)
    postgres.now += 29
    assert ledger.grant("P", 1, FAST).locked
    postgres.now += 1.001
    assert ledger.grant("P", 1, FAST).count == 1


def test_429s_of_one_lock_out_cut_the_pace_once_for_all_processes_and_it_rises_by_itself(
    postgres: VirtualPostgres,
) -> None:
    ours, theirs = postgres.ledger(), postgres.ledger()
    assert ours.block("P", 20, 0.5) == pytest.approx(budget.CUT)
    assert theirs.block("P", 20, 0.4) == pytest.approx(budget.CUT), "it left before anyone knew"
    assert theirs.block("P", 20) == pytest.approx(budget.CUT), "no 429"
    postgres.now += 21
    cut = theirs.grant("P", 9, FAST)
    assert cut.spacing == pytest.approx(budget.spacing(FAST) / cut.part, abs=1e-5)
    assert cut.part == pytest.approx(budget.CUT + 21 * budget.RAISE)
    assert cut.count < budget.block(FAST)
    assert ours.block("P", 20, 2.0) == pytest.approx(cut.part * budget.CUT), "it left long after the first cut"
    postgres.now += (1 - budget.CUT**2) / budget.RAISE + 1
    whole = ours.grant("P", 9, FAST)
    assert (whole.part, whole.count) == (1.0, budget.block(FAST))
    assert whole.spacing == pytest.approx(budget.spacing(FAST), abs=1e-5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.floats(0, 4000), st.none() | st.floats(0, 60)), max_size=8))
def test_the_statement_grants_at_the_part_that_the_arithmetic_says(
    postgres: VirtualPostgres, steps: list[tuple[float, float | None]]
) -> None:
    ledger, throttle, practice = postgres.ledger(), Throttle(), f"P{next(NUMBERS)}"
    ledger.grant(practice, 1, FAST)
    for seconds, left_ago in steps:
        pause = round(seconds, 3)
        postgres.now += pause
        throttle = Throttle(throttle.part, throttle.since + pause)
        if left_ago is not None:
            throttle = throttle.refused(left_ago)
        assert ledger.block(practice, 0.0, left_ago) == pytest.approx(throttle.now, abs=1e-6)
        postgres.now += 10
        throttle = Throttle(throttle.part, throttle.since + 10)
        grant = ledger.grant(practice, 1, FAST)
        assert grant.part == pytest.approx(throttle.now, abs=1e-6)
        assert grant.spacing == pytest.approx(budget.spacing(FAST) / throttle.now, abs=1e-5)
        postgres.now += 10
        throttle = Throttle(throttle.part, throttle.since + 10)


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


def test_what_was_granted_is_counted_by_the_minute(ledger: PostgresLedger, ledger_engine: Engine) -> None:
    def counted() -> tuple[int, int]:
        with ledger_engine.connect() as connection:
            row = connection.execute(text("SELECT used, used_before FROM poller.budget WHERE practice = 'P'")).one()
        return row.used, row.used_before

    def turn(minutes: int) -> None:
        with ledger_engine.begin() as connection:
            statement = text(
                "UPDATE poller.budget SET minute = minute - :minutes * interval '1 minute', next_at = told_at"
            )
            connection.execute(statement, {"minutes": minutes})

    granted = sum(ledger.grant("P", 4, 600.0).count for _ in range(3))
    assert granted >= 8
    assert sum(counted()) == granted, "however the minute turned meanwhile"
    turn(10)
    granted = ledger.grant("P", 3, 600.0).count
    assert counted() == (granted, 0), "what is older than a minute is over"
