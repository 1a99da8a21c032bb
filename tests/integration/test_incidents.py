"""What on-call reads at two in the morning, whole, on prepared incidents: each names the cause and the next step.

The texts stand in ``tests/golden`` and were reviewed by eye. ``WRITE_GOLDEN=1`` writes them anew; then look at what has changed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine

from poller import outlet
from poller.core.model import Kind, Strategy, Target
from poller.core.report_schema import status_schema, why_schema
from poller.core.sink import Sink
from poller.errors import DEGRADED
from poller.outlet import Outlet
from poller.relay import Relay
from poller.store.control import ALL, Ask, Post, State
from poller.store.known import PatientSource
from poller.store.patients import PatientStore
from tests.incidents import CODE, Scene

if TYPE_CHECKING:
    from tests.broker_bench import Rabbit

pytest_plugins = ["tests.broker_bench"]

GOLDEN = Path(__file__).parents[1] / "golden"
AGES = (
    "UPDATE poller.target SET registered_at = registered_at - interval '10 minutes', last_began = last_began - interval '10 minutes'",
    "UPDATE poller.target SET complete_began = complete_began - interval '10 minutes'",
    "UPDATE poller.target SET complete_ended = complete_ended - interval '10 minutes'",
    "UPDATE poller.snapshot SET first_seen_at = first_seen_at - interval '10 minutes', changed_at = changed_at - interval '10 minutes'",
    "UPDATE poller.patient SET first_seen_at = first_seen_at - interval '10 minutes'",
    "UPDATE poller.patient_source SET first_seen_at = first_seen_at - interval '10 minutes'",
    "UPDATE poller.event SET recorded_at = recorded_at - interval '20 minutes'",
)
"""Old enough that a second more or less is not seen."""


@pytest.fixture
def scene(engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("KEY", "k" * 32)
    monkeypatch.setattr(outlet, "pause", lambda _times, _jitter: 0.05)
    made = Scene(engine, database_url, tmp_path)
    made.write(["Observation", "Condition"], every="1h")
    made.accept()
    yield made
    made.close()


def owner(scene: Scene, *statements: str) -> None:
    """Change what no role of ours may."""
    with scene.relay.begin() as connection:
        connection.exec_driver_sql("RESET ROLE")
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql('SET ROLE "poller_relay"')


@contextmanager
def delivering(scene: Scene, rabbit: Rabbit, sink: Sink) -> Iterator[Relay]:
    """A relay carries the practice's log to a real broker."""
    outlet = Outlet(sink, rabbit.broker().publisher(sink))
    relay = Relay(scene.sinks, [outlet], {CODE: "https://ehr.example/A"}, poll=0.05)
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.02)


def books(scene: Scene) -> Any:
    (found,) = scene.sinks.books()
    return found


def all_is_delivered(scene: Scene, rabbit: Rabbit) -> None:
    with delivering(scene, rabbit, rabbit.sink):
        until(lambda: bool(scene.sinks.books()) and not books(scene).waiting)


def a_stopped_feed(scene: Scene, rabbit: Rabbit) -> None:
    """Observation is not read any more, though a poller looks after the practice and nothing fails."""
    all_is_delivered(scene, rabbit)
    owner(
        scene,
        *AGES,
        "UPDATE poller.target SET last_began = last_began - interval '5 hours' WHERE resource_type = 'Observation'",
        "UPDATE poller.target SET complete_ended = complete_ended - interval '5 hours' WHERE resource_type = 'Observation'",
        "UPDATE poller.target SET complete_began = complete_began - interval '5 hours' WHERE resource_type = 'Observation'",
    )


def an_unbound_queue(scene: Scene, rabbit: Rabbit) -> None:
    """A queue that others made takes what was created, and nothing that was updated."""
    scene.practice.whole(scene.practice.observation(value="14"))
    scene.practice.whole(scene.practice.observation(value="14"), scene.practice.observation("o2"))
    with delivering(scene, rabbit, rabbit.taking_only("fhir.*.*.created")):
        until(lambda: [row.released for row in scene.sinks.parked("changes")] == [False])
        until(lambda: not books(scene).waiting)
    owner(scene, *AGES)


def a_full_queue(scene: Scene, rabbit: Rabbit) -> None:
    """A queue that refuses what it has no room for has room for one."""
    scene.practice.whole(scene.practice.observation(value="14"), scene.practice.observation("o2"))
    sink = replace(rabbit.sink, queues=())
    with rabbit.consumer() as connection:
        channel = connection.channel()
        channel.exchange_declare(sink.exchange, "topic", durable=True, auto_delete=False)
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(rabbit.sink.queues[0], auto_delete=False, arguments=arguments)
        channel.queue_bind(rabbit.sink.queues[0], sink.exchange, "fhir.*.*.*")
    with delivering(scene, rabbit, sink) as relay:
        until(lambda: relay._couriers[0]._outlet.stream(CODE).times > 3)
    owner(scene, *AGES)


def an_exchange_without_queues(scene: Scene, rabbit: Rabbit) -> None:
    """Someone has taken all bindings away, from queues that are not the poller's to make."""
    scene.practice.whole(scene.practice.observation(value="14"), scene.practice.observation("o2"))
    with delivering(scene, rabbit, replace(rabbit.sink, queues=())) as relay:
        until(lambda: relay._couriers[0]._outlet.stream(CODE).times > 3)
    owner(scene, *AGES)


