"""Who was there, or will be: the visits from which changes are expected. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from poller.core.planner.kernels import END, Ints
from poller.core.planner.prior import DAY, Floats

KEPT = END + 1.5 * DAY
"""Seconds after its start for which a visit is kept: its kernel, and until the next day's learning has seen what came of it."""

AHEAD = 14 * DAY
"""Seconds before its start from which on a planned visit is kept; it is told again when it comes nearer."""

NOT_HELD = frozenset({"cancelled", "entered-in-error", "noshow"})
"""Statuses of an Encounter or Appointment that brings nothing."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One visit: its start (seconds since 1970) and class (index in :data:`poller.core.planner.prior.CLASSES`)."""

    start: float
    of_class: int


class Visits:
    """Visits by patient's number and a reference that tells a patient's visits apart."""

    def __init__(self) -> None:
        self._of: dict[int, dict[str, Visit]] = {}
        self._columns: tuple[Ints, Ints, Floats] | None = None

    def note(self, patient: int, reference: str, visit: Visit | None) -> bool:
        """Set a visit, or take it away (None); whether that changes anything."""
        known = self._of.get(patient, {}).get(reference)
        if known == visit:
            return False
        self._columns = None
        if visit is None:
            del self._of[patient][reference]
            if not self._of[patient]:
                del self._of[patient]
        else:
            self._of.setdefault(patient, {})[reference] = visit
        return True

    def expire(self, now: float) -> list[int]:
        """Forget what is long past; the patients whose visits have become fewer."""
        old = [
            (patient, reference)
            for patient, visits in self._of.items()
            for reference, visit in visits.items()
            if visit.start < now - KEPT
        ]
        for patient, reference in old:
            self.note(patient, reference, None)
        return [patient for patient, _ in old]

    def of(self, patient: int) -> dict[str, Visit]:
        """The visits of a patient."""
        return self._of.get(patient, {})

    def __len__(self) -> int:
        return sum(len(visits) for visits in self._of.values())

    def __iter__(self) -> Iterator[tuple[int, str, Visit]]:
        for patient, visits in self._of.items():
            for reference, visit in visits.items():
                yield patient, reference, visit

    def columns(self) -> tuple[Ints, Ints, Floats]:
        """Patients, classes and starts of all visits."""
        if self._columns is None:
            every = [(patient, visit.of_class, visit.start) for patient, _, visit in self]
            self._columns = (
                np.array([row[0] for row in every], dtype=np.int64),
                np.array([row[1] for row in every], dtype=np.int64),
                np.array([row[2] for row in every], dtype=float),
            )
        return self._columns
