"""The whole engine against a simulator: configuration, the poller as a process, a plain consumer, and what to wait for."""

# mypy: disable-error-code="no-untyped-call"
# kombu says it is typed and is not.

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode, urlsplit

from kombu.connection import Connection
from kombu.entity import Queue
from psycopg.conninfo import conninfo_to_dict
from structlog.testing import capture_logs

from poller.app import Engine, Installation
from poller.broker.pgmq import consumer_options
from poller.config import Config, load
from poller.core import jsontext
from poller.simulator.alignment import content_of
from poller.simulator.command import demo_server
from poller.simulator.judge import FeedSchedule, Received
from poller.simulator.spec import PracticeSpec
from poller.store.deletes import DeleteStore
from poller.store.engine import READER
from poller.store.state import StateStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[2]
ECW, OPEN = "ACCEC", "ACCOP"
TYPES = ("Encounter", "Observation", "Condition")
CATEGORIES = ("laboratory", "vital-signs")
NAMES = ("A", "B", "C", "D")
FAST = 6000
"""Calls a minute, where the budget is not what is tested."""
_DAY = 2.0 / 86_400

FEEDS: dict[str, Any] = {
    "Patient": {},
    "Encounter": {},
    "Observation": {"categories": list(CATEGORIES)},
    "Condition": {},
}


