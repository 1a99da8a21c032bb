"""The members of a Group: by its id, else by the value of one of its identifiers, else out of the list of all Groups.

eClinicalWorks serves no read of a Group and no parameter but ``page``; other servers serve reads and no list. What worked is asked first
the next time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import quote, urlsplit

from poller.core import faults, pages, roster
from poller.core.model import Failure, FailureKind, Purpose
from poller.source import links
from poller.source.client import Answer, Client, malformed
from poller.source.strategies import where

MOST_PAGES = 10_000
"""A list that goes on for longer goes in circles."""

_NO_SIGN = frozenset({400, 403, 404, 405, 410, 500, 501})
"""What servers answer that do not serve this way of asking: no sign of a sick one. eCW reads some ids with 500."""

_NOT_THERE = Failure(FailureKind.REFUSED, None, "no Group has this id, or an identifier of this value")


@dataclass(frozen=True, slots=True)
class Membership:
    """Who a Group's members are, as far as it could be read."""

    patients: tuple[str, ...] = ()
    """Logical ids, each once."""
    failure: Failure | None = None
    """What ended the reading early."""
    trouble: str | None = None
    """Why these may not be all, in our own words."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing says that there are more."""
        return self.failure is None and self.trouble is None


class Way(StrEnum):
    """How a Group is asked for."""

    ID = "id"
    IDENTIFIER = "identifier"
    LIST = "list"


class GroupRoll:
    """One Group of a practice, read again and again."""

    def __init__(self, client: Client, base_url: str, group: str) -> None:
        self._client = client
        self._base_path = urlsplit(base_url).path
        self._group = group
        self._ways = [way for way in Way if way is not Way.ID or pages.is_usable_id(group)]

    async def read(self, purpose: Purpose) -> Membership:
        """All members that can be had now. Failures are answers too; only our own store raises."""
        last = _NOT_THERE
        for way in list(self._ways):
            found, failure = await self._by(way, purpose)
            if found:
                self._ways.remove(way)
                self._ways.insert(0, way)
                return _membership(found, failure)
            if failure is not None and not _may_be_the_way(failure):
                return Membership(failure=failure)
            last = failure or _NOT_THERE
        return Membership(failure=last)

    async def _by(self, way: Way, purpose: Purpose) -> tuple[list[Mapping[str, Any]], Failure | None]:
        """The showings of the Group that this way gives."""
        match way:
            case Way.ID:
                return await self._whole(self._group, purpose)
            case Way.IDENTIFIER:
                found, failure = await self._listed(where("Group", {"identifier": self._group}), purpose)
            case Way.LIST:
                found, failure = await self._listed("Group", purpose)
        cut_down = sorted(
            {str(group["id"]) for group in found if _is_cut_down(group) and pages.is_usable_id(group.get("id"))}
        )
        for name in cut_down:
            whole, refused = await self._whole(name, purpose)
            found += whole
            failure = failure or refused
        return found, failure

    async def _whole(self, name: str, purpose: Purpose) -> tuple[list[Mapping[str, Any]], Failure | None]:
        return await self._listed(f"Group/{quote(name, safe='')}", purpose, name)

    async def _listed(
        self, first: str, purpose: Purpose, name: str | None = None
    ) -> tuple[list[Mapping[str, Any]], Failure | None]:
        """The showings of the Group on all pages that begin with ``first``. Some servers spread members over pages, also of a read."""
        found: list[Mapping[str, Any]] = []
        following: str | None = first
        visited: set[str] = set()
        while following is not None:
            if following in visited or len(visited) >= MOST_PAGES:
                return found, malformed("the next links go in a circle")
            visited.add(following)
            answer = await self._client.get(following, purpose, expected=_NO_SIGN)
            if answer.failure is not None:
                return found, answer.failure
            page = _page(answer)
            if page is None:
                return found, malformed("the body is neither a Group nor a Bundle of them")
            found += [group for group in page.groups if self._is_meant(group, name)]
            if page.failure is not None:
                return found, page.failure
            following = links.follow(page.next, self._base_path, "Group") if page.next is not None else None
            if page.next is not None and following is None:
                return found, malformed("a next link to another practice or type")
        return found, None

    def _is_meant(self, group: Mapping[str, Any], name: str | None) -> bool:
        if name is not None:
            return group.get("id") == name
        identifiers = group.get("identifier")
        values = [one for one in identifiers if isinstance(one, dict)] if isinstance(identifiers, list) else []
        said = {one.get("value") for one in values} | {f"{one.get('system')}|{one.get('value')}" for one in values}
        return group.get("id") == self._group or self._group in said


