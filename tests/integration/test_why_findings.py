"""What `poller why` once said and was not so: of snapshots, of what was given up, and of a resource whose newest event is not its worst."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine

from poller.core.report_schema import why_schema
from poller.core.sink import Fate, Only, Sink, Start, park_first, settle, sort_out
from poller.errors import DEGRADED
from poller.store.engine import ENGINE, migrate, open_engine
from tests.incidents import CODE, Scene

SINK = Sink("changes", "fhir.changes", ("q",))
SNAP = Sink("snap", "snap", ("s",), start=Start("snapshot"))
SINKS = "{snap: {exchange: snap, queues: [s], start: snapshot%s}}"


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
    assert told["next"] in " ".join(out.split()).replace("→ ", "")
    return told


def of_sinks(told: Any) -> list[tuple[int, str, str]]:
    """Of each event, what became of it at the first sink."""
    return [(one["version"], one["sinks"][0]["arrival"], one["sinks"][0]["reason"]) for one in told["events"]]


def snapshot_begins(scene: Scene, more: str = "") -> None:
    scene.write(["Observation", "Condition"], sinks=SINKS % more)
    scene.accept()
    scene.sinks.begin(SNAP)


def carry(scene: Scene, sink: Sink = SNAP, most: int = 1) -> list[str]:
    """The relay takes the sink so many resources of its snapshot further, or to its end; returns which."""
    (at,) = scene.sinks.positions(sink.name)
    events = scene.sinks.snapshot(CODE, at, most)
    if not events:
        scene.sinks.end_snapshot(sink.name, at)
        return []
    fates = sort_out(events, sink, set())
    step = settle(events, fates, fates.count(Fate.SEND))
    assert step is not None
    scene.sinks.advance(sink.name, at, step)
    return [event.id for event in events]


def test_what_a_snapshot_has_to_bring_waits_until_it_has_come_to_it(scene: Scene) -> None:
    scene.practice.whole(*[scene.practice.observation(id_) for id_ in ("o1", "a-1", "B.1", "Ab")])
    snapshot_begins(scene)
    for _ in range(4):
        told = why(scene, DEGRADED, "Observation/o1")
        assert told["stop"] == "waiting"
        assert told["sentence"].endswith(": its snapshot has not come to it")
        passed = carry(scene)
        assert why(scene, 0, f"Observation/{passed[0]}")["stop"] == "delivered"
        if passed == ["o1"]:
            break
    while carry(scene):
        pass
    for id_ in ("o1", "a-1", "B.1", "Ab"):
        told = why(scene, 0, f"Observation/{id_}")
        assert told["stop"] == "delivered"
        assert of_sinks(told) == [(1, "delivered", "in the snapshot that the sink starts from")]
    assert why(scene, 0, "--patient", "a")["stop"] == "delivered"


@pytest.fixture
def scene_in_english(postgres_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """In a database that sorts a, B, Z, as most languages do."""
    monkeypatch.setenv("KEY", "k" * 32)
    name = f"poller_english_{uuid.uuid4().hex[:12]}"
    with closing(psycopg.connect(postgres_server, autocommit=True)) as admin:
        try:
            admin.execute(
                f"CREATE DATABASE \"{name}\" TEMPLATE template0 LOCALE 'C.UTF-8' ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
            )
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("this PostgreSQL was built without ICU")
    url = make_conninfo(postgres_server, dbname=name)
    migrate(url)
    engine = open_engine(url, ENGINE, pool_size=12)
    made = Scene(engine, url, tmp_path)
    yield made
    made.close()
    engine.dispose()
    with closing(psycopg.connect(postgres_server, autocommit=True)) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_the_order_of_a_snapshot_is_the_databases(scene_in_english: Scene) -> None:
    """However the database sorts ids: what the cursor has passed was delivered, and nothing else."""
    scene, ids = scene_in_english, ["Z", "a", "B", "o1", "z-1", "Z.1", "0"]
    scene.practice.whole(*[scene.practice.observation(id_) for id_ in ids])
    snapshot_begins(scene)
    passed = carry(scene, most=3)
    assert passed != sorted(ids)[:3], "a program would sort otherwise"
    for id_ in ids:
        stop = why(scene, 0 if id_ in passed else DEGRADED, f"Observation/{id_}")["stop"]
        assert stop == ("delivered" if id_ in passed else "waiting"), id_
    assert why(scene, DEGRADED, "--patient", "a")["stop"] == "waiting"


def test_a_snapshot_shows_the_last_version_before_it_and_the_log_what_came_since(scene: Scene) -> None:
    scene.practice.whole(scene.practice.observation(value="14"), scene.practice.observation("o2"))
    scene.practice.delete("o2")
    snapshot_begins(scene)
    scene.practice.whole(scene.practice.observation(value="15"))
    while carry(scene):
        pass
    told = why(scene, DEGRADED, "Observation/o1")
    assert told["stop"] == "waiting"
    assert of_sinks(told) == [
        (3, "waiting", ""),
        (2, "delivered", "in the snapshot that the sink starts from"),
        (1, "skipped", "the snapshot shows version 2"),
    ]
    told = why(scene, 0, "Observation/o2")
    assert told["stop"] == "skipped"
    assert of_sinks(told)[0] == (2, "skipped", "it was deleted before the snapshot")


def test_a_snapshot_is_filtered_as_what_is_there_now(scene: Scene) -> None:
    scene.practice.whole(scene.practice.observation(value="14"))
    snapshot_begins(scene, ", only: {actions: [updated]}")
    assert carry(scene, Sink("snap", "snap", ("s",), start=Start("snapshot"), only=Only(actions=("updated",))))
    assert why(scene, 0, "Observation/o1")["stop"] == "filtered", (
        "each goes out as created, whatever the last change was"
    )


def test_what_is_parked_of_a_snapshot_is_the_version_that_it_shows(scene: Scene) -> None:
    scene.practice.whole(scene.practice.observation(value="14"))
    snapshot_begins(scene)
    (at,) = scene.sinks.positions("snap")
    events = scene.sinks.snapshot(CODE, at, 1)
    scene.sinks.advance("snap", at, park_first(events, [Fate.SEND], "too large: 9 bytes"))
    told = why(scene, DEGRADED, "Observation/o1")
    assert (told["stop"], told["sentence"].startswith("version 2 ")) == ("parked", True)
    assert of_sinks(told) == [(2, "parked", "too large: 9 bytes"), (1, "skipped", "the snapshot shows version 2")]
    assert "1 event is parked at snap" in scene.poller("status", CODE).stdout
    assert scene.poller("sinks", "discard", "snap", CODE, "--reason", "never mind").exit_code == 0
    told = why(scene, DEGRADED, "Observation/o1")
    assert (told["stop"], told["sentence"].startswith("version 2 ")) == ("discarded", True)
    assert of_sinks(told)[1][1] == "skipped"


def park_one(scene: Scene, reason: str = "too large: 9 bytes") -> None:
    """The first event of o1 is parked, its second behind it; o2 goes out."""
    scene.practice.whole(scene.practice.observation(value="14"), scene.practice.observation("o2"))
    scene.sinks.begin(SINK)
    (at,) = scene.sinks.positions(SINK.name)
    events = scene.sinks.after(CODE, 0, 0, 10, bodies=False)
    scene.sinks.advance(SINK.name, at, park_first(events, [Fate.SEND] * 3, reason))
    (at,) = scene.sinks.positions(SINK.name)
    step = settle(events[1:], [Fate.BEHIND if event.id == "o1" else Fate.SEND for event in events[1:]], 1)
    assert step is not None
    scene.sinks.advance(SINK.name, at, step)


def test_what_a_person_gave_up_was_not_delivered(scene: Scene) -> None:
    park_one(scene)
    words = ("sinks", "discard", "changes", CODE, "--reason", "the lab's clean-up")
    assert scene.poller(*words).stdout == "2 discarded\n"
    told = why(scene, DEGRADED, "Observation/o1")
    assert told["stop"] == "discarded"
    assert told["sentence"].startswith("version 1 (created, sequence 1-1) was discarded at changes: by ")
    assert told["sentence"].endswith(": the lab's clean-up")
    assert told["next"].startswith(f"`poller replay {CODE}`")
    assert [arrival for _, arrival, _ in of_sinks(told)] == ["discarded", "discarded"]
    assert why(scene, 0, "Observation/o2")["stop"] == "delivered", "nothing of it was parked"
    assert why(scene, DEGRADED, "--patient", "a")["stop"] == "discarded"
    (scope,) = noted(scene)
    named = [f"Observation/o1 {one['sequence']}" for one in reversed(told["events"])]
    assert scope == {"sink": "changes", "events": named}


def noted(scene: Scene) -> list[Any]:
    """What the audit has of discards, the last first."""
    found = scene.poller("audit", CODE, "--action", "sinks discard", "--json")
    return [one["scope"] for one in json.loads(found.stdout)["entries"]]


def test_a_table_of_the_audit_is_not_filled_by_one_discard(scene: Scene) -> None:
    scene.practice.whole(*[scene.practice.observation(f"o{n}") for n in range(9)])
    scene.sinks.begin(SINK)
    (at,) = scene.sinks.positions(SINK.name)
    events = scene.sinks.after(CODE, 0, 0, 20, bodies=False)
    step = settle(events, [Fate.ASKED] * len(events), 0)
    assert step is not None
    scene.sinks.advance(SINK.name, at, step)
    assert scene.poller("sinks", "discard", "changes", CODE).stdout == "9 discarded\n"
    assert len(noted(scene)[0]["events"]) == 9
    shown = " ".join(scene.poller("audit", CODE, "--action", "sinks discard").stdout.split())
    assert shown.count("Observation/o") <= 3
    assert "and" in shown


def test_only_what_is_noted_is_given_up_however_much_it_is(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.commands.sinks.TOGETHER", 1)
    park_one(scene)
    assert scene.poller("sinks", "discard", "changes", CODE).stdout == "2 discarded\n"
    assert [len(scope["events"]) for scope in noted(scene)] == [1, 1]
    shown = "".join(scene.poller("audit", CODE, "--action", "sinks discard").stdout.split())
    assert shown.count("Observation/o1") == 2
    (books,) = scene.sinks.books()
    assert (books.discarded, books.parked, books.missing) == (2, 0, 0)


@pytest.mark.parametrize("later", [1, 30])
def test_the_worst_of_a_resources_events_decides(scene: Scene, later: int) -> None:
    """Its first event is parked; what came after it the sink did not want."""
    only = Only(actions=("created",))
    scene.write(
        ["Observation", "Condition"],
        sinks="{changes: {exchange: fhir.changes, queues: [q], baseline: publish, only: {actions: [created]}}}",
    )
    scene.accept()
    sink = Sink("changes", "fhir.changes", ("q",), only=only)
    scene.sinks.begin(sink)
    (at,) = scene.sinks.positions(SINK.name)
    scene.sinks.advance(
        SINK.name, at, park_first(scene.sinks.after(CODE, 0, 0, 10, bodies=False), [Fate.SEND], "too large: 9 bytes")
    )
    for n in range(later):
        scene.practice.whole(scene.practice.observation(value=str(n)), second=200 + 10 * n)
    (at,) = scene.sinks.positions(SINK.name)
    events = scene.sinks.after(CODE, at.epoch, at.sequence, 100, bodies=False)
    assert len(events) == later
    step = settle(events, sort_out(events, sink, set()), 0)
    assert step is not None
    scene.sinks.advance(SINK.name, at, step)
    told = why(scene, DEGRADED, "Observation/o1")
    assert (told["stop"], told["sentence"]) == (
        "parked", "version 1 (created, sequence 1-1) is parked at changes: too large: 9 bytes",
    )  # fmt: skip
    assert "`poller sinks release changes FAMLYM`" in told["next"]
