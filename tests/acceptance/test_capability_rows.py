"""Every readable row of the vendor's capability matrix, read by the engine's own passes from a practice that answers as eCW does.

For each row: what is stored is what is true, one edit is one event, and an id that two searches show is one resource.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
import time
from collections import Counter
from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine, text

from poller import keys
from poller.attachments import Attacher
from poller.clock import Clock
from poller.config.model import BudgetConfig, PracticeConfig
from poller.config.secret import Secret
from poller.core.attachments import Fetched
from poller.core.canonical import decode_body
from poller.core.export import Use
from poller.core.model import Purpose, Strategy
from poller.cycle import Cycle
from poller.export import Exporter
from poller.reconcile import Reconciler
from poller.simulator.alignment import content_of
from poller.simulator.binary import attachments, binary
from poller.simulator.binary import content_of as attachment_of
from poller.simulator.server import SimulatorServer
from poller.simulator.spec import PracticeSpec
from poller.simulator.world import World
from poller.source.binary import fetch
from poller.source.bulk import Bulk
from poller.source.connection import open_source
from poller.source.strategies import Source
from poller.store.attachments import AttachmentStore
from poller.store.deletes import DeleteStore
from poller.store.engine import ENGINE, open_clock, open_engine, prove_digest_key
from poller.store.exports import ExportStore
from poller.store.repository import Repository
from poller.store.state import LeaseKeeper, StateStore
from tests.source_bench import Freely

KEY = b"k" * 32
SECOND = dt.timedelta(seconds=1)
README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


@dataclass(frozen=True)
class Row:
    """A row of the matrix, as the README names it."""

    name: str
    resource_type: str
    feed: Mapping[str, Any] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    """Which resources of the type the row is about; all if none is named."""
    holds: tuple[str, ...] = ()
    """Categories of which the simulator must have some, or the row proves nothing."""

    def covers(self, resource: Mapping[str, Any]) -> bool:
        return not self.categories or not set(self.categories).isdisjoint(categories_of(resource))


def observation(name: str, *categories: str) -> Row:
    return Row(name, "Observation", {}, categories, categories)


CONDITIONS = ("encounter-diagnosis", "problem-list-item", "health-concern")
ROWS = [
    Row("Patient", "Patient"),
    Row("Encounter", "Encounter"),
    Row("Clinical notes", "DocumentReference", {"attachments": {}}, holds=("clinical-note",)),
    Row("Reports", "DiagnosticReport", {"attachments": {}}, holds=("LAB", "LP29684-5")),
    observation("Laboratory results", "laboratory"),
    observation("Vital signs", "vital-signs"),
    observation("Social history", "social-history"),
    observation("Surveys", "survey"),
    observation("Examinations", "exam"),
    observation("Imaging results", "imaging"),
    observation("Social determinants of health", "sdoh"),
    Row("Medication orders", "MedicationRequest"),
    Row("Allergies", "AllergyIntolerance"),
    Row("Problems and diagnoses", "Condition", holds=CONDITIONS),
    Row("Immunizations", "Immunization"),
    Row("Coverage", "Coverage"),
    Row("Orders", "ServiceRequest"),
    Row("Procedures", "Procedure"),
    Row("Care plans", "CarePlan", holds=("assess-plan",)),
    Row("Care teams", "CareTeam"),
    Row("Goals", "Goal"),
    Row("Devices", "Device"),
]


def categories_of(resource: Mapping[str, Any]) -> set[str]:
    return {coding["code"] for concept in resource.get("category", ()) for coding in _codings(concept)}


def _codings(concept: object) -> Sequence[Mapping[str, Any]]:
    return concept.get("coding", ()) if isinstance(concept, dict) else ()


CODE, EXPORT, OLD = "ROWECW", "ROWEXP", "ROWOLD"
FEEDS: dict[str, dict[str, Any]] = {row.resource_type: dict(row.feed) for row in ROWS}


def spec(code: str, types: Collection[str], **more: Any) -> PracticeSpec:
    """Two patients with everything, and searches that come in pages and want what eClinicalWorks wants."""
    return PracticeSpec(
        code,
        "ecw",
        patients=2,
        name_initials="AB",
        types=tuple(types),
        labs_per_patient=4,
        limit=1_000_000,
        page_size=4,
        rich=True,
        wants_narrowed=True,
        **more,
    )


SPECS = [
    spec(CODE, {row.resource_type for row in ROWS} - {"Patient"}),
    spec(EXPORT, ("Observation", "Condition"), bulk=True, bulk_seconds=0.0),
    spec(OLD, ("Coverage", "ServiceRequest"), build="v1", coverage=False),
]


@dataclass(frozen=True)
class Ground:
    """What all practices of these tests stand on."""

    server: SimulatorServer
    engine: Engine
    key: Path
    loop: asyncio.Runner


class _Binaries:
    def __init__(self, source: Source, clock: Clock) -> None:
        self._source, self._clock = source, clock

    async def attachment(self, id_: str, max_bytes: int) -> Fetched:
        return await fetch(self._source.client, self._clock, id_, max_bytes, Purpose.DETECT)


class Practice:
    """One simulated practice, and the engine's parts that read it, its patients found."""

    def __init__(self, ground: Ground, code: str, feeds: Mapping[str, Any], **more: Any) -> None:
        self.code, self.ground, self.world, self.engine = code, ground, ground.server.world, ground.engine
        self.lease = LeaseKeeper(self.engine).take(code)
        self.clock = open_clock(self.engine)
        self.states, self.repository = StateStore(self.engine), Repository(self.engine, KEY)
        self.states.register_practice(self.lease)
        self.config = self._config({"Patient": {}} | dict(feeds), **more)
        self.failures: set[str | None] = set()
        """How passes ended early; None for one that did not."""
        self._stack = AsyncExitStack()
        self.run(self._open())

    def _config(self, feeds: Mapping[str, Any], **more: Any) -> PracticeConfig:
        given: dict[str, Any] = {
            "code": self.code,
            "base_url": self.ground.server.base_url(self.code),
            "token_url": self.ground.server.token_url,
            "client_id": f"poller-{self.code.lower()}",
            "key": Secret(file=self.ground.key, env=None),
            "scopes": ("system/*.r", *(("system/Group.read",) if "bulk" in more else ())),
            "patients": {"names": ("a", "b")},
            "feeds": feeds,
            "budget": BudgetConfig(calls_per_minute=250, max_in_flight=6),
        }
        return PracticeConfig.model_validate(given | more)

    async def _open(self) -> None:
        self.source = await self._stack.enter_async_context(open_source(self.config, Freely(), self.clock))
        parts = (self.repository, self.states, self.clock, KEY, lambda: None)
        self.cycle = Cycle(self.config, self.lease, self.source, *parts)
        self.cycle.after_pass = lambda report: self.failures.add(report.failure.kind.value if report.failure else None)
        for feed in self.config.feeds:
            self.states.register_feed(self.lease, feed, self.clock.now())
            await self.cycle.adopt(feed, Strategy.PATIENT)
        await self._pass("Patient", ())
        deletes = DeleteStore(self.engine)
        self.reconciler = Reconciler(
            self.config, self.lease, self.source, self.repository, deletes, self.clock, KEY, lambda: None
        )

    async def _pass(self, resource_type: str, categories: Collection[str]) -> None:
        for state in list(self.cycle.targets.states.values()):
            target = state.target
            if target.resource_type == resource_type and (not categories or target.category in categories):
                await self.cycle.run_pass(self.cycle.targets.states[target.key])

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.ground.loop.run(work)

    def close(self) -> None:
        self.run(self.cycle.stop())
        self.cycle.failed.cancel()
        self.run(self._stack.aclose())

    def read(self, resource_type: str, *categories: str) -> None:
        """Each of these targets once, and then what they name."""
        self.run(self._pass(resource_type, categories))
        if self.config.feeds[resource_type].attachments is not None:
            store, binaries = AttachmentStore(self.engine), _Binaries(self.source, self.clock)
            parts = (self.repository, store, self.clock, KEY, lambda: None)
            attacher = Attacher(self.config, self.lease, binaries, *parts)
            while self.run(attacher.fetch_due(self.clock.now())):
                pass

    def settle(self) -> None:
        """Read what is missing; deletes are settled by it."""
        self.run(self.reconciler.settle_absences())

    def export(self, use: Use, *types: str) -> None:
        bulk, exports = Bulk(self.source.client, self.clock), ExportStore(self.engine)
        parts = (self.repository, exports, self.clock, KEY, lambda: None)
        exporter = Exporter(self.config, self.lease, bulk, *parts, sleep=lambda _: asyncio.sleep(0.01))
        assert self.run(exporter.run(use, types)).job.is_whole

    def rows(self, statement: str) -> Sequence[Any]:
        with self.engine.connect() as connection:
            return connection.execute(text(statement), {"practice": self.code}).all()

    def events(self) -> list[tuple[str, str, str, list[str]]]:
        return [
            (row.action, row.resource_type, row.id, row.changed)
            for row in self.rows("SELECT * FROM poller.event WHERE practice = :practice ORDER BY sequence")
        ]

    def stored(self, resource_type: str) -> dict[str, bytes | None]:
        """Id → content, by an idea of content that is not the engine's."""
        rows = self.rows("SELECT * FROM poller.snapshot WHERE practice = :practice AND NOT deleted")
        return {
            row.id: content_of(decode_body(row.codec, row.body)) for row in rows if row.resource_type == resource_type
        }

    def written(self, resource_type: str) -> dict[str, Mapping[str, Any]]:
        return self.world.written(self.code, resource_type)

    def true(self, resource_type: str) -> dict[str, bytes | None]:
        return {name: content_of(resource) for name, resource in self.written(resource_type).items()}

    def edit(self, resource: Mapping[str, Any], **changes: Any) -> None:
        self.world.put(self.code, {**resource, **changes}, self.ground.server.clock())


