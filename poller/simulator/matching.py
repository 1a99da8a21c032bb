"""Which resources a search parameter lets through, for the parameters that the simulator serves."""

from __future__ import annotations

import datetime as dt
import operator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from poller.simulator.chart import Row

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "ge": operator.ge,
    "gt": operator.gt,
    "sa": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
    "eb": operator.lt,
    "ne": operator.ne,
    "eq": operator.eq,
}
_DATES = {
    "date": ("effectiveDateTime", "occurrenceDateTime", "performedDateTime", "date"),
    "authoredon": ("authoredOn",),
    "authored": ("authoredOn",),
    "onset-date": ("onsetDateTime",),
    "birthdate": ("birthDate",),
}


class BadValue(Exception):  # noqa: N818 - an answer of the protocol, not a failure of ours
    """A parameter's value that cannot be searched by."""


class NotServed(Exception):  # noqa: N818
    """A declared parameter that the simulator cannot search by."""


def _prefixed(value: str) -> tuple[Callable[[Any, Any], bool], str]:
    if value[:2] in _COMPARE:
        return _COMPARE[value[:2]], value[2:]
    return operator.eq, value


def instant(text: str) -> dt.datetime:
    """A FHIR date or instant; a date alone is its first moment in UTC. Raises BadValue."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise BadValue from None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _stamped(value: str) -> Callable[[Row], bool]:
    compare, text = _prefixed(value)
    bound = instant(text)
    return lambda row: compare(row.stamp, bound)


def _dated(name: str, value: str) -> Callable[[Row], bool]:
    compare, text = _prefixed(value)
    instant(text)

    def test(row: Row) -> bool:
        period = row.resource.get("period")
        found = period.get("start") if isinstance(period, dict) and name == "date" else None
        for element in _DATES[name]:
            found = found or row.resource.get(element)
        length = min(len(text), len(str(found)), 10)
        return found is not None and compare(str(found)[:length], text[:length])

    return test


def _codings(concept: Any) -> Iterator[str]:
    if isinstance(concept, list):
        for item in concept:
            yield from _codings(item)
    elif isinstance(concept, dict):
        for coding in concept.get("coding", ()):
            yield str(coding.get("code"))


def _codes(value: str) -> frozenset[str]:
    return frozenset(item.rpartition("|")[2] for item in value.split(","))


def _token(name: str, value: str) -> Callable[[Row], bool]:
    wanted = _codes(value)
    if name == "_id":
        return lambda row: row.id in wanted
    if name == "category":
        return lambda row: not wanted.isdisjoint(row.categories)
    if name in {"status", "gender", "intent"}:
        return lambda row: row.resource.get(name) in wanted
    if name == "clinical-status":
        return lambda row: not wanted.isdisjoint(_codings(row.resource.get("clinicalStatus")))
    if name in {"identifier", "phone"}:
        element = "identifier" if name == "identifier" else "telecom"
        return lambda row: any(item.get("value") in wanted for item in row.resource.get(element, ()))
    return lambda row: not wanted.isdisjoint(_codings(row.resource.get(name)))


def _named(name: str, value: str) -> Callable[[Row], bool]:
    prefixes = tuple(item.lower() for item in value.split(","))

    def test(row: Row) -> bool:
        for human in row.resource.get("name", ()):
            family, given = [str(human.get("family", ""))], [str(part) for part in human.get("given", ())]
            parts = {"name": family + given, "family": family, "given": given}[name]
            if any(part.lower().startswith(prefixes) for part in parts):
                return True
        return False

    return test


def _referred(name: str, value: str) -> Callable[[Row], bool]:
    wanted = {item.rpartition("/")[2] for item in value.split(",")}

    def references(resource: Mapping[str, Any]) -> Iterator[str]:
        if name == "practitioner":
            for part in resource.get("participant", ()):
                yield str(part.get("individual", {}).get("reference"))
            return
        yield str(resource.get("encounter", {}).get("reference"))
        for part in resource.get("context", {}).get("encounter", ()):
            yield str(part.get("reference"))

    return lambda row: any(found.rpartition("/")[2] in wanted for found in references(row.resource))


def test_of(name: str, value: str) -> Callable[[Row], bool]:
    """The test that one parameter (not ``patient``, not one about paging) puts a row to. Raises BadValue, NotServed."""
    if name == "_lastUpdated":
        return _stamped(value)
    if name in _DATES:
        return _dated(name, value)
    if name in {"name", "family", "given"}:
        return _named(name, value)
    if name in {"encounter", "practitioner"}:
        return _referred(name, value)
    if name in {
        "_id",
        "category",
        "status",
        "gender",
        "intent",
        "clinical-status",
        "identifier",
        "phone",
        "code",
        "type",
    }:
        return _token(name, value)
    raise NotServed
