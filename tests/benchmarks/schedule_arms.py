"""The policies that ``schedule.py`` compares, each against the same world and budget, in virtual time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from poller.core.planner import Lane, Planner, Row
from poller.core.planner.prior import EDGES
from tests.benchmarks.schedule_world import (
    BEGAN,
    CLASSES,
    DAY,
    ENCOUNTER,
    HOUR,
    TYPES,
    ZONE,
    Floats,
    Ints,
    World,
    local_hour,
    true_kernel,
)

TICK = 20.0
"""Seconds between two choices while delays are scored."""

COARSE = 300.0
"""Before that, while the planner learns."""

SIGNAL_CALLS = 20
SIGNAL_EVERY = 300.0
"""The signal: the days of twenty practitioners (a practice of 30,000 has), every five minutes: 4 calls a minute out of the same budget."""


BY_SIGNAL = 0.05
"""What a patient's own Encounter reads weigh beside that: the days show nearly all of their changes."""


def signal_calls(world: World) -> float:
    """Calls that one look at all practitioners' days takes."""
    return SIGNAL_CALLS * world.patients / 30_000


@dataclass(slots=True)
class Outcome:
    """What a policy came to."""

    name: str
    found: Floats
    """When each change was found; infinite if it was not."""
    calls: dict[str, float]
    longest: float
    """Longest time between two reads of a row, or from the last one to the end, in seconds."""
    broken: int = 0
    """Reads that came later than the promised ``max_staleness`` allowed."""
    cpu: float = 0.0
    """Seconds of CPU in the policy."""
    extra: dict[str, float] = field(default_factory=dict)
    prices: Floats = field(default_factory=lambda: np.zeros(168))
    """What a call was worth in each hour of the week."""


class Reading:
    """Reads of rows against a world: what each finds."""

    def __init__(self, world: World, began: Floats) -> None:
        self.world = world
        self.last = began.copy()
        self.found = np.full(len(world.time), np.inf)
        self._next = np.searchsorted(world.row, np.arange(world.rows))
        self._end = np.searchsorted(world.row, np.arange(world.rows) + 1)
        self.next_time = np.full(world.rows, np.inf)
        some = self._next < self._end
        self.next_time[some] = world.time[self._next[some]]
        self.longest = 0.0

    def read(self, rows: Ints, at: float) -> dict[int, int]:
        """Read rows; changes found by row, for those where there are any."""
        before = self.last[rows]
        self.longest = max(self.longest, float(np.nanmax(at - before, initial=0.0)))
        self.last[rows] = at
        found = {}
        for row in rows[self.next_time[rows] <= at]:
            first = place = int(self._next[row])
            end = int(self._end[row])
            while place < end and self.world.time[place] <= at:
                place += 1
            self.found[first:place] = at
            self._next[row] = place
            self.next_time[row] = self.world.time[place] if place < end else np.inf
            found[int(row)] = place - first
        return found


def spread(world: World, rng: np.random.Generator) -> Floats:
    """Last reads as a uniform sweep leaves them: over the day before."""
    return BEGAN - rng.random(world.rows) * DAY


# --- the controls


def periodic(name: str, world: World, period: Floats, seed: int, warm: float) -> Outcome:
    """Every row at a fixed period, with a random phase; in closed form."""
    rng = np.random.default_rng(seed)
    phase = rng.random(world.rows) * period
    wait = period[world.row]
    begun = BEGAN + phase[world.row]
    found = begun + np.ceil((world.time - begun) / wait) * wait
    end = BEGAN + world.days * DAY
    calls = int((world.days - warm) * DAY * (1 / period).sum())
    return Outcome(name, np.where(found <= end, found, np.inf), {"detect": float(calls)}, float(period.max()))


def uniform(world: World, calls_per_minute: float, seed: int, warm: float) -> Outcome:
    """Every row in turn."""
    return periodic("uniform", world, np.full(world.rows, world.rows / calls_per_minute * 60), seed, warm)


def square_root(world: World, calls_per_minute: float, seed: int, warm: float) -> Outcome:
    """f ∝ √λ with each row's true mean rate, visits included: the best that is constant in time."""
    rate = mean_rates(world)
    often = np.sqrt(rate)
    often *= calls_per_minute / 60 / often.sum()
    return periodic("root", world, 1 / often, seed, warm)


def proportional(world: World, calls_per_minute: float, seed: int, warm: float) -> Outcome:
    """f ∝ λ with each row's true mean rate."""
    rate = mean_rates(world)
    return periodic("proportional", world, 1 / (rate * calls_per_minute / 60 / rate.sum()), seed, warm)


def mean_rates(world: World) -> Floats:
    """True changes a second of each row, over the whole run."""
    rate = np.outer(world.activity, world.rate)
    brought = true_kernel(world, [-HOUR, 20 * DAY])[:, :, 0]
    likely = world.activity**0.7
    for of_class in range(len(CLASSES)):
        visits = float((world.visits.of_class == of_class).sum()) / (world.days + 5)
        rate += np.outer(likely / likely.sum() * visits, brought[of_class])
    flat: Floats = rate.ravel() / DAY
    return flat


