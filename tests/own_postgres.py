"""A Postgres of the test's own, by the programs that the machine has: the wheel's know no TLS."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo


def bin_directory() -> Path:
    """Where PostgreSQL's own programs stand."""
    found = [
        *filter(None, [shutil.which("initdb")]),
        *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))),
    ]
    if found:
        return Path(found[-1]).parent
    if os.environ.get("CI") == "true":
        pytest.fail("under CI PostgreSQL's programs must be installed: initdb is not there")
    pytest.skip("PostgreSQL's programs are not installed")


class OwnPostgres:
    """A new cluster on a free port, and on a socket at which everyone is its superuser."""

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        password: str | None = None,
    ) -> None:
        """``files``: what the settings name, beside the cluster, for the server alone."""
        self._bin = bin_directory()
        self._place = Path(tempfile.mkdtemp(prefix="poller_own_"))
        self._user = next(name for name in ("postgres", "nobody") if name in {one.pw_name for one in pwd.getpwall()})
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.local = make_conninfo(host=str(self._place), port=self.port, user="postgres", dbname="postgres")
        for name, content in {"password": (password or secrets.token_hex(8)).encode(), **(files or {})}.items():
            (self._place / name).write_bytes(content)
            (self._place / name).chmod(0o600)
        if os.geteuid() == 0:
            for each in (self._place, *self._place.iterdir()):
                shutil.chown(each, self._user)
        self._run("initdb", "-U", "postgres", "-A", "scram-sha-256", "--auth-local=trust", "--pwfile=password", "data")
        all_of_them = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._place),
            "fsync": "off",
            **(settings or {}),
        }
        with (self._place / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in all_of_them.items())
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "start")

    def _run(self, program: str, *words: str) -> None:
        """As another user than root, whom Postgres refuses."""
        user = self._user if os.geteuid() == 0 else None
        command = [str(self._bin / program), *words]
        subprocess.run(command, cwd=self._place, user=user, check=True, stdout=subprocess.DEVNULL)

    def url(self, database: str = "postgres") -> str:
        """As a configuration names it."""
        return f"postgresql:///{database}?host={self._place}&port={self.port}&user=postgres"

    def close(self) -> None:
        self._run("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop")
        shutil.rmtree(self._place)
