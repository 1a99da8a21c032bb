"""Ways in which a practice that is read by every way there is could lose a change, tell a false one, or come to a standstill."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import threading
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import event

from poller.config.feed import FeedConfig
from poller.config.model import PatientsConfig
from poller.core import plan
from poller.core.faults import Consequence
from poller.core.ladder import BARRED_FOR
from poller.core.model import EVERY_TYPE, Coverage, Failure, FailureKind, Kind, Origin, Strategy, Target
from poller.store.engine import ENGINE, migrate, open_engine, prove_digest_key
from poller.store.repository import PassEnd
from poller.store.state import Progress
from tests.integration import test_service as service
from tests.integration.conftest import KEY, T0, Practice
from tests.integration.test_ladder import Rig, Server, a_patient_is_known, configured

if TYPE_CHECKING:
    from collections.abc import Iterator


NAMES = Target("p1", "Patient", Kind.NAMES)


def groups(practice: Practice, size: int = 2) -> list[Target]:
    """The groups of all patients, by the plan."""
    patients = practice.state.patients("p1")
    named = plan.groups_of(patients, size, enumerated=True)
    return plan.wanted_targets("p1", "Observation", Strategy.PATIENTS, (), patients, (), named)


def is_live(practice: Practice) -> dict[str | None, bool]:
    return {
        state.target.patient: state.live
        for state in practice.state.targets("p1", ())
        if state.target.kind is Kind.PATIENTS
    }


def patients_appear(practice: Practice, *ids: str, live: bool = True) -> None:
    practice.read(*[practice.patient(id_) for id_ in ids], target=NAMES, patients_live=live)


def feed_of_groups(practice: Practice) -> None:
    """Two patients, of the baseline, whose Observations were read in a group."""
    practice.register(NAMES)
    practice.whole(practice.patient("a"), practice.patient("b"), target=NAMES)
    practice.register(*groups(practice))
    for target in groups(practice):
        practice.whole(target=target)


def test_a_new_patient_is_news_though_another_new_one_was_not_read_yet(by_patient: Practice) -> None:
    """Else what the second brings is told as a baseline, which sinks skip."""
    practice = by_patient
    feed_of_groups(practice)
    patients_appear(practice, "c")
    practice.register(*groups(practice))
    patients_appear(practice, "d", "e")
    practice.register(*groups(practice))
    assert is_live(practice) == {"2.0": False, "2.1": True, "2.2": True}


def test_a_new_patient_is_news_though_one_is_never_readable(by_patient: Practice) -> None:
    practice = by_patient
    practice.register(NAMES)
    practice.whole(*[practice.patient(id_) for id_ in "abcd"], target=NAMES)
    practice.register(*groups(practice))
    practice.whole(target=groups(practice)[0])
    patients_appear(practice, "e")
    practice.register(*groups(practice))
    assert is_live(practice) == {"2.0": False, "2.1": False, "2.2": True}


def test_patients_of_a_roster_that_comes_later_are_a_baseline_in_groups_too(by_patient: Practice) -> None:
    practice = by_patient
    feed_of_groups(practice)
    patients_appear(practice, "c", "d", "e", live=False)
    practice.register(*groups(practice))
    assert is_live(practice) == {"2.0": False, "2.1": False, "2.2": False}


def test_new_patients_alone_do_not_make_the_first_reading_unfinished(by_patient: Practice) -> None:
    practice = by_patient
    feed_of_groups(practice)
    patients_appear(practice, "c")
    practice.register(*groups(practice))
    assert practice.state.progress("p1", "Observation") is Progress.WHOLE


def test_what_is_asked_of_each_new_target_does_not_go_through_all_others(by_patient: Practice) -> None:
    """A practice of 30,000 patients would have hung in its first transaction."""
    with by_patient.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO poller.patient (practice, id, live, first_seen_at, ordinal)"
            " SELECT 'p1', 'p' || n, false, now(), n FROM generate_series(0, 9999) AS n"
        )
        connection.exec_driver_sql(
            "INSERT INTO poller.target (practice, target, resource_type, kind, patient, live, registered_at)"
            " SELECT 'p1', 'Condition/-/patient/p' || n, 'Condition', 'patient', 'p' || n, false, now() FROM generate_series(0, 9999) AS n"
        )
        asked = "SELECT poller.was_read_whole('p1', '{}', NULL, 'p' || n) FROM generate_series(1, 10) AS n"
        pages: dict[str, int] = {}
        for feed in ("Condition", "Goal"):
            explained = connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT JSON) {asked.format(feed)}"
            )
            pages[feed] = explained.scalar_one()[0]["Plan"]["Shared Hit Blocks"]
    assert all(looked_at < 10 * 60 for looked_at in pages.values()), pages


@pytest.fixture
def at_first_release(empty_database: str) -> str:
    """A database of the release before, with two patients whom names have shown, and an Observation of one."""
    first = files("poller.store.migrations.versions").joinpath("r0001_first.sql").read_text(encoding="utf-8")
    with psycopg.connect(empty_database) as connection:
        connection.execute(first)
        connection.execute("CREATE TABLE poller_revision (version_num varchar(32) PRIMARY KEY)")
        connection.execute("INSERT INTO poller_revision VALUES ('0001')")
        connection.execute("INSERT INTO poller.practice_log (practice) VALUES ('p1')")
        for feed in ("Patient", "Observation"):
            connection.execute(
                "INSERT INTO poller.feed (practice, resource_type, registered_at, strategy, reason, probed_at)"
                " VALUES ('p1', %s, %s, 'patient', 'probed', %s)",
                (feed, T0, T0),
            )
        for id_ in "ab":
            connection.execute("INSERT INTO poller.patient VALUES ('p1', %s, false, %s)", (id_, T0))
            connection.execute("INSERT INTO poller.member VALUES ('p1', 'Patient/-/names/-', 'Patient', %s)", (id_,))
        for target, feed, kind, patient in (
            ("Patient/-/names/-", "Patient", "names", None),
            ("Observation/-/patient/a", "Observation", "patient", "a"),
            ("Observation/-/patient/b", "Observation", "patient", "b"),
        ):
            connection.execute(
                "INSERT INTO poller.target (practice, target, resource_type, kind, patient, live, registered_at, baseline_at, last_began,"
                " complete_began) VALUES ('p1', %s, %s, %s, %s, false, %s, %s, %s, %s)",
                (target, feed, kind, patient, T0, T0, T0, T0),
            )
    migrate(empty_database)
    return empty_database


class AsItIs(Practice):
    """A practice whose targets are those that its database holds."""

    def register(self, *_: Target, second: float = 0) -> None:
        """Leave them alone."""


@pytest.fixture
def upgraded(at_first_release: str) -> Iterator[Practice]:
    made = open_engine(at_first_release, ENGINE)
    prove_digest_key(made, KEY)
    practice = AsItIs(made)
    yield practice
    practice.keeper.close()
    made.dispose()


def test_after_an_upgrade_nobody_whom_names_show_is_searched_for_one_by_one(upgraded: Practice) -> None:
    """That was a call for each patient at every round, for ever: what no pass shows as new is not noted again."""
    config = configured({"Patient": FeedConfig(), "Observation": FeedConfig()})
    rig = Rig(upgraded, Server({"Patient": (Strategy.PATIENT,), "Observation": (Strategy.PATIENT,)}), config)

    async def scenario() -> None:
        rig.clock.at = T0 + dt.timedelta(minutes=1)
        await rig.begin()
        kinds = [state.target.kind for state in rig.targets.states.values() if state.target.resource_type == "Patient"]
        assert kinds == [Kind.NAMES]
        assert all(not state.baseline_types for state in rig.targets.states.values())

    asyncio.run(scenario())
    assert [patient.ordinal for patient in upgraded.state.patients("p1")] == [0, 1]


def origins(practice: Practice) -> dict[str, str]:
    return {told.id: told.origin.value for told in practice.log.after("p1", 0, 0, 100, bodies=False)}


@pytest.mark.parametrize(
    "other",
    [
        Target("p1", "Observation", Kind.BULK),
        Target("p1", "Observation", Kind.SWEEP),
        Target("p1", "Observation", Kind.PATIENTS, None, "2.0", patients=("a", "b")),
    ],
)
def test_what_a_first_reading_creates_is_news_of_whom_was_read_before(by_patient: Practice, other: Target) -> None:
    """The first export of a practice that is polled already may show a result before the next poll does; and one patient who is refused,
    and so never read, must not make all others' news a baseline when the rung changes. Sinks skip baselines."""
    practice = by_patient
    a, b = (Target("p1", "Observation", Kind.PATIENT, None, patient) for patient in "ab")
    practice.register(NAMES)
    practice.whole(practice.patient("a"), practice.patient("b"), target=NAMES)
    practice.register(a, b)
    practice.whole(practice.observation("o1"), target=a)
    practice.register(a, b, other) if other.kind is not Kind.BULK else practice.state.register_bulk(
        practice.lease, ["Observation"], T0
    )
    assert not next(
        state.live for state in practice.state.targets("p1", (), other.key) if state.target.kind is other.kind
    )
    shown = [practice.observation("o2"), practice.observation("o3", subject={"reference": "Patient/b"})]
    began = practice.tick()
    end = PassEnd(practice.at(began), practice.at(began + 2), Coverage.COMPLETE, seen=["o2", "o3"], counts=True)
    context = practice.context(other, origin=Origin.BASELINE)
    practice.repository.record(context, [practice.version(one, began) for one in shown], practice.at(began + 2), end)
    found = origins(practice)
    assert (found["o2"], found["o3"]) == ("live", "baseline")


