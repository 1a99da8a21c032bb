"""A server that changes and fails at random is read by the real source into the real store: after quiet, state by events = truth.

And on the way there no event is false: each tells of a content that the resource had while it was read, in the order in which it had them,
under the right name; ids, versions and sequences have no gaps. All in virtual time: see ``hypo/script.py`` for what may happen.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
import structlog
from hypothesis import HealthCheck, Phase, example, given, settings
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine

import poller.ladder
import poller.order
from poller.core.model import Strategy
from poller.store.engine import ENGINE, open_engine, prove_digest_key
from tests.acceptance.hypo.broken import BROKEN, Broken
from tests.acceptance.hypo.cases import STRATEGIES, cases
from tests.acceptance.hypo.examples import MENDED
from tests.acceptance.hypo.play import KEY, play
from tests.acceptance.hypo.script import Case
from tests.acceptance.hypo.verdict import judge
from tests.databases import plan_once

CASES = 200
SOAK = 5_000

pytestmark = pytest.mark.timeout(900)  # a failure is shrunk before it is told, which takes minutes


@pytest.fixture(scope="module")
def engine(new_databases: Callable[[], str]) -> Iterator[Engine]:
    """One database for all cases: each has a practice of its own."""
    conninfo = new_databases()
    with psycopg.connect(
        conninfo, autocommit=True
    ) as admin:  # what a machine's crash would lose is lost with it anyway
        admin.execute(f'ALTER DATABASE "{conninfo_to_dict(conninfo)["dbname"]}" SET synchronous_commit = off')
    made = open_engine(conninfo, ENGINE, pool_size=2)
    made.pool._pre_ping = False  # a quarter of all statements otherwise
    plan_once(made)
    prove_digest_key(made, KEY)
    yield made
    made.dispose()


@pytest.fixture(autouse=True, scope="module")
def _silent() -> Iterator[None]:
    """Failures are what these cases are made of: nobody reads a line for each."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.fixture(autouse=True)
def _out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is just now, a look at what is owed takes no time that counts."""
    monkeypatch.setattr(poller.order, "_A_LONG_LOOK", float("inf"))


def holds(engine: Engine, strategy: Strategy | None, kept: Sequence[Case] = (), *, rounds: int, **how: Any) -> None:
    """Whether state by events is the truth, whatever happens. Raises AssertionError with a case in which it is not."""

    @settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=False, **how)
    @given(cases(strategy, rounds))
    def after_quiet(case: Case) -> None:
        judge(play(engine, case))

    for case in kept:
        after_quiet = example(case)(after_quiet)
    after_quiet()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_after_quiet_the_state_by_events_is_the_truth(
    engine: Engine, strategy: Strategy | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same cases each time, so that nothing fails that did not fail before; the soak draws others.

    Whether there is a better rung is asked a day later, not a minute: in the soak that is half of all calls.
    """
    monkeypatch.setattr(poller.ladder, "_SOON", dt.timedelta(days=1))
    kept = [case for case in MENDED if case.strategy is strategy]
    many = -(-CASES // len(STRATEGIES))
    holds(engine, strategy, kept, rounds=2, max_examples=many, derandomize=True, database=None)


@pytest.mark.soak
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_after_quiet_the_state_by_events_is_the_truth_for_long(engine: Engine, strategy: Strategy | None) -> None:
    holds(engine, strategy, rounds=4, max_examples=-(-SOAK // len(STRATEGIES)))


RARE = {"takes the last answer", "forgets members", "takes summaries"}
"""Take more cases to be found out than a short run has, or nearly so."""


def found_out(engine: Engine, broken: Broken, monkeypatch: pytest.MonkeyPatch, cases_: int) -> None:
    broken.put(monkeypatch)
    with pytest.raises(AssertionError):
        holds(
            engine,
            broken.strategy,
            rounds=2,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            max_examples=cases_,
            derandomize=True,
            database=None,
        )


@pytest.mark.parametrize("broken", [one for one in BROKEN if one.name not in RARE], ids=lambda broken: broken.name)
def test_a_broken_part_is_found_out(engine: Engine, broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same property, within half as many cases: else it would hold for anything."""
    found_out(engine, broken, monkeypatch, CASES // 2)


@pytest.mark.soak
@pytest.mark.parametrize("broken", [one for one in BROKEN if one.name in RARE], ids=lambda broken: broken.name)
def test_a_part_that_is_seldom_wrong_is_found_out(
    engine: Engine, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_out(engine, broken, monkeypatch, SOAK // len(STRATEGIES))
