"""Which lane the next pass is taken from, where a planner shares a practice's calls with what has a schedule. Pure.

Deadlines come first, then what a schedule, a failure or a new patient owes. What these leave the other lanes share in fixed parts, so that
none of them starves; what a lane does not need goes to the others. Parts are of calls.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Final


class Lane(StrEnum):
    """Why a pass begins now, most urgent first."""

    DEADLINE = "deadline"
    """So that a ``max_staleness`` is kept."""
    OWED = "owed"
    """A schedule, a failure, a reread or a new patient owes it."""
    INDEX = "index"
    """The planner expects most of it."""
    RECONCILE = "reconcile"
    """A content read beside windows."""
    BACKFILL = "backfill"
    """A first read of what was there before."""


SHARED: Final = (Lane.INDEX, Lane.RECONCILE, Lane.BACKFILL)
"""The lanes that share what the others leave."""

PARTS: Final = (0.2, 0.3, 0.5)
"""Of what deadlines and schedules leave: for the lane that gives way first, second and last, while all three have something to read."""

MEMORY: Final = 200.0
"""Calls after which what a lane has spent counts little: one that had nothing to read for a while makes up for less than this."""


def parts_of(gives_way: Sequence[str]) -> dict[Lane, float]:
    """Each lane's part, by the order in which they give way, the first to do so first; lanes are named as :class:`Lane` is."""
    return {Lane(name): part for name, part in zip(gives_way, PARTS, strict=True)}


def turn(spent: Mapping[Lane, float], parts: Mapping[Lane, float], waiting: Collection[Lane]) -> Lane | None:
    """The lane whose turn it is: of those that wait, the one that has had least of its part lately; None if none waits."""
    return min(waiting, key=lambda lane: (spent.get(lane, 0.0) / parts[lane], -parts[lane]), default=None)


def charge(spent: Mapping[Lane, float], lane: Lane, calls: float) -> dict[Lane, float]:
    """What each lane has spent lately, after ``calls`` more by this one; what was spent long ago counts little."""
    faded = {each: value * (1 - 1 / MEMORY) ** calls for each, value in spent.items()}
    faded[lane] = faded.get(lane, 0.0) + calls
    return faded


def places(part: float, most: int) -> int:
    """How many of ``most`` passes in flight a lane may have while others wait: long passes would else take more than their part."""
    return max(1, round(part * most))
