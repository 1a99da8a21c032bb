"""The practice's life: visits and what follows from them, corrections, deletions, new patients, and touches that change nothing."""

from __future__ import annotations

import datetime as dt
import heapq
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

from poller.simulator import clinical, further, moves
from poller.simulator.chart import patient_of
from poller.simulator.moves import erroneous

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from poller.simulator.clinical import Resource
    from poller.simulator.practice import Practice

Step = tuple[str, "Callable[[dt.datetime], None]"]

_HOUR = dt.timedelta(hours=1)
_SURE_DELETES = frozenset({4, 10, 16})
"""These spontaneous steps delete, so that even a short run has a delete."""
_MERGE_EVERY = 25
_LEAVE_EVERY = 40
"""Steps after which patients are merged, or one goes, where the practice's spec has it so."""
_GROWING = frozenset({"visit", "addition", "patient"})
_MIN_DELETES = 3
_FEW = 3
"""With fewer patients none is merged, and none goes."""

_MOVES: Mapping[str, tuple[str, ...]] = {
    "Encounter": ("finished", "in-progress", "onleave"),
    "MedicationRequest": ("active", "completed", "stopped", "on-hold"),
    "ServiceRequest": ("active", "completed", "revoked"),
    "DocumentReference": ("current", "superseded"),
    "Procedure": ("completed", "in-progress", "stopped"),
    "Immunization": ("completed", "not-done"),
    "DiagnosticReport": ("final", "amended", "corrected"),
    **further.MOVES,
    "Goal": further.LIFECYCLE,
}
_STATUS_ELEMENT = {"Goal": "lifecycleStatus"}
_CLINICAL_MOVES: Mapping[str, tuple[str, ...]] = {
    "Condition": ("active", "resolved", "inactive", "remission"),
    "AllergyIntolerance": ("active", "inactive", "resolved"),
}
_KINDS = (
    ("visit", 10),
    ("value", 26),
    ("status", 20),
    ("demographics", 8),
    ("addition", 12),
    ("delete", 6),
    ("error", 4),
    ("restore", 2),
    ("patient", 4),
    ("touch", 8),
)


