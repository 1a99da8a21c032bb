"""How targets become searches, and how one resource is read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import assert_never
from urllib.parse import quote, urlencode, urlsplit

from poller.clock import Clock
from poller.config.attachments import attachment_rules
from poller.config.model import PracticeConfig
from poller.core import faults, pages
from poller.core.model import (
    Confirmation,
    Failure,
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
from poller.source import binary
from poller.source.absence import NOT_THERE, absent
from poller.source.client import Answer, Client, malformed
from poller.source.reading import Reading, Search

_CANNOT_SERVE = frozenset({400, 405, 501})
"""Statuses of a path read that say that this server does not serve such reads."""

_BINARY = 5_000_000
"""Bytes of a Binary that is read although no attachments are fetched any more."""


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
        searches = self.searches(target, since)
        strip_count = self._page_size(target.resource_type) is None
        return Reading(searches, self.client, self._clock, self._base_path, purpose, strip_count=strip_count)

    def _page_size(self, resource_type: str) -> int | None:
        feed = self.practice.feeds.get(resource_type)
        return feed.page_size if feed is not None else None

    def searches(self, target: Target, since: dt.datetime | None) -> list[Search]:
        """The searches of one pass. Raises ValueError for what no search reads."""
        feed, parameters = target.resource_type, self._parameters(target)
        since_when = f"ge{instant(since or BEGINNING)}"
        match target.kind:
            case Kind.WINDOW | Kind.PATIENT_WINDOW:
                return [
                    Search(
                        where(feed, self._whose(target) | {"_lastUpdated": since_when} | parameters),
                        feed,
                        "_lastUpdated",
                    )
                ]
            case Kind.SWEEP | Kind.PATIENT | Kind.PATIENTS:
                return [Search(where(feed, self._whose(target) | parameters), feed)]
            case Kind.NAMES:
                return [Search(where(feed, {"name": name} | parameters), feed) for name in target.names]
            case Kind.EVERYTHING | Kind.EVERYTHING_WINDOW:
                return [_everything(target, since)]
            case Kind.DAYS:
                return [
                    Search(where(feed, {"practitioner": f"Practitioner/{target.patient}"} | parameters, day), feed)
                    for day in self._days()
                ]
            case Kind.BULK:
                raise ValueError("a bulk export is no search")
            case _:
                assert_never(target.kind)

    def _parameters(self, target: Target) -> dict[str, str]:
        """What goes with every search of the target's feed."""
        feed = self.practice.feeds.get(target.resource_type)
        size = self._page_size(target.resource_type)
        return {
            **({"category": target.category} if target.category is not None else {}),
            **(dict(feed.parameters) if feed is not None else {}),
            **({"_count": str(size)} if size is not None else {}),
        }

    @staticmethod
    def _whose(target: Target) -> dict[str, str]:
        """The parameter that names the patients of a search; none for one over the whole practice."""
        patients = target.patients or ((target.patient,) if target.patient is not None else ())
        return {"_id" if target.resource_type == "Patient" else "patient": ",".join(patients)} if patients else {}

    def _days(self) -> list[tuple[tuple[str, str], ...]]:
        """One pair of bounds for each day around today, as the practice's calendar has it ."""
        around = self.practice.patients.days.days
        today = self._clock.now().astimezone(self.practice.zone).date()
        days = (today + dt.timedelta(days=offset) for offset in range(-around, around + 1))
        return [(("date", f"ge{day}"), ("date", f"lt{day + dt.timedelta(days=1)}")) for day in days]

    async def confirm(self, resource_type: str, id_: str, purpose: Purpose = Purpose.CONFIRM) -> Confirmation:
        """Read one resource by its id: by its path or, where that cannot serve, by a search for ``_id``.

        Gone only where the FHIR server itself says so. A path read of an id with dots may fail with 500 on some servers, whatever the
        truth is; that one is no sign of a sick server.
        """
        if resource_type == "Binary":
            limit = max(attachment_rules(self.practice).limits.values(), default=_BINARY)
            return await binary.confirm(self.client, self._clock, id_, limit, purpose)
        return await self._confirm_by_path(resource_type, id_, purpose)

    async def _confirm_by_path(self, resource_type: str, id_: str, purpose: Purpose) -> Confirmation:
        # A dot is what makes some servers fail, so a 500 is retried by the search instead of by the same read.
        is_dotted = "." in id_
        expected = frozenset({500}) if is_dotted else frozenset[int]()
        retries = 0 if is_dotted else faults.RETRIES
        path = f"{resource_type}/{quote(id_, safe='')}"
        answer = await self.client.get(path, purpose, retries=retries, expected=expected)
        if answer.status in NOT_THERE:
            return absent(answer)
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


def _empty(page: Page, answer: Answer) -> Confirmation:
    """What a search for an id without that id says: gone, if it is whole and holds nothing at all."""
    if page.showings or page.problems or page.total or page.next is not None:
        return Unclear(malformed("a search for an id that shows something else"))
    return Gone(answer.began, answer.ended)


def _everything(target: Target, since: dt.datetime | None) -> Search:
    """A patient's ``$everything`` (FHIR R4, Patient operations), whole or since when."""
    path = f"Patient/{quote(target.patient or '', safe='')}/$everything"
    types = frozenset(target.types)
    if target.kind is Kind.EVERYTHING:
        return Search(path, target.resource_type, types=types)
    return Search(where(path, {"_since": instant(since or BEGINNING)}), target.resource_type, "_since", types)


def where(path: str, parameters: Mapping[str, str], more: Sequence[tuple[str, str]] = ()) -> str:
    """A search below the base URL; ``more`` are parameters that occur more than once."""
    query = urlencode([*parameters.items(), *more], quote_via=quote, safe=":,|")
    return f"{path}?{query}" if query else path
