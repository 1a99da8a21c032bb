"""An R4 server that others wrote, with changes by its own load command: what our events say is what it answers.

It is ``sekmet-fhir`` of PyPI, started as a process of its own. It honours ``_lastUpdated``, pages by offset, and puts an OperationOutcome
among the matches for what it ignores.
"""

# mypy: disable-error-code="no-untyped-call"
# kombu says it is typed and is not.

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from kombu.connection import Connection
from sqlalchemy import text
from structlog.testing import capture_logs

from poller.app import Engine, Installation
from poller.config import load
from poller.core.model import Action, Event
from poller.demo import running
from poller.simulator.alignment import content_of
from poller.store.engine import READER
from tests.acceptance.parts import store_url, wait_until, with_rabbit

pytestmark = pytest.mark.thirdparty

CODE = "SEKMET"
TYPES = ("Patient", "Encounter", "Observation", "ServiceRequest", "DiagnosticReport")
ADMISSIONS = "adt_admit_transfer_discharge"
ORDERS = "lab_order_to_result"
CONFORMANCE = "conformance_smoke"
"""It also deletes what it creates."""


@dataclass
class Sekmet:
    """The server's process, and its load command."""

    home: Path
    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/fhir"

    def start(self) -> subprocess.Popen[bytes]:
        settings = {
            "base_url": self.base_url,
            "host": "127.0.0.1",
            "port": self.port,
            "data_dir": str(self.home / "data"),
            "own_private_key_path": str(self.home / "keys" / "own.pem"),
            "simulator": {"enabled": False},
        }
        (self.home / "settings.yaml").write_text(yaml.safe_dump(settings), "utf-8")
        return self._run("serve")

    def load(self, scenario: str, journeys: int) -> subprocess.Popen[bytes]:
        """Begin a load of so many journeys of a scenario."""
        how = ["--users", "1", "--iterations", str(journeys), "--max-iteration-failure", "0"]
        return self._run("load", "run", scenario, *how)

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        settings = ["--config", str(self.home / "settings.yaml")]
        with (self.home / f"{command[-1]}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "sekmet.cli", *command, *settings], cwd=self.home, stdout=output, stderr=output
            )

    def is_up(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.base_url}/metadata", timeout=5, trust_env=False).is_success
        return False

    def holds(self) -> dict[str, bytes]:
        """Reference → content of all that it answers of :data:`TYPES`."""
        found = {}
        with httpx.Client(trust_env=False, timeout=20) as client:
            for resource_type in TYPES:
                url: str | None = f"{self.base_url}/{resource_type}?_count=200"
                while url is not None:
                    page = client.get(url).raise_for_status().json()
                    for entry in page.get("entry", ()):
                        content = content_of(entry["resource"])
                        assert content is not None
                        found[f"{resource_type}/{entry['resource']['id']}"] = content
                    url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
        return found

    def correct(self, reference: str) -> None:
        """Change an element that every one of :data:`TYPES` has."""
        with httpx.Client(trust_env=False, timeout=20) as client:
            resource = client.get(f"{self.base_url}/{reference}").raise_for_status().json()
            resource["language"] = "en-GB"
            client.put(f"{self.base_url}/{reference}", json=resource).raise_for_status()

    def delete(self, reference: str) -> None:
        httpx.delete(f"{self.base_url}/{reference}", timeout=20, trust_env=False).raise_for_status()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def sekmet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sekmet]:
    if importlib.util.find_spec("sekmet") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("under CI sekmet-fhir must be installed; it stands in the dev group")
        pytest.skip("sekmet-fhir is not installed")
    server = Sekmet(tmp_path_factory.mktemp("sekmet"), free_port())
    process = server.start()
    try:
        wait_until("sekmet answers", lambda: server.is_up() or process.poll() is not None, 60, every=0.2)
        assert process.poll() is None, (server.home / "serve.log").read_text("utf-8")[-2000:]
        finish(server.load(ORDERS, 2))
        yield server
    finally:
        process.terminate()
        process.wait(20)


