"""What operators say, as weights: ``weight``, ``aim``, and the sentinel. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from poller.core.planner.learning import Learned
from poller.core.planner.prior import Floats

SENTINEL = 2.0
"""Where visits are seen only by reading each patient's encounters, these reads weigh 1 + this: they show what else to read."""

USUAL_AIM = 1800.0
"""Seconds. An aim of this much weighs 1."""

STEP = 1.25
"""The most by which a correction raises or lowers a weight: a delay goes with 1/√w, so it takes days, and does not swing."""

LEAST, MOST = 1.0, 16.0
"""Bounds of a correction. Sixteen times the weight is a quarter of the delay; what that can't reach needs calls, not weight."""


class Steering:
    """The weight of each type."""

    def __init__(self, learned: Learned, weights: Mapping[str, float], aims: Mapping[str, float]) -> None:
        self._learned = learned
        self._weights, self._aims = dict(weights), dict(aims)
        self._corrections: dict[str, float] = {}
        self.signal = False
        self._by_number = np.ones(0)

    def set(self, weights: Mapping[str, float], aims: Mapping[str, float]) -> None:
        """Other weights and aims; corrections stay as long as their type has an aim."""
        self._weights, self._aims = dict(weights), dict(aims)
        self._corrections = {name: value for name, value in self._corrections.items() if self._aim(name) is not None}

    def correct(self, measured: Mapping[str, float]) -> dict[str, float]:
        """See :meth:`poller.core.planner.Planner.correct`."""
        for name, median in measured.items():
            aim = self._aim(name)
            if aim is None or median <= 0:
                continue
            factor = float(np.clip(median / aim, 1 / STEP, STEP))
            if factor > 1 or median < 0.8 * aim:
                self._corrections[name] = float(np.clip(self._corrections.get(name, LEAST) * factor, LEAST, MOST))
        return dict(self._corrections)

    def of(self, name: str) -> float:
        """The weight of a type."""
        said = _named(self._weights, name)
        weight = 1.0 if said is None else said
        aim = self._aim(name)
        if aim is not None:
            weight *= USUAL_AIM / max(aim, 1.0) * self._corrections.get(name, LEAST)
        return weight * (1 + SENTINEL) if name == "Encounter" and not self.signal else weight

    def refresh(self) -> None:
        """Take the weights of all types anew."""
        self._by_number = np.array([self.of(name) for name in self._learned.types])

    def weights(self) -> Floats:
        """By type's number."""
        if len(self._by_number) != len(self._learned.types):
            self.refresh()
        return self._by_number

    def state(self) -> dict[str, Any]:
        """What is to be kept."""
        return {"corrections": dict(self._corrections)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._corrections = {str(name): float(value) for name, value in state.get("corrections", {}).items()}

    def _aim(self, name: str) -> float | None:
        return _named(self._aims, name)


def _named(values: Mapping[str, float], name: str) -> float | None:
    """What is said of a type, else of its resource type."""
    return values.get(name, values.get(name.partition("/")[0]))
