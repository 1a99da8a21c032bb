"""The rows that the planner chooses from, as arrays: detection targets of one practice. Pure.

Adding a row costs amortised constant time; a retired one leaves a hole that stays until the planner is made anew,
as by a reload or a restart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

WIDE = -1
"""In place of a patient: the row reads all patients."""
GROUP = -2
"""In place of a patient: the row reads several."""
NEVER = np.nan


@dataclass(frozen=True, slots=True)
class Row:
    """A detection target as the planner sees it."""

    key: str
    """Opaque, e.g. :attr:`poller.core.model.Target.key`."""
    types: tuple[str, ...]
    """What it reads: resource types, with the category where one is asked for (``Observation/laboratory``)."""
    patients: tuple[str, ...] | None = None
    """Whom it reads; None for the whole practice."""
    cost: float = 1.0
    """Calls that a pass is expected to take."""
    max_staleness: float | None = None
    """Seconds from the beginning of one pass to that of the next at the most; None for no promise."""
    last: float | None = None
    """When the last pass began; None if it was never read."""


class Rows:
    """Columns of rows, by number. ``names`` and ``numbers`` map keys."""

    def __init__(self) -> None:
        self.count = 0
        self.numbers: dict[str, int] = {}
        self.names: list[str] = []
        self.profiles: dict[tuple[str, ...], int] = {}
        self.types: list[tuple[str, ...]] = []
        """By profile."""
        self.patients: dict[str, int] = {}
        self.groups: dict[int, tuple[int, ...]] = {}
        self.wide: list[int] = []
        self.alive: npt.NDArray[Any] = np.zeros(0, dtype=bool)
        self.profile: npt.NDArray[Any] = np.zeros(0, dtype=np.int32)
        self.patient: npt.NDArray[Any] = np.zeros(0, dtype=np.int32)
        self.cost: npt.NDArray[Any] = np.zeros(0, dtype=np.float64)
        self.limit = np.zeros(0)
        """max_staleness, infinite where there is none."""
        self.last = np.zeros(0)
        self.added = np.zeros(0)
        self.held = np.zeros(0)
        """Not to be chosen before this instant."""
        self.mass = np.zeros(0)
        """Activity of whom it reads: 1 for a patient like the mean."""
        self.first = np.zeros(0)
        """∫ of the week's profile up to ``last``; see :class:`poller.core.planner.week.Week`."""
        self.second = np.zeros(0)
        """∫∫ of it."""
        self.learned = np.zeros(0)
        """``last`` when the day's learning took stock."""
        self.hot: npt.NDArray[Any] = np.zeros(0, dtype=np.int32)
        """Place in the hot set, -1 if not in it."""
        self._head: npt.NDArray[Any] = np.zeros(0, dtype=np.int32)
        self._pair_row: npt.NDArray[Any] = np.zeros(0, dtype=np.int32)
        self._pair_next: npt.NDArray[Any] = np.zeros(0, dtype=np.int32)
        self._pairs = 0

    def add(self, rows: Iterable[Row], now: float) -> list[int]:
        """Numbers of rows that were not there before; those that were take the new cost, limit and ``last``, where that is later."""
        new: list[int] = []
        for row in rows:
            number = self.numbers.get(row.key)
            if number is None:
                number = self._append(row, now)
                new.append(number)
            elif row.last is not None and not row.last <= self.last[number]:
                self.last[number] = row.last
            self.cost[number] = max(row.cost, 1e-3)
            self.limit[number] = np.inf if row.max_staleness is None else row.max_staleness
        return new

    def retire(self, keys: Iterable[str]) -> None:
        """Take rows away; unknown keys are passed over."""
        for key in keys:
            number = self.numbers.pop(key, None)
            if number is not None:
                self.alive[number] = False
                self.groups.pop(number, None)
                if self.patient[number] == WIDE:
                    self.wide.remove(number)

    def patient_number(self, patient: str) -> int:
        """The patient's number, a new one for a new patient."""
        number = self.patients.setdefault(patient, len(self.patients))
        if number >= len(self._head):
            self._head = _grown(self._head, number + 1, -1)
        return number

    def of_patients(self, patients: Ints) -> tuple[Ints, Ints]:
        """Rows of each of these patients' own: their numbers, and beside each the place in ``patients`` that it belongs to."""
        places = np.arange(len(patients))
        pairs = self._head[patients]
        rows: list[Ints] = []
        origins: list[Ints] = []
        while True:
            going = pairs >= 0
            if not going.any():
                break
            pairs, places = pairs[going], places[going]
            rows.append(self._pair_row[pairs].astype(np.int64))
            origins.append(places)
            pairs = self._pair_next[pairs]
        if not rows:
            nothing = np.zeros(0, dtype=np.int64)
            return nothing, nothing
        found, origin = np.concatenate(rows), np.concatenate(origins)
        alive = self.alive[found]
        return found[alive], origin[alive]

    def members(self, number: int) -> tuple[int, ...] | None:
        """The patients' numbers of a row; None for all."""
        patient = int(self.patient[number])
        if patient == WIDE:
            return None
        return self.groups[number] if patient == GROUP else (patient,)

    def _append(self, row: Row, now: float) -> int:
        number = self.count
        if number >= len(self.last):
            self._grow(number + 1)
        self.count += 1
        self.numbers[row.key] = number
        self.names.append(row.key)
        self.alive[number] = True
        self.profile[number] = self.profiles.setdefault(row.types, len(self.profiles))
        if len(self.types) < len(self.profiles):
            self.types.append(row.types)
        self.last[number] = NEVER if row.last is None else row.last
        self.added[number] = now
        self.held[number] = -np.inf
        self.learned[number] = self.last[number]
        self.hot[number] = -1
        if row.patients is None:
            self.patient[number] = WIDE
            self.wide.append(number)
            return number
        members = tuple(self.patient_number(patient) for patient in row.patients)
        self.patient[number] = members[0] if len(members) == 1 else GROUP
        if len(members) != 1:
            self.groups[number] = members
        for member in members:
            self._link(member, number)
        return number

    def _link(self, patient: int, number: int) -> None:
        if self._pairs >= len(self._pair_row):
            self._pair_row = _grown(self._pair_row, self._pairs + 1, 0)
            self._pair_next = _grown(self._pair_next, self._pairs + 1, -1)
        self._pair_row[self._pairs] = number
        self._pair_next[self._pairs] = self._head[patient]
        self._head[patient] = self._pairs
        self._pairs += 1

    def _grow(self, least: int) -> None:
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray) and not name.startswith("_"):
                setattr(self, name, _grown(column, least, 0))


def _grown(column: npt.NDArray[Any], least: int, fill: float) -> npt.NDArray[Any]:
    """A copy with room for at least ``least`` elements, half as much again as before."""
    size = max(least, len(column) * 3 // 2, 64)
    grown = np.full(size, fill, dtype=column.dtype)
    grown[: len(column)] = column
    return grown
