"""Databases for tests: each test has one that is as a migrated one is, most often one that was another's before and has been emptied.

Making a database and dropping it costs Postgres half a second of work and some waits for the disk; emptying one costs a hundredth of that.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine, event

_CATALOGS: tuple[LiteralString, ...] = (
    "pg_attrdef",
    "pg_attribute",
    "pg_class",
    "pg_constraint",
    "pg_default_acl",
    "pg_event_trigger",
    "pg_extension",
    "pg_index",
    "pg_inherits",
    "pg_largeobject_metadata",
    "pg_namespace",
    "pg_policy",
    "pg_proc",
    "pg_rewrite",
    "pg_statistic",
    "pg_trigger",
    "pg_type",
)
"""What a change of anything but rows leaves a trace in."""
Name = tuple[str, str]
"""A schema and what is in it."""
_LARGE = 256 * 1024
"""Bytes of a table or an index from which on a database is not used again: what was deleted takes room, which a plan may notice."""
_GOING = 2.0
"""Seconds within which the sessions of a test that has ended are gone."""

_SIZES = """
SELECT coalesce(max(pg_relation_size(c.oid)), 0) FROM pg_class AS c
WHERE c.relkind IN ('r', 'i', 't') AND c.oid >= 16384
"""
_OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
_TABLES = """
SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.oid >= 16384 AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
ORDER BY 1, 2
"""
_SEQUENCES = "SELECT schemaname, sequencename FROM pg_sequences ORDER BY 1, 2"


@dataclass(frozen=True)
class Beginning:
    """How a database is when a test gets it: read from one that was just made."""

    shape: tuple[Any, ...]
    """Changes with whatever is not a row: tables, columns, functions, rights, settings, statistics."""
    rows: Mapping[Name, str]
    """Table → its rows as JSON, of all tables."""
    sequences: Mapping[Name, tuple[int, bool]]


class Databases:
    """Copies of a template, each lent to one test at a time."""

    def __init__(self, server: str, template: str) -> None:
        self._server = server
        self._template = template
        self._free: list[str] = []
        self._beginning: Beginning | None = None

    @contextmanager
    def lend(self) -> Iterator[str]:
        """Conninfo of a database that is as if it had just been made."""
        name = self._free.pop() if self._free else self.make()
        conninfo = make_conninfo(self._server, dbname=name)
        yield conninfo
        if self._is_new_again(conninfo):
            self._free.append(name)
        else:
            self.drop(name)

    def close(self) -> None:
        """Drop them."""
        while self._free:
            self.drop(self._free.pop())

    def make(self) -> str:
        """A new one, to be dropped by whoever has it made; its name."""
        name = f"poller_test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self._server, autocommit=True) as admin:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            admin.execute(statement.format(sql.Identifier(name), sql.Identifier(self._template)))
            # What a crash of the server would lose, no test looks for: those that crash one start their own.
            admin.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(sql.Identifier(name)))
        if self._beginning is None:
            with _session(make_conninfo(self._server, dbname=name)) as session:
                self._beginning = Beginning(_shape(session), _rows(session), _sequences(session))
        return name

    def drop(self, name: str) -> None:
        """Drop one, whoever is connected to it."""
        with psycopg.connect(self._server, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _is_new_again(self, conninfo: str) -> bool:
        """Empty the database; False if it may not be what it was: then it is for nobody any more."""
        assert self._beginning is not None
        try:
            with _session(conninfo) as session:
                return _is_left(session) and _empty(session, self._beginning)
        except psycopg.OperationalError:
            return False  # a test may drop its own, or lock all others out


def plan_once(engine: Engine) -> None:
    """Have connections yet to be made plan each statement once, for any values.

    That is slow where tables are large, and else spares half of what many small statements cost. What comes of a statement is the same.
    """

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.prepare_threshold, connection.prepared_max = 1, 1000
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.commit()


def _session(conninfo: str) -> closing[psycopg.Connection[Any]]:
    options = "-c lock_timeout=2s -c session_replication_role=replica"  # past the trigger that keeps the audit
    return closing(psycopg.connect(conninfo, autocommit=True, options=options))


def _is_left(session: psycopg.Connection[Any]) -> bool:
    """Whether nobody else is connected: who stays might write what the next test reads."""
    deadline = time.monotonic() + _GOING
    while session.execute(_OTHERS).fetchone() != (0,):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _empty(session: psycopg.Connection[Any], beginning: Beginning) -> bool:
    if _shape(session) != beginning.shape or session.execute(_SIZES).fetchone() > (_LARGE,):  # type: ignore[operator]
        return False
    for table, rows in _rows(session).items():
        if rows == beginning.rows[table]:
            continue
        session.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(*table)))
        if beginning.rows[table] != _NONE:
            again = sql.SQL("INSERT INTO {0} SELECT * FROM json_populate_recordset(NULL::{0}, {1})")
            session.execute(again.format(sql.Identifier(*table), sql.Literal(beginning.rows[table])))
    for sequence, (value, called) in beginning.sequences.items():
        said = sql.Literal(sql.Identifier(*sequence).as_string(session))
        session.execute(sql.SQL("SELECT setval({}, {}, {})").format(said, sql.Literal(value), sql.Literal(called)))
    return True


def _shape(session: psycopg.Connection[Any]) -> tuple[Any, ...]:
    """Whatever is made, altered or dropped: a row of a catalog is younger than all others then, or gone."""
    one = sql.SQL("(SELECT (count(*), max(xmin::text::bigint))::text FROM {})")
    looks = [one.format(sql.Identifier(catalog)) for catalog in _CATALOGS]
    settings = sql.SQL(
        "(SELECT string_agg((s.setrole, s.setconfig)::text, ' ') FROM pg_db_role_setting AS s WHERE s.setdatabase = d.oid),"
        " d.datacl::text, d.datconnlimit"
    )
    looked = sql.SQL("SELECT {}, {} FROM pg_database AS d WHERE d.datname = current_database()")
    return tuple(session.execute(looked.format(sql.SQL(", ").join(looks), settings)).fetchone() or ())


_NONE = "[]"
_SOME = "[…]"


def _rows(session: psycopg.Connection[Any]) -> dict[Name, str]:
    """The rows of each table; of more than a few only that they are."""
    tables = session.execute(_TABLES).fetchall()
    one = sql.SQL(
        "(SELECT CASE WHEN count(*) > 10 THEN {some} ELSE coalesce(json_agg(t), '[]')::text END FROM (SELECT * FROM {table} LIMIT 11) AS t)"
    )
    looks = [one.format(some=sql.Literal(_SOME), table=sql.Identifier(*table)) for table in tables]
    found = session.execute(sql.SQL("SELECT {}").format(sql.SQL(", ").join(looks))).fetchone() or ()
    return dict(zip(tables, found, strict=True))


def _sequences(session: psycopg.Connection[Any]) -> dict[Name, tuple[int, bool]]:
    """Where each stands."""
    names = session.execute(_SEQUENCES).fetchall()
    standing = sql.SQL("SELECT last_value, is_called FROM {}")
    return {name: session.execute(standing.format(sql.Identifier(*name))).fetchone() or (1, False) for name in names}
