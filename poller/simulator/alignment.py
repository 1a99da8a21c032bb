"""A resource's true states beside the events that came for it: which event tells of which state, and which of none."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from poller.core import jsontext

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poller.simulator.truth import TrueVersion

_CLOCKS = dt.timedelta(seconds=0.5)
"""By how much the clocks of two processes of one machine may seem to differ."""


def content_of(resource: Mapping[str, Any] | None) -> bytes | None:
    """What of a resource is compared, in a form of its own; the judge must not share the poller's idea of it by sharing its code."""
    if resource is None:
        return None
    meta = {name: value for name, value in resource.get("meta", {}).items() if name not in {"lastUpdated", "versionId"}}
    rest = {name: value for name, value in resource.items() if name not in {"meta", "text"}}
    return jsontext.dumps({**rest, "meta": meta} if meta else rest, sort_keys=True)


@dataclass(slots=True)
class State:
    """A stretch of time through which a resource's content did not change."""

    content: bytes | None
    """None while it is deleted."""
    since: dt.datetime
    """When requests first saw it."""
    until: dt.datetime | None
    """None while it is current."""
    counted: bool = False
    """Whether the poller owed an event for it."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event of one resource as it arrived."""

    arrived: dt.datetime
    detected: dt.datetime
    deleted: bool
    content: bytes | None
    origin: str
    sequence: str
    version: int
    action: str


class Fault(StrEnum):
    """What is wrong with an event."""

    FALSE = "false"
    OUT_OF_ORDER = "out_of_order"


def states_of(versions: Sequence[TrueVersion]) -> list[State]:
    """True versions with touches that change nothing folded into one state."""
    states: list[State] = []
    for version in versions:
        content = content_of(version.resource)
        if version.visible_until is not None and version.visible_until <= version.visible_from:
            continue
        if states and states[-1].content == content:
            states[-1].until = version.visible_until
        elif states or content is not None:
            states.append(State(content, version.visible_from, version.visible_until))
    return states


def _fits(told: Told, state: State) -> bool:
    if told.deleted != (state.content is None) or (not told.deleted and told.content != state.content):
        return False
    latest = min(told.arrived, told.detected) if told.deleted else told.arrived
    return state.since <= latest + _CLOCKS


def align(tolds: Sequence[Told], states: Sequence[State]) -> list[int | None]:
    """For each event the index of the state that it tells of, increasing; as many as possible, counted ones before others."""
    rows, columns = len(tolds), len(states)
    best = [[0] * (columns + 1) for _ in range(rows + 1)]
    for row in range(rows - 1, -1, -1):
        for column in range(columns - 1, -1, -1):
            most = max(best[row + 1][column], best[row][column + 1])
            if _fits(tolds[row], states[column]):
                most = max(most, best[row + 1][column + 1] + _worth(states[column]))
            best[row][column] = most
    found: list[int | None] = []
    column = 0
    for row, told in enumerate(tolds):
        while column < columns and best[row][column] == best[row][column + 1]:
            column += 1
        if (
            column < columns
            and _fits(told, states[column])
            and best[row][column] == best[row + 1][column + 1] + _worth(states[column])
        ):
            found.append(column)
            column += 1
        else:
            found.append(None)
    return found


def _worth(state: State) -> int:
    return 1001 if state.counted else 1000


def faults_of(tolds: Sequence[Told], states: Sequence[State], told_of: Sequence[int | None]) -> list[Fault | None]:
    """What is wrong with each event, if anything."""
    faults: list[Fault | None] = []
    last: bytes | None = b""
    sequence, version = "", 0
    for told, index in zip(tolds, told_of, strict=True):
        fault: Fault | None = None
        if index is None:
            known = any(_fits(told, state) for state in states)
            fault = Fault.OUT_OF_ORDER if known and told.content != last else Fault.FALSE
        elif told.sequence <= sequence or told.version <= version:
            fault = Fault.OUT_OF_ORDER
        if index is not None:
            last = states[index].content
        sequence, version = max(sequence, told.sequence), max(version, told.version)
        faults.append(fault)
    return faults
