"""How fast the store is: 20,000 resources of about 2 KB recorded in batches of 1,000, against a raw COPY of the same bytes in the same run.

``python tests/benchmarks/store.py [--json] [CONNINFO]``. The login must be allowed to create a database; its default is the local server.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from poller.core import canonical, jsontext
from poller.core.model import Coverage, Kind, Origin, Sighting, Target, Version
from poller.store.engine import ENGINE, migrate, open_engine
from poller.store.log import EventLog
from poller.store.repository import PassContext, PassEnd, Repository
from poller.store.state import LeaseKeeper, StateStore

COUNT = 20_000
BATCH = 1_000
KEY = b"k" * 32
START = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
TARGET = Target("p1", "Observation", Kind.SWEEP)


def body(number: int, round_: int = 0) -> bytes:
    """An Observation of about 2 KB as a server would send it."""
    components = ",".join(
        f'{{"code":{{"coding":[{{"system":"http://loinc.org","code":"{number % 997}-{part}","display":"Component {part}"}}]}},'
        f'"valueQuantity":{{"value":{(number * 7 + part) % 200}.{part}0,"unit":"mmol/L","system":"http://unitsofmeasure.org"}}}}'
        for part in range(9)
    )
    return (
        f'{{"resourceType":"Observation","id":"o{number}","meta":{{"versionId":"1","lastUpdated":"2026-11-22T11:00:00Z"}},'
        f'"status":"final","category":[{{"coding":[{{"code":"laboratory"}}]}}],"subject":{{"reference":"Patient/p{number % 500}"}},'
        f'"effectiveDateTime":"2026-11-20T08:00:00Z","valueString":"{uuid.uuid5(uuid.NAMESPACE_OID, f"{number}/{round_}")}",'
        f'"component":[{components}]}}'
    ).encode()


def batches(bodies: list[bytes], second: int) -> Iterator[list[Version]]:
    """Parsed, reduced to versions, in batches: what a worker does before the store."""
    began = START + dt.timedelta(seconds=second)
    for first in range(0, len(bodies), BATCH):
        resources = [jsontext.loads(text) for text in bodies[first : first + BATCH]]
        yield [
            canonical.reduce(Sighting("Observation", resource["id"], resource, began, began), KEY)
            for resource in resources
        ]


@contextmanager
def database(server: str) -> Iterator[str]:
    name = f"poller_bench_{uuid.uuid4().hex[:12]}"
    with closing(psycopg.connect(server, autocommit=True)) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            migrate(make_conninfo(server, dbname=name))
            yield make_conninfo(server, dbname=name)
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def copy(url: str, bodies: list[bytes]) -> float:
    """The same bytes into a bare table, a commit for each thousand: what the disk and the wire allow."""
    with closing(psycopg.connect(url)) as connection:
        connection.execute("CREATE TABLE raw (id text PRIMARY KEY, body bytea NOT NULL)")
        connection.commit()

        def write() -> None:
            for first in range(0, len(bodies), BATCH):
                with connection.cursor().copy("COPY raw (id, body) FROM STDIN") as rows:
                    for number, text in enumerate(bodies[first : first + BATCH], first):
                        rows.write_row((f"o{number}", text))
                connection.commit()

        return timed(write)


def measure(url: str) -> dict[str, Any]:
    """Seconds of each round, the work before the store and the store's own."""
    engine = open_engine(url, ENGINE)
    keeper = LeaseKeeper(engine)
    lease = keeper.take("p1")
    state = StateStore(engine)
    state.register_practice(lease)
    state.register_feed(lease, "Observation", START)
    state.register_targets(lease, "Observation", [TARGET], START)
    with engine.begin() as connection:
        connection.exec_driver_sql("SELECT poller.ensure_partitions('2026-11-22')")
    repository, context = Repository(engine, KEY), PassContext(lease, TARGET, Origin.LIVE)
    first = [body(number) for number in range(COUNT)]
    changed = [body(number, 1 if number % 100 == 0 else 0) for number in range(COUNT)]
    rounds: dict[str, Any] = {}
    for second, (name, bodies, events) in enumerate(
        [("first load", first, COUNT), ("unchanged", first, 0), ("1 % changed", changed, COUNT // 100)], start=1
    ):
        began = time.perf_counter()
        prepared = list(batches(bodies, second * 60))
        reduce = time.perf_counter() - began
        now = START + dt.timedelta(seconds=second * 60 + 30)
        end = PassEnd(now, now, Coverage.COMPLETE, seen=[f"o{number}" for number in range(COUNT)], counts=True)
        found: list[int] = []

        def record(prepared: list[list[Version]] = prepared, now: dt.datetime = now, end: PassEnd = end) -> None:
            for number, batch in enumerate(prepared, start=1):
                last = end if number == len(prepared) else None
                found.append(len(repository.record(context, batch, now, last).changes))  # noqa: B023 - called at once

        store = timed(record)
        if sum(found) != events:
            raise AssertionError(f"{name}: {sum(found)} events instead of {events}")
        rounds[name] = {"parse and digest": reduce, "store": store}
    rounds["raw COPY"] = {"store": copy_seconds(url, first)}
    rounds["relay reads all"] = {"store": timed(lambda: read_log(EventLog(engine)))}
    keeper.close()
    engine.dispose()
    return rounds | {"bytes each": sum(map(len, first)) // COUNT}


def copy_seconds(url: str, bodies: list[bytes]) -> float:
    """The best of three, since one may meet a checkpoint."""
    seconds = []
    for _ in range(3):
        seconds.append(copy(url, bodies))
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            connection.execute("DROP TABLE raw")
    return min(seconds)


def read_log(log: EventLog) -> None:
    sequence = 0
    while page := log.after("p1", 1, sequence, 500, bodies=True):
        sequence = page[-1].sequence


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("server", nargs="?", default="postgresql://postgres@127.0.0.1:5432/postgres")
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    with database(given.server) as url:
        rounds = measure(url)
    raw = rounds["raw COPY"]["store"]
    each = rounds.pop("bytes each")
    report = {
        "resources": COUNT,
        "bytes each": each,
        "python": platform.python_version(),
        "rounds": {
            name: {step: round(seconds, 3) for step, seconds in steps.items()}
            | {
                "resources a second in the store": round(COUNT / steps["store"]),
                "of raw COPY": round(steps["store"] / raw, 2),
            }
            for name, steps in rounds.items()
        },
    }
    if given.json:
        json.dump(report, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    for name, steps in report["rounds"].items():
        sys.stdout.write(f"{name:16} " + "  ".join(f"{step} {value}" for step, value in steps.items()) + "\n")


if __name__ == "__main__":
    main()
