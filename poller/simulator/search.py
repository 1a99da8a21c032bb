"""Searches: which are allowed in which mode, what they find, and how it comes in pages."""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING

from poller.simulator import everything, paging
from poller.simulator.capability import DECLARED, NEEDS_CATEGORY, PER_PATIENT, READ_ONLY, UNPAGED, accepted
from poller.simulator.matching import BadValue, NotServed, test_of
from poller.simulator.paging import Page, Pair, Reading
from poller.simulator.refusals import Refused, too_old, unsupported
from poller.simulator.truth import SearchScope

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.simulator.chart import Row
    from poller.simulator.practice import Practice
    from poller.simulator.spec import PracticeSpec

__all__ = ["Page", "Refused", "Searches"]

_PAGING = {"page", "_count", "_sort", "_format", "_revinclude", "_cursor"}
_MOST = 1000
_KEPT = 500
_REFUSED_TOGETHER = {"MedicationRequest": {"patient", "status"}}
_WANTED = {"CarePlan": "category", "CareTeam": "status"}
_STAMPED = ("_lastUpdated", "_since")
"""Parameters that search by stamp."""


class Searches:
    """Answers the searches of one practice, and ``$everything``."""

    def __init__(self, practice: Practice) -> None:
        self._practice = practice
        self._ecw = practice.spec.mode == "ecw"
        self._numbers = count(1)
        self._readings: OrderedDict[object, Reading] = OrderedDict()

    @property
    def _spec(self) -> PracticeSpec:
        return self._practice.spec

    def page(self, resource_type: str, query: tuple[Pair, ...], base_url: str) -> Page:
        """One page of a search. Raises Refused."""

        def find() -> Reading:
            self._check(resource_type, query)
            return self._read(resource_type, query)

        return self._page(resource_type, query, base_url, find)

    def everything(self, patient: str, query: tuple[Pair, ...], base_url: str, covers: Callable[[str], bool]) -> Page:
        """One page of a patient's record, less the types that the token does not cover. Raises Refused."""
        path = f"Patient/{patient}/{everything.OPERATION}"

        def find() -> Reading:
            used, keys, scope = everything.record_of(self._practice, patient, query, covers)
            size = self._size("Patient", dict(used), len(keys))
            return Reading(next(self._numbers), path, used, keys, size, scope, cuts=self._spec.everything_cuts)

        return self._page(path, query, base_url, find)

    def _page(self, path: str, query: tuple[Pair, ...], base_url: str, find: Callable[[], Reading]) -> Page:
        values = dict(query)
        if "_cursor" in values and not self._ecw:
            token, _, later = values["_cursor"].partition(".")
            reading = self._readings.get(token)
            if reading is None or not later.isdigit():
                raise Refused(410, "The search is not known any more", "expired")
            return paging.show(self._practice, reading, int(later), base_url)
        number = self._number(values)
        key = (path, tuple(sorted(pair for pair in query if pair[0] != "page")))
        known = self._readings.get(key) if number > 1 else None
        if known is None:
            known = find()
            self._readings[key if self._ecw else known.token] = known
            if len(self._readings) > _KEPT:
                self._readings.popitem(last=False)
        return paging.show(self._practice, known, number, base_url)

    def _number(self, values: dict[str, str]) -> int:
        if not self._ecw or "page" not in values:
            return 1
        if not values["page"].isdigit() or int(values["page"]) < 1:
            raise Refused(400, "Invalid request: page is not valid")
        return int(values["page"])

    def _check(self, resource_type: str, query: tuple[Pair, ...]) -> None:
        """The practice's rules on which parameters a search may and must have."""
        spec = self._spec
        if resource_type not in DECLARED or resource_type in READ_ONLY:
            raise Refused(404, f"Unknown resource type '{resource_type}'", "not-supported")
        if resource_type in spec.too_old_for:
            raise too_old(spec)
        names = [name for name, _ in query]
        refused = _refused(spec, resource_type, names)
        together = _REFUSED_TOGETHER.get(resource_type) if self._ecw else None
        if refused or (together and together <= set(names)):
            raise unsupported(spec, names, refused)
        for name, value in query:
            manner = {"patient": spec.several, "_id": spec.several_ids}.get(name)
            if manner == "refused" and "," in value:
                raise Refused(400, f"Invalid request: only one value is allowed for parameter {name}", "value")
        self._check_required(resource_type, set(names) - _PAGING - _ignored(spec))

    def _check_required(self, resource_type: str, names: set[str]) -> None:
        if names - {"_lastUpdated"} == {"_id"}:
            return
        schedule = resource_type == "Encounter" and self._spec.day_windows and {"practitioner", "date"} <= names
        wide = self._spec.wide or "_lastUpdated" in names
        if resource_type in PER_PATIENT and "patient" not in names and not schedule and not wide:
            raise Refused(400, "Invalid request: patient is required", "required")
        if self._ecw and resource_type in NEEDS_CATEGORY and "category" not in names:
            raise Refused(400, "Invalid request: category is required", "required")
        wanted = _WANTED.get(resource_type) if self._ecw and self._spec.wants_narrowed else None
        if wanted is not None and wanted not in names:
            raise Refused(400, f"Invalid request: {wanted} is required", "required")
        if self._ecw and not names and not wide and resource_type != "Group":
            raise Refused(400, "Invalid request: a search parameter is required", "required")

    def _read(self, resource_type: str, query: tuple[Pair, ...]) -> Reading:
        """Run the search. Parameters that are ignored do not count as used."""
        spec = self._spec
        known = accepted(spec.mode, resource_type) | {"_lastUpdated", "_count"}
        used = tuple(pair for pair in query if pair[0] in known and pair[0] not in _ignored(spec))
        filters = [pair for pair in used if pair[0] not in _PAGING and pair[0] != "patient"]
        rows = [row for row in self._candidates(resource_type, used) if all(test(row) for test in self._tests(filters))]
        values = dict(used)
        if "_sort" in values:
            rows.sort(key=lambda row: row.stamp, reverse=values["_sort"].startswith("-"))
        keys = [(row.resource_type, row.id) for row in rows]
        size = self._size(resource_type, values, len(keys))
        return Reading(
            next(self._numbers), resource_type, used, keys, size, self._scope(resource_type, values, filters)
        )

    def _tests(self, filters: list[Pair]) -> list[Callable[[Row], bool]]:
        """What each parameter puts a row to. Raises Refused."""
        by_stamp = self._spec.since_on_observation == "honoured"
        first = self._spec.several_ids == "first"
        try:
            return [
                test_of("_lastUpdated", value if value[:1].isalpha() else f"ge{value}")
                if name == "_since" and by_stamp
                else test_of(name, value.partition(",")[0] if first and name == "_id" else value)
                for name, value in filters
            ]
        except BadValue:
            raise Refused(400, "Invalid date/time format in a search parameter", "value") from None
        except NotServed:
            raise Refused(400, "Invalid request: this combination of parameters is not supported") from None

    def _scope(self, resource_type: str, values: dict[str, str], filters: list[Pair]) -> SearchScope:
        patients = self._patients(values["patient"]) if "patient" in values else []
        several = "," in values.get("patient", "")
        narrowing = sorted(f"{name}={value}" for name, value in filters if name not in {"category", *_STAMPED})
        return SearchScope(
            resource_type,
            patient=patients[0] if patients and not several else None,
            category=values["category"].rpartition("|")[2] if "category" in values else None,
            windowed=any(name in values for name in _STAMPED),
            narrowed="&".join(narrowing),
            patients=tuple(patients) if several else (),
        )

    def _patients(self, value: str) -> list[str]:
        """Ids of the patients that a search for these is answered about."""
        named = value.split(",")[:1] if self._spec.several == "first" else value.split(",")
        return list(dict.fromkeys(one.rpartition("/")[2] for one in named))

    def _candidates(self, resource_type: str, used: tuple[Pair, ...]) -> list[Row]:
        chart = self._practice.chart
        named = [value for name, value in used if name == "patient"]
        if not named:
            return list(chart.rows(resource_type))
        patients = self._patients(named[0])
        gone = self._spec.gone_patient
        if gone != "empty" and any(chart.row("Patient", one) is None for one in patients):
            raise Refused(int(gone), "Invalid request: the patient is not known", "not-found")
        return [row for one in patients for row in chart.rows(resource_type, one)]

    def _size(self, resource_type: str, values: dict[str, str], found: int) -> int:
        """Rows a page: what was asked for where ``_count`` is known; all at once where there is no ``page``."""
        asked = values.get("_count", "")
        if self._spec.counts == "honoured" and asked.isdigit():
            return min(max(int(asked), 0), _MOST)
        return max(found, 1) if self._ecw and resource_type in UNPAGED else self._spec.page_size


def _refused(spec: PracticeSpec, resource_type: str, names: list[str]) -> list[str]:
    """Parameters that are answered 400. The open mode drops what it does not know, but for these two where it is told to refuse them."""
    refused = {"_count"} if spec.counts == "refused" else set()
    with_patient = "patient" in names or (resource_type == "Patient" and "_id" in names)
    if spec.stamps == "refused" or (spec.stamps == "patient-only" and not with_patient):
        refused.add("_lastUpdated")
    known = accepted(spec.mode, resource_type) | {"_lastUpdated", "_count"}
    return [name for name in names if name in refused or (spec.mode == "ecw" and name not in known)]


def _ignored(spec: PracticeSpec) -> frozenset[str]:
    """Parameters that are taken and dropped."""
    manners = {"_lastUpdated": spec.stamps, "_count": spec.counts, "_since": spec.since_on_observation}
    return frozenset(name for name, manner in manners.items() if manner == "ignored")
