"""Which true states a poller owed an event for: the definition of a run's ``changes``.

A state counts when it is final, or was current throughout one complete pass that its target's schedule owed. A state that the target's
first complete pass (its baseline) already showed is no change.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poller.simulator.chart import categories_of, patient_of
from poller.simulator.passes import complete_passes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poller.simulator.alignment import State
    from poller.simulator.passes import Pass, Way
    from poller.simulator.truth import Key, PracticeTruth

_LIFETIME = 2
"""In so many intervals one owed pass lies whole, whatever its phase."""
_DELETE_LIFETIME = 3
"""A delete takes one pass more: the absence, then its confirmation."""
_DIGEST_SECONDS = 2.0
"""An outage so soon after a pass may have lost what the pass had read."""


@dataclass(frozen=True, slots=True)
class FeedSchedule:
    """How often a feed of a practice is read. Seconds."""

    resource_type: str
    every: float
    """Interval of the passes that find changes: windows, or every patient once."""
    categories: tuple[str, ...] = ()
    """Only resources of these are read; empty for all."""
    sweep_every: float | None = None
    """Interval of complete passes beside windows, which find deletes."""
    names: tuple[str, ...] = ()
    """Patient, patient by patient: the prefixes that are searched; empty where patients come practice-wide."""
    ways: tuple[Way, ...] = ("search", "patients", "everything")
    """By what it may be read; what it was shown in another way is no pass of its own."""
    by_patient: bool | None = None
    """Whether it is read patient by patient, so that a new patient's resources wait for the patient; None for what the mode does."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a run is held to."""

    by_schedule: bool = True
    """Hold the poller to its schedules; without, only to the passes that it made (for runs with faults or kills)."""
    outages: tuple[tuple[dt.datetime, dt.datetime], ...] = ()
    """When the poller was not there."""
    allow_duplicates: bool = False
    """Delivery is at least once: a run with crashes may repeat an event, which a consumer drops by its id."""
    min_changes: int = 20
    min_deletes: int = 1


