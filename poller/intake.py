"""What an export's files hold, taken over: resources batch by batch, deletions as evidence, errors counted; and what a whole export proves.

Nothing is kept of a batch once it is committed, so that the size of a file does not matter.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from poller import metrics
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.config.attachments import attachment_rules
from poller.core import export
from poller.core.canonical import reduce
from poller.core.decide import origin_of_change
from poller.core.export import Gap, Job, Use
from poller.core.manifest import File, FileKind
from poller.core.model import Batch, Coverage, Failure, Kind, Origin, Target, Version
from poller.core.pages import Problem
from poller.store.exports import ExportStore
from poller.store.repository import Key, Lease, PassContext, PassEnd, Recorded, Repository
from poller.withheld import without_withheld

_ORIGINS = {Use.FIRST_LOAD: Origin.BASELINE, Use.COLD: Origin.LIVE, Use.RECONCILE: Origin.RECONCILE}


class FileReading(Protocol):
    """One reading of a file under way."""

    failure: Failure | None
    is_lost: bool
    lines: int
    flaws: Counter[Problem]

    @property
    def is_short(self) -> bool:
        """Whether more lines were announced."""
        ...

    def batches(self, content_at: dt.datetime) -> AsyncGenerator[Batch, None]:
        """Of an output file."""
        ...

    def deletions(self, types: Collection[str]) -> AsyncGenerator[list[Key], None]:
        """Of a file of deletions."""
        ...

    async def issues(self) -> Counter[tuple[str, str]]:
        """Of a file of errors, by severity and code."""
        ...


@dataclass(slots=True)
class Tally:
    """What the files have come to."""

    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    """By type, once all files of an export of everything are read."""
    changes: int = 0
    outdated: int = 0
    """Resources left for another read, since what is stored may be newer."""
    deleted: int = 0
    """Resources listed as deleted that are news, and are to be asked for."""
    new_patients: int = 0
    flaws: Counter[Problem] = field(default_factory=Counter)
    """Lines that could not be read, by why."""
    issues: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What the server's files of errors tell of, by severity and FHIR's code."""


class Intake:
    """Takes over the files of one practice's exports."""

    def __init__(
        self,
        config: PracticeConfig,
        lease: Lease,
        repository: Repository,
        exports: ExportStore,
        clock: Clock,
        digest_key: bytes,
        on_commit: Callable[[], None],
    ) -> None:
        self._config = config
        self._lease = lease
        self._repository = repository
        self._exports = exports
        self._clock = clock
        self._digest_key = digest_key
        self._rules = attachment_rules(config)
        self._on_commit = on_commit

    async def take(
        self, job: Job, file: File, reading: FileReading, previous: dt.datetime | None, tally: Tally
    ) -> frozenset[Gap]:
        """Take over what a file holds, as far as it can be read; returns what its content says against it.

        ``previous``: when the last whole export of its type began.
        """
        gaps: set[Gap] = set()
        match file.kind:
            case FileKind.OUTPUT:
                if await self._take_resources(job, file, reading, previous, tally):
                    gaps.add(Gap.OUTDATED)
            case FileKind.DELETED:
                await self._take_deletions(job, reading, tally)
            case FileKind.ERROR:
                issues = await reading.issues()
                tally.issues += issues
                if any(severity == "error" for severity, _ in issues):
                    gaps.add(Gap.ERRORS)
        if reading.flaws[Problem.OUTCOME]:
            gaps.add(Gap.ERRORS)  # an outcome among resources is the server's word that they are not all
        if reading.flaws.total() > reading.flaws[Problem.OUTCOME]:
            gaps.add(Gap.BAD_LINES)
        return frozenset(gaps)

    async def _take_resources(
        self, job: Job, file: File, reading: FileReading, previous: dt.datetime | None, tally: Tally
    ) -> bool:
        """Whether some of them were left for another read."""
        context = self._context(job, file.resource_type, previous)
        outdated = False
        async with aclosing(reading.batches(job.content_at or job.started_at)) as batches:
            async for batch in batches:
                recorded = await self._commit(context, batch, reading, tally)
                outdated = outdated or bool(recorded.outdated)
        return outdated

    async def _take_deletions(self, job: Job, reading: FileReading, tally: Tally) -> None:
        content_at = job.content_at or job.started_at
        async with aclosing(reading.deletions(job.types)) as deletions:
            async for found in deletions:
                tally.deleted += await asyncio.to_thread(
                    self._exports.note_deleted, self._lease, found, content_at, self._clock.now()
                )

    def _context(self, job: Job, resource_type: str, previous: dt.datetime | None) -> PassContext:
        return PassContext(
            lease=self._lease,
            target=Target(self._config.code, resource_type, Kind.BULK),
            origin=_ORIGINS[job.use],
            previous_read=previous,
            patients_live=job.use is not Use.FIRST_LOAD,
            references=self._config.patients.references,
        )

    async def _commit(self, context: PassContext, batch: Batch, reading: FileReading, tally: Tally) -> Recorded:
        def work() -> tuple[Recorded, int]:
            versions: list[Version] = []
            config, now = self._config, self._clock.now()
            kept = without_withheld(config, self._repository, context, batch.sightings, now)
            noise, drop = config.noise, config.drop
            for sighting in kept:
                try:
                    versions.append(reduce(sighting, self._digest_key, self._rules, noise, drop=drop))
                except TypeError:  # what cannot be written must not hold up all that comes behind it
                    continue
            unwritable = len(kept) - len(versions)
            return self._repository.record(context, versions, self._clock.now()), unwritable

        recorded, unwritable = await asyncio.to_thread(work)
        reading.flaws[Problem.UNWRITABLE] += unwritable
        practice, feed = self._config.code, context.target.resource_type
        for _, decision in recorded.changes:
            origin = origin_of_change(context.origin, decision.action)
            metrics.CHANGES.labels(practice, feed, decision.action.value, origin.value).inc()
        if recorded.outdated:
            metrics.OUTDATED.labels(practice, feed).inc(len(recorded.outdated))
        tally.changes += len(recorded.changes)
        tally.outdated += len(recorded.outdated)
        tally.new_patients += len(recorded.new_patients)
        if recorded.changes:
            self._on_commit()
        return recorded

    def count_flaws(self, file: File, reading: FileReading, tally: Tally) -> None:
        """Count the lines of a file that could not be read, once it will not be read again."""
        tally.flaws += reading.flaws
        for problem, count in reading.flaws.items():
            if count:
                metrics.UNREADABLE.labels(self._config.code, file.resource_type, problem.name.lower()).inc(count)

    async def end_passes(self, job: Job, tally: Tally) -> None:
        """Record what an export of everything proves of each type, once all of its files are read.

        An unproven one counts at once: asked for again it would show the same after hours. An incremental one proves nothing about what
        it does not show, and must not come here.
        """
        tally.coverage = export.coverage(job)
        for resource_type, coverage in tally.coverage.items():
            is_incomplete = coverage is Coverage.INCOMPLETE
            now = self._clock.now()
            end = PassEnd(
                began=job.content_at or job.started_at,
                ended=now,
                coverage=coverage,
                failure=export.INCOMPLETE if is_incomplete else None,
                counts=not is_incomplete,
                outdated=export.is_outdated(job, resource_type),
            )
            context = self._context(job, resource_type, None)
            await asyncio.to_thread(self._repository.record, context, [], now, end)
            metrics.PASSES.labels(self._config.code, resource_type, Kind.BULK.value, coverage.value).inc()
