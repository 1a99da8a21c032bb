"""Below what mean delay no policy can come on a given budget, even one that knows every rate, every visit ahead and every hidden order.

Lagrangian relaxation: give each row as many reads as it likes at a price a call, which goes through the hours of the week:
Σ rows min over schedules (expected delay + prices of its reads) - Σ price · calls there are. Whatever the prices, that is a bound; better
ones are found by raising them where more reads are wanted than there are calls, for a few patients; the bound is then of many. For a row
whose changes come at a known λ(t) the inner minimum is a shortest path over the instants of a grid, exact but for the grid; what the grid
costs (a read put off to the next instant) is taken off. Rows without visits depend on their rate alone and are interpolated between a few
rates, from below, as the minimum is concave in it; rows with visits are a sample. In ``plain`` this bounds whatever does not know the
changes themselves. In ``clinic`` results of a visit are correlated, so that finding one tells of another: there it is a reference rather
than a bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.schedule_world import (
    BRINGS,
    DAY,
    ENCOUNTER,
    EPISODE,
    EPISODE_CHANGES,
    HOUR,
    TYPES,
    Brings,
    Floats,
    Ints,
    World,
    local_hour,
    share_by,
)

QUIET_STEP = 600.0
RATES = 40
SAMPLE = 160
"""Patients with visits that the bound is of."""

FEW = 40
"""Of these, the ones for whom prices are sought."""

ROUNDS = 60
HOURS = 168
_MINUTES = ((-0.5, 6.0, 120.0), (6.0, 36.0, 360.0), (36.0, 130.0, 900.0))
"""Hours since a visit, from and until, and the seconds between instants."""


def cheapest(times: Floats, first: Floats, second: Floats, price: Floats) -> tuple[float, list[int]]:
    """The least of expected delay + prices of the reads for one row, and the places of these reads.

    ``first``: expected changes until each instant, ``second``: its integral, ``price``: of a read at each instant. A row was read at the
    first instant; at the last one whatever has not been read has waited until then. Lower hull of lines, one for each possible last read:
    slopes fall, queries rise.
    """
    at, expected, area, prices = times.tolist(), first.tolist(), second.tolist(), price.tolist()
    slopes, offsets, origins = [-expected[0]], [-area[0] + expected[0] * at[0]], [0]
    before = [0] * len(at)
    head, final, best = 0, len(at) - 1, 0.0
    for place in range(1, len(at)):
        now, slope = at[place], -expected[place]
        while (
            head + 1 < len(slopes) and slopes[head + 1] * now + offsets[head + 1] <= slopes[head] * now + offsets[head]
        ):
            head += 1
        best = slopes[head] * now + offsets[head] + area[place]
        before[place] = origins[head]
        if place == final:
            break
        offset = best + prices[place] - area[place] - slope * now
        if slope == slopes[-1]:
            if offset >= offsets[-1]:
                continue
            slopes.pop()
            offsets.pop()
            origins.pop()
        while len(slopes) - head >= 2 and (offset - offsets[-2]) * (slopes[-2] - slopes[-1]) <= (
            offsets[-1] - offsets[-2]
        ) * (slopes[-2] - slope):
            slopes.pop()
            offsets.pop()
            origins.pop()
        slopes.append(slope)
        offsets.append(offset)
        origins.append(place)
        head = min(head, len(slopes) - 1)
    reads = []
    place = before[final]
    while place > 0:
        reads.append(place)
        place = before[place]
    return best, reads


def _integral(times: Floats, first: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum((first[1:] + first[:-1]) / 2 * np.diff(times))])


class Bound:
    """The rows of a world as an oracle sees them between two instants."""

    def __init__(self, world: World, since: float, until: float, seed: int) -> None:
        self._world, self._since, self._until = world, since, until
        rng = np.random.default_rng(seed)
        visits = world.visits
        near = (visits.start > since - 6 * DAY) & (visits.start < until)
        busy = np.unique(visits.patient[near])
        if len(world.episodes[0]):
            busy = np.unique(np.concatenate([busy, world.episodes[0]]))
        quiet = np.setdiff1d(np.flatnonzero(world.appears <= since), busy)
        self._rng = rng
        self._rates(quiet)
        self._grids = [self._grid() for _ in self._rate]
        chosen = rng.choice(busy, min(SAMPLE, len(busy)), replace=False)
        self._busy = len(busy)
        self._of_patient = [self._visited(int(patient)) for patient in chosen]
        life = float(self._life_until(np.array([until]))[0])
        self._quiet_changes = float((self._count * self._rate).sum() * life)

    def _life_until(self, times: Floats) -> Floats:
        """Days of mean life since the beginning."""
        cells = np.arange(self._since, self._until + 900.0, 900.0)
        life = np.concatenate([[0.0], np.cumsum(self._world.week[local_hour(cells + 450)] * 900.0 / DAY)])[:-1]
        until: Floats = np.interp(times, cells, life)
        return until

    def _grid(self) -> tuple[Floats, Floats, Floats]:
        inner = np.arange(self._since + self._rng.random() * QUIET_STEP, self._until, QUIET_STEP)
        times = np.concatenate([[self._since], inner, [self._until]])
        life = self._life_until(times)
        return times, life, _integral(times, life)

    def _rates(self, quiet: Ints) -> None:
        """Background rates of the rows without visits, as a few rates and how many rows each stands for."""
        kinds = [kind for kind in range(len(TYPES)) if kind != ENCOUNTER]
        rate = np.outer(self._world.activity[quiet], self._world.rate[kinds]).ravel()
        low, high = np.log(max(rate.min(), 1e-9)), np.log(rate.max() * 1.0001)
        knots = np.exp(np.linspace(low, high, RATES))
        place = np.clip(np.searchsorted(knots, rate) - 1, 0, RATES - 2)
        upper = np.clip((rate - knots[place]) / (knots[place + 1] - knots[place]), 0, 1)
        self._count = np.bincount(place, 1 - upper, RATES) + np.bincount(place + 1, upper, RATES)
        self._rate = knots

    def _visited(self, patient: int) -> list[tuple[Floats, Floats, Floats, float]]:
        """Times, expected changes until each, the integral of that, and what the grid may cost, for each type of a patient."""
        world = self._world
        visits = world.visits
        mine = np.flatnonzero(
            (visits.patient == patient) & (visits.start > self._since - 8 * DAY) & (visits.start < self._until)
        )
        parts: list[Any] = [
            [self._since, self._until],
            np.arange(self._since + self._rng.random() * 1800, self._until, 1800.0),
        ]
        for place in mine:
            parts += [
                visits.start[place] + np.arange(low * HOUR, high * HOUR, step) + self._rng.random() * step
                for low, high, step in _MINUTES
            ]
        times = np.unique(np.concatenate(parts))
        times = times[(times >= self._since) & (times <= self._until)]
        life = self._life_until(times)
        rows = []
        for kind, name in enumerate(TYPES):
            if kind == ENCOUNTER:
                continue
            first = life * world.rate[kind] * world.activity[patient]
            for place in mine:
                first = first + self._brought(int(place), name, times)
            if name in EPISODE:
                for who, begin, end in zip(*world.episodes, strict=True):
                    if who == patient:
                        first = first + np.clip((times - begin) / (end - begin), 0, 1) * EPISODE_CHANGES / len(EPISODE)
            first = first - first[0]
            slack = float((np.diff(first) * np.diff(times)).sum())
            rows.append((times, first, _integral(times, first), slack))
        return rows

    def _brought(self, place: int, name: str, times: Floats) -> Floats:
        visits, clinic = self._world.visits, self._world.kind == "clinic"
        total = np.zeros(len(times))
        if np.isfinite(visits.cancelled[place]):
            return total
        start, of_class = float(visits.start[place]), int(visits.of_class[place])
        for brings in BRINGS:
            if brings.kind != name:
                continue
            if clinic and brings.result:
                total += visits.results[place] * brings.size * _by_day(brings, start, times)
            else:
                total += (
                    brings.often[of_class] * brings.size * share_by(brings, times - start, float(visits.pace[place]))
                )
        return total

    def _look(self, prices: Floats, patients: int) -> tuple[float, Floats]:
        """Σ rows of the least of expected delay + prices of the reads, in seconds, and the reads by hour of the week."""
        total, wanted = 0.0, np.zeros(HOURS)
        for (times, life, area), count, rate in zip(
            self._grids, self._count.tolist(), self._rate.tolist(), strict=True
        ):
            if count > 0:
                value, reads = cheapest(times, life * rate, area * rate, at_times(prices, times))
                total += count * value
                np.add.at(wanted, local_hour(times[reads]), count)
        scale = self._busy / max(patients, 1)
        for times, first, second, _ in (row for rows in self._of_patient[:patients] for row in rows):
            value, reads = cheapest(times, first, second, at_times(prices, times))
            total += scale * value
            np.add.at(wanted, local_hour(times[reads]), scale)
        return total, wanted

    def mean(self, calls_per_minute: float) -> float:
        """The least mean delay, in seconds, that so many calls a minute allow."""
        quarters = np.arange(self._since, self._until, 900.0) + 450
        quarter = calls_per_minute * 15
        there = np.bincount(local_hour(quarters), minlength=HOURS).astype(np.float64) * quarter
        prices = self._prices(there)
        total, _ = self._look(prices, len(self._of_patient))
        best = total - float(at_times(prices, quarters).sum()) * calls_per_minute * 15
        rows = [row for rows in self._of_patient for row in rows]
        scale = self._busy / max(len(self._of_patient), 1)
        changes = self._quiet_changes + scale * sum(row[1][-1] for row in rows)
        # a grid begins anywhere within its step, so a read is put off by half a step in the mean
        slack = self._quiet_changes * QUIET_STEP / 2 + scale * sum(row[3] for row in rows) / 2
        return float((best - slack) / changes)

    def _prices(self, there: Floats) -> Floats:
        """Prices for the hours of the week that make the bound high: a subgradient ascent in their logarithms, by Polyak's steps."""
        few = min(FEW, len(self._of_patient))
        recent = np.array([np.roll(self._world.week, hours) * np.exp(-hours / 8) for hours in range(24)]).sum(axis=0)
        shape = recent / recent.mean()
        low, high = 0.0, 12.0
        for _ in range(6):
            middle = (low + high) / 2
            _, wanted = self._look(shape * float(np.exp(middle)), few)
            low, high = (middle, high) if wanted.sum() > there.sum() else (low, middle)
        prices: Floats = shape * float(np.exp((low + high) / 2))
        best, kept, hope, since = -np.inf, prices, 0.1, 0
        for _ in range(ROUNDS):
            total, wanted = self._look(prices, few)
            value = total - float((there * prices).sum())
            since += 1
            if value > best:
                best, kept, since = value, prices, 0
            elif since >= 4:
                hope, since, prices = hope / 2, 0, kept
                continue
            slope = (wanted - there) * prices
            step = (best * (1 + hope) - value) / max(float((slope * slope).sum()), 1e-9)
            prices = prices * np.exp(np.clip(step * slope, -0.3, 0.3))
        return kept


def at_times(prices: Floats, times: Floats) -> Floats:
    """Prices at instants, from those in the middle of each hour of the week, with straight lines between."""
    around = np.concatenate([prices[-1:], prices, prices[:2]])
    priced: Floats = np.interp(local_hour(times) + (times % HOUR) / HOUR, np.arange(-1, HOURS + 2) + 0.5, around)
    return priced


def _by_day(brings: Brings, start: float, times: Floats) -> Floats:
    """The part of a panel that has come until each time: what would come at night comes between 6 and 9."""
    cells = start + np.arange(0, 12 * DAY, 900.0)
    mass = np.diff(share_by(brings, cells - start), append=1.0)
    mass[-1] = 0.0
    hours = local_hour(cells) % 24
    moved = np.where((hours >= 22) | (hours < 6), 0.0, mass)
    for place in np.flatnonzero(((hours >= 22) | (hours < 6)) & (mass > 0)):
        ahead = np.flatnonzero((hours[place : place + 60] >= 6) & (hours[place : place + 60] < 9))[:12]
        moved[place + ahead] += mass[place] / max(len(ahead), 1)
    come: Floats = np.interp(times, cells, np.concatenate([[0.0], np.cumsum(moved)[:-1]]), left=0.0, right=1.0)
    return come
