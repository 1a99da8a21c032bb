"""Which pass begins next, by the order's own rules, on targets that no store holds."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from poller.config import loader
from poller.core.lanes import Lane
from poller.core.model import Kind, Strategy, Target
from poller.core.plan import PatientState, TargetState
from poller.order import Order
from poller.planning import Pass, Planning
from poller.targets import Targets

FEEDS = ("Encounter", "Condition", "DiagnosticReport")
PATIENTS = 1500
TEXT = """
data_dir: there
sinks: {c: {exchange: x, queues: [q]}}
practices:
  P:
    base_url: https://x.example.org/fhir
    auth: none
    feeds: {Patient: {every: 1h}, Encounter: {}, Condition: {}, DiagnosticReport: {}}
"""


class Clock:
    """It stands until it is moved."""

    at = dt.datetime(2026, 3, 3, 15, tzinfo=dt.UTC)

    def now(self) -> dt.datetime:
        return self.at


async def passes(of_condition: str, *, paused: bool) -> Counter[str]:
    """How many passes of each feed begin in ninety seconds, at most four at once and each 2.5 seconds long."""
    config = loader.load_text(TEXT, Path("x.yaml")).practices["P"]
    clock = Clock()
    targets = Targets(config, None, None, clock)  # type: ignore[arg-type]  # nothing here loads or saves
    targets._patients = [PatientState(f"p{number}", number) for number in range(PATIENTS)]
    planning = Planning(config, None, targets, clock, None)  # type: ignore[arg-type]  # it holds no lease
    for feed in FEEDS:
        targets._strategies[feed] = Strategy.PATIENT
        targets._schedule(feed, Strategy.PATIENT)
        for number in range(PATIENTS):
            target = Target("P", feed, Kind.PATIENT, None, f"p{number}")
            ago = dt.timedelta(hours=1 + number % 20)
            if feed == "Condition" and of_condition == "overdue":
                ago = dt.timedelta(days=4)
            began = clock.at - ago
            state = TargetState(target, began, baseline_at=began, last_began=began, complete_began=began)
            if feed == "Condition" and of_condition == "never read":
                state = TargetState(target, began)
            targets.states[target.key] = targets.watched[target.key] = state
    await targets.after_load()
    order = Order(config, targets, planning, clock)
    order.allows = lambda feed: not (paused and feed == "Condition")
    running: dict[Target, Lane] = {}
    ends: list[tuple[dt.datetime, Target]] = []
    begun = Counter[str]()
    first = clock.at
    for tick in range(180):
        clock.at = first + dt.timedelta(seconds=tick / 2)
        while ends and ends[0][0] <= clock.at:
            at, target = ends.pop(0)
            state = targets.states[target.key]
            began = at - dt.timedelta(seconds=2.5)
            targets.states[target.key] = replace(state, baseline_at=began, last_began=began, complete_began=began)
            order.charge(running.pop(target), 1)
            planning.note_pass(Pass(state, began, at, True, 1))
        order.look()
        while len(running) < 4 and (turn := order.next(running)) is not None:
            running[turn.state.target] = turn.lane
            begun[turn.state.target.resource_type] += 1
            ends.append((clock.at + dt.timedelta(seconds=2.5), turn.state.target))
    return begun


@pytest.mark.parametrize("of_condition", ["never read", "overdue"])
def test_a_paused_feed_takes_no_call_from_the_others(of_condition: str) -> None:
    """Thousands of its targets may be owed first, and none of them can be read."""
    alone = asyncio.run(passes(of_condition, paused=True))
    assert alone["Condition"] == 0
    assert sum(alone.values()) == 4 * 36  # as many as can be under way
    assert asyncio.run(passes(of_condition, paused=False))["Condition"] > 0
