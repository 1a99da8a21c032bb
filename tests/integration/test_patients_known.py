"""Who is known to be a patient: counted in order, by every source, without a write for what is known already."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from poller.store.known import PatientSource, note_patients
from tests.integration.conftest import Practice
from tests.patients_bench import practice_in, shared_database, shared_engine

DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def engine(postgres_server: str, template_database: str) -> Iterator[Engine]:
    with shared_database(postgres_server, template_database) as url, shared_engine(url) as made:
        yield made


@pytest.fixture
def practice(engine: Engine) -> Iterator[Practice]:
    with practice_in(engine) as made:
        yield made


def note(
    practice: Practice,
    *named: tuple[str, PatientSource],
    second: float = 0,
    live: bool = False,
    code: str | None = None,
) -> list[str]:
    with practice.engine.begin() as connection:
        return note_patients(connection, code or practice.code, named, live=live, now=practice.at(second))


def rows_of(practice: Practice, statement: str) -> Sequence[Any]:
    return practice.rows(f"{statement} AND practice = :code", code=practice.code)


def known(practice: Practice, code: str | None = None) -> Sequence[tuple[str, int, bool]]:
    rows = "SELECT id, ordinal, live FROM poller.patient WHERE practice = :code ORDER BY ordinal"
    return [(row.id, row.ordinal, row.live) for row in practice.rows(rows, code=code or practice.code)]


def sources(practice: Practice, code: str | None = None) -> Sequence[tuple[str, str]]:
    rows = 'SELECT id, source FROM poller.patient_source WHERE practice = :code ORDER BY id COLLATE "C", source COLLATE "C"'
    return [(row.id, row.source) for row in practice.rows(rows, code=code or practice.code)]


def test_new_patients_are_counted_on_in_the_order_in_which_they_are_named(practice: Practice) -> None:
    names, roster = PatientSource.NAMES, PatientSource.ROSTER
    assert note(practice, ("c", names), ("a", names), ("c", roster)) == ["c", "a"]
    assert note(practice, ("b", names), ("a", roster), ("0", names), live=True) == ["b", "0"]
    assert note(practice, ("z", names), code="another") == ["z"], "another practice counts from the beginning"
    assert known(practice) == [("c", 0, False), ("a", 1, False), ("b", 2, True), ("0", 3, True)]
    assert sources(practice) == [
        ("0", "names"),
        ("a", "names"),
        ("a", "roster"),
        ("b", "names"),
        ("c", "names"),
        ("c", "roster"),
    ]


def test_only_who_shows_the_patient_brings_one_back_who_was_gone(practice: Practice) -> None:
    note(practice, *((source.value, PatientSource.SEARCH) for source in PatientSource))
    with practice.engine.begin() as connection:
        connection.execute(
            text("UPDATE poller.patient SET gone_at = now() WHERE practice = :code"), {"code": practice.code}
        )
    assert note(practice, *((source.value, source) for source in PatientSource), second=9) == []
    gone = {row.id for row in rows_of(practice, "SELECT id FROM poller.patient WHERE gone_at IS NOT NULL")}
    assert gone == {"roster", "group", "days", "reference"}


def test_nothing_is_written_for_what_is_known_more_than_once_a_day(practice: Practice) -> None:
    sight = ("a", PatientSource.REFERENCE)
    note(practice, sight)

    def versions() -> Sequence[tuple[str, str]]:
        return [
            tuple(row)
            for table in ("patient", "patient_source")
            for row in rows_of(practice, f"SELECT ctid, xmin FROM poller.{table} WHERE true")  # noqa: S608 - two constants
        ]

    before = versions()
    for second in (1, 60, DAY.total_seconds()):
        with practice.failing_before(2, lambda _: None) as sent:
            assert note(practice, sight, second=second) == []
        assert len(sent) == 1, "one look, no lock"
    assert versions() == before
    note(practice, sight, second=DAY.total_seconds() + 1)
    [row] = rows_of(practice, "SELECT first_seen_at, last_seen_at FROM poller.patient_source WHERE true")
    assert (row.first_seen_at, row.last_seen_at) == (practice.at(0), practice.at(DAY.total_seconds() + 1))


def test_an_older_sight_does_not_put_back_the_time_of_a_newer(practice: Practice) -> None:
    note(practice, ("a", PatientSource.GROUP), second=3 * DAY.total_seconds())
    note(practice, ("a", PatientSource.GROUP), second=0)
    assert [
        row.last_seen_at for row in rows_of(practice, "SELECT last_seen_at FROM poller.patient_source WHERE true")
    ] == [practice.at(3 * DAY.total_seconds())]


def test_two_that_write_at_once_count_one_after_the_other(practice: Practice) -> None:
    found: list[list[str]] = []
    with practice.engine.connect() as first, first.begin():
        note_patients(first, practice.code, [("a", PatientSource.NAMES)], live=False, now=practice.at(0))
        second = threading.Thread(
            target=lambda: found.append(note(practice, ("b", PatientSource.NAMES), ("a", PatientSource.NAMES)))
        )
        second.start()
        while not practice.someone_waits():
            assert second.is_alive()
    second.join(10)
    assert found == [["b"]]
    assert known(practice) == [("a", 0, False), ("b", 1, False)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(PatientSource)), max_size=12), max_size=6
    )
)
def test_any_sights_leave_each_patient_once_and_no_gap(
    practice: Practice, batches: list[list[tuple[str, PatientSource]]]
) -> None:
    code = uuid.uuid4().hex
    told = [id_ for batch in batches for id_ in note(practice, *batch, code=code)]
    in_order = list(dict.fromkeys(id_ for batch in batches for id_, _ in batch))
    assert told == in_order
    assert known(practice, code) == [(id_, n, False) for n, id_ in enumerate(in_order)]
    assert sources(practice, code) == sorted({(id_, source.value) for batch in batches for id_, source in batch})