def a_refused_reload(scene: Scene, rabbit: Rabbit) -> None:
    """The file asks for more than the calls allow; the poller that runs has refused it."""
    all_is_delivered(scene, rabbit)
    post = Post(scene.practice.engine, "poller-1", 6072)
    post.look()
    post.runs(scene.accept())
    scene.write(["Observation", "Condition", "Goal"], every="1h")
    scene.control.ask(Ask.RELOAD, ALL, actor="ann@host", reason="more feeds")
    (order,) = post.look()[1]
    problem = (
        "poller.yaml:3: practices.FAMLYM.feeds.Goal.every: 1h costs 58 calls a minute more than there are; 3h fits"
    )
    post.answer(order, State.REFUSED, {"why": "config", "problems": [problem]})
    post.close()
    owner(scene, *AGES)


def a_patient_nobody_named(scene: Scene, rabbit: Rabbit) -> None:
    """Conditions are read patient by patient; the roster that should name them is not there, and nobody is known."""
    all_is_delivered(scene, rabbit)
    scene.write(
        ["Observation", "Condition"], every="1h", more=", patients: {roster: /var/lib/poller/FAMLYM.csv, names: []}"
    )
    scene.accept()
    scene.read_by("Condition", Strategy.PATIENT, Target(CODE, "Condition", Kind.PATIENT, patient="a"))
    store, now = PatientStore(scene.practice.engine), scene.practice.at(5)
    store.end_enumeration(scene.practice.lease, PatientSource.ROSTER, now, now, None, "there is no such file")
    owner(
        scene,
        "DELETE FROM poller.target WHERE resource_type = 'Condition'",
        "DELETE FROM poller.patient_source",
        "DELETE FROM poller.patient",
        "UPDATE poller.lease SET taken_at = now() - interval '3 minutes'",
        *AGES,
    )


def a_revoked_activation(scene: Scene, rabbit: Rabbit) -> None:
    """The token endpoint lets the app in no more, and the poller has paused the practice."""
    all_is_delivered(scene, rabbit)
    scene.change("INSERT INTO poller.pause VALUES (:code, '*', now(), 'no access: token: invalid_client', 3, now())")
    owner(scene, *AGES)


def a_sink_that_never_began(scene: Scene, rabbit: Rabbit) -> None:  # noqa: ARG001 - its broker is the one that is not reached
    """The broker has been away since the sink was added."""
    owner(scene, *AGES, "UPDATE poller.configuration SET accepted_at = accepted_at - interval '10 minutes'")


OBSERVATION = ("why", CODE, "Observation/o1")
INCIDENTS: dict[str, tuple[Callable[[Scene, Rabbit], None], tuple[str, ...], int, int]] = {
    # by name: how it comes about, what else is asked than status, and how status and that exit
    "stopped-feed": (a_stopped_feed, OBSERVATION, DEGRADED, DEGRADED),
    "unbound-queue": (an_unbound_queue, OBSERVATION, DEGRADED, DEGRADED),
    "no-queue-bound": (an_exchange_without_queues, OBSERVATION, DEGRADED, DEGRADED),
    "full-queue": (a_full_queue, OBSERVATION, DEGRADED, DEGRADED),
    "refused-reload": (a_refused_reload, ("why", CODE, "Goal/g1"), DEGRADED, DEGRADED),
    "revoked-activation": (a_revoked_activation, OBSERVATION, DEGRADED, DEGRADED),
    "sink-never-begun": (a_sink_that_never_began, OBSERVATION, DEGRADED, DEGRADED),
    "unnamed-patient": (a_patient_nobody_named, ("why", CODE, "--patient", "b"), DEGRADED, DEGRADED),
}


@pytest.mark.parametrize("incident", INCIDENTS)
def test_what_on_call_reads(scene: Scene, rabbit: Rabbit, incident: str) -> None:
    prepare, asked, *exits = INCIDENTS[incident]
    prepare(scene, rabbit)
    told = []
    schemas = (status_schema(), status_schema(), why_schema())
    for words, exit_code, schema in zip(
        (("status",), ("status", CODE, "--late"), asked), (exits[0], *exits), schemas, strict=True
    ):
        scene.told(exit_code, *words, schema=schema)
        result = scene.poller(*words)
        assert result.exit_code == exit_code
        assert max(map(len, result.stdout.splitlines())) <= 100
        told.append(f"$ poller {' '.join(words)}\n{timeless(result.stdout)}[exit {exit_code}]\n")
    found = "\n".join(told)
    file = GOLDEN / f"{incident}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        file.write_text(found, "utf-8")
    assert found == file.read_text("utf-8"), "WRITE_GOLDEN=1 writes it anew; look at what has changed"
    assert "→ " in found


def test_no_incident_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(INCIDENTS)


def timeless(out: str) -> str:
    """The same at any time: times are noughts, as wide as they were."""
    out = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", lambda found: re.sub(r"\d", "0", found[0]), out)
    return "".join(f"{line.rstrip()}\n" for line in re.sub(r"\b\ds ago", "0s ago", out).splitlines())
