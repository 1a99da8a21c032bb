"""What a page of search results shows, and what all pages of a search prove together. Pure."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from poller.core import faults, jsontext
from poller.core.model import Coverage, Failure, FailureKind, Sighting
from poller.core.shown import Before, Key, Shown

_ID = re.compile(r"[A-Za-z0-9\-._~:|@!+=,]{1,255}")
"""FHIR ids are ``[A-Za-z0-9\\-.]{1,64}``; what real servers add to that is let through, what would change a URL is not."""

_SUBSETTED = ("http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "SUBSETTED")


class Problem(StrEnum):
    """Why a page is not whole; none of these leaves a pass complete."""

    OUTCOME = "the answer holds an error outcome"
    NO_RESOURCE = "an entry without a resource"
    WRONG_TYPE = "an entry of another type"
    NO_ID = "a resource without a usable id"
    SUBSETTED = "a resource that is cut down"
    UNWRITABLE = "a resource with text that is not Unicode, or nested too deeply"

    @property
    def failure(self) -> Failure:
        """As the failure of a read."""
        asks_less = self in {Problem.OUTCOME, Problem.SUBSETTED}
        return Failure(FailureKind.REFUSED if asks_less else FailureKind.MALFORMED, 200, self.value)

    @property
    def ends_pass(self) -> bool:
        """Whether the server itself says that its answer is not whole.

        The others spoil one entry each: a resource that no one can read must not keep its whole target from ever counting as read.
        """
        return self is Problem.OUTCOME


@dataclass(frozen=True, slots=True)
class Showing:
    """A sighting, and by what it is compared with others of the same resource."""

    sighting: Sighting
    content: bytes
    """See :func:`fingerprint`."""


@dataclass(frozen=True, slots=True)
class Page:
    """One Bundle, read."""

    showings: tuple[Showing, ...]
    """Matches only, each id once: of two with one id the later one in the Bundle."""
    next: str | None
    """URL of the next page, as the server wrote it."""
    self_link: str | None
    total: int | None
    problems: tuple[Problem, ...]
    contradicts: bool
    """Whether one id came twice with different content."""
    passed: frozenset[Key] = frozenset()
    """Type and id of what was passed over: it counts towards ``total``."""


def read_page(
    body: object,
    resource_type: str,
    began: dt.datetime,
    ended: dt.datetime,
    *,
    types: frozenset[str] | None = None,
) -> Page | Failure:
    """Read a search's answer. A Failure when it is no Bundle of search results at all.

    Where ``types`` are given they are what counts, and resources of others are passed over: ``$everything`` shows more than is asked for.
    """
    if (
        not isinstance(body, dict)
        or body.get("resourceType") != "Bundle"
        or body.get("type", "searchset") != "searchset"
    ):
        return _malformed("the body is not a Bundle of search results")
    entries, links = body.get("entry", []), body.get("link", [])
    if not isinstance(entries, list) or not isinstance(links, list):
        return _malformed("the Bundle is not as it should be")
    following, own, total = _link(links, "next"), _link(links, "self"), body.get("total")
    if following is not None and not (isinstance(following, str) and following):
        return _malformed("a next link without an address")
    found: dict[Key, Showing] = {}
    problems: list[Problem] = []
    passed: set[Key] = set()
    contradicts = False
    for entry in entries:
        match _look(entry, resource_type, types):
            case Problem() as problem:
                problems.append(problem)
            case (str() as kind, str() as name, resource, bytes() as content):
                before = found.pop((kind, name), None)
                contradicts |= before is not None and before.content != content
                found[kind, name] = Showing(Sighting(kind, name, resource, began, ended), content)
            case (str(), str()) as other:
                passed.add(other)
            case None:
                pass
    return Page(
        showings=tuple(found.values()),
        passed=frozenset(passed),
        next=following,
        self_link=own if isinstance(own, str) else None,
        total=total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else None,
        problems=tuple(problems),
        contradicts=contradicts,
    )


def _link(links: list[object], relation: str) -> object:
    """Address of the first link of that relation; None if there is none."""
    return next(
        (link.get("url") for link in links if isinstance(link, dict) and link.get("relation") == relation), None
    )


def is_subsetted(resource: Mapping[str, Any]) -> bool:
    """Whether the server says that this is only a part of the resource; such must never become a snapshot."""
    meta = resource.get("meta")
    tags = meta.get("tag") if isinstance(meta, dict) else None
    return isinstance(tags, list) and any(
        isinstance(tag, dict) and tag.get("code") == _SUBSETTED[1] and tag.get("system") in (_SUBSETTED[0], None)
        for tag in tags
    )


def is_usable_id(name: object) -> bool:
    """Whether an id can be stored and asked for again; dots alone are ways within a path."""
    return isinstance(name, str) and _ID.fullmatch(name) is not None and name not in (".", "..")


def _look(
    entry: object, resource_type: str, types: frozenset[str] | None
) -> tuple[str, str, dict[str, Any], bytes] | Key | Problem | None:
    """What one entry holds: a match (type, id, resource, fingerprint), one of a type that does not count, a problem, or nothing."""
    if not isinstance(entry, dict) or not isinstance(resource := entry.get("resource"), dict):
        return Problem.NO_RESOURCE
    search = entry.get("search")
    mode = search.get("mode") if isinstance(search, dict) else None
    if resource.get("resourceType") == "OperationOutcome" and resource_type != "OperationOutcome":
        return Problem.OUTCOME if faults.outcome_codes(resource) else None
    if mode == "outcome" or (mode == "include" and types is None):
        return None
    return _match(resource, frozenset({resource_type}) if types is None else types, passes_over=types is not None)


def _match(
    resource: dict[str, Any], types: frozenset[str], *, passes_over: bool
) -> tuple[str, str, dict[str, Any], bytes] | Key | Problem:
    kind, name = resource.get("resourceType"), resource.get("id")
    if not isinstance(kind, str) or (kind not in types and not passes_over):
        return Problem.WRONG_TYPE
    if kind not in types:
        return kind, name if isinstance(name, str) else ""
    if not isinstance(name, str) or not is_usable_id(name):
        return Problem.NO_ID
    if is_subsetted(resource):
        return Problem.SUBSETTED
    try:
        return kind, name, resource, fingerprint(resource)
    except TypeError:
        return Problem.UNWRITABLE


class Tally:
    """Adds up the pages of one search, in the order in which they were read."""

    def __init__(self) -> None:
        self._shown = Shown()
        self._passed: set[Key] = set()
        self._totals: set[int] = set()
        self._pages = 0
        self._repeats = False
        self._contradicts = False
        self._last: str | None = None
        self.problem: Problem | None = None
        """The first problem that says that the answer is not whole."""
        self.flaws: Counter[Problem] = Counter()
        """Entries that could not be read."""

    def add(self, page: Page) -> tuple[Sighting, ...]:
        """Count a page; returns what of it was not seen with the same content on a page before."""
        self._pages += 1
        self._last = page.next
        self._contradicts |= page.contradicts
        self._passed |= page.passed
        if page.total is not None:
            self._totals.add(page.total)
        for problem in page.problems:
            if problem.ends_pass:
                self.problem = self.problem or problem
            else:
                self.flaws[problem] += 1
        return tuple(showing.sighting for showing in page.showings if self._is_new(showing))

    def _is_new(self, showing: Showing) -> bool:
        before = self._shown.add((showing.sighting.resource_type, showing.sighting.id), showing.content)
        self._repeats |= before is not Before.NOTHING
        self._contradicts |= before is Before.OTHERWISE
        return before is not Before.THE_SAME

    @property
    def distinct(self) -> int:
        """How many resources were seen, of whatever type."""
        return len(self._shown) + len(self._passed)

    def coverage(self) -> Coverage:
        """What the pages prove.

        Complete: the last page was read, every entry could be, and nothing speaks against these being all. Unproven: an entry could not
        be read, more were announced than seen, the announced number changed, or rows were seen to move from page to page (a repeat),
        unless the announced number stood still and was met, so that nothing moved out of sight.
        """
        if not self._pages or self._last is not None or self.problem is not None:
            return Coverage.INCOMPLETE
        if (
            self.flaws
            or self._contradicts
            or len(self._totals) > 1
            or any(total > self.distinct for total in self._totals)
        ):
            return Coverage.UNPROVEN
        if self._repeats and not self._totals:
            return Coverage.UNPROVEN
        return Coverage.COMPLETE


def worst(coverages: Iterable[Coverage]) -> Coverage:
    """What several searches prove together; incomplete for none."""
    found = set(coverages)
    if not found or Coverage.INCOMPLETE in found:
        return Coverage.INCOMPLETE
    return Coverage.UNPROVEN if Coverage.UNPROVEN in found else Coverage.COMPLETE


def fingerprint(resource: Mapping[str, Any]) -> bytes:
    """16 bytes by which two showings of a resource are compared within a pass. TypeError if it cannot be written as JSON."""
    return hashlib.blake2b(jsontext.dumps(resource, sort_keys=True), digest_size=16).digest()


def _malformed(detail: str) -> Failure:
    return Failure(FailureKind.MALFORMED, 200, detail)
