"""One pass over a target: its pages as batches, and afterwards what they prove."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from poller.clock import Clock
from poller.core import pages
from poller.core.model import Batch, Coverage, Failure, FailureKind, Purpose, Sighting
from poller.core.pages import Page, Problem, Tally
from poller.core.shown import Before, Shown
from poller.source import links
from poller.source.client import Answer, Client, malformed

BATCH = 1000
"""The most sightings in a batch."""

MOST_PAGES = 100_000
"""A search that goes on for longer goes in circles."""

FILTER_IGNORED = Failure(FailureKind.REFUSED, 200, "filter ignored: the self link does not name it")
_CIRCLE = "the next links go in a circle"
_ASTRAY = "a next link to another practice or type"


@dataclass(frozen=True, slots=True)
class Search:
    """One search of a pass."""

    where: str
    """Path and query, e.g. ``Observation?patient=p1``."""
    resource_type: str
    proof: str | None = None
    """A parameter that the self link must name, or the server ignored it."""
    types: frozenset[str] | None = None
    """For a search that shows many types: those that count."""

    @property
    def path(self) -> str:
        """What is searched, without the query."""
        return self.where.partition("?")[0]


class Reading:
    """An asynchronous iterator of batches, to be iterated once. What it proved stands in its attributes when it is exhausted."""

    def __init__(
        self,
        searches: Sequence[Search],
        client: Client,
        clock: Clock,
        base_path: str,
        purpose: Purpose,
        *,
        strip_count: bool,
    ) -> None:
        self._searches = searches
        self._client = client
        self._clock = clock
        self._base_path = base_path
        self._purpose = purpose
        self._strip_count = strip_count
        self._first = True
        self.coverage = Coverage.INCOMPLETE
        self.failure: Failure | None = None
        """What ended the pass, or its first failed search."""
        self.server_date: dt.datetime | None = None
        """The server's ``Date`` at the pass's first response."""
        self.flaws: Counter[Problem] = Counter()
        """Entries that could not be read, by why."""
        self.calls = 0
        """Requests sent, token calls left out."""
        self.began = clock.now()
        """When the first request was sent."""
        self.ended = self.began

    async def __aiter__(self) -> AsyncIterator[Batch]:
        """Batches of at most :data:`BATCH`, in page order; what an earlier search of the pass showed the same is left out."""
        shown = Shown()
        coverages: list[Coverage] = []
        unwell = 0
        for search in self._searches:
            tally = Tally()
            failure: Failure | None = None
            async for page in self._pages(search):
                if isinstance(page, Failure):
                    failure = page
                    continue
                fresh = _not_shown(shown, tally.add(page), search=len(self._searches) > 1)
                for batch in _batches(fresh):
                    yield batch
            if failure is None and tally.problem is not None:
                failure = tally.problem.failure
            self.flaws.update(tally.flaws)
            coverages.append(Coverage.INCOMPLETE if failure is not None else tally.coverage())
            self.failure = self.failure or failure
            unwell = unwell + 1 if failure is not None else 0
            if failure is not None and (_ends_pass(failure) or unwell > 1):
                break
        self.ended = self._clock.now()
        self.coverage = Coverage.INCOMPLETE if self.failure is not None else pages.worst(coverages)

    async def _pages(self, search: Search) -> AsyncIterator[Page | Failure]:
        """The pages of one search; a Failure is the last thing it yields."""
        where: str = search.where
        visited: set[str] = set()
        while True:
            visited.add(where)
            answer = await self._get(where, is_link=len(visited) > 1)
            if answer.failure is not None:
                yield answer.failure
                return
            page = pages.read_page(answer.body, search.resource_type, answer.began, answer.ended, types=search.types)
            if isinstance(page, Failure):
                yield page
                return
            if search.proof is not None and len(visited) == 1 and not links.names(page.self_link, search.proof):
                yield FILTER_IGNORED
                return
            yield page
            if page.next is None:
                return
            following = links.follow(page.next, self._base_path, search.path)
            if following is None or following in visited or len(visited) >= MOST_PAGES:
                yield malformed(_ASTRAY if following is None else _CIRCLE)
                return
            where = following

    async def _get(self, where: str, *, is_link: bool) -> Answer:
        """One page. A link whose own ``_count`` the server then refuses is followed without it."""
        answer = self._note(await self._client.get(where, self._purpose))
        refused = answer.failure is not None and answer.status == 400  # noqa: PLR2004 - Bad Request
        if is_link and refused and self._strip_count and links.names(where, "_count"):
            answer = self._note(await self._client.get(links.without(where, "_count"), self._purpose))
        return answer

    def _note(self, answer: Answer) -> Answer:
        self.calls += answer.calls
        self.ended = answer.ended
        if self._first and answer.calls:
            self._first, self.began, self.server_date = False, answer.began, answer.date
        return answer


def _not_shown(shown: Shown, sightings: Sequence[Sighting], *, search: bool) -> list[Sighting]:
    """What no earlier search of the pass showed with the same content."""
    if not search:
        return list(sightings)
    return [
        sighting
        for sighting in sightings
        if shown.add((sighting.resource_type, sighting.id), pages.fingerprint(sighting.resource)) is not Before.THE_SAME
    ]


def _batches(sightings: Sequence[Sighting]) -> Iterator[Batch]:
    for start in range(0, len(sightings), BATCH):
        yield Batch(tuple(sightings[start : start + BATCH]))


def _ends_pass(failure: Failure) -> bool:
    """Whether the next search of the pass would fare no better."""
    return failure.kind in {FailureKind.UNAUTHORIZED, FailureKind.LOCKED_OUT}
