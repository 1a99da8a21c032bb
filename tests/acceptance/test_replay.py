"""Guarantee 5, replay: the past again, the same events under the same ids, with the source switched off.

The simulator has been stopped before anything is replayed, so a call to it would fail; and it counts its calls.

Shown to fail, and shown again at every run: a replay that makes new ids, or leaves out a resource's values, does not pass the comparison
that the true one passes.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from poller import replay as module
from poller.core.envelope import message
from poller.replay import replay
from poller.store.log import Selection
from tests.acceptance.parts import ROOT, action_of, applied, version_of, wait_until
from tests.acceptance.rig import ECW, OPEN
from tests.acceptance.story import MARK
from tests.acceptance.test_order import broken_chain, of, once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from poller.core.envelope import Message
    from tests.acceptance.story import Story

FREE = {"origin", "replayid", "previoussequence"}
"""What may differ in a replayed event."""


def poller(story: Story, *arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "poller", *arguments, "--config", str(story.rig.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def arrived(story: Story, queue: str, count: int) -> list[dict[str, Any]]:
    """What a plain consumer finds in the queue."""
    with story.rig.collector(queue) as consumer:
        wait_until("the replay arrives", lambda: len(consumer.received) >= count, 120)
    return consumer.events


def played(story: Story, practice: str, **selection: Any) -> list[dict[str, Any]]:
    """Replay in this process, to a queue of its own, and consume that."""
    installation = story.rig.installation()
    name = f"replay.{uuid.uuid4().hex[:8]}"
    base_url = installation.practice(practice).base_url
    chosen = Selection(practice, **selection)
    count = replay(
        installation.reading_log,
        installation.broker(),
        chosen,
        base_url=base_url,
        payload="full-resource",
        queue=name,
        replay_id="again",
    )
    return arrived(story, name, count)


def bare(event: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in FREE}


def the_same(past: Sequence[Mapping[str, Any]], again: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these are the same events, each in its place."""
    return [bare(event) for event in past] == [bare(event) for event in again]


def live(story: Story, practice: str, wanted: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    """What was published once, in the log's order."""
    found = sorted(once(of(story.full, practice)), key=lambda event: event["sequence"])
    return [event for event in found if wanted(event)]


def are_marked(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each says that it is a replay, and follows the one before it."""
    return all(event["origin"] == "replay" and event["replayid"] for event in events) and broken_chain(events) == []


def test_by_type_from_the_command_line(story: Story) -> None:
    calls = sum(len(story.rig.world.calls(code)) for code in (ECW, OPEN))
    said = poller(story, "replay", OPEN, "--type", "Observation", "--queue", "replay.observations")
    past = live(story, OPEN, lambda event: event["subject"].startswith("Observation/"))
    assert said.startswith(f"{len(past)} events to queue replay.observations")
    again = arrived(story, "replay.observations", len(past))
    assert the_same(past, again)
    assert are_marked(again)
    assert any("patch" in event["data"] for event in again)
    assert sum(len(story.rig.world.calls(code)) for code in (ECW, OPEN)) == calls
    assert len(applied([*past, *again])) == len(past), "a consumer that saw the events live drops the replay"


@pytest.mark.parametrize("practice", [ECW, OPEN])
def test_by_patient(story: Story, practice: str) -> None:
    patient = f"p-{MARK}-{practice.lower()}"
    past = live(story, practice, lambda event: event["partitionkey"] == f"Patient/{patient}")
    assert len(past) > 3
    again = played(story, practice, patient=patient)
    assert the_same(past, again)
    assert are_marked(again)


def test_by_time(story: Story) -> None:
    times = sorted(event["time"] for event in live(story, OPEN, lambda _: True))
    since, until = times[len(times) // 2], times[-1]
    past = live(story, OPEN, lambda event: since <= event["time"] < until)
    assert past
    again = played(story, OPEN, since=dt.datetime.fromisoformat(since), until=dt.datetime.fromisoformat(until))
    assert the_same(past, again)
    assert are_marked(again)


def new_ids(*arguments: Any, **more: Any) -> Message:
    event = dataclasses.replace(arguments[0], event_id=uuid.uuid4())
    return message(event, *arguments[1:], **more)


def no_values(*arguments: Any, **more: Any) -> Message:
    return message(*arguments, **(more | {"payload": "id-only"}))


@pytest.mark.parametrize("broken", [new_ids, no_values])
def test_a_replay_of_other_events_is_found_out(
    story: Story, broken: Callable[..., Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    past = live(story, OPEN, lambda event: event["subject"].startswith("Condition/"))
    assert the_same(past, played(story, OPEN, resource_type="Condition"))
    monkeypatch.setattr(module, "message", broken)
    assert not the_same(past, played(story, OPEN, resource_type="Condition"))


def test_history_lists_the_versions_that_were_published(story: Story) -> None:
    subject = f"Observation/o-p-{MARK}-{OPEN.lower()}"
    past = live(story, OPEN, lambda event: event["subject"] == subject)
    listed = [json.loads(line) for line in poller(story, "history", OPEN, subject, "--json").splitlines()]
    assert len(listed) > 2
    assert [row["version"] for row in listed] == [version_of(event) for event in past]
    assert [row["action"] for row in listed] == [action_of(event) for event in past]
    assert [row["resource"] for row in listed] == [event["data"]["resource"] for event in past]
