"""The README's consumer, killed again and again, has applied each change once and in order (guarantee 4, the consumer's half).

Shown to fail: acknowledge before the transaction, and changes are missing; drop ``is_new``, and changes are there twice.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poller.core.envelope import Message

if TYPE_CHECKING:
    from tests.broker_bench import Bench

pytest_plugins = ["tests.broker_bench"]

SAMPLE = Path(__file__).parent / "sample_consumer.py"
RESOURCES, VERSIONS = 8, 25


def a_change(resource: int, version: int) -> Message:
    subject = f"Observation/o{resource}"
    event = {
        "id": f"{subject}#{version}",
        "source": "https://ehr.example/A",
        "subject": subject,
        "type": "dev.ehrpoller.resource.updated.v1",
        "data": {"response": {"etag": f'W/"{version}"'}},
    }
    return Message(event["id"], subject, "fhir.A.Observation.updated", json.dumps(event).encode(), {})  # type: ignore[arg-type]


def start(bench: Bench, database: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | bench.for_consumers() | {"QUEUE": bench.sink.queues[0], "CONSUMER_DB": str(database)}
    return subprocess.Popen([sys.executable, SAMPLE], env=environment, stderr=subprocess.DEVNULL)


def journal(database: Path) -> list[Any]:
    if not database.exists():
        return []
    with closing(sqlite3.connect(database, timeout=10)) as db:
        known = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchone()
        return db.execute("SELECT subject, version FROM journal ORDER BY rowid").fetchall() if known else []


def until_applied(database: Path, count: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while len(journal(database)) < count:
        assert time.monotonic() < deadline, "the consumer does not go on"
        time.sleep(0.02)


def test_each_change_is_applied_once_and_in_order_however_often_it_is_killed(bench: Bench, tmp_path: Path) -> None:
    chance = random.Random(7)  # noqa: S311 - a test
    messages = [a_change(resource, version) for version in range(1, VERSIONS + 1) for resource in range(RESOURCES)]
    again = [message for start in range(0, len(messages), 40) for message in messages[start : start + 40] * 2]
    database = tmp_path / "consumer.db"
    with closing(bench.broker().publisher(bench.sink)) as publisher:
        publisher.open()
        consumer = start(bench, database)
        for begin in range(0, len(again), 100):
            publisher.publish(again[begin : begin + 100])
            until_applied(database, min(len(journal(database)) + chance.randint(1, 20), begin // 2), 60)
            if begin in {100, 300}:
                consumer.send_signal(signal.SIGKILL)
                consumer.wait()
                consumer = start(bench, database)
        until_applied(database, len(messages), 60)
        consumer.kill()
        consumer.wait()
    applied = journal(database)
    assert len(applied) == len(messages)
    for resource in range(RESOURCES):
        versions = [version for subject, version in applied if subject == f"Observation/o{resource}"]
        assert versions == list(range(1, VERSIONS + 1))
