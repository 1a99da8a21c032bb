"""The lane that keeps a ``max_staleness``: earliest deadline first, begun early enough that the rate suffices. Pure.

Between two plans the lane does what must be done by then so that the rest still fits behind it: F = max over x of
demand(x) - share · rate · (x - horizon). ``demand`` counts each row once at its deadline and, as a fluid, once more every
``max_staleness`` after it, so rows that come round often leave no room to put off the others. What was
accepted needs at most :data:`ACCEPTED` of the rate. It may take all of it for a while to keep a promise; once one is broken, as after an
outage, it takes no more than :data:`SHARE`, so that the rest of the calls keep finding changes.
"""

from __future__ import annotations

import numpy as np

from poller.core.planner.prior import Floats
from poller.core.planner.rows import Ints, Rows

ACCEPTED = 0.7
"""Promises are accepted as long as the sum of cost / max_staleness stays below this part of the rate."""

SHARE = 0.85
"""The part of the rate that the lane counts on, and takes at the most once a promise is broken."""

LEAD = 60.0
"""Seconds before a deadline in which a row is read whatever the pace says."""

_BINS = 1024


def work_until(due: Floats, cost: Floats, limit: Floats, rate: float, horizon: float) -> float:
    """Calls that must be made within ``horizon`` seconds so that every later deadline can be kept.

    ``due``: seconds from now to each row's deadline, negative if it has passed; ``cost``: calls; ``limit``: seconds; ``rate``: calls a
    second.
    """
    if not len(due):
        return 0.0
    far = max(float(due.max()), horizon, 1.0)
    width = far / _BINS
    place = np.clip(due / width, 0, _BINS - 1).astype(np.int64)
    again = cost / limit
    once = np.cumsum(np.bincount(place, cost, _BINS))
    fluid = np.cumsum(np.bincount(place, again, _BINS))
    since = np.cumsum(np.bincount(place, again * np.maximum(due, 0), _BINS))
    ahead = (np.arange(_BINS) + 1) * width
    demand = once + np.maximum(fluid * ahead - since, 0.0)
    return max(0.0, float(np.max(demand - SHARE * rate * np.maximum(ahead - horizon, 0.0))))


def pace(due: Floats, cost: Floats) -> float:
    """Calls a second that keep the given deadlines, sorted, if they are met in this order and begun :data:`LEAD` before."""
    if not len(due):
        return 0.0
    return float(np.max(np.cumsum(cost) / np.maximum(due - LEAD, LEAD)))


class DeadlineLane:
    """The rows whose deadlines come next, and how fast to serve them."""

    def __init__(self) -> None:
        self.queue: Ints = np.zeros(0, dtype=np.int64)
        """Rows by deadline, the next first."""
        self.pace = 0.0
        self._work = 0.0
        self._deadlines = np.zeros(0)
        self._credit = 0.0
        self._at = 0.0
        self._place = 0

    def plan(
        self, now: float, rows: Ints, deadlines: Floats, cost: Floats, limit: Floats, rate: float, horizon: float
    ) -> None:
        """Look at all rows that have a limit and were read; until the next plan in ``horizon`` seconds."""
        self._work = work_until(deadlines - now, cost, limit, rate, horizon) / horizon
        most = int(rate * horizon * 1.3 / max(float(cost.min(initial=1.0)), 0.1)) + 64
        if most < len(rows):
            nearest = np.argpartition(deadlines, most)[:most]
            rows, deadlines, cost = rows[nearest], deadlines[nearest], cost[nearest]
        order = np.argsort(deadlines, kind="stable")
        self.queue, self._deadlines = rows[order], deadlines[order]
        self._place = 0
        self.refresh(now, deadlines[order], cost[order], rate)

    def refresh(self, now: float, deadlines: Floats, cost: Floats, rate: float) -> None:
        """Look again at the queue: at what rows' deadlines are by now."""
        broken = bool((deadlines < now).any())  # what is late already does not take everything from what is not
        self.pace = min(max(self._work, pace(np.sort(deadlines) - now, cost)), SHARE * rate if broken else rate)

    def owed(self, now: float) -> float:
        """Calls that the lane should have made by now and has not."""
        self._credit = min(self._credit + self.pace * max(now - self._at, 0.0), self.pace * 60 + 1)
        self._at = now
        return self._credit

    def take(self, now: float, count: int, rows: Rows, busy: set[int], gap: float) -> list[int]:
        """The next rows, at most ``count``: as many as are owed, and those whose deadline is a minute away; none of ``busy``."""
        owed = self.owed(now)
        taken: list[int] = []
        waiting: list[int] = []
        while self._place < len(self.queue) and len(taken) < count:
            row, planned = int(self.queue[self._place]), float(self._deadlines[self._place])
            if owed < 1.0 and planned > now + LEAD:
                break
            self._place += 1
            if not rows.alive[row] or rows.last[row] + rows.limit[row] > planned + 1.0:  # taken away, or read since
                continue
            if row in busy or rows.held[row] > now or rows.last[row] > now - gap:
                waiting.append(row)
                continue
            taken.append(row)
            owed -= float(rows.cost[row])
        self._credit = owed
        waiting += taken  # passed over when looked at again, if the pass came to something
        if waiting:
            self._place -= len(waiting)
            place = slice(self._place, self._place + len(waiting))
            self.queue[place] = waiting
            self._deadlines[place] = rows.last[waiting] + rows.limit[waiting]
        return taken
