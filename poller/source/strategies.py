"""How targets become searches, and how one resource is read."""

from __future__ import annotations

import datetime as dt
from typing import assert_never
from urllib.parse import quote, urlencode, urlsplit

from poller.clock import Clock
from poller.config.model import PracticeConfig
from poller.core import faults, pages
from poller.core.faults import Shape
from poller.core.model import (
    Confirmation,
    Failure,
    FailureKind,
    Gone,
    Kind,
    Present,
    Purpose,
    Sighting,
    Target,
    Unclear,
)
from poller.core.pages import Page
from poller.core.window import BEGINNING, instant
from poller.source.client import Answer, Client, malformed
from poller.source.reading import Reading, Search

_CANNOT_SERVE = frozenset({400, 405, 501})
"""Statuses of a path read that say that this server does not serve such reads."""

_NOT_THERE = frozenset({404, 410})

_NOT_ABOUT_IT = frozenset({"not-supported", "login", "unknown-user", "expired", "forbidden", "security", "suppressed"})
"""Codes of a 404 that do not say that the resource is gone."""


class Source:
    """A practice's FHIR server as the engine sees it."""

    def __init__(self, practice: PracticeConfig, client: Client, clock: Clock) -> None:
        self.practice = practice
        self.client = client
        self._clock = clock
        self._base_path = urlsplit(practice.base_url).path

    @property
    def last_server_error(self) -> dt.datetime | None:
        """When the server last showed that it is not well; None if it has not since this process began."""
        return self.client.last_server_error

    def read(self, target: Target, since: dt.datetime | None, purpose: Purpose) -> Reading:
        """Begin a pass. ``since`` is where a window starts; None for everything. Other kinds take no account of it."""
        searches = self._searches(target, since)
        strip_count = self._page_size(target.resource_type) is None
        return Reading(searches, self.client, self._clock, self._base_path, purpose, strip_count=strip_count)

    def _page_size(self, resource_type: str) -> int | None:
        feed = self.practice.feeds.get(resource_type)
        return feed.page_size if feed is not None else None

    def _searches(self, target: Target, since: dt.datetime | None) -> list[Search]:
        kind, feed = target.kind, target.resource_type
        size = self._page_size(feed)
        tail = {"_count": str(size)} if size is not None else {}
        category = {"category": target.category} if target.category is not None else {}
        match kind:
            case Kind.WINDOW:
                window = {**category, "_lastUpdated": f"ge{instant(since or BEGINNING)}"}
                return [Search(where(feed, window | tail), feed, "_lastUpdated")]
            case Kind.SWEEP:
                return [Search(where(feed, category | tail), feed)]
            case Kind.PATIENT:
                by = {"_id" if feed == "Patient" else "patient": target.patient or ""}
                return [Search(where(feed, by | category | tail), feed)]
            case Kind.NAMES:
                return [Search(where(feed, {"name": name} | tail), feed) for name in target.names]
            case _:
                assert_never(kind)

    async def confirm(self, resource_type: str, id_: str, purpose: Purpose = Purpose.CONFIRM) -> Confirmation:
        """Read one resource by its id: by its path or, where that cannot serve, by a search for ``_id``.

        Gone only where the FHIR server itself says so. A path read of an id with dots may fail with 500 on some servers, whatever the
        truth is; that one is no sign of a sick server.
        """
        # A dot is what makes some servers fail, so a 500 is retried by the search instead of by the same read.
        is_dotted = "." in id_
        expected = frozenset({500}) if is_dotted else frozenset[int]()
        retries = 0 if is_dotted else faults.RETRIES
        path = f"{resource_type}/{quote(id_, safe='')}"
        answer = await self.client.get(path, purpose, retries=retries, expected=expected)
        if answer.status in _NOT_THERE:
            return _absent(answer)
        if answer.status in _CANNOT_SERVE | expected:
            return await self._confirm_by_search(resource_type, id_, purpose)
        if answer.failure is not None:
            return Unclear(answer.failure)
        body = answer.body
        if body.get("resourceType") != resource_type or body.get("id") != id_:
            return Unclear(malformed("the body is not the resource that was asked for"))
        if pages.is_subsetted(body):
            return Unclear(pages.Problem.SUBSETTED.failure)
        return Present(Sighting(resource_type, id_, body, answer.began, answer.ended))

    async def _confirm_by_search(self, resource_type: str, id_: str, purpose: Purpose) -> Confirmation:
        answer = await self.client.get(where(resource_type, {"_id": id_}), purpose)
        if answer.failure is not None:
            return Unclear(answer.failure)
        page = pages.read_page(answer.body, resource_type, answer.began, answer.ended)
        if isinstance(page, Failure):
            return Unclear(page)
        found = [showing.sighting for showing in page.showings if showing.sighting.id == id_]
        if found:
            return Present(found[0])
        return _empty(page, answer)


def _absent(answer: Answer) -> Confirmation:
    """What a 404 or 410 says: gone, if it is the FHIR server that says it, and not a proxy's page or a missing endpoint."""
    codes = faults.outcome_codes(answer.body)
    is_outcome = answer.shape is Shape.FHIR and answer.body.get("resourceType") == "OperationOutcome"
    if answer.shape is not Shape.EMPTY and (not is_outcome or _NOT_ABOUT_IT & set(codes)):
        return Unclear(
            Failure(FailureKind.MALFORMED, answer.status, "not found, but not said by the resource's server")
        )
    return Gone(answer.began, answer.ended)


def _empty(page: Page, answer: Answer) -> Confirmation:
    """What a search for an id without that id says: gone, if it is whole and holds nothing at all."""
    if page.showings or page.problems or page.total or page.next is not None:
        return Unclear(malformed("a search for an id that shows something else"))
    return Gone(answer.began, answer.ended)


def where(resource_type: str, parameters: dict[str, str]) -> str:
    """A search below the base URL."""
    query = urlencode(parameters, quote_via=quote, safe=":,|")
    return f"{resource_type}?{query}" if query else resource_type
