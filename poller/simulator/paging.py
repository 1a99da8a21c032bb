"""What a search found, shown page by page as a searchset Bundle, with the faults that befall pages."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import orjson

from poller.core import jsontext

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from poller.simulator.chart import Row
    from poller.simulator.faults import Faults
    from poller.simulator.practice import Practice
    from poller.simulator.truth import Key, SearchScope

Pair = tuple[str, str]

_OWN = frozenset({"resourceType", "id", "meta", "status", "subject", "patient"})
"""Elements that a cut rendering keeps."""


@dataclass(slots=True)
class Reading:
    """What one search found, so that its later pages fit its first; rows are looked up again when their page is asked for."""

    number: int
    path: str
    """Below the base, e.g. ``Observation`` or ``Patient/p1/$everything``."""
    used: tuple[Pair, ...]
    keys: list[Key]
    size: int
    scope: SearchScope
    cuts: bool = False
    """Whether rows are shown with elements missing."""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    shift: int = 0
    """Rows by which later pages begin too late (or, negative, too early)."""

    @property
    def resource_type(self) -> str:
        """The type in whose name it was asked for."""
        return self.path.partition("/")[0]

    def name_of(self, row: Row) -> str:
        """How the call log names a row of this reading; see :class:`~poller.simulator.truth.SearchScope`."""
        if self.scope.types:
            return f"{row.resource_type}/{row.id}"
        return f"{row.patient}/{row.id}" if self.scope.patients else row.id


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


@dataclass(slots=True)
class _Upset:
    """What the faults make of one page."""

    start: int
    end: int
    total: int
    intact: bool = True
    link: str = ""
    """``none``, ``self`` or ``elsewhere`` instead of the next page; empty for the true one."""
    outcomes: tuple[str, ...] = ()
    """Severities of the OperationOutcomes among the matches."""
    spoil: str = ""
    """What is wrong with the first row: ``no_id``, ``subsetted``; empty for nothing."""


def _upset(faults: Faults, rng: random.Random, reading: Reading, number: int) -> _Upset:
    """Draw the faults of a page. The order of the draws is fixed, so that a seed repeats a run."""
    extra, intact, back = 0, True, 0
    hit = faults.hits("search", reading.resource_type)
    if number > 1 and hit:
        if faults.shift and rng.random() < faults.shift:
            step = rng.choice((1, -1))
            reading.shift += step
            intact = step < 0
        if faults.duplicate and rng.random() < faults.duplicate:
            extra = 1
        if faults.repeat and rng.random() < faults.repeat:
            back, intact = reading.size, False
    total = len(reading.keys) - reading.shift
    if faults.total_lie and rng.random() < faults.total_lie:
        total += rng.choice((-1, 1, 50))
    start = max((number - 1) * reading.size + reading.shift - extra - back, 0)
    upset = _Upset(start, max(number * reading.size + reading.shift - back, 0), total, intact)
    if hit:
        _draw_more(upset, faults, rng)
    return upset


def _draw_more(upset: _Upset, faults: Faults, rng: random.Random) -> None:
    def drawn(chance: float) -> bool:
        return bool(chance) and rng.random() < chance

    upset.total += 50 * drawn(faults.total_high)
    upset.total -= (1 + upset.total // 2) * drawn(faults.total_low)
    for link, chance in (("none", faults.end_early), ("self", faults.next_self), ("elsewhere", faults.next_elsewhere)):
        upset.link = link if drawn(chance) else upset.link
    for severity, chance in (("warning", faults.outcome_warning), ("error", faults.outcome_error)):
        upset.outcomes += (severity,) * drawn(chance)
    for spoil, chance in (("no_id", faults.no_id), ("subsetted", faults.subsetted)):
        upset.spoil = spoil if drawn(chance) else upset.spoil
    upset.intact &= not (upset.link or upset.spoil or "error" in upset.outcomes)


def show(practice: Practice, reading: Reading, number: int, base_url: str) -> Page:
    """One page of a reading, as the practice's mode and faults have it."""
    upset = _upset(practice.faults, practice.fault_rng, reading, number)
    shown = [practice.chart.row(kind, name) for kind, name in reading.keys[upset.start : upset.end]]
    rows = [row for row in shown if row is not None]
    last = number * reading.size + reading.shift >= len(reading.keys) or reading.size == 0
    links = [("self", _link(practice, reading, number, base_url))]
    following = _following(practice, reading, number, base_url, upset, last=last)
    if following is not None:
        links.append(("next", following))
    root = _root(practice, base_url)
    entries = [_entry(root, reading, row, upset.spoil if index == 0 else "") for index, row in enumerate(rows)]
    entries += [_included(root, row) for row in _provenance(practice, reading, rows)]
    body = _bundle([*entries, *map(_outcome_entry, upset.outcomes)], max(upset.total, 0), links)
    names = tuple(reading.name_of(row) for row in rows)
    intact = upset.intact and not reading.cuts
    return Page(body, reading.scope, reading.number, number, last, intact, names)