def test_a_patient_who_goes_leaves_the_group_at_once(practice: Practice) -> None:
    """A search that names one who is gone may be refused: the others of the group would not be read until somebody new came."""
    practice.register(NAMES)
    practice.whole(practice.patient("a"), practice.patient("b"), target=NAMES)
    server = service.Server(offers={"Patient": (Strategy.SWEEP,), "Condition": (Strategy.PATIENTS,)})
    server.shows["Patient"] = [practice.patient("a"), practice.patient("b")]
    rig = service.Rig(practice, server, ("Patient", "Condition"))

    async def scenario() -> None:
        await rig.begin()
        await rig.go_on(40)
        server.shows["Patient"] = [practice.patient("b")]
        for _ in range(4):
            await rig.go_on(40)
        groups = [
            state.target.patients for state in rig.service._cycle.targets.states.values() if state.target.patients
        ]
        assert groups == [("b",)]

    asyncio.run(scenario())
    assert ("deleted", "a", 2) in practice.actions()


def test_two_feeds_are_paused_at_the_same_moment(practice: Practice) -> None:
    """Both wrote all pauses; the second broke on the first's, and the practice began again."""
    server = service.Server(offers={"Condition": (Strategy.SWEEP,), "Goal": (Strategy.SWEEP,)})
    rig = service.Rig(practice, server, ("Condition", "Goal"))
    refused = Failure(FailureKind.REFUSED, 400, "the request is not accepted")
    both_write = threading.Barrier(2, timeout=2)

    def wait(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE FROM poller.pause"):
            with contextlib.suppress(threading.BrokenBarrierError):
                both_write.wait()

    async def scenario() -> None:
        await rig.begin()
        event.listen(practice.engine, "after_cursor_execute", wait)
        for feed in ("Condition", "Condition", "Condition", "Goal", "Goal", "Goal"):
            rig.service._stand(feed, refused, Consequence.PAUSE_FEED)
        while running := list(rig.service._work):
            await asyncio.wait(running, timeout=20)
            await asyncio.sleep(0)
        assert not rig.service._cycle.failed.done()
        assert {"Condition", "Goal"} <= set(rig.paused())

    asyncio.run(scenario())


def test_a_rung_that_fails_is_left_though_nothing_can_be_compared(practice: Practice) -> None:
    """A higher rung whose bar is over is not to be had unseen; but the failing one is not to be kept for that."""
    rig = Rig(practice, Server({"Observation": (Strategy.WINDOW, Strategy.SWEEP, Strategy.PATIENT)}, None))

    async def scenario() -> None:
        await rig.begin()
        rungs = []
        for _ in range(2):
            assert await rig.ladder.step_down("Observation", "refused")
            rungs.append(rig.rung)
            rig.clock.at += BARRED_FOR
        assert rungs == [Strategy.SWEEP, Strategy.PATIENT]

    asyncio.run(scenario())


def test_a_restart_does_not_read_everything_of_every_patient_again(practice: Practice) -> None:
    a_patient_is_known(practice, "a", "b")
    feeds = ("Condition", "Goal", "Observation")
    offers: dict[str, tuple[Strategy, ...]] = dict.fromkeys(feeds, (Strategy.EVERYTHING, Strategy.PATIENT))
    rig = Rig(practice, Server(offers), configured(dict.fromkeys(feeds, FeedConfig())))

    async def scenario() -> None:
        await rig.begin()
        for state in list(rig.targets.states.values()):
            if state.target.kind is Kind.EVERYTHING:
                practice.whole(target=state.target)
        practice.state.retire_feeds(practice.lease, list(feeds), T0)
        rig.again()
        await rig.begin()
        everything = [state for state in rig.targets.states.values() if state.target.kind is Kind.EVERYTHING]
        assert [state.target.types for state in everything] == [feeds, feeds]
        assert not any(state.reread for state in everything)

    asyncio.run(scenario())


def test_feeds_that_leave_what_reads_everything_over_a_restart_leave_nothing_behind(practice: Practice) -> None:
    a_patient_is_known(practice, "a")
    rig = Rig(practice, Server({"Observation": (Strategy.EVERYTHING, Strategy.PATIENT)}))

    async def scenario() -> None:
        await rig.begin()
        assert rig.kinds() == {Kind.EVERYTHING}
        rig.config = configured({"Observation": FeedConfig(forbid=("everything",))})
        practice.state.retire_feeds(practice.lease, ["Observation"], T0)
        rig.again()
        await rig.begin()
        assert rig.kinds() == {Kind.PATIENT}

    asyncio.run(scenario())


def test_who_joins_a_group_while_it_is_read_is_still_to_be_read(by_patient: Practice) -> None:
    practice = by_patient
    practice.register(NAMES)
    practice.whole(practice.patient("a"), target=NAMES)
    (alone,) = groups(practice)
    practice.register(alone)
    patients_appear(practice, "b")
    (both,) = groups(practice)
    practice.register(both)
    practice.whole(target=alone)  # had begun before
    (state,) = [state for state in practice.state.targets("p1", ()) if state.target.kind is Kind.PATIENTS]
    assert state.reread
    practice.whole(target=both)
    (state,) = [state for state in practice.state.targets("p1", ()) if state.target.kind is Kind.PATIENTS]
    assert not state.reread


def test_a_type_that_joins_while_everything_is_read_is_still_to_be_read(practice: Practice) -> None:
    former, now = (
        Target("p1", EVERY_TYPE, Kind.EVERYTHING, patient="a", types=types)
        for types in (("Condition",), ("Condition", "Goal"))
    )
    practice.register(former)
    practice.register(now)
    practice.whole(target=former)
    assert practice.state.targets("p1", (), now.key)[0].reread
    practice.whole(target=now)
    assert not practice.state.targets("p1", (), now.key)[0].reread


def test_who_appears_where_nothing_goes_through_all_patients_is_new_in_the_practice(by_patient: Practice) -> None:
    """Else all that they bring is told as a baseline, for ever."""
    feeds = {"Patient": FeedConfig(), "Observation": FeedConfig()}
    config = configured(feeds, patients=PatientsConfig(names=(), practitioners=("dr",)))
    rig = Rig(by_patient, Server({"Patient": (Strategy.PATIENT,), "Observation": (Strategy.SWEEP,)}), config)
    sweep = Target("p1", "Observation", Kind.SWEEP)

    async def scenario() -> None:
        await rig.begin()
        before = rig.targets.enumerated(rig.targets.states[sweep.key])
        by_patient.whole(target=sweep)
        await rig.targets.reload(sweep)
        assert (before, rig.targets.enumerated(rig.targets.states[sweep.key])) == (False, True)

    asyncio.run(scenario())


def test_what_is_owed_is_looked_for_less_often_where_that_takes_long(
    practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30,000 patients of twelve types took seconds after each pass: nothing else was done."""
    server = service.Server(offers={"Condition": (Strategy.SWEEP,)})
    rig = service.Rig(practice, server)
    looks: list[int] = []
    due = plan.due

    def slowly(*given: Any) -> list[Target]:
        looks.append(1)
        monotonic.at += 3
        return due(*given)

    class Monotonic:
        at = 1e9

        def monotonic(self) -> float:
            return self.at

    monotonic = Monotonic()

    async def scenario() -> None:
        await rig.begin()
        monkeypatch.setattr("poller.order.time", monotonic)
        monkeypatch.setattr("poller.order.plan.due", slowly)
        await rig.go_on(40)
        read, looked = len(server.read_by), len(looks)
        await rig.go_on(40)
        assert (len(server.read_by), len(looks)) == (read, looked)
        monotonic.at += 40
        await rig.go_on(1)
        assert (len(server.read_by), len(looks)) == (read + 1, looked + 1)

    asyncio.run(scenario())
