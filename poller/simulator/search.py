"""Searches: which are allowed in which mode, what they find, and how it comes in pages."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import orjson

from poller.simulator.capability import DECLARED, NEEDS_CATEGORY, PER_PATIENT, READ_ONLY, UNPAGED, accepted
from poller.simulator.matching import BadValue, NotServed, test_of
from poller.simulator.truth import SearchScope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poller.simulator.chart import Row
    from poller.simulator.practice import Practice

Pair = tuple[str, str]

_PAGING = {"page", "_count", "_sort", "_format", "_revinclude", "_cursor"}
_MOST = 1000
_KEPT = 500
_REFUSED_TOGETHER = {"MedicationRequest": {"patient", "status"}}


class Refused(Exception):  # noqa: N818 - an answer of the protocol, not a failure of ours
    """The search is answered with an OperationOutcome."""

    def __init__(self, status: int, diagnostics: str, code: str = "processing") -> None:
        self.status = status
        self.diagnostics = diagnostics
        self.code = code
        super().__init__(code)


@dataclass(slots=True)
class Reading:
    """What one search found, so that its later pages fit its first; rows are looked up again when their page is asked for."""

    number: int
    resource_type: str
    used: tuple[Pair, ...]
    ids: list[str]
    size: int
    scope: SearchScope
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    shift: int = 0
    """Rows by which later pages begin too late (or, negative, too early)."""


@dataclass(frozen=True, slots=True)
class Page:
    """A searchset Bundle and what it was part of."""

    body: bytes
    scope: SearchScope
    read: int
    number: int
    last: bool
    intact: bool
    rows: tuple[str, ...]


class Searches:
    """Answers the searches of one practice."""

    def __init__(self, practice: Practice) -> None:
        self._practice = practice
        self._ecw = practice.spec.mode == "ecw"
        self._numbers = count(1)
        self._readings: OrderedDict[object, Reading] = OrderedDict()

    def page(self, resource_type: str, query: tuple[Pair, ...], base_url: str) -> Page:
        """One page of a search. Raises Refused."""
        values = dict(query)
        if "_cursor" in values:
            token, _, later = values["_cursor"].partition(".")
            reading = self._readings.get(token)
            if reading is None or not later.isdigit():
                raise Refused(410, "The search is not known any more", "expired")
            return self._show(reading, int(later), base_url)
        self._check(resource_type, query)
        number = self._number(values)
        key = (resource_type, tuple(sorted(pair for pair in query if pair[0] != "page")))
        known = self._readings.get(key) if number > 1 else None
        if known is None:
            known = self._read(resource_type, query)
            self._readings[key if self._ecw else known.token] = known
            if len(self._readings) > _KEPT:
                self._readings.popitem(last=False)
        return self._show(known, number, base_url)

    def _number(self, values: dict[str, str]) -> int:
        if not self._ecw or "page" not in values:
            return 1
        if not values["page"].isdigit() or int(values["page"]) < 1:
            raise Refused(400, "Invalid request: page is not valid")
        return int(values["page"])

    def _check(self, resource_type: str, query: tuple[Pair, ...]) -> None:
        """The mode's rules on which parameters a search may and must have."""
        if resource_type not in DECLARED or resource_type in READ_ONLY:
            raise Refused(404, f"Unknown resource type '{resource_type}'", "not-supported")
        names = [name for name, _ in query]
        if self._ecw:
            unknown = [name for name in names if name not in accepted("ecw", resource_type)]
            if unknown and self._practice.spec.wording == "2026":
                raise Refused(
                    400, f"Unsupported query parameter(s): {', '.join(unknown)}. These parameters are not allowed."
                )
            together = _REFUSED_TOGETHER.get(resource_type)
            if unknown or (together and together <= set(names)):
                asked = ",".join(names)
                raise Refused(
                    400, f"Invalid request: Does not know how to handle get operation with parameter [{asked}]"
                )
            self._check_required(resource_type, set(names) - _PAGING)
        elif self._practice.spec.stamps == "refused" and "_lastUpdated" in names:
            raise Refused(400, "Unknown search parameter '_lastUpdated'", "not-supported")

    def _check_required(self, resource_type: str, names: set[str]) -> None:
        if names == {"_id"}:
            return
        schedule = resource_type == "Encounter" and {"practitioner", "date"} <= names
        if resource_type in PER_PATIENT and "patient" not in names and not schedule:
            raise Refused(400, "Invalid request: patient is required", "required")
        if resource_type in NEEDS_CATEGORY and "category" not in names:
            raise Refused(400, "Invalid request: category is required", "required")
        if not names and resource_type != "Group":
            raise Refused(400, "Invalid request: a search parameter is required", "required")

    def _read(self, resource_type: str, query: tuple[Pair, ...]) -> Reading:
        """Run the search. Parameters that are ignored do not count as used."""
        spec = self._practice.spec
        known = accepted(spec.mode, resource_type)
        ignored = {"_lastUpdated"} if spec.stamps == "ignored" else set()
        used = tuple((name, value) for name, value in query if name in known and name not in ignored)
        filters = [pair for pair in used if pair[0] not in _PAGING and pair[0] != "patient"]
        try:
            tests = [test_of(name, value) for name, value in filters]
        except BadValue:
            raise Refused(400, "Invalid date/time format in a search parameter", "value") from None
        except NotServed:
            raise Refused(400, "Invalid request: this combination of parameters is not supported") from None
        rows = [row for row in self._candidates(resource_type, used) if all(test(row) for test in tests)]
        values = dict(used)
        if "_sort" in values:
            rows.sort(key=lambda row: row.stamp, reverse=values["_sort"].startswith("-"))
        narrowing = sorted(f"{name}={value}" for name, value in filters if name not in {"category", "_lastUpdated"})
        scope = SearchScope(
            resource_type,
            patient=values["patient"].rpartition("/")[2] if "patient" in values else None,
            category=values["category"].rpartition("|")[2] if "category" in values else None,
            windowed="_lastUpdated" in values,
            narrowed="&".join(narrowing),
        )
        ids = [row.id for row in rows]
        return Reading(
            next(self._numbers), resource_type, used, ids, self._size(resource_type, values, len(ids)), scope
        )

    def _candidates(self, resource_type: str, used: tuple[Pair, ...]) -> list[Row]:
        chart = self._practice.chart
        patients = [value for name, value in used if name == "patient"]
        if not patients:
            return list(chart.rows(resource_type))
        named = patients[0] if self._ecw else patients[0].split(",")
        several = [named] if isinstance(named, str) else named
        return [row for one in several for row in chart.rows(resource_type, one.rpartition("/")[2])]

    def _size(self, resource_type: str, values: dict[str, str], found: int) -> int:
        """Rows a page: what was asked for where ``_count`` is known; all at once where there is no ``page``."""
        spec = self._practice.spec
        if self._ecw:
            return max(found, 1) if resource_type in UNPAGED else spec.page_size
        asked = values.get("_count", "")
        return min(max(int(asked), 0), _MOST) if asked.isdigit() else spec.page_size

    def _show(self, reading: Reading, number: int, base_url: str) -> Page:
        """One page, with the faults that befall pages."""
        practice = self._practice
        faults, rng = practice.faults, practice.fault_rng
        total, intact, extra = len(reading.ids), True, 0
        if number > 1 and faults.hits("search", reading.resource_type):
            if faults.shift and rng.random() < faults.shift:
                step = rng.choice((1, -1))
                reading.shift += step
                intact = step < 0
            if faults.duplicate and rng.random() < faults.duplicate:
                extra = 1
        total -= reading.shift
        if faults.total_lie and rng.random() < faults.total_lie:
            total += rng.choice((-1, 1, 50))
        start = max((number - 1) * reading.size + reading.shift - extra, 0)
        end = number * reading.size + reading.shift
        shown = [practice.chart.row(reading.resource_type, name) for name in reading.ids[start:end]]
        rows = [row for row in shown if row is not None]
        last = end >= len(reading.ids) or reading.size == 0
        links = [("self", self._link(reading, number, base_url))]
        if not last:
            links.append(("next", self._link(reading, number + 1, base_url, follow=True)))
        body = self._bundle(rows, max(total, 0), links, base_url)
        names = tuple(row.id for row in rows)
        return Page(body, reading.scope, reading.number, number, last, intact, names)

    def _root(self, base_url: str) -> str:
        """Base of links: ecw names another host, and http."""
        spec = self._practice.spec
        return f"http://{spec.link_host}/fhir/r4/{spec.code}" if self._ecw else base_url

    def _link(self, reading: Reading, number: int, base_url: str, *, follow: bool = False) -> str:
        root = f"{self._root(base_url)}/{reading.resource_type}"
        if not self._ecw and (follow or number > 1):
            return f"{root}?_cursor={reading.token}.{number}"
        pairs = [pair for pair in reading.used if pair[0] != "page"]
        if number > 1:
            pairs.append(("page", str(number)))
        return f"{root}?{urlencode(pairs, quote_via=quote)}" if pairs else root

    def _bundle(self, rows: Sequence[Row], total: int, links: list[Pair], base_url: str) -> bytes:
        root = self._root(base_url)
        head = orjson.dumps(
            {
                "resourceType": "Bundle",
                "id": str(uuid.uuid4()),
                "type": "searchset",
                "total": total,
                "link": [{"relation": relation, "url": url} for relation, url in links],
            }
        )
        if not rows:
            return head
        entries = b",".join(
            b'{"fullUrl":"%s/%s/%s","resource":%s,"search":{"mode":"match"}}'
            % (root.encode(), row.resource_type.encode(), row.id.encode(), row.body)
            for row in rows
        )
        return head[:-1] + b',"entry":[' + entries + b"]}"