def spec(code: str, **more: Any) -> PracticeSpec:
    """A small practice: ecw or open, as its code says."""
    usual: dict[str, Any] = {
        "mode": "ecw" if code == ECW else "open",
        "patients": 3 if code == ECW else 6,
        "types": TYPES,
        "name_initials": "".join(NAMES),
        "labs_per_patient": 4,
        "tempo": _DAY,
        "page_size": 10,
        "limit": FAST,
    }
    return PracticeSpec(code, **(usual | more))


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

    def __init__(self, config: Path, log: Path, variant: str | None = None) -> None:
        self.log = log
        self._begins = log.stat().st_size if log.exists() else 0
        self._ends: int | None = None
        program = ["-m", "poller"] if variant is None else ["-m", "tests.acceptance.broken", variant]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *program, "run", "--config", str(config)], cwd=ROOT, stdout=output, stderr=output
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

    def is_between_steps(self) -> bool:
        """Whether a broken one (:mod:`tests.acceptance.broken`) has just done the first of two steps."""
        lines = self.log.read_bytes()[self._begins :].splitlines()
        return bool(lines) and lines[-1] == b'{"action": "broken.gap"}'

    def gaps(self) -> int:
        """How often it has stood between two steps."""
        return self.log.read_bytes()[self._begins :].count(b'{"action": "broken.gap"}')

    def wait_started(self, seconds: float = 30) -> int:
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
            return self.process.wait(30)
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
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        if self._failed is not None:
            raise AssertionError("the consumer failed") from self._failed

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events, in the order of their arrival."""
        return [dict(one.event) for one in list(self.received)]

    def of(self, practice: str) -> list[dict[str, Any]]:
        """Those of one practice."""
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
                with connection.channel() as channel, warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # pgmq announces what its list_queues() returns
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


@dataclass
class Rig:
    """Simulated practices, and the configuration of a poller of them."""

    home: Path
    services: Services
    specs: Sequence[PracticeSpec]
    rate: float = 0.0
    """Changes a second in each practice."""
    seed: int = 1
    every: Mapping[str, str] = field(default_factory=lambda: {"every": "1s", "sweep_every": "2s"})
    practice: Mapping[str, Any] = field(default_factory=dict)
    """More settings of every practice."""
    sinks: Mapping[str, Any] = field(default_factory=dict)
    """More sinks; ``{mark}`` in names is replaced."""
    level: str = "info"
    mark: str = field(default_factory=lambda: secrets.token_hex(3))

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.server = demo_server(
            self.home / "keys" / "client.pem",
            port=0,
            changes_per_second=self.rate,
            seed=self.seed,
            practices=self.specs,
        )
        self.world = self.server.world
        self.path = self.home / "poller.yaml"
        self.path.write_text(json.dumps(self.settings()), encoding="utf-8")  # JSON is YAML
        self._stack = contextlib.ExitStack()
        self._pollers: list[Poller] = []

    def __enter__(self) -> Self:
        self._stack.enter_context(self.server)
        self._stack.callback(self._clear_broker)
        self._stack.callback(self._end_pollers)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def queue(self) -> str:
        """Where the full-resource events go."""
        return f"{self.mark}.full"

    def settings(self) -> dict[str, Any]:
        """The configuration, as YAML would hold it."""
        full = {
            "exchange": f"{self.mark}.x.full",
            "payload": "full-resource",
            "baseline": "publish",
            "queues": [self.queue],
        }
        more = json.loads(json.dumps(dict(self.sinks)).replace("{mark}", self.mark))
        common = {
            "token_url": self.server.token_url,
            "key": {"file": str(self.home / "keys" / "client.pem")},
            "overlap": "3s",
            "timeout": "5s",
            "budget": {"calls_per_minute": self.specs[0].limit, "max_in_flight": 6},
            "patients": {"names": list(NAMES)},
            "every_feed": dict(self.every),
            "feeds": FEEDS,
        }
        practices = {
            one.code: common
            | {"base_url": self.server.base_url(one.code), "client_id": one.client}
            | dict(self.practice)
            for one in self.specs
        }
        return {
            "data_dir": str(self.home),
            **self.services.settings,
            "sinks": {"full": full, **more},
            "http": {"listen": "127.0.0.1:0"},
            "logging": {"format": "json", "level": self.level},
            "practices": practices,
        }

    def config(self) -> Config:
        """As the poller reads it."""
        return load(self.path)

    def installation(self) -> Installation:
        """The store and broker, from the test's process; one for the rig's life."""
        if not hasattr(self, "_installation"):
            self._installation = self._stack.enter_context(Installation(self.config()))
        return self._installation

    def poller(self, variant: str | None = None, name: str = "poller") -> Poller:
        """Start one; it is killed with the rig, if it is still there."""
        made = Poller(self.path, self.home / f"{name}.log", variant)
        self._pollers.append(made)
        return made

    def connect(self) -> Any:
        """A kombu connection as any consumer would make it."""
        if self.services.amqp is not None:
            return Connection(self.services.amqp)
        options = consumer_options(self.installation().queue_conninfo)
        return Connection("pgmq://", transport_options=options)

    def collector(self, queue: str | None = None) -> Collector:
        """A consumer of a queue, by default of the full-resource one."""
        if self.services.amqp is None:
            self.installation().queue_conninfo  # noqa: B018 - started here, not on the consumer's thread
        return Collector(self.connect, queue or self.queue, self.server.clock)

    @contextlib.contextmanager
    def engine(self, make: Callable[[Installation], Engine] = Engine) -> Iterator[Engine]:
        """An engine in this process, on a thread; raises what ended it early."""
        installation = self.installation()  # two of one process would stop the embedded server for each other
        with capture_logs():
            installation.prepare()
            with running(make(installation)) as engine:
                yield engine

    def come_round(self, received: Callable[[], int], seconds: float = 40) -> None:
        """Wait until every target has been read whole since now, absences are settled, and nothing more arrives."""
        engine = self.installation().engine(READER, 1)
        states, deletes = StateStore(engine), DeleteStore(engine)
        codes = [one.code for one in self.specs]
        quiet_at = self.server.clock() + dt.timedelta(seconds=0.5)
        looks: list[int] = []
        open_: list[str] = []
        """What is not settled yet, by practice and kind; no ids."""

        def settled() -> bool:
            open_[:] = [
                f"{code} {state.target.resource_type} {state.target.kind.value} unread, {state.failures} failures"
                for code in codes
                for state in states.targets(code, ())
                if state.complete_began is None or state.complete_began <= quiet_at
            ]
            open_.extend(
                f"{code} {absence.resource_type} {absence.state}: {absence.reason}"
                for code in codes
                for absence in deletes.listed(code, ["missing", "released"])
            )
            open_.extend(() if self.drained() else ["events behind a cursor"])
            if open_:
                looks.clear()
            looks.append(received())
            return len(looks) > 3 and len(set(looks[-3:])) == 1

        try:
            wait_until("every schedule comes round, and all is consumed", settled, seconds, every=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}; open: {Counter(open_)}") from None

    def drained(self) -> bool:
        """Whether every sink has passed the whole log."""
        log = self.installation().reading_log
        return all(
            (at.epoch, at.sequence) == (at.head_epoch, at.head)
            for sink in self.config().sinks
            for at in log.positions(sink)
        )

    def schedules(self) -> dict[str, list[FeedSchedule]]:
        """What the judge is told of the feeds."""
        return {one.code: list(_schedules(self.config(), one)) for one in self.specs}

    def truth(self, code: str) -> dict[str, bytes]:
        """Reference → content of all that the practice's feeds cover, as it truly is."""
        state = {}
        for resource_type in FEEDS:
            for name, resource in self.world.written(code, resource_type).items():
                if resource_type == "Observation" and not _has_category(resource):
                    continue
                content = content_of(resource)
                if content is not None:
                    state[f"{resource_type}/{name}"] = content
        return state

    def _end_pollers(self) -> None:
        for poller in self._pollers:
            if poller.process.poll() is None:
                poller.kill()

    def _clear_broker(self) -> None:
        if self.services.amqp is None:
            return
        with Connection(self.services.amqp) as connection:
            channel = connection.channel()
            for sink in self.config().sinks.values():
                channel.exchange_delete(sink.exchange)
                for queue in sink.queues:
                    channel.queue_delete(queue)
                    channel.queue_delete(f"{queue}.dead")


def _has_category(resource: Mapping[str, Any]) -> bool:
    codes = {coding.get("code") for concept in resource.get("category", ()) for coding in concept.get("coding", ())}
    return not codes.isdisjoint(CATEGORIES)


def _schedules(config: Config, one: PracticeSpec) -> Iterator[FeedSchedule]:
    practice, windows = config.practices[one.code], one.mode == "open"
    for resource_type, feed in practice.feeds.items():
        assert feed.every is not None
        yield FeedSchedule(
            resource_type,
            every=feed.every.total_seconds(),
            categories=feed.categories,
            sweep_every=feed.sweep_every.total_seconds() if windows and feed.sweep_every is not None else None,
            names=practice.patients.names if not windows and resource_type == "Patient" else (),
        )


@contextlib.contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """The engine, polling on a thread of its own."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            loop.run_until_complete(engine.run(stop))
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure.append(error)

    thread = threading.Thread(target=work, name="engine", daemon=True)
    thread.start()
    try:
        wait_until("the engine polls", lambda: engine.http_port is not None or not thread.is_alive(), 20, 0.02)
        yield engine
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        if not thread.is_alive():
            loop.close()
        if failure:
            raise failure[0]
