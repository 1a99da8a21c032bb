"""The practice's hour-of-week profile as a clock: how much of the week's life lies between two instants. Pure.

Where life runs at ``c(s)`` times its mean, ``first`` is the integral of c and ``second`` the integral of that. So the accumulated expected
staleness of a constant rate, ∫ c(s)·(t - s) ds from L to t, is ``second(t) - second(L) - first(L)·(t - L)``, whatever the profile.
"""

from __future__ import annotations

import datetime as dt

import numpy as np

from poller.core.planner.prior import HOUR, Floats

STEP = 900.0
"""Seconds. The offsets of all time zones are whole quarters of an hour."""

_BACK = 35 * 86400.0
_AHEAD = 9 * 86400.0
HOURS = 168


def hour_of_week(instant: float, zone: dt.tzinfo) -> int:
    """0 for Monday 0:00 to 1:00 on the wall clock of the zone, 167 for the last hour of Sunday."""
    local = dt.datetime.fromtimestamp(instant, zone)
    return local.weekday() * 24 + local.hour


class Week:
    """The profile (168 hours from Monday, 1 in the mean) around an instant; outside of the five weeks before it c is taken to be 1."""

    def __init__(self, profile: Floats, zone: dt.tzinfo, around: float) -> None:
        self.profile = profile
        self.zone = zone
        self.base = float(np.floor((around - _BACK) / HOUR) * HOUR)
        count = int((_BACK + _AHEAD) / STEP)
        hours = np.array([hour_of_week(self.base + (n + 0.5) * STEP, zone) for n in range(count)])
        self._c = np.append(profile[hours], 1.0)
        self._first = np.concatenate([[0.0], np.cumsum(self._c[:-1] * STEP)])
        within = self._first[:-1] * STEP + self._c[:-1] * STEP**2 / 2
        self._second = np.concatenate([[0.0], np.cumsum(within)])
        self.until = self.base + count * STEP

    def c(self, at: Floats | float) -> Floats:
        """How lively it is, 1 in the mean."""
        place, _ = self._place(at)
        early = np.asarray(at) < self.base
        return np.where(early, 1.0, self._c[place])

    def first(self, at: Floats | float) -> Floats:
        """∫ c up to an instant, in seconds of mean life."""
        place, beyond = self._place(at)
        c = np.where(beyond < 0, 1.0, self._c[place])
        return np.asarray(self._first[place] + c * beyond)

    def second(self, at: Floats | float) -> Floats:
        """∫∫ c up to an instant, in square seconds."""
        place, beyond = self._place(at)
        c = np.where(beyond < 0, 1.0, self._c[place])
        return np.asarray(self._second[place] + self._first[place] * beyond + c * beyond**2 / 2)

    def instant(self, at: float) -> tuple[float, float, float]:
        """c, ``first`` and ``second`` at one instant."""
        ahead = at - self.base
        if not 0 <= ahead < self.until - self.base:
            return float(self.c(at)), float(self.first(at)), float(self.second(at))
        place = int(ahead / STEP)
        beyond = ahead - place * STEP
        c, first = float(self._c[place]), float(self._first[place])
        return c, first + c * beyond, float(self._second[place]) + first * beyond + c * beyond**2 / 2

    def hours_between(self, since: float, until: float) -> tuple[np.ndarray, Floats]:
        """The hours of the week in an interval, and the part of its life that falls in each; for at most a few weeks."""
        start = np.floor(since / STEP) * STEP
        edges = np.clip(np.arange(start, until + STEP, STEP), since, until)
        life = np.diff(self.first(edges))
        middles = (edges[:-1] + edges[1:]) / 2
        hours = np.array([hour_of_week(float(middle), self.zone) for middle in middles])
        return hours, life / max(float(life.sum()), 1e-12)

    def _place(self, at: Floats | float) -> tuple[np.ndarray, Floats]:
        ahead = np.asarray(at, dtype=float) - self.base
        place = np.clip(np.nan_to_num(ahead / STEP), 0, len(self._c) - 1).astype(np.int64)
        return place, ahead - place * STEP
