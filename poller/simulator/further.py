"""Clinical content beyond the demo's: the other types of the vendor's matrix, all categories, notes with attachments, provenance."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from poller.core import jsontext
from poller.simulator import clinical

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from poller.simulator.clinical import Resource

_HL7 = "http://terminology.hl7.org/CodeSystem/"
_US_CORE = "http://hl7.org/fhir/us/core/CodeSystem/"
_LOINC = "http://loinc.org"
_OBSERVATION_CATEGORY = _HL7 + "observation-category"

_OBSERVATIONS: Mapping[str, tuple[tuple[str, str], tuple[str, ...]]] = {
    "social-history": (("72166-2", "Tobacco smoking status"), ("Never smoker", "Former smoker", "Current smoker")),
    "survey": (("44261-6", "PHQ-9 total score"), ()),
    "exam": (("8884-9", "Heart rhythm"), ("Regular", "Irregular")),
    "imaging": (("24627-2", "CT Chest"), ("No acute finding", "Nodule, follow up")),
    "sdoh": (("88122-7", "Food insecurity"), ("Never true", "Sometimes true", "Often true")),
}
"""Category → what is observed, and the answers that there are; none for a number."""

_BOTH = ("survey", "sdoh")
"""Categories that one observation of a patient has at once."""

_CONDITIONS: Mapping[str, tuple[str, tuple[str, str]]] = {
    "encounter-diagnosis": (_HL7 + "condition-category", ("J06.9", "Acute upper respiratory infection")),
    "problem-list-item": (_HL7 + "condition-category", ("I10", "Essential hypertension")),
    "health-concern": (_US_CORE + "condition-category", ("Z59.0", "Homelessness")),
}
_ATTACHMENTS = ("application/pdf", "text/html", "application/xml")
_GOALS = (
    ("4548-4", "HbA1c below target"),
    ("29463-7", "Body weight below target"),
    ("55284-4", "Blood pressure at goal"),
)
_DEVICES = (("14106009", "Cardiac pacemaker"), ("304120007", "Total knee replacement prosthesis"))
_PLANS = ("Continue the medication, return in three months", "Refer to nutrition, repeat the panel", "Watch and wait")

LIFECYCLE = ("active", "on-hold", "completed", "cancelled")
"""States of a Goal, whose element for it is ``lifecycleStatus``."""

MOVES: Mapping[str, tuple[str, ...]] = {
    "Coverage": ("active", "cancelled"),
    "CarePlan": ("active", "completed", "on-hold", "revoked"),
    "CareTeam": ("active", "inactive", "suspended"),
    "Device": ("active", "inactive"),
}


def _moment(when: dt.datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _concept(system: str, code: str, display: str = "") -> Resource:
    coding = {"system": system, "code": code}
    return {"coding": [{**coding, "display": display} if display else coding]}


class FurtherAuthor:
    """Writes a practice's further resources. Its chance is its own, so that the demo's content stays as it is."""

    def __init__(self, rng: random.Random, clinicians: Sequence[str], *, opaque: bool) -> None:
        self._rng = rng
        self._minting = clinical.Author(rng, opaque=opaque)
        self._clinicians = clinicians

    def mint(self, resource_type: str) -> str:
        """A new logical id."""
        return self._minting.mint(resource_type)

    def history(self, patient: str, encounter: str | None, when: dt.datetime, types: Collection[str]) -> list[Resource]:
        """What a patient brings beyond :meth:`~poller.simulator.clinical.Author.history`, of these types."""
        found: list[Resource] = []
        for kind, make in self._makers().items():
            if kind in types:
                found.extend(make(patient, when))
        for resource in found:
            if encounter is not None and resource["resourceType"] in {"Observation", "Condition", "DiagnosticReport"}:
                resource["encounter"] = {"reference": f"Encounter/{encounter}"}
        return found

    def another(self, patient: str, when: dt.datetime, types: Collection[str]) -> Resource | None:
        """One more of any of these types; None where there is none that it could be."""
        present = [make for kind, make in self._makers().items() if kind in types]
        return self._rng.choice(list(self._rng.choice(present)(patient, when))) if present else None

    def provenance(self, targets: Sequence[Resource], when: dt.datetime) -> Resource:
        """Who recorded these resources, and when."""
        return {
            "resourceType": "Provenance",
            "id": self.mint("Provenance"),
            "target": [{"reference": f"{target['resourceType']}/{target['id']}"} for target in targets],
            "recorded": _moment(when),
            "agent": [{"type": _concept(_HL7 + "provenance-participant-type", "author"), "who": self._clinician()}],
        }

    def presented(self, report: Resource) -> Resource:
        """The report with its printed form, to be had as a Binary."""
        form = {"contentType": "application/pdf", "url": f"Binary/{self.mint('Binary')}", "title": "Report"}
        return {**report, "presentedForm": [form]}

    def _makers(self) -> Mapping[str, Callable[[str, dt.datetime], Iterator[Resource]]]:
        return {
            "Coverage": self._coverage,
            "CarePlan": self._care_plan,
            "CareTeam": self._care_team,
            "Goal": self._goal,
            "Device": self._device,
            "Observation": self._observations,
            "Condition": self._conditions,
            "DocumentReference": self._document,
            "DiagnosticReport": self._report,
        }

    def _clinician(self) -> Resource:
        return {"reference": f"Practitioner/{self._rng.choice(self._clinicians)}"}

    def _new(self, resource_type: str, patient: str, element: str = "subject") -> Resource:
        reference = {"reference": f"Patient/{patient}"}
        return {"resourceType": resource_type, "id": self.mint(resource_type), element: reference}

    def _coverage(self, patient: str, when: dt.datetime) -> Iterator[Resource]:
        yield {
            **self._new("Coverage", patient, "beneficiary"),
            "status": "active",
            "type": _concept("https://nahdo.org/sopt", "5", "Private health insurance"),
            "subscriberId": f"{self._rng.randrange(10**9):09d}",
            "relationship": _concept(_HL7 + "subscriber-relationship", "self"),
            "period": {"start": when.strftime("%Y-01-01")},
            "payor": [{"display": self._rng.choice(("Example Mutual", "Example Health Plan"))}],
        }

    def _care_plan(self, patient: str, when: dt.datetime) -> Iterator[Resource]:
        plan = self._rng.choice(_PLANS)
        yield {
            **self._new("CarePlan", patient),
            "text": {"status": "additional", "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{plan}</p></div>'},
            "status": "active",
            "intent": "plan",
            "category": [_concept(_US_CORE + "careplan-category", "assess-plan")],
            "description": plan,
            "period": {"start": _moment(when)},
        }

    def _care_team(self, patient: str, when: dt.datetime) -> Iterator[Resource]:
        role = _concept("http://snomed.info/sct", "446050000", "Primary care physician")
        yield {
            **self._new("CareTeam", patient),
            "status": "active",
            "name": "Care team",
            "period": {"start": _moment(when)},
            "participant": [{"role": [role], "member": self._clinician()}],
        }

    def _goal(self, patient: str, when: dt.datetime) -> Iterator[Resource]:
        code, title = self._rng.choice(_GOALS)
        quantity = {"value": clinical.decimal(self._rng, 7.0), "unit": "%"}
        due = (when + dt.timedelta(days=90)).strftime("%Y-%m-%d")
        yield {
            **self._new("Goal", patient),
            "lifecycleStatus": "active",
            "description": {"text": title},
            "startDate": when.strftime("%Y-%m-%d"),
            "target": [{"measure": _concept(_LOINC, code), "detailQuantity": quantity, "dueDate": due}],
        }

    def _device(self, patient: str, when: dt.datetime) -> Iterator[Resource]:
        code, title = self._rng.choice(_DEVICES)
        serial = f"{self._rng.randrange(10**14):014d}"
        yield {
            **self._new("Device", patient, "patient"),
            "status": "active",
            "udiCarrier": [{"deviceIdentifier": serial, "carrierHRF": f"(01){serial}"}],
            "manufactureDate": when.strftime("%Y-%m-01"),
            "type": _concept("http://snomed.info/sct", code, title),
        }

    def _observations(self, patient: str, when: dt.datetime) -> Iterator[Resource]:
        """One of each category, and one that is in two."""
        for category, (code, answers) in _OBSERVATIONS.items():
            yield self._observation(patient, when, (category,), code, answers)
        yield self._observation(patient, when, _BOTH, ("76513-1", "Financial strain"), ("Hard", "Not hard at all"))

    def _observation(
        self,
        patient: str,
        when: dt.datetime,
        categories: Sequence[str],
        code: tuple[str, str],
        answers: Sequence[str],
    ) -> Resource:
        systems = {"sdoh": _US_CORE + "us-core-category"}
        value: Resource = {
            "valueQuantity": {"value": jsontext.Literal(f"{self._rng.randint(0, 27)}"), "unit": "{score}"}
        }
        return {
            **self._new("Observation", patient),
            "status": "final",
            "category": [_concept(systems.get(one, _OBSERVATION_CATEGORY), one) for one in categories],
            "code": _concept(_LOINC, *code),
            "effectiveDateTime": _moment(when),
            "performer": [self._clinician()],
            **({"valueCodeableConcept": {"text": self._rng.choice(answers)}} if answers else value),
        }

    def _conditions(self, patient: str, when: dt.datetime) -> Iterator[Resource]:
        """One of each category."""
        for category, (system, (code, title)) in _CONDITIONS.items():
            yield {
                **self._new("Condition", patient),
                "clinicalStatus": _concept(clinical.CONDITION_STATUS, "active"),
                "verificationStatus": _concept(clinical.VERIFICATION["Condition"], "confirmed"),
                "category": [_concept(system, category)],
                "code": _concept("http://hl7.org/fhir/sid/icd-10-cm", code, title),
                "onsetDateTime": _moment(when),
            }

    def _document(self, patient: str, when: dt.datetime) -> Iterator[Resource]:
        """A note in two forms."""
        kinds = self._rng.sample(_ATTACHMENTS, 2)
        yield {
            **self._new("DocumentReference", patient),
            "status": "current",
            "docStatus": "final",
            "type": _concept(_LOINC, "34133-9", "Summary of episode note"),
            "category": [_concept(_US_CORE + "us-core-documentreference-category", "clinical-note", "Clinical Note")],
            "date": _moment(when),
            "author": [self._clinician()],
            "content": [
                {"attachment": {"contentType": kind, "url": f"Binary/{self.mint('Binary')}"}, "format": {"code": kind}}
                for kind in kinds
            ],
        }

    def _report(self, patient: str, when: dt.datetime) -> Iterator[Resource]:
        """A radiology report, told in its printed form only."""
        yield self.presented(
            {
                **self._new("DiagnosticReport", patient),
                "status": "final",
                "category": [_concept(_LOINC, "LP29684-5", "Radiology")],
                "code": _concept(_LOINC, "36643-5", "XR Chest 2 Views"),
                "effectiveDateTime": _moment(when),
                "performer": [self._clinician()],
            }
        )