@dataclass(frozen=True, slots=True)
class _Page:
    groups: list[Mapping[str, Any]]
    next: str | None = None
    failure: Failure | None = None


def _page(answer: Answer) -> _Page | None:
    body = answer.body
    if not isinstance(body, dict):
        return None
    if body.get("resourceType") == "Group":
        return _Page([body])
    if body.get("resourceType") != "Bundle":
        return None
    entries, relations = body.get("entry", []), body.get("link", [])
    if not isinstance(entries, list) or not isinstance(relations, list):
        return None
    resources = [entry.get("resource") for entry in entries if isinstance(entry, dict)]
    following = next(
        (link.get("url") for link in relations if isinstance(link, dict) and link.get("relation") == "next"), None
    )
    if following is not None and not isinstance(following, str):
        return None
    outcome = any(faults.outcome_codes(resource) for resource in resources)
    return _Page(
        [resource for resource in resources if isinstance(resource, dict) and resource.get("resourceType") == "Group"],
        following,
        pages.Problem.OUTCOME.failure if outcome else None,
    )


def _is_cut_down(group: Mapping[str, Any]) -> bool:
    """Whether a list shows the Group without its members, as in a summary."""
    return pages.is_subsetted(group) or not group.get("member")


def _may_be_the_way(failure: Failure) -> bool:
    """Whether it may be the way of asking that the server does not serve, rather than the server that does not serve us."""
    return failure.kind is FailureKind.REFUSED or failure.status in _NO_SIGN


@dataclass(slots=True)
class _Roll:
    """Members added up over all showings."""

    patients: dict[str, None] = field(default_factory=dict)
    others: int = 0
    """Inactive members, and members that are no patients."""
    unread: int = 0
    announced: int = 0

    def add(self, group: Mapping[str, Any]) -> None:
        quantity = group.get("quantity")
        if isinstance(quantity, int) and not isinstance(quantity, bool):
            self.announced = max(self.announced, quantity)
        members = group.get("member", [])
        for member in members if isinstance(members, list) else [None]:
            self._add(member)

    def _add(self, member: object) -> None:
        entity = member.get("entity") if isinstance(member, dict) else None
        said = entity.get("reference") if isinstance(entity, dict) else None
        found = roster.reference_id(said) if isinstance(said, str) else None
        if isinstance(member, dict) and member.get("inactive") is True:
            self.others += 1
        elif found is not None:
            self.patients[found] = None
        elif isinstance(said, str) and "/" in said and "Patient" not in said.split("/"):
            self.others += 1
        else:
            self.unread += 1

    @property
    def trouble(self) -> str | None:
        """What speaks against these being all members."""
        shown = len(self.patients) + self.others + self.unread
        if self.announced > shown:
            return f"the Group says that it has {self.announced} members and shows {shown}"
        if self.unread:
            return f"{self.unread} of {shown} members are no references to a resource"
        return None if self.patients else "the Group shows no patients"


def _membership(showings: Sequence[Mapping[str, Any]], failure: Failure | None) -> Membership:
    roll = _Roll()
    for group in showings:
        roll.add(group)
    return Membership(tuple(roll.patients), failure, None if failure is not None else roll.trouble)
