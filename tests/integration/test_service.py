"""A practice whose source refuses: rungs are left, feeds and practices paused and tried again, and what is settled is settled."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from poller.config.feed import FeedConfig
from poller.config.model import PracticeConfig
from poller.config.secret import Secret
from poller.core.capability import PracticeReport, TokenReport, TypeReport
from poller.core.model import (
    Batch,
    Coverage,
    Failure,
    FailureKind,
    Gone,
    Kind,
    Present,
    Purpose,
    Sighting,
    Strategy,
    Target,
)
from poller.core.refusals import Why
from poller.service import Service, Stores
from tests.integration.conftest import KEY, T0, Practice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from poller.core.model import Confirmation
    from poller.core.pages import Problem
    from poller.store.repository import Lease

WINDOW, SWEEP, PATIENT = Strategy.WINDOW, Strategy.SWEEP, Strategy.PATIENT
REFUSED = Failure(FailureKind.REFUSED, 400, "the request is not accepted")
NO_TOKEN = Failure(
    FailureKind.UNAUTHORIZED, 401, "the client or its key is not known; are client_id, kid and the published keys right"
)
CONDITION = {"resourceType": "Condition", "id": "c1", "subject": {"reference": "Patient/a"}}


class Hands:
    """A clock that a test moves; each look takes a millisecond."""

    def __init__(self) -> None:
        self.at = T0

    def now(self) -> dt.datetime:
        self.at += dt.timedelta(milliseconds=1)
        return self.at


@dataclass
class Reading:
    """One page of what a test says, or a failure."""

    clock: Hands
    shown: Sequence[dict[str, Any]]
    failure: Failure | None
    flaws: Counter[Problem] = field(default_factory=Counter)
    calls: int = 1

    def __post_init__(self) -> None:
        self.began = self.ended = self.clock.now()
        self.server_date: dt.datetime | None = self.began
        self.coverage = Coverage.INCOMPLETE if self.failure is not None else Coverage.COMPLETE

    async def __aiter__(self) -> AsyncIterator[Batch]:
        began = self.clock.now()
        self.ended = self.clock.now()
        if self.failure is None:
            yield Batch(tuple(Sighting(r["resourceType"], r["id"], r, began, self.ended) for r in self.shown))


@dataclass
class Server:
    """A practice's server, as a test says."""

    clock: Hands = field(default_factory=Hands)
    offers: dict[str, tuple[Strategy, ...]] = field(default_factory=dict)
    shows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By feed."""
    failing: dict[tuple[str, Kind] | str, Failure] = field(default_factory=dict)
    """By feed and kind, or by patient."""
    there: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """What is shown when it is read by its id."""
    no_token: Failure | None = None
    surveyed: list[tuple[str, ...]] = field(default_factory=list)
    read_by: list[Target] = field(default_factory=list)
    last_server_error: dt.datetime | None = None

    def read(self, target: Target, since: dt.datetime | None, purpose: Purpose) -> Reading:  # noqa: ARG002 - the port's
        self.read_by.append(target)
        failure = self.no_token or self.failing.get((target.resource_type, target.kind))
        failure = failure or self.failing.get(target.patient or "")
        return Reading(self.clock, self.shows.get(target.resource_type, []), failure)

    async def confirm(self, resource_type: str, id_: str) -> Confirmation:
        now = self.clock.now()
        found = self.there.get((resource_type, id_))
        return Present(Sighting(resource_type, id_, found, now, now)) if found is not None else Gone(now, now)

    async def survey(
        self, feeds: Sequence[str], _sample: Sequence[str], now: dt.datetime, *, thorough: bool
    ) -> PracticeReport:
        self.surveyed.append(tuple(feeds))
        if self.no_token is not None:
            token = TokenReport(granted=False, status=self.no_token.status, why=self.no_token.detail)
            return PracticeReport(now, token)
        types = {feed: self._report(feed, now, thorough) for feed in feeds}
        return PracticeReport(now, TokenReport(granted=True), types=types)

    def _report(self, feed: str, now: dt.datetime, thorough: bool) -> TypeReport:
        offers = self.offers.get(feed, ())
        why = Why.READABLE if offers else Why.NO_SCOPE
        return TypeReport(feed, now, bool(offers), why, offers=offers, reason="by the test", thorough=thorough)

    async def same(self, _feed: str, _a: Strategy, _b: Strategy, _sample: Sequence[str]) -> Any:
        return type("Same", (), {"equal": True, "reason": ""})()

    def save(self, _lease: Lease, _report: PracticeReport) -> None: ...

    def latest(self, _practice: str) -> PracticeReport | None:
        return None


@dataclass
class Rig:
    """One practice's service, moved by hand."""

    practice: Practice
    server: Server
    feeds: tuple[str, ...] = ("Condition",)

    async def begin(self) -> None:
        every = FeedConfig(categories=(), every=dt.timedelta(seconds=30), sweep_every=dt.timedelta(seconds=30))
        config = PracticeConfig.model_validate(
            {
                "code": "p1",
                "base_url": "https://ehr.example.org/fhir",
                "client_id": "c",
                "key": Secret(env="UNUSED"),
                "feeds": dict.fromkeys(self.feeds, every),
            }
        )
        own = self.practice
        stores = Stores(own.keeper, own.state, own.repository, own.deletes, self.server)
        self.service = Service(config, stores, own.lease, self.server, self.server.clock, KEY, lambda: None)
        await self.go_on(0)

    async def go_on(self, seconds: float) -> None:
        """Let time pass and everything happen that is due."""
        self.server.clock.at += dt.timedelta(seconds=seconds)
        await self.service.tick()
        while running := [*self.service._work, *self.service._cycle._running.values()]:
            await asyncio.wait(running, timeout=20)
            await asyncio.sleep(0)
        if self.service._cycle.failed.done():
            self.service._cycle.failed.result()

    @property
    def rung(self) -> Strategy | None:
        return self.service._cycle.targets.strategies.get("Condition")

    def paused(self) -> dict[str, str]:
        return {feed: pause.words for feed, pause in self.practice.state.pauses("p1").items()}


