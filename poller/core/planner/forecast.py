"""What delays to expect of a budget, before anything runs: analytic, some tens of milliseconds. Pure.

Assumed is that rates and visits are as known (a prior, or learned), that the whole rate is used for detection, and that the index serves
each row whenever what has accumulated reaches one price per call, the same for all. That price is found by bisection: it is the one at
which the calls add up to the rate. A row whose expected changes come at λ is then read every τ = √(2 · price · cost / (w λ)), or as
often as its ``max_staleness`` demands, and a change waits for anything between 0 and τ. Visits make states of their own: so many rows are
so long after a visit at any time. Within a state λ is taken for constant.

Without a signal a visit is known only when the patient's encounters were read next. Until then its rows are read as if there were none,
so what it brings waits for that; see :func:`_hidden`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from poller.core.planner.kernels import WIDTHS, Ints
from poller.core.planner.prior import DAY, EDGES, Floats

_LEVELS = 6
_MANY = 20.0
"""A row with at least so many patients always has some after a visit."""

_LEAST_GAP = 1.0
_ROUNDS = 6
SENTINEL = "Encounter"
"""The type that tells of visits."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Rates of types (changes a day and patient), kernels (changes per visit and bin), week, visits a day and patient, weights by type."""

    types: Mapping[str, int]
    rate: Floats
    kernel: Floats
    week: Floats
    visits: Floats
    weights: Floats
    signal: bool


@dataclass(frozen=True, slots=True)
class Population:
    """Rows that are alike: what they read, how many, the patients of each (``mass``), calls a pass, and their limit in seconds."""

    types: tuple[str, ...]
    count: float
    mass: float = 1.0
    cost: float = 1.0
    max_staleness: float | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """Of a type: delays of its changes in seconds, changes a day, and the calls a minute that its rows take."""

    p50: float
    p95: float
    mean: float
    worst: float
    """The longest that a row waits between two passes."""
    changes_per_day: float
    calls_per_minute: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """By type, and for all changes together."""

    types: Mapping[str, Expected]
    total: Expected
    price: float
    """Accumulated expected weighted staleness at which a call is spent."""


@dataclass(slots=True)
class _States:
    """Columns: rows in each state, their calls a pass, weighted λ, limit; and λ by type."""

    count: Floats
    cost: Floats
    weighted: Floats
    """As the index sees it."""
    limit: Floats
    by_type: Floats
    hidden: Floats
    """Seconds after which a visit that is not known yet will be; nan where there is none."""
    after: Ints
    """The state in which a row is when it is."""

    def delays(self, price: float) -> Floats:
        """The longest that a change waits in each state: until it is read, or until its visit is known and it is read then."""
        waits = self.waits(price)
        return np.where(np.isnan(self.hidden), waits, np.fmin(waits, self.hidden + waits[self.after]))

    def waits(self, price: float) -> Floats:
        """τ in each state."""
        natural = np.sqrt(2 * price * self.cost / np.maximum(self.weighted, 1e-30))
        return np.clip(natural, _LEAST_GAP, self.limit)

    def calls(self, price: float) -> float:
        """Calls a second."""
        return float((self.count * self.cost / self.waits(price)).sum())


def foresee(
    populations: Sequence[Population], known: Knowledge, calls_per_minute: float, latency: float = 0.0
) -> Forecast:
    """What to expect of these rows at this rate; ``latency``: seconds of a call, added to every delay.

    Where the limits alone need more than the rate, delays are as if there were as many calls as they need.
    """
    round_of_encounters = 0.0 if known.signal else DAY
    for _ in range(1 if known.signal else _ROUNDS):
        states = _states(populations, known, round_of_encounters)
        low, high = 1e-12, 1e12
        for _ in range(80):
            middle = float(np.sqrt(low * high))
            low, high = (middle, high) if states.calls(middle) > calls_per_minute / 60 else (low, middle)
        if known.signal:
            break
        round_of_encounters = _round(populations, known, high)
    wait = states.delays(high)
    reading = states.waits(high)
    calls = states.count * states.cost / reading
    types = {}
    for name, kind in known.types.items():
        changes = states.count * states.by_type[:, kind]
        if changes.sum() > 0:
            share = np.divide(
                states.by_type[:, kind], states.by_type.sum(axis=1), out=np.zeros(len(wait)), where=changes > 0
            )
            types[name] = _expected(changes, wait, calls * share, latency)
    everything = states.count * states.by_type.sum(axis=1)
    return Forecast(types, _expected(everything, wait, calls, latency), high)


def _encounters(population: Population) -> bool:
    return SENTINEL in population.types and population.mass < _MANY