def tiers(world: World, calls_per_minute: float, seed: int, warm: float) -> Outcome:
    """Ten minutes for twelve hours after a visit, four hours until the fifth day, a day for the rest; with the signal."""
    reading = Reading(world, spread(world, np.random.default_rng(seed)))
    step, calls = 300.0, 0
    count = int((calls_per_minute - signal_calls(world) / SIGNAL_EVERY * 60) * step / 60)
    visits = world.visits
    end = BEGAN + world.days * DAY
    now = BEGAN
    while now < end:
        now += step
        every = np.full(world.patients, DAY)
        early = (visits.visible <= now) & (visits.start > now - 4.5 * DAY)
        every[visits.patient[early]] = 4 * HOUR
        late = early & (visits.start > now - 12 * HOUR)
        every[visits.patient[late]] = 600.0
        overdue = (now - reading.last.reshape(world.patients, -1)) / every[:, None]
        overdue[world.appears > now] = -1
        chosen = np.argpartition(-overdue.ravel(), count)[:count]
        for place, part in enumerate(np.array_split(chosen, 10)):
            reading.read(part, now - step + (place + 1) * step / 10)
        calls += count if now > BEGAN + warm * DAY else 0
    return Outcome("tiers", reading.found, {"detect": float(calls)}, reading.longest)


# --- ours


@dataclass(frozen=True, slots=True)
class Settings:
    """How the planner is run."""

    name: str
    calls_per_minute: float = 250.0
    signal: bool = True
    known: bool = False
    """Whether it is given the true parameters, and does not learn."""
    patients_known: bool = True
    """Whether these hold each patient's activity, of which no practice ever shows enough to know it."""
    learn: bool = True
    limit: float | None = None
    """A ``max_staleness`` for every row, in seconds."""
    signal_lost: tuple[float, float] | None = None
    """From and until which day there is no signal."""
    skew: float = 0.0
    """Seconds by which the times of visits are off."""
    storms: tuple[tuple[float, float, float], ...] = ()
    """From and until which day only this part of the calls is there."""
    per_call: int = 1


def ours(world: World, settings: Settings, seed: int, warm: float) -> Outcome:
    """The planner that ships, in virtual time."""
    run = _Run(world, settings, seed, warm)
    end = BEGAN + world.days * DAY
    began = time.process_time()
    while run.now < end:
        run.step(TICK if run.now >= BEGAN + warm * DAY - HOUR else COARSE)
    run.outcome.extra["cpu_all"] = time.process_time() - began
    return run.close()