@pytest.fixture(scope="module")
def engine(postgres_server: str, template_database: str) -> Iterator[Engine]:
    name = f"poller_rows_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
        admin.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    made = open_engine(make_conninfo(postgres_server, dbname=name), ENGINE)
    prove_digest_key(made, KEY)
    yield made
    made.dispose()
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="module")
def ground(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    pair = keys.new_key(tmp_path_factory.mktemp("keys"))
    world = World(SPECS)
    world.register(keys.jwks([(pair.kid, pair.private_key.public_key())]))
    with SimulatorServer(world) as server, asyncio.Runner() as loop:
        yield Ground(server, engine, pair.private_path, loop)


@pytest.fixture(scope="module")
def practice(ground: Ground) -> Iterator[Practice]:
    made = Practice(ground, CODE, FEEDS | {"Observation": {}})
    yield made
    made.close()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_read_as_it_is_and_one_edit_is_one_event(practice: Practice, row: Row) -> None:
    kind = row.resource_type
    covered = {name: resource for name, resource in practice.written(kind).items() if row.covers(resource)}
    assert len(covered) >= 2
    assert set(row.holds) <= {category for resource in covered.values() for category in categories_of(resource)}
    practice.read(kind, *row.categories)
    stored, others = practice.stored(kind), practice.written(kind).keys() - covered.keys()
    assert {name: stored[name] for name in stored.keys() - others} == {
        name: content_of(resource) for name, resource in covered.items()
    }
    for content in attached(row, covered.values()):
        assert practice.stored("Binary")[content["id"]] == content_of(content)
    before = practice.events()
    assert len(before) == len({event[1:3] for event in before if event[0] == "created"}) + len(
        [event for event in before if event[0] == "updated"]
    )
    edited = min(covered)
    practice.edit(covered[edited], language=f"x-{ROWS.index(row)}")
    practice.read(kind, *row.categories)
    assert practice.events()[len(before) :] == [("updated", kind, edited, ["language"])]
    assert practice.stored(kind)[edited] == practice.true(kind)[edited]
    assert practice.failures == {None}


def attached(row: Row, resources: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The Binary resources that these name, where the row has them fetched."""
    for resource in resources if "attachments" in row.feed else ():
        for named in attachments(resource):
            name, content_type = named["url"].removeprefix("Binary/"), named["contentType"]
            yield binary(name, attachment_of(name, content_type), content_type)


def test_an_id_in_two_categories_is_one_resource_and_its_edit_one_event(practice: Practice) -> None:
    both = ("survey", "sdoh")
    practice.read("Observation", *both)
    shown = practice.rows("SELECT id FROM poller.member WHERE practice = :practice AND resource_type = 'Observation'")
    times = Counter(row.id for row in shown)
    twice = sorted(name for name in times if times[name] == len(both))
    assert len(twice) == 2, "one of each patient"
    before = practice.events()
    assert sorted(name for action, _, name, _ in before if action == "created" and name in twice) == twice
    practice.edit(practice.written("Observation")[twice[0]], status="amended")
    practice.read("Observation", *both)
    assert practice.events()[len(before) :] == [("updated", "Observation", twice[0], ["status"])]
    left = practice.written("Observation")[twice[0]]
    practice.edit(left, category=[one for one in left["category"] if "sdoh" not in str(one)])
    practice.read("Observation", *both)
    practice.settle()
    assert practice.events()[-1] == ("updated", "Observation", twice[0], ["category"]), "it left one of them, no more"


def test_a_care_team_that_its_search_does_not_show_any_more_has_changed_and_is_not_deleted(practice: Practice) -> None:
    """eClinicalWorks wants ``status=active``, so the search itself can never show that a team is not any more."""
    practice.read("CareTeam")
    before = practice.events()
    teams = practice.written("CareTeam")
    changed, deleted = sorted(teams)
    practice.edit(teams[changed], status="inactive")
    practice.world.delete(practice.code, "CareTeam", deleted, practice.ground.server.clock())
    practice.read("CareTeam")
    assert practice.events() == before
    practice.settle()
    assert sorted(practice.events()[len(before) :]) == [
        ("deleted", "CareTeam", deleted, []),
        ("updated", "CareTeam", changed, ["status"]),
    ]
    practice.read("CareTeam")
    practice.settle()
    assert len(practice.events()) == len(before) + 2


def test_a_build_that_does_not_have_a_type_is_no_practice_without_any(ground: Ground) -> None:
    with closing(Practice(ground, OLD, {"Coverage": {}, "ServiceRequest": {}})) as old:
        old.read("Coverage")
        old.read("ServiceRequest")
        assert old.failures == {None, "refused"}
        whole = old.rows("SELECT * FROM poller.target WHERE practice = :practice AND baseline_at IS NOT NULL")
        assert {target.resource_type for target in whole} == {"Patient"}


def test_bulk_export_shows_the_same_as_searches_do(ground: Ground) -> None:
    types = ("Patient", "Observation", "Condition")
    (group,) = ground.server.world.written(EXPORT, "Group")
    with closing(Practice(ground, EXPORT, {"Observation": {}, "Condition": {}}, bulk={"group": group})) as practice:
        practice.export(Use.FIRST_LOAD, *types)
        assert {name: practice.stored(name) for name in types} == {name: practice.true(name) for name in types}
        before = practice.events()
        practice.read("Observation")
        practice.read("Condition")
        assert practice.events() == before
        conditions = practice.written("Condition")
        practice.clock.catch_up(
            practice.clock.now() + 5 * SECOND, time.monotonic()
        )  # exports tell their time in seconds
        practice.edit(conditions[min(conditions)], language="en-US")
        practice.export(Use.RECONCILE, *types)
        assert practice.events()[len(before) :] == [("updated", "Condition", min(conditions), ["language"])]


def test_the_readme_has_every_row() -> None:
    section = README.partition("\n## What can be read\n")[2].partition("\n## ")[0]
    assert [row.name for row in ROWS if f"| {row.name} | `{row.resource_type}`" not in section] == []
    assert "| Bulk export |" in section
