"""A practice whose feeds are handed to the planner: what is read when, what is kept, and what is promised."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from poller.config import PracticeConfig
from poller.core.model import Batch, Coverage, Failure, FailureKind, Kind, Purpose, Sighting, Strategy, Target
from poller.core.pages import Problem
from poller.cycle import Cycle
from poller.store.planning import PlanningStore
from tests.integration.conftest import KEY

if TYPE_CHECKING:
    from poller.store.repository import Lease
    from tests.integration.conftest import Practice

MONDAY = dt.datetime(2026, 11, 23, 15, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)


@dataclass
class Clock:
    at: dt.datetime = MONDAY

    def now(self) -> dt.datetime:
        return self.at


@dataclass
class Given:
    """A pass that shows these resources."""

    resources: Sequence[Mapping[str, Any]]
    began: dt.datetime
    failure: Failure | None = None
    coverage: Coverage = Coverage.COMPLETE
    server_date: dt.datetime | None = None
    flaws: Counter[Problem] = field(default_factory=Counter)
    calls: int = 1

    def __post_init__(self) -> None:
        self.ended = self.began + SECOND / 10

    async def __aiter__(self) -> AsyncIterator[Batch]:
        sightings = [Sighting(one["resourceType"], one["id"], one, self.began, self.ended) for one in self.resources]
        yield Batch(tuple(sightings))


@dataclass
class Server:
    """Shows what the test puts in, by patient, and notes what was asked; a pass takes a second of the clock."""

    clock: Clock
    patients: list[str]
    resources: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    """By type and patient."""
    asked: list[tuple[Target, Purpose, dt.datetime]] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    """Keys of targets."""
    takes: dt.timedelta = SECOND
    """Of a pass."""

    def read(self, target: Target, since: dt.datetime | None, purpose: Purpose) -> Given:  # noqa: ARG002 - shows all at any time
        self.asked.append((target, purpose, self.clock.at))
        self.clock.at += self.takes
        if target.key in self.refuses:
            return Given([], self.clock.at, Failure(FailureKind.SERVER, 500), Coverage.INCOMPLETE)
        if target.resource_type == "Patient":
            shown = [{"resourceType": "Patient", "id": name} for name in self.patients]
        elif target.patient is None:
            shown = [one for (kind, _), some in self.resources.items() if kind == target.resource_type for one in some]
        else:
            shown = self.resources.get((target.resource_type, target.patient), [])
        return Given(shown, self.clock.at)

    def put(self, kind: str, patient: str, id_: str, **more: Any) -> None:
        kept = [one for one in self.resources.get((kind, patient), []) if one["id"] != id_]
        made = {"resourceType": kind, "id": id_, "subject": {"reference": f"Patient/{patient}"}} | more
        self.resources[kind, patient] = [*kept, made]

    def since(self, at: dt.datetime) -> list[Target]:
        return [target for target, _, asked in self.asked if asked >= at]


def configured(feeds: Mapping[str, Mapping[str, Any]], **more: Any) -> PracticeConfig:
    return PracticeConfig.model_validate(
        {
            "code": "p1",
            "base_url": "https://ehr.example/p1",
            "auth": "none",
            "time_zone": "America/New_York",
            "budget": {"calls_per_minute": 60, "max_in_flight": 1},
            "feeds": {name: dict(said) for name, said in feeds.items()},
        }
        | more
    )


@dataclass
class Rig:
    practice: Practice
    config: PracticeConfig
    server: Server
    clock: Clock
    memory: bool = True
    cycle: Cycle = field(init=False)

    async def begin(self, strategies: Mapping[str, Strategy], lease: Lease | None = None) -> Cycle:
        store = PlanningStore(self.practice.engine) if self.memory else None
        held = lease or self.practice.lease
        self.cycle = Cycle(
            self.config, held, self.server, self.practice.repository, self.practice.state, self.clock, KEY, _told, store
        )
        for feed in strategies:
            self.practice.state.register_feed(held, feed, self.clock.now())
        await self.cycle.targets.adopt_all(strategies)
        return self.cycle

    async def until(self, what: Callable[[], bool], passes: int = 500) -> int:
        """Let passes run, one after another, until it is so; how many."""
        for done in range(passes):
            if what():
                return done
            await self.step()
        raise AssertionError(f"not within {passes} passes")

    async def step(self) -> None:
        self.cycle.tick()
        if self.cycle._running:
            await asyncio.wait(list(self.cycle._running.values()), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)
            if self.cycle.failed.done():
                self.cycle.failed.result()
        else:
            self.clock.at += SECOND

    def is_loaded(self) -> bool:
        states = self.cycle.targets.states.values()
        return bool(states) and all(
            state.baseline_at is not None for state in states if not state.target.kind.is_window
        )

    def has(self, action: str, id_: str) -> bool:
        return (action, id_) in self.actions()

    def actions(self) -> list[tuple[str, str]]:
        return [(action, id_) for action, id_, _ in self.practice.actions()]


def _told() -> None:
    pass


BY_PATIENT = {"Patient": Strategy.PATIENT, "Encounter": Strategy.PATIENT, "Observation": Strategy.PATIENT}
FEEDS: dict[str, dict[str, Any]] = {
    "Patient": {"every": "1h"},
    "Encounter": {},
    "Observation": {"categories": ("laboratory",)},
}


@pytest.fixture
def rig(by_patient: Practice) -> Rig:
    """Eight patients, read one by one."""
    clock = Clock()
    server = Server(clock, [f"a{n}" for n in range(8)])
    return Rig(by_patient, configured(FEEDS, patients={"names": ("a",)}), server, clock)


def test_what_follows_a_visit_is_looked_for_at_once_and_often(rig: Rig) -> None:
    async def scenario() -> None:
        await rig.begin(BY_PATIENT)
        await rig.until(rig.is_loaded)
        start = rig.clock.at
        visit = {"status": "in-progress", "period": {"start": start.isoformat()}, "class": {"code": "AMB"}}
        rig.server.put("Encounter", "a7", "e1", **visit)
        await rig.until(lambda: rig.has("created", "e1"))
        rig.server.takes = MINUTE
        seen = rig.clock.at
        await rig.until(lambda: rig.clock.at > seen + 2 * HOUR)
        asked = Counter(target.patient for target in rig.server.since(seen) if target.resource_type == "Observation")
        others = [asked[f"a{n}"] for n in range(7)]
        assert asked["a7"] >= 3 * max(others)
        assert min(others) > 0

    asyncio.run(scenario())


def test_a_promise_is_kept_although_the_index_would_go_elsewhere(rig: Rig) -> None:
    feeds = FEEDS | {"Encounter": {"weight": 0.001, "max_staleness": "10m"}}
    rig.config = configured(feeds, patients={"names": ("a",)}, budget={"calls_per_minute": 6, "max_in_flight": 1})

    async def scenario() -> None:
        rig.server.takes = 10 * SECOND
        await rig.begin(BY_PATIENT)
        await rig.until(rig.is_loaded)
        loaded = rig.clock.at
        await rig.until(lambda: rig.clock.at > loaded + 40 * MINUTE)
        reads: dict[str, list[dt.datetime]] = {}
        for target, _, at in rig.server.asked:
            if target.resource_type == "Encounter":
                reads.setdefault(target.key, []).append(at)
        for times in reads.values():
            assert len(times) > 3
            assert max(after - before for before, after in itertools.pairwise(times)) <= 10 * MINUTE
        asked = [(target.resource_type, purpose) for target, purpose, at in rig.server.asked if at > loaded]
        assert Purpose.DEADLINE in {purpose for kind, purpose in asked if kind == "Encounter"}
        assert len([kind for kind, _ in asked if kind == "Observation"]) > len(asked) / 2, "the rest goes elsewhere"

    asyncio.run(scenario())


def test_a_restart_goes_on_with_what_was_learned(rig: Rig) -> None:
    async def scenario() -> None:
        cycle = await rig.begin(BY_PATIENT)
        await rig.until(rig.is_loaded)
        rig.server.put("Encounter", "a3", "e1", status="finished", period={"start": rig.clock.at.isoformat()})
        await rig.until(lambda: ("created", "e1") in rig.actions())
        for n in range(8):
            rig.server.put("Observation", "a5", f"o{n}", status="final")
            await rig.until(functools.partial(rig.has, "created", f"o{n}"))
        rig.clock.at += dt.timedelta(days=1)
        await cycle.observe()
        planner = cycle.planning._planner
        assert planner is not None
        learned = planner.state()["practice"]
        assert learned["learned_at"] is not None
        assert learned["types"]["Observation/laboratory"]["changes"] > 0
        await cycle.stop()
        successor = rig.practice.keeper.take("p1")
        again = await rig.begin(BY_PATIENT, successor)
        taken_over = again.planning._planner
        assert taken_over is not None
        assert taken_over.state()["practice"] == learned
        assert [reference for _, reference, _ in taken_over._visits] == ["e1"]
        assert len(taken_over) == len(planner)
        before = len(rig.server.asked)
        await rig.until(lambda: len(rig.server.asked) > before + 20)
        assert all(purpose is not Purpose.BACKFILL for _, purpose, _ in rig.server.asked[before:])

    asyncio.run(scenario())


def test_a_new_patient_is_read_at_once_and_what_is_found_is_news(rig: Rig) -> None:
    async def scenario() -> None:
        await rig.begin(BY_PATIENT)
        await rig.until(rig.is_loaded)
        rig.server.patients.append("b1")
        rig.server.put("Observation", "b1", "o1", status="final")
        rig.clock.at += HOUR
        await rig.until(lambda: ("created", "o1") in rig.actions(), 12)
        assert [
            event.origin.value for event in rig.practice.log.after("p1", 0, 0, 1000, bodies=False) if event.id == "o1"
        ] == ["live"]

    asyncio.run(scenario())


def test_out_of_hours_only_promises_are_kept(rig: Rig) -> None:
    hours = {"hours": "07:00-19:00", "days": "mon-fri"}
    rig.config = configured({"Patient": {"every": "1h"}, "Observation": {"active": hours}}, patients={"names": ("a",)})
    strategies = {"Patient": Strategy.PATIENT, "Observation": Strategy.PATIENT}

    async def scenario() -> None:
        await rig.begin(strategies)
        await rig.until(rig.is_loaded)
        opened = rig.clock.at
        await rig.until(lambda: rig.clock.at > opened + 5 * MINUTE)
        assert any(target.resource_type == "Observation" for target in rig.server.since(opened + SECOND))
        rig.clock.at = MONDAY.replace(hour=1) + dt.timedelta(days=1)  # eight in the evening, of Monday
        closed = rig.clock.at
        await rig.until(lambda: rig.clock.at > closed + 5 * MINUTE, 400)
        late = [target for target in rig.server.since(closed + 6 * SECOND) if target.resource_type == "Observation"]
        assert late == []
        rig.clock.at = closed + dt.timedelta(days=4, hours=2)  # Friday evening; what was promised is due before Monday
        await rig.until(
            lambda: any(target.resource_type == "Observation" for target in rig.server.since(rig.clock.at - MINUTE)),
            400,
        )

    asyncio.run(scenario())


def test_a_target_that_fails_is_tried_again_with_growing_gaps(rig: Rig) -> None:
    async def scenario() -> None:
        await rig.begin(BY_PATIENT)
        await rig.until(rig.is_loaded)
        broken = Target("p1", "Observation", Kind.PATIENT, "laboratory", "a7")
        rig.server.refuses.add(broken.key)
        start = rig.clock.at
        rig.server.takes = 5 * SECOND
        await rig.until(lambda: rig.clock.at > start + 20 * MINUTE, 3000)
        tries = [at for target, _, at in rig.server.asked if target.key == broken.key and at >= start]
        gaps = [after - before for before, after in itertools.pairwise(tries)]
        assert 4 <= len(tries) <= 12
        assert max(gaps[:2]) < MINUTE < gaps[-1], gaps
        rig.server.refuses.clear()
        await rig.until(lambda: not rig.cycle.targets.states[broken.key].failures, 1500)

    asyncio.run(scenario())


def test_a_promise_that_is_broken_shows_as_late(rig: Rig) -> None:
    rig.config = configured(FEEDS | {"Observation": {"max_staleness": "1h"}}, patients={"names": ("a",)})

    async def scenario() -> None:
        cycle = await rig.begin(BY_PATIENT)
        await rig.until(rig.is_loaded)
        await cycle.observe()
        assert not any(cycle.lateness._late.values())
        rig.clock.at += 2 * HOUR
        await cycle.observe()
        assert {feed for feed, late in cycle.lateness._late.items() if late} >= {"Observation"}
        assert not cycle.lateness._late.get("Encounter")
        start = rig.clock.at
        await rig.until(lambda: rig.clock.at > start + 5 * MINUTE)
        await cycle.observe()
        assert not cycle.lateness._late["Observation"]

    asyncio.run(scenario())


WIDE = {
    Strategy.WINDOW: {Kind.WINDOW, Kind.SWEEP},
    Strategy.SWEEP: {Kind.SWEEP},
    Strategy.EVERYTHING: {Kind.EVERYTHING},
    Strategy.EVERYTHING_WINDOW: {Kind.EVERYTHING, Kind.EVERYTHING_WINDOW},
    Strategy.PATIENT_WINDOW: {Kind.PATIENT, Kind.PATIENT_WINDOW},
    Strategy.PATIENTS: {Kind.PATIENTS},
    Strategy.PATIENT: {Kind.PATIENT},
}


@pytest.mark.parametrize("rung", list(WIDE))
def test_every_rung_is_read_by_worth_and_reconciled_by_schedule(by_patient: Practice, rung: Strategy) -> None:
    clock = Clock()
    server = Server(clock, [f"a{n}" for n in range(3)])
    config = configured(
        {"Patient": {"every": "30m"}, "Observation": {"sweep_every": "10m", "categories": ("laboratory",)}},
        patients={"names": ("a",)},
        patients_per_call=2,
    )
    rig = Rig(by_patient, config, server, clock)

    async def scenario() -> None:
        await rig.begin({"Patient": Strategy.PATIENT, "Observation": rung})
        await rig.until(rig.is_loaded)
        loaded = clock.at
        server.takes = 10 * SECOND
        await rig.until(lambda: clock.at > loaded + 30 * MINUTE, 3000)
        read = Counter(target.kind for target in server.since(loaded) if target.resource_type != "Patient")
        assert set(read) == WIDE[rung]
        if len(read) == 2:
            content, detecting = sorted(read.values())
            assert 2 <= content / (1 if rung is Strategy.WINDOW else 3) <= 4, "content reads follow their schedule"
            assert detecting > 5 * content
        assert sum(read.values()) > 150, "and the budget is used"

    asyncio.run(scenario())
