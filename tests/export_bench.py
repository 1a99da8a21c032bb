"""A FHIR server that exports, as badly as a test wishes; before it an exporter with a real store, and a clock that only sleeping moves."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine, text

from poller.config.feed import FeedConfig
from poller.config.model import BudgetConfig, BulkConfig, PracticeConfig
from poller.config.secret import Secret
from poller.core.export import Job, Use
from poller.core.model import Kind, Target
from poller.export import Exporter, ExportReport
from poller.source.bulk import Bulk
from poller.source.client import Client
from poller.source.gate import Gate
from poller.source.wire import Wire
from poller.store.engine import ENGINE, open_engine, prove_digest_key
from poller.store.exports import ExportStore
from poller.store.repository import Lease, Repository
from poller.store.state import LeaseKeeper, StateStore
from tests.source_bench import Freely, Trusted, at_once, refusal

BASE = "https://ehr.example.org/fhir/r4/FAMLYMED"
START = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
SECOND, MINUTE, HOUR = dt.timedelta(seconds=1), dt.timedelta(minutes=1), dt.timedelta(hours=1)
KEY = b"k" * 32
TYPES = ("Observation", "Patient")

_STORED = ("practice_log", "target", "patient", "patient_source", "snapshot", "member", "history", "event", "export")

Odd = Callable[[httpx.Request], httpx.Response]
"""An answer in place of the usual one."""


class Killed(BaseException):
    """The process dies here."""


class Fuse:
    """Counts what has effect outside the process, and kills before one of them; so after the one before it, with nothing told to anyone."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.count = 0

    def step(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise Killed

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **named: Any) -> Any:
            self.step()
            return call(*arguments, **named)

        return guarded


class Clock:
    """Moves by sleeping, and a little by being looked at, so that nothing is simultaneous."""

    def __init__(self) -> None:
        self.time = START
        self.slept: list[float] = []

    def now(self) -> dt.datetime:
        self.time += dt.timedelta(milliseconds=1)
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds * SECOND
        await asyncio.sleep(0)


