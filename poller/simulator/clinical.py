"""Clinical content: synthetic cases by carebundle, re-used with our own ids, dates and values, and what carebundle does not write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import carebundle

from poller.core import jsontext

if TYPE_CHECKING:
    import datetime as dt
    import random
    from collections.abc import Iterator, Mapping, Sequence

Resource = dict[str, Any]

_PROFILES = ("type2_diabetes", "ckd_stage3", "hypertension", "anaemia", "healthy")
_REFERENCE_DATE = "2026-01-01"
_CODES = "http://terminology.hl7.org/CodeSystem/"

_FAMILY_NAMES = """
Abbott Adams Alvarez Baker Bennett Brooks Carter Chen Cole Davis Diaz Dunn Edwards Ellis Evans Fisher Flores Foster Garcia Gomez Grant
Hall Harris Hughes Ibarra Ingram Irwin Jackson James Jones Kelly Khan Kim Lee Lewis Lopez Martin Meyer Moore Nash Nelson Nguyen
Ochoa Olson Owens Park Perez Price Quill Quinn Quiroz Reed Rivera Ross Sanders Scott Shaw Taylor Torres Turner Ueda Underwood Upton
Vance Vargas Vega Walker Ward Wood Xavier Xiong Xu Yang Yates Young Zamora Zhang Zimmer
"""
_GIVEN_NAMES = "Ada Ben Cleo Dan Eve Finn Gia Hal Ivy Jon Kay Leo Mia Ned Ona Pat Quy Ray Sue Tom"
_GIVEN = tuple(_GIVEN_NAMES.split())
FAMILIES = {
    letter: tuple(name for name in _FAMILY_NAMES.split() if name.startswith(letter))
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
}
_NOTES = (("11506-3", "Progress note"), ("34117-2", "History and physical note"), ("18842-5", "Discharge summary"))
_ORDERS = (("24323-8", "Comprehensive metabolic panel"), ("58410-2", "Complete blood count panel"), ("4548-4", "HbA1c"))
_VACCINES = (("140", "Influenza, seasonal, injectable"), ("115", "Tdap"), ("33", "Pneumococcal polysaccharide"))
_PROCEDURES = (("93000", "Electrocardiogram"), ("36415", "Venipuncture"), ("94010", "Spirometry"))


@dataclass(frozen=True, slots=True)
class Panel:
    """A laboratory report with the observations that it bundles."""

    report: Resource
    results: tuple[Resource, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One synthetic patient's material."""

    patient: Resource
    vitals: tuple[Resource, ...]
    panels: tuple[Panel, ...]
    conditions: tuple[Resource, ...]
    allergies: tuple[Resource, ...]
    medications: tuple[Resource, ...]
    encounter: Resource


def _category(resource: Mapping[str, Any]) -> str:
    categories = resource.get("category")
    return str(categories[0]["coding"][0]["code"]) if isinstance(categories, list) else ""


def _case(profile: str, seed: int, sex: str) -> Case:
    bundle = carebundle.generate_bundle(profile=profile, seed=seed, sex=sex)
    entries = json.loads(carebundle.to_json(bundle))["entry"]
    by_url = {entry["fullUrl"]: entry["resource"] for entry in entries}
    found: dict[str, list[Resource]] = {}
    for resource in by_url.values():
        found.setdefault(resource["resourceType"], []).append(resource)
    panels = tuple(
        Panel(report, tuple(by_url[item["reference"]] for item in report["result"]))
        for report in found.get("DiagnosticReport", [])
    )
    return Case(
        patient=found["Patient"][0],
        vitals=tuple(item for item in found["Observation"] if _category(item) == "vital-signs"),
        panels=panels,
        conditions=tuple(found.get("Condition", [])),
        allergies=tuple(found.get("AllergyIntolerance", [])),
        medications=tuple(found.get("MedicationRequest", [])),
        encounter=found["Encounter"][0],
    )


@cache
def cases() -> tuple[Case, ...]:
    """The pool that all practices draw from; made once a process (about 0.4 s)."""
    return tuple(_case(profile, 3 + index, sex) for index, profile in enumerate(_PROFILES) for sex in ("F", "M"))


