"""The practices whose changes ``schedule.py`` has policies find: what happens, when, and what an oracle would know of it.

``plain`` is what the planner assumes in kind, though none of its numbers: every patient has an activity (gamma), visits bring changes after
lognormal lags (which bins only approximate), background follows the hours of the week. ``clinic`` breaks the assumptions: results of a
visit come together as a panel, and only by day; some patients have episodes, days in which a dozen things change; visitors come again;
some who were expected do not come at all; each practitioner writes notes at a pace of their own.

Times are seconds since 1970. A row is a patient and a type: ``patient * len(TYPES) + type``.
"""

from __future__ import annotations

import datetime as dt
import math
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HOUR, DAY = 3600.0, 86400.0
ZONE = zoneinfo.ZoneInfo("America/New_York")
BEGAN = dt.datetime(2026, 3, 2, tzinfo=ZONE).timestamp()
"""A Monday; the clocks are put forward on the next Sunday."""

TYPES = (
    "Patient",
    "Encounter",
    "Observation/laboratory",
    "Observation/vital-signs",
    "DiagnosticReport",
    "DocumentReference",
    "MedicationRequest",
    "AllergyIntolerance",
    "Condition",
    "Immunization",
    "Procedure",
    "Coverage",
)
NUMBER = {name: place for place, name in enumerate(TYPES)}
ENCOUNTER = NUMBER["Encounter"]
CLASSES = ("AMB", "VR")
PER_WEEKDAY = (440, 100)
"""Visits of each class in a practice of 30,000."""

NEW_PER_DAY = 20
"""New patients, in a practice of 30,000."""

BACKGROUND = np.array([0.9, 0.3, 4.2, 0.4, 2.2, 3.6, 3.9, 0.1, 0.7, 0.4, 0.3, 0.6]) / 1000
"""Changes a day and patient without a visit, by type."""


@dataclass(frozen=True, slots=True)
class Brings:
    """What a visit brings of a type: how often by class, how many changes each, and the lag: median in hours, spread of its logarithm."""

    kind: str
    often: tuple[float, float]
    size: float
    median: float
    sigma: float
    shift: float = 0.0
    """Hours that the lag is counted from, after the start."""
    result: bool = False
    """Whether it is a result: in ``clinic`` all of a visit come together, and by day."""


BRINGS = (
    Brings("Patient", (0.12, 0.03), 1, 0.2, 0.6, shift=-0.3),
    Brings("Coverage", (0.09, 0.02), 1, 0.2, 0.6, shift=-0.3),
    Brings("Encounter", (1.0, 1.0), 1, 0.15, 0.4, shift=-0.2),
    Brings("Encounter", (1.0, 1.0), 1, 0.7, 0.4),
    Brings("Encounter", (0.6, 0.5), 1, 14, 0.9),
    Brings("Observation/vital-signs", (0.85, 0.02), 2, 0.2, 0.5),
    Brings("DocumentReference", (0.9, 0.8), 1, 1.6, 1.0),
    Brings("DocumentReference", (0.5, 0.3), 1, 15, 0.8),
    Brings("MedicationRequest", (0.6, 0.5), 1, 0.45, 0.6),
    Brings("MedicationRequest", (0.06, 0.08), 1, 22, 0.6),
    Brings("Condition", (0.32, 0.2), 1, 0.6, 0.7),
    Brings("AllergyIntolerance", (0.04, 0.01), 1, 0.2, 0.5),
    Brings("Immunization", (0.07, 0.0), 1, 0.35, 0.5),
    Brings("Procedure", (0.12, 0.01), 1, 0.6, 0.5),
    Brings("Observation/laboratory", (0.35, 0.08), 3, 26, 0.6, result=True),
    Brings("DiagnosticReport", (0.35, 0.08), 1, 27, 0.6, result=True),
)


@dataclass(slots=True)
class Visits:
    """Columns: who, when, class; when it can first be seen; when it is taken back, else infinite; and the pace of its notes."""

    patient: Ints
    start: Floats
    of_class: Ints
    visible: Floats
    cancelled: Floats
    pace: Floats
    results: Ints
    """1 where results were ordered; known to an oracle alone."""


