"""The rows that were never read. Pure.

Rows that came together are loaded together, the smallest such group first: a new patient's few rows do not wait for the first load of
thirty thousand. Within a group those come first of which most is to be expected. While anything else is worth a call, a first load takes
:data:`SHARE` of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from poller.core.planner.index import Index
from poller.core.planner.kernels import Ints
from poller.core.planner.rows import Rows

SHARE = 0.75
SMALL = 1000
"""A group of at most so many rows, as new patients make, takes what it needs."""


class FirstLane:
    """The never-read rows, in the order in which they are to be read."""

    def __init__(self, rows: Rows, index: Index) -> None:
        self._rows = rows
        self._index = index
        self._small: deque[int] = deque()
        self._queue: deque[int] = deque()
        self._credit = 0.0
        self.waiting = 0
        """Rows that were never read."""

    def add(self, numbers: Ints) -> None:
        """Rows that have just come."""
        unread = numbers[np.isnan(self._rows.last[numbers])]
        self.waiting += len(unread)
        (self._small if len(unread) <= SMALL else self._queue).extend(unread.tolist())

    def was_read(self, count: int) -> None:
        """So many of them have been read."""
        self.waiting = max(0, self.waiting - count)

    def rank(self, now: float, is_open: Callable[[Ints], Ints]) -> None:
        """Put them in order, those that are open."""
        rows = self._rows
        unread = np.flatnonzero(rows.alive[: rows.count] & np.isnan(rows.last[: rows.count]))
        unread = is_open(unread)
        self.waiting = len(unread)
        self._small.clear()
        self._queue.clear()
        if not len(unread):
            return
        _, group, size = np.unique(np.floor(rows.added[unread] / 60), return_inverse=True, return_counts=True)
        _, _, expected = self._index.evaluate(unread, now)
        order = np.lexsort((-expected, size[group]))
        small = size[group][order] <= SMALL
        self._small.extend(unread[order][small].tolist())
        self._queue.extend(unread[order][~small].tolist())

    def take(self, now: float, count: int, busy: Ints, *, share: float = SHARE) -> list[int]:
        """The next rows, at most ``count``, and of the big groups' no more than their share."""
        if not self._small and not self._queue:
            return []
        shut = set(busy.tolist())
        taken = self._from(self._small, now, count, shut)
        if self._queue and len(taken) < count:
            self._credit = min(self._credit + (count - len(taken)) * share, float(count))
            more = self._from(self._queue, now, min(int(self._credit), count - len(taken)), shut)
            self._credit -= len(more)
            taken += more
        return taken

    def _from(self, queue: deque[int], now: float, count: int, shut: set[int]) -> list[int]:
        taken: list[int] = []
        for _ in range(len(queue)):
            if len(taken) >= count:
                break
            number = queue.popleft()
            if not np.isnan(self._rows.last[number]) or not self._rows.alive[number]:
                continue
            queue.append(number)  # until it has been read; at the end, should its pass fail
            if number not in shut and self._rows.held[number] <= now:
                taken.append(number)
        return taken
