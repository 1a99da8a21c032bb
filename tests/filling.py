"""A store with something in every table, and what of it can be held against another."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from tests.integration.test_forget import MORE
from tests.integration.test_statements import FILL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COLUMNS = """
SELECT c.relname, array_agg(a.attname ORDER BY a.attnum)
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'poller'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
GROUP BY c.relname ORDER BY c.relname
"""
_PARTITIONS = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)
FROM pg_class AS c WHERE c.relnamespace = 'poller'::regnamespace AND c.relkind = 'r' AND c.relispartition ORDER BY c.relname
"""


def fill(conninfo: str) -> None:
    """Three practices, 2,000 resources, and something in every table."""
    with closing(psycopg.connect(conninfo, autocommit=True)) as filling:
        filling.execute(FILL.replace("20000", "2000").replace("n > 10000", "n > 1000"))
        filling.execute("CREATE TEMP TABLE practices AS SELECT 'p' || n AS p FROM generate_series(1, 2) AS n")
        for statement in MORE.split(";\n"):
            filling.execute(statement)


def columns(conninfo: str) -> dict[str, list[str]]:
    """Of each table."""
    with closing(psycopg.connect(conninfo)) as session:
        return dict(session.execute(_COLUMNS).fetchall())


def contents(conninfo: str, wanted: Mapping[str, Sequence[str]] | None = None) -> dict[str, list[str]]:
    """The rows of each table as text, in order; of ``wanted`` tables their columns only."""
    with closing(psycopg.connect(conninfo)) as session:
        read = sql.SQL("SELECT ROW({})::text FROM poller.{} ORDER BY 1")
        return {
            table: [row for (row,) in session.execute(read.format(_list(names), sql.Identifier(table)))]
            for table, names in (wanted if wanted is not None else columns(conninfo)).items()
        }


def partitions(conninfo: str) -> dict[str, tuple[str, int]]:
    """The bound of each, and how many rows it has."""
    with closing(psycopg.connect(conninfo)) as session:
        count = sql.SQL("SELECT count(*) FROM poller.{}")
        found = session.execute(_PARTITIONS).fetchall()
        return {
            name: (bound, *session.execute(count.format(sql.Identifier(name))).fetchone())  # type: ignore[misc]
            for name, bound in found
        }


def sequences(conninfo: str) -> dict[str, int | None]:
    """Where the numbers that the database gives stand."""
    with closing(psycopg.connect(conninfo)) as session:
        return dict(session.execute("SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'poller'"))


def copy(source: str, target: str) -> None:
    """Put all that stands in one store into another, whose tables may have fewer columns: what a former release would have there."""
    known, copied = columns(source), sequences(source)
    with closing(psycopg.connect(source)) as giving, closing(psycopg.connect(target, autocommit=True)) as taking:
        for name in partitions(source):
            if (month := name.rpartition("_")[2]).isdigit():
                taking.execute("SELECT poller.ensure_partitions(to_date(%s, 'YYYYMM'))", [month])
        for table, names in columns(target).items():
            if table not in known:
                continue
            both = _list([name for name in names if name in known[table]])
            taking.execute(sql.SQL("DELETE FROM poller.{}").format(sql.Identifier(table)))
            read = sql.SQL("COPY (SELECT {} FROM poller.{}) TO STDOUT").format(both, sql.Identifier(table))
            write = sql.SQL("COPY poller.{} ({}) FROM STDIN").format(sql.Identifier(table), both)
            with giving.cursor().copy(read) as out, taking.cursor().copy(write) as into:
                for block in out:
                    into.write(block)
        for name in sequences(target):
            if (value := copied.get(name)) is not None:
                taking.execute("SELECT setval(to_regclass(%s)::oid, %s)", [f"poller.{name}", value])


def _list(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
