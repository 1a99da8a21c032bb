"""How fast the log gets to consumers, against bare kombu on the same broker in the same run; how late; and in how much memory.

``python tests/benchmarks/deliver.py [--events 20000] [--rates 100,1000] [--seconds 15] [--memory 100000] [--json] [SERVER]``. RabbitMQ is
the local one or POLLER_TEST_AMQP's. Everything goes to a quorum queue, persistent, mandatory and confirmed.

- *bare*: kombu's Producer with up to :data:`WINDOW` confirms in flight, over bodies that were made beforehand, best of three.
- *relay*: the same number of events from the log, through the whole relay: read, sorted out, written as CloudEvents, confirmed, booked.
- *latency*: from commit to consumer. The repository commits changes at a rate; a consumer in a process of its own notes when each comes.
- *replay*: the log to a file of NDJSON, as a replay makes its events.
- *memory*: resident memory while so many events go through one relay; the slope is that of its second half.

Exit code 1 if a gate of :data:`GATES` is missed or an event is. A million events: ``--memory 1000000``.
"""

# mypy: disable-error-code="no-untyped-call"
# kombu says it is typed and is not.

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from kombu.connection import Connection
from kombu.messaging import Producer
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script, this file has only its own directory to import from

from poller.broker.rabbit import RabbitBroker
from poller.broker.topology import declare_on_rabbit
from poller.core.canonical import encode_body, reduce
from poller.core.envelope import CONTENT_TYPE, Message, message
from poller.core.model import Kind, Origin, Sighting, Target
from poller.core.sink import Sink
from poller.outlet import Outlet
from poller.relay import Relay
from poller.replay import FileDestination, Player
from poller.store.engine import ENGINE, RELAY, ensure_partitions, migrate, open_engine
from poller.store.log import Selection
from poller.store.replays import ReplayRecord
from poller.store.repository import PassContext, Repository
from poller.store.sinks import SinkLog
from poller.store.state import LeaseKeeper, StateStore
from tests.benchmarks.records import body

GATES = {"relay of bare": 0.5, "replay to a file, events a second": 10_000, "memory, bytes an event": 20}
"""At least; the last one at most."""
WINDOW = 500
LOCAL = "postgresql://postgres@127.0.0.1:5432/postgres"
SOURCES = {"A": "https://ehr.example/fhir/r4/A"}
KEY = b"k" * 32
_MB = 1024 * 1024

FILL = """
WITH made AS (
  UPDATE poller.practice_log SET head = head + %(count)s WHERE practice = 'A' RETURNING head - %(count)s AS before
), rows AS (
  SELECT before + n AS sequence, 'o' || (before + n) AS id, now() AS at FROM made, generate_series(1, %(count)s) AS n
), versions AS (
  INSERT INTO poller.history (practice, resource_type, id, version, recorded_at, action, digest, rules_version, codec, body, read_began,
    read_ended)
  SELECT 'A', 'Observation', id, 1, at, 'created', sha256(id::bytea), 1, 1, %(body)s, at, at FROM rows
)
INSERT INTO poller.event (practice, epoch, sequence, recorded_at, event_id, resource_type, id, version, action, origin, digest, changed,
  categories, status, partition_key)
SELECT 'A', 1, sequence, at, gen_random_uuid(), 'Observation', id, 1, 'created', 'live', sha256(id::bytea), '{}', '{laboratory}', 'final',
  'Patient/p' || sequence %% 1000
FROM rows
"""

CONSUMER = """
import contextlib, json, sys, time
from kombu import Connection, Queue
from kombu.messaging import Consumer
url, queue, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
arrived = {}
def take(message):
    now = time.monotonic()
    arrived[int(json.loads(message.body)["sequence"][-20:])] = now
    message.ack()
with Connection(url) as connection:
    with Consumer(connection.channel(), [Queue(queue, no_declare=True)], on_message=take, accept=["application/cloudevents+json"],
                  prefetch_count=500):
        print("ready", flush=True)
        with contextlib.suppress(TimeoutError):
            while len(arrived) < count:
                connection.drain_events(timeout=10)
json.dump(arrived, sys.stdout)
"""


