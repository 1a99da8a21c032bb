"""Many practices in one process: what the schedule, the gate and the planner cost, and how many practices at full budget a core holds.

``python tests/benchmarks/many_practices.py [--practices 1000] [--full 10] [--seconds 60] [--every 300] [--json] [--store CONNINFO]``.
Two parts, each in a database of its own, dropped afterwards:

- *idle*: so many practices of 14 practice-wide feeds, each read every five minutes, with HTTP stubbed. It passes if scheduler, gate and
  planner take less than 20 % of a core, and if all that was owed was done: at least 95 % of the passes that fell due, counted as calls,
  and not one feed in a hundred late at the end, as the store has it. An engine that makes no calls costs nothing.
- *full*: a few practices whose feeds are owed all the time, so that each spends its 250 calls a minute, over real HTTP with a stub server
  in another process. From the CPU that one takes follows how many a core holds.

CPU is this process's own, without Postgres and the server. It is shared out by samples of what each thread does, every few milliseconds;
the control is a run of the same length with no practice at all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import math
import multiprocessing
import platform
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, Self

import httpx
import psutil
import psycopg
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from psycopg.conninfo import make_conninfo

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script, this file has only its own directory to import from

from poller import app, logs
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.core.capability import PracticeReport, TokenReport, TypeReport
from poller.core.model import Purpose, Strategy
from poller.core.refusals import Why
from poller.errands import errands_of
from poller.rounds import Rounds
from poller.service import Stores
from poller.source.connection import open_source
from poller.source.grants import Grants
from poller.store.deletes import DeleteStore
from poller.store.embedded import EmbeddedPostgres
from poller.store.engine import ENGINE, ensure_partitions, migrate, open_clock, open_engine
from poller.store.ledger import PostgresLedger
from poller.store.probes import ProbeStore
from poller.store.repository import Repository
from poller.store.state import LeaseKeeper, StateStore
from poller.supervise import Supervisor

MOST = 20.0
"""Percent of a core for scheduler, gate and planner."""

LEAST_MADE = 0.95
"""Part of the passes that fell due."""

MOST_LATE = 0.01
"""Part of the feeds whose last whole read began a fifth of the interval longer ago than it may have."""

LOCAL = "postgresql://postgres@127.0.0.1:5432/postgres"
KEY = b"k" * 32
TYPES = (
    *("Patient", "Encounter", "Observation", "Condition", "Procedure", "Immunization", "MedicationRequest"),
    *("AllergyIntolerance", "DiagnosticReport", "DocumentReference", "CarePlan", "CareTeam", "Goal", "Device"),
)
_MB = 1024 * 1024
_SAMPLE_EVERY = 0.004
_THREADS = 24
_PARTS = (
    # the first of these that a thread stands in, from the innermost frame on, is what it does
    ("gate", ("poller/source/gate.py", "poller/source/grants.py", "poller/core/budget.py", "poller/store/ledger.py")),
    ("planner", ("poller/core/plan", "poller/core/index", "poller/core/learn", "poller/planner", "poller/targets.py")),
    ("source", ("poller/source/", "/httpx/", "/httpcore/", "/h11/", "/anyio/")),
    ("store", ("poller/store/",)),
    (
        "scheduler",
        ("/apscheduler/", "poller/supervise.py", "poller/rounds.py", "poller/service.py", "poller/beside.py"),
    ),
    ("cycle", ("poller/",)),
    ("loop", ("/asyncio/", "/concurrent/")),
)
_WAITING = ("select", "wait", "acquire", "epoll", "_worker", "get", "poll", "sleep")


class Profile(threading.Thread):
    """Samples what the threads of this process do, and its CPU time and memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self._process = psutil.Process()
        self.parts: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        """Where the time goes, by the innermost of our functions."""

    def __enter__(self) -> Self:
        self._cpu, self._at = self._spent(), time.monotonic()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self.percent = 100 * (self._spent() - self._cpu) / (time.monotonic() - self._at)
        self.megabytes = self._process.memory_info().rss / _MB

    def run(self) -> None:
        """Sample until stopped."""
        own = threading.get_ident()
        while not self._over.wait(_SAMPLE_EVERY):
            for thread, frame in sys._current_frames().items():
                if thread != own and frame.f_code.co_name not in _WAITING:
                    part, line = _where(frame)
                    self.parts[part] += 1
                    self.lines[line] += 1

    def _spent(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def report(self) -> dict[str, Any]:
        """CPU in percent of a core, whole and by part."""
        seen = self.parts.total() or 1
        parts = {part: round(self.percent * count / seen, 1) for part, count in self.parts.most_common()}
        return {"CPU %": round(self.percent, 1), "MB": round(self.megabytes), "by part %": parts}


def _where(frame: FrameType | None) -> tuple[str, str]:
    line = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if not line and "/poller/" in file and "site-packages" not in file:
            line = f"{file.rpartition('/poller/')[2]} {frame.f_code.co_name}"
        for part, places in _PARTS:
            if any(place in file for place in places):
                return part, line or f"{file.rpartition('/')[2]} {frame.f_code.co_name}"
        frame = frame.f_back
    return "other", line


class Stub(httpx.AsyncBaseTransport):
    """A server that is always at once there and has nothing new."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """An empty page."""
        date = dt.datetime.now(dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        return httpx.Response(
            200,
            headers={"Content-Type": "application/fhir+json", "Date": date},
            stream=httpx.ByteStream(empty_page(str(request.url.raw_path, "ascii"))),
        )


def empty_page(path: str) -> bytes:
    """A searchset without entries whose self link is what was asked."""
    page = {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": 0,
        "link": [{"relation": "self", "url": f"http://stub.example{path}"}],
    }
    return json.dumps(page).encode()


def serve(port: multiprocessing.Queue[int]) -> None:
    """A server of empty pages on loopback, as little of one as HTTP allows; runs until it is ended."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = empty_page(head.split(b" ", 2)[1].decode())
                date = dt.datetime.now(dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
                writer.write(
                    f"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nDate: {date}\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


@contextlib.contextmanager
def stub_server() -> Iterator[int]:
    """The port of a running :func:`serve`, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    port: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=serve, args=(port,), daemon=True)
    process.start()
    try:
        yield port.get(timeout=30)
    finally:
        process.terminate()
        process.join()


def practices(count: int, every: float, port: int) -> dict[str, PracticeConfig]:
    """So many practices of all types, each read every so many seconds."""
    feed = {"every": dt.timedelta(seconds=every), "sweep_every": dt.timedelta(days=1)}
    return {
        code: PracticeConfig.model_validate(
            {
                "code": code,
                "base_url": f"http://127.0.0.1:{port}/fhir/{code}",
                "auth": "none",
                "strategy": "window",
                "feeds": dict.fromkeys(TYPES, feed),
            }
        )
        for code in (f"P{number:05d}" for number in range(count))
    }


def fill(conninfo: str, codes: Mapping[str, PracticeConfig], every: float) -> None:
    """As if the practices had been read for a while: each feed by windows, the next of each owed at some time of the round."""
    engine = open_engine(conninfo, ENGINE, pool_size=1)
    probes = ProbeStore(engine)
    offers = (Strategy.WINDOW, Strategy.SWEEP)
    now = dt.datetime.now(dt.UTC)
    for code in codes:
        types = {name: TypeReport(name, now, readable=True, why=Why.READABLE, offers=offers) for name in TYPES}
        probes.save_asked(code, PracticeReport(now, TokenReport(granted=True), types=types))
    engine.dispose()
    with psycopg.connect(conninfo) as admin:
        binds = {"codes": list(codes), "types": list(TYPES), "every": every}
        admin.execute(
            "INSERT INTO poller.feed (practice, resource_type, registered_at, strategy, reason, probed_at, offers)"
            " SELECT p, t, now() - interval '1 day', 'window', 'proven', now(), '{window,sweep}'"
            " FROM unnest(%(codes)s::text[]) AS p, unnest(%(types)s::text[]) AS t",
            binds,
        )
        admin.execute(
            "INSERT INTO poller.target (practice, target, resource_type, kind, live, registered_at, cursor_at, baseline_at, last_began,"
            "  complete_began, complete_ended, coverage)"
            " SELECT p, t || '/-/' || k || '/-', t, k, false, now() - interval '1 day',"
            "  CASE WHEN k = 'window' THEN at END, now() - interval '1 day', at, at, at, 'complete'"
            " FROM unnest(%(codes)s::text[]) AS p, unnest(%(types)s::text[]) AS t, unnest(ARRAY['window', 'sweep']) AS k,"
            "  LATERAL (SELECT now() - (hashtext(p || t || k) & 65535) / 65536.0 * %(every)s * interval '1 second' AS at) AS a",
            binds,
        )


class Bench:
    """So many practices, each supervised as the engine does it; without a relay, since nothing changes."""

    def __init__(
        self,
        conninfo: str,
        codes: Mapping[str, PracticeConfig],
        transport: httpx.AsyncBaseTransport | None,
        every: float = math.inf,
        warm_up: float = 0.0,
    ) -> None:
        """``every``: seconds after which each feed is owed a read; ``warm_up``: seconds at most until all have begun and none is late."""
        self._conninfo = conninfo
        self._codes = codes
        self._transport = transport
        self._every = every
        self._warm_up = warm_up
        self.calls: Counter[Purpose] = Counter()
        self._begun: set[str] = set()

    async def run(self, settle: float, seconds: float) -> dict[str, Any]:
        """Poll, and measure for so long once all have begun."""
        engine = open_engine(self._conninfo, ENGINE, pool_size=10)
        ledger_engine, keeper_engine = (open_engine(self._conninfo, ENGINE, pool_size=size) for size in (2, 1))
        self._ledger = PostgresLedger(ledger_engine)
        self._grants = Grants(self._ledger)
        clock = await asyncio.to_thread(open_clock, engine)
        with engine.begin() as connection:
            ensure_partitions(connection, clock.now())
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "store"))
        stores = Stores(
            LeaseKeeper(keeper_engine),
            StateStore(engine),
            Repository(engine, KEY),
            DeleteStore(engine),
            ProbeStore(engine),
        )
        scheduler = AsyncIOScheduler(timezone=dt.UTC)
        rounds = Rounds(scheduler)
        scheduler.start()
        supervisors = [self._supervisor(practice, stores, rounds, clock, engine) for practice in self._codes.values()]
        running = [asyncio.create_task(supervisor.run()) for supervisor in supervisors]
        try:
            return await self._measure(settle, seconds)
        finally:
            for supervisor in supervisors:
                supervisor.end()
            await asyncio.gather(*running)
            scheduler.shutdown(wait=False)
            stores.keeper.close()
            for each in (engine, ledger_engine, keeper_engine):
                each.dispose()

    async def _measure(self, settle: float, seconds: float) -> dict[str, Any]:
        began = time.monotonic()
        until = began + self._warm_up
        while len(self._begun) < len(self._codes) and time.monotonic() < until:  # noqa: ASYNC110 - the calls are counted elsewhere
            await asyncio.sleep(0.2)
        until_begun = time.monotonic() - began
        while await asyncio.to_thread(self._late) > MOST_LATE and time.monotonic() < until:  # noqa: ASYNC110 - the store is asked
            await asyncio.sleep(1)
        until_fresh = time.monotonic() - began
        await asyncio.sleep(settle)
        before = self.calls.copy()
        with Profile() as profile:
            began = time.monotonic()
            await asyncio.sleep(seconds)
            took = time.monotonic() - began
            calls = self.calls - before
        return {
            "practices": len(self._codes),
            "seconds": round(took, 1),
            "calls a minute": round(60 * calls.total() / took, 1),
            "passes owed": round(len(self._codes) * len(TYPES) * took / self._every),
            "passes made": calls[Purpose.DETECT],
            "late at the end": await asyncio.to_thread(self._late),
            "seconds until begun": round(until_begun, 1),
            "seconds until none was late": round(until_fresh, 1),
            **profile.report(),
            "lines": dict(profile.lines.most_common(25)),
        }

    def _late(self) -> float:
        """The part of the feeds whose last whole read is too long ago; from the store, not from the engine, which may believe otherwise."""
        if not self._codes or self._every == math.inf:
            return 0.0
        with psycopg.connect(self._conninfo) as admin:
            row = admin.execute(
                "SELECT coalesce(avg((complete_began < now() - %s * interval '1 second')::integer), 1)::float FROM poller.target"
                " WHERE kind = 'window'",
                [1.2 * self._every],
            ).fetchone()
        return round(float(row[0]), 4) if row else 1.0

    def _supervisor(
        self, practice: PracticeConfig, stores: Stores, rounds: Rounds, clock: Clock, engine: Any
    ) -> Supervisor[Any]:
        return Supervisor(
            practice,
            stores,
            lambda config: self._open(config, clock),
            rounds,
            clock,
            KEY,
            lambda: None,
            lambda config, lease, source: errands_of(
                config, lease, source, engine, stores.repository, clock, KEY, lambda: None
            ),
        )

    @contextlib.asynccontextmanager
    async def _open(self, practice: PracticeConfig, clock: Clock) -> AsyncIterator[Any]:
        def count(purpose: Purpose, *_: object) -> None:
            self.calls[purpose] += 1
            self._begun.add(practice.code)

        async with open_source(
            practice, self._ledger, clock, grants=self._grants, transport=self._transport, observer=count
        ) as source:
            yield app._SurveyedSource(source.practice, source.client, clock)


@contextlib.contextmanager
def database(server: str) -> Iterator[str]:
    """A migrated database, dropped afterwards."""
    name = f"poller_many_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    conninfo = make_conninfo(server, dbname=name)
    migrate(conninfo)
    try:
        yield conninfo
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def idle(server: str, count: int, every: float, seconds: float, warm_up: float) -> dict[str, Any]:
    """Practices with little to do, HTTP stubbed, and the control without any."""
    with database(server) as conninfo:
        control = asyncio.run(Bench(conninfo, {}, Stub()).run(0, min(seconds, 5.0)))
        codes = practices(count, every, 9)
        fill(conninfo, codes, every)
        found = asyncio.run(Bench(conninfo, codes, Stub(), every, warm_up).run(5, seconds))
    parts = found["by part %"]
    found["scheduler, gate, planner %"] = round(
        sum(parts.get(part, 0.0) for part in ("scheduler", "gate", "planner")), 1
    )
    found["KB a practice"] = round(1024 * (found["MB"] - control["MB"]) / max(1, count))
    return {"control": control, "idle": found}


def full(server: str, count: int, seconds: float) -> dict[str, Any]:
    """Practices at full budget over HTTP."""
    with database(server) as conninfo, stub_server() as port:
        codes = practices(count, 1.0, port)
        fill(conninfo, codes, 1.0)
        found = asyncio.run(Bench(conninfo, codes, None, warm_up=60).run(5, seconds))
    calls = found["calls a minute"]
    found["calls a minute, each"] = round(calls / count, 1)
    found["CPU ms a call"] = round(found["CPU %"] * 600 / calls, 2)
    found["practices a core holds"] = int(100 * calls / 241 / found["CPU %"])
    return found


def failures(idle: Mapping[str, Any]) -> list[str]:
    """What a run of the idle part does not keep."""
    found = []
    if idle["scheduler, gate, planner %"] >= MOST:
        found.append(f"scheduler, gate and planner took {MOST:g} % of a core or more")
    if idle["passes made"] < LEAST_MADE * idle["passes owed"]:
        found.append(f"{idle['passes made']} passes were made where {idle['passes owed']} were owed")
    if idle["late at the end"] > MOST_LATE:
        found.append(f"{100 * idle['late at the end']:.1f} % of the feeds were late at the end")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--practices", type=int, default=1000)
    parser.add_argument("--full", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, default=300, help="seconds from read to read of a feed")
    parser.add_argument(
        "--warm-up", type=float, default=600, help="seconds at most until all have begun and none is late"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--lines", action="store_true", help="show where the time goes, by function")
    parser.add_argument(
        "--store", help=f"a server on which databases may be made, by default {LOCAL} or an embedded one"
    )
    asked = parser.parse_args()
    logs.configure("console", "warning")
    with contextlib.ExitStack() as stack:
        server = asked.store or _server(stack)
        report: dict[str, Any] = {"python": platform.python_version(), "cores": psutil.cpu_count()}
        if asked.practices:
            report |= idle(server, asked.practices, asked.every, asked.seconds, asked.warm_up)
        if asked.full:
            report["full"] = full(server, asked.full, asked.seconds)
    for part in report.values():
        if isinstance(part, dict) and not asked.lines:
            part.pop("lines", None)
    report["failures"] = failures(report["idle"]) if "idle" in report else []
    report["passed"] = not report["failures"]
    sys.stdout.write(json.dumps(report, indent=None if asked.json else 2) + "\n")
    return 0 if report["passed"] else 1


def _server(stack: contextlib.ExitStack) -> str:
    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(LOCAL, connect_timeout=5).close()
        return LOCAL
    embedded = EmbeddedPostgres(Path(stack.enter_context(tempfile.TemporaryDirectory())))
    stack.callback(embedded.close)
    return embedded.store_conninfo


if __name__ == "__main__":
    sys.exit(main())
