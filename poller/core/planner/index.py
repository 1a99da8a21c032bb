"""The index: accumulated expected weighted staleness of each row since it was last read, per call. Pure.

A(t) = w · ∫ λ(s)·(t - s) ds from the last pass to now, divided by the calls of a pass. λ is background (activity · rate · week) and what
visits bring. All rows are evaluated every half hour (:data:`FULL_EVERY`), those that may count before the next such look every
:data:`WARM_EVERY`, and those that may be chosen before the next of these at every choice: from their value, slope and λ then, as
A + A'·dt + λ·dt²/2, which is exact while λ is constant.
"""

from __future__ import annotations

import datetime as dt

import numpy as np

from poller.core.planner.kernels import Ints, Kernels
from poller.core.planner.learning import Learned
from poller.core.planner.prior import DAY, Floats
from poller.core.planner.rows import GROUP, WIDE, Rows
from poller.core.planner.visits import Visits
from poller.core.planner.week import Week

FULL_EVERY = 1800.0
WARM_EVERY = 240.0
GAP = 1.0
"""Seconds between the beginnings of two passes of a row at the least."""

_ROOM = 1.5
_LEAST = 512


class Index:
    """The index over rows and visits."""

    def __init__(self, rows: Rows, visits: Visits, learned: Learned, zone: dt.tzinfo) -> None:
        self._rows = rows
        self._visits = visits
        self._learned = learned
        self._zone = zone
        self.activity = np.ones(0)
        """By patient's number; 1 for the mean."""
        self.population = 0
        """Patients of the practice, where rows read all of them."""
        self.week = Week(learned.week, zone, 0.0)
        self._rate = np.zeros(0)
        self._kernels = Kernels(np.zeros_like(learned.kernel[:, :1]) if learned.types else np.zeros((2, 1, 21)))
        self._types: list[Ints] = []
        self.single: Ints | None = None
        """The type of each profile, where no row reads several."""
        self._joined: list[int] = []
        self._closed: frozenset[str] = frozenset()
        self._paused: frozenset[str] = frozenset()
        self._warm: Ints = np.zeros(0, dtype=np.int64)
        self._hot: Ints = np.zeros(0, dtype=np.int64)
        self._value, self._slope, self._lambda, self._at, self._shut = (np.zeros(0) for _ in range(5))
        self._size = 0
        self.price = 0.0
        """Accumulated expected weighted staleness at which a call was spent last."""

    # --- the parameters

    def retune(self, weights: Floats, now: float, *, signal: bool = True) -> None:
        """Take rates, kernels, week, activity and ``weights`` (by type's number) as they are now.

        Without a ``signal`` a visit that is not known yet is one more change to be found in the patient's encounters.
        """
        rows, learned = self._rows, self._learned
        self.week = Week(learned.week, self._zone, now)
        self._types = [
            np.array([learned.type_number(name) for name in types], dtype=np.int64) for types in rows.profiles
        ]
        rate = learned.rate.copy()
        if not signal and "Encounter" in learned.types:
            rate[learned.types["Encounter"]] += learned.visits.sum()
        alone = all(len(types) == 1 for types in self._types)
        self.single = np.array([types[0] for types in self._types], dtype=np.int64) if alone else None
        self._rate = np.array([(weights[types] * rate[types]).sum() for types in self._types] or [0.0]) / DAY
        weighted = learned.kernel * weights[None, :, None]
        profiles = [weighted[:, types].sum(axis=1) for types in self._types] or [weighted.sum(axis=1)]
        self._kernels = Kernels(np.stack(profiles, axis=1))
        count = rows.count
        rows.first[:count] = self.week.first(rows.last[:count])
        rows.second[:count] = self.week.second(rows.last[:count])
        self.weigh(np.arange(count))

    def weigh(self, numbers: Ints) -> None:
        """Take the activity of whom these rows read as it is now."""
        rows = self._rows
        missing = len(rows.patients) - len(self.activity)
        if missing > 0:
            self.activity = np.concatenate([self.activity, np.ones(max(missing, len(self.activity) // 4))])
        patient = rows.patient[numbers]
        rows.mass[numbers] = self.activity[np.maximum(patient, 0)] if len(self.activity) else 1.0
        for number in numbers[patient == GROUP]:
            rows.mass[number] = self.activity[list(rows.groups[int(number)])].sum()
        everybody = float(self.activity[: len(rows.patients)].sum())
        rows.mass[numbers[patient == WIDE]] = max(everybody, float(self.population), 1.0)

    def types_of(self, number: int) -> Ints:
        """The types that a row reads."""
        return self._types[int(self._rows.profile[number])]

    def types_of_profiles(self) -> list[Ints]:
        """The types of each profile."""
        return self._types

    # --- the value

    def evaluate(self, numbers: Ints, now: float) -> tuple[Floats, Floats, Floats]:
        """A, its slope and λ of these rows, visits left aside; rows that were never read count for nothing."""
        rows = self._rows
        scale = rows.mass[numbers] * self._rate[rows.profile[numbers]] / rows.cost[numbers]
        c, first, second = self.week.instant(now)
        began = rows.first[numbers]
        value = scale * (second - rows.second[numbers] - began * (now - rows.last[numbers]))
        slope = scale * (first - began)
        return np.nan_to_num(value), np.nan_to_num(slope), scale * c

    def of_visits(self, now: float, only: Ints | None = None) -> tuple[Ints, Floats, Floats, Floats]:
        """Rows to which visits add something (a row may come several times): numbers, A, slope and λ; of ``only`` these patients."""
        rows = self._rows
        patients, classes, starts = self._visits.columns()
        if only is not None:
            mine = np.isin(patients, only)
            patients, classes, starts = patients[mine], classes[mine], starts[mine]
        numbers, origin = rows.of_patients(patients)
        if rows.wide:
            wide = np.array(rows.wide, dtype=np.int64)
            numbers = np.concatenate([numbers, np.repeat(wide, len(patients))])
            origin = np.concatenate([origin, np.tile(np.arange(len(patients)), len(wide))])
        read = ~np.isnan(rows.last[numbers])
        numbers, origin = numbers[read], origin[read]
        value, slope, rate = self._kernels.staleness(
            classes[origin], rows.profile[numbers].astype(np.int64), starts[origin], rows.last[numbers], now
        )
        cost = rows.cost[numbers]
        return numbers, value / cost, slope / cost, rate / cost

    def all_values(self, numbers: Ints, now: float) -> tuple[Floats, Floats, Floats]:
        """A, slope and λ of these rows, visits included."""
        value, slope, rate = self.evaluate(numbers, now)
        reached, *more = self.of_visits(now)
        count = self._rows.count
        added = [np.bincount(reached, part, count)[numbers] for part in more]
        return value + added[0], slope + added[1], rate + added[2]

    # --- the hot set

    def rank_all(self, now: float, rate: float) -> None:
        """Evaluate every row: find those that may count until the next such look."""
        rows = self._rows
        readable = np.flatnonzero(rows.alive[: rows.count] & ~np.isnan(rows.last[: rows.count]))
        room = int(rate * FULL_EVERY * _ROOM) + 4 * _LEAST
        if room < len(readable):
            later = now + FULL_EVERY
            value, _, _ = self.evaluate(readable, later)
            readable = readable[np.argpartition(-value, room)[:room]]
        self._warm, self._joined = readable, []
        self.rank_warm(now, rate)

    def join(self, numbers: Ints) -> bool:
        """Take rows that can be read again from now on among those that may count; whether there are few, so that each counts at once."""
        self._joined.extend(numbers.tolist())
        return self._size < _LEAST

    def close(self, feeds: frozenset[str]) -> None:
        """Choose no row from now on that reads nothing but these resource types."""
        self._closed = feeds

    def pause(self, feeds: frozenset[str]) -> None:
        """As :meth:`close`."""
        self._paused = feeds

    def rank_warm(self, now: float, rate: float) -> None:
        """Evaluate the rows that may count: find those that may be chosen until the next such look."""
        rows = self._rows
        if self._joined:
            self._warm = np.union1d(self._warm, np.array(self._joined, dtype=np.int64))
            self._joined = []
        reached, *more = self.of_visits(now)
        chosen = np.zeros(rows.count, dtype=bool)
        chosen[self._warm] = True
        chosen[reached] = True
        numbers = np.flatnonzero(chosen & rows.alive[: rows.count])
        value, slope, lam = self.evaluate(numbers, now)
        rows.hot[self._hot[: self._size]] = -1
        rows.hot[numbers] = np.arange(len(numbers))
        place = rows.hot[reached]
        for column, part in zip((value, slope, lam), more, strict=True):
            np.add.at(column, place, part)
        rows.hot[numbers] = -1
        room = int(rate * WARM_EVERY * 2 * _ROOM) + _LEAST
        if room < len(numbers):
            then = value + slope * WARM_EVERY + lam * WARM_EVERY**2 / 2
            best = np.argpartition(-then, room)[:room]
            numbers, value, slope, lam = numbers[best], value[best], slope[best], lam[best]
        self._hot, self._size = numbers, len(numbers)
        self._value, self._slope, self._lambda = value, slope, lam
        self._at = np.full(len(numbers), now)
        self._shut = self._shut_until(numbers)
        rows.hot[numbers] = np.arange(len(numbers))

    def touch(self, patients: Ints, now: float) -> None:
        """Visits of these patients have changed: take their rows among those that may be chosen."""
        rows = self._rows
        numbers, _ = rows.of_patients(np.unique(patients))
        numbers = np.unique(np.concatenate([numbers, np.array(rows.wide, dtype=np.int64)]))
        numbers = numbers[~np.isnan(rows.last[numbers])]
        if not len(numbers):
            return
        fresh = numbers[rows.hot[numbers] < 0]
        rows.hot[fresh] = np.arange(self._size, self._size + len(fresh))
        self._hot = np.concatenate([self._hot[: self._size], fresh])
        zeros = np.zeros(len(fresh))
        for name in ("_value", "_slope", "_lambda", "_at"):
            setattr(self, name, np.concatenate([getattr(self, name)[: self._size], zeros]))
        self._shut = np.concatenate([self._shut[: self._size], self._shut_until(fresh)])
        self._size += len(fresh)
        value, slope, lam = self.evaluate(numbers, now)
        reached, *more = self.of_visits(now, None if rows.wide else np.unique(patients))
        place = rows.hot[numbers]
        self._value[place], self._slope[place], self._lambda[place], self._at[place] = value, slope, lam, now
        known = rows.hot[reached]
        mine = np.isin(reached, numbers)
        for column, part in zip((self._value, self._slope, self._lambda), more, strict=True):
            np.add.at(column, known[mine], part[mine])

    def was_read(self, numbers: Ints, began: float) -> None:
        """These rows have been read: what accumulates begins anew."""
        rows = self._rows
        _, rows.first[numbers], rows.second[numbers] = self.week.instant(began)
        place = rows.hot[numbers]
        place = place[place >= 0]
        self._value[place] = self._slope[place] = 0.0
        self._at[place] = began
        self._shut[place] = began + GAP

    def shut(self, number: int) -> None:
        """A row is held back, or was taken away."""
        place = int(self._rows.hot[number])
        if place >= 0:
            self._shut[place] = self._shut_until(np.array([number]))[0]

    def _shut_until(self, numbers: Ints) -> Floats:
        rows = self._rows
        until = np.maximum(np.nan_to_num(rows.last[numbers] + GAP, nan=-np.inf), rows.held[numbers])
        return np.where(rows.alive[numbers], until, np.inf)

    def best(self, now: float, count: int, busy: Ints) -> list[int]:
        """The ``count`` best rows, best first; none that is under way, held back, or was begun less than :data:`GAP` seconds ago."""
        size = self._size
        if not size or count <= 0:
            return []
        ahead = now - self._at[:size]
        value = self._lambda[:size] * ahead
        value *= 0.5
        value += self._slope[:size]
        value *= ahead
        value += self._value[:size]
        value[self._shut[:size] > now] = -1.0
        if self._closed or self._paused:
            gone = self._closed | self._paused
            rows = self._rows
            shut = np.array([gone.issuperset(name.partition("/")[0] for name in types) for types in rows.types])
            value[shut[rows.profile[self._hot[:size]]]] = -1.0
        if len(busy):
            place = self._rows.hot[busy]
            value[place[place >= 0]] = -1.0
        top = np.argpartition(value, size - count)[size - count :] if count < size else np.arange(size)
        found = value[top]
        top = top[np.argsort(-found, kind="stable")]
        least = int((found >= 0.0).sum())
        if least:
            self.price = float(found[found >= 0.0].min())
        numbers: list[int] = self._hot[top[:least]].tolist()
        return numbers
