"""Each Postgres role can do what it must, and nothing beside it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from poller.store.engine import API, ENGINE, OWNER, READER, RELAY, STATUS

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = ("snapshot", "history", "hidden", "event", "member", "patient", "patient_source", "visit", "planning")
EVIDENCE = ("probe", "pause", "enumeration")
JOBS = ("export", "attachment")
STEERING = ("configuration", "control", "control_answer", "engine", "operator_pause", "heartbeat")
READING = ("token", "audit", "replay", "hold", "practice_key")
TABLES = (
    *CONTENT, *EVIDENCE, *JOBS, *READING, *STEERING,
    *("target", "absence", "feed", "sink", "cursor", "parked", "parking", "lease", "budget", "practice_log"),
    *("installation", "rules"),
    *("expired", "former", "forgotten", "trouble"),
)  # fmt: skip
COUNTING = {
    "target": "practice, resource_type, kind, category, live, registered_at, retired_at, cursor_at, baseline_at, last_began,"
    " complete_began, complete_ended, coverage, failure, failures, unproven_streak, reread",
    "absence": "practice, resource_type, state, reason, first_missing_at, passes, checks",
    "export": "practice, job, types, since, purpose, state, started_at, polled_at, next_poll_at, polls, transaction_time, rows, failure,"
    " ended_at",
    "cursor": "sink, practice, epoch, sequence, routed, moved_at, skipped, delivered, filtered, discarded, snapshot_type, ordinal, held",
    "parked": "practice, sink, epoch, sequence, ordinal, resource_type, reason, released, parked_at",
    "attachment": "practice, owner_type, state, bytes, tries, next_try_at",
    "configuration": "revision, accepted_at, actor, reason",
    "control": "practice, control, action, resource_type, actor, reason, asked_at, until_at",
    "control_answer": "practice, control, engine, state, answered_at",
}
WRITES: dict[str, dict[str, set[str]]] = {
    ENGINE: {
        "INSERT": set(TABLES)
        - {
            "expired",
            "former",
            "forgotten",
            "trouble",
            "sink",
            "cursor",
            "parked",
            "parking",
            "audit",
            "replay",
            "hold",
        },
        "UPDATE": set(TABLES)
        - {
            "expired",
            "former",
            "forgotten",
            "trouble",
            "sink",
            "cursor",
            "parked",
            "parking",
            "event",
            "history",
            "installation",
            "rules",
            "audit",
            "replay",
            "hold",
        }
        - {"configuration", "control", "practice_key"},
        "DELETE": {"member", "absence", "probe", "pause", "attachment", "visit", "engine", "operator_pause"},
    },
    RELAY: {
        "INSERT": {"sink", "cursor", "parked", "parking", "replay", "hold", "trouble"},
        "UPDATE": {"cursor", "parked", "replay", "hold", "trouble"},
        "DELETE": {"parked", "hold", "trouble"},
    },
    API: {"INSERT": set(), "UPDATE": set(), "DELETE": set()},
    READER: {"INSERT": set(), "UPDATE": set(), "DELETE": set()},
    STATUS: {"INSERT": set(), "UPDATE": set(), "DELETE": set()},
}
READS = {
    ENGINE: set(TABLES) - {"audit", "replay", "hold", "trouble"},
    RELAY: {
        "practice_key",
        "practice_log",
        "history",
        "expired",
        "event",
        "snapshot",
        "sink",
        "cursor",
        "parked",
        "parking",
        "replay",
        "hold",
        "trouble",
    },
    READER: set(TABLES) - {"token", "former", "forgotten"},
    STATUS: {
        "practice_log",
        "expired",
        "lease",
        "budget",
        "feed",
        "sink",
        "hold",
        "engine",
        "heartbeat",
        "operator_pause",
        "trouble",
        *EVIDENCE,
    },
    API: {"practice_log", "snapshot", "history", "token", "practice_key"},
}


@pytest.fixture(params=[ENGINE, RELAY, READER, STATUS, API])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def acting(database_url: str, role: str) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(database_url, autocommit=True)) as connection:
        connection.execute(f'SET ROLE "{role}"')
        yield connection


def allowed(acting: psycopg.Connection, statement: str) -> bool:
    try:
        acting.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def test_every_table_is_in_this_tests_lists(database_url: str) -> None:
    with closing(psycopg.connect(database_url)) as connection:
        found = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'poller'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')"
            " AND NOT relispartition"
        )
        assert {name for (name,) in found} == set(TABLES)


def test_reading(acting: psycopg.Connection, role: str) -> None:
    assert {table for table in TABLES if allowed(acting, f"SELECT * FROM poller.{table}")} == READS[role]  # noqa: S608


def test_writing(acting: psycopg.Connection, database_url: str, role: str) -> None:
    with closing(psycopg.connect(database_url)) as owner:
        columns = {
            table: [name for (name,) in owner.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", (f"poller.{table}",)
            )]
            for table in TABLES
        }  # fmt: skip
    for table in TABLES:
        first = columns[table][0]
        nulls = ", ".join("NULL" for _ in columns[table])
        insert = f"INSERT INTO poller.{table} SELECT {nulls} WHERE false"
        assert allowed(acting, insert) == (table in WRITES[role]["INSERT"]), f"INSERT {table}"
        update = f"UPDATE poller.{table} SET {first} = NULL WHERE false"  # noqa: S608
        assert allowed(acting, update) == (table in WRITES[role]["UPDATE"]), f"UPDATE {table}"
        delete = f"DELETE FROM poller.{table} WHERE false"  # noqa: S608
        assert allowed(acting, delete) == (table in WRITES[role]["DELETE"]), f"DELETE {table}"
        assert not allowed(acting, f"TRUNCATE poller.{table}"), f"TRUNCATE {table}"


def test_partitions_are_no_way_round(acting: psycopg.Connection, role: str) -> None:
    for partition in ("history_default", "event_default"):
        assert not allowed(acting, f"DELETE FROM poller.{partition} WHERE false"), role  # noqa: S608
        assert not allowed(acting, f"UPDATE poller.{partition} SET practice = NULL WHERE false"), role  # noqa: S608


def test_the_audit_is_appended_to_and_nothing_else(acting: psycopg.Connection, role: str) -> None:
    """Who appends says neither when it was nor by which login; who reads is held to account by the role that reads."""
    append = "INSERT INTO poller.audit (practice, actor, action, scope, reason) VALUES ('p1', 'me', 'why', '{}', '')"
    assert allowed(acting, append) == (role in {ENGINE, READER, API})
    for forged in ("at", "login", "number"):
        assert not allowed(acting, f"INSERT INTO poller.audit ({forged}) SELECT NULL WHERE false"), forged
    for statement in (
        "UPDATE poller.audit SET reason = '' WHERE false",
        "UPDATE poller.audit SET at = now() WHERE false",
        "DELETE FROM poller.audit WHERE false",
        "TRUNCATE poller.audit",
        "ALTER TABLE poller.audit DISABLE TRIGGER ALL",
        "DROP TABLE poller.audit",
        "CREATE OR REPLACE FUNCTION poller.keep_audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
    ):
        assert not allowed(acting, statement), statement
    acting.execute("SET poller.audit_expires = 'on'")
    assert not allowed(acting, "DELETE FROM poller.audit")
    assert allowed(acting, "SELECT poller.expire_audit('2192 days')") == (role == ENGINE)


def test_changing_the_schema(acting: psycopg.Connection, role: str) -> None:
    assert not allowed(acting, "CREATE TABLE poller.mine (id text)")
    assert not allowed(acting, "ALTER TABLE poller.event DISABLE TRIGGER ALL")
    assert not allowed(acting, "DROP TABLE poller.cursor")
    assert allowed(acting, "SELECT poller.ensure_partitions('2026-11-22')") == (role == ENGINE)


def test_status_counts_without_seeing_ids_or_content(database_url: str) -> None:
    with closing(psycopg.connect(database_url, autocommit=True)) as acting:
        acting.execute(f'SET ROLE "{STATUS}"')
        for table, columns in COUNTING.items():
            assert allowed(acting, f"SELECT {columns} FROM poller.{table}")  # noqa: S608
        for table, hidden in (
            ("target", "target"),
            ("target", "patient"),
            ("target", "sweep_found"),
            ("absence", "id"),
            ("absence", "target"),
            ("cursor", "snapshot_id"),
            ("parked", "id"),
            ("control", "patient"),
            ("control_answer", "said"),
            ("configuration", "written"),
        ):
            assert not allowed(acting, f"SELECT {hidden} FROM poller.{table}")  # noqa: S608


def test_no_role_may_act_as_another_or_log_in(database_url: str) -> None:
    with closing(psycopg.connect(database_url)) as connection:
        roles = [OWNER, ENGINE, RELAY, READER, STATUS, API]
        rows = connection.execute(
            "SELECT rolname, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls,"
            " EXISTS (SELECT FROM pg_auth_members WHERE member = pg_roles.oid) FROM pg_roles WHERE rolname = ANY (%s)",
            (roles,),
        ).fetchall()
    assert {row[0] for row in rows} == set(roles)
    assert not any(any(row[1:]) for row in rows)
