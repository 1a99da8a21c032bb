"""Two batches that both note patients never wait for each other in a ring: patients are noted before absences and targets are touched."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event

from poller.core.model import Coverage, Kind, Target
from poller.store.repository import PassEnd
from tests.integration.conftest import Practice
from tests.patients_bench import practice_in, shared_database, shared_engine


@pytest.fixture(scope="module")
def engine(postgres_server: str, template_database: str) -> Iterator[Engine]:
    with shared_database(postgres_server, template_database) as url, shared_engine(url) as made:
        yield made


@pytest.fixture
def practice(engine: Engine) -> Iterator[Practice]:
    with practice_in(engine) as made:
        yield made


def test_a_sweep_that_tells_a_window_and_the_windows_end_do_not_block_each_other(practice: Practice) -> None:
    window, sweep = Target(practice.code, "Observation", Kind.WINDOW), Target(practice.code, "Observation", Kind.SWEEP)
    practice.register(window, sweep)
    ends = threading.Event()
    failed: list[Exception] = []

    def in_turn(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.current_thread() is swept:
            if "pg_advisory_xact_lock" in statement:
                assert ends.wait(20), "the window has noted its patients and is about to end"
        elif "SET last_began" in statement:
            ends.set()

    def sweeps() -> None:
        try:
            practice.read(
                practice.observation("o1", subject={"reference": "Patient/a"}),
                target=sweep,
                second=10,
                tells_window=window,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the test tells it
            failed.append(error)

    swept = threading.Thread(target=sweeps)
    event.listen(practice.engine, "before_cursor_execute", in_turn)
    try:
        swept.start()
        end = PassEnd(practice.at(20), practice.at(22), Coverage.COMPLETE, counts=True)
        version = practice.version(practice.observation("o2", subject={"reference": "Patient/b"}), 20)
        practice.repository.record(practice.context(window), [version], practice.at(22), end)
    finally:
        ends.set()
        swept.join(30)
        event.remove(practice.engine, "before_cursor_execute", in_turn)
    assert not failed
    rows = practice.rows("SELECT id FROM poller.patient WHERE practice = :code ORDER BY id", code=practice.code)
    assert [row.id for row in rows] == ["a", "b"]