@dataclass
class Stage:
    """A database and a broker of the benchmark's own."""

    conninfo: str
    url: str
    engine: Engine
    log: SinkLog
    lease: Any

    def fill(self, count: int) -> None:
        """Append so many creations of different resources to the log, at once."""
        stored = encode_body(json.loads(body(1)))
        with psycopg.connect(self.conninfo) as connection:
            connection.execute(FILL, {"count": count, "body": stored})
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute("ANALYZE poller.event, poller.history")

    @contextmanager
    def sink(self, **more: Any) -> Iterator[Sink]:
        """A new sink with a quorum queue."""
        mark = uuid.uuid4().hex[:8]
        made = Sink(f"s_{mark}", f"bench_x_{mark}", (f"bench_q_{mark}",), **more)
        with Connection(self.url) as connection:
            declare_on_rabbit(connection.channel(), made)
        try:
            yield made
        finally:
            with Connection(self.url) as connection:
                channel = connection.channel()
                channel.exchange_delete(made.exchange)
                for queue in made.queues:
                    channel.queue_delete(queue)
                    channel.queue_delete(f"{queue}.dead")

    @contextmanager
    def relay(self, sink: Sink) -> Iterator[Relay]:
        """One that runs."""
        running = Relay(self.log, [Outlet(sink, RabbitBroker(self.url).publisher(sink))], SOURCES)
        running.start()
        try:
            yield running
        finally:
            running.stop()

    def passed(self, sink: Sink) -> int:
        """How far the sink is."""
        return next(at.sequence for at in self.log.positions(sink.name))

    def await_passed(self, sink: Sink, sequence: int) -> None:
        """Wait until the sink is so far."""
        while self.passed(sink) < sequence:
            time.sleep(0.1)  # each look costs the process that is measured


@contextmanager
def stage(server: str) -> Iterator[Stage]:
    name = f"poller_bench_{uuid.uuid4().hex[:12]}"
    url = os.environ.get("POLLER_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672//")
    with closing(psycopg.connect(server, autocommit=True)) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    conninfo = make_conninfo(server, dbname=name)
    migrate(conninfo)
    engine, relay = open_engine(conninfo, ENGINE), open_engine(conninfo, RELAY)
    keeper = LeaseKeeper(engine)
    try:
        with engine.begin() as connection:
            ensure_partitions(connection, dt.datetime.now(dt.UTC))
        lease = keeper.take("A")
        StateStore(engine).register_practice(lease)
        yield Stage(conninfo, url, engine, SinkLog(relay), lease)
    finally:
        keeper.close()
        engine.dispose()
        relay.dispose()
        with closing(psycopg.connect(server, autocommit=True)) as admin:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@dataclass(frozen=True, order=True)
class Speed:
    """How fast something went, and what it took of this process; the latter depends less on what else the machine does."""

    a_second: float
    cpu: float
    """Microseconds an event."""

    @staticmethod
    def of(events: int, began: float, cpu: float) -> Speed:
        """``began`` by perf_counter, ``cpu`` by process_time."""
        return Speed(events / (time.perf_counter() - began), 1e6 * (time.process_time() - cpu) / events)


def bare(made: Stage, messages: list[Message]) -> Speed:
    """How fast kombu publishes with a window of confirms, and nothing else done."""
    open_: set[int] = set()

    def answered(tag: int, multiple: bool) -> None:
        if multiple:
            open_.difference_update([one for one in open_ if one <= tag])
        else:
            open_.discard(tag)

    with made.sink() as sink, Connection(made.url) as connection:
        channel = connection.channel()
        channel.confirm_select()
        channel.events["basic_ack"] = {answered}
        producer = Producer(channel, auto_declare=False)
        began, cpu = time.perf_counter(), time.process_time()
        for tag, one in enumerate(messages, start=1):
            while len(open_) >= WINDOW:
                connection.drain_events(timeout=30)
            open_.add(tag)
            producer.publish(
                one.body, exchange=sink.exchange, routing_key=one.routing_key, content_type=CONTENT_TYPE,
                content_encoding="utf-8", headers=dict(one.headers), message_id=one.id, delivery_mode=2, mandatory=True,
            )  # fmt: skip
        while open_:
            connection.drain_events(timeout=30)
        return Speed.of(len(messages), began, cpu)