class _Run:
    """One run of the planner."""

    def __init__(self, world: World, settings: Settings, seed: int, warm: float) -> None:
        self.world, self.settings = world, settings
        self.now = BEGAN
        self._scored = BEGAN + warm * DAY
        first = spread(world, np.random.default_rng(seed))
        there = np.repeat(world.appears <= BEGAN, len(TYPES))
        first[~there] = np.nan
        self.reading = Reading(world, first)
        self.planner = Planner(
            zone=ZONE,
            calls_per_minute=settings.calls_per_minute,
            signal=settings.signal,
            weights={"Encounter": BY_SIGNAL} if settings.signal else None,
            state=_true_state(world, patients=settings.patients_known) if settings.known else None,
        )
        self._row_of: dict[int, int] = {}  # the planner's number → the world's row
        self._world_row = np.zeros(world.rows, dtype=np.int64)
        self._added = 0
        self._waiting = np.argsort(world.appears, kind="stable")
        self._new = 0
        self._by_visible = np.argsort(world.visits.visible, kind="stable")
        self._visit = 0
        self._cancels = np.argsort(world.visits.cancelled, kind="stable")
        self._cancel = 0
        self._of_patient: dict[int, list[int]] = {}
        for place, patient in enumerate(world.visits.patient):
            self._of_patient.setdefault(int(patient), []).append(place)
        self._known_visits: set[int] = set()
        self._credit = 0.0
        self._price = np.zeros((168, 2))
        self._signal_calls = signal_calls(world)
        self._next_signal = BEGAN
        self._next_learn = BEGAN + 26 * HOUR
        self._calls = {lane.value: 0.0 for lane in Lane} | {"signal": 0.0}
        self.outcome = Outcome(settings.name, self.reading.found, self._calls, 0.0)
        self.kinds: Ints = np.zeros(0, dtype=np.int64)
        self._arrive()
        self.kinds = np.array([self.planner.type_number(name) for name in TYPES])

    def _arrive(self) -> None:
        rows: list[Row] = []
        world = self.world
        while self._new < world.patients and world.appears[self._waiting[self._new]] <= self.now:
            patient = int(self._waiting[self._new])
            self._new += 1
            for kind, name in enumerate(TYPES):
                row = patient * len(TYPES) + kind
                last = float(self.reading.last[row])
                self._world_row[self._added] = row
                self._added += 1
                rows.append(
                    Row(
                        f"{name}/{patient}",
                        (name,),
                        (str(patient),),
                        max_staleness=self.settings.limit,
                        last=None if np.isnan(last) else last,
                    )
                )
        if rows:
            self.planner.add(rows, self.now)

    def step(self, tick: float) -> None:
        """What happens until the next choice."""
        settings, now = self.settings, self.now
        day = (now - BEGAN) / DAY
        rate = settings.calls_per_minute
        for since, until, part in settings.storms:
            if since <= day < until:
                rate *= part
        self._credit = min(self._credit + rate * tick / 60, rate * tick / 60 + 1)
        signal = settings.signal and not (
            settings.signal_lost and settings.signal_lost[0] <= day < settings.signal_lost[1]
        )
        if settings.signal_lost:
            self.planner.set_signal(signal)
        if signal and now >= self._next_signal:
            self._credit -= self._signal_calls
            self._calls["signal"] += self._signal_calls if now >= self._scored else 0.0
            self._next_signal = now + SIGNAL_EVERY
            self._see_all()
        self._arrive()
        count = int(self._credit)
        began = time.process_time()
        chosen = self.planner.choose_rows(now, count * settings.per_call, _NONE)
        spent = time.process_time() - began
        self._credit -= len(chosen) / settings.per_call
        if chosen:
            spent += self._read(chosen)
            self._price[int(local_hour(np.array([now]))[0])] += (self.planner.price, 1)
        if now >= self._next_learn:
            self._next_learn += DAY
            if settings.learn and not settings.known:
                began = time.process_time()
                self.planner.learn(now)
                spent += time.process_time() - began
        if now >= self._scored:
            self.outcome.cpu += spent
        self.now += tick

    def _read(self, chosen: list[tuple[int, Lane]]) -> float:
        numbers = np.array([number for number, _ in chosen], dtype=np.int64)
        rows = self._world_row[numbers]
        now, settings = self.now, self.settings
        if now >= self._scored:
            for _, lane in chosen:
                self._calls[lane.value] += 1
            if settings.limit is not None:
                gone = now - self.reading.last[rows]
                self.outcome.broken += int((gone > settings.limit).sum())
        first = {int(row) for row in rows[np.isnan(self.reading.last[rows])]}
        found = self.reading.read(rows, now)
        began = time.process_time()
        for number, row in zip(
            numbers[np.isin(rows, list(found))] if found else (), [r for r in rows.tolist() if r in found], strict=True
        ):
            if row not in first:
                self.planner.note_found(int(number), now, {int(self.kinds[row % len(TYPES)]): found[row]})
        self.planner.note_reads(numbers, now)
        spent = time.process_time() - began
        for row in rows[rows % len(TYPES) == ENCOUNTER].tolist():
            patient = row // len(TYPES)
            for place in self._of_patient.get(patient, ()):
                self._see(place)
        return spent

    def _see_all(self) -> None:
        visits = self.world.visits
        while self._visit < len(self._by_visible) and visits.visible[self._by_visible[self._visit]] <= self.now:
            self._see(int(self._by_visible[self._visit]))
            self._visit += 1
        while self._cancel < len(self._cancels) and visits.cancelled[self._cancels[self._cancel]] <= self.now:
            self._tell(int(self._cancels[self._cancel]), "cancelled")
            self._cancel += 1

    def _see(self, place: int) -> None:
        visits = self.world.visits
        if visits.visible[place] > self.now:
            return
        if visits.cancelled[place] <= self.now:
            self._tell(place, "cancelled")
        elif place not in self._known_visits:
            self._known_visits.add(place)
            self._tell(place, "finished")

    def _tell(self, place: int, status: str) -> None:
        visits = self.world.visits
        self.planner.note_visit(
            str(visits.patient[place]),
            float(visits.start[place]) + self.settings.skew,
            CLASSES[int(visits.of_class[place])],
            status,
            self.now,
            f"e{place}",
        )

    def close(self) -> Outcome:
        """What it came to."""
        end = BEGAN + self.world.days * DAY
        last = self.reading.last[~np.isnan(self.reading.last)]
        self.outcome.longest = max(self.reading.longest, float((end - last).max()))
        self.outcome.prices = self._price[:, 0] / np.maximum(self._price[:, 1], 1)
        return self.outcome


_NONE = np.zeros(0, dtype=np.int64)


def _true_state(world: World, *, patients: bool) -> dict[str, object]:
    kernel = true_kernel(world, EDGES)
    types = {
        name: {
            "rate": float(world.rate[kind]),
            "kernel": kernel[:, kind].tolist(),
            "of_visits": kernel[:, kind].tolist(),
            "visited": np.zeros_like(kernel[:, kind]).tolist(),
            "intervals": {},
            "positive": {},
            "exposure": {},
            "changes": 0.0,
            "events": 0.0,
        }
        for kind, name in enumerate(TYPES)
    }
    active = {str(patient): {"found": max(float(100 * part - 1), 0.0)} for patient, part in enumerate(world.activity)}
    return {"practice": {"types": types, "week": world.week.tolist()}, "patients": active if patients else {}}
