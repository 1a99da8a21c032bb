"""The targets of one practice: which there are, what is known of each, and when each is owed a pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from poller.clock import Clock
from poller.config import PracticeConfig
from poller.core import plan
from poller.core.model import EVERY_TYPE, Kind, Strategy, Target
from poller.core.plan import PatientState, Schedule, TargetState
from poller.schedules import lateness_schedules, schedules_of_several, schedules_of_type
from poller.store.repository import Lease
from poller.store.state import StateStore

_ENUMERATING = frozenset({Kind.NAMES, Kind.SWEEP})
"""Kinds that show all patients; of the Patient feed."""

_MANY = 5_000
"""More patients or targets than these are gone through on a thread."""

_AT_ONCE = 1000
"""Targets that are given what is stored in one transaction."""


async def _nothing() -> None:
    """Nobody listens."""


class Targets:
    """Follows strategies and patients, and holds what the store knows of each target in force."""

    def __init__(self, config: PracticeConfig, lease: Lease, store: StateStore, clock: Clock) -> None:
        self._config = config
        self._lease = lease
        self._store = store
        self._clock = clock
        self._patients: list[PatientState] = []
        self._groups: dict[str, tuple[str, ...]] = {}
        self._strategies: dict[str, Strategy] = {}
        self._loading = asyncio.Lock()
        self.states: dict[str, TargetState] = {}
        """By the target's key. Never log one."""
        self.watched: dict[str, TargetState] = {}
        """Those of them that a schedule, a failure or a doubt may owe a pass; the others are the planner's alone."""
        self.after_load: Callable[[], Awaitable[None]] = _nothing
        """Told when targets have come or gone."""
        self.after_reload: Callable[[TargetState], None] = lambda _: None
        """Told what is known of a target by now."""
        self._enumerating: list[str] = []
        self.schedules: dict[tuple[str, Kind], Schedule] = {}
        """By resource type and kind."""

    @property
    def strategies(self) -> Mapping[str, Strategy]:
        """How each feed is read; those that are not read yet are left out."""
        return self._strategies

    @property
    def has_orphans(self) -> bool:
        """Whether patients who are gone are still asked for."""
        return any(state.orphan for state in self.states.values())

    async def load_patients(self) -> None:
        """Take the patients from the store, before any target is registered."""
        self._patients = await asyncio.to_thread(self._store.patients, self._config.code)

    def sample(self, size: int) -> list[str]:
        """Patients for questions about the server: some that were found first, some found last."""
        known = [patient.id for patient in self._patients if not patient.gone]
        return list(dict.fromkeys([*known[: size // 2], *reversed(known[-(size - size // 2) :])])) if known else []

    async def adopt(self, resource_type: str, strategy: Strategy) -> None:
        """Read a feed by this strategy from now on."""
        before = self._strategies.get(resource_type)
        self._strategies[resource_type] = strategy
        self._schedule(resource_type, strategy)
        several = strategy.is_of_everything or (before is not None and before.is_of_everything)
        await self.register([resource_type, *([EVERY_TYPE] if several else [])])

    async def adopt_all(self, strategies: Mapping[str, Strategy]) -> None:
        """Read feeds as they were read before. Together: what reads several would seem to read one more with each of them."""
        self._strategies |= strategies
        for resource_type, strategy in strategies.items():
            self._schedule(resource_type, strategy)
        await self.register([*strategies, EVERY_TYPE])

    def _schedule(self, resource_type: str, strategy: Strategy) -> None:
        self.schedules |= schedules_of_type(self._config, resource_type, strategy)
        for kind in (Kind.EVERYTHING, Kind.EVERYTHING_WINDOW):
            self.schedules.pop((EVERY_TYPE, kind), None)
        self.schedules |= schedules_of_several(self._config, self._strategies)

    def schedules_of(self, feed: str) -> Mapping[tuple[str, Kind], Schedule]:
        """The schedules by which one feed is late; of passes that serve several feeds, only what this one asks of them."""
        return lateness_schedules(self._config, feed, self._strategies[feed], self.schedules)

    async def take_in(self) -> None:
        """Let targets miss what is stored of their patients, also what they never showed: an export shows it as it was once."""
        targets = [state.target for state in list(self.states.values())]
        for start in range(0, len(targets), _AT_ONCE):
            await asyncio.to_thread(self._store.seed, self._lease, targets[start : start + _AT_ONCE])

    async def register(self, resource_types: Sequence[str] | None = None) -> None:
        """Bring targets in line with strategies and patients, and load what is known of them.

        One at a time: an older list of patients would retire the targets of those found since, and what was loaded earlier would put a
        target back to before its last pass.
        """
        async with self._loading:
            await self._register(resource_types)

    async def _register(self, resource_types: Sequence[str] | None) -> None:
        await self.load_patients()
        enumerating = [self.states[key] for key in self._enumerating if key in self.states]
        enumerated = not any(state.target.kind is Kind.NAMES and state.baseline_at is None for state in enumerating)
        self._groups = plan.groups_of(self._patients, self._config.patients_per_call, enumerated=enumerated)
        # At a start all are in force already, as a rule: then one look does, where a thousand practices begin at once.
        loaded = await self._load(None) if not self.states else None
        for resource_type in resource_types or [*self._strategies, EVERY_TYPE]:
            now = self._clock.now()
            # Lists of hundreds of thousands would keep all else waiting; for a few the way to a thread is longer than they are.
            many = len(self._patients) > _MANY
            wanted = await asyncio.to_thread(self._wanted, resource_type) if many else self._wanted(resource_type)
            if loaded is None or not _are_in_force(resource_type, wanted, loaded):
                await asyncio.to_thread(self._store.register_targets, self._lease, resource_type, wanted, now)
                loaded = None
        loaded = loaded if loaded is not None else await self._load(None)
        taken = await asyncio.to_thread(self._taken, loaded) if len(loaded) > _MANY else self._taken(loaded)
        self.states, self.watched, self._enumerating = taken
        await self.after_load()

    def _taken(self, loaded: Sequence[TargetState]) -> tuple[dict[str, TargetState], dict[str, TargetState], list[str]]:
        """All that are read, those of them that are watched, and the keys of those that show all patients."""
        states = {
            state.target.key: state
            for state in loaded
            if state.target.resource_type in self._strategies or state.target.kind.is_everything
        }
        watched = {key: state for key, state in states.items() if self._is_watched(state)}
        enumerating = [
            key
            for key, state in states.items()
            if state.target.resource_type == "Patient" and state.target.kind in _ENUMERATING
        ]
        return states, watched, enumerating

    def _is_watched(self, state: TargetState) -> bool:
        schedule = self.schedules.get((state.target.resource_type, state.target.kind))
        return schedule is not None and (schedule.is_set or plan.is_unsettled(state))

    async def _load(self, key: str | None) -> list[TargetState]:
        """The targets in force, or the one with this key, as the store has them."""
        names = self._config.patients.names
        return await asyncio.to_thread(self._store.targets, self._config.code, names, key, self._groups)

    def _wanted(self, resource_type: str) -> list[Target]:
        practice, patients = self._config.code, self._config.patients
        if resource_type == EVERY_TYPE:
            return plan.everything_targets(practice, self._strategies, self._patients)
        wanted = plan.wanted_targets(
            practice,
            resource_type,
            self._strategies[resource_type],
            self._config.feeds[resource_type].categories,
            self._patients,
            patients.names,
            self._groups,
        )
        if resource_type == "Encounter":
            wanted += [
                Target(practice, resource_type, Kind.DAYS, patient=practitioner)
                for practitioner in patients.practitioners
            ]
        return wanted

    async def reload(self, target: Target) -> bool:
        """Take the target's state, and that of the windows beside it, from the store; whether it is still in force."""
        async with self._loading:
            kind = target.kind.window_beside
            beside = replace(target, kind=kind).key if kind is not None else None
            for key in (target.key, beside):
                if key is not None and (key == target.key or key in self.states):
                    loaded = await self._load(key)
                    for state in loaded:
                        self._note(state)
                    if key == target.key and not loaded:
                        return False
            return True

    def _note(self, state: TargetState) -> None:
        key = state.target.key
        self.states[key] = state
        if self._is_watched(state):
            self.watched[key] = state
        else:
            self.watched.pop(key, None)
        self.after_reload(state)

    def detected_by(self, target: Target) -> tuple[str, ...]:
        """The feeds whose changes a target is there to find; none for a content read beside windows, and for what exports show."""
        return plan.detected_by(target, self._strategies)

    @property
    def patients(self) -> Sequence[PatientState]:
        """The patients whose resources are read, in the order in which they were found."""
        return self._patients

    def strategy_of(self, target: Target) -> Strategy:
        """The strategy that a target serves."""
        if target.kind.is_everything:
            with_windows = (EVERY_TYPE, Kind.EVERYTHING_WINDOW) in self.schedules
            return Strategy.EVERYTHING_WINDOW if with_windows else Strategy.EVERYTHING
        return self._strategies[target.resource_type]

    def window_beside(self, state: TargetState) -> Target | None:
        """The window that must show what this read finds changed; None where none has a start yet, or nothing is found but a baseline."""
        target = state.target
        kind = target.kind.window_beside
        if kind is None or not plan.beside_windows(target.kind, self.strategy_of(target)):
            return None
        window = self.states.get(replace(target, kind=kind).key)
        if state.baseline_at is None or window is None or window.cursor_at is None:
            return None
        return window.target

    def missing(self, target: Target) -> dict[str, list[str]]:
        """By patient: keys of the targets whose content reads miss what this one shows, if it shows no absence and reads patients."""
        kind = target.kind.content_beside
        if kind is not None and kind.tracks_members:
            return {target.patient or "": [replace(target, kind=kind).key]}
        found: dict[str, list[str]] = {}
        if target.kind is Kind.DAYS:
            for state in self.of_feed(target.resource_type):
                if state.target.kind.tracks_members:
                    for patient in state.target.patients or (state.target.patient,):
                        found.setdefault(patient or "", []).append(state.target.key)
        return found

    def enumerated(self, state: TargetState) -> bool:
        """Whether whom a pass of this target shows for the first time is new in the practice, since patients were gone through once."""
        if state.target.resource_type == "Patient":
            return state.baseline_at is not None or state.target.kind.is_window
        first = [self.states[key] for key in self._enumerating if key in self.states]
        if not first:  # nothing goes through all patients: whom this shows after its first whole read has come since
            return state.baseline_at is not None or state.target.kind.is_window
        return all(other.baseline_at is not None for other in first)

    def knows(self, patient: str) -> bool:
        """Whether someone is known to be a patient, and not to be gone."""
        return any(known.id == patient and not known.gone for known in self._patients)

    def of_patient(self, patient: str) -> list[TargetState]:
        """The targets that show what a patient has: those of the patient, and the windows of the whole practice."""
        return [
            state
            for state in self.states.values()
            if (state.target.kind is Kind.WINDOW and state.cursor_at is not None)
            or (
                state.target.kind not in {Kind.DAYS, Kind.WINDOW, Kind.PATIENT_WINDOW, Kind.EVERYTHING_WINDOW}
                and patient in (state.target.patients or (state.target.patient,))
            )
        ]

    def of_feed(self, feed: str) -> Iterator[TargetState]:
        """The targets that a feed is read by."""
        return (state for state in self.states.values() if feed in state.target.reads)

    def of_feeds(self) -> dict[str, list[TargetState]]:
        """The same for all feeds, in one go."""
        found: dict[str, list[TargetState]] = {}
        for state in list(self.states.values()):
            for feed in state.target.reads:
                found.setdefault(feed, []).append(state)
        return found


def _are_in_force(resource_type: str, wanted: Sequence[Target], loaded: Sequence[TargetState]) -> bool:
    """Whether exactly these are a feed's targets already; what reads several patients or types at once is looked at by the store."""
    known = {
        state.target.key
        for state in loaded
        if state.target.resource_type == resource_type and state.target.kind is not Kind.BULK
    }
    return {target.key for target in wanted} == known and not any(target.patients or target.types for target in wanted)
