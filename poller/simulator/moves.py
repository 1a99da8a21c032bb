"""What befalls whole records: two patients turn out to be one, a patient goes, something was entered in error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poller.simulator import clinical

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from poller.simulator.clinical import Resource
    from poller.simulator.practice import Practice

_STATUS_ELEMENT = {"Goal": "lifecycleStatus"}
_OWNERS = ("subject", "patient", "beneficiary")


def erroneous(resource: Resource) -> Resource:
    """The resource marked as entered in error, each type in its own way. A Patient has none: one is made inactive."""
    kind = resource["resourceType"]
    if kind == "Patient":
        return {**resource, "active": False}
    if kind in clinical.VERIFICATION:
        coding = {"system": clinical.VERIFICATION[kind], "code": "entered-in-error"}
        kept = {name: value for name, value in resource.items() if name != "clinicalStatus"}
        return {**kept, "verificationStatus": {"coding": [coding]}}
    return {**resource, _STATUS_ELEMENT.get(kind, "status"): "entered-in-error"}


def moved(resource: Mapping[str, Any], patient: str) -> Resource:
    """The resource as another patient's."""
    owner = next(element for element in _OWNERS if element in resource)
    return {**resource, owner: {**resource[owner], "reference": f"Patient/{patient}"}}


def merge(practice: Practice, old: str, new: str, now: dt.datetime, *, vanish: bool = False) -> None:
    """Two patients are one: all that ``old`` has becomes ``new``'s, and ``old`` is inactivated with a link to it, or vanishes.

    KeyError when one of the two is not there.
    """
    patients = practice.chart.written("Patient")
    replaced = patients[old]
    reference = {"reference": f"Patient/{patients[new]['id']}"}
    for resource in practice.chart.written_of(old):
        practice.put(moved(resource, new), now)
    if vanish:
        practice.delete("Patient", old, now)
    else:
        practice.put({**replaced, "active": False, "link": [{"other": reference, "type": "replaced-by"}]}, now)


def remove(practice: Practice, patient: str, now: dt.datetime) -> None:
    """A patient goes, with all that is the patient's. KeyError when there is no such patient."""
    for resource in practice.chart.written_of(patient):
        practice.delete(resource["resourceType"], resource["id"], now)
    practice.delete("Patient", patient, now)


def survivor(practice: Practice, patient: str) -> str | None:
    """Who the patient is now, after merges; None for one who is gone."""
    written = practice.chart.written("Patient").get(patient)
    while written is not None:
        replaced = [link for link in written.get("link", ()) if link.get("type") == "replaced-by"]
        if not replaced:
            return str(written["id"])
        written = practice.chart.written("Patient").get(replaced[0]["other"]["reference"].removeprefix("Patient/"))
    return None
