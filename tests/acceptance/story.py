"""One run that three guarantees are read from: embedded store and queue, log level debug, faults, a crash, lost connections."""

from __future__ import annotations

import os
import threading
import time
import urllib.request
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
import psycopg

from tests.acceptance.parts import Services, wait_until
from tests.acceptance.rig import ECW, OPEN, Rig, spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.parts import Collector, Poller

MARK = "zqxvkjwq"
"""Stands in every id and every word of the planted patients, and nowhere else: three letters stand by chance in keys of other processes."""


class Traces:
    """Takes what is sent to it, as a collector of OpenTelemetry does."""

    def __init__(self) -> None:
        self.taken = b""

    def __enter__(self) -> Self:
        traces = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                traces.taken += self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Be silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        del os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
        self._server.shutdown()


FAULTS: dict[str, Any] = {"error_500": 0.03, "error_503": 0.03, "cut_json": 0.03, "cut_connection": 0.03, "html": 0.03}


@dataclass
class Story:
    """What happened, as outsiders saw it."""

    rig: Rig
    full: list[dict[str, Any]]
    """Every full-resource event in the order of its arrival, repeated ones too."""
    labs: list[dict[str, Any]]
    """The same of a sink that wants only Observations, created and updated, without their baseline."""
    output: str
    """All that the pollers wrote to standard output and standard error."""
    chatter: str
    """The same of a poller that logs as most programs do."""
    metrics: str
    processes: str
    """Arguments of every process of this machine, while the poller ran."""
    traces: bytes
    """What the pollers sent to OpenTelemetry's collector."""
    limits: str
    """What the system allows the poller, as ``/proc`` has it."""
    tokens: tuple[str, ...]

    def markers(self) -> list[str]:
        """What must not be seen outside: marks of patients, tokens, the key."""
        pem = (self.rig.home / "keys" / "client.pem").read_text().splitlines()[1:-1]
        return [MARK, *self.tokens, *pem]

    @property
    def postgres_log(self) -> Path:
        """Of the embedded server."""
        return self.rig.home / "postgres" / "log"


def plant(rig: Rig) -> None:
    """A patient and a result in each practice whose every word can be found again."""
    for code in (ECW, OPEN):
        name = f"p-{MARK}-{code.lower()}"
        patient = {
            "resourceType": "Patient",
            "id": name,
            "name": [{"family": f"A{MARK}", "given": [f"given{MARK}"]}],
            "birthDate": "1907-07-07",
            "address": [{"line": [f"{MARK} street"]}],
        }
        rig.world.put(code, patient, rig.server.clock())
        rig.world.put(code, a_result(name, 0), rig.server.clock())
        rig.world.put(code, a_result(name, 0) | {"id": f"gone-{name}"}, rig.server.clock())


def a_result(patient: str, value: int) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"o-{patient}",
        "status": "final",
        "category": [{"coding": [{"code": "laboratory"}]}],
        "code": {"text": f"code {MARK}"},
        "subject": {"reference": f"Patient/{patient}"},
        "valueString": f"{MARK} {value}",
    }


def tell(home: Path) -> Iterator[Story]:
    """Let it happen; the rig stands, its simulator stopped, until the generator is closed."""
    labs = {
        "exchange": "{mark}.x.labs",
        "payload": "full-resource",
        "baseline": "skip",
        "queues": ["{mark}.labs"],
        "only": {"types": ["Observation"], "actions": ["created", "updated"]},
    }
    rig = Rig(home, Services(), [spec(ECW), spec(OPEN)], rate=5.0, seed=3, level="debug", sinks={"labs": labs})
    plant(rig)
    with Traces() as traces, rig:
        with rig.collector() as full, rig.collector(f"{rig.mark}.labs") as filtered:
            seen = _live(rig, full)
        yield Story(
            rig,
            full.events,
            filtered.events,
            (rig.home / "poller.log").read_text(),
            (rig.home / "chatty.log").read_text(),
            seen["metrics"],
            seen["processes"],
            traces.taken,
            seen["limits"],
            tuple(rig.world.tokens._grants),
        )


def _live(rig: Rig, full: Collector) -> dict[str, str]:
    poller = rig.poller("late-cursor")
    poller.wait_started()
    wait_until("both baselines arrive", lambda: full.of(ECW) and full.of(OPEN), 120)
    rig.world.set_faults(**FAULTS)
    _await_news(rig, full)
    gaps = poller.gaps()
    wait_until("events are confirmed and not yet behind the cursor", lambda: poller.gaps() > gaps, 120, 0.02)
    poller.kill()
    poller = rig.poller()
    port = poller.wait_started()
    _await_news(rig, full)
    _cut_connections(rig, poller)
    _await_news(rig, full)
    _violate(rig, poller)
    _await_news(rig, full)
    for code in (ECW, OPEN):
        rig.world.delete(code, "Observation", f"gone-p-{MARK}-{code.lower()}", rig.server.clock())
    seen = {"metrics": _get(port, "/metrics") + _get(port, "/readyz")}
    seen["processes"] = "\n".join(" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"]))
    seen["limits"] = Path(f"/proc/{poller.process.pid}/limits").read_text()
    rig.world.quiet()
    rig.world.clear_faults()
    rig.come_round(lambda: len(full.received))
    assert poller.stop() == 0
    chatty = rig.poller("chatty", "chatty")
    wait_until("it asks for the planted patient, and says so", lambda: MARK.encode() in chatty.log.read_bytes(), 120)
    chatty.kill()
    rig.server.stop()
    return seen


def _await_news(rig: Rig, full: Collector) -> None:
    """Change the planted results, and wait until that has arrived."""
    value = int(time.monotonic() * 1000)
    for code in (ECW, OPEN):
        rig.world.put(code, a_result(f"p-{MARK}-{code.lower()}", value), rig.server.clock())

    def arrived() -> bool:
        told = {
            event["source"]
            for event in full.events
            if event["data"].get("resource", {}).get("valueString", "").endswith(str(value))
        }
        return len(told) == 2

    wait_until("a change arrives", arrived, 120, 0.02)


def _violate(rig: Rig, poller: Poller) -> None:
    """Let the store refuse what is written of the planted results, whole rows and all, until the poller has said so."""
    before = poller.log.stat().st_size
    with psycopg.connect(rig.installation().store_conninfo, autocommit=True) as admin:
        admin.execute(f"ALTER TABLE poller.history ADD CONSTRAINT no_marks CHECK (id NOT LIKE '%{MARK}%') NOT VALID")
        for code in (ECW, OPEN):
            rig.world.put(code, a_result(f"p-{MARK}-{code.lower()}", 1), rig.server.clock())
        wait_until("a violation is noticed", lambda: b"SQLSTATE 23514" in poller.log.read_bytes()[before:], 120)
        admin.execute("ALTER TABLE poller.history DROP CONSTRAINT no_marks")


def _cut_connections(rig: Rig, poller: Poller) -> None:
    """End the sessions that the poller has with its store, again and again, until one was in use and it has said so."""
    noticed = {"practice.restart", "lease.lose", "relay.failed"}
    with psycopg.connect(rig.installation().store_conninfo, autocommit=True) as admin:

        def cut() -> bool:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND state <> 'idle' AND application_name LIKE 'poller:%'"
            )
            return any(line.get("action") in noticed for line in poller.said())

        wait_until("it is noticed", cut, 120, 0.002)


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())
