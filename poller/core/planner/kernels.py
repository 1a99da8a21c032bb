"""What a visit brings, per class and profile of types, as tables from which the index is read in constant time. Pure.

A row's profile is what it reads and what that is worth: its kernel is the weighted sum of its types' kernels. Between the bins of
:data:`poller.core.planner.prior.EDGES` the expected changes are spread evenly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from poller.core.planner.prior import EDGES, Floats

STEP = 900.0
"""Seconds; every border of a bin is a multiple of it."""

START, END = float(EDGES[0]), float(EDGES[-1])
COUNT = int((END - START) / STEP)
WIDTHS = np.diff(EDGES)
_BIN = np.searchsorted(EDGES, START + (np.arange(COUNT) + 0.5) * STEP) - 1

Ints = npt.NDArray[np.int64]


class Kernels:
    """Tables of g, ∫g and ∫∫g over the lag since a visit's start, for each class and profile."""

    def __init__(self, expected: Floats) -> None:
        """``expected``: weighted changes per visit in each bin, shape (classes, profiles, bins)."""
        classes, profiles, _ = expected.shape
        density = (expected / WIDTHS)[:, :, _BIN]
        shape = (classes, profiles, COUNT + 1)
        self._g, self._first, self._second = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._g[:, :, :COUNT] = density  # the last column goes on for ever, with nothing more to come
        self._first[:, :, 1:] = np.cumsum(density * STEP, axis=2)
        self._second[:, :, 1:] = np.cumsum(self._first[:, :, :-1] * STEP + density * STEP**2 / 2, axis=2)

    def integrals(self, of_class: Ints, profile: Ints, lag: Floats) -> tuple[Floats, Floats, Floats]:
        """g, ∫g and ∫∫g at a lag (seconds since the visit's start), elementwise."""
        ahead = np.maximum(lag - START, 0.0)
        place = np.minimum((ahead / STEP).astype(np.int64), COUNT)
        beyond = ahead - place * STEP
        at = (of_class, profile, place)
        g, first, second = self._g[at], self._first[at], self._second[at]
        return np.where(lag < START, 0.0, g), first + g * beyond, second + first * beyond + g * beyond**2 / 2

    def staleness(
        self, of_class: Ints, profile: Ints, start: Floats, last: Floats, now: float
    ) -> tuple[Floats, Floats, Floats]:
        """What visits (begun at ``start``) add to rows last read at ``last``: A, its slope ∫λ, and λ itself, at ``now``."""
        g, first, second = self.integrals(of_class, profile, now - start)
        _, first_before, second_before = self.integrals(of_class, profile, last - start)
        return second - second_before - first_before * (now - last), first - first_before, g
