"""`poller why` on prepared incidents: one sentence says where it stopped, and the next step is named."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from poller.core.model import Coverage, Kind, Strategy, Target
from poller.core.report_schema import why_schema
from poller.core.sink import Fate, Only, Sink, park_first, settle, sort_out
from poller.errors import DEGRADED, BadInput, NotFound
from poller.store.control import ALL
from poller.store.deletes import Breaker, Settled
from poller.store.known import PatientSource
from poller.store.patients import PatientStore
from tests.incidents import CODE, Scene

SINK = Sink("changes", "fhir.changes", ("q",))
BAD_INPUT = 2


@pytest.fixture
def scene(engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("KEY", "k" * 32)
    made = Scene(engine, database_url, tmp_path)
    yield made
    made.close()


def why(scene: Scene, exit_code: int, *words: str) -> Any:
    """As a program is told; and a person is told the same, no wider than 100 columns."""
    told = scene.told(exit_code, "why", CODE, *words, schema=why_schema())
    out = scene.poller("why", CODE, *words).stdout
    assert max(map(len, out.splitlines())) <= 100
    assert " ".join(out.split()).startswith(f"{told['resource'] or 'Patient/' + told['patient']}: {told['sentence']}.")
    assert told["next"] in " ".join(out.split()).replace("→ ", "")
    return told


def deliver(scene: Scene, sink: Sink = SINK, most: int = 100) -> None:
    """The relay takes the sink past so many events that it wants, all of which the broker takes."""
    scene.sinks.begin(sink)
    (at,) = scene.sinks.positions(sink.name)
    events = scene.sinks.after(CODE, at.epoch, at.sequence, 100, bodies=False)[:most]
    fates = sort_out(events, sink, set())
    step = settle(events, fates, fates.count(Fate.SEND))
    assert step is not None
    scene.sinks.advance(sink.name, at, step)


def by_patient(scene: Scene, *patients: str, category: str | None = None) -> list[Target]:
    """Conditions are read patient by patient, and these are known."""
    searches = [Target(CODE, "Condition", Kind.PATIENT, category, patient) for patient in patients]
    scene.read_by("Condition", Strategy.PATIENT, *searches)
    PatientStore(scene.practice.engine).add(
        scene.practice.lease, patients, PatientSource.ROSTER, scene.practice.at(1), live=False
    )
    scene.change("UPDATE poller.target SET registered_at = now() WHERE practice = :code")
    return searches


def test_what_was_delivered_says_so(scene: Scene) -> None:
    deliver(scene)
    told = why(scene, 0, "Observation/o1")
    assert told["stop"] == "delivered"
    assert told["sentence"] == "version 1 (created, sequence 1-1) was delivered to changes"
    (event,) = told["events"]
    assert (event["version"], event["sinks"]) == (1, [{"sink": "changes", "arrival": "delivered", "reason": ""}])
    assert told["patient"] == "a"
    assert [one["source"] for one in told["known"]["named"]] == ["reference"]
    (feed,) = told["feeds"]
    assert (feed["feed"], feed["state"], feed["strategy"]) == ("Observation", "fresh", "sweep")
    assert [(one["kind"], one["showsAll"]) for one in feed["readings"]] == [("sweep", True)]
    assert told["stored"]["version"] == 1


def test_what_waits_and_what_the_filter_leaves_out(scene: Scene) -> None:
    scene.sinks.begin(SINK)
    assert why(scene, DEGRADED, "Observation/o1")["stop"] == "waiting"
    few = "few: {exchange: few, queues: [f], only: {types: [Patient]}}"
    more = f"{{changes: {{exchange: fhir.changes, queues: [q], baseline: publish}}, {few}}}"
    scene.write(["Observation", "Condition"], sinks=more)
    scene.accept()
    deliver(scene)
    told = why(scene, DEGRADED, "Observation/o1")
    assert (told["stop"], " waits for few since " in told["sentence"]) == ("waiting", True)
    deliver(scene, Sink("few", "few", ("f",), only=Only(types=("Patient",))))
    told = why(scene, 0, "Observation/o1")
    assert (told["stop"], told["sentence"].endswith("was delivered to changes, filtered by few")) == ("delivered", True)
    scene.write(["Observation", "Condition"], sinks=f"{{{few}}}")
    scene.accept()
    assert why(scene, 0, "Observation/o1")["stop"] == "filtered"


def test_what_was_recorded_before_the_sink_began_was_skipped(scene: Scene) -> None:
    scene.write(["Observation", "Condition"], sinks="{late: {exchange: late, queues: [l], start: now}}")
    scene.accept()
    with scene.relay.begin() as connection:
        connection.exec_driver_sql("INSERT INTO poller.sink VALUES ('late', 'now', now() + interval '1 hour')")
        connection.exec_driver_sql(
            "INSERT INTO poller.cursor (sink, practice, epoch, sequence, moved_at, skipped) VALUES ('late', 'FAMLYM', 1, 1, now(), 1)"
        )
    told = why(scene, 0, "Observation/o1")
    assert (told["stop"], told["next"]) == ("skipped", "`poller replay FAMLYM` sends it, if it is wanted")


@pytest.mark.parametrize(
    ("reason", "then"),
    [
        ("unroutable: no queue is bound that wants it", "bind a queue to the exchange of changes again"),
        ("too large: 17 bytes, and the broker takes 16 at most", "raise the broker's largest message"),
    ],
)
def test_a_parked_event_says_why_and_how_it_goes_on(scene: Scene, reason: str, then: str) -> None:
    scene.sinks.begin(SINK)
    (at,) = scene.sinks.positions(SINK.name)
    events = scene.sinks.after(CODE, 0, 0, 10, bodies=False)
    scene.sinks.advance(SINK.name, at, park_first(events, [Fate.SEND], reason))
    told = why(scene, DEGRADED, "Observation/o1")
    assert told["stop"] == "parked"
    assert told["sentence"].endswith(f"is parked at changes: {reason}")
    assert told["next"].startswith(then)
    assert "`poller sinks release changes FAMLYM`" in told["next"]
    by_patient = why(scene, DEGRADED, "--patient", "a")
    assert (by_patient["stop"], by_patient["next"]) == ("parked", told["next"])


def test_a_patient_nobody_enumerated(scene: Scene) -> None:
    now = scene.practice.at(5)
    PatientStore(scene.practice.engine).end_enumeration(scene.practice.lease, PatientSource.ROSTER, now, now, 2, None)
    told = why(scene, DEGRADED, "--patient", "nobody")
    assert told["stop"] == "nobody named the patient"
    assert told["sentence"].startswith(
        "nobody has named this patient, so nothing of theirs is read; gone through were roster ("
    )
    assert told["next"].startswith("`poller read-now FAMLYM --patient nobody`")
    assert told["known"] is None
    assert [one["source"] for one in told["sources"]] == ["roster"]
    scene.write(["Observation", "Condition", "Patient"])
    scene.accept()
    assert why(scene, DEGRADED, "Patient/nobody")["stop"] == "nobody named the patient"


def test_a_patient_who_is_known_and_not_read_yet(scene: Scene) -> None:
    first, second = by_patient(scene, "a", "b")
    scene.practice.whole(target=first)
    told = why(scene, DEGRADED, "--patient", "b")
    assert told["stop"] == "not read"
    assert "was never read whole for Condition" in told["sentence"]
    assert told["next"].startswith("`poller read-now FAMLYM --patient b`")
    scene.practice.whole(coverage=Coverage.INCOMPLETE, failure="server", target=second)
    assert "(the last try failed: server)" in why(scene, DEGRADED, "--patient", "b")["sentence"]
    feeds = {feed["feed"]: feed for feed in why(scene, DEGRADED, "--patient", "b")["feeds"]}
    (search,) = feeds["Condition"]["readings"]
    assert (search["lastWhole"], search["failure"]) == (None, "server")


def test_a_patient_whose_all_was_delivered_and_one_who_is_gone(scene: Scene) -> None:
    deliver(scene)
    told = why(scene, 0, "--patient", "Patient/a")
    assert (told["stop"], told["patient"]) == ("delivered", "a")
    assert {feed["feed"]: feed["stored"] for feed in told["feeds"]} == {"Observation": 1, "Condition": 0}
    scene.change("UPDATE poller.patient SET gone_at = now() WHERE practice = :code AND id = 'a'")
    assert why(scene, 0, "--patient", "a")["stop"] == "the patient is gone"


def test_a_resource_that_no_search_has_shown(scene: Scene) -> None:
    told = why(scene, DEGRADED, "Observation/unheard-of")
    assert told["stop"] == "not shown"
    assert "every search that would show it was read whole" in told["sentence"]
    assert told["stored"] is None
    by_patient(scene, "a")
    told = why(scene, DEGRADED, "Condition/unheard-of")
    assert told["stop"] == "of an unknown patient"
    assert told["next"].startswith("`poller why FAMLYM --patient ID`")


def test_a_type_that_is_no_feed_or_is_not_read(scene: Scene) -> None:
    told = why(scene, DEGRADED, "Goal/g1")
    assert (told["stop"], told["sentence"]) == ("no feed", "Goal is no feed of FAMLYM, so nothing of it is read")
    assert "feeds.Goal" in told["next"]
    scene.practice.state.refuse(scene.practice.lease, "Condition", "build too old", None, scene.practice.at(5))
    told = why(scene, DEGRADED, "Condition/c1")
    assert told["stop"] == "not read"
    assert "Condition is not read: refused, build too old" in told["sentence"]


def test_what_was_delivered_and_is_read_no_more_may_be_out_of_date(scene: Scene) -> None:
    deliver(scene)
    scene.change("UPDATE poller.target SET complete_began = now() - interval '3 hours' WHERE practice = :code")
    told = why(scene, DEGRADED, "Observation/o1")
    assert told["stop"] == "not read since"
    assert "but Observation is late, so what became of it since " in told["sentence"]
    assert told["next"] == "`poller status FAMLYM` says why and what to do"
    scene.control.pause(CODE, ALL, None, actor="ann@host", reason="moved")
    assert "but Observation is paused" in why(scene, DEGRADED, "Observation/o1")["sentence"]
    assert why(scene, DEGRADED, "--patient", "a")["stop"] == "not read since"


def test_a_delete_that_is_held(scene: Scene) -> None:
    deliver(scene)
    assert scene.practice.delete("o1", breaker=Breaker(0.0, 0, dt.timedelta(hours=1))) == [Settled.HELD]
    told = why(scene, DEGRADED, "Observation/o1")
    assert (told["stop"], told["stored"]["absence"]) == ("delete held", "held")
    assert told["next"].startswith("`poller deletes list FAMLYM`")


def test_a_search_that_has_shown_it_and_one_that_has_not(scene: Scene) -> None:
    searches = [Target(CODE, "Observation", Kind.PATIENT, category, "a") for category in ("laboratory", "exam")]
    scene.read_by("Observation", Strategy.PATIENT, *searches)
    scene.practice.whole(scene.practice.observation(), target=searches[0])
    scene.practice.whole(target=searches[1])
    deliver(scene)
    readings = why(scene, 0, "Observation/o1")["feeds"][0]["readings"]
    assert {one["category"]: one["hasShown"] for one in readings} == {"laboratory": True, "exam": False}


def test_groups_of_patients_are_found_by_their_number(scene: Scene) -> None:
    by_patient(scene, "p0", "p1", "p2")
    group = Target(CODE, "Condition", Kind.PATIENTS, None, "2.1", patients=("p2",))
    scene.read_by("Condition", Strategy.PATIENTS, group)
    ordinals = {row.id: row.ordinal for row in scene.practice.rows("SELECT id, ordinal FROM poller.patient")}
    last = max(ordinals, key=lambda id_: ordinals[id_])
    assert ordinals[last] // 2 == 1
    feeds = {feed["feed"]: feed for feed in why(scene, DEGRADED, "--patient", last)["feeds"]}
    assert [one["kind"] for one in feeds["Condition"]["readings"]] == ["patients"]


def test_bad_input_is_told_without_repeating_it(scene: Scene) -> None:
    for words in (
        (),
        ("Observation",),
        ("observation/secret-1",),
        ("Observation/a", "--patient", "b"),
        ("--patient", "secret 1"),
    ):
        result = scene.poller("why", CODE, *words)
        assert isinstance(result.exception, BadInput)
        assert result.exception.exit_code == BAD_INPUT
        assert "secret" not in f"{result.output}{result.exception}"
        assert "\n" not in str(result.exception)
    assert isinstance(scene.poller("why", "NOBODY", "Observation/o1").exception, NotFound)


def test_nothing_that_was_asked_for_is_logged(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        result = scene.poller("why", CODE, "--patient", "secret-1")
    assert "secret-1" in result.stdout
    assert "secret-1" not in caplog.text + result.stderr
