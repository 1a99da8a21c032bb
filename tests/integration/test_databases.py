"""What a test leaves behind no other test finds: a database is emptied, or is nobody's any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests import databases as made_for_tests
from tests.databases import Beginning, Databases, _rows, _sequences, _session, _shape


@pytest.fixture(scope="module")
def databases(postgres_server: str, template_database: str) -> Iterator[Databases]:
    made = Databases(postgres_server, template_database)
    yield made
    made.close()


def look(conninfo: str) -> Beginning:
    with _session(conninfo) as session:
        return Beginning(_shape(session), _rows(session), _sequences(session))


def after(databases: Databases, act: Callable[[psycopg.Connection], object]) -> tuple[bool, Beginning, Beginning]:
    """Whether the next test gets the same database, and how the two tests found theirs."""
    with databases.lend() as first:
        before = look(first)
        with psycopg.connect(first, autocommit=True) as session:
            act(session)
    with databases.lend() as second:
        return first == second, before, look(second)


@pytest.mark.parametrize(
    "written",
    [
        "INSERT INTO poller.lease (practice, epoch, taken_at) VALUES ('p', 1, now())",
        "INSERT INTO poller.rules (form, noise) VALUES (7, '{x}')",
        "DELETE FROM poller.rules",
        "UPDATE poller_revision SET version_num = '9999'",
        "SELECT nextval('poller.engine_engine_seq')",
    ],
)
def test_a_database_that_has_only_other_rows_is_emptied_and_used_again(databases: Databases, written: str) -> None:
    again, before, found = after(databases, lambda session: session.execute(written))
    assert again
    assert found == before


@pytest.mark.parametrize(
    "altered",
    [
        "CREATE INDEX ON poller.visit (practice)",
        "DROP FUNCTION poller.ensure_partitions(date)",
        "GRANT SELECT ON poller.visit TO poller_status",
        "ANALYZE poller.rules",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = ''1MB''', current_database()); END $$",
        "INSERT INTO poller.lease (practice, epoch, taken_at) SELECT 'p' || n, 1, now() FROM generate_series(1, 20000) AS n",
    ],
)
def test_a_database_that_is_another_in_any_way_is_not(databases: Databases, altered: str) -> None:
    again, before, found = after(databases, lambda session: session.execute(altered))
    assert not again
    assert found == before


def test_a_database_to_which_someone_is_still_connected_is_not(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_for_tests, "_GOING", 0.1)
    with databases.lend() as first:
        left = psycopg.connect(first)
    with databases.lend() as second:
        assert first != second
    with pytest.raises(psycopg.OperationalError):
        left.execute("SELECT 1")
    left.close()


def test_a_database_that_a_test_has_dropped_is_not(databases: Databases, postgres_server: str) -> None:
    with databases.lend() as first, psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{psycopg.conninfo.conninfo_to_dict(first)["dbname"]}"')
    with databases.lend() as second:
        assert first != second
