"""What `poller status` once called healthy and is not: each is told, with its cause and the next step."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from poller.core.model import Kind, Strategy, Target
from poller.core.report_schema import status_schema
from poller.core.sink import Fate, Sink, Start, park_first
from poller.errors import DEGRADED, NotFound
from poller.store.control import ALL, Ask, Post, State
from poller.store.known import PatientSource
from poller.store.patients import PatientStore
from tests.incidents import CODE, Scene

SINK = Sink("changes", "fhir.changes", ("q",))
TWO = (
    "{changes: {exchange: fhir.changes, queues: [q]}, late: {exchange: late, queues: [l], only: {practices: [OTHERP]}}}"
)


@pytest.fixture
def scene(engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("KEY", "k" * 32)
    made = Scene(engine, database_url, tmp_path)
    yield made
    made.close()


def status(scene: Scene, exit_code: int, *words: str) -> Any:
    """All that a program is told; and a person is shown it within 100 columns."""
    found = scene.told(exit_code, "status", *words, schema=status_schema())
    assert found["healthy"] is (exit_code == 0)
    out = scene.poller("status", *words).stdout
    assert max(map(len, out.splitlines())) <= 100
    for finding in [*found["findings"], *(one for each in found["practices"] for one in each["findings"])]:
        assert finding["next"] in " ".join(out.split())
    return found


def practice(found: Any, code: str = CODE) -> Any:
    (one,) = (one for one in found["practices"] if one["practice"] == code)
    return one


def the_one(found: list[Any], cause: str) -> Any:
    assert [one["cause"] for one in found] == [cause], found
    return found[0]


def owner(scene: Scene, *statements: str) -> None:
    """Change what no role of ours may."""
    with scene.relay.begin() as connection:
        connection.exec_driver_sql("RESET ROLE")
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql('SET ROLE "poller_relay"')


def test_a_sink_that_has_never_begun_is_told_once_it_had_time(scene: Scene) -> None:
    assert practice(status(scene, 0))["findings"] == [], "it was added just now"
    owner(scene, "UPDATE poller.configuration SET accepted_at = accepted_at - interval '2 minutes'")
    found = practice(status(scene, DEGRADED))
    assert found["state"] == "degraded"
    finding = the_one(found["findings"], "never begun")
    assert finding["what"].startswith("changes has never begun, though it is configured since ")
    assert "broker" in finding["next"]
    assert finding["sink"] == "changes"
    assert [(sink["sink"], sink["begun"]) for sink in found["sinks"]] == [("changes", False)]
    assert "begun)" in scene.poller("status", CODE).stdout
    scene.sinks.begin(SINK)
    found = practice(status(scene, 0))
    assert [(sink["sink"], sink["begun"]) for sink in found["sinks"]] == [("changes", True)]


def test_a_sink_has_begun_before_there_is_any_practice_to_begin_in(scene: Scene) -> None:
    owner(
        scene,
        "UPDATE poller.configuration SET accepted_at = accepted_at - interval '2 minutes'",
        "DELETE FROM poller.practice_log",
    )
    scene.sinks.begin(SINK)
    assert practice(status(scene, 0))["findings"] == []


def test_a_sink_that_wants_nothing_of_a_practice_need_not_begin_for_it(scene: Scene) -> None:
    scene.write(["Observation", "Condition"], sinks=TWO)
    text = scene.file.read_text("utf-8")
    other = text.partition(f"{CODE}: ")[2].rstrip().removesuffix("}").replace("ehr.example/A", "ehr.example/B")
    scene.file.write_text(text.rstrip().removesuffix("}") + f", OTHERP: {other}}}\n", "utf-8")
    scene.accept()
    scene.sinks.begin(SINK)
    owner(scene, "UPDATE poller.configuration SET accepted_at = accepted_at - interval '2 minutes'")
    assert practice(status(scene, 0, CODE))["findings"] == []


def test_a_snapshot_that_hangs_is_told(scene: Scene) -> None:
    scene.write(["Observation", "Condition"], sinks="{changes: {exchange: x, queues: [q], start: snapshot}}")
    scene.accept()
    scene.sinks.begin(Sink("changes", "x", ("q",), start=Start("snapshot")))
    assert practice(status(scene, 0))["findings"] == []
    owner(scene, "UPDATE poller.cursor SET moved_at = now() - interval '6 minutes', ordinal = 4")
    found = practice(status(scene, DEGRADED))
    finding = the_one(found["findings"], "snapshot stands still")
    assert finding["what"].startswith("the snapshot for changes has not gone on since ")
    assert finding["what"].endswith(", after 4 resources")
    assert "action=relay.*" in finding["next"]
    owner(scene, "UPDATE poller.cursor SET held = 'r1'")
    assert (
        "poller replay list" in the_one(practice(status(scene, DEGRADED))["findings"], "snapshot stands still")["next"]
    )
    owner(scene, "UPDATE poller.cursor SET snapshot_type = NULL, snapshot_id = NULL")
    assert practice(status(scene, 0))["findings"] == []


def removed(scene: Scene) -> None:
    """Practice FAMLYM leaves the configuration; OTHERP takes its place."""
    text = scene.file.read_text("utf-8")
    scene.file.write_text(text.replace(f"{CODE}: ", "OTHERP: "), "utf-8")
    scene.accept()
    scene.change("INSERT INTO poller.heartbeat VALUES ('OTHERP', NULL, now())")
    scene.change(
        "INSERT INTO poller.lease (practice, epoch, taken_at) VALUES ('OTHERP', 1, now() + interval '10 minutes')"
    )


def test_a_practice_that_was_removed_while_events_of_it_wait_is_named(scene: Scene) -> None:
    scene.practice.whole(scene.practice.observation("o2"))
    scene.sinks.begin(SINK)
    removed(scene)
    found = status(scene, DEGRADED)
    assert [one["practice"] for one in found["practices"]] == ["OTHERP", CODE]
    assert practice(found, "OTHERP")["state"] == "healthy"
    assert practice(found)["state"] == "degraded"
    finding = the_one(practice(found)["findings"], "not configured")
    assert finding["what"] == "it is not in the configuration any more, and 2 events of it wait for changes"
    assert f"put {CODE} back into practices" in finding["next"]
    assert practice(status(scene, DEGRADED, CODE))["findings"] == [finding]
    assert [one["practice"] for one in status(scene, DEGRADED, "--late")["practices"]] == [CODE]
    assert practice(found)["feeds"] == []


def test_what_is_parked_of_a_removed_practice_is_told_and_nothing_once_all_is_gone(scene: Scene) -> None:
    scene.sinks.begin(SINK)
    (at,) = scene.sinks.positions(SINK.name)
    events = scene.sinks.after(CODE, 0, 0, 10, bodies=False)
    scene.sinks.advance(SINK.name, at, park_first(events, [Fate.SEND], "unroutable: no queue is bound that wants it"))
    removed(scene)
    finding = the_one(practice(status(scene, DEGRADED))["findings"], "not configured")
    assert finding["what"] == "it is not in the configuration any more, and 1 event of it is parked at changes"
    assert f"`poller sinks discard changes {CODE}`" in finding["next"]
    scene.sinks.discard("changes", CODE, scene.sinks.parked("changes", CODE))
    assert [one["practice"] for one in status(scene, 0)["practices"]] == ["OTHERP"]
    result = scene.poller("status", CODE)
    assert isinstance(result.exception, NotFound)


def test_a_practice_of_another_poller_is_not_a_removed_one(scene: Scene) -> None:
    scene.sinks.begin(SINK)
    theirs = scene.file.read_text("utf-8")
    removed(scene)
    scene.configurations.accept("theirs", theirs, actor="ann@host", reason="start")
    assert [one["practice"] for one in status(scene, 0)["practices"]] == ["OTHERP"]


def test_a_feed_that_is_read_by_patient_and_has_none_is_told(scene: Scene) -> None:
    scene.read_by("Condition", Strategy.PATIENT, Target(CODE, "Condition", Kind.PATIENT, patient="a"))
    owner(
        scene,
        "DELETE FROM poller.target WHERE resource_type = 'Condition'",
        "DELETE FROM poller.patient_source",
        "DELETE FROM poller.patient",
    )
    found = practice(status(scene, 0))
    assert found["feeds"][1]["why"] == "no patient is known yet", "there was no time yet"
    scene.change("UPDATE poller.lease SET taken_at = now() - interval '3 minutes' WHERE practice = :code")
    found = practice(status(scene, DEGRADED))
    finding = the_one(found["findings"], "no patient")
    assert finding["what"] == "Condition is read patient by patient, and no patient is known"
    assert finding["feeds"] == ["Condition"]
    assert f"`poller coverage {CODE}`" in finding["next"]
    scene.control.pause(CODE, ALL, None, actor="ann@host", reason="moved")
    assert practice(status(scene, 0))["state"] == "paused"


@pytest.mark.parametrize("was_whole", [False, True])
@pytest.mark.parametrize(
    ("source", "more", "named", "then"),
    [
        (PatientSource.ROSTER, ", patients: {roster: /nowhere/FAMLYM.csv}", "the roster", "patients.roster"),
        (PatientSource.GROUP, ", patients: {group: g1}", "the Group", "patients.group"),
    ],
)
def test_a_source_of_patients_that_fails_is_told(
    scene: Scene, source: PatientSource, more: str, named: str, then: str, was_whole: bool
) -> None:
    store, now = PatientStore(scene.practice.engine), scene.practice.at(5)
    scene.write(["Observation", "Condition"], more=more)
    if was_whole:
        store.end_enumeration(scene.practice.lease, source, now, now, 3, None)
    store.end_enumeration(scene.practice.lease, source, now, now, None, "there is no such file")
    assert practice(status(scene, 0))["findings"] == [], "what is in force names no such source"
    scene.accept()
    finding = the_one(practice(status(scene, DEGRADED))["findings"], "patients' source")
    assert finding["what"].startswith(f"{named} cannot be gone through: there is no such file; ")
    assert ("never gone through" in finding["what"]) is not was_whole
    assert then in finding["next"]
    scene.control.pause(CODE, ALL, None, actor="ann@host", reason="moved")
    status(scene, 0)
    scene.control.resume(CODE, ALL, actor="ann@host", reason="moved")
    store.end_enumeration(scene.practice.lease, source, now, now, 3, None)
    assert practice(status(scene, 0))["findings"] == []


def test_a_source_of_patients_that_nobody_has_come_to_is_told(scene: Scene) -> None:
    scene.write(["Observation", "Condition"], more=", patients: {group: g1}")
    scene.accept()
    assert practice(status(scene, 0))["findings"] == []
    scene.change("UPDATE poller.lease SET taken_at = now() - interval '3 minutes' WHERE practice = :code")
    finding = the_one(practice(status(scene, DEGRADED))["findings"], "patients' source")
    assert finding["what"] == "the Group was never gone through"


def test_a_sign_of_life_that_is_to_come_is_none(scene: Scene) -> None:
    scene.beat(-55)
    assert practice(status(scene, 0))["state"] == "healthy", "clocks are set by a little all the time"
    scene.beat(-3600)
    found = practice(status(scene, DEGRADED))
    assert found["state"] == "unattended"
    assert {feed["state"] for feed in found["feeds"]} == {"late"}
    finding = the_one(found["findings"], "no poller")
    assert finding["what"].startswith("the last sign of life of a poller is of ")
    assert finding["what"].endswith(", which is to come: the database's clock was put back")
    assert "start `poller run`" in finding["next"]
    assert "to come" in scene.poller("status", CODE).stdout.splitlines()[2]


def refuse_reload(scene: Scene, name: str, problem: str, pid: int) -> None:
    """An engine of a poller of this name is asked to read its file again, and refuses."""
    post = Post(scene.practice.engine, "host", pid)
    post.look()
    post.runs(scene.configurations.accept(name, f"name: {name}\n", actor="ann@host", reason="start"))
    scene.control.ask(Ask.RELOAD, ALL, actor="ann@host", reason="more feeds", engine=post.engine)
    (order,) = post.look()[1]
    post.answer(order, State.REFUSED, {"why": "config", "problems": [problem]})
    post.close()


def test_a_reload_that_another_poller_refused_is_not_ours(scene: Scene) -> None:
    scene.accept()
    scene.write(["Observation", "Condition", "Goal"])
    refuse_reload(scene, "theirs", "theirs.yaml:3: not ours", 7)
    the_one(status(scene, 0)["findings"], "config differs")


def test_a_reload_that_ours_refused_is_told_though_another_poller_was_asked_since(scene: Scene) -> None:
    ours = scene.file.read_text("utf-8")
    post = Post(scene.practice.engine, "host", 7)
    post.look()
    post.runs(scene.configurations.accept("poller", ours, actor="ann@host", reason="start"))
    scene.write(["Observation", "Condition", "Goal"])
    scene.control.ask(Ask.RELOAD, ALL, actor="ann@host", reason="more feeds", engine=post.engine)
    (order,) = post.look()[1]
    post.answer(order, State.REFUSED, {"why": "config", "problems": ["poller.yaml:3: ours"]})
    post.close()
    refuse_reload(scene, "theirs", "theirs.yaml:3: not ours", 8)
    finding = the_one(status(scene, DEGRADED)["findings"], "config refused")
    assert finding["what"].endswith("poller.yaml:3: ours")
    assert dt.datetime.fromisoformat(status(scene, DEGRADED)["configuration"]["reloadRefusedAt"])