def decimal(rng: random.Random, value: float) -> jsontext.Literal:
    """A measured value near ``value`` with two decimals, often ending in 0: 13.20 is not 13.2."""
    text = f"{value * rng.uniform(0.85, 1.15):.2f}"
    return jsontext.Literal(text[:-1] + "0" if rng.getrandbits(1) else text)


def measured(resource: Resource, rng: random.Random) -> Resource:
    """The resource with new values in its quantities."""
    changed = dict(resource)
    if "valueQuantity" in changed:
        quantity = changed["valueQuantity"]
        changed["valueQuantity"] = {**quantity, "value": decimal(rng, float(quantity["value"]))}
    if "component" in changed:
        changed["component"] = [
            {
                **part,
                "valueQuantity": {
                    **part["valueQuantity"],
                    "value": decimal(rng, float(part["valueQuantity"]["value"])),
                },
            }
            if "valueQuantity" in part
            else part
            for part in changed["component"]
        ]
    return changed


def retold(resource: Resource, serial: int) -> Resource:
    """The resource with another narrative: not a change."""
    text = f'<div xmlns="http://www.w3.org/1999/xhtml"><p>Synthetic test record, rendered {serial} times.</p></div>'
    return {**resource, "text": {"status": "generated", "div": text}}


def _stamp(when: dt.datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _coded(system: str, code: str, display: str) -> Resource:
    return {"coding": [{"system": system, "code": code, "display": display}], "text": display}


class Author:
    """Writes resources of one practice: its own ids, references and clinicians."""

    def __init__(self, rng: random.Random, *, opaque: bool) -> None:
        self._rng = rng
        self._opaque = opaque
        self.clinicians = tuple(self.mint("Practitioner") for _ in range(3))

    def mint(self, resource_type: str) -> str:
        """A new logical id: 43 to 64 opaque characters with ``.`` and ``-`` as eCW's, else a short one."""
        rng = self._rng
        if not self._opaque:
            return f"{resource_type[:3].lower()}-{rng.getrandbits(64):016x}"
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
        inner = "".join(rng.choices(letters + "-.", k=rng.randint(39, 60)))
        return f"{rng.choice(letters)}{inner}.-{rng.choice(letters)}"

    def practitioners(self) -> Iterator[Resource]:
        """The practice's clinicians."""
        for name in self.clinicians:
            yield {
                "resourceType": "Practitioner",
                "id": name,
                "name": [{"family": "Mocklin", "given": [self._rng.choice(_GIVEN)], "prefix": ["Dr"]}],
            }

    def patient(self, case: Case, initials: str) -> Resource:
        """A new patient whose family name begins with one of ``initials``."""
        rng = self._rng
        family = rng.choice(FAMILIES[rng.choice(initials).upper()])
        given = rng.choice(_GIVEN)
        return {
            **case.patient,
            "id": self.mint("Patient"),
            "identifier": [{"system": "urn:oid:2.16.840.1.113883.19.5", "value": f"{rng.randrange(10**8):08d}"}],
            "active": True,
            "name": [{"use": "official", "family": family, "given": [given]}],
            "telecom": [{"system": "phone", "value": f"555-{rng.randrange(10_000):04d}", "use": "home"}],
            "birthDate": f"{rng.randint(1935, 2020)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
            "deceasedBoolean": False,
        }

    def copy(self, template: Resource, patient: str, encounter: str | None, when: dt.datetime) -> Resource:
        """A template's resource as this patient's own, with dates about ``when``."""
        text = json.dumps(template).replace(_REFERENCE_DATE, when.strftime("%Y-%m-%d"))
        resource: Resource = jsontext.loads(text)
        resource["id"] = self.mint(resource["resourceType"])
        element = "patient" if resource["resourceType"] in {"AllergyIntolerance", "Immunization"} else "subject"
        resource[element] = {"reference": f"Patient/{patient}"}
        if "encounter" in resource:
            del resource["encounter"]
        if encounter is not None and resource["resourceType"] not in {"Encounter", "AllergyIntolerance"}:
            resource["encounter"] = {"reference": f"Encounter/{encounter}"}
        for element in ("performer", "requester"):
            if element in resource:
                clinician = {"reference": f"Practitioner/{self._rng.choice(self.clinicians)}"}
                resource[element] = [clinician] if element == "performer" else clinician
        return measured(resource, self._rng)

    def panel(self, panel: Panel, patient: str, encounter: str | None, when: dt.datetime, size: int) -> list[Resource]:
        """Observations of a laboratory panel, at most ``size``, and last the report that names them."""
        results = [self.copy(item, patient, encounter, when) for item in panel.results[:size]]
        report = self.copy(panel.report, patient, encounter, when)
        report["result"] = [{"reference": f"Observation/{item['id']}"} for item in results]
        return [*results, report]

    def encounter(self, case: Case, patient: str, when: dt.datetime, status: str) -> Resource:
        """A visit."""
        visit = self.copy(case.encounter, patient, None, when)
        clinician = {"reference": f"Practitioner/{self._rng.choice(self.clinicians)}"}
        return {
            **visit,
            "status": status,
            "participant": [{"individual": clinician}],
            "period": {"start": _stamp(when)},
        }

    def _base(self, resource_type: str, patient: str, element: str = "subject") -> Resource:
        return {
            "resourceType": resource_type,
            "id": self.mint(resource_type),
            element: {"reference": f"Patient/{patient}"},
        }

    def note(self, patient: str, encounter: str, when: dt.datetime) -> Resource:
        """A clinical note, not signed yet."""
        code, title = self._rng.choice(_NOTES)
        return {
            **self._base("DocumentReference", patient),
            "status": "current",
            "docStatus": "preliminary",
            "type": _coded("http://loinc.org", code, title),
            "category": [
                _coded(
                    "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category", "clinical-note", title
                )
            ],
            "date": _stamp(when),
            "description": f"{title} {self._rng.randrange(1000)}",
            "content": [{"attachment": {"contentType": "text/plain", "url": f"Binary/{self.mint('Binary')}"}}],
            "context": {"encounter": [{"reference": f"Encounter/{encounter}"}]},
        }

    def order(self, patient: str, encounter: str, when: dt.datetime) -> Resource:
        """An order for a test."""
        code, title = self._rng.choice(_ORDERS)
        return {
            **self._base("ServiceRequest", patient),
            "status": "active",
            "intent": "order",
            "category": [_coded("http://snomed.info/sct", "108252007", "Laboratory procedure")],
            "code": _coded("http://loinc.org", code, title),
            "encounter": {"reference": f"Encounter/{encounter}"},
            "authoredOn": _stamp(when),
            "requester": {"reference": f"Practitioner/{self._rng.choice(self.clinicians)}"},
        }

    def immunization(self, patient: str, when: dt.datetime) -> Resource:
        """A vaccination given."""
        code, title = self._rng.choice(_VACCINES)
        return {
            **self._base("Immunization", patient, "patient"),
            "status": "completed",
            "vaccineCode": _coded("http://hl7.org/fhir/sid/cvx", code, title),
            "occurrenceDateTime": _stamp(when),
            "primarySource": True,
            "doseQuantity": {"value": jsontext.Literal("0.50"), "unit": "mL"},
        }

    def procedure(self, patient: str, when: dt.datetime) -> Resource:
        """Something done."""
        code, title = self._rng.choice(_PROCEDURES)
        return {
            **self._base("Procedure", patient),
            "status": "completed",
            "code": _coded("http://www.ama-assn.org/go/cpt", code, title),
            "performedDateTime": _stamp(when),
        }

    def history(self, case: Case, patient: str, when: dt.datetime, labs: int) -> list[Resource]:
        """What a patient who has been here for a while brings: one past visit and all that came of it, ``labs`` results at most."""
        visit = self.encounter(case, patient, when, "finished")
        name = visit["id"]
        found = [visit, *(self.copy(item, patient, name, when) for item in case.vitals)]
        for panel in case.panels:
            if labs > 0:
                found.extend(self.panel(panel, patient, name, when, labs))
                labs -= len(panel.results)
        chronic: Sequence[Resource] = (*case.conditions, *case.allergies, *case.medications[:3])
        found.extend(self.copy(item, patient, name, when) for item in chronic)
        found.extend((self.note(patient, name, when), self.order(patient, name, when)))
        found.extend((self.immunization(patient, when), self.procedure(patient, when)))
        return found


CONDITION_STATUS = _CODES + "condition-clinical"
ALLERGY_STATUS = _CODES + "allergyintolerance-clinical"
VERIFICATION = {
    "Condition": _CODES + "condition-ver-status",
    "AllergyIntolerance": _CODES + "allergyintolerance-verification",
}
