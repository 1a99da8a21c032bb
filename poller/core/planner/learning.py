"""How a practice's rates become known from what its passes find. Pure.

A change lies somewhere in (last pass, this pass]: no stamp is believed. What a pass finds is laid upon background and visits in
proportion to what was expected of each (expectation maximisation, one step a find, the parameters anew once a day). Background rates
are estimated from whether a pass found anything, -ln((n - X + ½)/(n + ½))/I: n passes over intervals of I of which X found something.
X/T, the number of positive passes over time, would call slow whatever changes more than once between two reads.

Old evidence fades (:data:`FADE`), so rates that shift are followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from poller.core.planner import prior
from poller.core.planner.kernels import WIDTHS
from poller.core.planner.prior import CLASSES, EDGES, Floats
from poller.core.planner.rows import Ints

N0 = 20.0
"""The prior of a visit's kernel weighs as much as so many visits."""

RATE_N0 = 5.0
"""That of a background rate as so many changes."""

FADE = 0.95
"""What a day leaves of the evidence before it: three weeks are a third."""

MOST_AT_ONCE = 50
"""More changes in one pass count as so many."""

_BUCKETS = 48
_SMALLEST = -30  # an interval of 2^-30 days of mean life is a tenth of a millisecond
_WEEK_N0 = 2.0
_TINY = 1e-6
_FLOOR = 0.05


def censored_rate(intervals: Floats, positive: Floats, exposure: Floats) -> tuple[float, float]:
    """Events per unit of exposure, and the exposure that stands behind that; over buckets of intervals of about one length.

    ``intervals``: how many; ``positive``: in how many something was found; ``exposure``: their sum. Where nearly every interval is
    positive, a bucket says little and weighs little.
    """
    seen = intervals > 0
    if not seen.any():
        return 0.0, 0.0
    n, x, total = intervals[seen], np.minimum(positive[seen], intervals[seen]), exposure[seen]
    expected = -np.log((n - x + 0.5) / (n + 0.5))
    weight = total * np.where(expected > _TINY, expected / np.expm1(np.maximum(expected, _TINY)), 1.0)
    rate = expected * n / np.maximum(total, 1e-12)
    return float((weight * rate).sum() / weight.sum()), float(weight.sum())