def run(scenario: Any) -> None:
    asyncio.run(scenario())


def test_a_rung_that_is_refused_is_left_and_the_next_one_reads_on(practice: Practice) -> None:
    rig = Rig(practice, Server(offers={"Condition": (WINDOW, SWEEP)}, shows={"Condition": [CONDITION]}))

    async def scenario() -> None:
        await rig.begin()
        await rig.go_on(1)
        assert rig.rung is WINDOW
        rig.server.failing["Condition", Kind.WINDOW] = REFUSED
        rig.server.shows["Condition"] = [CONDITION | {"note": "changed"}]
        for _ in range(4):
            await rig.go_on(40)
        assert rig.rung is SWEEP
        assert practice.actions() == [("created", "c1", 1), ("updated", "c1", 2)]

    run(scenario)


def test_a_sick_server_makes_no_rung_fail(practice: Practice) -> None:
    rig = Rig(practice, Server(offers={"Condition": (WINDOW, SWEEP), "Goal": (WINDOW, SWEEP)}), ("Condition", "Goal"))

    async def scenario() -> None:
        await rig.begin()
        await rig.go_on(1)
        sick = Failure(FailureKind.SERVER, 500, "an internal fault")
        for feed in rig.feeds:
            for kind in (Kind.WINDOW, Kind.SWEEP):
                rig.server.failing[feed, kind] = sick
        for _ in range(20):
            await rig.go_on(40)
        assert rig.rung is WINDOW
        for own in [own for own in rig.server.failing if own != ("Condition", Kind.WINDOW)]:
            del rig.server.failing[own]
        for _ in range(8):
            await rig.go_on(40)
        assert rig.rung is SWEEP, "but one that fails while others are answered does"

    run(scenario)