def finish(*loads: subprocess.Popen[bytes]) -> None:
    assert [load.wait(90) for load in loads] == [0] * len(loads)


@pytest.fixture
def installation(sekmet: Sekmet, tmp_path: Path, database_url: str, rabbit_url: str) -> Iterator[Installation]:
    """A poller of that server: real Postgres, real RabbitMQ."""
    name = f"sekmet.{sekmet.port}.{os.getpid()}"
    practice: dict[str, Any] = {
        "base_url": sekmet.base_url,
        "auth": "none",
        "budget": {"calls_per_minute": 6000, "max_in_flight": 6},
        "overlap": "3s",
        "every_feed": {"every": "1s", "sweep_every": "2s"},
        "feeds": {resource_type: {} for resource_type in TYPES} | {"Observation": {"categories": []}},
    }
    settings = {
        "data_dir": str(tmp_path),
        **with_rabbit(store_url(database_url), rabbit_url).settings,
        "sinks": {"all": {"exchange": f"{name}.x", "payload": "full-resource", "queues": [name]}},
        "http": {"listen": "127.0.0.1:0"},
        "practices": {CODE: practice},
    }
    file = tmp_path / "poller.yaml"
    file.write_text(json.dumps(settings), "utf-8")
    with Installation(load(file)) as made:
        made.prepare()
        yield made
    with Connection(rabbit_url) as connection:
        channel = connection.channel()
        channel.exchange_delete(f"{name}.x")
        for queue in (name, f"{name}.dead"):
            channel.queue_delete(queue)


def position(events: list[Event]) -> tuple[int, int]:
    return (events[-1].epoch, events[-1].sequence) if events else (0, 0)


class Told:
    """What the events of the log say."""

    def __init__(self, installation: Installation) -> None:
        events: list[Event] = []
        while page := installation.reading_log.after(CODE, *position(events), 10_000, bodies=True):
            events += page
        self.state: dict[str, bytes] = {}
        self.actions: dict[str, list[Action]] = {}
        versions: dict[str, int] = {}
        for event in events:
            reference = f"{event.resource_type}/{event.id}"
            self.actions.setdefault(reference, []).append(event.action)
            assert event.version == versions.get(reference, 0) + 1
            versions[reference] = event.version
            content = content_of(event.body)
            if event.action is Action.DELETED or content is None:
                del self.state[reference]
            else:
                self.state[reference] = content


def strategies(installation: Installation) -> dict[str, str]:
    with installation.engine(READER, 1).connect() as connection:
        rows = connection.execute(text("SELECT resource_type, strategy FROM poller.feed"))
        return {row.resource_type: row.strategy for row in rows}


def test_state_by_events_is_what_the_server_answers(sekmet: Sekmet, installation: Installation) -> None:
    def is_told() -> bool:
        return Told(installation).state == sekmet.holds()

    with capture_logs() as logs, running(Engine(installation)):
        wait_until("all that was there is told", is_told, 60, every=0.3)
        assert set(strategies(installation).values()) == {"window"}, "it honours _lastUpdated, and that was found out"
        known = Told(installation).actions
        finish(sekmet.load(ADMISSIONS, 3), sekmet.load(CONFORMANCE, 1))
        gone, corrected, *_ = [reference for reference in known if reference.startswith("Observation/")]
        sekmet.delete(gone)
        sekmet.correct(corrected)
        wait_until("all that the load changed is told", is_told, 60, every=0.3)
        told = Told(installation)
    assert told.actions[gone] == [Action.CREATED, Action.DELETED]
    assert told.actions[corrected] == [Action.CREATED, Action.UPDATED]
    new = [actions for reference, actions in told.actions.items() if reference not in known]
    assert sum(actions[0] is Action.CREATED for actions in new) == len(new) >= 6
    assert not [line for line in logs if line["log_level"] == "error"]
