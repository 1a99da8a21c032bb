"""Bulk export beside the polls: a group's resources are asked for as files, and go through the same comparison as what polls read.

The way of a job through this module: :meth:`Exporter.run` → :meth:`Exporter._kick_off` → :meth:`Exporter._poll` → :meth:`Exporter._read`,
file by file → :meth:`Exporter._release`. Each step is stored before the next, so that a restart goes on with the same job. A file that was
being read is read again: the comparison makes that harmless.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from poller.clock import Clock
from poller.config import PracticeConfig
from poller.core import export
from poller.core.export import (
    Accepted,
    Duplicate,
    FileDone,
    Finished,
    Gap,
    Job,
    Lost,
    State,
    Trouble,
    Use,
    Working,
)
from poller.core.manifest import File, FileKind
from poller.core.model import Failure, FailureKind
from poller.intake import FileReading, Intake, Tally
from poller.store.exports import ExportStore
from poller.store.repository import Lease, Repository

log = structlog.get_logger(__name__)

_TRIES = 10
"""Readings of a file that fail in a passing way. Between two of them all other files are tried, and a while is waited: minutes, at last."""


class BulkSource(Protocol):
    """A server that exports."""

    async def kick_off(self, job: Job) -> Accepted | Duplicate | Trouble:
        """Ask for an export."""
        ...

    async def poll(self, poll_url: str) -> Working | Finished | Lost | Trouble:
        """Ask how far a job is."""
        ...

    async def cancel(self, poll_url: str) -> bool:
        """Have the server let a job go. Whether it has."""
        ...

    def open(self, file: File, *, needs_token: bool) -> FileReading:
        """Begin to read a file."""
        ...


@dataclass(frozen=True, slots=True)
class ExportReport:
    """A job that is over."""

    job: Job
    tally: Tally
    """What this process read of it; what was read before a restart is not in it."""


class Exporter:
    """Exports of one practice, one at a time. ``sleep`` is for tests."""

    def __init__(
        self,
        config: PracticeConfig,
        lease: Lease,
        source: BulkSource,
        repository: Repository,
        exports: ExportStore,
        clock: Clock,
        digest_key: bytes,
        on_commit: Callable[[], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if config.bulk is None:
            raise ValueError(f"practice {config.code} has no bulk section")
        self._config = config
        self._settings = config.bulk
        self._lease = lease
        self._source = source
        self._exports = exports
        self._clock = clock
        self._sleep = sleep
        self._intake = Intake(config, lease, repository, exports, clock, digest_key, on_commit)
        self._log = log.bind(practice=config.code)

    async def next_since(self, types: Collection[str]) -> dt.datetime | None:
        """Where an export of what has changed may begin; None while everything must be asked for."""
        return await asyncio.to_thread(
            self._exports.next_since, self._config.code, self._settings.group, sorted(types), self._config.overlap
        )

    async def run(self, use: Use, types: Collection[str], since: dt.datetime | None = None) -> ExportReport:
        """Export these types to the end, however long that takes. A job under way is finished first; often it is what is asked for.

        Whatever the server does is in the report. Raises LeaseLost and what the store raises; the job goes on with the next run.
        """
        under_way = await asyncio.to_thread(self._exports.unfinished, self._config.code)
        if under_way is not None and under_way.group != self._settings.group:
            await self._stop(under_way)
        elif under_way is not None:
            self._log.info("an export goes on", action="export.resume", state=under_way.state.value)
            report = await self._finish(under_way)
            if export.fulfils(report.job, types, since) and report.job.state is not State.EXPIRED:
                return report
        for former in await asyncio.to_thread(self._exports.unreleased, self._config.code):
            await self._release(former)
        job = export.begin(uuid.uuid4(), self._settings.group, types, since, use, self._clock.now())
        self._log.info("an export begins", action="export.begin", use=use.value, feeds=list(job.types))
        return await self._finish(await self._save(job))

    async def cancel(self) -> bool:
        """Give up the job under way, here and at the server. Whether there was one. Not while :meth:`run` runs."""
        job = await asyncio.to_thread(self._exports.unfinished, self._config.code)
        if job is not None:
            await self._stop(job)
        return job is not None

    async def _stop(self, job: Job) -> None:
        await self._release(await self._save(export.over(job, State.CANCELLED, export.STOPPED, self._clock.now())))

    async def _finish(self, job: Job) -> ExportReport:
        tally = Tally()
        while not job.state.is_over:
            match job.state:
                case State.REQUESTED:
                    job = await self._kick_off(job)
                case State.IN_PROGRESS:
                    job = await self._poll(job)
                case _:
                    job = await self._read(job, tally)
        self._say_end(job, tally)
        return ExportReport(await self._release(job), tally)

    def _say_end(self, job: Job, tally: Tally) -> None:
        say = self._log.info if job.is_whole else self._log.warning if job.state is State.DONE else self._log.error
        say(
            f"the export is {job.state.value}" + (f": {job.failure}" if job.failure else ""),
            action="export.end",
            use=job.use.value,
            state=job.state.value,
            failure=job.failure,
            resources=job.rows,
            changes=tally.changes,
            outdated=tally.outdated,
            deleted=tally.deleted,
            unreadable=tally.flaws.total(),
        )

    async def _save(self, job: Job) -> Job:
        await asyncio.to_thread(self._exports.save, self._lease, job)
        return job

    async def _wait(self, until: dt.datetime | None) -> None:
        seconds = (until - self._clock.now()).total_seconds() if until is not None else 0.0
        if seconds > 0:
            await self._sleep(seconds)

    # --- until the files are there

    async def _kick_off(self, job: Job) -> Job:
        await self._wait(job.next_poll_at)
        answer = await self._source.kick_off(job)
        if isinstance(answer, Duplicate):
            answer = await self._adopt(job)
        if isinstance(answer, Duplicate):
            self._log.error(
                "an export whose address is not known blocks the group: it must end by itself, or the vendor must end it",
                action="export.blocked",
                since=job.started_at.isoformat(),
            )
        elif isinstance(answer, Trouble):
            self._say_trouble(answer.failure)
        return await self._save(export.kicked_off(job, answer, self._clock.now(), self._settings.timeout))

    async def _adopt(self, job: Job) -> Accepted | Duplicate:
        """What blocks the group may be a job of ours that the server would not let go: if it is the same request it is polled again."""
        adopted: Accepted | Duplicate = Duplicate()
        for former in await asyncio.to_thread(self._exports.unreleased, self._config.code):
            held = (await self._release(former)).poll_url
            is_same = (former.group, former.types, former.since) == (job.group, job.types, job.since)
            if held is not None and is_same and former.state is not State.DONE:
                adopted = Accepted(held, former.started_at)
        return adopted

    async def _poll(self, job: Job) -> Job:
        await self._wait(job.next_poll_at)
        answer = await self._source.poll(job.poll_url or "")
        if isinstance(answer, Working):
            self._log.debug("the export is in progress", action="export.progress", percent=answer.progress)
        elif isinstance(answer, Trouble):
            self._say_trouble(answer.failure)
        return await self._save(export.polled(job, answer, self._clock.now(), self._settings.timeout))

    def _say_trouble(self, failure: Failure) -> None:
        self._log.warning(
            "a call for the export failed",
            action="export.fail",
            failure=failure.kind.value,
            status=failure.status,
            detail=failure.detail,
        )

    async def _release(self, job: Job) -> Job:
        """Have the server let the job and its files go; if it does not, the address is kept, to try again before the next export."""
        if job.poll_url is None:
            return job
        if job.state is State.EXPIRED or await self._source.cancel(job.poll_url):
            return await self._save(replace(job, poll_url=None))
        self._log.warning("the server has not let an export go", action="export.held", state=job.state.value)
        return job

    # --- the files

    async def _read(self, job: Job, tally: Tally) -> Job:
        """All files, in rounds: what fails in a passing way is tried again after the others, and after a while."""
        if job.manifest is None:
            return await self._save(replace(job, state=State.IN_PROGRESS))  # an older release's: it is asked for again
        previous = await asyncio.to_thread(self._exports.last_whole, self._config.code, job.group)
        short: set[str] = set()
        for number in range(_TRIES):
            for file in job.pending():
                job = await self._read_file(
                    job, file.name, previous.get(file.resource_type), tally, short, is_last=number == _TRIES - 1
                )
                if job.state is not State.READY:
                    return job
            if not job.pending():
                break
            await self._sleep(export.pace(None, number).total_seconds())
        if job.since is None:
            await self._intake.end_passes(job, tally)
        return await self._save(export.done(job, self._clock.now()))

    async def _read_file(
        self, job: Job, name: str, previous: dt.datetime | None, tally: Tally, short: set[str], *, is_last: bool
    ) -> Job:
        """One try at a file. ``short``: files that held fewer lines than announced; when they do again, they are read as they are."""
        file = next((found for found in job.pending() if found.name == name), None)
        if job.manifest is None or file is None:
            return job  # the manifest was told anew since this round began, and lists others
        reading = self._source.open(file, needs_token=job.manifest.needs_token)
        gaps = await self._intake.take(job, file, reading, previous, tally)
        failure = reading.failure
        if failure is not None:
            self._say_trouble(failure)
            if reading.is_lost and not is_last:
                return await self._ask_again(job)
            if failure.kind is not FailureKind.REFUSED and not is_last:
                return job
            gaps |= {Gap.UNREADABLE}
        elif reading.is_short:
            if name not in short and not is_last:
                short.add(name)
                return job
            gaps |= {Gap.SHORT}
        self._intake.count_flaws(file, reading, tally)
        rows = reading.lines if file.kind is FileKind.OUTPUT else 0
        return await self._save(export.after_file(job, FileDone(name, gaps), rows))

    async def _ask_again(self, job: Job) -> Job:
        """A file is gone: so may be the whole job, or the manifest may name it at a fresh address by now."""
        answer = await self._source.poll(job.poll_url or "")
        match answer:
            case Finished():
                return await self._save(export.polled(job, answer, self._clock.now(), self._settings.timeout))
            case Lost():
                return await self._save(export.over(job, State.EXPIRED, State.EXPIRED.value, self._clock.now()))
            case _:
                return job