@dataclass(slots=True)
class World:
    """A practice and all that happens to it."""

    kind: str
    days: float
    patients: int
    appears: Floats
    """When each patient is there; ``BEGAN`` for those who were before."""
    activity: Floats
    visits: Visits
    row: Ints
    """Of each change, sorted by row and time."""
    time: Floats
    of_visit: npt.NDArray[np.bool_]
    """Whether a visit brought it; else it is background."""
    week: Floats
    rate: Floats
    kernel: Floats
    """True mean changes per visit, by class, type and bin of ``edges``."""
    episodes: tuple[Ints, Floats, Floats] = field(
        default_factory=lambda: (np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))
    )
    """Patient, begin and end of each."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.patients * len(TYPES)


def true_week() -> Floats:
    """The hours of the week from Monday 0:00; not the planner's prior."""
    day = np.array(
        [0.05] * 6 + [0.3, 1.2] + [3.2, 3.6, 3.4, 2.8, 1.4, 2.6, 3.2, 3.3, 2.8, 1.6] + [0.7, 0.5, 0.5, 0.3, 0.1, 0.05]
    )
    saturday, sunday = np.full(24, 0.05), np.full(24, 0.04)
    saturday[8:13] = 1.1
    week = np.concatenate([np.tile(day, 5), saturday, sunday])
    scaled: Floats = week / week.mean()
    return scaled


