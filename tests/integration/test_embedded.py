"""The embedded server: who may reach it, and what a killed process leaves behind."""

from __future__ import annotations

import contextlib
import json
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from poller.store import embedded
from poller.store.embedded import EmbeddedPostgres, digest_key_file

HOLD = """
import sys
from pathlib import Path
from poller.store.embedded import EmbeddedPostgres
EmbeddedPostgres(Path(sys.argv[1]))
print("up", flush=True)
sys.stdin.read()
"""


def test_it_is_reached_by_its_owner_and_stops_with_its_last_user_though_another_was_killed(data_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.kill()
    server = EmbeddedPostgres(data_dir)
    [socket] = [path for path in Path(_socket_directory(server)).glob(".s.PGSQL.*") if not path.name.endswith(".lock")]
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    with psycopg.connect(server.queue_conninfo) as connection:
        assert connection.execute("SELECT to_regclass('pgmq.topic_bindings') IS NOT NULL").fetchone() == (True,)
    server.close()
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


def test_two_commands_that_are_the_first_at_once_both_find_their_databases(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has looked for a database before the other makes it, unless one waits for the other."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    vars(embedded)["postgres_server"].get_server(data_dir.resolve() / "postgres")
    both, execute = threading.Barrier(2), psycopg.Connection.execute

    def look(self: Any, query: Any, *binds: Any) -> Any:
        found = execute(self, query, *binds)
        if str(query).startswith("SELECT 1 FROM pg_database"):
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(2)
        return found

    monkeypatch.setattr(psycopg.Connection, "execute", look)
    with ThreadPoolExecutor(2) as pool:
        made = [*pool.map(lambda _: EmbeddedPostgres(data_dir), range(2))]
    for server in made:
        server.close()


def _socket_directory(server: EmbeddedPostgres) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(server.store_conninfo)["host"])


@pytest.mark.parametrize("left", ["", "[1", json.dumps([2**22 - 1])])
def test_a_list_of_users_cut_off_or_outdated_is_no_hindrance(data_dir: Path, left: str) -> None:
    EmbeddedPostgres(data_dir).close()
    (data_dir / "postgres" / ".handle_pids.json").write_text(left)
    server = EmbeddedPostgres(data_dir)
    server.close()
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


def test_the_digest_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = digest_key_file(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert len(text) == 64
    assert digest_key_file(tmp_path).read_text() == text


def test_the_digest_key_is_made_also_where_nothing_else_has_made_the_directory(tmp_path: Path) -> None:
    """As with a store and a broker of one's own."""
    made = digest_key_file(tmp_path / "state" / "poller")
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
