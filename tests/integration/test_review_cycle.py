"""A practice's cycle under stress: feeds that come while patients are found, long sweeps beside windows, the end of a cycle."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from poller.config import PracticeConfig
from poller.config.feed import FeedConfig
from poller.config.model import BudgetConfig
from poller.config.secret import Secret
from poller.core.model import Batch, Coverage, Failure, Kind, Purpose, Sighting, Strategy, Target
from poller.core.pages import Problem
from poller.core.plan import PatientState
from poller.cycle import Cycle, PassReport
from poller.store.state import StateStore
from tests.integration.conftest import KEY, T0, Practice

Content = Mapping[str, Any]


class Hands:
    """A clock that a test moves; each look takes a millisecond."""

    def __init__(self) -> None:
        self.at = T0

    def now(self) -> dt.datetime:
        self.at += dt.timedelta(milliseconds=1)
        return self.at


@dataclass
class Reading:
    """A pass whose pages are given by a test, each when it is asked for."""

    clock: Hands
    resource_type: str
    pages: list[Callable[[], Awaitable[list[Content]]]]
    coverage: Coverage = Coverage.COMPLETE
    failure: Failure | None = None
    began: dt.datetime = field(init=False)
    ended: dt.datetime = field(init=False)
    server_date: dt.datetime | None = field(init=False)
    flaws: Counter[Problem] = field(default_factory=Counter)
    calls: int = 1

    def __post_init__(self) -> None:
        self.began = self.ended = self.server_date = self.clock.now()

    async def __aiter__(self) -> AsyncIterator[Batch]:
        for page in self.pages:
            began = self.clock.now()
            resources = await page()
            ended = self.ended = self.clock.now()
            yield Batch(tuple(Sighting(self.resource_type, r["id"], r, began, ended) for r in resources))


@dataclass
class Server:
    """Gives each target its pages; those it does not know are empty."""

    clock: Hands
    pages: dict[str, list[Callable[[], Awaitable[list[Content]]]]] = field(default_factory=dict)
    asked: list[tuple[Target, dt.datetime | None]] = field(default_factory=list)

    def read(self, target: Target, since: dt.datetime | None, purpose: Purpose) -> Reading:  # noqa: ARG002 - the port's
        self.asked.append((target, since))
        return Reading(self.clock, target.resource_type, self.pages.get(target.key, []))

    def shows(self, target: Target, *resources: Content) -> None:
        self.pages[target.key] = [page(*resources)]


def page(*resources: Content) -> Callable[[], Awaitable[list[Content]]]:
    async def read() -> list[Content]:
        return list(resources)

    return read


def configured(feeds: Sequence[str], **more: Any) -> PracticeConfig:
    given = {
        "code": "p1",
        "base_url": "https://ehr.example.org/fhir",
        "client_id": "c",
        "key": Secret(env="UNUSED"),
        "feeds": {
            feed: FeedConfig(categories=(), every=dt.timedelta(seconds=30), sweep_every=dt.timedelta(hours=1))
            for feed in feeds
        },
    }
    return PracticeConfig.model_validate(given | more)


def cycle_of(practice: Practice, config: PracticeConfig, server: Server, states: StateStore | None = None) -> Cycle:
    return Cycle(
        config, practice.lease, server, practice.repository, states or practice.state, server.clock, KEY, lambda: None
    )


WINDOW = Target("p1", "Observation", Kind.WINDOW)
SWEEP = Target("p1", "Observation", Kind.SWEEP)
NAMES = Target("p1", "Patient", Kind.NAMES)


class SlowToCount(StateStore):
    """Gives the patients of one look only when told."""

    def __init__(self, practice: Practice) -> None:
        super().__init__(practice.engine)
        self.looked, self.go_on = threading.Event(), threading.Event()
        self.slow = False

    def patients(self, practice: str) -> list[PatientState]:
        found = super().patients(practice)
        if self.slow:
            self.slow = False
            self.looked.set()
            assert self.go_on.wait(20)
        return found


def test_a_feed_taken_up_while_patients_are_found_reads_them_all(practice: Practice) -> None:
    """Else the older list of patients retires the targets made from the newer one: nobody reads them, and nothing says so."""
    config = configured(["Patient", "Condition"])

    async def scenario() -> list[str | None]:
        server = Server(Hands())
        states = SlowToCount(practice)
        cycle = cycle_of(practice, config, server, states)
        for feed in config.feeds:
            practice.state.register_feed(practice.lease, feed, T0)
        await cycle.adopt("Patient", Strategy.PATIENT)
        await cycle.adopt("Condition", Strategy.PATIENT)
        states.slow = True
        again = asyncio.create_task(cycle.adopt("Condition", Strategy.PATIENT))
        await asyncio.to_thread(states.looked.wait)
        server.shows(NAMES, practice.patient("a"))
        cycle.tick()
        [enumeration] = cycle._running.values()
        await asyncio.wait([enumeration], timeout=1)  # it may have to wait for the other one
        states.go_on.set()
        await again
        await enumeration
        found: list[str | None] = [
            state.target.patient for state in practice.state.targets("p1", ()) if state.target.patient
        ]
        await cycle.stop()
        return found

    assert asyncio.run(scenario()) == ["a"]


def test_what_a_long_sweep_sees_before_the_windows_do_was_not_missed_by_them(practice: Practice) -> None:
    """While the sweep reads on, windows show the change and move past it; the one after the sweep need not show it again."""
    config = configured(["Observation"])
    reports: list[PassReport] = []

    async def scenario() -> None:
        clock = Hands()
        server = Server(clock)
        cycle = cycle_of(practice, config, server)
        cycle.after_pass = reports.append
        await cycle.adopt("Observation", Strategy.WINDOW)

        async def one(target: Target) -> None:
            await cycle.run_pass(cycle.targets.states[target.key])

        async def a_window(*resources: Content) -> None:
            clock.at += dt.timedelta(seconds=90)
            server.shows(WINDOW, *resources)
            await one(WINDOW)

        server.shows(SWEEP, practice.observation("o1"), practice.observation("o2"))
        await one(SWEEP)
        await a_window()
        changed = practice.observation("o1", value="new")

        async def meanwhile() -> list[Content]:
            await a_window(changed)
            await a_window()
            return []

        server.pages[SWEEP.key] = [page(changed), page(practice.observation("o2")), meanwhile]
        await one(SWEEP)
        await a_window()
        await a_window()

    asyncio.run(scenario())
    assert [report.missed for report in reports if report.missed] == []
    assert practice.actions()[-1] == ("updated", "o1", 2)


def test_what_no_window_shows_after_a_sweep_has_found_it_was_missed(practice: Practice) -> None:
    config = configured(["Observation"])
    reports: list[PassReport] = []

    async def scenario() -> None:
        server = Server(Hands())
        cycle = cycle_of(practice, config, server)
        cycle.after_pass = reports.append
        await cycle.adopt("Observation", Strategy.WINDOW)
        for value, shown_by_window in (("1", False), ("2", True), ("3", False)):
            resource = practice.observation("o1", value=value)
            server.shows(SWEEP, resource)
            await cycle.run_pass(cycle.targets.states[SWEEP.key])
            server.shows(WINDOW, *([resource] if shown_by_window else []))
            for _ in range(2):
                await cycle.run_pass(cycle.targets.states[WINDOW.key])
                server.shows(WINDOW)

    asyncio.run(scenario())
    assert [report.missed for report in reports if report.missed] == [(("Observation", "o1"),)]


def test_windows_are_read_while_every_feed_sweeps(practice: Practice) -> None:
    """Sweeps can last for an hour; were they to take all places in flight, nothing new would be seen until they end."""
    types = ("Observation", "Condition", "Encounter", "Procedure", "Immunization", "MedicationRequest")
    config = configured(types, budget=BudgetConfig(max_in_flight=4))

    async def scenario() -> set[Kind]:
        server = Server(Hands())
        cycle = cycle_of(practice, config, server)
        for feed in types:
            practice.state.register_feed(practice.lease, feed, T0)
            await cycle.adopt(feed, Strategy.WINDOW)
            await cycle.run_pass(cycle.targets.states[Target("p1", feed, Kind.SWEEP).key])
        server.clock.at += dt.timedelta(hours=2)
        for feed in types:
            await cycle.run_pass(cycle.targets.states[Target("p1", feed, Kind.WINDOW).key])
        endless = asyncio.Event()

        async def on_and_on() -> list[Content]:
            await endless.wait()
            return []

        for feed in types:
            server.pages[Target("p1", feed, Kind.SWEEP).key] = [on_and_on]
            server.pages[Target("p1", feed, Kind.WINDOW).key] = [on_and_on]
        server.asked.clear()
        cycle.tick()  # only sweeps are owed
        await asyncio.sleep(0)
        server.clock.at += dt.timedelta(minutes=1)
        cycle.tick()
        await asyncio.sleep(0)
        started = {target.kind for target, _ in server.asked}
        await cycle.stop()
        return started

    assert asyncio.run(scenario()) == {Kind.SWEEP, Kind.WINDOW}


def test_nothing_begins_once_a_cycle_is_told_to_stop(practice: Practice) -> None:
    config = configured(["Observation"])

    async def scenario() -> int:
        server = Server(Hands())
        cycle = cycle_of(practice, config, server)
        await cycle.adopt("Observation", Strategy.SWEEP)
        cycle.tick()
        [task] = cycle._running.values()
        server.clock.at += dt.timedelta(hours=1)
        await asyncio.wait([task])  # over, but the cycle has not been told yet
        owed = replace(cycle.targets.states[SWEEP.key], last_began=None)
        cycle.targets.states[SWEEP.key] = cycle.targets.watched[SWEEP.key] = owed
        before = len(server.asked)
        await cycle.stop()
        await asyncio.sleep(0)
        cycle.tick()
        await asyncio.sleep(0)
        return len(server.asked) - before

    assert asyncio.run(scenario()) == 0


@pytest.mark.parametrize(("first", "then"), [(Strategy.WINDOW, Strategy.PATIENT), (Strategy.PATIENT, Strategy.SWEEP)])
def test_what_changes_while_a_feed_changes_its_strategy_is_no_baseline(
    practice: Practice, first: Strategy, then: Strategy
) -> None:
    """A sink with ``baseline: skip`` would never hear of it."""
    config = configured(["Patient", "Observation"])
    of_a = Target("p1", "Observation", Kind.PATIENT, patient="a")

    async def scenario() -> None:
        server = Server(Hands())
        cycle = cycle_of(practice, config, server)
        practice.state.register_feed(practice.lease, "Patient", T0)
        await cycle.adopt("Patient", Strategy.PATIENT)
        server.shows(NAMES, practice.patient("a"))
        await cycle.run_pass(cycle.targets.states[NAMES.key])
        for strategy, value in ((first, "before"), (then, "after")):
            await cycle.adopt("Observation", strategy)
            target = of_a if strategy is Strategy.PATIENT else SWEEP
            server.shows(target, practice.observation("o1", value=value))
            await cycle.run_pass(cycle.targets.states[target.key])

    asyncio.run(scenario())
    events = [e for e in practice.log.after("p1", 0, 0, 100, bodies=False) if e.id == "o1"]
    assert [(event.action.value, event.origin.value) for event in events] == [
        ("created", "baseline"),
        ("updated", "live"),
    ]
