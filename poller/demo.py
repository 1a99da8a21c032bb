"""The demo: two simulated practices, the whole engine on the embedded default, an ordinary consumer, and a judge.

The consumer is plain kombu on a queue and knows nothing of the database; the judge holds what it received against the simulator's truth.
"""
# mypy: disable-error-code="no-untyped-call"
# kombu says it is typed and is not.

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import ChannelError

from poller.app import Engine, Installation
from poller.broker.pgmq import consumer_options
from poller.config import Config, load
from poller.core import jsontext
from poller.errors import PollerError
from poller.simulator.command import DEMO_PRACTICES, demo_server
from poller.simulator.judge import FeedSchedule, Received, judge
from poller.simulator.server import SimulatorServer
from poller.store.deletes import DeleteStore
from poller.store.engine import READER
from poller.store.state import StateStore

CHANGES_PER_SECOND = 5.0
QUEUE = "fhir.changes.full.all"
_ROUND_CEILING = 22.0
"""Seconds within which every feed's schedule comes round once more, the demo being so small."""

_TYPES = ("Encounter", "Observation", "Condition", "MedicationRequest", "DiagnosticReport")
"""Beside Patient: what the demo's feeds read is what the demo's practices change."""

_CONFIG = """
data_dir: {home}
sinks:
  changes: {{exchange: fhir.changes, payload: id-only, baseline: skip, queues: [fhir.changes.all]}}
  full: {{exchange: fhir.changes.full, payload: full-resource, baseline: publish, queues: [{queue}]}}
http: {{listen: "127.0.0.1:0"}}
logging: {{level: warning}}
defaults:
  token_url: {token_url}
  client_id: poller-demo
  key: {{file: $data_dir/keys/simulator.pem}}
  time_zone: America/New_York
  overlap: 5s
  feeds:
    Patient:
    Encounter:
    Observation: {{categories: [laboratory, vital-signs]}}
    Condition:
    MedicationRequest:
    DiagnosticReport:
practices:
  DEMOEC:
    base_url: {root}/fhir/r4/DEMOEC
    patients: {{names: [A, B, C, D]}}
    every_feed: {{every: 10s}}
  DEMOOP:
    base_url: {root}/fhir/r4/DEMOOP
    every_feed: {{every: 2s, sweep_every: 10s}}
"""


@dataclass
class View:
    """What a person watching sees; written by the demo's threads, read by the table."""

    server: SimulatorServer
    received: list[Received] = field(default_factory=list)
    phase: str = "starting"
    http_port: int | None = None

    def events(self, practice: str) -> list[Received]:
        """Events received of a practice."""
        return [one for one in list(self.received) if one.practice == practice]


class Consumer:
    """An ordinary kombu consumer of one queue, on a thread; keeps what it gets with the time it came."""

    def __init__(self, conninfo: str, view: View, now: Callable[[], dt.datetime]) -> None:
        self._conninfo = conninfo
        self._view = view
        self._now = now
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="consumer", daemon=True)
        self.failed: BaseException | None = None

    def start(self) -> None:
        """Begin to consume."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; raises what ended the consumer early."""
        self._stop.set()
        self._thread.join(timeout=10)
        if self.failed is not None:
            raise PollerError(f"the demo's consumer failed ({type(self.failed).__name__})") from self.failed

    def _run(self) -> None:
        try:
            with Connection("pgmq://", transport_options=consumer_options(self._conninfo)) as connection:
                self._await_queue(connection)
                queue = Queue(QUEUE, no_declare=True)
                accept = ["application/cloudevents+json"]
                with connection.Consumer(queue, callbacks=[self._take], accept=accept, prefetch_count=100):
                    while not self._stop.is_set():
                        with contextlib.suppress(TimeoutError):
                            connection.drain_events(timeout=1)
        except Exception as error:  # noqa: BLE001 - raised again by stop(), on the thread that judges
            self.failed = error

    def _await_queue(self, connection: Any) -> None:
        """Wait until the poller has declared the queue."""
        while not self._stop.is_set():
            try:
                Queue(QUEUE, channel=connection.default_channel).queue_declare(passive=True)
            except ChannelError:
                self._stop.wait(0.1)
            else:
                return

    def _take(self, _body: object, message: Any) -> None:
        self._view.received.append(Received(jsontext.loads(message.body), self._now()))
        message.ack()


