"""``Patient/{id}/$everything``: a patient's whole record in one operation, where a practice has it."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from poller.simulator.capability import DECLARED
from poller.simulator.matching import BadValue, test_of
from poller.simulator.refusals import Refused, unsupported
from poller.simulator.truth import SearchScope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from poller.simulator.chart import Row
    from poller.simulator.paging import Pair
    from poller.simulator.practice import Practice
    from poller.simulator.spec import PracticeSpec
    from poller.simulator.truth import Key

OPERATION = "$everything"


def patient_asked(path: str) -> str | None:
    """The patient whose ``$everything`` a path below the base asks for; None for any other path."""
    parts = path.split("/")
    is_it = len(parts) == 3 and parts[0] == "Patient" and parts[1] and parts[2] == OPERATION  # noqa: PLR2004 - its parts
    return parts[1] if is_it else None


def record_of(
    practice: Practice, patient: str, query: tuple[Pair, ...], covers: Callable[[str], bool]
) -> tuple[tuple[Pair, ...], list[Key], SearchScope]:
    """What the operation used of the query, and found of the types that the token ``covers``. Raises Refused."""
    spec = practice.spec
    if spec.everything == "off":
        raise Refused(400 if spec.mode == "ecw" else 404, "Operation $everything is not supported", "not-supported")
    used = _used(spec, query)
    values = dict(used)
    try:
        is_shown = test_of("_lastUpdated", f"ge{values['_since']}") if "_since" in values else lambda _: True
    except BadValue:
        raise Refused(400, "Invalid date/time format in a search parameter", "value") from None
    if practice.chart.row("Patient", patient) is None:
        raise Refused(404, "Resource is not known", "not-found")
    left_out = spec.too_old_for.union(spec.everything_omits, spec.missing_scopes)
    types = tuple(kind for kind in ("Patient", *DECLARED) if kind not in left_out and covers(kind))
    of_patient = [row for kind in dict.fromkeys(types) for row in practice.chart.rows(kind, patient)]
    named = _practitioners(practice, of_patient) if "Practitioner" in types else ()
    keys = dict.fromkeys((row.resource_type, row.id) for row in chain(of_patient, named) if is_shown(row))
    scope = SearchScope("Patient", patient, windowed="_since" in values, types=tuple(dict.fromkeys(types)))
    return used, list(keys), scope


def _used(spec: PracticeSpec, query: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """The parameters that are taken account of. Raises Refused."""
    taken = {"page"} if spec.mode == "ecw" else {"_count"} if spec.counts == "honoured" else set()
    known = taken | {"_format"} | ({"_since"} if spec.everything == "since" else set())
    refused = [name for name, _ in query if name not in known and (spec.mode == "ecw" or name == "_since")]
    if refused:
        raise unsupported(spec, [name for name, _ in query], refused)
    return tuple(pair for pair in query if pair[0] in known)


def _practitioners(practice: Practice, rows: list[Row]) -> Iterator[Row]:
    """The clinicians whom the rows name."""
    for row in rows:
        for reference in _references(row.resource):
            kind, _, name = reference.partition("/")
            found = practice.chart.row(kind, name) if kind == "Practitioner" else None
            if found is not None:
                yield found


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)
