"""A practice's records: every version ever written, and what requests may see of them now."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from poller.core import jsontext
from poller.simulator.truth import TrueVersion

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from poller.simulator.truth import Key


@dataclass(frozen=True, slots=True)
class Row:
    """A visible resource, ready to be searched and sent."""

    resource_type: str
    id: str
    number: int
    """Version number, 1 for the first."""
    stamp: dt.datetime
    """What ``meta.lastUpdated`` says."""
    resource: Mapping[str, Any]
    body: bytes
    patient: str | None
    categories: frozenset[str]


def patient_of(resource: Mapping[str, Any]) -> str | None:
    """Logical id of the patient that a resource belongs to."""
    for element in ("subject", "patient", "beneficiary"):
        reference = resource.get(element)
        if isinstance(reference, dict) and str(reference.get("reference", "")).startswith("Patient/"):
            return str(reference["reference"]).removeprefix("Patient/")
    return None


def categories_of(resource: Mapping[str, Any]) -> frozenset[str]:
    """Codes of all codings in ``category`` (for AllergyIntolerance its plain codes)."""
    categories = resource.get("category") or ()
    codes: set[str] = set()
    for category in categories if isinstance(categories, list) else [categories]:
        if isinstance(category, dict):
            codes.update(str(coding["code"]) for coding in category.get("coding", ()) if "code" in coding)
        else:
            codes.add(str(category))
    return frozenset(codes)


class Chart:
    """All versions of one practice. Not safe for threads: the world holds the lock."""

    def __init__(self) -> None:
        self.versions: dict[Key, list[TrueVersion]] = {}
        self._written: dict[str, dict[str, Mapping[str, Any]]] = {}
        self._visible: dict[str, dict[str, Row]] = {}
        self._of_patient: dict[tuple[str, str], dict[str, Row]] = {}
        self._pending: list[tuple[dt.datetime, int, Key, TrueVersion, Row | None]] = []
        self._serial = count()

    def written(self, resource_type: str) -> Mapping[str, Mapping[str, Any]]:
        """Id → resource as last written, seen already or not; deleted ones are not in it."""
        return self._written.get(resource_type, {})

    def written_of(self, patient: str) -> list[Mapping[str, Any]]:
        """All that is a patient's as last written, the Patient itself not."""
        return [
            resource
            for kind, resources in self._written.items()
            for resource in resources.values()
            if kind != "Patient" and patient_of(resource) == patient
        ]

    def number(self, resource_type: str, name: str) -> int:
        """How many versions (tombstones too) there are of a resource."""
        return len(self.versions.get((resource_type, name), ()))

    def put(self, resource: Mapping[str, Any], stamp: dt.datetime, now: dt.datetime, visible_from: dt.datetime) -> None:
        """Write a version that carries its id and meta already; it can be seen from ``visible_from`` on."""
        kind, name = str(resource["resourceType"]), str(resource["id"])
        self._written.setdefault(kind, {})[name] = resource
        row = Row(
            resource_type=kind,
            id=name,
            number=self.number(kind, name) + 1,
            stamp=stamp,
            resource=resource,
            body=jsontext.dumps(resource),
            patient=name if kind == "Patient" else patient_of(resource),
            categories=categories_of(resource),
        )
        self._append((kind, name), TrueVersion(resource, now, visible_from), row)

    def delete(self, resource_type: str, name: str, now: dt.datetime, visible_from: dt.datetime) -> None:
        """Write a tombstone. Raises KeyError when there is nothing to delete."""
        del self._written[resource_type][name]
        self._append((resource_type, name), TrueVersion(None, now, visible_from), None)

    def _append(self, key: Key, version: TrueVersion, row: Row | None) -> None:
        versions = self.versions.setdefault(key, [])
        if versions and versions[-1].visible_from > version.visible_from:
            version.visible_from = versions[-1].visible_from
        versions.append(version)
        heapq.heappush(self._pending, (version.visible_from, next(self._serial), key, version, row))

    def reveal(self, now: dt.datetime) -> None:
        """Let requests see all that is due."""
        while self._pending and self._pending[0][0] <= now:
            when, _, key, version, row = heapq.heappop(self._pending)
            versions = self.versions[key]
            index = next(index for index in range(len(versions) - 1, -1, -1) if versions[index] is version)
            if index:
                versions[index - 1].visible_until = when
            self._show(key, row)

    def _show(self, key: Key, row: Row | None) -> None:
        kind, name = key
        rows = self._visible.setdefault(kind, {})
        before = rows.get(name)
        if before is not None and before.patient is not None and (row is None or row.patient != before.patient):
            self._of_patient[kind, before.patient].pop(name, None)
        if row is None:
            rows.pop(name, None)
            return
        rows[name] = row
        if row.patient is not None:
            self._of_patient.setdefault((kind, row.patient), {})[name] = row

    def row(self, resource_type: str, name: str) -> Row | None:
        """The resource as requests see it now."""
        return self._visible.get(resource_type, {}).get(name)

    def rows(self, resource_type: str, patient: str | None = None) -> Iterable[Row]:
        """Visible resources of a type, of one patient or of all, in the order in which they first appeared."""
        if patient is None:
            return self._visible.get(resource_type, {}).values()
        return self._of_patient.get((resource_type, patient), {}).values()

    def kinds(self) -> set[str]:
        """Resource types of which something is visible."""
        return {kind for kind, rows in self._visible.items() if rows}

    def gone(
        self, types: Collection[str], since: dt.datetime, now: dt.datetime, served: Callable[[dt.datetime], dt.datetime]
    ) -> Iterator[tuple[str, str | None]]:
        """What was deleted at or after ``since`` (by the clock that ``served`` tells) and is away now: ``Type/id``, and its patient."""
        for (kind, name), versions in self.versions.items():
            if kind not in types or name in self._visible.get(kind, {}):
                continue
            seen = [version for version in versions if version.visible_from <= now]
            if seen and seen[-1].resource is None and served(seen[-1].changed_at) >= since:
                last = next((version.resource for version in reversed(seen) if version.resource is not None), None)
                if last is not None:
                    yield f"{kind}/{name}", name if kind == "Patient" else patient_of(last)

    def was_seen(self, resource_type: str, name: str, now: dt.datetime) -> bool:
        """Whether requests could ever see this resource."""
        return any(version.visible_from <= now for version in self.versions.get((resource_type, name), ()))

    def truth(self) -> dict[Key, list[TrueVersion]]:
        """A copy of all versions (the resources themselves are shared and never changed)."""
        return {
            key: [TrueVersion(v.resource, v.changed_at, v.visible_from, v.visible_until) for v in versions]
            for key, versions in self.versions.items()
        }