class Care:
    """What happens next in a practice, by chance and by plan; the same for the same seed and calls of :meth:`advance`."""

    def __init__(self, practice: Practice) -> None:
        self._practice = practice
        self._rng = practice.rng
        self._author = practice.author
        self._spec = practice.spec
        self._plan: list[tuple[dt.datetime, int, Callable[[dt.datetime], None]]] = []
        self._serial = count()
        self._deletes: dict[str, deque[dt.datetime]] = {}
        self._gone: list[Resource] = []
        self._rate = 0.0
        self._next: dt.datetime | None = None
        self._steps = 0
        most = self._spec.max_patients
        self._most = self._spec.patients + max(1, self._spec.patients // 2) if most is None else most

    def settle(self, now: dt.datetime) -> None:
        """Make the practice's past: clinicians, patients and their records, seen from ``now`` on."""
        for clinician in self._author.practitioners():
            self._practice.put(clinician, now, at_once=True)
        for index in range(self._spec.patients):
            case = clinical.cases()[index % len(clinical.cases())]
            patient = self._author.patient(case, self._spec.name_initials)
            self._practice.put(patient, now, at_once=True)
            when = now - dt.timedelta(days=self._rng.randint(2, 200))
            for resource in self._past(case, patient["id"], when):
                self._practice.put(resource, now, at_once=True)
        if self._spec.bulk:
            self._practice.enrol(now)

    def _past(self, case: clinical.Case, patient: str, when: dt.datetime) -> list[Resource]:
        """A patient's records of the types that exist here."""
        types, author = self._spec.types, self._practice.further
        history = self._author.history(case, patient, when, self._spec.labs_per_patient)
        found = [resource for resource in history if resource["resourceType"] in types]
        if self._spec.full:
            found = [author.presented(one) if one["resourceType"] == "DiagnosticReport" else one for one in found]
            visit = next((one["id"] for one in found if one["resourceType"] == "Encounter"), None)
            found += author.history(patient, visit, when, types)
            found += [author.provenance(found, when)] if "Provenance" in types else []
        return found

    def begin(self, now: dt.datetime, changes_per_second: float) -> None:
        """From now on about so many changes a second."""
        self._rate = changes_per_second
        self._next = now + self._gap(1) if changes_per_second > 0 else None

    def quiet(self) -> None:
        """Nothing more happens, what was planned included."""
        self._rate, self._next = 0.0, None
        self._plan.clear()

    def advance(self, now: dt.datetime) -> None:
        """Let all happen that is due, in the order of its times."""
        while True:
            planned = self._plan[0][0] if self._plan else None
            if planned is not None and planned <= now and (self._next is None or planned <= self._next):
                when, _, act = heapq.heappop(self._plan)
                act(when)
            elif self._next is not None and self._next <= now:
                when = self._next
                self._next = when + self._gap(self._happen(when))
            else:
                return

    def _gap(self, changes: int) -> dt.timedelta:
        return dt.timedelta(seconds=self._rng.expovariate(1.0) * max(changes, 1) / self._rate)

    def _happen(self, now: dt.datetime) -> int:
        """One thing by chance. Returns how many changes it makes, now and later."""
        self._steps += 1
        if self._spec.merges != "none" and self._steps % _MERGE_EVERY == 0:
            return self._merge(now)
        if self._spec.patient_deletes and self._steps % _LEAVE_EVERY == 0:
            return self._leave(now)
        names, weights = zip(*_KINDS, strict=True)
        kind = "delete" if self._steps in _SURE_DELETES else self._rng.choices(names, weights)[0]
        if kind in _GROWING and self._full():
            kind = "value"
        step: Callable[[dt.datetime], int] = getattr(self, f"_{kind}")
        return step(now)

    def _full(self) -> bool:
        written = self._practice.chart.written
        return sum(len(written(kind)) for kind in self._spec.types) >= self._spec.max_per_patient * len(
            written("Patient")
        )

    def _later(self, now: dt.datetime, hours: float, act: Callable[[dt.datetime], None]) -> None:
        delay = dt.timedelta(hours=hours * self._rng.uniform(0.7, 1.3)) * self._spec.tempo
        heapq.heappush(self._plan, (now + delay, next(self._serial), act))

    def _pick(self, *types: str) -> Resource | None:
        """A living resource of one of the types that exist here."""
        present = [kind for kind in types if self._practice.chart.written(kind)]
        if not present:
            return None
        living = self._practice.chart.written(self._rng.choice(present))
        return dict(living[self._rng.choice(list(living))])

    def _pick_patient(self) -> Resource | None:
        """A patient; the survivor instead of one who was merged away."""
        picked = self._pick("Patient")
        name = None if picked is None else moves.survivor(self._practice, picked["id"])
        return None if name is None else dict(self._practice.chart.written("Patient")[name])

    def _owned(self, resource: Resource) -> Resource | None:
        """The resource as that of whoever its patient is by now; None when the patient is gone."""
        patient = patient_of(resource)
        now = None if patient is None else moves.survivor(self._practice, patient)
        return None if now is None else resource if now == patient else moves.moved(resource, now)

    def _put(self, resource: Resource, now: dt.datetime) -> int:
        if resource["resourceType"] not in {*self._spec.types, "Patient"}:
            return 0
        self._practice.put(resource, now)
        return 1

    def _amend(self, kind: str, name: str, **elements: object) -> Callable[[dt.datetime], None]:
        """A planned edit; nothing when the resource has gone meanwhile."""

        def act(now: dt.datetime) -> None:
            living = self._practice.chart.written(kind).get(name)
            if living is not None and living.get("status") != "entered-in-error":
                self._practice.put({**living, **elements}, now)

        return act

    def _visit(self, now: dt.datetime) -> int:
        """A patient comes: vitals soon, note and order in an hour, results in days, first preliminary, then final."""
        patient = self._pick_patient()
        if patient is None:
            return 0
        case = self._rng.choice(clinical.cases())
        visit = self._author.encounter(case, patient["id"], now, "in-progress")
        made = self._put(visit, now)
        author, who, where = self._author, patient["id"], visit["id"]
        for vital in self._rng.sample(case.vitals, 2):
            made += self._plan_new(now, 0.2, author.copy(vital, who, where, now))
        note, order = author.note(who, where, now), author.order(who, where, now)
        made += self._plan_new(now, 0.6, note, (24, {"docStatus": "final", "status": "current"}))
        made += self._plan_new(now, 0.5, order, (70, {"status": "completed"}))
        if "Encounter" in self._spec.types:
            self._later(now, 0.8, self._amend("Encounter", where, status="finished"))
            made += 1
        for result in author.panel(self._rng.choice(case.panels), who, where, now, 2):
            result["status"] = "preliminary"
            made += self._plan_new(now, 30, result, (30, {"status": "final"}))
        return made

    def _plan_new(
        self, now: dt.datetime, hours: float, resource: Resource, then: tuple[float, Resource] | None = None
    ) -> int:
        """A resource that will be written in so many hours, and edited so many hours after. Returns the changes planned."""
        if resource["resourceType"] not in self._spec.types:
            return 0

        def act(when: dt.datetime) -> None:
            owned = self._owned(resource)
            if owned is None:
                return
            self._practice.put(owned, when)
            if then is not None:
                self._later(when, then[0], self._amend(resource["resourceType"], resource["id"], **then[1]))

        self._later(now, hours, act)
        return 1 if then is None else 2

    def _value(self, now: dt.datetime) -> int:
        picked = self._pick("Observation")
        if picked is None or picked.get("status") == "entered-in-error":
            return 0
        return self._put({**clinical.measured(picked, self._rng), "status": "amended"}, now)

    def _status(self, now: dt.datetime) -> int:
        picked = self._pick(*_MOVES, *_CLINICAL_MOVES)
        if picked is None:
            return 0
        kind = picked["resourceType"]
        element = _STATUS_ELEMENT.get(kind, "status")
        if picked.get(element) == "entered-in-error":
            return 0
        if kind in _MOVES:
            others = [status for status in _MOVES[kind] if status != picked.get(element)]
            return self._put({**picked, element: self._rng.choice(others)}, now)
        system = clinical.CONDITION_STATUS if kind == "Condition" else clinical.ALLERGY_STATUS
        before = picked.get("clinicalStatus", {}).get("coding", [{}])[0].get("code")
        code = self._rng.choice([status for status in _CLINICAL_MOVES[kind] if status != before])
        return self._put({**picked, "clinicalStatus": {"coding": [{"system": system, "code": code}]}}, now)

    def _demographics(self, now: dt.datetime) -> int:
        picked = self._pick("Patient")
        if picked is None:
            return 0
        phone = {"system": "phone", "value": f"555-{self._rng.randrange(10_000):04d}", "use": "mobile"}
        return self._put({**picked, "telecom": [phone]}, now)

    def _addition(self, now: dt.datetime) -> int:
        """Something written outside a visit."""
        patient = self._pick_patient()
        if patient is None:
            return 0
        case, who = self._rng.choice(clinical.cases()), patient["id"]
        templates = [*case.conditions, *case.allergies, *case.medications] or [*case.vitals]
        choices = [
            self._author.copy(self._rng.choice(templates), who, None, now),
            self._author.immunization(who, now),
            self._author.procedure(who, now),
            self._author.copy(self._rng.choice(case.vitals), who, None, now),
        ]
        more = self._practice.further.another(who, now, self._spec.types) if self._spec.full else None
        choices += [] if more is None else [more]
        present = [resource for resource in choices if resource["resourceType"] in self._spec.types]
        return self._put(self._rng.choice(present), now) if present else 0

    def _delete(self, now: dt.datetime) -> int:
        """A clinical resource goes, unless its type lost its share of this hour already."""
        sure = self._steps in _SURE_DELETES and "Observation" in self._spec.types
        picked = self._pick("Observation") if sure else self._pick(*self._spec.types)
        if picked is None:
            return 0
        kind = picked["resourceType"]
        recent = self._deletes.setdefault(kind, deque())
        while recent and now - recent[0] > _HOUR:
            recent.popleft()
        if len(recent) >= max(_MIN_DELETES, int(self._spec.delete_fraction * len(self._practice.chart.written(kind)))):
            return 0
        recent.append(now)
        self._practice.delete(kind, picked["id"], now)
        self._gone.append(picked)
        return 1

    def _restore(self, now: dt.datetime) -> int:
        if not self._gone:
            return 0
        back = self._gone.pop(self._rng.randrange(len(self._gone)))
        owned = self._owned(back)
        if owned is None or back["id"] in self._practice.chart.written(back["resourceType"]):
            return 0
        return self._put(owned, now)

    def _error(self, now: dt.datetime) -> int:
        picked = self._pick(*(kind for kind in self._spec.types if kind != "Provenance"))
        return 0 if picked is None else self._put(erroneous(picked), now)

    def _patient(self, now: dt.datetime) -> int:
        """Somebody new registers and is seen soon."""
        if len(self._practice.chart.written("Patient")) >= self._most:
            return 0
        case = self._rng.choice(clinical.cases())
        patient = self._author.patient(case, self._spec.name_initials)
        made = self._put(patient, now)
        for condition in case.conditions:
            made += self._plan_new(now, 0.3, self._author.copy(condition, patient["id"], None, now))
        for vital in case.vitals[:2]:
            made += self._plan_new(now, 0.3, self._author.copy(vital, patient["id"], None, now))
        return made

    def _merge(self, now: dt.datetime) -> int:
        """Two patients turn out to be one."""
        active = [name for name, one in self._practice.chart.written("Patient").items() if one.get("active", True)]
        if len(active) < _FEW:
            return 0
        old, new = self._rng.sample(active, 2)
        carried = len(self._practice.chart.written_of(old))
        moves.merge(self._practice, old, new, now, vanish=self._spec.merges == "vanished")
        return carried + 1

    def _leave(self, now: dt.datetime) -> int:
        """A patient goes, with all records."""
        patients = self._practice.chart.written("Patient")
        if len(patients) < _FEW:
            return 0
        picked = self._rng.choice(list(patients))
        carried = len(self._practice.chart.written_of(picked))
        moves.remove(self._practice, picked, now)
        return carried + 1

    def _touch(self, now: dt.datetime) -> int:
        """Another narrative, or a new stamp only: nothing that a consumer should hear of."""
        picked = self._pick("Patient", *self._spec.types)
        if picked is not None:
            self._put(clinical.retold(picked, self._steps) if self._rng.getrandbits(1) else picked, now)
        return 0
