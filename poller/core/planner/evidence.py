"""What passes found, laid upon background and visits, and the patients' activity. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from poller.core.planner.index import Index
from poller.core.planner.kernels import END, START, WIDTHS, Ints
from poller.core.planner.learning import MOST_AT_ONCE, Learned, bin_overlap
from poller.core.planner.prior import DAY, Floats
from poller.core.planner.rows import Rows
from poller.core.planner.visits import Visits

BULK = 20.0
"""A minute in which so many times more is found than usual is a migration's or a bulk edit's: nothing is learned from it."""

ACTIVITY_FADE = 0.99
"""What a day leaves of what was found of a patient: illness lasts longer than habits of a practice."""

VISIT_SAYS = 1.0
"""A visit says as much of a patient's activity as so many changes between visits: worth 3 % of the mean delay in ``schedule.py``."""

_USUAL_FADE = 0.999
_MINUTE = 60.0
_NOTHING = 0.001
_LONGEST_LIFE = 36 * 3600.0
"""What was found after a longer interval says nothing of the hour."""

Found = tuple[int, float, float, Mapping[int, int], Mapping[str, int] | None]


class Evidence:
    """Evidence on its way into :class:`Learned`, and how much was found of each patient."""

    def __init__(self, rows: Rows, visits: Visits, learned: Learned, index: Index) -> None:
        self._rows = rows
        self._visits = visits
        self._learned = learned
        self._index = index
        self._counts = np.zeros(0)
        self._minute = -1
        self._held: list[Found] = []
        self._usual = 0.0

    # --- passes

    def passes(self, numbers: Ints, began: float) -> None:
        """These rows were read by passes begun then; to be called before their ``last`` moves."""
        rows, index = self._rows, self._index
        life = (index.week.instant(began)[1] - rows.first[numbers]) * rows.mass[numbers] / DAY
        read = ~np.isnan(life)
        if not read.all():
            numbers, life = numbers[read], life[read]
        profiles = rows.profile[numbers]
        if index.single is not None:
            self._learned.passes(index.single[profiles], life)
            return
        for profile in np.unique(profiles):
            mine = life[profiles == profile]
            for kind in index.types_of_profiles()[profile]:
                self._learned.passes(np.full(len(mine), kind), mine)

    def found(
        self, number: int, last: float, began: float, found: Mapping[int, int], whom: Mapping[str, int] | None
    ) -> None:
        """What a pass found that was begun then, by type's number; kept until the minute is over."""
        self._turn(began)
        self._held.append((number, last, began, found, whom))

    def _turn(self, now: float) -> None:
        minute = int(now // _MINUTE)
        if minute == self._minute:
            return
        total = sum(sum(found.values()) for _, _, _, found, _ in self._held)
        if total <= BULK * max(self._usual, 1.0):
            for item in self._held:
                self._attribute(*item)
        passed = min(max(minute - self._minute, 1), 1440) if self._minute >= 0 else 1
        fade = _USUAL_FADE**passed
        self._usual = self._usual * fade + min(total, BULK * max(self._usual, 1.0)) * (1 - _USUAL_FADE)
        self._minute = minute
        self._held = []

    def _attribute(
        self, number: int, last: float, began: float, found: Mapping[int, int], whom: Mapping[str, int] | None
    ) -> None:
        week, learned = self._index.week, self._learned
        members = self._rows.members(number)
        life = (week.instant(began)[1] - week.instant(last)[1]) * float(self._rows.mass[number]) / DAY
        visits = self._visits_of(members, last, began)
        overlap = np.array([bin_overlap(last - start, began - start) for _, start in visits])
        explained = 0.0
        for kind, changes in found.items():
            count = min(changes, MOST_AT_ONCE)
            background = learned.rate[kind] * life
            spread = (
                overlap * np.array([learned.kernel[of_class, kind] for of_class, _ in visits])
                if visits
                else np.zeros((0, len(WIDTHS)))
            )
            total = background + float(spread.sum())
            likely = background / total if total > 0 else 1.0
            for (of_class, _), part in zip(visits, spread, strict=True):
                if total > 0:
                    learned.of_visit(of_class, kind, part * (count / total))
            learned.of_background(kind, life, count, likely)
            explained += count * likely
        if explained > 0:
            if began - last <= _LONGEST_LIFE:
                hours, parts = week.hours_between(last, began)
                learned.lived(hours, parts * explained)
            self._credit(members, explained, whom)

    def _visits_of(self, members: tuple[int, ...] | None, last: float, began: float) -> list[tuple[int, float]]:
        """Class and start of the visits whose kernels reach into the interval."""
        if members is None:
            _, classes, starts = self._visits.columns()
            near = (starts + START < began) & (starts + END > last)
            return list(zip(classes[near].tolist(), starts[near].tolist(), strict=True))
        return [
            (visit.of_class, visit.start)
            for member in members
            for visit in self._visits.of(member).values()
            if visit.start + START < began and visit.start + END > last
        ]

    # --- activity

    def _credit(self, members: tuple[int, ...] | None, changes: float, whom: Mapping[str, int] | None) -> None:
        if whom:
            total = sum(whom.values())
            shares = {
                self._rows.patients[patient]: count / total
                for patient, count in whom.items()
                if patient in self._rows.patients
            }
        elif members:
            shares = dict.fromkeys(members, 1 / len(members))
        else:
            return
        for patient, share in shares.items():
            self.restore(patient, self.count_of(patient) + changes * share)

    def seen_visit(self, patient: int) -> None:
        """A visit of a patient has come to be known: who comes often changes often between visits too."""
        self.restore(patient, self.count_of(patient) + VISIT_SAYS)

    def restore(self, patient: int, count: float) -> None:
        """Set how much was found of a patient."""
        if patient >= len(self._counts):
            self._counts = np.concatenate(
                [self._counts, np.zeros(max(patient + 1, 2 * len(self._counts)) - len(self._counts))]
            )
        self._counts[patient] = count

    def count_of(self, patient: int) -> float:
        """How much was found of a patient, faded."""
        return float(self._counts[patient]) if patient < len(self._counts) else 0.0

    def active(self) -> list[int]:
        """Patients of whom anything was found."""
        return [int(number) for number in np.flatnonzero(self._counts > _NOTHING)]

    def activity(self) -> Floats:
        """By patient's number: 1 in the mean."""
        count = len(self._rows.patients)
        if not count:
            return np.ones(0)
        found = np.zeros(count)
        known = min(count, len(self._counts))
        found[:known] = self._counts[:known]
        activity = 1 + found
        scaled: Floats = activity / activity.mean()
        return scaled

    # --- the day

    def take_stock(self, now: float, days: float) -> None:
        """Once a day: which lags of which visits rows have been read for, and all parameters anew."""
        self._turn(now + _MINUTE)
        rows, learned = self._rows, self._learned
        patients, classes, starts = self._visits.columns()
        numbers, origin = rows.of_patients(patients)
        wide = np.array(rows.wide, dtype=np.int64)
        numbers = np.concatenate([numbers, np.repeat(wide, len(patients))])
        origin = np.concatenate([origin, np.tile(np.arange(len(patients)), len(wide))])
        last, before = rows.last[numbers], rows.learned[numbers]
        read = last > before
        numbers, origin, last, before = numbers[read], origin[read], last[read], before[read]
        profile = rows.profile[numbers]
        for place, kinds in enumerate(self._index.types_of_profiles()):
            mine = profile == place
            if mine.any():
                start = starts[origin[mine]]
                for kind in kinds:
                    learned.visited(classes[origin[mine]], int(kind), before[mine] - start, last[mine] - start)
        rows.learned[: rows.count] = rows.last[: rows.count]
        population = max(len(rows.patients), self._index.population, 1)
        learned.learn(population, days)
        self._counts *= ACTIVITY_FADE**days
