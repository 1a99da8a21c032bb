"""The arithmetic of a rate budget: how fast calls may leave, so that no more than the limit can ever arrive within 60 seconds.

Permits are numbered instants on the ledger's clock (the database's), ``spacing`` apart, over all processes. A call leaves within
:data:`LIFE` of its permit's instant or not at all, and the network brings it there within about a second more. So whatever arrives within
any 60 seconds had its permits within 62: at most ``62 / spacing + 1`` calls, which :data:`PACE` keeps at or below the limit.

Seconds are floats; instants are seconds on a monotonic clock unless they are datetimes.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass

PACE = 0.965
"""The part of the limit at which calls leave. 62 seconds at this pace are 0.997 of a minute's limit; the last call makes it whole."""

LIFE = 1.0
"""Seconds for which a permit is good. Later it is burnt: saved permits would make a burst."""

BLOCK = 1.0
"""At most so many seconds' permits are granted at once, which is also the most that a crash burns."""

HORIZON = 2.0
"""Seconds. Nothing is granted while what was granted before, to whomever, reaches further than this from now."""

URGENT_HORIZON = HORIZON + BLOCK
"""Seconds. The same for urgent calls, so that no other process takes their turn again and again: what is granted by :data:`HORIZON` does
not reach further than this."""

REACH = URGENT_HORIZON + BLOCK
"""Seconds from now to the last permit that any process can hold."""

LOCK_OUT_MARGIN = 2.0
"""Seconds after a minute's turn before anything leaves again: ``Date`` is cut to whole seconds, and machines of one service disagree."""

LONGEST_LOCK_OUT = 900.0
"""Seconds. A ``Retry-After`` beyond this is not believed."""

CUT = 0.7
"""What a 429 leaves of the pace. Beside what was configured the limit may be lower, or others may spend it too."""

LEAST_PART = 0.05
"""No 429 cuts the pace below this part of it."""

RAISE = 0.01 / 60
"""By how much of the whole pace it rises each second after a cut: a hundredth a minute, so half an hour makes one cut good."""

PATIENCE = 30.0
"""Seconds that a call may be passed by more urgent ones, before it gets one permit in :data:`ONE_IN`."""

ONE_IN = 10

DRIFT = 5e-4
"""Seconds by which two clocks may part in a second, unless one of them is set."""

_READING = 1e-5
"""Seconds. Clocks are read, and sums of them kept, no more exactly."""

_ROUNDING = 1e-9
"""0.29 of 100 is 29, whatever floats say."""

_MINUTE = 60.0
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Ask:
    """What the ledger is asked: at most ``want`` permits of a practice whose full pace is ``per_minute``.

    None within ``lead`` seconds; and none at all while those granted before reach further than ``horizon`` seconds.
    """

    practice: str
    want: int
    per_minute: float
    lead: float = 0.0
    horizon: float = HORIZON


@dataclass(frozen=True, slots=True)
class Grant:
    """What the ledger answers: ``count`` permits, ``spacing`` seconds apart, the first ``delay`` seconds after the answer was made.

    A ``count`` of 0 means: ask again after ``delay``; nobody may leave before, if the practice is ``locked`` out.
    """

    delay: float
    count: int
    spacing: float
    told: float | None = None
    """When the answer was made, by the ledger's clock (seconds since 1970); None if it does not say."""
    part: float = 1.0
    """The part of the full pace that is in force, after 429s."""
    locked: bool = True


@dataclass(frozen=True, slots=True)
class Permit:
    """One call may leave between these two instants of this process's monotonic clock."""

    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True)
class Bearing:
    """Where the ledger's clock stands on ours: ours is ahead of it by ``low`` at least and ``high`` at most, as it was at ``at`` (ours).

    One answer tells no more than that it was made between the asking and the answering. Answers together tell better, so that a permit is
    good although the answer that brought it was slow, and show when one of the clocks was set.
    """

    low: float
    high: float
    at: float

    @staticmethod
    def of(told: float, asked: float, answered: float) -> Bearing:
        """What one answer tells."""
        slack = DRIFT * (answered - asked) + _READING
        return Bearing(asked - told - slack, answered - told + slack, answered)

    def at_time(self, now: float) -> Bearing:
        """The same some time later: a little less is known."""
        drift = DRIFT * max(0.0, now - self.at)
        return Bearing(self.low - drift, self.high + drift, now)

    def ahead(self, other: Bearing) -> float:
        """Seconds by which, at least, the ledger's clock was set forward between this and a later one; negative if back; 0 if neither."""
        before = self.at_time(other.at)
        return max(0.0, before.low - other.high) + min(0.0, before.high - other.low)

    def joined(self, other: Bearing) -> Bearing:
        """What this and a later one tell together, if no clock was set between."""
        before = self.at_time(other.at)
        return Bearing(max(before.low, other.low), min(before.high, other.high), other.at)


@dataclass(frozen=True, slots=True)
class Throttle:
    """What 429s have left of the pace: ``part`` (0 to 1] of it, ``since`` seconds ago."""

    part: float = 1.0
    since: float = math.inf

    @property
    def now(self) -> float:
        """The part in force by now: it rises by itself."""
        return min(1.0, self.part + RAISE * self.since)

    def refused(self, left_ago: float) -> Throttle:
        """After a 429 to a call that left so many seconds ago.

        A call that left before the last cut can have made itself felt says nothing of the pace since: a lock-out refuses all calls that
        are under way.
        """
        if left_ago >= self.since - REACH:
            return self
        return Throttle(max(LEAST_PART, self.now * CUT), 0.0)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A call that wants to leave: rank 0 is the most urgent; ``number`` rises with each that comes; waiting since ``since``."""

    rank: int
    number: int
    since: float


def next_to_leave(waiting: Sequence[Waiting], now: float, passed_by: int) -> int:
    """The index of the call that the next permit is for: the most urgent one, and within a rank the first that came.

    But so that nothing waits for ever behind what never ends: when ``passed_by`` permits, nine or more, have gone by urgency, one goes to
    whoever has waited longest, if that is longer than :data:`PATIENCE`. A token (rank 0) comes first all the same.
    """
    urgent = min(range(len(waiting)), key=lambda index: (waiting[index].rank, waiting[index].number))
    if passed_by >= ONE_IN - 1 and waiting[urgent].rank > 0:
        oldest = min(range(len(waiting)), key=lambda index: waiting[index].number)
        if now - waiting[oldest].since > PATIENCE:
            return oldest
    return urgent


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


def permits(grant: Grant, told: float, bearing: Bearing) -> list[Permit]:
    """The permits of a grant that was made at ``told`` by the ledger's clock, on ours.

    Counting the start from the later bound of the bearing and the end from the earlier keeps a call from leaving before its permit's true
    instant, or more than :data:`LIFE` after it.
    """
    first = told + grant.delay
    return [
        Permit(
            first + number * grant.spacing + bearing.high,
            first + number * grant.spacing + bearing.low + LIFE,
        )
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
