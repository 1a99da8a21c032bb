"""Which of a practice's targets are worth the next calls. Pure: ``now`` in, targets out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from poller.core.planner import prior
from poller.core.planner.deadlines import DeadlineLane
from poller.core.planner.evidence import Evidence
from poller.core.planner.first import SHARE as FIRST_SHARE
from poller.core.planner.first import FirstLane
from poller.core.planner.forecast import Forecast, Knowledge, Population, foresee
from poller.core.planner.index import FULL_EVERY, GAP, WARM_EVERY, Index
from poller.core.planner.kernels import Ints
from poller.core.planner.learning import Learned
from poller.core.planner.prior import DAY
from poller.core.planner.rows import Row, Rows
from poller.core.planner.steering import Steering
from poller.core.planner.visits import AHEAD, KEPT, NOT_HELD, Visit, Visits

_COST_FOLLOWS = 0.2
"""By how much of the difference the expected cost follows a pass."""

PLAN_LEAST = 15.0
"""Seconds between two plans of the deadline lane at the least."""


class Lane(StrEnum):
    """Why a row was chosen."""

    DEADLINE = "deadline"
    """So that its ``max_staleness`` is kept."""
    FIRST = "first"
    """It was never read."""
    INDEX = "index"
    """Most is to be expected of it."""


class Choice(NamedTuple):
    """A row to be read now."""

    key: str
    lane: Lane


class Planner:
    """The planner of one practice.

    Not safe for threads: everything but a constructor must be called from one at a time. Instants are seconds since 1970.
    """

    def __init__(
        self,
        *,
        zone: dt.tzinfo,
        calls_per_minute: float,
        weights: Mapping[str, float] | None = None,
        aims: Mapping[str, float] | None = None,
        population: int = 0,
        signal: bool = False,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """A planner without rows yet; see :meth:`add`.

        ``zone``: the practice's; ``calls_per_minute``: what it may spend on detection; ``weights``: by type (1 where not given), what a
        minute's delay is worth; ``aims``: by type, a median delay to be had, in seconds; ``population``: patients, where no rows name
        them; ``signal``: whether visits come to be known without reading each patient's encounters; ``state``: of :meth:`state`, from
        before.
        """
        self._rows = Rows()
        self._visits = Visits()
        self._learned = Learned.restore((state or {}).get("practice", {}))
        self._index = Index(self._rows, self._visits, self._learned, zone)
        self._index.population = population
        self._evidence = Evidence(self._rows, self._visits, self._learned, self._index)
        self._deadlines = DeadlineLane()
        self._first = FirstLane(self._rows, self._index)
        self._steering = Steering(self._learned, weights or {}, aims or {})
        self._steering.restore((state or {}).get("practice", {}))
        self._steering.signal = signal
        self._rate = calls_per_minute / 60
        self._next_full = self._next_warm = self._next_plan = -np.inf
        self._paused: frozenset[str] = frozenset()
        self._stale = True
        self._touched: set[int] = set()
        self.learned_at: float | None = (state or {}).get("practice", {}).get("learned_at")
        self._kept: dict[str, Any] = dict((state or {}).get("patients", {}))

    # --- what there is to read

    def add(self, rows: Iterable[Row], now: float) -> None:
        """Take rows in; one whose key is known takes the new cost and limit, and ``last`` where that is later.

        A Python loop of some microseconds a row: many can be added in pieces.
        """
        known = len(self._rows.patients)
        profiles = len(self._rows.profiles)
        new = np.array(self._rows.add(rows, now), dtype=np.int64)
        for types in list(self._rows.profiles)[profiles:]:
            for name in types:
                self._learned.type_number(name)
            self._stale = True
        if self._kept and len(self._rows.patients) > known:
            self._restore_patients(list(self._rows.patients)[known:], now)
        if not len(new):
            return
        self._index.weigh(new)
        self._rows.first[new] = self._index.week.first(self._rows.last[new])
        self._rows.second[new] = self._index.week.second(self._rows.last[new])
        self._first.add(self._open(new))
        self._join(new[~np.isnan(self._rows.last[new])], now)
        if len(new) > len(self._rows.numbers) // 100:
            self._next_full = -np.inf

    def retire(self, keys: Collection[str]) -> None:
        """Take rows away; keys that are not known are passed over."""
        numbers = [self._rows.numbers[key] for key in keys if key in self._rows.numbers]
        self._first.was_read(int(np.isnan(self._rows.last[numbers]).sum()) if numbers else 0)
        self._rows.retire(self._rows.names[number] for number in numbers)
        for number in numbers:
            self._index.shut(number)

    def __len__(self) -> int:
        return len(self._rows.numbers)

    def reads(self, key: str) -> tuple[str, ...] | None:
        """The types of a row; None if there is no such row."""
        number = self._rows.numbers.get(key)
        return None if number is None else self._rows.types[self._rows.profile[number]]

    @property
    def unread(self) -> int:
        """How many rows were never read."""
        return self._first.waiting

    def __contains__(self, key: object) -> bool:
        return key in self._rows.numbers

    # --- what the operator says

    def set_rate(self, calls_per_minute: float) -> None:
        """What may be spent on detection from now on: lower while a server locks us out, or others share the limit."""
        self._rate = max(calls_per_minute, 1e-3) / 60

    def set_signal(self, known: bool) -> None:
        """Whether visits come to be known without reading each patient's encounters; if not, these reads weigh more."""
        if self._steering.signal != known:
            self._steering.signal = known
            self._stale = True

    def set_population(self, patients: int) -> None:
        """How many patients there are, where no rows name them."""
        self._index.population = patients
        self._stale = True

    def set_limits(self, limits: Mapping[str, float]) -> None:
        """``max_staleness`` in seconds by type; a row has the shortest of its types', one whose types have none has none."""
        rows = self._rows
        shortest = [min((limits[name] for name in types if name in limits), default=np.inf) for types in rows.types]
        limit = np.array([*shortest, np.inf])[rows.profile[: rows.count]]
        if (limit != rows.limit[: rows.count]).any():
            rows.limit[: rows.count] = limit
            self._next_plan = -np.inf

    def close(self, feeds: Collection[str]) -> None:
        """Leave rows that read nothing but these resource types to the other lanes: their hours are over."""
        self._index.close(frozenset(feeds))

    def pause(self, feeds: Collection[str]) -> None:
        """Choose no row, in no lane, that reads nothing but these resource types.

        Whoever passed over them one by one instead would come to nothing else, where thousands of them are overdue or were never read.
        """
        self._paused = frozenset(feeds)
        self._index.pause(self._paused)
        self._next_full = -np.inf

    def _open(self, numbers: Ints) -> Ints:
        """Those of these rows that are not paused."""
        if not self._paused:
            return numbers
        rows = self._rows
        shut = np.array([self._paused.issuperset(name.partition("/")[0] for name in types) for types in rows.types])
        found: Ints = numbers[~shut[rows.profile[numbers]]]
        return found

    def steer(self, weights: Mapping[str, float], aims: Mapping[str, float]) -> None:
        """Other weights and aims, by type; as in the constructor."""
        self._steering.set(weights, aims)
        self._stale = True

    def correct(self, measured: Mapping[str, float]) -> dict[str, float]:
        """Measured median delays (seconds, by type): aims that are missed weigh more from now on; what is set, by type.

        To be called about daily: a correction needs time to show.
        """
        self._stale = True
        return self._steering.correct(measured)

    # --- what is to be read now

    def choose(self, now: float, count: int, busy: Collection[str] = (), *, first: float = FIRST_SHARE) -> list[Choice]:
        """At most ``count`` rows to read now, most urgent first; none whose key is in ``busy``, none twice.

        Fewer come where all others were begun within the last second or are held back. ``first``: the part that a first load may take
        while anything else is worth a call.
        """
        numbers = self._rows.numbers
        under_way = np.array([numbers[key] for key in busy if key in numbers], dtype=np.int64)
        names = self._rows.names
        return [Choice(names[number], lane) for number, lane in self.choose_rows(now, count, under_way, first=first)]

    def choose_rows(self, now: float, count: int, busy: Ints, *, first: float = FIRST_SHARE) -> list[tuple[int, Lane]]:
        """As :meth:`choose`, by the rows' numbers."""
        self._prepare(now)
        rows = self._rows
        if count <= 0 or not rows.count:
            return []
        due = self._deadlines.take(now, count, rows, set(busy.tolist()), GAP)
        chosen = [(number, Lane.DEADLINE) for number in due]
        taken = np.concatenate([busy, np.array(due, dtype=np.int64)])
        left = count - len(chosen)
        unread = self._first.take(now, left, taken, share=first)
        chosen += [(number, Lane.FIRST) for number in unread]
        taken = np.concatenate([taken, np.array(unread, dtype=np.int64)])
        best = self._index.best(now, count - len(chosen), taken)
        chosen += [(number, Lane.INDEX) for number in best]
        if len(chosen) < count:  # nothing else is worth a call: get on with the first load
            more = self._first.take(
                now, count - len(chosen), np.concatenate([taken, np.array(best, dtype=np.int64)]), share=1.0
            )
            chosen += [(number, Lane.FIRST) for number in more]
        return chosen

    def defer(self, key: str, until: float) -> None:
        """Do not choose a row before then: its pass failed, or its hours are over."""
        number = self._rows.numbers.get(key)
        if number is not None:
            self._rows.held[number] = until
            self._index.shut(number)

    # --- what came of it

    def note_pass(
        self, key: str, began: float, found: Mapping[str, int] | None = None, whom: Mapping[str, int] | None = None
    ) -> None:
        """That a row was read whole by a pass begun then, and what it found.

        ``found``: changes by type, {} for none; None where nothing is to be learned from it, as of a baseline or a pass after a gap of
        another kind. ``whom``: changes by patient, where the row reads several. Unknown keys are passed over.
        """
        number = self._rows.numbers.get(key)
        if number is None:
            return
        last = float(self._rows.last[number])
        if not np.isnan(last) and began <= last:
            return
        learn = found is not None and not np.isnan(last)
        self.note_reads(np.array([number], dtype=np.int64), began, learn=learn)
        if learn and found:
            self._evidence.found(
                number, last, began, {self._learned.type_number(name): n for name, n in found.items()}, whom
            )

    def note_cost(self, key: str, calls: float) -> None:
        """How many calls a pass of a row took: what it is expected to take follows."""
        number = self._rows.numbers.get(key)
        if number is not None:
            self._rows.cost[number] += (calls - self._rows.cost[number]) * _COST_FOLLOWS

    def note_reads(self, numbers: Ints, began: float, *, learn: bool = True) -> None:
        """That these rows (by number, none twice) were read by passes begun then; what they found is told to :meth:`note_found` before."""
        self._tune(began)
        if learn:
            self._evidence.passes(numbers, began)
        else:
            self._rows.learned[numbers] = began
        unread = np.isnan(self._rows.last[numbers])
        self._rows.last[numbers] = began
        if unread.any():
            self._first.was_read(int(unread.sum()))
            self._rows.learned[numbers[unread]] = began
            self._join(numbers[unread], began)
        self._index.was_read(numbers, began)

    def note_found(self, number: int, began: float, found: Mapping[int, int]) -> None:
        """What the pass of a row (by number) found, by type's number; before :meth:`note_reads` of the same pass."""
        self._tune(began)
        last = float(self._rows.last[number])
        if not np.isnan(last) and found:
            self._evidence.found(number, last, began, found, None)

    def type_number(self, name: str) -> int:
        """The number by which :meth:`note_found` knows a type."""
        return self._learned.type_number(name)

    def note_visit(
        self, patient: str, start: float, visit_class: str | None, status: str | None, now: float, reference: str = ""
    ) -> None:
        """A visit, planned, under way or over, as an Encounter or Appointment tells of it.

        ``start``: ``period.start``, not when the encounter was created; ``visit_class``: the code of ``Encounter.class``; ``reference``:
        what tells visits of a patient apart (the encounter's id), so that one that is told again moves, or is taken back when it was
        cancelled. What is too long ago or too far ahead counts for nothing.
        """
        number = self._rows.patient_number(patient)
        held = status not in NOT_HELD and now - KEPT < start < now + AHEAD
        of_class = prior.class_of(visit_class)
        if held and reference not in self._visits.of(number):
            self._learned.seen_visit(of_class)
            self._evidence.seen_visit(number)
        if self._visits.note(number, reference or str(start), Visit(start, of_class) if held else None):
            self._touched.add(number)

    # --- learning

    def learn(self, now: float) -> None:
        """Take all rates anew from what was found; about daily, at a quiet hour. Some tens of milliseconds."""
        days = min((now - self.learned_at) / DAY, 7.0) if self.learned_at is not None else 1.0
        self._evidence.take_stock(now, max(days, 0.0))
        self.learned_at = now
        self._visits.expire(now)
        self._stale = True

    def state(self) -> dict[str, Any]:
        """What was learned: ``practice``, small, and ``patients`` by id, for those of whom there is something to keep.

        Values are such as JSON takes. Rows are not in it: their ``last`` is the targets'.
        """
        names = list(self._rows.patients)
        kept: dict[str, Any] = {patient: dict(entry) for patient, entry in self._kept.items()}
        for number in self._evidence.active():
            kept.setdefault(names[number], {})["found"] = self._evidence.count_of(number)
        for number, reference, visit in self._visits:
            kept.setdefault(names[number], {}).setdefault("visits", {})[reference] = [visit.start, visit.of_class]
        practice = self._learned.state() | self._steering.state() | {"learned_at": self.learned_at}
        return {"practice": practice, "patients": kept}

    @classmethod
    def restore(cls, state: Mapping[str, Any], **settings: Any) -> Planner:
        """A planner that goes on from a state; ``settings`` as for the constructor. Its rows are to be added."""
        return cls(state=state, **settings)

    def _restore_patients(self, patients: Iterable[str], now: float) -> None:
        for patient in patients:
            entry = self._kept.pop(patient, None)
            if entry is None:
                continue
            number = self._rows.patient_number(patient)
            self._evidence.restore(number, float(entry.get("found", 0.0)))
            for reference, (start, of_class) in entry.get("visits", {}).items():
                if now - KEPT < start:
                    self._visits.note(number, reference, Visit(float(start), int(of_class)))
        self._stale = True

    # --- what to expect

    def knowledge(self) -> Knowledge:
        """What is known of the types and visits, for :func:`poller.core.planner.forecast.foresee`."""
        weights = self._steering.weights()
        return Knowledge(
            types=dict(self._learned.types),
            rate=self._learned.rate.copy(),
            kernel=self._learned.kernel.copy(),
            week=self._learned.week.copy(),
            visits=self._learned.visits.copy(),
            weights=weights,
            signal=self._steering.signal,
        )

    def forecast(self, calls_per_minute: float | None = None) -> Forecast:
        """What delays to expect of these rows at this rate, by type; see :func:`poller.core.planner.forecast.foresee`."""
        rows = self._rows
        count = rows.count
        alive = rows.alive[:count]
        populations = []
        for types, profile in rows.profiles.items():
            mine = np.flatnonzero(alive & (rows.profile[:count] == profile))
            for limit in np.unique(rows.limit[mine]):
                these = mine[rows.limit[mine] == limit]
                populations.append(
                    Population(
                        types=types,
                        count=len(these),
                        mass=float(rows.mass[these].mean()),
                        cost=float(rows.cost[these].mean()),
                        max_staleness=None if np.isinf(limit) else float(limit),
                    )
                )
        rate = self._rate * 60 if calls_per_minute is None else calls_per_minute
        return foresee(populations, self.knowledge(), rate)

    @property
    def price(self) -> float:
        """Expected weighted staleness (changes times seconds) for which a call was spent last; more when calls are scarce."""
        return self._index.price

    # --- within

    @property
    def rows(self) -> Rows:
        """The rows, as arrays; to be read only."""
        return self._rows

    def _tune(self, now: float) -> None:
        """Let the index know rows, rates and weights as they are; a pass may end before anything was chosen."""
        if self._stale or now > self._index.week.until - DAY:
            self._steering.refresh()
            self._index.activity = self._evidence.activity()
            self._index.retune(self._steering.weights(), now, signal=self._steering.signal)
            self._stale = False
            self._next_full = -np.inf

    def _prepare(self, now: float) -> None:
        self._tune(now)
        if now >= self._next_full:
            self._index.rank_all(now, self._rate)
            self._first.rank(now, self._open)
            self._next_plan = -np.inf
            self._next_full, self._next_warm = now + FULL_EVERY, now + WARM_EVERY
            self._touched.clear()
        elif now >= self._next_warm:
            self._index.rank_warm(now, self._rate)
            self._refresh_deadlines(now)
            self._next_warm = now + WARM_EVERY
            self._touched.clear()
        elif self._touched:
            self._index.touch(np.array(sorted(self._touched), dtype=np.int64), now)
            self._touched.clear()
        if now >= self._next_plan:
            self._plan_deadlines(now)

    def _join(self, numbers: Ints, now: float) -> None:
        """Let rows be chosen by the index that could not be before."""
        if len(numbers):
            self._next_warm = min(self._next_warm, now if self._index.join(numbers) else now + WARM_EVERY / 4)

    def _plan_deadlines(self, now: float) -> None:
        rows, count = self._rows, self._rows.count
        bound = np.flatnonzero(rows.alive[:count] & np.isfinite(rows.limit[:count]) & ~np.isnan(rows.last[:count]))
        bound = self._open(bound)
        deadlines = rows.last[bound] + rows.limit[bound]
        # what is read until the next plan, be it for the first time, must not be owed again before it
        shortest = rows.limit[:count][rows.alive[:count]].min(initial=np.inf)
        horizon = float(np.clip(shortest / 4, PLAN_LEAST, FULL_EVERY))
        self._next_plan = now + horizon
        self._deadlines.plan(now, bound, deadlines, rows.cost[bound], rows.limit[bound], self._rate, horizon)

    def _refresh_deadlines(self, now: float) -> None:
        rows, queue = self._rows, self._deadlines.queue
        self._deadlines.refresh(now, rows.last[queue] + rows.limit[queue], rows.cost[queue], self._rate)
