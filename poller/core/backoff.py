"""How long to leave something alone that failed."""

from __future__ import annotations

_FIRST = 0.5
_LONGEST = 30.0
_DOUBLINGS = 16
"""More would only make large numbers of what is capped anyway."""


def pause(times: int, jitter: float) -> float:
    """Seconds to wait after the ``times``-th failure in a row (from 1): doubling from half a second, never more than half a minute.

    ``jitter`` in [0, 1) takes up to half of it away, so that many who failed together do not come back together.
    """
    whole = min(_LONGEST, _FIRST * 2.0 ** min(times - 1, _DOUBLINGS))
    return whole * (1 - jitter / 2)