def test_nothing_is_asked_of_a_practice_that_lets_nobody_in_but_a_try_now_and_then(practice: Practice) -> None:
    rig = Rig(practice, Server(offers={"Condition": (SWEEP,), "Goal": (SWEEP,)}), ("Condition", "Goal"))

    async def scenario() -> None:
        await rig.begin()
        rig.server.no_token = NO_TOKEN
        for _ in range(4):
            await rig.go_on(40)
        assert list(rig.paused()) == ["*"]
        rig.server.read_by.clear()
        rig.server.surveyed.clear()
        for _ in range(60):
            await rig.go_on(10)
        assert rig.server.read_by == []
        assert 1 <= len(rig.server.surveyed) <= 10, "ten minutes"
        rig.server.no_token = None
        for _ in range(100):
            await rig.go_on(10)
        assert rig.paused() == {}
        assert rig.server.read_by != []

    run(scenario)


def test_a_pause_survives_a_restart(practice: Practice) -> None:
    rig = Rig(practice, Server(offers={"Condition": (SWEEP,)}))

    async def scenario() -> None:
        await rig.begin()
        rig.server.no_token = NO_TOKEN
        for _ in range(4):
            await rig.go_on(40)
        assert list(rig.paused()) == ["*"]
        rig.server.read_by.clear()
        rig.server.surveyed.clear()
        await rig.begin()
        assert (rig.server.read_by, rig.server.surveyed) == ([], [])

    run(scenario)


def test_a_feed_that_is_refused_on_its_last_rung_is_paused_and_the_others_go_on(practice: Practice) -> None:
    server = Server(offers={"Condition": (SWEEP,), "Goal": (SWEEP,)})
    rig = Rig(practice, server, ("Condition", "Goal"))

    async def scenario() -> None:
        await rig.begin()
        server.failing["Goal", Kind.SWEEP] = REFUSED
        server.offers["Goal"] = ()
        for _ in range(12):
            await rig.go_on(40)
        assert list(rig.paused()) == ["Goal"]
        server.read_by.clear()
        for _ in range(3):
            await rig.go_on(40)
        assert {target.resource_type for target in server.read_by} == {"Condition"}
        server.failing.clear()
        server.offers["Goal"] = (SWEEP,)
        for _ in range(120):
            await rig.go_on(60)
        assert rig.paused() == {}
        assert "Goal" in {target.resource_type for target in server.read_by[-4:]}

    run(scenario)


@pytest.mark.parametrize("status", [400, 404])
def test_what_a_patient_had_who_is_gone_is_settled_one_by_one_where_no_search_shows_them(
    practice: Practice, status: int
) -> None:
    """Their targets can never be read whole again; else nothing of theirs would be deleted, and the feed late for ever."""
    names = Target("p1", "Patient", Kind.NAMES)
    practice.register(names)
    practice.whole(practice.patient("a"), practice.patient("b"), target=names)
    rig = Rig(practice, Server(offers={"Condition": (PATIENT,)}))
    own = Target("p1", "Condition", Kind.PATIENT, patient="a")

    async def scenario() -> None:
        await rig.begin()
        practice.whole(CONDITION, target=own)
        practice.whole(practice.patient("b"), target=names)
        (absence,) = practice.deletes.due("p1")
        practice.confirm(absence)
        rig.server.failing["a"] = Failure(FailureKind.REFUSED, status, "not found")
        rig.server.clock.at = T0 + dt.timedelta(seconds=200)
        await rig.begin()
        for _ in range(6):
            await rig.go_on(40)
        assert practice.actions()[-1] == ("deleted", "c1", 2)
        assert rig.rung is PATIENT
        assert [state.target.patient for state in rig.service._cycle.targets.states.values()] == ["b"]
        assert rig.paused() == {}

    run(scenario)


