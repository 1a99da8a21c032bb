"""The rungs of a practice's feeds, on the real store: taken up, compared before a climb, stepped down from, remembered."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from poller.config.feed import FeedConfig
from poller.config.model import BudgetConfig, PatientsConfig, PracticeConfig
from poller.core.capability import PracticeReport, TokenReport, TypeReport
from poller.core.ladder import BARRED_FOR
from poller.core.model import EVERY_TYPE, Kind, Origin, Strategy, Target
from poller.core.refusals import Why
from poller.ladder import SURVEY_EVERY, Ladder
from poller.targets import Targets
from tests.integration.conftest import T0, Practice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poller.store.repository import Lease

WINDOW, SWEEP, EVERYTHING = Strategy.WINDOW, Strategy.SWEEP, Strategy.EVERYTHING
PATIENTS, PATIENT = Strategy.PATIENTS, Strategy.PATIENT


@dataclass(frozen=True)
class Same:
    """What a comparison came to."""

    equal: bool | None
    reason: str = "as the test says"


@dataclass
class Server:
    """Allows what a test says."""

    offers: dict[str, tuple[Strategy, ...]]
    equal: bool | None = True
    asked: list[tuple[str, ...]] = field(default_factory=list)
    compared: list[tuple[Strategy, Strategy]] = field(default_factory=list)
    kept: list[PracticeReport] = field(default_factory=list)

    async def survey(
        self, feeds: Sequence[str], _sample: Sequence[str], now: dt.datetime, *, thorough: bool
    ) -> PracticeReport:
        self.asked.append(tuple(feeds))
        types = {feed: self.report(feed, now, thorough) for feed in feeds}
        return PracticeReport(now, TokenReport(granted=True), types=types)

    def report(self, feed: str, now: dt.datetime, thorough: bool) -> TypeReport:
        offers = self.offers.get(feed, ())
        why = Why.READABLE if offers else Why.OLD_BUILD
        return TypeReport(
            feed, now, bool(offers), why, advice="a newer build", offers=offers, reason="by the test", thorough=thorough
        )

    async def same(self, _feed: str, a: Strategy, b: Strategy, _sample: Sequence[str]) -> Same:
        self.compared.append((a, b))
        return Same(self.equal)

    def save(self, _lease: Lease, report: PracticeReport) -> None:
        self.kept.append(report)

    def latest(self, _practice: str) -> PracticeReport | None:
        return self.kept[-1] if self.kept else None


class Hands:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = T0

    def now(self) -> dt.datetime:
        return self.at


def configured(feeds: Mapping[str, FeedConfig], **more: Any) -> PracticeConfig:
    usual: dict[str, Any] = {
        "code": "p1",
        "feeds": feeds,
        "patients": PatientsConfig(),
        "time_zone": "UTC",
        "strategy": "auto",
    }
    usual |= {"forbid": (), "patients_per_call": 2, "budget": BudgetConfig()}
    return PracticeConfig.model_construct(**(usual | more))


@dataclass
class Rig:
    """A ladder of one practice."""

    practice: Practice
    server: Server
    config: PracticeConfig = field(default_factory=lambda: configured({"Observation": FeedConfig()}))
    clock: Hands = field(default_factory=Hands)

    def __post_init__(self) -> None:
        self.again()

    def again(self) -> None:
        """As after a restart."""
        self.targets = Targets(self.config, self.practice.lease, self.practice.state, self.clock)
        self.ladder = Ladder(
            self.config, self.practice.lease, self.server, self.server, self.practice.state, self.targets, self.clock
        )

    async def begin(self) -> None:
        await self.ladder.recall()
        if due := self.ladder.due(self.clock.now()):
            await self.ladder.survey(due)

    @property
    def rung(self) -> Strategy | None:
        return self.targets.strategies.get("Observation")

    def kinds(self) -> set[Kind]:
        return {state.target.kind for state in self.targets.states.values()}


def a_patient_is_known(practice: Practice, *ids: str) -> None:
    names = Target("p1", "Patient", Kind.NAMES)
    practice.register(names)
    practice.whole(*[practice.patient(id_) for id_ in ids], target=names)


def test_the_highest_proven_rung_is_taken_and_remembered(practice: Practice) -> None:
    rig = Rig(practice, Server({"Observation": (WINDOW, SWEEP, PATIENT)}))

    async def scenario() -> None:
        await rig.begin()
        assert rig.rung is WINDOW
        assert rig.kinds() == {Kind.WINDOW, Kind.SWEEP}
        rig.again()
        await rig.begin()
        assert rig.rung is WINDOW
        assert len(rig.server.asked) == 1, "known from before"
        rig.clock.at += SURVEY_EVERY
        assert rig.ladder.due(rig.clock.now()) == ["Observation"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("more", "rung"),
    [({"strategy": "patient"}, PATIENT), ({"forbid": ("window", "sweep")}, PATIENT), ({"forbid": ("window",)}, SWEEP)],
)
def test_the_operator_forces_and_forbids(practice: Practice, more: dict[str, object], rung: Strategy) -> None:
    config = configured({"Observation": FeedConfig()}, **more)
    rig = Rig(practice, Server({"Observation": (WINDOW, SWEEP, PATIENT)}), config)
    asyncio.run(rig.begin())
    assert rig.rung is rung


def test_what_the_operator_forbids_later_is_asked_for_anew(practice: Practice) -> None:
    rig = Rig(practice, Server({"Observation": (WINDOW, SWEEP, PATIENT)}))
    asyncio.run(rig.begin())
    rig.config = configured({"Observation": FeedConfig(forbid=("window",))})
    rig.again()
    asyncio.run(rig.begin())
    assert rig.rung is SWEEP


@pytest.mark.parametrize(("equal", "rung"), [(True, WINDOW), (False, PATIENT), (None, PATIENT)])
def test_up_only_when_both_rungs_show_the_same(practice: Practice, *, equal: bool | None, rung: Strategy) -> None:
    rig = Rig(practice, Server({"Observation": (PATIENT,)}, equal))

    async def scenario() -> None:
        await rig.begin()
        assert rig.rung is PATIENT
        rig.server.offers["Observation"] = (WINDOW, PATIENT)
        rig.clock.at += SURVEY_EVERY
        await rig.ladder.survey(["Observation"])
        assert rig.server.compared == [(PATIENT, WINDOW)]
        assert rig.rung is rung
        soon = rig.ladder.survey_at["Observation"] - rig.clock.now()
        assert (soon < dt.timedelta(minutes=2)) == (equal is None), "what could not be compared is asked for again soon"
        rig.again()
        await rig.begin()
        assert rig.rung is rung
        await rig.ladder.survey(["Observation"])
        assert len(rig.server.compared) == (2 if equal is None else 1), "what differed is left out for a day"

    asyncio.run(scenario())


def test_a_rung_that_fails_is_left_for_the_next_and_climbed_again_later(practice: Practice) -> None:
    a_patient_is_known(practice, "a", "b")
    rig = Rig(practice, Server({"Observation": (EVERYTHING, PATIENTS, PATIENT)}))

    async def scenario() -> None:
        await rig.begin()
        assert rig.rung is EVERYTHING
        assert rig.kinds() == {Kind.EVERYTHING}
        assert await rig.ladder.step_down("Observation", "refused")
        assert (rig.rung, rig.kinds()) == (PATIENTS, {Kind.PATIENTS})
        assert await rig.ladder.step_down("Observation", "refused")
        assert (rig.rung, rig.kinds()) == (PATIENT, {Kind.PATIENT})
        assert not await rig.ladder.step_down("Observation", "refused"), "there is nothing below"
        assert rig.rung is PATIENT
        await rig.ladder.survey(["Observation"])
        assert rig.rung is PATIENT, "barred, though it is still proven"
        rig.clock.at += BARRED_FOR
        await rig.ladder.survey(["Observation"])
        assert rig.rung is EVERYTHING
        assert rig.server.compared == [(PATIENT, EVERYTHING)]

    asyncio.run(scenario())


def test_two_failures_of_one_rung_cost_the_feed_one_rung(practice: Practice) -> None:
    """Several passes are in flight when a rung ends: each is told of after the first has led to the next rung."""
    a_patient_is_known(practice, "a", "b")
    rig = Rig(practice, Server({"Observation": (EVERYTHING, PATIENTS, PATIENT)}))

    async def scenario() -> None:
        await rig.begin()
        both = [rig.ladder.step_down("Observation", "refused", rung=EVERYTHING) for _ in range(2)]
        assert await asyncio.gather(*both) == [True, False]
        assert rig.rung is PATIENTS

    asyncio.run(scenario())


def test_a_change_of_rungs_takes_nothing_for_a_baseline_that_was_read_before(practice: Practice) -> None:
    """A sink without baselines would never hear of what was created between the last read by one rung and the first by the next."""
    a_patient_is_known(practice, "a", "b")
    rig = Rig(practice, Server({"Observation": (EVERYTHING, PATIENTS, PATIENT)}))

    def read_all() -> list[frozenset[str]]:
        baselines = []
        for state in list(rig.targets.states.values()):
            baselines.append(state.baseline_types)
            practice.whole(target=state.target)
        return baselines

    async def scenario() -> None:
        await rig.begin()
        assert read_all() == [frozenset({"Observation"})] * 2
        for _ in range(2):
            await rig.ladder.step_down("Observation", "refused")
            assert set(read_all()) == {frozenset()}, rig.rung
        rig.clock.at += BARRED_FOR
        await rig.ladder.survey(["Observation"])
        assert set(read_all()) == {frozenset()}, rig.rung

    asyncio.run(scenario())


def test_what_only_one_patient_of_two_was_read_for_makes_no_group(practice: Practice) -> None:
    a_patient_is_known(practice, "a", "b")
    rig = Rig(practice, Server({"Observation": (EVERYTHING, PATIENTS, PATIENT)}))

    async def scenario() -> None:
        await rig.begin()
        practice.whole(target=next(iter(rig.targets.states.values())).target)
        await rig.ladder.step_down("Observation", "refused")
        assert rig.rung is PATIENT
        baselines = {state.target.patient: bool(state.baseline_types) for state in rig.targets.states.values()}
        assert sorted(baselines.values()) == [False, True]

    asyncio.run(scenario())


def test_what_was_stored_is_missed_by_whatever_reads_it_next(practice: Practice) -> None:
    """PATIENT, then a sweep that finds more, then PATIENT again: what the sweep found and went before the return is missed, too."""
    a_patient_is_known(practice, "a")
    rig = Rig(practice, Server({"Observation": (PATIENT,)}))
    one = Target("p1", "Observation", Kind.PATIENT, patient="a")

    async def scenario() -> None:
        await rig.begin()
        practice.whole(practice.observation("o1"), target=one)
        await rig.targets.adopt("Observation", SWEEP)
        practice.whole(
            practice.observation("o1"), practice.observation("o2"), target=Target("p1", "Observation", Kind.SWEEP)
        )
        await rig.targets.adopt("Observation", PATIENT)
        practice.whole(practice.observation("o1"), target=one)
        assert [absence.id for absence in practice.deletes.due("p1")] == ["o2"]
        await rig.targets.adopt("Observation", EVERYTHING)
        (state,) = rig.targets.states.values()
        assert state.target.resource_type == EVERY_TYPE
        practice.whole(target=state.target, second=2000)
        assert sorted(absence.id for absence in practice.deletes.due("p1")) == ["o1", "o2"]

    asyncio.run(scenario())


def test_a_feed_that_cannot_be_read_says_so_and_is_asked_for_again(practice: Practice) -> None:
    rig = Rig(practice, Server({}))
    asyncio.run(rig.begin())
    assert rig.rung is None
    (row,) = practice.rows("SELECT reason, advice, refused_since FROM poller.feed WHERE resource_type = 'Observation'")
    assert (row.advice, row.refused_since) == ("a newer build", T0)
    assert T0 < rig.ladder.survey_at["Observation"] <= T0 + dt.timedelta(minutes=1)
    rig.server.offers["Observation"] = (PATIENT,)
    asyncio.run(rig.ladder.survey(["Observation"]))
    (row,) = practice.rows("SELECT advice, refused_since FROM poller.feed WHERE resource_type = 'Observation'")
    assert tuple(row) == (None, None)
    assert rig.rung is PATIENT


def test_one_pass_of_several_types_knows_which_of_them_are_news(practice: Practice) -> None:
    """A type that joins later has its baseline to read; the others go on."""
    a_patient_is_known(practice, "a")
    config = configured({"Observation": FeedConfig(), "Condition": FeedConfig()})
    rig = Rig(practice, Server({"Observation": (EVERYTHING,), "Condition": (PATIENT,)}), config)

    async def scenario() -> None:
        await rig.begin()
        target = next(s.target for s in rig.targets.states.values() if s.target.kind is Kind.EVERYTHING)
        practice.whole(practice.observation("o1"), target=target)
        await rig.targets.adopt("Condition", EVERYTHING)
        (state,) = rig.targets.states.values()
        assert state.target.types == ("Condition", "Observation")
        assert state.baseline_types == {"Condition"}
        assert state.reread, "it is read soon"
        context = practice.context(state.target, origin=Origin.LIVE, baseline=state.baseline_types)
        condition = {"resourceType": "Condition", "id": "c1", "subject": {"reference": "Patient/a"}}
        found = [practice.version(resource, 500) for resource in (condition, practice.observation("o2"))]
        practice.repository.record(context, found, practice.at(501))
        events = practice.log.after("p1", 0, 0, 100, bodies=False)
        assert [(e.id, e.origin) for e in events][-2:] == [("c1", Origin.BASELINE), ("o2", Origin.LIVE)]

    asyncio.run(scenario())