def _following(
    practice: Practice, reading: Reading, number: int, base_url: str, upset: _Upset, *, last: bool
) -> str | None:
    """Where the page says that it goes on."""
    if upset.link == "self":
        return _link(practice, reading, number, base_url, follow=True)
    if upset.link == "elsewhere":
        return f"https://fhir.elsewhere.example.org/fhir/r4/ZZZZZZ/{reading.path}?page={number + 1}"
    if last or upset.link == "none":
        return None
    return _link(practice, reading, number + 1, base_url, follow=True)


def _root(practice: Practice, base_url: str) -> str:
    """Base of links: ecw names another host, and http."""
    spec = practice.spec
    return f"http://{spec.link_host}/fhir/r4/{spec.code}" if spec.mode == "ecw" else base_url


def _link(practice: Practice, reading: Reading, number: int, base_url: str, *, follow: bool = False) -> str:
    root = f"{_root(practice, base_url)}/{reading.path}"
    if practice.spec.mode != "ecw" and (follow or number > 1):
        return f"{root}?_cursor={reading.token}.{number}"
    pairs = [pair for pair in reading.used if pair[0] != "page"]
    if number > 1:
        pairs.append(("page", str(number)))
    return f"{root}?{urlencode(pairs, quote_via=quote)}" if pairs else root


def _bundle(entries: Sequence[bytes], total: int, links: Sequence[Pair]) -> bytes:
    head = orjson.dumps(
        {
            "resourceType": "Bundle",
            "id": str(uuid.uuid4()),
            "type": "searchset",
            "total": total,
            "link": [{"relation": relation, "url": url} for relation, url in links],
        }
    )
    return head[:-1] + b',"entry":[' + b",".join(entries) + b"]}" if entries else head


def _entry(root: str, reading: Reading, row: Row, spoil: str) -> bytes:
    included = bool(reading.scope.types) and row.patient is None
    body = jsontext.dumps(_cut(row.resource)) if reading.cuts else row.body
    if spoil == "no_id":
        body = jsontext.dumps({name: value for name, value in row.resource.items() if name != "id"})
    elif spoil == "subsetted":
        tag = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
        body = jsontext.dumps({**_cut(row.resource), "meta": {**row.resource["meta"], "tag": [tag]}})
    url = f"{root}/{row.resource_type}/{row.id}".encode()
    return b'{"fullUrl":"%s","resource":%s,"search":{"mode":"%s"}}' % (url, body, (b"match", b"include")[included])


def _provenance(practice: Practice, reading: Reading, rows: Sequence[Row]) -> list[Row]:
    """Who recorded what the page shows, where the search asked for that too."""
    if ("_revinclude", "Provenance:target") not in reading.used:
        return []
    shown = {f"{row.resource_type}/{row.id}" for row in rows}
    return [
        row
        for row in practice.chart.rows("Provenance")
        if not shown.isdisjoint(target["reference"] for target in row.resource["target"])
    ]


def _included(root: str, row: Row) -> bytes:
    url = f"{root}/{row.resource_type}/{row.id}".encode()
    return b'{"fullUrl":"%s","resource":%s,"search":{"mode":"include"}}' % (url, row.body)


def _cut(resource: Mapping[str, Any]) -> dict[str, Any]:
    """The resource without the last of its elements that it can do without."""
    spare = [name for name in resource if name not in _OWN][-1:]
    return {name: value for name, value in resource.items() if name not in spare}


def _outcome_entry(severity: str) -> bytes:
    issue = {"severity": severity, "code": "processing", "diagnostics": "Part of the data could not be reached"}
    outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
    return orjson.dumps({"resource": outcome, "search": {"mode": "outcome"}})
