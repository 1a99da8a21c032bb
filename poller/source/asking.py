"""Questions to a practice's server, and what their answers prove: each is counted, and its time and clock noted."""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
import statistics
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from poller.core import canonical, pages
from poller.core.capability import Finding
from poller.core.faults import Shape
from poller.core.model import Batch, Coverage, Failure, FailureKind, Purpose, Sighting, Target, Version
from poller.core.pages import Page
from poller.core.refusals import Said, words_of
from poller.source.client import Answer
from poller.source.reading import FILTER_IGNORED
from poller.source.strategies import Source

_KEY = secrets.token_bytes(32)
"""Key of the digests by which two readings are compared: of this process, kept nowhere."""

_NOT_SO = frozenset({400, 403, 404, 405, 410, 422, 501})
"""Statuses by which a server says that it does not answer such a question. All others may pass."""

_HALF = dt.timedelta(seconds=0.5)
"""A ``Date`` has whole seconds, cut down."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer, its first page only."""

    finding: Finding
    """YES for an answer as it should be, NO for a refusal, UNCLEAR for anything else."""
    answer: Answer
    page: Page | None = None

    @property
    def status(self) -> int | None:
        """Of HTTP; None if there was no answer."""
        return self.answer.status

    @property
    def said(self) -> Said:
        """Its refusal."""
        return Said(self.answer.status, self.answer.shape is not Shape.OTHER, words_of(self.answer.body))

    @property
    def is_empty(self) -> bool:
        """Whether the page shows nothing, announces nothing and is the last."""
        page = self.page
        return page is not None and not (page.showings or page.problems or page.passed or page.total or page.next)


@dataclass(frozen=True, slots=True)
class Shown:
    """What one target showed, read to its end."""

    found: Mapping[tuple[str, str], Version]
    """By type and id."""
    resources: Mapping[tuple[str, str], Mapping[str, Any]] = field(repr=False)
    failure: Failure | None
    whole: bool
    """Whether it was read to its last page."""

    @property
    def finding(self) -> Finding:
        """YES if it could be read, NO if it was refused, IGNORED if the filter was, else UNCLEAR."""
        if self.failure is None:
            return Finding.YES
        if self.failure == FILTER_IGNORED:
            return Finding.IGNORED
        return Finding.NO if is_refusal(self.failure) else Finding.UNCLEAR

    def of(self, resource_type: str) -> dict[str, Version]:
        """What it showed of one type, by id."""
        return {name: version for (kind, name), version in self.found.items() if kind == resource_type}


def is_refusal(failure: Failure) -> bool:
    """Whether the server says that it does not answer such a question at all."""
    is_plain = failure.kind is FailureKind.REFUSED or failure.status == 501  # noqa: PLR2004 - Not Implemented
    return is_plain and failure.status in _NOT_SO


class Asker:
    """Asks one practice's server."""

    def __init__(self, source: Source, purpose: Purpose = Purpose.PROBE) -> None:
        self.source = source
        self.practice = source.practice
        self.calls = 0
        """Calls made, token calls left out."""
        self.page_size: int | None = None
        """Rows of the largest page that another one followed."""
        self._purpose = purpose
        self._took: list[float] = []
        self._ahead: list[float] = []

    @property
    def latency(self) -> float | None:
        """Seconds of the median call."""
        return round(statistics.median(self._took), 3) if self._took else None

    @property
    def clock_offset(self) -> float | None:
        """Seconds by which the server's clock is ahead of ours, to about a second: some servers cut the time, some keep it for a while."""
        return round(statistics.median(self._ahead), 1) if self._ahead else None

    async def ask(
        self,
        where: str,
        resource_type: str,
        *,
        headers: Mapping[str, str] | None = None,
        accepted: frozenset[int] = frozenset(),
        expected: frozenset[int] = frozenset(),
        is_usual: bool = True,
    ) -> Asked:
        """The first page of a search; for ``resource_type`` empty, anything else that the server has below its base.

        ``is_usual``: whether a page of it is as long as others. ``accepted``, ``expected``: as :meth:`poller.source.client.Client.request`
        has them.
        """
        answer = await self.source.client.request(
            "GET", where, self._purpose, headers=headers or {}, accepted=accepted, expected=expected
        )
        self._note(answer)
        if answer.failure is not None:
            is_no = is_refusal(answer.failure) and answer.shape is not Shape.OTHER  # a web page is a proxy's refusal
            return Asked(Finding.NO if is_no else Finding.UNCLEAR, answer)
        if not resource_type:
            return Asked(Finding.YES, answer)
        page = pages.read_page(answer.body, resource_type, answer.began, answer.ended)
        if isinstance(page, Failure) or pages.Problem.OUTCOME in page.problems:
            return Asked(Finding.UNCLEAR, answer)
        if page.next is not None and is_usual:
            self._note_page(len(page.showings))
        return Asked(Finding.YES, answer, page)

    async def first_page(self, target: Target, since: dt.datetime | None = None) -> Asked:
        """The first page of what a pass over the target would read."""
        return await self.ask(self.where(target, since), target.resource_type)

    async def look(self, target: Target) -> tuple[Asked, Shown | None]:
        """The first page of a target, and all that it shows; None where that page was refused. One call where one page is all."""
        asked = await self.first_page(target)
        page = asked.page
        if page is None:
            return asked, None
        if page.next is not None:
            return asked, await self.read(target)
        versions = [self._reduce(one.sighting) for one in page.showings]
        resources = {one.sighting.id: one.sighting.resource for one in page.showings}
        found = {version.key: version for version in versions}
        return asked, Shown(found, {key: resources[key[1]] for key in found}, None, whole=True)

    def where(self, target: Target, since: dt.datetime | None = None) -> str:
        """The first search of a pass over the target."""
        return self.source.searches(target, since)[0].where

    async def read(self, target: Target, since: dt.datetime | None = None, *, most: int | None = None) -> Shown:
        """All of a target as a pass reads it, or, with ``most``, until so many resources were seen."""
        reading = self.source.read(target, since, self._purpose)
        found: dict[tuple[str, str], Version] = {}
        resources: dict[tuple[str, str], Mapping[str, Any]] = {}
        largest, is_cut = 0, False
        batches = cast("AsyncGenerator[Batch, None]", aiter(reading))  # which it is, and so can be closed
        async with contextlib.aclosing(batches):
            async for batch in batches:
                largest = max(largest, len(batch.sightings))
                for sighting in batch.sightings:
                    version = self._reduce(sighting)
                    found[version.key], resources[version.key] = version, sighting.resource
                if most is not None and len(found) >= most:
                    is_cut = True
                    break
        self.calls += reading.calls
        if reading.calls == 1:
            self._took.append((reading.ended - reading.began).total_seconds())
        elif reading.calls > 1:
            self._note_page(largest)
        if is_cut:
            return Shown(found, resources, None, whole=False)
        return Shown(found, resources, reading.failure, whole=reading.coverage is not Coverage.INCOMPLETE)

    def _reduce(self, sighting: Sighting) -> Version:
        """As a pass does: what is noise there makes no difference between two ways of reading."""
        return canonical.reduce(sighting, _KEY, noise=self.practice.left_out)

    def _note(self, answer: Answer) -> None:
        self.calls += answer.calls
        if answer.status is None:
            return
        took = answer.ended - answer.began
        self._took.append(took.total_seconds())
        if answer.date is not None:
            self._ahead.append((answer.date + _HALF - (answer.began + took / 2)).total_seconds())

    def _note_page(self, rows: int) -> None:
        self.page_size = max(rows, self.page_size or 0)
