"""The first load of a big practice: how fast each way of reading brings it into the store, and in how much memory.

``python tests/benchmarks/first_load.py [--resources 200000] [--by both] [--json] [--store CONNINFO]``. Server and poller have a process
each, so that the memory is the poller's alone. Each way has a database of its own, dropped afterwards, on the local server or, where
there is none, on an embedded one. Beside it, in the same run, a raw COPY of the same bytes. Exit code 1 if memory reaches :data:`MOST`,
if a row is missing, or if a way does not prove that it has read all.

``--by``: ``bulk`` (an export of the Group), ``search`` (a sweep of each type, all at once, as they are owed), ``both`` of these,
``everything`` (each patient's ``$everything``), ``patient`` (each patient type by type; few resources, or it takes long), or ``all``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine, text

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script, this file has only its own directory to import from

from poller import app, logs
from poller.config import PracticeConfig
from poller.core.export import Use
from poller.core.model import Coverage, Kind, Strategy, Version
from poller.cycle import Cycle
from poller.export import Exporter
from poller.source.bulk import Bulk
from poller.source.connection import open_source
from poller.store.embedded import EmbeddedPostgres
from poller.store.engine import ENGINE, ensure_partitions, migrate, open_clock, open_engine
from poller.store.exports import ExportStore
from poller.store.ledger import PostgresLedger
from poller.store.repository import Lease, PassContext, PassEnd, Recorded, Repository
from poller.store.state import LeaseKeeper, StateStore
from tests.benchmarks.big_server import CODE, GROUP, RESOURCES, SHARES, Big, running

MOST = 300
"""MB that a first load may take, at its peak."""

BATCH = 1_000
PAGE = 500
KEY = b"k" * 32
LOCAL = "postgresql://postgres@127.0.0.1:5432/postgres"
STRATEGIES = {"search": Strategy.SWEEP, "everything": Strategy.EVERYTHING, "patient": Strategy.PATIENT}
_MB = 1024 * 1024
_QUARTERS = 4
_SAMPLE_EVERY = 0.02
_TICK = 0.5


# --- the poller's side, in a process of its own


class Meter(threading.Thread):
    """Samples this process's resident memory while a load runs, apart for each quarter of the resources."""

    def __init__(self, expected: int) -> None:
        super().__init__(daemon=True)
        self._expected = expected
        self._process = psutil.Process()
        self._over = threading.Event()
        self.before = self._process.memory_info().rss
        self.peaks = [0] * _QUARTERS
        self.stored = 0
        """Resources stored so far; the repository counts here."""

    def run(self) -> None:
        while not self._over.wait(_SAMPLE_EVERY):
            quarter = min(_QUARTERS - 1, self.stored * _QUARTERS // self._expected)
            self.peaks[quarter] = max(self.peaks[quarter], self._process.memory_info().rss)

    def stop(self) -> None:
        self._over.set()
        self.join()


class Counting(Repository):
    """Tells a meter how much is stored."""

    def __init__(self, engine: Engine, meter: Meter) -> None:
        super().__init__(engine, KEY)
        self._meter = meter

    def record(
        self, context: PassContext, versions: Sequence[Version], now: dt.datetime, end: PassEnd | None = None
    ) -> Recorded:
        recorded = super().record(context, versions, now, end)
        self._meter.stored += len(recorded.changes)
        return recorded


def practice(base: str) -> PracticeConfig:
    """All types of the big practice, at a pace that does not matter."""
    feed = {"every": dt.timedelta(days=1), "sweep_every": dt.timedelta(days=1), "page_size": PAGE}
    return PracticeConfig.model_validate(
        {
            "code": CODE,
            "base_url": base,
            "auth": "none",
            "feeds": {
                kind: {**feed, "categories": ("laboratory",)} if kind == "Observation" else feed for kind in SHARES
            },
            "timeout": dt.timedelta(minutes=2),
            "budget": {"calls_per_minute": 1_000_000},
            "patients": {"names": ("f",)},
            "bulk": {"group": GROUP},
        }
    )


class Load:
    """One way of reading, before a store that is empty."""

    def __init__(self, base: str, engine: Engine, meter: Meter) -> None:
        self.config = practice(base)
        self.engine = engine
        self.repository = Counting(engine, meter)
        self.keeper = LeaseKeeper(engine)
        self.lease: Lease = self.keeper.take(CODE)
        self.states = StateStore(engine)
        self.clock = open_clock(engine)
        self.states.register_practice(self.lease)
        for kind in SHARES:
            self.states.register_feed(self.lease, kind, self.clock.now())
        with engine.begin() as connection:
            ensure_partitions(connection, self.clock.now())

    async def run(self, way: str) -> None:
        """Read everything."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(app._THREADS, "store"))
        async with open_source(self.config, PostgresLedger(self.engine), self.clock) as source:
            if way == "bulk":
                self.states.register_bulk(self.lease, list(SHARES), self.clock.now())
                export = Exporter(
                    self.config,
                    self.lease,
                    Bulk(source.client, self.clock),
                    self.repository,
                    ExportStore(self.engine),
                    self.clock,
                    KEY,
                    lambda: None,
                )
                await export.run(Use.FIRST_LOAD, list(SHARES))
                return
            cycle = Cycle(self.config, self.lease, source, self.repository, self.states, self.clock, KEY, lambda: None)
            for kind in SHARES:
                await cycle.adopt(
                    kind, Strategy.PATIENT if kind == "Patient" and way == "everything" else STRATEGIES[way]
                )
            if way == "search":
                await asyncio.gather(*map(cycle.run_pass, list(cycle.targets.states.values())))
            else:
                await self._until_whole(cycle)

    @staticmethod
    async def _until_whole(cycle: Cycle) -> None:
        while cycle._running or any(state.baseline_at is None for state in cycle.targets.states.values()):
            cycle.tick()
            await asyncio.wait([cycle.failed], timeout=_TICK)
            if cycle.failed.done():
                cycle.failed.result()
        await cycle.stop()

    def proven(self, way: str) -> bool:
        """Whether every target was read whole."""
        kinds = [Kind.BULK, Kind.SWEEP] if way in {"bulk", "search"} else [Kind.NAMES, Kind.PATIENT, Kind.EVERYTHING]
        with self.engine.connect() as connection:
            rows = connection.execute(
                text("SELECT coverage FROM poller.target WHERE kind = ANY (CAST(:kinds AS text[]))"),
                {"kinds": [kind.value for kind in kinds]},
            )
            found = list(rows.scalars())
        return len(found) >= len(SHARES) and set(found) == {Coverage.COMPLETE.value}


def load(way: str, base: str, store: str, resources: int) -> dict[str, Any]:
    """Load by one way; what this process took for it."""
    logs.configure("console", "warning")
    engine = open_engine(store, ENGINE, pool_size=10)
    meter = Meter(resources)
    one = Load(base, engine, meter)
    meter.before = psutil.Process().memory_info().rss
    meter.start()
    began = time.perf_counter()
    asyncio.run(one.run(way))
    seconds = time.perf_counter() - began
    meter.stop()
    used = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, kilobytes elsewhere
    proven = one.proven(way)
    one.keeper.close()
    engine.dispose()
    return {
        "seconds": round(seconds, 1),
        "resources a second": round(resources / seconds),
        "CPU seconds": round(used.ru_utime + used.ru_stime, 1),
        "MB before": round(meter.before / _MB),
        "MB at most, by quarters": [round(peak / _MB) for peak in meter.peaks],
        "peak MB": round(used.ru_maxrss * unit / _MB, 1),
        "proven": proven,
    }


# --- beside it: the server, the database, the control


@contextlib.contextmanager
def server(named: str | None) -> Iterator[str]:
    """Conninfo of a PostgreSQL whose login may create databases: the one named, else the local one, else an embedded one."""
    with contextlib.ExitStack() as stack:
        if named is None:
            try:
                psycopg.connect(LOCAL, connect_timeout=5).close()
                named = LOCAL
            except psycopg.OperationalError:
                directory = stack.enter_context(tempfile.TemporaryDirectory())
                embedded = EmbeddedPostgres(Path(directory))
                stack.callback(embedded.close)
                named = embedded.store_conninfo
        yield named


@contextlib.contextmanager
def database(server: str) -> Iterator[str]:
    """Conninfo of a database that is there for this block."""
    name = f"poller_bench_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    try:
        yield make_conninfo(server, dbname=name)
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def copy(store: str, big: Big) -> tuple[float, int]:
    """Seconds for the same bytes into a bare table, a commit for each thousand: what the disk and the wire allow. And how many bytes."""
    seconds, size = 0.0, 0
    with psycopg.connect(store) as connection:
        connection.execute("CREATE TABLE raw (kind text, id text, body bytea NOT NULL, PRIMARY KEY (kind, id))")
        connection.commit()
        for kind, count in big.counts.items():
            for first in range(0, count, BATCH):
                numbers = range(first, min(first + BATCH, count))
                rows = [(kind, big.name(kind, number), big.body(kind, number)) for number in numbers]
                size += sum(len(body) for _, _, body in rows)
                began = time.perf_counter()
                with connection.cursor().copy("COPY raw (kind, id, body) FROM STDIN") as into:
                    for row in rows:
                        into.write_row(row)
                connection.commit()
                seconds += time.perf_counter() - began
    return seconds, size


def stored(store: str) -> tuple[dict[str, int], int]:
    """How many resources the store shows, by type; and how many events tell of one, each for the first time."""
    with psycopg.connect(store) as connection:
        rows = connection.execute("SELECT resource_type, count(*) FROM poller.snapshot WHERE NOT deleted GROUP BY 1")
        counts: dict[str, int] = dict(rows.fetchall())
        events = connection.execute(
            "SELECT count(DISTINCT (resource_type, id)) FROM poller.event WHERE action = 'created'"
        )
        (told,) = events.fetchone() or (0,)
    return counts, told


def in_own_process(way: str, base: str, store: str, resources: int) -> dict[str, Any]:
    """:func:`load`, with nobody else's memory."""
    asked = ["--load", way, "--base", base, "--store", store, "--resources", str(resources)]
    done = subprocess.run([sys.executable, __file__, *asked], stdout=subprocess.PIPE, check=True, text=True)
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def passed(found: Mapping[str, Any], big: Big, counts: Mapping[str, int], told: int) -> bool:
    """Whether a load took little enough, is proven to be whole, and left what the server has: ``counts`` by type, ``told`` in events."""
    is_whole = found["proven"] and counts == big.counts and told == sum(big.counts.values())
    return found["peak MB"] < MOST and is_whole


def measure(way: str, base: str, at: str, big: Big) -> dict[str, Any]:
    """One way, and the control just before and just after it."""
    resources = sum(big.counts.values())
    raw = []
    with database(at) as store:
        raw.append(copy(store, big)[0])
    with database(at) as store:
        migrate(store)
        found = in_own_process(way, base, store, resources)
        counts, told = stored(store)
    with database(at) as store:
        seconds, size = copy(store, big)
        raw.append(seconds)
    rows = sum(counts.values())
    return found | {
        "raw COPY seconds": [round(seconds, 1) for seconds in raw],
        "of raw COPY": round(found["seconds"] / min(raw), 1),
        "bytes each": size // resources,
        "rows": rows,
        "passed": passed(found, big, counts, told),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--resources", type=int, default=RESOURCES)
    arguments.add_argument("--by", choices=["bulk", "search", "both", "everything", "patient", "all"], default="both")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--store", metavar="CONNINFO")
    arguments.add_argument("--load", help=argparse.SUPPRESS)
    arguments.add_argument("--base", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.load:
        json.dump(load(given.load, given.base, given.store, given.resources), sys.stdout)
        return
    ways = {"both": ["bulk", "search"], "all": ["bulk", "search", "everything", "patient"]}.get(given.by, [given.by])
    big = Big(given.resources)
    report: dict[str, Any] = {"resources": given.resources, "python": platform.python_version(), "ways": {}}
    with server(given.store) as at, running(given.resources) as base:
        for way in ways:
            report["ways"][way] = measure(way, base, at, big)
    report["passed"] = all(found["passed"] for found in report["ways"].values())
    write(report, as_json=given.json)
    sys.exit(0 if report["passed"] else 1)


def write(report: Mapping[str, Any], *, as_json: bool) -> None:
    """To the standard output."""
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return
    for way, found in report["ways"].items():
        sys.stdout.write(f"{way}\n" + "".join(f"  {name:26} {value}\n" for name, value in found.items()))


if __name__ == "__main__":
    main()