class Debt:
    """Marks what a practice's poller owed."""

    def __init__(self, evidence: PracticeTruth, schedules: Sequence[FeedSchedule], rules: Rules) -> None:
        self._evidence = evidence
        self._feeds = {schedule.resource_type: schedule for schedule in schedules}
        self._rules = rules
        self._firsts: dict[tuple[str, str | None, str | None, str], dt.datetime] = {}
        self._seen: dict[Key, list[Pass]] = defaultdict(list)
        for one in complete_passes(evidence.calls):
            self._note(one)
        began = [versions[0].visible_from for versions in evidence.versions.values() if versions]
        self._began = min(began) if began else None
        self._patients_baseline = self._baseline_of_patients()

    def _note(self, one: Pass) -> None:
        scope = one.scope
        feed = self._feeds.get(scope.resource_type)
        if feed is not None and one.way not in feed.ways:
            return
        if scope.narrowed and not scope.narrowed.startswith("name="):
            return
        for name in one.rows:
            self._seen[scope.resource_type, name].append(one)
        if not scope.windowed:
            key = (scope.resource_type, scope.patient, scope.category, scope.narrowed)
            self._firsts[key] = min(one.ended, self._firsts.get(key, one.ended))

    def _baseline_of_patients(self) -> dt.datetime | None:
        """When every patient that was there had been enumerated once; None for never."""
        feed = self._feeds.get("Patient")
        if feed is None or not feed.names:
            return self._firsts.get(("Patient", None, None, ""))
        firsts = [self._firsts.get(("Patient", None, None, f"name={name}")) for name in feed.names]
        known = [first for first in firsts if first is not None]
        return max(known) if len(known) == len(firsts) else None

    def covers(self, key: Key) -> bool:
        """Whether a feed reads this resource at all."""
        feed = self._feeds.get(key[0])
        resource = self._resource(key)
        if feed is None or resource is None:
            return False
        if feed.categories and categories_of(resource).isdisjoint(feed.categories):
            return False
        patient = key[1] if key[0] == "Patient" else patient_of(resource)
        return patient is None or self._enumerated(patient)

    def _resource(self, key: Key) -> Mapping[str, Any] | None:
        return next((v.resource for v in self._evidence.versions.get(key, ()) if v.resource is not None), None)

    def _enumerated(self, patient: str) -> bool:
        feed = self._feeds.get("Patient")
        if feed is None or not feed.names:
            return True
        resource = self._resource(("Patient", patient))
        parts = [str(name.get("family", "")).lower() for name in resource.get("name", ())] if resource else []
        return any(part.startswith(name.lower()) for part in parts for name in feed.names)

    def _appeared(self, key: Key) -> dt.datetime | None:
        """When the resource's patient appeared, if that was after the practice's baseline."""
        resource = self._resource(key)
        patient = key[1] if key[0] == "Patient" else patient_of(resource) if resource else None
        versions = self._evidence.versions.get(("Patient", patient or ""))
        if not versions or self._patients_baseline is None or versions[0].visible_from <= self._patients_baseline:
            return None
        return versions[0].visible_from

    def _baseline(self, key: Key) -> dt.datetime | None:
        """When the first complete pass that could show this resource had ended; None for never."""
        resource = self._resource(key) or {}
        if key[0] == "Patient":
            return self._patients_baseline
        ends = [
            end
            for patient in (None, patient_of(resource))
            for category in (None, *categories_of(resource))
            if (end := self._firsts.get((key[0], patient, category, ""))) is not None
        ]
        return min(ends) if ends else None

    def mark(self, key: Key, states: Sequence[State], *, published: bool) -> None:
        """Set ``counted`` on a resource's states; ``published``: an event other than a delete came for it."""
        if not states or not self.covers(key):
            return
        appeared = self._appeared(key)
        baseline = appeared or self._baseline(key) or self._began
        for index, state in enumerate(states):
            folded = baseline is not None and appeared is None and state.since <= baseline
            if folded or (index == 0 and state.since == self._began):
                continue
            if state.content is None and not published and (baseline is None or states[0].since > baseline):
                continue
            if state.content is None and not published and all(self._lost(one) for one in self._seen[key]):
                continue  # it came and went without a pass that showed it, so nobody could tell
            state.counted = state.until is None or self._owed(key, state, appeared)

    def _owed(self, key: Key, state: State, appeared: dt.datetime | None) -> bool:
        if state.until is None:
            return True
        if self._rules.by_schedule and self._by_schedule(key, state, state.until, appeared):
            return True
        if state.content is None:
            return False
        return any(
            state.since <= one.began and one.ended <= state.until and not self._lost(one) for one in self._seen[key]
        )

    def _by_schedule(self, key: Key, state: State, until: dt.datetime, appeared: dt.datetime | None) -> bool:
        feed = self._feeds[key[0]]
        wide = self._evidence.mode == "open" if feed.by_patient is None else not feed.by_patient
        since = state.since
        if appeared is not None and not wide and key[0] != "Patient" and "Patient" in self._feeds:
            since = max(since, appeared + dt.timedelta(seconds=_LIFETIME * self._feeds["Patient"].every))
        deleted = _DELETE_LIFETIME * (feed.sweep_every or feed.every)
        needed = deleted if state.content is None else _LIFETIME * feed.every
        return self._longest(since, until) >= dt.timedelta(seconds=needed)

    def _longest(self, since: dt.datetime, until: dt.datetime) -> dt.timedelta:
        """The longest stretch between two times in which the poller was there."""
        longest, start = dt.timedelta(), since
        for gone, back in sorted(self._rules.outages):
            if gone < until and back > start:
                longest = max(longest, gone - start)
                start = max(start, back)
        return max(longest, until - start)

    def _lost(self, one: Pass) -> bool:
        grace = dt.timedelta(seconds=_DIGEST_SECONDS)
        return any(gone <= one.ended + grace and back >= one.began for gone, back in self._rules.outages)