def local_hour(at: Floats) -> Ints:
    """Hour of the week on the practice's clock."""
    spring = dt.datetime(2026, 3, 8, 7, tzinfo=dt.UTC).timestamp()
    ahead = np.where(at < spring, -5, -4) * HOUR
    monday = dt.datetime(2026, 3, 2, tzinfo=dt.UTC).timestamp()
    return ((at + ahead - monday) // HOUR).astype(np.int64) % 168


def make(
    kind: str,
    seed: int,
    days: float,
    patients: int = 30_000,
    shift_at: float | None = None,
    rewrite_at: float | None = None,
) -> World:
    """A world. ``shift_at``: days after which rates shift (twice as many results, half as many notes); ``rewrite_at``: days after which
    a migration rewrites 5,000 rows (in a practice of 30,000) at once, which count as background."""
    rng = np.random.default_rng([seed, len(kind)])
    size = patients / 30_000
    new = int(rng.poisson(NEW_PER_DAY * size * days))
    everybody = patients + new
    appears = np.concatenate([np.full(patients, BEGAN), np.sort(BEGAN + rng.random(new) * days * DAY)])
    activity = rng.gamma(0.8, 1 / 0.8, everybody) + 0.05
    activity /= activity.mean()
    visits = _visits(rng, kind, days, size, activity, appears)
    appears[visits.patient[_first(visits.patient)]] = np.where(
        appears[visits.patient[_first(visits.patient)]] > BEGAN,
        np.minimum(appears[visits.patient[_first(visits.patient)]], visits.visible[_first(visits.patient)]),
        BEGAN,
    )
    rows, times, origins = _background(rng, days, activity, shift_at)
    found = [(rows, times, origins), _brought(rng, kind, visits, shift_at)]
    episodes = (np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))
    if kind == "clinic":
        episodes, bursts = _episodes(rng, days, size, everybody)
        found.append(bursts)
    if rewrite_at is not None:
        rewritten = rng.integers(0, patients * len(TYPES), int(5000 * size))
        at = BEGAN + rewrite_at * DAY + rng.random(len(rewritten)) * 60
        found.append((rewritten, at, np.zeros(len(rewritten), dtype=bool)))
    row = np.concatenate([part[0] for part in found])
    time = np.concatenate([part[1] for part in found])
    origin = np.concatenate([part[2] for part in found])
    there = (time >= appears[row // len(TYPES)]) & (time < BEGAN + days * DAY)
    row, time, origin = row[there], time[there], origin[there]
    order = np.lexsort((time, row))
    return World(
        kind,
        days,
        everybody,
        appears,
        activity,
        visits,
        row[order],
        time[order],
        origin[order],
        true_week(),
        BACKGROUND.copy(),
        np.zeros(0),
        episodes,
    )


def _first(column: Ints) -> Ints:
    return np.unique(column, return_index=True)[1]


def _visits(rng: np.random.Generator, kind: str, days: float, size: float, activity: Floats, appears: Floats) -> Visits:
    parts: list[tuple[Ints, Floats, Ints]] = []
    likely = activity**0.7
    for day in range(-5, math.ceil(days)):
        midnight = (dt.datetime(2026, 3, 2, tzinfo=ZONE) + dt.timedelta(days=day)).timestamp()
        weekday = (day % 7) < 5
        for visit_class, mean in enumerate(PER_WEEKDAY):
            count = int(rng.poisson(mean * size * (1.0 if weekday else 0.08)))
            here = np.where(appears <= max(midnight + 0.5 * DAY, BEGAN), likely, 0.0)
            patients = rng.choice(len(activity), count, p=here / here.sum())
            slots = rng.choice([*range(32, 48), *range(52, 68)], count)  # quarters from 8 to 12 and 13 to 17
            parts.append((patients, midnight + slots * 900.0, np.full(count, visit_class)))
    fresh = np.flatnonzero(appears > BEGAN)
    parts.append((fresh, appears[fresh] + 600.0, np.zeros(len(fresh), dtype=np.int64)))
    patient, start, of_class = (np.concatenate([part[place] for part in parts]) for place in range(3))
    if kind == "clinic":  # a fifth come again within days
        again = rng.random(len(patient)) < 0.2
        patient = np.concatenate([patient, patient[again]])
        start = np.concatenate([start, start[again] + rng.integers(2, 8, int(again.sum())) * DAY])
        of_class = np.concatenate([of_class, of_class[again]])
    order = np.argsort(start, kind="stable")
    patient, start, of_class = patient[order].astype(np.int64), start[order], of_class[order].astype(np.int64)
    count = len(patient)
    cancelled = np.full(count, np.inf)
    pace = np.ones(count)
    if kind == "clinic":
        missed = rng.random(count) < 0.07
        cancelled[missed] = start[missed] + rng.uniform(0.5, 3, int(missed.sum())) * HOUR
        pace = rng.lognormal(0, 0.7, 20)[rng.integers(0, 20, count)]
    ordered = rng.random(count) < np.array([0.35, 0.08])[of_class]
    return Visits(patient, start, of_class, start - 600.0, cancelled, pace, ordered.astype(np.int64))


def _background(
    rng: np.random.Generator, days: float, activity: Floats, shift_at: float | None
) -> tuple[Ints, Floats, npt.NDArray[np.bool_]]:
    grid: npt.NDArray[Any] = BEGAN + np.arange(int(days * 96)) * 900.0
    life = np.cumsum(true_week()[local_hour(grid + 450.0)])
    rows, times = [], []
    for kind, rate in enumerate(BACKGROUND):
        count = int(rng.poisson(rate * len(activity) * life[-1] / 96))
        patients = rng.choice(len(activity), count, p=activity / activity.sum())
        at: npt.NDArray[Any] = grid[np.searchsorted(life, rng.random(count) * life[-1])] + rng.random(count) * 900.0
        if shift_at is not None and kind in {NUMBER["Condition"], NUMBER["Coverage"]}:
            more = at > BEGAN + shift_at * DAY
            patients, at = (
                np.concatenate([patients, patients[more], patients[more]]),
                np.concatenate([at, at[more] + 7, at[more] + 9]),
            )
        rows.append(patients * len(TYPES) + kind)
        times.append(at)
    row = np.concatenate(rows)
    return row, np.concatenate(times), np.zeros(len(row), dtype=bool)


def _brought(
    rng: np.random.Generator, kind: str, visits: Visits, shift_at: float | None
) -> tuple[Ints, Floats, npt.NDArray[np.bool_]]:
    rows, times = [], []
    came = np.isinf(visits.cancelled)
    panel = visits.start + rng.lognormal(math.log(26 * HOUR), 0.6, len(visits.start))
    for brings in BRINGS:
        often = np.array(brings.often)[visits.of_class] * came
        if shift_at is not None:
            factor = 2.0 if brings.result else 0.5 if brings.kind == "DocumentReference" else 1.0
            often = often * np.where(visits.start > BEGAN + shift_at * DAY, factor, 1.0)
        if kind == "clinic" and brings.result:
            clusters = visits.results * came
            which = np.repeat(np.arange(len(clusters)), clusters)
            at = by_day(rng, panel[which]) + (0.0 if brings.size > 1 else 600.0)
        else:
            which = np.repeat(np.arange(len(often)), rng.poisson(often))
            lag = rng.lognormal(math.log(brings.median * HOUR), brings.sigma, len(which))
            if brings.kind == "DocumentReference":
                lag *= visits.pace[which]
            at = visits.start[which] + brings.shift * HOUR + lag
        sizes = 1 + rng.poisson(brings.size - 1, len(which))
        rows.append(np.repeat(visits.patient[which], sizes) * len(TYPES) + NUMBER[brings.kind])
        times.append(np.repeat(at, sizes) + rng.random(int(sizes.sum())))
    row = np.concatenate(rows)
    return row, np.concatenate(times), np.ones(len(row), dtype=bool)


def by_day(rng: np.random.Generator, at: Floats) -> Floats:
    """What would come between 22 and 6 o'clock comes between 6 and 9."""
    hour = local_hour(at) % 24
    into = (at % HOUR) / HOUR
    wait = np.where(hour >= 22, 30 - hour - into, 6 - hour - into)
    night = (hour >= 22) | (hour < 6)
    return np.where(night, at + (wait + rng.random(len(at)) * 3) * HOUR, at)


EPISODE = ("Observation/laboratory", "DocumentReference", "MedicationRequest", "Condition", "DiagnosticReport")
EPISODE_CHANGES = 12.0


def _episodes(
    rng: np.random.Generator, days: float, size: float, patients: int
) -> tuple[tuple[Ints, Floats, Floats], tuple[Ints, Floats, npt.NDArray[np.bool_]]]:
    count = int(rng.poisson(12 * size * (days + 4)))
    patient = rng.integers(0, patients, count)
    begin = BEGAN + (rng.random(count) * (days + 4) - 4) * DAY
    end = begin + rng.uniform(1, 4, count) * DAY
    which = np.repeat(np.arange(count), rng.poisson(EPISODE_CHANGES, count))
    at = begin[which] + rng.random(len(which)) * (end - begin)[which]
    kinds = np.array([NUMBER[name] for name in EPISODE])[rng.integers(0, len(EPISODE), len(which))]
    later = at >= BEGAN
    row = (patient[which] * len(TYPES) + kinds)[later]
    return (patient, begin, end), (row, at[later], np.zeros(len(row), dtype=bool))


def normal_cdf(x: Floats) -> Floats:
    """Φ, to 1e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x) / math.sqrt(2))
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    half = (1 - poly * np.exp(-(x**2) / 2)) / 2
    return 0.5 + np.sign(x) * half


def share_by(brings: Brings, lag: Floats, pace: float = 1.0) -> Floats:
    """The part of what a visit brings that has come at a lag in seconds; without a panel's waiting for the day."""
    ahead = np.maximum(lag - brings.shift * HOUR, 1e-3)
    median = brings.median * HOUR * (pace if brings.kind == "DocumentReference" else 1.0)
    return np.where(lag > brings.shift * HOUR, normal_cdf(np.log(ahead / median) / brings.sigma), 0.0)


def true_kernel(world: World, edges: Sequence[float] | Floats) -> Floats:
    """Mean changes per visit in bins, by class and type: as they are in the world, counted over all visits that can be seen whole."""
    edges = np.asarray(edges, dtype=float)
    kernel = np.zeros((len(CLASSES), len(TYPES), len(edges) - 1))
    for of_class in range(len(CLASSES)):
        mine = world.visits.of_class == of_class
        came = float(np.isinf(world.visits.cancelled[mine]).mean())
        for brings in BRINGS:
            paces = np.quantile(world.visits.pace, np.linspace(0.05, 0.95, 10)) if world.kind == "clinic" else [1.0]
            share = np.mean([np.diff(share_by(brings, edges, pace)) for pace in paces], axis=0)
            kernel[of_class, NUMBER[brings.kind]] += brings.often[of_class] * brings.size * came * share
    return kernel