def _background(known: Knowledge) -> Floats:
    """Changes a day and patient, by type, that no known visit announces.

    Without a signal an encounter's first change is its visit's, which nothing has announced.
    """
    rate = known.rate.copy()
    if not known.signal and SENTINEL in known.types:
        kind = known.types[SENTINEL]
        rate[kind] = max(rate[kind], float(known.visits.sum()))
    return rate


def _round(populations: Sequence[Population], known: Knowledge, price: float) -> float:
    """Seconds between two readings of a patient's encounters while visits are likely; a day if they are not read by patient."""
    found = [population for population in populations if _encounters(population)]
    if not found:
        return DAY
    row = found[0]
    kinds = [known.types[name] for name in row.types]
    weighted = float((_background(known) * known.weights)[kinds].sum()) * row.mass / DAY
    levels = np.sort(known.week).reshape(_LEVELS, -1).mean(axis=1)
    limit = np.inf if row.max_staleness is None else row.max_staleness
    waits = np.clip(np.sqrt(2 * price * row.cost / np.maximum(weighted * levels, 1e-30)), _LEAST_GAP, limit)
    return float((levels * waits).sum() / levels.sum())


def _hidden(round_of_encounters: float) -> tuple[Floats, Floats]:
    """For each bin of a visit: the part of the rows whose visit is not known yet, and in how many seconds it will be, in the mean."""
    lag = np.maximum((EDGES[:-1] + EDGES[1:]) / 2, 0.0)
    return np.clip(1 - lag / max(round_of_encounters, 1.0), 0, 1), np.maximum(round_of_encounters - lag, 0.0)


def _states(populations: Sequence[Population], known: Knowledge, round_of_encounters: float) -> _States:
    """All states; ``round_of_encounters`` is 0 where visits are known as they come."""
    levels = np.sort(known.week).reshape(_LEVELS, -1).mean(axis=1)
    rate, visits = _background(known), known.visits
    if round_of_encounters and not any(
        map(_encounters, populations)
    ):  # no visit is ever known: what they bring is background
        rate, visits = rate + known.visits @ known.kernel.sum(axis=2), np.zeros_like(known.visits)
    unknown, until = _hidden(round_of_encounters)
    rows: list[tuple[float, Population, Floats, Floats, float, int]] = []
    for population in populations:
        kinds = [known.types[name] for name in population.types]
        chosen = np.zeros(len(known.rate))
        chosen[kinds] = 1.0
        background = chosen * rate * population.mass / DAY
        if population.mass >= _MANY:
            brought = chosen * (visits @ known.kernel.sum(axis=2)) * population.mass / DAY
            both = [(background + brought) * level for level in levels]
            rows += [(population.count / _LEVELS, population, each, each, np.nan, 0) for each in both]
            continue
        visited = visits[:, None] * WIDTHS / DAY * population.mass  # the part of the rows in each class and bin
        quiet = max(0.0, 1 - float(visited.sum()))
        alone = [background * level for level in levels]
        rows += [(population.count * quiet / _LEVELS, population, each, each, np.nan, 0) for each in alone]
        tells = _encounters(population)  # its own reading is what makes the visit known
        for of_class, bins in enumerate(visited):
            for place, part in enumerate(bins * population.count):
                changes = background + chosen * known.kernel[of_class, :, place] / WIDTHS[place]
                hidden = float(unknown[place]) if round_of_encounters else 0.0
                rows.append((float(part) * (1 - hidden), population, changes, changes, np.nan, 0))
                if hidden:
                    known_in = np.nan if tells else float(until[place])
                    rows.append(
                        (float(part) * hidden, population, background * levels[-1], changes, known_in, len(rows) - 1)
                    )
    seen = np.array([row[2] for row in rows])
    return _States(
        count=np.array([row[0] for row in rows]),
        cost=np.array([row[1].cost for row in rows]),
        limit=np.array([np.inf if row[1].max_staleness is None else row[1].max_staleness for row in rows]),
        weighted=seen @ known.weights,
        by_type=np.array([row[3] for row in rows]),
        hidden=np.array([row[4] for row in rows]),
        after=np.array([row[5] for row in rows], dtype=np.int64),
    )


def _expected(changes: Floats, wait: Floats, calls: Floats, latency: float) -> Expected:
    """Delays of changes that wait for anything between 0 and ``wait``."""
    weight = changes / changes.sum()

    def quantile(part: float) -> float:
        low, high = 0.0, float(wait.max())
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if float((weight * np.minimum(1, middle / wait)).sum()) < part else (low, middle)
        return high + latency

    return Expected(
        p50=quantile(0.5),
        p95=quantile(0.95),
        mean=float((weight * wait).sum() / 2) + latency,
        worst=float(wait[changes > 0].max()),
        changes_per_day=float(changes.sum() * DAY),
        calls_per_minute=float(calls.sum() * 60),
    )
