"""What a server says of itself, and first patients to ask it about."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from poller.core.capability import ExportReport, Finding, PracticeReport, SmartReport
from poller.core.model import Kind, Target
from poller.core.refusals import covers
from poller.source.asking import Asked, Asker

_SEARCHED = 4
"""Beginnings of names that are searched for two patients."""

_WORD = 60
"""Letters of a name of software."""


async def describe(
    asker: Asker, report: PracticeReport, granted: Collection[str] | None
) -> tuple[PracticeReport, Mapping[str, tuple[str, ...]]]:
    """The report with what smart-configuration and CapabilityStatement say, and the search parameters declared for each type."""
    smart = await asker.ask(".well-known/smart-configuration", "", accepted=frozenset({200}))
    statement = await asker.ask("metadata", "")
    said = statement.answer.body if statement.finding is Finding.YES else None
    said = said if isinstance(said, dict) and said.get("resourceType") == "CapabilityStatement" else {}
    rest = _first(said.get("rest"))
    resources = {str(one.get("type")): one for one in _dicts(rest.get("resource"))}
    software = _dict(said.get("software"))
    words = " ".join(str(software[name]) for name in ("name", "version") if software.get(name))
    version = said.get("fhirVersion")
    report = replace(
        report,
        smart=_smart(smart),
        software=words[:_WORD] if words.isprintable() and words else None,
        fhir_version=version[:_WORD] if isinstance(version, str) and version.isprintable() else None,
        export=ExportReport(_exports(rest, resources), None if granted is None else covers(granted, "Group")),
    )
    return report, {name: _names(one.get("searchParam")) for name, one in resources.items()}


def _smart(asked: Asked) -> SmartReport:
    said = asked.answer.body
    if asked.finding is not Finding.YES or not isinstance(said, dict):
        return SmartReport(found=False)
    methods = said.get("token_endpoint_auth_methods_supported")
    algorithms = said.get("token_endpoint_auth_signing_alg_values_supported")
    return SmartReport(
        found=True,
        token_endpoint=isinstance(said.get("token_endpoint"), str),
        private_key_jwt=isinstance(methods, list) and "private_key_jwt" in methods,
        rs384=isinstance(algorithms, list) and "RS384" in algorithms,
    )


def _exports(rest: Mapping[str, Any], resources: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Where bulk export is declared."""
    places = {"system": rest, "Patient": resources.get("Patient", {}), "Group": resources.get("Group", {})}
    return tuple(
        place
        for place, one in places.items()
        if any(str(operation.get("name", "")).endswith("export") for operation in _dicts(one.get("operation")))
    )


def _names(parameters: object) -> tuple[str, ...]:
    return tuple(sorted(str(one.get("name")) for one in _dicts(parameters)))


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(value: object) -> dict[str, Any]:
    return next(iter(_dicts(value)), {})


@dataclass(frozen=True, slots=True)
class Patients:
    """Patients to ask about, and the searches that found them, so that they need not be made again."""

    sample: tuple[str, ...]
    bare: Asked | None = None
    """A search for all patients."""
    by_name: Asked | None = None
    """The first one by the beginning of a name."""


async def find_patients(asker: Asker, known: Sequence[str]) -> Patients:
    """As many patients as a group may have: those known, else the first that a search or two show."""
    most = max(asker.practice.patients_per_call, 4)
    if known:
        return Patients(tuple(dict.fromkeys(known))[:most])
    practice = asker.practice
    bare = await asker.first_page(Target(practice.code, "Patient", Kind.SWEEP))
    found, by_name = _ids(bare), None
    for name in practice.patients.names[:_SEARCHED]:
        if len(found) > 1:
            break
        asked = await asker.first_page(Target(practice.code, "Patient", Kind.NAMES, names=(name,)))
        found, by_name = [*found, *_ids(asked)], by_name or asked
        if asked.finding is Finding.NO:
            break
    return Patients(tuple(dict.fromkeys(found))[:most], bare, by_name)


def _ids(asked: Asked) -> list[str]:
    return [one.sighting.id for one in asked.page.showings] if asked.page is not None else []
