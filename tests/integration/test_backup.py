"""The README's backup, put back by its commands on another server: all is as it was, no other key fits, and a new epoch goes on."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import textwrap
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from poller.core import jsontext
from poller.store.engine import ENGINE, READER, RELAY, prove_digest_key
from tests.filling import columns, contents, fill, partitions, sequences
from tests.integration.test_restore import Holding, deliver, living
from tests.own_postgres import OwnPostgres, bin_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.broker_bench import Bench

pytest_plugins = ["tests.relay_bench"]

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
KEY = "k" * 32
_RIGHTS = """
SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'poller'::regnamespace
UNION ALL SELECT attrelid::regclass || '.' || attname, attacl::text FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace = 'poller'::regnamespace AND attacl IS NOT NULL
UNION ALL SELECT proname, proacl::text FROM pg_proc WHERE pronamespace = 'poller'::regnamespace
UNION ALL SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname = 'poller'
UNION ALL SELECT tgname, tgrelid::regclass::text || tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
ORDER BY 1, 2
"""


def block(number: int) -> str:
    """One of the section's blocks of commands."""
    section = README.partition("\n### Back up, restore, upgrade\n")[2].partition("\n### ")[0]
    return textwrap.dedent(re.findall(r"^ *```sh\n(.*?)^ *```$", section, re.MULTILINE | re.DOTALL)[number])


@dataclass
class Desk:
    """Where an operator types."""

    directory: Path

    def type(self, commands: str, **names: str) -> subprocess.CompletedProcess[str]:
        path = f"{bin_directory()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", "-ec", commands],
            cwd=self.directory,
            env={**os.environ, "PATH": path, **names},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def poller(self, words: str, url: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
        """A command of the poller, with a store and a digest key."""
        (self.directory / "digest.key").write_text(key)
        (self.directory / "digest.key").chmod(0o600)
        (self.directory / "poller.yaml").write_text(
            f'data_dir: state\nstore: {{url: "{url}", digest_key: {{file: digest.key}}}}\n'
            "sinks: {changes: {exchange: fhir.changes, queues: [fhir.changes.all]}}\n"
            "practices: {A: {base_url: 'https://ehr.example/A', auth: none, feeds: {Observation: {every: 5m}}}}\n"
        )
        return self.type(f"{sys.executable} -m poller {words} --config poller.yaml")


@pytest.fixture
def desk(tmp_path: Path, postgres_server: str) -> Desk:
    desk = Desk(tmp_path)
    said = desk.type("pg_dump --version").stdout
    with closing(psycopg.connect(postgres_server)) as session:
        server = session.info.server_version // 10000
    if int(re.findall(r"\d+", said)[0]) < server:
        if os.environ.get("CI") == "true":
            pytest.fail(f"under CI pg_dump must be as new as the server, {server}; it says: {said}")
        pytest.skip("pg_dump is older than the server")
    return desk


@pytest.fixture
def elsewhere() -> Iterator[OwnPostgres]:
    """A server that never knew a poller."""
    server = OwnPostgres()
    yield server
    server.close()


@pytest.fixture
def login(postgres_server: str) -> Iterator[str]:
    """Of a service, as the README has it."""
    name = f"poller_service_{secrets.token_hex(4)}"
    with closing(psycopg.connect(postgres_server, autocommit=True)) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN NOSUPERUSER")
        admin.execute(f"GRANT {ENGINE}, {RELAY}, {READER} TO {name}")
        yield name
        admin.execute(f"DROP ROLE {name}")


def rights(conninfo: str) -> list[tuple[str, str | None]]:
    with closing(psycopg.connect(conninfo)) as session:
        return session.execute(_RIGHTS).fetchall()


def test_a_backup_is_all_that_it_takes_to_go_on_elsewhere(
    bench: Bench, database_url: str, desk: Desk, elsewhere: OwnPostgres, login: str
) -> None:
    sink, consumer = replace(bench.sink, payload="full-resource"), Holding()
    with living(database_url) as history:
        prove_digest_key(history.engine, KEY.encode())
        for id_, value in (("o1", "1"), ("o2", "1"), ("o1", "2")):
            history.change("A", id_, value)
        deliver(bench, history, sink, consumer)
    fill(database_url)
    name = str(conninfo_to_dict(database_url)["dbname"])

    done = desk.type(block(0), STORE=database_url)
    assert (done.returncode, done.stderr) == (0, "")

    before = contents(database_url), partitions(database_url), sequences(database_url), rights(database_url)
    assert [table for table, rows in before[0].items() if not rows] == [], "each table has something to lose"
    with living(database_url) as history:
        for id_, value in (("o1", "3"), ("o3", "3"), ("o2", "3")):
            history.change("A", id_, value)  # what the backup does not know, and the consumer does
        deliver(bench, history, sink, consumer)

    done = desk.type(block(1), SERVER=elsewhere.local)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"ERROR: +(.*)", done.stderr)) <= {'role "postgres" already exists'}
    restored = elsewhere.url(name)
    after = contents(restored), partitions(restored), sequences(restored), rights(restored)
    for what, was, is_now in zip(("rows", "partitions", "sequences", "rights"), before, after, strict=True):
        assert (what, is_now) == (what, was)

    wrong = desk.poller("migrate", restored, "x" * 32)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (4, 1)
    assert "digest_key is not the key this database was made with" in wrong.stderr
    assert desk.poller("migrate", restored).returncode == 0
    begun = desk.poller("epoch start A --reason restored", restored)
    assert (begun.returncode, begun.stderr) == (0, "")
    assert re.fullmatch(r"practice A: epoch \d{10}\n", begun.stdout)

    with living(make_conninfo(restored, user=login)) as history:
        for id_, value in (("o1", "40"), ("o3", "3"), ("o2", "41"), ("o4", "1"), ("o2", "42")):
            history.change("A", id_, value)
        deliver(bench, history, sink, consumer)
        books = history.books(sink)
        assert (books.waiting, books.parked, books.missing) == (0, 0, 0)
    assert (consumer.complaints, consumer.gaps) == ([], set()), "no id with another content, nothing new that looks old"
    assert consumer.sequences == sorted(consumer.sequences)
    assert consumer.contents == {
        f"Observation/{id_}": jsontext.loads(value)
        for id_, value in (("o1", "40"), ("o2", "42"), ("o3", "3"), ("o4", "1"))
    }
    assert columns(restored) == columns(database_url)
