"""From the release before to this one with a store in use: no row is lost or changed, no big table is written anew, and all goes on."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import alembic.command
import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from poller.store.configurations import ConfigurationStore
from poller.store.engine import migrate, newest_revision, open_engine, prove_digest_key, require_current
from poller.store.log import Selection
from tests.filling import columns as columns_of
from tests.filling import contents, copy, fill, partitions
from tests.integration.test_migrate import upgrade
from tests.integration.test_restore import living
from tests.relaying import Consumed, passed, running, until

if TYPE_CHECKING:
    from poller.core.sink import Sink
    from tests.broker_bench import Bench

pytest_plugins = ["tests.relay_bench"]

KEY = b"k" * 32
PREVIOUS = "0012"
"""The schema of the release before this one."""
MOVED = {"read_audit": "audit"}
"""Tables that are gone, and where their rows are."""
READ_WHOLE = {("0013", "configuration"), ("0016", "control"), ("0017", "read_audit")}
"""What a migration reads whole, writes anew or drops, while whoever uses it waits: nothing that grows with the resources of a practice."""
MUST_WAIT_FOR_NOBODY = {"snapshot", "history", "event", "member", "absence", "attachment", "patient", "target", "visit"}

_FILES = """
SELECT coalesce(pg_partition_root(c.oid), c.oid)::regclass::text, c.relname, c.relfilenode
FROM pg_class AS c WHERE c.relnamespace = 'poller'::regnamespace AND c.relkind = 'r'
"""
_TOUCHED = """
SELECT coalesce(pg_partition_root(relid), relid)::regclass::text FROM pg_stat_xact_user_tables
WHERE schemaname = 'poller' AND seq_tup_read + n_tup_upd + n_tup_del > 0
"""


def number(sequence: str) -> int:
    return int(sequence[-20:])


def life(bench: Bench, conninfo: str, consumer: Consumed) -> Sink:
    """Changes that have gone out, one that is parked, one behind it, and some that wait."""
    sink = bench.sink
    with living(conninfo) as history:
        prove_digest_key(history.engine, KEY)
        for id_, value in (("o1", "1"), ("o2", "1"), ("o1", "2"), ("o3", "1")):
            history.change("A", id_, value)
        with running(history.log, bench.broker(), sink):
            until(lambda: passed(history.log, sink, "A"))
        history.change("A", "o2", "2")
        history.change("A", "o3", "2")
        history.log.ask_parking(
            sink, Selection("A", resources=(("Observation", "o2"),)), actor="Aino", reason="not yet"
        )
        with running(history.log, bench.broker(), sink):
            until(lambda: passed(history.log, sink, "A"))
        for id_, value in (("o1", "3"), ("o2", "3"), ("o4", "1")):
            history.change("A", id_, value)
        books = history.books(sink)
        assert (books.delivered, books.parked, books.waiting, books.missing) == (5, 1, 3, 0)
    consumer.take(bench.received(bench.depth()))
    return sink


def made_by_previous(database_url: str, empty_database: str) -> None:
    """All that stands in the one, as the release before would have it in the other."""
    fill(database_url)
    upgrade(empty_database, PREVIOUS)
    copy(database_url, empty_database)
    with closing(psycopg.connect(empty_database, autocommit=True)) as admin:
        admin.execute(
            "INSERT INTO poller.read_audit (practice, read_at, token, asked, resource_type, id, version, status)"
            " SELECT 'A', now(), 'billing', 'version', 'Observation', 'o1', 2, 200 FROM generate_series(1, 300)"
        )


def test_an_upgrade_keeps_every_row_and_all_goes_on(bench: Bench, database_url: str, empty_database: str) -> None:
    consumer = Consumed()
    sink = life(bench, database_url, consumer)
    made_by_previous(database_url, empty_database)
    columns, before, parts = columns_of(empty_database), contents(empty_database), partitions(empty_database)
    assert [table for table, rows in before.items() if not rows] == [], (
        "each table has something, or this proves nothing of it"
    )

    migrate(empty_database)

    require_current(empty_database)
    after = contents(empty_database, {table: names for table, names in columns.items() if table not in MOVED})
    for table, rows in after.items():
        lost = set(before[table]) - set(rows)
        assert (table, lost) == (table, set())
        assert len(rows) == len(before[table]) or table == "rules", f"{table} has got more rows"
    moved = contents(empty_database, {table: columns_of(empty_database)[table] for table in MOVED.values()})
    assert {old: len(moved[new]) for old, new in MOVED.items()} == {old: len(before[old]) for old in MOVED}
    assert partitions(empty_database) == parts
    goes_on(bench, empty_database, sink, consumer)


def goes_on(bench: Bench, conninfo: str, sink: Sink, consumer: Consumed) -> None:
    """What was known makes no event, what is new does; what waited and what was parked goes out in order; the books balance."""
    with living(conninfo) as history:
        prove_digest_key(history.engine, KEY)
        assert [(row.sequence, row.id) for row in history.log.parked(sink.name, "A")] == [(5, "o2")]
        history.change("A", "o1", "3")
        history.change("A", "o4", "1")
        assert history.books(sink).recorded == 9, "what was known already is no change"
        history.change("A", "o1", "4")
        history.change("A", "o5", "1")
        with running(history.log, bench.broker(), sink):
            until(lambda: passed(history.log, sink, "A"))
            assert [row.sequence for row in history.log.parked(sink.name, "A")] == [5, 8]
            assert history.log.release(sink.name, "A") == 2
            until(lambda: not history.log.parked(sink.name, "A"))
        consumer.take(bench.received(bench.depth()))
        assert (consumer.complaints, consumer.gaps) == ([], set())
        assert sorted(map(number, consumer.sequences)) == list(range(1, 12))
        assert consumer.versions == history.versions("A")
        books = history.books(sink)
        assert (books.recorded, books.delivered) == (11, 11)
        assert (books.waiting, books.parked, books.missing) == (0, 0, 0)
        assert ConfigurationStore(history.engine).in_force("poller").revision > 0


def test_no_migration_has_whoever_uses_a_big_table_wait(database_url: str, empty_database: str) -> None:
    """Each migration by itself: what it writes into other files, reads from end to end, or drops, of what was there before it."""
    made_by_previous(database_url, empty_database)
    script = Config()
    script.set_main_option("script_location", "poller.store:migrations")
    revisions = [one.revision for one in ScriptDirectory.from_config(script).walk_revisions(PREVIOUS, "head")]
    assert (revisions[0], revisions[-1]) == (newest_revision(), PREVIOUS)
    touched = set[tuple[str, str]]()
    for revision in reversed(revisions[:-1]):
        engine = open_engine(empty_database, None)  # a session of its own, which has read nothing yet
        with engine.connect() as connection, connection.begin():
            before = set(map(tuple, connection.execute(text(_FILES))))
            script.attributes["connection"] = connection
            alembic.command.upgrade(script, revision)
            gone = {table for table, *_ in before - set(map(tuple, connection.execute(text(_FILES))))}
            known = {table for table, *_ in before}
            read = set(connection.execute(text(_TOUCHED)).scalars()) & known
        engine.dispose()
        touched |= {(revision, table.removeprefix("poller.")) for table in gone | read}
    assert touched == READ_WHOLE
    assert not {table for _, table in READ_WHOLE} & MUST_WAIT_FOR_NOBODY