@contextlib.contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """The engine, polling on a thread of its own; raises what ended it early."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            loop.run_until_complete(engine.run(stop))
        except BaseException as error:  # noqa: BLE001 - raised again below, on the thread that waits
            failure.append(error)

    thread = threading.Thread(target=work, name="engine", daemon=True)
    thread.start()
    try:
        while engine.http_port is None and thread.is_alive():
            thread.join(0.02)
        yield engine
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=30)
        if not thread.is_alive():
            loop.close()
        if failure:
            raise failure[0]


class Demo:
    """One run of the demo."""

    def __init__(self, seconds: float | None, seed: int = 1) -> None:
        self._seconds = seconds
        self._home = Path(tempfile.mkdtemp(prefix="poller-demo-"))
        practices = [replace(spec, max_patients=spec.patients + 1, types=_TYPES) for spec in DEMO_PRACTICES]
        self._server = demo_server(
            self._home / "keys" / "simulator.pem",
            port=0,
            changes_per_second=CHANGES_PER_SECOND,
            seed=seed,
            practices=practices,
        )
        self.view = View(self._server)
        self.stop_changes = threading.Event()

    def run(self) -> dict[str, Any]:
        """Run, wait until every schedule has come round once more, judge. Raises PollerError when the engine does not start."""
        # kombu's own affair; said before any thread begins, since kombu puts filters back as it found them
        warnings.filterwarnings("ignore", message="list_queues", category=UserWarning)
        try:
            with self._server, Installation(self._config()) as installation:
                installation.prepare()
                with running(Engine(installation)) as engine, self._consumer(installation):
                    self.view.http_port = engine.http_port
                    self._live()
                    self._come_round(installation)
            return self._judge(installation.config)
        finally:
            shutil.rmtree(self._home, ignore_errors=True)

    def _config(self) -> Config:
        path = self._home / "poller.yaml"
        path.write_text(
            _CONFIG.format(home=self._home, queue=QUEUE, token_url=self._server.token_url, root=self._server.root),
            encoding="utf-8",
        )
        return load(path)

    @contextlib.contextmanager
    def _consumer(self, installation: Installation) -> Iterator[None]:
        consumer = Consumer(installation.queue_conninfo, self.view, self._server.clock)
        consumer.start()
        try:
            yield
        finally:
            consumer.stop()

    def _live(self) -> None:
        """Let the practices change; one delete each is certain."""
        self.view.phase = "changing"
        began = time.monotonic()
        self.stop_changes.wait(self._seconds * 0.6 if self._seconds is not None else 20.0)
        self._delete_one_each()
        if self._seconds is not None:
            self.stop_changes.wait(max(0.0, self._seconds - (time.monotonic() - began)))
        else:
            self.stop_changes.wait()
        self._server.quiet()

    def _delete_one_each(self) -> None:
        published = {(one.practice, one.key) for one in list(self.view.received) if one.key[0] == "Observation"}
        world = self._server.world
        for code in world.practices:
            present = world.written(code, "Observation")
            known = sorted(name for (practice, (_, name)) in published if practice == code and name in present)
            if known:
                world.delete(code, "Observation", known[0], self._server.clock())

    def _come_round(self, installation: Installation) -> None:
        """Wait until every target has been read whole once more, absences are settled and the queue is empty."""
        self.view.phase = "quiet: every schedule comes round once more"
        engine = installation.engine(READER, 1)
        states, deletes = StateStore(engine), DeleteStore(engine)
        quiet_at = self._server.clock() + dt.timedelta(seconds=1)  # what is written late has become visible by then
        deadline = time.monotonic() + _ROUND_CEILING
        settled = 0
        while time.monotonic() < deadline and settled < 3:  # noqa: PLR2004 - three looks in a row find nothing left to do
            time.sleep(0.3)
            seen = len(self.view.received)
            done = all(
                state.complete_began is not None and state.complete_began > quiet_at
                for code in installation.config.practices
                for state in states.targets(code, ())
            ) and not any(deletes.listed(code, ["missing"]) for code in installation.config.practices)
            settled = settled + 1 if done and seen == len(self.view.received) else 0
        self.view.phase = "judging"

    def _judge(self, config: Config) -> dict[str, Any]:
        schedules = {code: list(_schedules(config, code, self._server)) for code in config.practices}
        return judge(self._server.world.evidence(), self.view.received, schedules)


def _schedules(config: Config, code: str, server: SimulatorServer) -> Iterator[FeedSchedule]:
    practice = config.practices[code]
    windows = server.world.practices[code].spec.mode == "open"
    for resource_type, feed in practice.feeds.items():
        if feed.every is None:
            continue
        yield FeedSchedule(
            resource_type,
            every=feed.every.total_seconds(),
            categories=feed.categories,
            sweep_every=feed.sweep_every.total_seconds() if windows and feed.sweep_every is not None else None,
            names=practice.patients.names if not windows and resource_type == "Patient" else (),
        )


def summary(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict as the demo's last line: practices and ``ok`` first, then what was broken."""
    return {"practices": verdict["practices"], "ok": verdict["ok"]} | (
        {} if verdict["ok"] else {"breaches": verdict["breaches"]}
    )
