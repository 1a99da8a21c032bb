"""Who may do what with the schema: a login with no more than its roles runs what another has migrated."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import alembic.command
import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg.conninfo import make_conninfo

from poller.errors import StoreError
from poller.store.engine import (
    ENGINE,
    READER,
    RELAY,
    migrate,
    newest_revision,
    open_engine,
    prove_digest_key,
    require_current,
)


@pytest.fixture
def service_login(postgres_server: str) -> Iterator[str]:
    """A login that owns nothing and may take the roles of a running poller."""
    name = f"poller_service_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN NOSUPERUSER")
        yield name
        admin.execute(f"DROP ROLE {name}")


def test_a_service_login_runs_on_a_migrated_database(
    database_url: str, postgres_server: str, service_login: str
) -> None:
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f"GRANT {ENGINE}, {RELAY}, {READER} TO {service_login}")
    conninfo = make_conninfo(database_url, user=service_login)
    migrate(conninfo)
    engine = open_engine(conninfo, ENGINE)
    try:
        prove_digest_key(engine, b"k" * 32)
    finally:
        engine.dispose()


def test_a_login_that_may_not_migrate_is_told_so(empty_database: str, service_login: str) -> None:
    with pytest.raises(StoreError, match="CREATEROLE"):
        migrate(make_conninfo(empty_database, user=service_login))


def test_a_server_that_is_not_there_is_said_in_one_line() -> None:
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        migrate("postgresql://nobody@127.0.0.1:1/none")
    assert "\n" not in str(caught.value)


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    migrate(database_url)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM poller_revision").fetchone() == (1,)


def test_a_database_without_our_schema_is_told_from_one_that_has_it(database_url: str, empty_database: str) -> None:
    require_current(database_url)
    with pytest.raises(StoreError, match="poller migrate"):
        require_current(empty_database)


def test_the_schema_of_a_newer_release_is_left_alone(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE poller_revision SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer release"):
        migrate(database_url)


def upgrade(conninfo: str, revision: str) -> None:
    """Bring an empty database to the schema of a former release."""
    engine = open_engine(conninfo, None, pool_size=1)
    config = Config()
    config.set_main_option("script_location", "poller.store:migrations")
    with engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, revision)
    engine.dispose()


def test_what_the_api_had_noted_is_taken_into_the_audit(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as admin:
        upgrade(empty_database, "0015")
        admin.execute(
            "INSERT INTO poller.read_audit (practice, read_at, token, asked, resource_type, id, version, status)"
            " VALUES ('p1', '2026-01-02', 'billing', 'version', 'Observation', 'o1', 2, 200),"
            " ('', '2026-01-03', NULL, 'current', 'Observation', 'o2', NULL, 401)"
        )
    migrate(empty_database)
    answered = {"resource": "Observation/o1", "asked": "version", "version": 2, "status": 200}
    refused = {"resource": "Observation/o2", "asked": "current", "status": 401}
    with psycopg.connect(empty_database) as admin:
        assert admin.execute(
            "SELECT practice, at::date::text, login, actor, action, scope, reason FROM poller.audit ORDER BY number"
        ).fetchall() == [
            ("p1", "2026-01-02", "", "token:billing", "api read", answered, ""),
            ("", "2026-01-03", "", "token:?", "api read", refused, ""),
        ]
        assert admin.execute("SELECT to_regclass('poller.read_audit')").fetchone() == (None,)


def test_the_newest_revision_is_where_the_chain_ends() -> None:
    config = Config()
    config.set_main_option("script_location", "poller.store:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [newest_revision()]