class Learned:
    """What is known of a practice's types: background rates, kernels of visits, and the week."""

    def __init__(self) -> None:
        self.types: dict[str, int] = {}
        self.rate = np.zeros(0)
        """Changes a day and patient of mean activity, by type."""
        self.kernel = np.zeros((len(CLASSES), 0, len(WIDTHS)))
        """Changes per visit in each bin, by class and type."""
        self.week = prior.week()
        self.visits = np.array([prior.VISITS[name] for name in CLASSES])
        """Visits a day and patient, by class."""
        self._intervals = np.zeros((0, _BUCKETS))
        self._positive = np.zeros((0, _BUCKETS))
        self._exposure = np.zeros((0, _BUCKETS))
        self._changes = np.zeros(0)  # found by passes that found something of the background ...
        self._events = np.zeros(0)  # ... and how many events that makes
        self._of_visits = np.zeros((len(CLASSES), 0, len(WIDTHS)))
        self._visited = np.zeros((len(CLASSES), 0, len(WIDTHS)))
        self._hours = np.zeros(168)
        self._seen_visits = np.zeros(len(CLASSES))
        self._patient_days = 0.0

    def type_number(self, name: str) -> int:
        """The type's number; a new one begins with its prior."""
        number = self.types.get(name)
        if number is None:
            number = self.types[name] = len(self.types)
            self.rate = np.append(self.rate, prior.of_type(name).background)
            kernel = np.stack([prior.kernel(name, visit_class) for visit_class in CLASSES])[:, None, :]
            self.kernel = np.concatenate([self.kernel, kernel], axis=1)
            for column in ("_intervals", "_positive", "_exposure"):
                setattr(self, column, np.concatenate([getattr(self, column), np.zeros((1, _BUCKETS))]))
            for column in ("_changes", "_events"):
                setattr(self, column, np.append(getattr(self, column), 0.0))
            for column in ("_of_visits", "_visited"):
                setattr(self, column, np.concatenate([getattr(self, column), np.zeros_like(kernel)], axis=1))
        return number

    # --- evidence

    def passes(self, types: Ints, exposure: Floats) -> None:
        """Passes of these types over intervals of so many days of mean life, times the activity of whom they read."""
        bucket = np.clip(np.frexp(np.maximum(exposure, 2.0**_SMALLEST))[1] - _SMALLEST, 0, _BUCKETS - 1)
        at = types * _BUCKETS + bucket
        size = self._intervals.size
        self._intervals.ravel()[:] += np.bincount(at, minlength=size)
        self._exposure.ravel()[:] += np.bincount(at, exposure, size)

    def of_background(self, kind: int, exposure: float, changes: float, likely: float) -> None:
        """That a pass found ``changes`` that are background's with probability ``likely``."""
        bucket = int(np.clip(np.frexp(max(exposure, 2.0**_SMALLEST))[1] - _SMALLEST, 0, _BUCKETS - 1))
        self._positive[kind, bucket] += likely
        expected = self.rate[kind] * exposure
        self._changes[kind] += changes * likely
        self._events[kind] += likely * max(1.0, expected / -np.expm1(-expected) if expected > _TINY else 1.0)

    def of_visit(self, of_class: int, kind: int, spread: Floats) -> None:
        """That so many changes were found in each bin of a visit."""
        self._of_visits[of_class, kind] += spread

    def visited(self, of_class: Ints, kind: int, since: Floats, until: Floats) -> None:
        """That rows of a type have by now been read for these lags (seconds after the start) of visits."""
        for index in range(len(CLASSES)):
            mine = of_class == index
            if mine.any():
                read = _read_share(until[mine]) - _read_share(since[mine])
                self._visited[index, kind] += np.maximum(read, 0.0).sum(axis=0)

    def lived(self, hours: Ints, parts: Floats) -> None:
        """That a change happened in one of these hours of the week, with these probabilities."""
        np.add.at(self._hours, hours, parts)

    def seen_visit(self, of_class: int) -> None:
        """That a visit came to be known."""
        self._seen_visits[of_class] += 1

    # --- the parameters

    def learn(self, patients: int, days: float) -> None:
        """Take the parameters anew from the evidence of ``days`` more days, of so many patients."""
        self._patient_days += patients * days
        for kind, name in enumerate(self.types):
            known = prior.of_type(name)
            events, exposure = censored_rate(self._intervals[kind], self._positive[kind], self._exposure[kind])
            cluster = max(1.0, float(self._changes[kind] / self._events[kind])) if self._events[kind] else 1.0
            self.rate[kind] = (events * cluster * exposure + RATE_N0) / (exposure + RATE_N0 / known.background)
            for index, visit_class in enumerate(CLASSES):
                self.kernel[index, kind] = (self._of_visits[index, kind] + N0 * prior.kernel(name, visit_class)) / (
                    self._visited[index, kind] + N0
                )
        if self._patient_days:
            weight = self._patient_days + 1000.0
            known_visits = np.array([prior.VISITS[name] for name in CLASSES])
            self.visits = (self._seen_visits + known_visits * 1000.0) / weight
        week = self._hours + _WEEK_N0 * 168 * prior.week() / 168
        smooth = (np.roll(week, 1) + 2 * week + np.roll(week, -1)) / 4
        smooth = np.maximum(smooth / smooth.mean(), _FLOOR)
        self.week = smooth / smooth.mean()
        fade = FADE**days
        for column in (
            "_intervals", "_positive", "_exposure", "_changes", "_events", "_of_visits", "_visited", "_hours",
            "_seen_visits",
        ):  # fmt: skip
            setattr(self, column, getattr(self, column) * fade)
        self._patient_days *= fade

    # --- what is kept

    def state(self) -> dict[str, Any]:
        """All of it, as values that JSON takes."""
        return {
            "types": {
                name: {
                    "rate": float(self.rate[kind]),
                    "kernel": _listed(self.kernel[:, kind]),
                    "intervals": _sparse(self._intervals[kind]),
                    "positive": _sparse(self._positive[kind]),
                    "exposure": _sparse(self._exposure[kind]),
                    "changes": float(self._changes[kind]),
                    "events": float(self._events[kind]),
                    "of_visits": _listed(self._of_visits[:, kind]),
                    "visited": _listed(self._visited[:, kind]),
                }
                for name, kind in self.types.items()
            },
            "week": _listed(self.week),
            "hours": _listed(self._hours),
            "visits": _listed(self.visits),
            "seen_visits": _listed(self._seen_visits),
            "patient_days": self._patient_days,
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Learned:
        """What :meth:`state` gave; what does not fit (another release's bins) is left at its prior."""
        learned = cls()
        for name, kept in state.get("types", {}).items():
            kind = learned.type_number(name)
            kernel = np.array(kept["kernel"])
            learned.rate[kind] = kept["rate"]
            for column in ("intervals", "positive", "exposure"):
                for bucket, value in kept[column].items():
                    getattr(learned, f"_{column}")[kind, int(bucket)] = value
            learned._changes[kind], learned._events[kind] = kept["changes"], kept["events"]
            if kernel.shape == learned.kernel[:, kind].shape:
                learned.kernel[:, kind] = kernel
                learned._of_visits[:, kind] = np.array(kept["of_visits"])
                learned._visited[:, kind] = np.array(kept["visited"])
        for column, attribute in (("week", "week"), ("hours", "_hours")):
            if len(state.get(column, ())) == len(learned.week):
                setattr(learned, attribute, np.array(state[column], dtype=float))
        if len(state.get("visits", ())) == len(CLASSES):
            learned.visits = np.array(state["visits"], dtype=float)
            learned._seen_visits = np.array(state["seen_visits"], dtype=float)
        learned._patient_days = float(state.get("patient_days", 0.0))
        return learned


def _read_share(lag: Floats) -> Floats:
    """The part of each bin that lies before a lag; shape (lags, bins)."""
    share: Floats = np.clip((lag[:, None] - EDGES[:-1]) / WIDTHS, 0.0, 1.0)
    return share


def bin_overlap(since: float, until: float) -> Floats:
    """The part of each bin that lies within an interval of lags, in seconds after the start."""
    low, high = _read_share(np.array([since, until]))
    overlap: Floats = np.maximum(high - low, 0.0)
    return overlap


def _listed(values: Floats) -> Any:
    return np.asarray(values).tolist()


def _sparse(values: Floats) -> dict[str, float]:
    return {str(place): float(values[place]) for place in np.flatnonzero(values)}
