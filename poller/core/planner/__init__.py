"""Where a practice's calls are spent: the rows whose accumulated expected weighted staleness is largest are read first. Pure.

``planner`` is the whole; ``rows`` the arrays, ``week`` the hour-of-week profile as integrals, ``kernels`` what a visit brings, ``visits``
who was there, ``deadlines`` the lane that keeps a ``max_staleness``, ``learning`` how rates become known, ``prior`` what is taken to be so
before, ``forecast`` what to expect of a budget. Instants are seconds since 1970 (UTC), durations seconds.
"""

from poller.core.planner.forecast import Expected, Forecast
from poller.core.planner.planner import Choice, Lane, Planner
from poller.core.planner.rows import Row

__all__ = ["Choice", "Expected", "Forecast", "Lane", "Planner", "Row"]
