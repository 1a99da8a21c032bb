"""Dropped elements and skipped labels, from the pass to the log: nothing of them is stored, and no change of the rules is news."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poller import metrics
from poller.config import PracticeConfig
from poller.config.model import DeletesConfig
from poller.core import canonical
from poller.core.model import Action, Confirmation, Gone, Kind, Origin, Present, Sighting, Strategy, Target
from poller.cycle import Cycle
from poller.reconcile import Reconciler
from poller.store.reading import ReadingStore, StoredVersion
from poller.store.repository import WITHHELD, PassContext
from tests.integration.conftest import KEY, UNLIMITED, Practice
from tests.integration.test_review_cycle import SWEEP, WINDOW, Hands, Server
from tests.markers import marked

pytestmark = pytest.mark.usefixtures("bodies")

MARKER = "Marker-1743"
DROP: dict[str, Any] = {"Observation": {"drop": ("note", "device.display"), "every": dt.timedelta(seconds=30)}}
SKIP: dict[str, Any] = {"Observation": {"skip_security": ("R",), "every": dt.timedelta(seconds=30)}}
RESTRICTED = {"security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}]}


@pytest.fixture
def admin(database_url: str) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(database_url, autocommit=True)) as connection:
        yield connection


def configured(feeds: dict[str, Any], **more: Any) -> PracticeConfig:
    given = {"code": "p1", "base_url": "https://ehr.example.org/fhir", "auth": "none", "feeds": feeds}
    return PracticeConfig.model_validate(given | more)


@dataclass
class Scene:
    """A practice that is swept, and whose single resources can be read."""

    practice: Practice
    config: PracticeConfig
    clock: Hands = field(default_factory=Hands)
    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What a read of an id shows."""
    last_server_error: dt.datetime | None = None

    def __post_init__(self) -> None:
        self.server = Server(self.clock)
        self.reconciler = self._reconciler()

    def _reconciler(self) -> Reconciler:
        made = self.practice
        return Reconciler(self.config, made.lease, self, made.repository, made.deletes, self.clock, KEY, lambda: None)

    async def confirm(self, resource_type: str, id_: str) -> Confirmation:
        began, ended = self.clock.now(), self.clock.now()
        if id_ not in self.there:
            return Gone(began, ended)
        return Present(Sighting(resource_type, id_, self.there[id_], began, ended))

    def sweep(self, *resources: dict[str, Any], target: Target = SWEEP, feeds: dict[str, Any] | None = None) -> None:
        """One pass by the configuration (or one with other ``feeds``), and the reads that follow from it."""
        if feeds is not None:
            self.config = configured(feeds)
            self.reconciler = self._reconciler()
        self.clock.at += dt.timedelta(seconds=60)
        self.there = {one["id"]: one for one in resources} if target == SWEEP else self.there
        self.there |= {one["id"]: one for one in resources}

        async def run() -> None:
            made = self.practice
            cycle = Cycle(
                self.config, made.lease, self.server, made.repository, made.state, self.clock, KEY, lambda: None
            )
            await cycle.adopt("Observation", Strategy.WINDOW)
            self.server.shows(target, *resources)
            await cycle.run_pass(cycle.targets.states[target.key])
            await self.reconciler.settle_absences()
            await cycle.stop()

        asyncio.run(run())

    def events(self) -> list[tuple[str, str, tuple[str, ...]]]:
        return [(e.action.value, e.id, e.changed) for e in self.practice.log.after("p1", 0, 0, 1000, bodies=True)]


def scene(practice: Practice, feeds: dict[str, Any], **more: Any) -> Scene:
    return Scene(practice, configured(feeds, **more))


def with_note(practice: Practice, value: str = "1", note: str = MARKER) -> dict[str, Any]:
    return practice.observation(value=value, note=[{"text": note}], device={"reference": "Device/d", "display": MARKER})


