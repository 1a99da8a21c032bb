"""How fast the store finds and records what has changed, against a raw COPY of the same bytes in the same run.

``python tests/benchmarks/diff.py [--count 100000] [--rows 5000000] [--peer dlt] [--encrypt] [--json] [SERVER]``. Rounds: a first load,
the same read again, 1 % changed, all changed; then the same on a database that holds ``--rows`` resources of the practice already (0
leaves that out). A resource's seconds are those from the parsed resource to the commit: reduced, compared, locked, decided, written. What
parsing takes is told beside it. The COPY is the best of three, of text that was escaped beforehand, into a table without an index.

``--encrypt`` does nothing else but the rounds plain and encrypted, each in a database of its own, batch by batch in turn (what slows the
machine for a while slows both), and tells how many times longer the encrypted ones take.

Exit code 1 if a gate of :data:`GATES` is missed, or if a round finds another number of changes than there are. SERVER's login must be
allowed to create a database; its default is the local server.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import platform
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg.conninfo import make_conninfo

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script, this file has only its own directory to import from

from poller.app import collect_seldom
from poller.core import canonical, jsontext
from poller.core.model import Coverage, Kind, Origin, Sighting, Target
from poller.store.engine import ENGINE, migrate, open_engine
from poller.store.repository import PassContext, PassEnd, Repository
from poller.store.state import LeaseKeeper, StateStore
from poller.store.vault import PLAIN, Master, Masters, Vault
from tests.benchmarks import diff_dlt
from tests.benchmarks.records import BATCH, body, changed

KEY = b"k" * 32
START = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
TARGET = Target("p1", "Observation", Kind.SWEEP)
LOCAL = "postgresql://postgres@127.0.0.1:5432/postgres"
ROUNDS = {"first load": (0, 1), "unchanged": (0, 1), "1 % changed": (100, 100), "all changed": (1, 1)}
"""Round → each how manyeth resource has changed by then (0: none), and of how many one is an event; unchanged has none."""
GATES = {"unchanged": 5.0, "all changed": 12.0, "slower among many": 1.2, "slower encrypted": 1.15}
"""Times of the raw COPY that a round may take at most; of the same round in an empty database; of all rounds plain."""
_MB = 1024 * 1024


@dataclass
class Round:
    """What one round has taken."""

    resources: int = 0
    events: int = 0
    parse: float = 0.0
    seconds: float = 0.0
    cpu: float = 0.0
    """Of this process, without parsing."""
    server_cpu: float = 0.0
    """Of the backends that serve it."""
    peak: int = 0
    """Bytes resident at most."""

    def report(self, copy: float) -> dict[str, Any]:
        """The figures of the round beside the COPY's seconds."""
        return {
            "resources a second": round(self.resources / self.seconds),
            "of raw COPY": round(self.seconds / copy, 2),
            "seconds": round(self.seconds, 2),
            "events": self.events,
            "our CPU": round(self.cpu, 2),
            "Postgres' CPU": round(self.server_cpu, 2),
            "parsing besides": round(self.parse, 2),
            "peak MB": round(self.peak / _MB),
        }


@contextmanager
def database(server: str) -> Iterator[str]:
    """A migrated database of the run's own."""
    name = f"poller_bench_{uuid.uuid4().hex[:12]}"
    with closing(psycopg.connect(server, autocommit=True)) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            migrate(make_conninfo(server, dbname=name))
            yield make_conninfo(server, dbname=name)
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


FILL = """
INSERT INTO poller.snapshot (practice, resource_type, id, version, deleted, digest, elements, rules_version, codec, body, categories,
  partition_key, entered_in_error, read_began, read_ended, first_seen_at, changed_at)
SELECT 'p1', 'Observation', 'old' || n, 1, false, sha256(n::text::bytea), '{"status": "0", "code": "1"}', 1, 1,
  decode(repeat(md5(n::text), 8), 'hex'), '{}', 'Patient/p' || n % 200000, false, '2026-10-02', '2026-10-02', '2026-10-02', '2026-10-02'
FROM generate_series(1, %(rows)s) AS n;
INSERT INTO poller.history
SELECT 'p1', 'Observation', 'old' || n, 1, '2026-10-02', 'created', sha256(n::text::bytea), 1, 1, NULL,
  decode(repeat(md5(n::text), 8), 'hex'), '2026-10-02', '2026-10-02'
FROM generate_series(1, %(rows)s) AS n;
INSERT INTO poller.event (practice, epoch, sequence, recorded_at, event_id, resource_type, id, version, action, origin, digest, changed,
  categories, partition_key)
SELECT 'p1', 1, n, '2026-10-02', gen_random_uuid(), 'Observation', 'old' || n, 1, 'created', 'live', sha256(n::text::bytea), '{}', '{}',
  'Patient/p' || n % 200000
FROM generate_series(1, %(rows)s) AS n;
UPDATE poller.practice_log SET head = %(rows)s WHERE practice = 'p1'
"""