def test_one_patient_who_is_refused_again_and_again_costs_the_feed_nothing(practice: Practice) -> None:
    names = Target("p1", "Patient", Kind.NAMES)
    practice.register(names)
    practice.whole(practice.patient("a"), practice.patient("b"), target=names)
    rig = Rig(practice, Server(offers={"Condition": (Strategy.EVERYTHING, PATIENT)}))

    async def scenario() -> None:
        rig.server.failing["a"] = Failure(FailureKind.REFUSED, 403, "forbidden; are the scope and the app enabled")
        await rig.begin()
        for _ in range(20):
            await rig.go_on(2)
        assert rig.rung is Strategy.EVERYTHING
        assert rig.paused() == {}
        rig.server.failing["b"] = rig.server.failing["a"]
        for _ in range(20):
            await rig.go_on(40)
        assert rig.rung is not Strategy.EVERYTHING

    run(scenario)


@pytest.mark.parametrize("are_gone", [True, False])
def test_two_patients_who_go_at_once_are_not_taken_for_the_end_of_a_rung(practice: Practice, *, are_gone: bool) -> None:
    names = Target("p1", "Patient", Kind.NAMES)
    practice.register(names)
    patients = {id_: practice.patient(id_) for id_ in ("a", "b", "c")}
    practice.whole(*patients.values(), target=names)
    rig = Rig(practice, Server(offers={"Condition": (Strategy.EVERYTHING, PATIENT)}))

    async def scenario() -> None:
        await rig.begin()
        await rig.go_on(2)
        for id_ in ("a", "b"):
            rig.server.failing[id_] = Failure(FailureKind.REFUSED, 404, "not found")
            if not are_gone:
                rig.server.there["Patient", id_] = patients[id_]
        for seconds in (40, *[2] * 10):
            await rig.go_on(seconds)
        assert (rig.rung is Strategy.EVERYTHING) == are_gone

    run(scenario)


@pytest.mark.parametrize("moved", ["not", "since it was read", "before"])
def test_what_has_moved_to_another_patient_was_not_for_a_pass_to_show(practice: Practice, moved: str) -> None:
    """Else a merge of two patients would look like passes that leave things out, and cost the feed its rung."""
    names = Target("p1", "Patient", Kind.NAMES)
    practice.register(names)
    practice.whole(practice.patient("a"), target=names)
    rig = Rig(practice, Server(offers={"Condition": (Strategy.EVERYTHING, PATIENT)}))
    names_of_them = ("c1", "c2", "c3")
    held = [CONDITION | {"id": id_} for id_ in names_of_them]

    async def scenario() -> None:
        rig.server.shows["*"] = held
        await rig.begin()
        await rig.go_on(2)
        rig.server.shows["*"] = []
        owner = {"subject": {"reference": "Patient/who-is-not-read"}} if moved != "not" else {}
        rig.server.there = {("Condition", id_): CONDITION | {"id": id_} | owner for id_ in names_of_them}
        if moved == "before":
            practice.read(*rig.server.there.values(), second=35)
        await rig.go_on(40)
        assert (rig.rung is Strategy.EVERYTHING) == (moved != "not")

    run(scenario)


def test_a_group_of_patients_that_is_refused_again_ends_the_rung_whoever_else_is_read(practice: Practice) -> None:
    """Several patients may be refused where one is not: the last group may be one patient, and be read for ever."""
    names = Target("p1", "Patient", Kind.NAMES)
    practice.register(names)
    practice.whole(*[practice.patient(f"p{number}") for number in range(9)], target=names)
    rig = Rig(practice, Server(offers={"Condition": (Strategy.PATIENTS, PATIENT)}))

    async def scenario() -> None:
        await rig.begin()
        await rig.go_on(2)
        assert rig.rung is Strategy.PATIENTS
        rig.server.failing["8.0"] = REFUSED
        for _ in range(4):
            await rig.go_on(40)
        assert rig.rung is PATIENT

    run(scenario)