def test_what_is_dropped_is_in_no_table(practice: Practice, admin: psycopg.Connection) -> None:
    made = scene(practice, DROP)
    made.sweep(with_note(practice))
    made.sweep(with_note(practice, note=f"another {MARKER}"))
    made.sweep(with_note(practice, value="2"))
    made.sweep(with_note(practice, value="3"), target=WINDOW)
    asyncio.run(made.reconciler.look_at("Observation", "o1"))
    assert marked(admin, [MARKER]) == set()
    assert made.events() == [
        ("created", "o1", ()),
        ("updated", "o1", ("valueString",)),
        ("updated", "o1", ("valueString",)),
    ]
    with practice.engine.connect() as connection:
        found = ReadingStore(practice.engine).version(connection, "p1", "Observation", "o1")
    assert isinstance(found, StoredVersion)
    assert b'"device":{"reference":"Device/d"}' in (found.text or b"")


def test_a_change_of_what_is_dropped_is_no_event_and_cleans_the_snapshot(
    practice: Practice, admin: psycopg.Connection, bodies: str
) -> None:
    made = scene(practice, {"Observation": {}})
    made.sweep(with_note(practice))
    if bodies == "plain":
        assert marked(admin, [MARKER]) == {"snapshot.body", "history.body"}
    made.sweep(with_note(practice, note=f"another {MARKER}"), feeds=DROP)
    (row,) = practice.rows("SELECT codec, body FROM poller.snapshot")
    if bodies == "plain":
        assert MARKER not in canonical.body_text(row.codec, bytes(row.body)).decode()
        assert marked(admin, [MARKER]) == {"history.body"}, "history is never written again"
    made.sweep(with_note(practice), feeds={"Observation": {}})
    assert made.events() == [("created", "o1", ())]
    made.sweep(with_note(practice, note="at last"))
    assert made.events()[1:] == [("updated", "o1", ("note",))]


PATHS = st.sampled_from([(), ("note",), ("device", "note")])
STEPS = st.lists(st.tuples(st.sampled_from("12"), st.sampled_from("ab"), PATHS, PATHS), min_size=1, max_size=6)
RUNS = iter(range(10_000))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_an_event_is_never_for_rules_alone_and_never_for_what_is_dropped(
    practice: Practice, steps: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]
) -> None:
    id_ = f"o{next(RUNS)}"
    value_before: str | None = None
    for value, note, dropped, noise in steps:
        second = practice.tick()
        began, ended = practice.at(second), practice.at(second + 1)
        resource = practice.observation(id_, value=value, note=note)
        version = canonical.reduce(
            Sighting("Observation", id_, resource, began, ended),
            KEY,
            None,
            {"Observation": noise},
            drop={"Observation": dropped},
        )
        recorded = practice.repository.record(practice.context(), [version], ended)
        changes = [decision for _, decision in recorded.changes]
        if value_before is None:
            assert [decision.action for decision in changes] == [Action.CREATED]
        elif value != value_before:
            assert [decision.action for decision in changes] == [Action.UPDATED]
            assert "note" not in changes[0].changed or "note" not in {*dropped, *noise}
        elif "note" in {*dropped, *noise}:
            assert changes == []
        value_before = value
        (body,) = practice.log.history("p1", "Observation", id_)[-1:]
        assert not changes or body.body is None or "note" not in {*body.body} & {*dropped}


def test_a_person_s_read_makes_no_event_of_noise(practice: Practice) -> None:
    """It did: it was digested without the noise rules."""
    made = scene(practice, {"Observation": {}}, noise={"Observation": ("device",)})
    made.sweep(practice.observation(device="d1"))
    made.there["o1"] = practice.observation(device="d2")
    asyncio.run(made.reconciler.look_at("Observation", "o1"))
    assert made.events() == [("created", "o1", ())]