def relayed(made: Stage, **sink: Any) -> Speed:
    """How fast a relay takes the log to the queue."""
    with made.sink(**sink) as one:
        head = made.log.positions(one.name)[0].head
        began, cpu = time.perf_counter(), time.process_time()
        with made.relay(one):
            made.await_passed(one, head)
            speed = Speed.of(head, began, cpu)
        books = next(books for books in made.log.books() if books.sink == one.name)
        if (books.delivered, books.missing) != (head, 0):
            raise SystemExit(f"{books.delivered} of {head} were delivered")
        return speed


def latency(made: Stage, rate: int, seconds: float) -> dict[str, float]:
    """Milliseconds from a commit until a consumer has the event, at so many events a second in commits of at most ten."""
    size = max(1, min(10, rate // 100))
    count = int(rate * seconds) // size * size
    committed: dict[int, float] = {}
    repository, target = Repository(made.engine, KEY), Target("A", "Observation", Kind.SWEEP)
    with made.sink() as sink, made.relay(sink) as relay:
        first = made.log.positions(sink.name)[0].head
        made.await_passed(sink, first)
        with Connection(made.url) as connection:
            connection.channel().queue_purge(sink.queues[0])
        consumer = subprocess.Popen(
            [sys.executable, "-c", CONSUMER, made.url, sink.queues[0], str(count)], stdout=subprocess.PIPE, text=True
        )
        assert consumer.stdout is not None
        consumer.stdout.readline()
        began = time.monotonic()
        for number in range(0, count, size):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            now = dt.datetime.now(dt.UTC)
            seen = [
                reduce(
                    Sighting("Observation", f"l{rate}-{n}", json.loads(body(n)) | {"id": f"l{rate}-{n}"}, now, now), KEY
                )
                for n in range(number, number + size)
            ]
            repository.record(PassContext(made.lease, target, Origin.LIVE), seen, now)
            done = time.monotonic()
            relay.notify()
            committed |= {first + n + 1: done for n in range(number, number + size)}
            if done > began + 3 * seconds:
                break  # a machine that is too busy for this rate; "committed a second" says so
        took = time.monotonic() - began
        arrived = {int(sequence): at for sequence, at in json.load(consumer.stdout).items()}
        consumer.wait(10)
    if lost := committed.keys() - arrived.keys():
        raise SystemExit(f"{len(lost)} events did not arrive")
    delays = sorted(1000 * (arrived[sequence] - at) for sequence, at in committed.items())
    cuts = statistics.quantiles(delays, n=100)
    return {
        "wanted a second": rate,
        "committed a second": round(len(committed) / took),
        "p50 ms": round(cuts[49], 1),
        "p99 ms": round(cuts[98], 1),
        "most ms": round(delays[-1], 1),
    }


def replayed(made: Stage, payload: Any) -> float:
    """Events a second from the log into a file of NDJSON, as ``poller replay --file`` writes it."""
    selection = Selection("A")
    begin, end = made.log.span(selection)
    record = ReplayRecord("r", selection, payload, None, None, None, begin, end, None, "")
    with tempfile.TemporaryDirectory() as directory:
        destination = FileDestination(Path(directory) / "events.ndjson")
        began = time.perf_counter()
        player = Player(made.log, record, destination, SOURCES["A"])
        player.play()
        destination.close()
        return player.record.sent / (time.perf_counter() - began)


def memory(made: Stage) -> dict[str, float]:
    """MB that this process holds while a relay takes so many events out; the queue is emptied beside it."""
    process, sampled = psutil.Process(), list[tuple[int, int]]()
    with made.sink() as sink, made.relay(sink), _emptied(made, sink):
        head = made.log.positions(sink.name)[0].head
        before = process.memory_info().rss
        while (passed := made.passed(sink)) < head:
            sampled.append((passed, process.memory_info().rss))
            time.sleep(0.1)
    second = [rss for passed, rss in sampled if passed > head // 2]
    quarter = max(1, len(second) // 4)
    rise = statistics.median(second[-quarter:]) - statistics.median(second[:quarter])
    return {
        "events": head,
        "MB before": round(before / _MB, 1),
        "MB most": round(max(rss for _, rss in sampled) / _MB, 1),
        "bytes an event": round(rise / (head * 3 / 8), 2),  # from the middle of one quarter to that of the other
    }


@contextmanager
def _emptied(made: Stage, sink: Sink) -> Iterator[None]:
    """A million messages in the queue would be the broker's memory, and nothing of ours."""
    over = threading.Event()

    def purge() -> None:
        with Connection(made.url) as connection:
            channel = connection.channel()
            while not over.wait(0.5):
                channel.queue_purge(sink.queues[0])

    purging = threading.Thread(target=purge, daemon=True)
    purging.start()
    yield
    over.set()
    purging.join(10)


def messages_of(made: Stage, payload: Any) -> list[Message]:
    """What the relay will send, made beforehand for the control."""
    events = made.log.select(Selection("A"), bodies=payload == "full-resource")
    return [message(one, base_url=SOURCES["A"], payload=payload, previous_sequence=None) for one in events]


def run(server: str, events: int, rates: list[int], seconds: float, memory_events: int) -> dict[str, Any]:
    report: dict[str, Any] = {"cores": psutil.cpu_count(), "python": platform.python_version(), "events": events}
    with stage(server) as made:
        made.fill(events)
        for payload in ("id-only", "full-resource"):
            control = messages_of(made, payload)
            best = max(bare(made, control) for _ in range(3))
            through = max(relayed(made, payload=payload) for _ in range(2))
            report[payload] = {
                "bytes a message": round(statistics.mean(len(one.body) for one in control)),
                "bare kombu, events a second": round(best.a_second),
                "relay, events a second": round(through.a_second),
                "relay of bare": round(through.a_second / best.a_second, 2),
                "bare kombu, CPU us an event": round(best.cpu),
                "relay, CPU us an event": round(through.cpu),
                "replay to a file, events a second": round(replayed(made, payload)),
            }
        report["latency"] = [latency(made, rate, seconds) for rate in rates]
    if memory_events:
        with stage(server) as made:
            made.fill(memory_events)
            report["memory"] = memory(made)
    return report


def missed(report: dict[str, Any]) -> list[str]:
    """Gates that were missed."""
    found = [
        f"{payload}: {name} is {report[payload][name]}, and {GATES[name]} is the least"
        for payload in ("id-only", "full-resource")
        for name in ("relay of bare", "replay to a file, events a second")
        if report[payload][name] < GATES[name] and not (payload == "full-resource" and name.startswith("replay"))
    ]
    slope = report.get("memory", {}).get("bytes an event", 0.0)
    if slope > GATES["memory, bytes an event"]:
        found.append(f"memory grows by {slope} bytes an event")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", nargs="?", default=os.environ.get("POLLER_TEST_POSTGRES", LOCAL))
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rates", default="100,1000")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--memory", type=int, default=100_000, help="0 leaves it out")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rates = [int(rate) for rate in chosen.rates.split(",") if rate]
    report = run(chosen.server, chosen.events, rates, chosen.seconds, chosen.memory)
    report["missed"] = missed(report)
    print(json.dumps(report) if chosen.json else json.dumps(report, indent=2))  # noqa: T201 - the report
    return 1 if report["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
