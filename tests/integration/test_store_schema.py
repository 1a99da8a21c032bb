"""The schema: brought up to date by anyone at any time, with one digest key."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from poller.errors import StoreError
from poller.store.engine import ENGINE, migrate, open_clock, open_engine, prove_digest_key

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = """
SELECT c.relname, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relnamespace IN ('poller'::regnamespace, 'public'::regnamespace) AND a.attnum > 0
ORDER BY 1, 3
"""


def schema_of(database: str) -> list[tuple[object, ...]]:
    with closing(psycopg.connect(database)) as connection:
        return connection.execute(SCHEMA).fetchall()


def test_twice_is_once(database_url: str) -> None:
    before = schema_of(database_url)
    migrate(database_url)
    assert schema_of(database_url) == before


def test_at_once_all_succeed(empty_database: str, database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, [empty_database] * 4))
    assert schema_of(empty_database) == schema_of(database_url)


@pytest.fixture
def plain_login(empty_database: str) -> Iterator[str]:
    """The database as a login sees it that owns it and may make roles, but is no superuser."""
    name, password = f"poller_login_{secrets.token_hex(4)}", secrets.token_hex(8)
    database = conninfo_to_dict(empty_database)["dbname"]
    with closing(psycopg.connect(empty_database, autocommit=True)) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD '{password}'")
        admin.execute(f'ALTER DATABASE "{database}" OWNER TO {name}')
        yield make_conninfo(empty_database, user=name, password=password)
        admin.execute(f'ALTER DATABASE "{database}" OWNER TO CURRENT_USER')
        admin.execute(f"DROP OWNED BY {name}")
        admin.execute(f"DROP ROLE {name}")


def test_no_superuser_is_needed(plain_login: str, database_url: str) -> None:
    version = psycopg.connect(plain_login).info.server_version
    if version >= 160000:
        with closing(psycopg.connect(database_url, autocommit=True)) as admin:
            login = conninfo_to_dict(plain_login)["user"]
            for role in ("owner", "engine", "relay", "reader", "status"):
                admin.execute(f"GRANT poller_{role} TO {login} WITH ADMIN OPTION, SET FALSE")
    migrate(plain_login)
    migrate(plain_login)
    engine = open_engine(plain_login, ENGINE)
    prove_digest_key(engine, b"k" * 32)
    engine.dispose()


def test_a_login_that_may_not_is_told_what_it_needs(plain_login: str, empty_database: str) -> None:
    login = conninfo_to_dict(plain_login)["user"]
    with closing(psycopg.connect(empty_database, autocommit=True)) as admin:
        admin.execute(f"ALTER ROLE {login} NOCREATEROLE")
        admin.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        admin.execute("ALTER SCHEMA public OWNER TO CURRENT_USER")
    with pytest.raises(StoreError, match="needs CREATEROLE"):
        migrate(plain_login)


def test_a_server_that_is_not_there_is_named_as_such(database_url: str) -> None:
    with pytest.raises(StoreError, match=r"store\.url"):
        migrate(make_conninfo(database_url, port=1, connect_timeout=2))


def test_another_digest_key_is_refused(database_url: str) -> None:
    engine = open_engine(database_url, ENGINE)
    prove_digest_key(engine, b"a" * 32)
    prove_digest_key(engine, b"a" * 32)
    with pytest.raises(StoreError, match="digest_key"):
        prove_digest_key(engine, b"b" * 32)
    prove_digest_key(engine, b"a" * 32)
    engine.dispose()


def test_the_clock_is_the_databases(database_url: str) -> None:
    engine = open_engine(database_url, ENGINE)
    clock = open_clock(engine)
    with engine.connect() as connection:
        first = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        here = clock.now()
        second = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    engine.dispose()
    assert abs((here - first).total_seconds()) < 1
    assert abs((second - here).total_seconds()) < 1