def fill(url: str, rows: int) -> None:
    """Make the practice one of ``rows`` older resources, each with its history and its event."""
    with closing(psycopg.connect(url, autocommit=True)) as admin:
        admin.execute("SET synchronous_commit = off")
        admin.execute("SELECT poller.ensure_partitions('2026-10-01')")
        for statement in FILL.split(";\n"):
            admin.execute(statement.replace("%(rows)s", str(int(rows))))
        admin.execute("VACUUM ANALYZE")
        admin.execute("CHECKPOINT")


@dataclass
class Bench:
    """One practice on one database."""

    url: str
    count: int
    encrypt: bool = False
    taken: dict[str, Round] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = open_engine(self.url, ENGINE)
        self.keeper = LeaseKeeper(self.engine)
        self.lease = self.keeper.take("p1")
        state = StateStore(self.engine)
        state.register_practice(self.lease)
        state.register_feed(self.lease, "Observation", START)
        state.register_targets(self.lease, "Observation", [TARGET], START)
        with self.engine.begin() as connection:
            connection.exec_driver_sql("SELECT poller.ensure_partitions('2026-11-22')")
        self.keys = open_engine(self.url, ENGINE, pool_size=1)
        vault = Vault(self.keys, Masters([Master("bench", AESGCM(KEY))])) if self.encrypt else PLAIN
        self.repository = Repository(self.engine, KEY, vault)
        self.process = psutil.Process()

    def close(self) -> None:
        """Give the lease and the connections back."""
        self.keeper.close()
        self.engine.dispose()
        self.keys.dispose()

    def server_cpu(self) -> float:
        """Seconds that the backends of this database have taken, where they are this machine's."""
        with closing(psycopg.connect(self.url)) as admin:
            pids = admin.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()").fetchall()
            return sum(_cpu(pid) for (pid,) in pids)

    def run(self, name: str, every: int, second: int) -> Round:
        """Read all resources once; each ``every``-th has changed."""
        for _ in self.batches(name, every, second):
            pass
        return self.taken[name]

    def batches(self, name: str, every: int, second: int) -> Iterator[None]:
        """The same; goes on to the next batch when it is asked for it."""
        taken = Round(peak=self.process.memory_info().rss)
        context = PassContext(self.lease, TARGET, Origin.LIVE)
        began = START + dt.timedelta(seconds=second)
        now = began + dt.timedelta(seconds=30)
        server = self.server_cpu()
        for first in range(0, self.count, BATCH):
            numbers = range(first, min(first + BATCH, self.count))
            texts = [body(number, changed(number, every) if every else 0) for number in numbers]
            clock = time.perf_counter()
            resources = [jsontext.loads(one) for one in texts]
            taken.parse += time.perf_counter() - clock
            sightings = [Sighting("Observation", one["id"], one, began, began) for one in resources]
            is_last = numbers[-1] == self.count - 1
            end = PassEnd(now, now, Coverage.UNPROVEN, counts=True) if is_last else None
            clock, cpu = time.perf_counter(), time.process_time()
            versions = [canonical.reduce(one, KEY) for one in sightings]
            recorded = self.repository.record(context, versions, now, end)
            taken.seconds += time.perf_counter() - clock
            taken.cpu += time.process_time() - cpu
            taken.resources += len(numbers)
            taken.events += len(recorded.changes)
            taken.peak = max(taken.peak, self.process.memory_info().rss)
            yield
        taken.server_cpu = self.server_cpu() - server
        self.taken[name] = taken

    def run_all(self) -> None:
        """All rounds. Raises AssertionError if one finds other changes than there are."""
        for second, (name, (every, _)) in enumerate(ROUNDS.items(), start=1):
            self.run(name, every, second * 60)
            self.check(name)

    def check(self, name: str) -> None:
        """Raises AssertionError if a round has found other changes than there are."""
        expected = {"first load": self.count, "unchanged": 0, "1 % changed": -(-self.count // 100)}
        expected["all changed"] = self.count - expected["1 % changed"]
        if (found := self.taken[name].events) != expected[name]:
            raise AssertionError(f"{name}: {found} events instead of {expected[name]}")


def _cpu(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def copy_seconds(url: str, count: int) -> float:
    """The same bytes into a bare table in one COPY: what disk and wire allow. The best of three: one may meet a checkpoint."""
    blocks = [
        b"".join(
            b"o%d\t%s\n" % (number, body(number).replace(b"\\", b"\\\\"))
            for number in range(first, min(first + BATCH, count))
        )
        for first in range(0, count, BATCH)
    ]
    seconds = []
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        for _ in range(3):
            connection.execute("DROP TABLE IF EXISTS raw")
            connection.execute("CREATE TABLE raw (id text, body text)")
            clock = time.perf_counter()
            with connection.cursor().copy("COPY raw (id, body) FROM STDIN") as rows:
                for block in blocks:
                    rows.write(block)
            seconds.append(time.perf_counter() - clock)
        connection.execute("DROP TABLE raw")
    return min(seconds)


def misses(report: dict[str, Any]) -> list[str]:
    """The gates that a report misses, in words."""
    found = [
        f"{name}: {taken['of raw COPY']} times the raw COPY, {GATES[name]} allowed"
        for name, taken in report["rounds"].items()
        if taken["of raw COPY"] > GATES.get(name, float("inf"))
    ]
    for name, taken in report.get("among many", {}).items():
        slower = taken["seconds"] / report["rounds"][name]["seconds"]
        if slower > GATES["slower among many"]:
            found.append(f"{name}: {slower:.2f} times slower among {report['rows']} rows")
    return found


def measure(server: str, count: int, rows: int, peer: str | None) -> dict[str, Any]:
    """The whole report."""
    with database(server) as url:
        copy = copy_seconds(url, count)
        bench = Bench(url, count)
        bench.run_all()
        bench.close()
        report: dict[str, Any] = {
            "resources": count,
            "bytes each": sum(len(body(number)) for number in range(min(count, 999))) // min(count, 999),
            "python": platform.python_version(),
            "raw COPY": {"seconds": round(copy, 2), "resources a second": round(count / copy)},
            "rounds": {name: taken.report(copy) for name, taken in bench.taken.items()},
        }
        if peer == "dlt":
            report["dlt scd2"] = diff_dlt.measure(url, count)
    if rows:
        with database(server) as url:
            bench = Bench(url, count)
            fill(url, rows)
            bench.run_all()
            bench.close()
        report |= {"rows": rows, "among many": {name: taken.report(copy) for name, taken in bench.taken.items()}}
    return report | {"misses": misses(report)}


def measure_encryption(server: str, count: int) -> dict[str, Any]:
    """How much longer all rounds take where bodies are encrypted."""
    with database(server) as plain_url, database(server) as sealed_url:
        plain, sealed = Bench(plain_url, count), Bench(sealed_url, count, encrypt=True)
        for second, (name, (every, _)) in enumerate(ROUNDS.items(), start=1):
            both = [bench.batches(name, every, second * 60) for bench in (plain, sealed)]
            for turn in itertools.count():
                order = both if turn % 2 == 0 else both[::-1]  # whoever comes second finds warmer caches
                if [next(batches, name) for batches in order] == [name, name]:
                    break
            plain.check(name)
            sealed.check(name)
        plain.close()
        sealed.close()
    times = {
        name: [round(bench.taken[name].seconds, 3) for bench in (plain, sealed)]
        + [round(sealed.taken[name].seconds / plain.taken[name].seconds, 3)]
        for name in ROUNDS
    }
    in_all = [sum(one.seconds for one in bench.taken.values()) for bench in (plain, sealed)]
    ratio = round(in_all[1] / in_all[0], 3)
    times["in all"] = [round(in_all[0], 3), round(in_all[1], 3), ratio]
    gate = GATES["slower encrypted"]
    return {
        "resources": count,
        "encrypted": {
            name: {"seconds plain": plain_took, "seconds encrypted": sealed_took, "ratio": each}
            for name, (plain_took, sealed_took, each) in times.items()
        },
        "misses": [f"encrypted: {ratio} times slower, {gate} allowed"] if ratio > gate else [],
    }


def main() -> None:
    """Measure, print, and exit 1 on a gate that is missed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("server", nargs="?", default=LOCAL)
    arguments.add_argument("--count", type=int, default=100_000)
    arguments.add_argument("--rows", type=int, default=5_000_000)
    arguments.add_argument("--peer", choices=["dlt"])
    arguments.add_argument("--encrypt", action="store_true")
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    collect_seldom()
    report = (
        measure_encryption(given.server, given.count)
        if given.encrypt
        else measure(given.server, given.count, given.rows, given.peer)
    )
    if given.json:
        json.dump(report, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        if "raw COPY" in report:
            sys.stdout.write(f"raw COPY: {report['raw COPY']['resources a second']} a second\n")
        for where in ("rounds", "among many", "dlt scd2", "encrypted"):
            for name, taken in report.get(where, {}).items():
                figures = "  ".join(f"{key} {value}" for key, value in taken.items())
                sys.stdout.write(f"{where:10} {name:12} {figures}\n")
        for miss in report["misses"]:
            sys.stdout.write(f"missed: {miss}\n")
    if report["misses"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
