"""How fast events of the past are written to a file: ``python tests/benchmarks/replay.py --json``.

A database of its own is filled with versions of resources of about 2 KB, three in four of them updates of a status and a value. The control
is what no replay can do without: reading the same rows with their bodies, in the same pages, in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo

from poller.core import jsontext
from poller.core.canonical import CODEC_ZLIB, encode_body
from poller.replay import FileDestination, Player
from poller.store.engine import READER, migrate, open_engine
from poller.store.log import EventLog, Selection
from poller.store.replays import ReplayRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = "postgresql://postgres@127.0.0.1:5432/postgres"
VERSIONS = 4
GATE = 10_000
"""Events a second that a replay must reach; exit code 1 if it does not."""


def a_resource(number: int, version: int) -> dict[str, Any]:
    """An Observation of about 2 KB."""
    components = [
        {
            "code": {
                "coding": [{"system": "http://loinc.org", "code": f"8480-{n}", "display": f"Component {n} of a panel"}]
            },
            "valueQuantity": {
                "value": jsontext.Literal(f"{number % 90 + n}.{version if n == 0 else 1}0"),
                "unit": "mm[Hg]",
            },
        }
        for n in range(10)
    ]
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final" if version == 1 else "amended",
        "subject": {"reference": f"Patient/p{number % 500}"},
        "effectiveDateTime": "2026-11-01T08:00:00Z",
        "component": components,
    }


@contextlib.contextmanager
def a_database(server: str) -> Iterator[str]:
    """A migrated database that goes again."""
    name = f"poller_bench_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            conninfo = make_conninfo(server, dbname=name)
            migrate(conninfo)
            yield conninfo
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def fill(conninfo: str, events: int) -> None:
    """History and log of ``events`` changes."""
    resources = events // VERSIONS
    history = "COPY poller.history (practice, resource_type, id, version, recorded_at, action, digest, rules_version, codec, body, read_began, read_ended) FROM STDIN"  # noqa: E501
    log = "COPY poller.event (practice, epoch, sequence, recorded_at, event_id, resource_type, id, version, action, origin, digest, changed, categories, partition_key) FROM STDIN"  # noqa: E501
    at = "2026-11-20 00:00:00Z"
    with psycopg.connect(conninfo) as connection:
        connection.execute("INSERT INTO poller.practice_log (practice, head) VALUES ('p', %s)", (resources * VERSIONS,))
        order = [(number, version) for version in range(1, VERSIONS + 1) for number in range(resources)]
        with connection.cursor() as cursor:
            with cursor.copy(history) as copy:
                for number, version in order:
                    action = "created" if version == 1 else "updated"
                    body = encode_body(a_resource(number, version))
                    copy.write_row(
                        ("p", "Observation", f"o{number}", version, at, action, b"d", 1, CODEC_ZLIB, body, at, at)
                    )
            with cursor.copy(log) as copy:
                for sequence, (number, version) in enumerate(order, start=1):
                    action = "created" if version == 1 else "updated"
                    row = (
                        "p",
                        1,
                        sequence,
                        at,
                        uuid.uuid4(),
                        "Observation",
                        f"o{number}",
                        version,
                        action,
                        "live",
                        b"d",
                    )
                    copy.write_row((*row, ["component"], ["laboratory"], f"Patient/p{number % 500}"))
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE poller.history")
        connection.execute("VACUUM ANALYZE poller.event")


def measure(conninfo: str, payload: Any, path: Path) -> dict[str, Any]:
    """One replay of everything to a file, and the control."""
    engine = open_engine(conninfo, READER)
    log, selection = EventLog(engine), Selection("p")
    begin, end = log.span(selection)
    bodies = payload == "full-resource"
    began = time.perf_counter()
    binds = selection.binds() | {"epoch": 0, "sequence": 0, "last_epoch": end[0], "last_sequence": end[1]}
    rows = sum(len(page) for page in log._rows(binds | {"limit": 500, "bodies": bodies}))
    control = time.perf_counter() - began
    record = ReplayRecord("bench", selection, payload, None, str(path), None, begin, end, None, "bench")
    with contextlib.closing(FileDestination(path)) as destination:
        began, cpu = time.perf_counter(), time.process_time()
        player = Player(log, record, destination, "https://ehr.example/p")
        player.play()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    engine.dispose()
    assert player.record.sent == rows, "else nothing was measured"
    return {
        "payload": payload,
        "events": rows,
        "seconds": round(seconds, 2),
        "events_per_second": round(rows / seconds),
        "cpu_seconds": round(cpu, 2),
        "bytes": path.stat().st_size,
        "reading_alone_seconds": round(control, 2),
        "passes": rows / seconds >= GATE,
    }


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--server", default=SERVER)
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    with a_database(said.server) as conninfo, tempfile.TemporaryDirectory() as directory:
        fill(conninfo, said.events)
        found = [measure(conninfo, payload, Path(directory) / payload) for payload in ("id-only", "full-resource")]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    report = {"benchmark": "replay to a file", "gate": GATE, "runs": found, "peak_mb": peak}
    print(json.dumps(report) if said.json else json.dumps(report, indent=2))  # noqa: T201 - what it is for
    if not all(run["passes"] for run in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
