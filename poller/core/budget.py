"""The arithmetic of a rate budget: how fast calls may leave, so that no more than the limit can ever arrive within 60 seconds.

Permits are numbered instants on the database's clock, ``spacing`` apart, over all processes. A call leaves within :data:`LIFE` of its
permit's instant or not at all, and the network brings it there within about a second more. So whatever arrives within any 60 seconds had
its permits within 62: at most ``62 / spacing + 1`` calls, which :data:`PACE` keeps at or below the limit.

Seconds are floats; instants are seconds on a monotonic clock unless they are datetimes.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass

PACE = 0.965
"""The part of the limit at which calls leave. 62 seconds at this pace are 0.997 of a minute's limit; the last call makes it whole."""

LIFE = 1.0
"""Seconds for which a permit is good. Later it is burnt: saved permits would make a burst."""

BLOCK = 1.0
"""At most so many seconds' permits are granted at once, which is also the most that a crash burns."""

LOCK_OUT_MARGIN = 2.0
"""Seconds after a minute's turn before anything leaves again: ``Date`` is cut to whole seconds, and machines of one service disagree."""

LONGEST_LOCK_OUT = 900.0
"""Seconds. A ``Retry-After`` beyond this is not believed."""

_ROUNDING = 1e-9
"""0.29 of 100 is 29, whatever floats say."""

_MINUTE = 60.0
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Grant:
    """What the ledger answers: ``count`` permits, ``spacing`` seconds apart, the first ``delay`` seconds after the answer was made.

    A ``count`` of 0 means: locked out, ask again after ``delay``.
    """

    delay: float
    count: int
    spacing: float


@dataclass(frozen=True, slots=True)
class Permit:
    """One call may leave between these two instants of this process's monotonic clock."""

    not_before: float
    not_after: float


def pace(limit: int, share: float = 1.0) -> float:
    """Calls a minute at which to leave, for a limit of ``limit`` calls a minute of which ``share`` (0 to 1] is ours.

    The share is cut down to whole calls, since a part of a call cannot be left out; at least one.
    """
    return PACE * max(1, math.floor(limit * share + _ROUNDING))


def spacing(per_minute: float) -> float:
    """Seconds between two permits at this pace, rounded up to whole microseconds, which is what the database keeps."""
    return math.ceil(_MINUTE / per_minute * _MICROSECONDS) / _MICROSECONDS


def block(per_minute: float) -> int:
    """The most permits to ask for at once; at least one."""
    return max(1, math.floor(per_minute * BLOCK / _MINUTE))


def permits(grant: Grant, asked: float, answered: float) -> list[Permit]:
    """The permits of a grant that was asked for and answered at these instants.

    The database answered somewhere between the two. Counting the start from the later and the end from the earlier keeps a call from
    leaving before its permit's true instant, or more than :data:`LIFE` after it.
    """
    return [
        Permit(answered + grant.delay + number * grant.spacing, asked + grant.delay + number * grant.spacing + LIFE)
        for number in range(grant.count)
    ]


def lock_out(answered: dt.datetime | None, retry_after: float | None = None) -> float:
    """Seconds for which nothing may leave after a 429 whose ``Date`` was ``answered``.

    The limit's window is the server's calendar minute, so it ends at the next turn of the server's minute; a server that does not tell the
    time gets a whole minute. A longer ``Retry-After`` is obeyed, up to :data:`LONGEST_LOCK_OUT`.
    """
    turn = _MINUTE if answered is None else _MINUTE - answered.second - answered.microsecond / _MICROSECONDS
    return max(turn, min(retry_after or 0.0, LONGEST_LOCK_OUT)) + LOCK_OUT_MARGIN


def lock_out_until(now: dt.datetime, answered: dt.datetime | None, retry_after: float | None = None) -> dt.datetime:
    """The end of :func:`lock_out`, by the clock that says ``now``."""
    return now + dt.timedelta(seconds=lock_out(answered, retry_after))