def test_what_is_skipped_is_neither_stored_nor_told_and_counted(practice: Practice, admin: psycopg.Connection) -> None:
    made = scene(practice, SKIP)
    before = metrics.WITHHELD.labels("p1", "Observation")._value.get()
    hidden = practice.observation("o1", MARKER, meta=RESTRICTED)
    made.sweep(hidden, practice.observation("o2"))
    made.sweep(hidden, target=WINDOW)
    asyncio.run(made.reconciler.look_at("Observation", "o1"))
    assert metrics.WITHHELD.labels("p1", "Observation")._value.get() == before + 2
    assert made.events() == [("created", "o2", ())]
    assert practice.live() == ["o2"]
    assert marked(admin, [MARKER]) == set()
    assert practice.rows("SELECT FROM poller.absence") == []


@pytest.mark.parametrize("target", [SWEEP, WINDOW])
def test_what_gains_the_label_is_deleted_once_a_read_of_it_shows_that_and_comes_back_without(
    practice: Practice, target: Target
) -> None:
    made = scene(practice, SKIP)
    both = practice.observation("o1"), practice.observation("o2")
    made.sweep(*both)
    hidden = practice.observation("o1", MARKER, meta=RESTRICTED)
    made.sweep(*([hidden, both[1]] if target == SWEEP else [hidden]), target=target)
    assert made.events()[2:] == [("deleted", "o1", ())]
    (evidence,) = [e.evidence for e in practice.log.after("p1", 1, 2, 10, bodies=False)]
    assert evidence == "shown with a security label that the feed skips, also when read by its id"
    assert practice.rows("SELECT body FROM poller.snapshot WHERE id = 'o1'") == [(None,)]
    made.sweep(hidden, both[1])
    assert made.events()[3:] == []
    made.sweep(*both)
    assert made.events()[3:] == [("restored", "o1", ())]


def test_many_at_once_wait_for_a_person(practice: Practice) -> None:
    """As where a server begins to label everything."""
    deletes = DeletesConfig(max_fraction=0.05, min_count=2)
    made = scene(practice, SKIP, deletes=deletes)
    made.sweep(*[practice.observation(f"o{n}") for n in range(20)])
    made.sweep(*[practice.observation(f"o{n}", meta=RESTRICTED) for n in range(20)])
    assert [action for action, _, _ in made.events()].count("deleted") == 2
    assert len(practice.deletes.listed("p1", ["held"])) == 18
    made.sweep(*[practice.observation(f"o{n}") for n in range(20)])
    assert practice.deletes.listed("p1", ["held", "missing"]) == []
    assert [action for action, _, _ in made.events()].count("restored") == 2


def test_a_label_that_is_gone_when_it_is_read_deletes_nothing_and_blames_no_pass(practice: Practice) -> None:
    made = scene(practice, SKIP)
    blamed: list[object] = []
    made.sweep(practice.observation("o1"))
    made.reconciler.on_contradiction = lambda absence, _patient: blamed.append(absence)
    context = PassContext(practice.lease, SWEEP, Origin.LIVE)
    practice.repository.note_withheld(context, [("Observation", "o1")], made.clock.now(), made.clock.now())
    (absence,) = practice.deletes.listed("p1", ["missing"])
    assert absence.reason == WITHHELD
    asyncio.run(made.reconciler.settle_absences())
    assert made.events() == [("created", "o1", ())]
    assert blamed == []
    made.sweep(practice.observation("o1"))
    assert practice.deletes.listed("p1", ["missing"]) == []


def test_a_patient_who_is_skipped_goes_on_being_read(practice: Practice) -> None:
    target = Target("p1", "Patient", Kind.SWEEP)
    practice.register(target)
    practice.whole(practice.patient("a"), target=target)
    context = PassContext(practice.lease, target, Origin.LIVE)
    practice.repository.note_withheld(context, [("Patient", "a")], practice.at(500), practice.at(501))
    (absence,) = practice.deletes.due("p1")
    practice.deletes.settle(
        practice.lease,
        absence,
        practice.at(502),
        practice.at(503),
        UNLIMITED,
        practice.at(504),
        withheld=True,
    )
    assert practice.live() == []
    assert practice.rows("SELECT gone_at FROM poller.patient") == [(None,)]