class Station:
    """Exports what it holds. ``odd`` has answers in place of its own, by what is asked: kick-off, poll, delete, or a file's name."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rows: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.deleted: list[str] = []
        self.always_deleted = False
        """Whether deletions are listed also where nobody asked since when."""
        self.errors: list[dict[str, Any]] = []
        self.skew = dt.timedelta(0)
        self.seconds = 60.0
        """That a job takes."""
        self.pace = "40"
        self.file_rows = 2
        self.needs_token = True
        self.counts = True
        self.stale: dt.timedelta | None = None
        """By how much what it exports is older than the kick-off."""
        self.odd: dict[str, deque[Odd]] = defaultdict(deque)
        self.asked: list[str] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.fuse = Fuse()

    def put(self, resource_type: str, name: str, **elements: Any) -> None:
        self.rows[resource_type][name] = {"resourceType": resource_type, "id": name, **elements}

    def oddly(self, what: str, *answers: Odd | int) -> None:
        """Answer so, once each, before answering as usual."""
        for answer in answers:
            self.odd[what].append(_refusing(answer) if isinstance(answer, int) else answer)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.fuse.step()
        answer = self._answer(request)
        answer.headers.setdefault("Date", format_datetime(self.clock.now() + self.skew, usegmt=True))
        return answer

    def _answer(self, request: httpx.Request) -> httpx.Response:
        where = unquote(str(request.url)).removeprefix(f"{BASE}/")
        what = self._what(request.method, where)
        self.asked.append(what)
        if self.odd[what]:
            return self.odd[what].popleft()(request)
        if what == "kick-off":
            return self._kick_off(dict(request.url.params))
        job = self.jobs.get(where.partition("=")[2] or where.split("/")[1])
        if job is None:
            return refusal(404, "not-found")
        if what == "delete":
            del self.jobs[job["id"]]
            return httpx.Response(202)
        if what == "poll":
            return self._poll(job)
        return httpx.Response(200, content=job["files"][what])

    @staticmethod
    def _what(method: str, where: str) -> str:
        if where.startswith("Group/"):
            return "kick-off"
        if where.startswith("$poll"):
            return "delete" if method == "DELETE" else "poll"
        return where.split("/", 2)[2]

    def _kick_off(self, asked: dict[str, str]) -> httpx.Response:
        if any(self.clock.time < job["ready"] for job in self.jobs.values()):
            issue = {"severity": "information", "code": "duplicate"}
            return httpx.Response(200, json={"resourceType": "OperationOutcome", "issue": [issue]})
        name = str(len(self.jobs) + len(self.asked))
        now = self.clock.now() + self.skew
        job: dict[str, Any] = {"id": name, "asked": asked, "ready": self.clock.time + self.seconds * SECOND}
        job["time"] = now - (self.stale or dt.timedelta(0))
        job["files"], job["counts"] = self._files(asked.get("_type", "").split(","), since="_since" in asked)
        self.jobs[name] = job
        return httpx.Response(202, headers={"Content-Location": f"{BASE}/$poll?job={name}", "Retry-After": self.pace})

    def _files(self, types: list[str], *, since: bool) -> tuple[dict[str, bytes], dict[str, tuple[str, int]]]:
        listed: dict[str, tuple[str, list[Any]]] = {}
        number = 0
        for kind in types:
            rows = list(self.rows[kind].values())
            for start in range(0, len(rows), self.file_rows):
                listed[f"output/{number}"] = kind, rows[start : start + self.file_rows]
                number += 1
        if (since or self.always_deleted) and self.deleted:
            entries = [{"request": {"method": "DELETE", "url": url}} for url in self.deleted]
            listed["deleted/0"] = "Bundle", [{"resourceType": "Bundle", "type": "transaction", "entry": entries}]
        if self.errors:
            listed["error/0"] = "OperationOutcome", self.errors
        files = {name: b"".join(json.dumps(row).encode() + b"\n" for row in rows) for name, (_, rows) in listed.items()}
        return files, {name: (kind, len(rows)) for name, (kind, rows) in listed.items()}

    def _poll(self, job: dict[str, Any]) -> httpx.Response:
        if self.clock.time < job["ready"]:
            return httpx.Response(202, headers={"Retry-After": self.pace, "X-Progress": "50%"})
        return httpx.Response(200, json=self.manifest(job))

    def manifest(self, job: dict[str, Any], query: str = "") -> dict[str, Any]:
        lists: dict[str, list[Any]] = {"output": [], "deleted": [], "error": []}
        for name, (kind, count) in job["counts"].items():
            entry = {"type": kind, "url": f"http://inside/fhir/r4/FAMLYMED/files/{job['id']}/{name}{query}"}
            lists[name.partition("/")[0]].append(entry | ({"count": count} if self.counts else {}))
        return {"transactionTime": job["time"].isoformat(), "requiresAccessToken": self.needs_token, **lists}


def _refusing(status: int) -> Odd:
    return lambda _request: refusal(status)


class Bench:
    """A practice, its lease held, whose store is real and whose server is a :class:`Station`."""

    def __init__(self, engine: Engine, code: str = "p1", *, timeout: dt.timedelta = 6 * HOUR) -> None:
        self.engine = engine
        self.code = code
        self.clock = Clock()
        self.station = Station(self.clock)
        self.store = ExportStore(engine)
        self.commits = 0
        self.keeper = LeaseKeeper(engine)
        self.lease: Lease = self.keeper.take(code)
        self.state = StateStore(engine)
        self.state.register_practice(self.lease)
        for name in TYPES:
            self.state.register_feed(self.lease, name, START)
        self.state.register_bulk(self.lease, TYPES, START)
        self.config = PracticeConfig.model_validate(
            {
                "code": code,
                "base_url": BASE,
                "client_id": "c",
                "key": Secret(env="UNUSED", file=None),
                "feeds": {name: FeedConfig.model_validate({}) for name in TYPES},
                "timeout": 2 * SECOND,
                "budget": BudgetConfig(calls_per_minute=250, share=1.0, max_in_flight=3),
                "bulk": BulkConfig(group="g1", timeout=timeout),
                "patients": {"references": False},
            }
        )

    @asynccontextmanager
    async def exporter(self, fuse: Fuse | None = None) -> AsyncIterator[Exporter]:
        self.station.fuse = fuse or Fuse()
        gate = Gate(self.code, self.config.budget, Freely(), in_thread=at_once)
        wire = Wire(BASE, self.config.timeout, 3, self.clock, httpx.MockTransport(self.station))
        client = Client(self.code, BASE, gate, Trusted(self.config, gate, wire), wire, self.clock)
        repository, store = Repository(self.engine, KEY), ExportStore(self.engine)
        if fuse is not None:
            repository.record = fuse.around(repository.record)  # type: ignore[method-assign]
            store.save = fuse.around(store.save)  # type: ignore[method-assign]
            store.note_deleted = fuse.around(store.note_deleted)  # type: ignore[method-assign]

        def on_commit() -> None:
            self.commits += 1

        made = Exporter(
            self.config,
            self.lease,
            Bulk(client, self.clock),
            repository,
            store,
            self.clock,
            KEY,
            on_commit,
            sleep=self.clock.sleep,
        )
        try:
            yield made
        finally:
            await gate.aclose()
            await wire.aclose()

    def run(
        self,
        use: Use = Use.FIRST_LOAD,
        since: dt.datetime | None = None,
        fuse: Fuse | None = None,
        types: tuple[str, ...] = TYPES,
    ) -> ExportReport:
        async def main() -> ExportReport:
            async with self.exporter(fuse) as exporter:
                return await exporter.run(use, types, since)

        return asyncio.run(main())

    def cancel(self) -> bool:
        async def main() -> bool:
            async with self.exporter() as exporter:
                return await exporter.cancel()

        return asyncio.run(main())

    def since(self, types: tuple[str, ...] = TYPES) -> dt.datetime | None:
        async def main() -> dt.datetime | None:
            async with self.exporter() as exporter:
                return await exporter.next_since(types)

        return asyncio.run(main())

    def select(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement), {"practice": self.code})]

    def live(self) -> list[str]:
        rows = self.select("SELECT id FROM poller.snapshot WHERE practice = :practice AND NOT deleted ORDER BY 1")
        return [id_ for (id_,) in rows]

    def missing(self) -> list[str]:
        return [id_ for (id_,) in self.select("SELECT id FROM poller.absence WHERE practice = :practice ORDER BY 1")]

    def events(self) -> list[tuple[str, str, str]]:
        found = self.select(
            "SELECT action, origin, id FROM poller.event WHERE practice = :practice ORDER BY epoch, sequence"
        )
        return [(action, origin, id_) for action, origin, id_ in found]

    def outcome(self) -> dict[str, Any]:
        """All that an export leaves behind, less when."""
        kept = {
            "snapshot": "SELECT resource_type, id, version, deleted, digest FROM poller.snapshot",
            "history": "SELECT resource_type, id, version, action, digest FROM poller.history",
            "event": "SELECT resource_type, id, version, action, origin FROM poller.event",
            "member": "SELECT target, id FROM poller.member",
            "absence": "SELECT resource_type, id, state FROM poller.absence",
            "target": "SELECT target, coverage, failure, baseline_at IS NULL FROM poller.target",
        }
        return {
            name: sorted(self.select(f"{what} WHERE practice = :practice"), key=repr) for name, what in kept.items()
        }

    def take_over(self, other: Bench) -> None:
        """Have all that is stored of another practice, and nothing else."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL ROLE none")
            for name in _STORED:
                connection.execute(text(f"DELETE FROM poller.{name} WHERE practice = :mine"), {"mine": self.code})  # noqa: S608
                connection.execute(
                    text(
                        f"INSERT INTO poller.{name} SELECT r.* FROM poller.{name} AS t, LATERAL"  # noqa: S608
                        " jsonb_populate_record(t, jsonb_build_object('practice', CAST(:mine AS text))) AS r WHERE t.practice = :theirs"
                    ),
                    {"mine": self.code, "theirs": other.code},
                )

    def target(self, name: str) -> Target:
        return Target(self.code, name, Kind.BULK)

    def last(self) -> Job:
        """The job begun last."""
        jobs = self.store._load(
            self.code, ["done", "failed", "expired", "cancelled", "requested", "in-progress", "ready"]
        )
        return jobs[-1]


def opened(postgres_server: str, template_database: str) -> Iterator[Engine]:
    """A database for all tests of a file: each has a practice of its own, and no row is without its practice."""
    name = f"poller_exports_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
    made = open_engine(make_conninfo(postgres_server, dbname=name), ENGINE, pool_size=4)
    prove_digest_key(made, KEY)
    yield made
    made.dispose()
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def prepared(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A practice with a few resources, not exported yet, that waits for no retry."""
    monkeypatch.setattr("poller.core.faults.backoff", lambda _retry, _jitter: 0.0)
    made = Bench(engine, uuid.uuid4().hex)
    fill(made)
    yield made
    made.keeper.close()


def fill(bench: Bench) -> None:
    """Two patients and five observations."""
    for name in ("a", "b"):
        bench.station.put("Patient", name)
    for number in range(5):
        bench.station.put("Observation", f"o{number}", valueString="1")


ALL = ["a", "b", "o0", "o1", "o2", "o3", "o4"]


def loaded(bench: Bench) -> Job:
    """A first load an hour ago."""
    report = bench.run()
    assert report.job.is_whole
    bench.clock.time += HOUR
    bench.station.asked.clear()
    bench.clock.slept.clear()
    return report.job
