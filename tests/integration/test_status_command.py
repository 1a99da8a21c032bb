"""`poller status` on prepared incidents: each names its cause and the next step, from the store alone."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from poller.core.model import Coverage, Kind, Strategy, Target
from poller.core.report_schema import status_schema
from poller.core.sink import Fate, Sink, park_first, settle
from poller.errors import DEGRADED, NotFound
from poller.store.control import ALL, Ask, Post, State
from poller.store.deletes import Breaker, Settled
from poller.store.heartbeat import HeartbeatStore
from tests.incidents import CODE, Scene

SINK = Sink("changes", "fhir.changes", ("q",))


@pytest.fixture
def scene(engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("KEY", "k" * 32)
    made = Scene(engine, database_url, tmp_path)
    yield made
    made.close()


def told(scene: Scene, exit_code: int, *words: str) -> Any:
    """The practice, as a program is told."""
    (practice,) = scene.told(exit_code, "status", *words, schema=status_schema())["practices"]
    return practice


def states(practice: Any) -> dict[str, str]:
    return {feed["feed"]: feed["state"] for feed in practice["feeds"]}


def the_one(found: list[Any], cause: str) -> Any:
    assert [one["cause"] for one in found] == [cause]
    return found[0]


def shown(scene: Scene, *words: str) -> str:
    """As a person sees it: no wider than 100 columns, in no colour, without an id."""
    result = scene.poller("status", *words)
    out = result.stdout
    assert out, result.exception
    assert max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out
    assert "o1" not in out
    return out


def test_all_is_well(scene: Scene) -> None:
    practice = told(scene, 0)
    assert practice["state"] == "healthy"
    assert states(practice) == {"Observation": "fresh", "Condition": "fresh"}
    assert practice["findings"] == []
    out = shown(scene, CODE)
    assert f"{CODE} is healthy; last looked after" in out
    assert "revision 1 is in force" in out
    assert "the file says the same" in out
    assert "Nothing is to be done." in out
    alone = told(scene, 0, CODE)
    assert alone == practice | {"lastLook": alone["lastLook"]}


def test_a_feed_that_stopped_being_read_is_late_though_nothing_failed(scene: Scene) -> None:
    scene.change(
        "UPDATE poller.target SET complete_began = now() - interval '3 hours' WHERE practice = :code AND resource_type = 'Condition'"
    )
    practice = told(scene, DEGRADED)
    assert practice["state"] == "degraded"
    assert states(practice) == {"Observation": "fresh", "Condition": "late"}
    finding = the_one(practice["findings"], "late")
    assert finding["what"] == "Condition is late: nothing failed; the oldest read is of 3h ago"
    assert "`poller plan FAMLYM`" in finding["next"]
    assert states(told(scene, DEGRADED, "--late")) == {"Condition": "late"}
    assert "Observation" not in shown(scene, CODE, "--late")


def test_a_feed_that_fails_says_how(scene: Scene) -> None:
    scene.practice.whole(coverage=Coverage.INCOMPLETE, failure="server", target=scene.sweep("Condition"))
    scene.change("UPDATE poller.target SET complete_began = now() - interval '3 hours' WHERE practice = :code")
    findings = told(scene, DEGRADED)["findings"]
    assert [(one["cause"], one["feeds"]) for one in findings] == [("late", ["Observation"]), ("late", ["Condition"])]
    assert findings[1]["what"] == "Condition is late: 1 of 1 searches failed at the last try: server"
    assert "the practice's server is sick" in findings[1]["next"]


def test_a_poller_that_is_gone_makes_every_feed_late(scene: Scene) -> None:
    scene.beat(61)
    practice = told(scene, DEGRADED)
    assert practice["state"] == "unattended"
    assert set(states(practice).values()) == {"late"}
    finding = the_one(practice["findings"], "no poller")
    assert finding["what"].startswith("no poller has looked after it since ")
    assert "start `poller run`" in finding["next"]
    scene.change("UPDATE poller.heartbeat SET practice = 'OTHER'")
    assert the_one(told(scene, DEGRADED)["findings"], "no poller")["what"] == "no poller has looked after it yet"


def test_a_poller_that_has_just_begun_is_given_time_to_come_to_its_practices(scene: Scene) -> None:
    """Neither on a store that is new nor after a night without any is it a false alarm."""
    scene.beat(70)
    scene.change("UPDATE poller.lease SET taken_at = now() - interval '1 day'")
    post = Post(scene.practice.engine, "host", 2)
    post.look()
    post.runs(1)
    try:
        for change in ("UPDATE poller.heartbeat SET practice = 'OTHER'", "UPDATE poller.feed SET strategy = NULL"):
            scene.change(change)
            practice = told(scene, 0)
            assert (practice["state"], practice["findings"]) == ("starting", [])
        assert set(states(practice).values()) == {"baseline"}
        assert "Nothing is to be done." in shown(scene)
        scene.change("UPDATE poller.engine SET started_at = now() - interval '61 seconds'")
        assert told(scene, DEGRADED)["state"] == "unattended"
        scene.change("UPDATE poller.engine SET started_at = now() - interval '5 seconds'")
        scene.beat(70)
        assert told(scene, 0)["state"] == "starting"
        scene.beat(1)
        assert told(scene, DEGRADED)["state"] == "degraded", "a poller that has come to it is not starting"
    finally:
        post.close()
    scene.beat(70)
    assert told(scene, DEGRADED)["state"] == "unattended", "one that has ended is not starting"


@pytest.mark.parametrize(
    ("failure", "then"),
    [
        ("key-missing", "encryption.keys"),
        ("SQLSTATE 23514", "report it"),
        ("SQLSTATE 57P01", "look at Postgres"),
        ("store-key", "see store-key in the runbook"),
    ],
)
def test_a_practice_that_begins_again_and_again_is_not_healthy(scene: Scene, failure: str, then: str) -> None:
    """Though each beginning gives a sign of life."""
    HeartbeatStore(scene.practice.engine).note_failures(None, {CODE: failure})
    practice = told(scene, DEGRADED)
    assert (practice["state"], practice["failure"]) == ("degraded", failure)
    finding = the_one(practice["findings"], "begins again")
    assert finding["what"].endswith(failure)
    assert then in finding["next"]
    HeartbeatStore(scene.practice.engine).note_failures(None, {CODE: None})
    assert told(scene, 0)["failingSince"] is None


def test_a_refused_feed_says_why_and_what_to_do(scene: Scene) -> None:
    scene.practice.state.refuse(
        scene.practice.lease, "Condition", "build too old", "needs build 12.0.2 or later", scene.practice.at(5)
    )
    practice = told(scene, DEGRADED)
    assert states(practice) == {"Observation": "fresh", "Condition": "refused"}
    finding = the_one(practice["findings"], "refused")
    assert finding["what"] == "Condition cannot be read: build too old"
    assert finding["next"].startswith("needs build 12.0.2 or later; `poller probe FAMLYM`")


def test_a_practice_that_lets_nobody_in_is_paused_by_the_poller(scene: Scene) -> None:
    scene.change("INSERT INTO poller.pause VALUES (:code, '*', now(), 'no access: token: invalid_client', 3, now())")
    practice = told(scene, DEGRADED)
    assert set(states(practice).values()) == {"paused"}
    finding = the_one(practice["findings"], "shut out")
    assert "no access: token: invalid_client" in finding["what"]
    assert "has the practice activated the app" in finding["next"]


def test_a_practice_that_an_operator_has_paused_is_not_late(scene: Scene) -> None:
    scene.change("UPDATE poller.target SET complete_began = now() - interval '3 hours' WHERE practice = :code")
    scene.control.pause(CODE, ALL, dt.timedelta(hours=2), actor="ann@host", reason="their server is moved")
    practice = told(scene, 0)
    assert practice["state"] == "paused"
    assert set(states(practice).values()) == {"paused"}
    finding = the_one(practice["findings"], "operator's pause")
    assert not finding["trouble"]
    assert "by ann@host: their server is moved" in finding["what"]
    assert "`poller resume FAMLYM`" in finding["next"]
    scene.control.resume(CODE, ALL, actor="ann@host", reason="moved")
    assert set(states(told(scene, 0)).values()) == {"fresh"}, "nothing was owed before it was resumed"


def test_a_paused_feed_leaves_the_others_as_they_are(scene: Scene) -> None:
    scene.control.pause(CODE, "Condition", None, actor="ann@host", reason="noise")
    practice = told(scene, 0)
    assert (practice["state"], states(practice)) == ("healthy", {"Observation": "fresh", "Condition": "paused"})
    assert "`poller resume FAMLYM Condition`" in the_one(practice["findings"], "operator's pause")["next"]


def test_held_deletes_wait_for_a_person(scene: Scene) -> None:
    none = Breaker(0.0, 0, dt.timedelta(hours=1))
    assert scene.practice.delete("o1", breaker=none) == [Settled.HELD]
    practice = told(scene, DEGRADED)
    assert [feed["heldDeletes"] for feed in practice["feeds"]] == [1, 0]
    finding = the_one(practice["findings"], "held deletes")
    assert finding["what"].endswith("1 of Observation")
    assert finding["next"].startswith("`poller deletes list FAMLYM`")


def park(scene: Scene, reason: str) -> None:
    """The first event is refused for itself, and parked; the next of its resource behind it; another goes out."""
    scene.practice.whole(scene.practice.observation(value="14"), scene.practice.observation("o2"))
    scene.sinks.begin(SINK)
    (at,) = scene.sinks.positions(SINK.name)
    events = scene.sinks.after(CODE, 0, 0, 10, bodies=False)
    scene.sinks.advance(SINK.name, at, park_first(events, [Fate.SEND] * 3, reason))
    (at,) = scene.sinks.positions(SINK.name)
    fates = [Fate.BEHIND if event.id == "o1" else Fate.SEND for event in events[1:]]
    step = settle(events[1:], fates, 1)
    assert step is not None
    scene.sinks.advance(SINK.name, at, step)


@pytest.mark.parametrize(
    ("reason", "then"),
    [
        ("too large: 17 bytes, and the broker takes 16 at most", "raise the broker's largest message"),
        ("unroutable: no queue is bound that wants it", "bind a queue to the exchange of changes again"),
    ],
)
def test_parked_events_say_why_and_how_they_go_on(scene: Scene, reason: str, then: str) -> None:
    park(scene, reason)
    practice = told(scene, DEGRADED)
    (sink,) = practice["sinks"]
    assert {name: sink[name] for name in ("recorded", "delivered", "parked", "waiting", "missing")} == {
        "recorded": 3, "delivered": 1, "parked": 2, "waiting": 0, "missing": 0,
    }  # fmt: skip
    finding = the_one(practice["findings"], "parked")
    assert finding["what"] == f"2 events are parked at changes: {reason}"
    assert finding["next"].startswith(then)
    assert "`poller sinks release changes FAMLYM`" in finding["next"]
    assert reason.partition(":")[0] in shown(scene, CODE)


def test_events_that_wait_long_are_told_and_fresh_ones_are_not(scene: Scene) -> None:
    scene.sinks.begin(SINK)
    assert told(scene, 0)["sinks"][0]["waiting"] == 1
    with scene.relay.begin() as connection:
        connection.exec_driver_sql("RESET ROLE")
        connection.exec_driver_sql("UPDATE poller.event SET recorded_at = recorded_at - interval '20 minutes'")
        connection.exec_driver_sql('SET ROLE "poller_relay"')
    finding = the_one(told(scene, DEGRADED)["findings"], "waiting")
    assert finding["what"].startswith("1 events wait for changes since ")
    assert "look at the broker" in finding["next"]


def test_books_that_do_not_balance_are_told(scene: Scene) -> None:
    scene.sinks.begin(SINK)
    with scene.relay.begin() as connection:
        connection.exec_driver_sql("UPDATE poller.cursor SET epoch = 1, sequence = 1")
    assert told(scene, DEGRADED)["sinks"][0]["missing"] == 1
    assert "nobody can say" in the_one(told(scene, DEGRADED)["findings"], "books")["what"]


def reload_refused(scene: Scene, problem: str) -> None:
    """A running poller is asked to read its file again, and refuses."""
    post = Post(scene.practice.engine, "host", 7)
    post.look()
    asked = scene.control.ask(Ask.RELOAD, ALL, actor="ann@host", reason="more feeds")
    (order,) = post.look()[1]
    assert order.control == asked.control
    post.answer(order, State.REFUSED, {"why": "config", "problems": [problem]})
    post.close()


def test_a_reload_that_was_refused_names_the_line(scene: Scene) -> None:
    scene.write(["Observation", "Condition", "Goal"])
    found = scene.told(0, "status", schema=status_schema())
    assert found["configuration"]["fileDiffers"]
    assert "`poller reload` takes it up" in the_one(found["findings"], "config differs")["next"]
    assert states(found["practices"][0]) == {"Observation": "fresh", "Condition": "fresh"}, "by what is in force"
    reload_refused(scene, "poller.yaml:3: practices.FAMLYM.feeds.Goal.every: 5m would cost 58 calls a minute")
    found = scene.told(DEGRADED, "status", schema=status_schema())
    finding = the_one(found["findings"], "config refused")
    assert "revision 1 stays in force: poller.yaml:3: practices.FAMLYM.feeds.Goal.every" in finding["what"]
    assert finding["next"] == "mend poller.yaml, `poller check`, then `poller reload`"
    scene.accept()
    assert scene.told(0, "status", schema=status_schema())["findings"] == [], "it is in force by now"


def test_a_broken_file_keeps_nobody_from_looking(scene: Scene) -> None:
    scene.file.write_text(scene.file.read_text("utf-8").replace("every: 5m", "every: soon"), "utf-8")
    found = scene.told(DEGRADED, "status", schema=status_schema())
    finding = the_one(found["findings"], "config refused")
    assert "the file is broken, revision 1 stays in force: " in finding["what"]
    assert re.search(r"poller\.yaml:\d+: practices\.FAMLYM\.feeds\.Observation\.every", finding["what"])
    assert found["practices"][0]["state"] == "healthy"
    assert "the file is broken" in shown(scene)


def test_a_feed_that_was_never_begun_is_late_once_there_was_time(scene: Scene) -> None:
    scene.write(["Observation", "Condition", "Goal"])
    scene.accept()
    assert states(told(scene, 0))["Goal"] == "baseline"
    scene.change("UPDATE poller.lease SET taken_at = now() - interval '3 minutes' WHERE practice = :code")
    assert states(told(scene, DEGRADED))["Goal"] == "late"


def test_a_first_read_under_way_is_no_trouble_and_a_retired_feed_neither(scene: Scene) -> None:
    searches = [Target(CODE, "Condition", Kind.PATIENT, patient=patient) for patient in "ab"]
    scene.read_by("Condition", Strategy.PATIENT, *searches)
    scene.change("UPDATE poller.target SET registered_at = now() WHERE practice = :code")
    scene.practice.whole(target=searches[0])
    practice = told(scene, 0)
    assert states(practice)["Condition"] == "baseline"
    assert practice["feeds"][1]["why"] == "first read under way: 1 of 2 to come"
    scene.write(["Observation"])
    scene.accept()
    scene.practice.state.retire_feeds(scene.practice.lease, ["Observation"], scene.practice.at(50))
    assert states(told(scene, 0)) == {"Observation": "fresh", "Condition": "retired"}


def test_of_who_is_gone_nothing_is_owed(scene: Scene) -> None:
    search = Target(CODE, "Condition", Kind.PATIENT, patient="a")
    scene.read_by("Condition", Strategy.PATIENT, search)
    scene.change("UPDATE poller.target SET registered_at = now() - interval '1 day' WHERE patient = 'a'")
    assert states(told(scene, DEGRADED))["Condition"] == "late"
    scene.change("UPDATE poller.patient SET gone_at = now() WHERE practice = :code AND id = 'a'")
    assert states(told(scene, 0))["Condition"] == "baseline"


def test_calls_that_were_used_and_a_lock_out_are_told(scene: Scene) -> None:
    scene.change(
        "INSERT INTO poller.budget (practice, next_at, told_at, minute, used, used_before, part, cut_at, blocked_until)"
        " VALUES (:code, now(), now(), date_trunc('minute', now()), 7, 241, 0.7, now(), now() + interval '10 minutes')"
    )
    scene.change("UPDATE poller.target SET complete_began = now() - interval '3 hours' WHERE practice = :code")
    practice = told(scene, DEGRADED)
    assert practice["budget"]["used"] in {241, 7}, "of the minute before; 7 if it has turned since"
    assert practice["budget"]["part"] == pytest.approx(0.7, abs=0.05)
    assert [one["cause"] for one in practice["findings"]] == ["locked out", "late"]
    assert practice["findings"][1]["next"].startswith("429s have cut the pace to 7")


def test_several_practices_are_a_line_each_and_an_unknown_one_is_named(scene: Scene) -> None:
    text = scene.file.read_text("utf-8")
    body = text.partition(f"{CODE}: ")[2].rstrip().removesuffix("}").replace("ehr.example/A", "ehr.example/B")
    scene.file.write_text(text.rstrip().removesuffix("}") + f", OTHERP: {body}}}\n", "utf-8")
    scene.accept()
    out = shown(scene)
    assert [line.split()[:2] for line in out.splitlines() if line.split()[:1] in ([CODE], ["OTHERP"])] == [
        [CODE, "healthy"], ["OTHERP", "unattended"],
    ]  # fmt: skip
    assert "OTHERP: no poller has looked after it yet" in out
    assert [
        one["practice"] for one in scene.told(DEGRADED, "status", "--late", schema=status_schema())["practices"]
    ] == ["OTHERP"]
    assert scene.poller("status", CODE).exit_code == 0
    result = scene.poller("status", "NOBODY")
    assert isinstance(result.exception, NotFound)
    assert "there are: FAMLYM, OTHERP" in str(result.exception)
