"""What the README tells a new user to type works as it stands, in a clean directory, on the embedded default.

Word for word but for the two port numbers, which others on this machine may have taken.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

TOP = Path(__file__).parents[2]
SIMULATOR_PORT, HTTP_PORT = "8765", "9464"
SECONDS = 240.0
"""Far more than it takes (about 30); a busy machine is not a broken README."""


def blocks() -> list[str]:
    """The README's shell blocks, in order; those of backups are run by ``tests/integration/test_backup.py``."""
    before, _, backups = (TOP / "README.md").read_text("utf-8").partition("\n### Back up, restore, upgrade\n")
    text = before + backups.partition("\n### ")[2]
    found = re.findall(r"^( *)```sh\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]


def free_port() -> str:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class Desk:
    """A new user's directory and terminals."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.deadline = time.monotonic() + SECONDS
        self.simulator_port, http_port = free_port(), free_port()
        for file in (*TOP.glob("config/*.yaml"), TOP / "tests/acceptance/sample_consumer.py"):
            copy = home / file.relative_to(TOP)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        config = home / "config/poller.yaml"
        ports = ((SIMULATOR_PORT, self.simulator_port), (HTTP_PORT, http_port))
        text = config.read_text("utf-8")
        for usual, other in ports:
            text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{other}")
        config.write_text(text, "utf-8")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "POLLER_SIMULATOR_PORT": self.simulator_port}
        self.environment.pop("POLLER_CONFIG", None)

    @contextmanager
    def terminal(self, block: str, name: str) -> Iterator[Path]:
        """Run a block that goes on until it is stopped, as by Ctrl-C; gives the file of what it says."""
        said = self.home / f"{name}.out"
        with said.open("wb") as out:
            running = subprocess.Popen(
                ["bash", "-euc", block],
                cwd=self.home,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield said
            assert running.poll() is None, f"{name} ended by itself: {said.read_text('utf-8')}"
        finally:
            os.killpg(running.pid, signal.SIGINT)
            try:
                running.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()

    def run(self, block: str) -> str:
        """Run a block that ends."""
        done = subprocess.run(
            ["bash", "-euc", block],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=max(1.0, self.deadline - time.monotonic()),
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait for a condition, at most to the end of the test's time."""
        while not true():
            assert time.monotonic() < self.deadline, f"never: {what}"
            time.sleep(0.1)

    def answers(self) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", int(self.simulator_port))) == 0

    def consumed(self) -> int:
        """How many changes the sample consumer has applied."""
        file = self.home / "consumer.db"
        if not file.exists():
            return 0
        with closing(sqlite3.connect(file, timeout=10)) as db:
            known = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchone()
            return int(db.execute("SELECT count(*) FROM journal").fetchone()[0]) if known else 0


def test_a_new_user(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    simulator, run, tail, consume, ask, keys, _api = blocks()  # the last is of a practice that is not the demo's
    with ExitStack() as terminals:
        terminals.enter_context(desk.terminal(simulator, "simulator"))
        desk.until(desk.answers, "the simulator listens")
        polling = terminals.enter_context(desk.terminal(run, "run"))
        desk.until(lambda: "feed is read by" in polling.read_text("utf-8"), "the poller says how it reads")
        assert "config/poller.yaml: in order" in polling.read_text("utf-8")
        shown = terminals.enter_context(desk.terminal(tail, "tail"))
        terminals.enter_context(desk.terminal(consume, "consume"))
        desk.until(lambda: "  live  " in shown.read_text("utf-8"), "tail shows an event")
        desk.until(lambda: desk.consumed() >= 3, "the consumer applies events")
        said = desk.run(ask)
    assert "created" in said
    assert "events would go to" in said
    assert "events to queue patients.again" in said
    printed = desk.run(keys)
    (jwk,) = json.loads((tmp_path / "keys/eclinicalworks.jwks.json").read_text("utf-8"))["keys"]
    assert f"kid: {jwk['kid']}" in printed
    assert (tmp_path / "keys/eclinicalworks.pem").stat().st_mode & 0o777 == 0o600
