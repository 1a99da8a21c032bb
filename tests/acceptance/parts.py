"""The parts of an acceptance test: services, the poller as a process, a plain consumer, and what it builds of events."""

# mypy: disable-error-code="no-untyped-call"
# kombu says it is typed and is not.

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode, urlsplit

from kombu.entity import Queue
from psycopg.conninfo import conninfo_to_dict

from poller.core import jsontext
from poller.simulator.alignment import content_of
from poller.simulator.judge import Received

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

ROOT = Path(__file__).parents[2]


def wait_until(what: str, done: Callable[[], object], seconds: float, every: float = 0.05) -> None:
    """Wait for a condition; fails when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(every)


@dataclass(frozen=True)
class Services:
    """Store and broker as a configuration names them."""

    store: str = "embedded"
    broker: str = "embedded"
    amqp: str | None = None
    """URL with its password, for consumers."""

    @property
    def settings(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"store": {"url": self.store}, "broker": {"url": self.broker}}
        if "ACCEPTANCE_STORE" in os.environ and self.store != "embedded":
            parts["store"]["password"] = {"env": "ACCEPTANCE_STORE"}
        if self.amqp is not None:
            parts["broker"]["password"] = {"env": "ACCEPTANCE_BROKER"}
        return parts


def store_url(conninfo: str) -> str:
    """A URI as a configuration takes it: without its password, which goes to the environment."""
    parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}
    if password := parts.pop("password", None):
        os.environ["ACCEPTANCE_STORE"] = password
    else:
        os.environ.pop("ACCEPTANCE_STORE", None)
    user, name = parts.pop("user", "postgres"), parts.pop("dbname", "postgres")
    return f"postgresql://{quote(user)}@/{quote(name)}?{urlencode(parts, quote_via=quote)}"


def with_rabbit(store: str, url: str) -> Services:
    """A store, and the RabbitMQ of this URL."""
    parts = urlsplit(url)
    os.environ["ACCEPTANCE_BROKER"] = parts.password or "guest"
    bare = parts._replace(netloc=f"{parts.username or 'guest'}@{parts.hostname}:{parts.port or 5672}").geturl()
    return Services(store, bare, url)


class Poller:
    """``poller run`` as a process of its own, or a broken variant of it."""

    def __init__(self, config: Path, log: Path, variant: str | None = None, options: Sequence[str] = ()) -> None:
        self.log = log
        self._begins = log.stat().st_size if log.exists() else 0
        self._ends: int | None = None
        program = ["-m", "poller"] if variant is None else ["-m", "tests.acceptance.broken", variant]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *program, "run", "--config", str(config), *options],
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )

    def said(self) -> list[dict[str, Any]]:
        """What it has logged so far, line by line; the last may be cut off."""
        text = self.log.read_bytes()[self._begins : self._ends]
        return [
            json.loads(line)
            for line in text.splitlines(keepends=True)
            if line.startswith(b"{") and line.endswith(b"\n")
        ]

    def started(self) -> dict[str, Any] | None:
        """The line that says that it polls."""
        return next((line for line in self.said() if line.get("action") == "engine.start"), None)

    def wait_between_steps(self, seconds: float = 120) -> None:
        """Wait until a broken one (:mod:`tests.acceptance.broken`) has done the first of two steps; it does not do the second."""
        self.process.send_signal(signal.SIGUSR1)
        wait_until(
            "it is between two steps that should be one",
            lambda: b'{"action": "broken.held"}' in self.log.read_bytes()[self._begins :],
            seconds,
        )

    def gaps(self) -> int:
        """How often it has stood between two steps."""
        return self.log.read_bytes()[self._begins :].count(b'{"action": "broken.gap"}')

    def wait_started(self, seconds: float = 120) -> int:
        """Wait for it; the port of its status server."""
        wait_until("the poller polls", lambda: self.started() or self.process.poll() is not None, seconds)
        line = self.started()
        assert line is not None, self.log.read_text()[self._begins :][-2000:]
        return int(str(line["http"]).rpartition(":")[2])

    def kill(self) -> None:
        """Nothing that it holds is put in order."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._ends = self.log.stat().st_size

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Collector:
    """A plain kombu consumer of one queue, on a thread; it knows nothing of the database."""

    def __init__(self, connect: Callable[[], Any], queue: str, now: Callable[[], dt.datetime]) -> None:
        self.queue = queue
        self.received: list[Received] = []
        self._connect = connect
        self._now = now
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"collector {queue}", daemon=True)

    def __enter__(self) -> Self:
        # kombu's own affair; said before the thread begins, since kombu puts filters back as it found them
        warnings.filterwarnings("ignore", message="list_queues", category=UserWarning)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        if kind is None:  # else what ended the test first is told
            self._check()

    def _check(self) -> None:
        """Fail at once: a test that waits for what a dead consumer cannot receive says nothing of why."""
        if self._failed is not None:
            raise AssertionError("the consumer failed") from self._failed

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events, in the order of their arrival."""
        self._check()
        return [dict(one.event) for one in list(self.received)]

    def of(self, practice: str) -> list[dict[str, Any]]:
        """Those of one practice."""
        self._check()
        return [dict(one.event) for one in list(self.received) if one.practice == practice]

    def _run(self) -> None:
        try:
            with self._connect() as connection:
                self._await_queue(connection)
                queue = Queue(self.queue, no_declare=True)
                accept = ["application/cloudevents+json"]
                with connection.Consumer(queue, on_message=self._take, accept=accept, prefetch_count=100):
                    while not self._stop.is_set():
                        with contextlib.suppress(TimeoutError):
                            connection.drain_events(timeout=0.5)
        except BaseException as error:  # noqa: BLE001 - raised again on the test's thread
            self._failed = error

    def _await_queue(self, connection: Any) -> None:
        errors = (*connection.channel_errors, *connection.connection_errors)
        while not self._stop.is_set():
            try:
                with connection.channel() as channel:
                    Queue(self.queue, channel=channel).queue_declare(passive=True)
            except errors:
                self._stop.wait(0.05)
            else:
                return

    def _take(self, message: Any) -> None:
        body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
        self.received.append(Received(jsontext.loads(body), self._now()))
        message.ack()


def applied(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What a consumer applies: known ids are dropped, and versions not newer than the last one applied."""
    known: set[str] = set()
    versions: dict[tuple[str, str], int] = {}
    fresh = []
    for event in events:
        key, version = (str(event["source"]), str(event["subject"])), version_of(event)
        if event["id"] in known or version <= versions.get(key, 0):
            continue
        known.add(str(event["id"]))
        versions[key] = version
        fresh.append(event)
    return fresh


def version_of(event: Mapping[str, Any]) -> int:
    """The number in the entry's ETag."""
    return int(str(event["data"]["response"]["etag"]).strip('W/"'))


def action_of(event: Mapping[str, Any]) -> str:
    """Of the event's type."""
    return str(event["type"]).split(".")[-2]


def state_of(events: Iterable[Mapping[str, Any]]) -> dict[str, bytes]:
    """What a consumer builds of full-resource events: reference → content of what is there in the end."""
    state: dict[str, bytes | None] = {}
    for event in applied(events):
        state[str(event["subject"])] = content_of(event["data"].get("resource"))
    return {subject: content for subject, content in state.items() if content is not None}
