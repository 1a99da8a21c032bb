"""The state at a time: what ``poller as-of`` reads is what a consumer holds that has applied all events up to then."""

from __future__ import annotations

import datetime as dt
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from poller.app import Installation
from poller.commands import as_of as command
from poller.core import jsontext
from poller.core.envelope import message
from poller.store.audit import AuditStore
from poller.store.log import Selection
from poller.store.reading import Missing, ReadingStore, StoredVersion

if TYPE_CHECKING:
    from tests.integration.conftest import Practice

pytestmark = pytest.mark.usefixtures("bodies")

JUST = dt.timedelta(microseconds=1)
State = dict[str, bytes]


def live(practice: Practice, seed: int) -> list[dt.datetime]:
    """A life of some resources: created, changed, deleted, restored, by chance; the times at which something was recorded."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, guards nothing
    for turn in range(14):
        ids = chance.sample(["o1", "o2", "o3", "o4"], chance.randint(1, 3))
        if chance.random() < 0.3 and set(ids) & set(practice.live()):
            practice.delete(*(set(ids) & set(practice.live())))
        else:
            patient = {"reference": f"Patient/{chance.choice('ab')}"}
            practice.read(*[practice.observation(one, value=f"{turn}", subject=patient) for one in ids])
    return sorted({row.recorded_at for row in practice.rows("SELECT recorded_at FROM poller.event")})


def replayed(practice: Practice, until: dt.datetime, **selection: Any) -> State:
    """What a consumer holds that has applied the full-resource events of a replay."""
    state: State = {}
    for event in practice.log.select(Selection("p1", until=until, **selection), bodies=True):
        sent = jsontext.loads(
            message(event, base_url="https://x", payload="full-resource", previous_sequence=None, replay_id="r").body
        )
        if "resource" in sent["data"]:
            state[sent["subject"]] = jsontext.dumps(sent["data"]["resource"])
        else:
            state.pop(sent["subject"], None)
    return state


def stood(practice: Practice, at: dt.datetime, **narrowed: Any) -> State:
    found = [one for page in ReadingStore(practice.engine).as_of("p1", at, **narrowed) for one in page]
    assert Missing.PAST not in found
    return {f"{one.resource_type}/{one.id}": one.text or b"" for one in found if isinstance(one, StoredVersion)}


@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_what_the_events_up_to_then_come_to_whenever_that_was(practice: Practice, seed: int) -> None:
    times = live(practice, seed)
    for at in [times[0] - JUST, *times, times[-1] + dt.timedelta(days=1)]:
        assert stood(practice, at) == replayed(practice, at + JUST), at
    middle = times[len(times) // 2]
    assert stood(practice, middle)
    whose = {row.id: row.partition_key for row in practice.rows("SELECT id, partition_key FROM poller.snapshot")}
    of_a = {
        name: text for name, text in stood(practice, middle).items() if whose[name.partition("/")[2]] == "Patient/a"
    }
    assert stood(practice, middle, patient="a") == of_a
    assert stood(practice, middle, resource_type="Patient") == {}


def test_the_command_prints_resources_or_their_events_and_tells_what_is_past(
    practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = live(practice, 3)

    class Chosen:
        code, base_url = "p1", "https://ehr.example/p1"

    monkeypatch.setattr(command, "load", lambda _path: None)
    monkeypatch.setattr(Installation, "practice", lambda _self, _code: Chosen)
    monkeypatch.setattr(Installation, "reading_log", practice.log)
    monkeypatch.setattr(Installation, "reading", ReadingStore(practice.engine))
    monkeypatch.setattr(Installation, "audit", AuditStore(practice.engine))
    app = typer.Typer()
    app.command()(command.as_of)
    at = times[-1].astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    plain = CliRunner().invoke(app, ["p1", "--at", at])
    assert plain.exit_code == 0, plain.output
    shown = [json.loads(line) for line in plain.stdout.splitlines()]
    assert [f"Observation/{one['id']}" for one in shown] == sorted(stood(practice, times[-1]))
    asked = CliRunner().invoke(app, ["p1", "--at", at, "--events"])
    events = [json.loads(line) for line in asked.stdout.splitlines()]
    assert [event["data"]["resource"] for event in events] == shown
    logged = {str(event.event_id) for event in practice.log.select(Selection("p1"), bodies=False)}
    assert {event["id"] for event in events} <= logged
    assert all((event["origin"], event["replayid"]) == ("replay", "as-of") for event in events)
