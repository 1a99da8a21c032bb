"""`poller reconcile`: a full pass out of turn finds what detection has missed, says so, and goes on whoever asks or goes away."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine
from typer.testing import Result

from poller.core.model import Kind, Purpose, Strategy
from poller.core.report_schema import reconcile_schema
from poller.errors import DEGRADED, NotFound, PollerError, Unanswered
from poller.reconciling import Reconciliation
from poller.store.control import ALL, Ask, ControlStore, Post, State
from poller.store.deletes import Settled
from tests.incidents import CODE, Scene, closed
from tests.integration.conftest import Practice
from tests.integration.test_service import CONDITION, REFUSED, SWEEP, WINDOW, Rig, Server, run

GOAL = {"resourceType": "Goal", "id": "g1", "subject": {"reference": "Patient/a"}}


def found_by_reconcile(feed: str, action: str) -> float:
    labels = {"practice": "p1", "feed": feed, "action": action}
    return REGISTRY.get_sample_value("poller_found_by_reconcile_total", labels) or 0.0


async def nobody(_said: Mapping[str, Any]) -> None:
    """Nobody listens."""


async def ended(rig: Rig, asking: asyncio.Task[dict[str, Any]]) -> dict[str, Any]:
    """Let the service go on until it has been answered; no schedule owes a pass meanwhile."""
    while not asking.done():
        await asyncio.wait(
            {asking, *rig.service._work, *rig.service._cycle._running.values()},
            timeout=20,
            return_when="FIRST_COMPLETED",
        )
    return asking.result()


async def reconciled(rig: Rig, feed: str = ALL) -> dict[str, Any]:
    return await ended(rig, asyncio.create_task(rig.service.reconcile(feed, nobody)))


@pytest.fixture
def rig(practice: Practice) -> Rig:
    """Two feeds; one is read by windows with sweeps beside them, of which the windows show nothing by themselves."""
    server = Server(offers={"Condition": (WINDOW, SWEEP), "Goal": (SWEEP,)})
    server.shows = {"Condition": [CONDITION, CONDITION | {"id": "c2"}], "Goal": [GOAL]}
    return Rig(practice, server, ("Condition", "Goal"))


def blind_windows(server: Server) -> None:
    """Windows show nothing from now on, whatever moves."""
    read = server.read

    def blind(target: Any, since: Any, purpose: Any) -> Any:
        reading = read(target, since, purpose)
        if target.kind is Kind.WINDOW:
            reading.shown = []
        return reading

    server.read = blind  # type: ignore[method-assign]


def test_what_windows_missed_is_found_and_counted_and_all_else_is_not(practice: Practice, rig: Rig) -> None:
    async def scenario() -> None:
        await rig.begin()
        await rig.go_on(1)
        await rig.go_on(40)
        assert rig.rung is Strategy.WINDOW
        before = {action: found_by_reconcile("Condition", action) for action in ("updated", "created", "deleted")}
        nothing = await reconciled(rig)
        assert (nothing["total"], nothing["read"], nothing["whole"], nothing["found"]) == (2, 2, 2, [])
        blind_windows(rig.server)
        rig.server.shows["Condition"] = [CONDITION | {"note": [{"text": "x"}]}, CONDITION | {"id": "c3"}]
        rig.server.shows["Goal"] = [GOAL | {"note": [{"text": "x"}]}]
        rig.server.read_by.clear()
        said = await reconciled(rig)
        assert [(one.resource_type, one.kind) for one in rig.server.read_by if one.resource_type == "Condition"][
            :2
        ] == [
            ("Condition", Kind.SWEEP),
            ("Condition", Kind.WINDOW),
        ], "what detection shows by itself is left out"
        assert said["found"] == [
            {"feed": "Condition", "windows": True, "actions": {"created": 1, "deleted": 1, "updated": 1}},
            {"feed": "Goal", "windows": False, "actions": {"updated": 1}},
        ]
        assert (said["failed"], said["held"], said["joined"]) == ([], {}, False)
        jsonschema.validate(said | {"control": 1}, closed(reconcile_schema()))
        assert all(found_by_reconcile("Condition", action) == number + 1 for action, number in before.items())
        assert set(practice.actions()[-4:]) == {
            ("deleted", "c2", 2),
            ("created", "c3", 1),
            ("updated", "c1", 2),
            ("updated", "g1", 2),
        }

    run(scenario)


def test_what_a_window_shows_by_itself_was_not_missed(rig: Rig) -> None:
    async def scenario() -> None:
        await rig.begin()
        await rig.go_on(1)
        await rig.go_on(40)
        rig.server.shows["Condition"] = [CONDITION | {"note": [{"text": "x"}]}, CONDITION | {"id": "c2"}]
        assert (await reconciled(rig, "Condition"))["found"] == []

    run(scenario)


def test_what_is_deleted_after_the_pass_was_not_missed_by_it(practice: Practice, rig: Rig) -> None:
    async def scenario() -> None:
        await rig.begin()
        await rig.go_on(1)
        await rig.go_on(40)
        await reconciled(rig)
        before = found_by_reconcile("Goal", "deleted")
        rig.server.shows["Goal"] = []
        for _ in range(20):
            await rig.go_on(600)
            if ("deleted", "g1", 2) in practice.actions():
                break
        assert ("deleted", "g1", 2) in practice.actions()
        assert found_by_reconcile("Goal", "deleted") == before

    run(scenario)


def test_one_feed_alone_is_read_and_what_fails_is_told(rig: Rig) -> None:
    async def scenario() -> None:
        await rig.begin()
        await rig.go_on(1)
        await rig.go_on(40)
        rig.server.read_by.clear()
        rig.server.failing["Goal", Kind.SWEEP] = REFUSED
        said = await reconciled(rig, "Goal")
        assert {one.resource_type for one in rig.server.read_by} == {"Goal"}
        assert (said["total"], said["whole"]) == (1, 0)
        assert said["failed"] == [{"feeds": ["Goal"], "failure": REFUSED.detail, "searches": 1}]
        with pytest.raises(PollerError, match="Observation is not read here now"):
            await rig.service.reconcile("Observation", nobody)

    run(scenario)


def test_its_calls_wait_as_those_of_whole_reads_do_and_half_of_the_places_stay_free(rig: Rig) -> None:
    async def scenario() -> None:
        names = ["Condition", "Goal", "Procedure", "Immunization", "Coverage", "Device", "Encounter", "Claim", "Media"]
        rig.feeds = tuple(names)
        rig.server.offers = dict.fromkeys(names, (SWEEP,))
        await rig.begin()
        await rig.go_on(1)
        await rig.go_on(40)
        read, purposes, most = rig.server.read, list[Purpose](), 0

        def watched(target: Any, since: Any, purpose: Purpose) -> Any:
            nonlocal most
            purposes.append(purpose)
            most = max(most, len(rig.service._cycle._running))
            return read(target, since, purpose)

        rig.server.read = watched  # type: ignore[method-assign]
        assert (await reconciled(rig))["whole"] == 9
        assert purposes == [Purpose.RECONCILE] * 9
        assert most == rig.service._config.budget.max_in_flight // 2

    run(scenario)


def test_deletes_that_are_held_are_told_and_a_delete_that_was_on_its_way_is_no_find(
    practice: Practice, rig: Rig
) -> None:
    async def scenario() -> None:
        await rig.begin()
        await rig.go_on(1)
        await rig.go_on(40)
        run_ = Reconciliation("p1", frozenset({"Goal"}), rig.service._cycle, 1, asyncio.Event())
        rig.server.shows["Goal"] = []
        rig.server.there["Goal", "g1"] = GOAL
        await rig.go_on(40)
        (absence,) = practice.deletes.listed("p1", ["missing"])
        run_._began[absence.target] = absence.first_missing_at + dt.timedelta(seconds=1)
        run_.note_settled(absence, Settled.DELETED)
        assert (run_.said()["found"], run_.said()["held"]) == ([], {}), "another pass had noticed it before"
        run_._began[absence.target] = absence.first_missing_at - dt.timedelta(seconds=1)
        run_.note_settled(absence, Settled.HELD)
        assert (run_.said()["found"], run_.said()["held"]) == ([], {"Goal": 1})

    run(scenario)


def test_asking_twice_is_answered_and_not_doubled_and_who_goes_away_stops_nothing(rig: Rig) -> None:
    async def scenario() -> None:
        await rig.begin()
        await rig.go_on(1)
        await rig.go_on(40)
        rig.server.read_by.clear()
        heard = asyncio.Event()

        async def tell(_said: Mapping[str, Any]) -> None:
            heard.set()

        first = asyncio.create_task(rig.service.reconcile(ALL, tell))
        await heard.wait()
        first.cancel()
        second = asyncio.create_task(rig.service.reconcile("Goal", nobody))
        third = asyncio.create_task(rig.service.reconcile(ALL, nobody))
        said, same = await ended(rig, second), await ended(rig, third)
        assert (said["joined"], said["total"], said["whole"], same) == (True, 2, 2, said)
        assert first.cancelled()
        assert [one.kind for one in rig.server.read_by].count(Kind.SWEEP) == 2, "each once"
        only = asyncio.create_task(rig.service.reconcile("Goal", nobody))
        await asyncio.sleep(0)
        with pytest.raises(PollerError, match="Goal is being reconciled"):
            await rig.service.reconcile(ALL, nobody)
        assert (await ended(rig, only))["joined"] is False

    run(scenario)


def test_one_that_is_begun_anew_meanwhile_says_so(rig: Rig) -> None:
    async def scenario() -> None:
        await rig.begin()
        await rig.go_on(1)
        asking = asyncio.create_task(rig.service.reconcile(ALL, nobody))
        await asyncio.sleep(0)
        await rig.service.stop()
        with pytest.raises(PollerError, match="ask again"):
            await asking

    run(scenario)


# --- the command, with an engine that a test answers for


@pytest.fixture
def scene(engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("KEY", "k" * 32)
    made = Scene(engine, database_url, tmp_path)
    yield made
    made.close()


SAID: dict[str, Any] = {
    "total": 3,
    "read": 3,
    "whole": 3,
    "failed": [],
    "found": [
        {"feed": "Condition", "windows": False, "actions": {"created": 1, "deleted": 2}},
        {"feed": "Observation", "windows": True, "actions": {"updated": 1}},
    ],
    "held": {"Condition": 1},
    "notes": ["Goal is not read at present; `poller status FAMLYM` says why"],
    "joined": True,
}


def answered(scene: Scene, state: State, said: Mapping[str, Any], *words: str) -> Result:
    """What a person is told when the engine answers so."""
    with pytest.MonkeyPatch.context() as patch:
        ask = ControlStore.ask

        def ask_and_answer(store: ControlStore, *args: Any, **more: Any) -> Any:
            asked = ask(store, *args, **more)
            (order,) = post.look()[1]
            assert (order.ask, order.practice) == (Ask.RECONCILE, CODE)
            post.answer(order, state, said)
            return asked

        patch.setattr(ControlStore, "ask", ask_and_answer)
        post = Post(scene.practice.engine, "host", 1)
        post.look()
        try:
            return scene.poller("reconcile", CODE, *words)
        finally:
            post.close()


def test_a_person_and_a_program_are_told_what_was_found(scene: Scene) -> None:
    told = answered(scene, State.DONE, SAID, "Observation")
    assert told.exit_code == 0
    assert told.stdout.splitlines() == [
        "it had been asked for before, and was under way",
        "Goal is not read at present; `poller status FAMLYM` says why",
        "3 of 3 searches read whole",
        "Condition: 1 created, 2 deleted, since it was last read whole",
        "Observation: 1 updated, which its windows do not show",
        "Condition: 1 delete is held; see `poller deletes list`",
    ]
    found = json.loads(answered(scene, State.DONE, SAID, "--json").stdout)
    jsonschema.validate(found, closed(reconcile_schema()))
    assert {name: found[name] for name in SAID} == SAID


def test_what_was_not_read_whole_or_not_in_time_or_by_nobody_exits_3(scene: Scene) -> None:
    failed = SAID | {"whole": 1, "failed": [{"feeds": ["Condition"], "failure": "the server said 500", "searches": 2}]}
    told = answered(scene, State.DONE, failed)
    assert (told.exit_code, "Condition: 2 searches failed, the server said 500" in told.stdout) == (DEGRADED, True)
    late = answered(scene, State.UNDER_WAY, SAID | {"read": 1, "whole": 1}, "--wait", "1s")
    assert isinstance(late.exception, Unanswered)
    assert str(late.exception) == "engine host:1 has not answered within 1 s; it goes on; ask again to be told the end"
    refused = answered(scene, State.REFUSED, {"why": "failed", "problems": ["the practice is paused by itself: x"]})
    told = answered(scene, State.REFUSED, {"why": "failed", "problems": ["x"]}, "--json")
    jsonschema.validate(json.loads(told.stdout), closed(reconcile_schema()))
    assert str(refused.exception) == "the practice is paused by itself: x"
    assert isinstance(answered(scene, State.DECLINED, {}).exception, Unanswered)
    alone = scene.poller("reconcile", CODE)
    assert str(alone.exception) == "practice FAMLYM: no engine runs on this store; nothing was read"


def test_what_is_not_configured_is_not_asked_for(scene: Scene) -> None:
    assert isinstance(scene.poller("reconcile", "NOBODY").exception, NotFound)
    assert isinstance(scene.poller("reconcile", CODE, "Goal").exception, NotFound)
    assert scene.poller("reconcile", CODE, "--wait", "soon").exit_code == 2
    assert scene.practice.rows("SELECT FROM poller.control") == []
