"""The README's consumer, and the plain one, killed again and again, have applied each change once and in order (guarantee 4, the consumer's
half). The README's keeps its memory in SQLite beside RabbitMQ, in PostgreSQL beside the embedded queue.

Shown to fail: acknowledge before the transaction, and changes are missing; take every change for new, and changes are there twice.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, column, create_engine, inspect, select, table

from poller.core.envelope import Message, wire_sequence

if TYPE_CHECKING:
    from tests.broker_bench import Bench

pytest_plugins = ["tests.broker_bench"]

HERE = Path(__file__).parent
RESOURCES, VERSIONS = 8, 25


def a_change(resource: int, version: int) -> Message:
    subject = f"Observation/o{resource}"
    event = {
        "id": f"{subject}#{version}",
        "source": "https://ehr.example/A",
        "subject": subject,
        "type": "dev.ehrpoller.resource.updated.v1",
        "sequence": wire_sequence(1, (version - 1) * RESOURCES + resource + 1),
        "data": {"response": {"etag": f'W/"{version}"'}},
    }
    return Message(event["id"], subject, "fhir.A.Observation.updated", json.dumps(event).encode(), {})  # type: ignore[arg-type]


@dataclass
class Service:
    """A sample consumer, and where it keeps what it has applied."""

    bench: Bench
    program: str
    url: str

    def start(self) -> subprocess.Popen[bytes]:
        place = self.url if self.program == "sample_consumer.py" else self.url.removeprefix("sqlite:///")
        environment = self.bench.for_consumers() | {"QUEUE": self.bench.sink.queues[0], "CONSUMER_DB": place}
        return subprocess.Popen(
            [sys.executable, HERE / self.program], env=os.environ | environment, stderr=subprocess.DEVNULL
        )

    def journal(self) -> list[Any]:
        engine = create_engine(self.url)
        # As rows were inserted: nothing is ever updated or deleted there.
        order = "rowid" if self.url.startswith("sqlite") else "ctid"
        try:
            with engine.connect() as db:
                if not inspect(db).has_table("journal"):
                    return []
                what: Any = (
                    select(column("subject"), column("version")).select_from(table("journal")).order_by(column(order))
                )
                return [tuple(row) for row in db.execute(what)]
        finally:
            engine.dispose()


@pytest.fixture(params=["sample_consumer.py", "plain_consumer.py"])
def service(request: pytest.FixtureRequest, bench: Bench, tmp_path: Path) -> Service:
    url = f"sqlite:///{tmp_path / 'consumer.db'}"
    if request.param == "sample_consumer.py" and bench.kind == "pgmq":
        parts = conninfo_to_dict(request.getfixturevalue("database_url"))
        query = {name: str(value) for name, value in parts.items() if name != "dbname"}
        url = URL.create("postgresql+psycopg", database=str(parts["dbname"]), query=query).render_as_string(
            hide_password=False
        )
    return Service(bench, request.param, url)


def until_applied(service: Service, count: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while len(service.journal()) < count:
        assert time.monotonic() < deadline, "the consumer does not go on"
        time.sleep(0.02)


def test_each_change_is_applied_once_and_in_order_however_often_it_is_killed(service: Service) -> None:
    chance = random.Random(7)  # noqa: S311 - a test
    messages = [a_change(resource, version) for version in range(1, VERSIONS + 1) for resource in range(RESOURCES)]
    again = [message for start in range(0, len(messages), 40) for message in messages[start : start + 40] * 2]
    bench = service.bench
    with closing(bench.broker().publisher(bench.sink)) as publisher:
        publisher.open()
        consumer = service.start()
        for begin in range(0, len(again), 100):
            publisher.publish(again[begin : begin + 100])
            until_applied(service, min(len(service.journal()) + chance.randint(1, 20), begin // 2), 200)
            if begin in {100, 300}:
                consumer.send_signal(signal.SIGKILL)
                consumer.wait()
                consumer = service.start()
        until_applied(service, len(messages), 200)
        consumer.kill()
        consumer.wait()
    applied = service.journal()
    assert len(applied) == len(messages)
    for resource in range(RESOURCES):
        versions = [version for subject, version in applied if subject == f"Observation/o{resource}"]
        assert versions == list(range(1, VERSIONS + 1))
