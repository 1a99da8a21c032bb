"""How many events may leave now, where a sink takes only so many a second. Pure: ``now`` comes in."""

from __future__ import annotations

from dataclasses import dataclass

_BURST = 0.1
"""Seconds' worth that may leave at once; more would be a second's events in its first instant."""


@dataclass(slots=True)
class Pace:
    """A bucket that fills at ``rate`` events a second. In any span of t seconds at most ``rate * (t + 0.1) + 1`` events leave."""

    rate: float
    _level: float = 0.0
    _at: float | None = None

    def allowed(self, now: float) -> int:
        """How many may leave at ``now``, in seconds of any clock that never goes back."""
        most = max(1.0, self.rate * _BURST)
        filled = most if self._at is None else self._level + max(0.0, now - self._at) * self.rate
        self._level, self._at = min(most, filled), now
        return int(self._level)

    def spend(self, events: int) -> None:
        """Note that so many have left."""
        self._level -= events

    def wait(self) -> float:
        """Seconds until one more may leave, from the last look."""
        return max(0.0, (1.0 - self._level) / self.rate)
