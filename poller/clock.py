"""The clock of the engine: the database's time, carried by this machine's monotonic clock.

Read times of different processes are compared with each other (an older read must not overwrite a newer one), so they must come from one
clock. The database's is the one all share; a step of this machine's wall clock changes nothing.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> dt.datetime:
        """Aware UTC."""
        ...


class AnchoredClock:
    """Time since an anchor: ``anchor`` is what the shared clock said when ``time.monotonic()`` was ``at``."""

    def __init__(self, anchor: dt.datetime, at: float) -> None:
        self._anchor = anchor
        self._at = at

    def now(self) -> dt.datetime:
        """The shared clock's time, by the monotonic time since the anchor."""
        return self._anchor + dt.timedelta(seconds=time.monotonic() - self._at)

    def catch_up(self, anchor: dt.datetime, at: float) -> dt.timedelta:
        """Take a later anchor if it is ahead of this clock, as after this machine was suspended. Returns by how much; never goes back."""
        ahead = anchor - (self._anchor + dt.timedelta(seconds=at - self._at))
        if ahead <= dt.timedelta(0):
            return dt.timedelta(0)
        self._anchor, self._at = anchor, at
        return ahead


def suspended() -> float:
    """Seconds for which this machine has stood still in all, suspended: ``time.monotonic()`` leaves them out. 0 where that is not told."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


class SystemClock:
    """This machine's wall clock, for what runs without a database."""

    def now(self) -> dt.datetime:
        """Aware UTC."""
        return dt.datetime.now(dt.UTC)
