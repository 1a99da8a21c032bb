"""A bulk export job from its request to its end, after the FHIR Bulk Data Access IG 2.0. Pure: answers and ``now`` in, the next state out.

A job is one immutable value, stored after each step, so that a restart goes on where the last step ended::

    requested ──► in-progress ──► ready ──► done
        │              │            └─────► expired
        └► failed ◄────┴──────────────────► cancelled

What the server says is counted, never kept: its words may name a patient.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from poller.core.manifest import File, FileKind, Manifest
from poller.core.model import Coverage, Failure, FailureKind
from poller.core.window import BEGINNING

SOONEST, LATEST = dt.timedelta(seconds=1), dt.timedelta(minutes=5)
"""Between two polls, whatever the server asks for."""

_USUAL, _GROWTH = 30.0, 1.5
"""Seconds before the first poll where the server names no pace, and by what that grows from poll to poll."""

_BLOCKED = dt.timedelta(minutes=5), dt.timedelta(hours=1)
"""Before the next kick-off while another job blocks the group, first and longest; it doubles."""

_MISSES = {FailureKind.REFUSED: 5, FailureKind.MALFORMED: 5, FailureKind.SERVER: 10}
"""Polls in a row without a usable answer, the last of them so, that end a job: the IG lets a failed job answer with any 4xx or 5xx. A
server that cannot be reached, or gives no token, says nothing of its job."""
_LOST = 2
"""Polls in a row answered 404 that do: one may come from a node that has not heard of the job yet."""
_REFUSALS = 3
"""Kick-offs for which no token serves: that may be a passing fault of the authorization server, or a group that is not ours."""


class Use(StrEnum):
    """What an export is for."""

    FIRST_LOAD = "first-load"
    COLD = "cold"
    """Patients who are read seldom."""
    RECONCILE = "reconcile"


class State(StrEnum):
    """How far a job is."""

    REQUESTED = "requested"
    """To be kicked off; a kick-off whose answer was lost may have begun it already."""
    IN_PROGRESS = "in-progress"
    READY = "ready"
    """Its files can be read."""
    DONE = "done"
    """Its files were read, with gaps if ``failure`` says so."""
    FAILED = "failed"
    EXPIRED = "expired"
    """The job or its files are gone before they were read."""
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing comes after it."""
        return self not in {State.REQUESTED, State.IN_PROGRESS, State.READY}


class Gap(StrEnum):
    """Why a file is no proof of what is there."""

    UNREADABLE = "unreadable"
    """It could not be read to its end."""
    BAD_LINES = "bad-lines"
    """A line is no resource of the file's type that could be stored. It must not keep its type from ever counting as read."""
    SHORT = "short"
    """It holds fewer lines than the manifest says."""
    ERRORS = "errors"
    """It tells of an error, not only of warnings."""
    OUTDATED = "outdated"
    """Rows were left for another read: what is stored is newer."""


@dataclass(frozen=True, slots=True)
class FileDone:
    """A file that will not be read again, and what it lacks."""

    name: str
    gaps: frozenset[Gap] = frozenset()

    def __str__(self) -> str:
        """As stored, e.g. ``output/3`` or ``output/3:bad-lines,outdated``."""
        return f"{self.name}:{','.join(sorted(self.gaps))}" if self.gaps else self.name

    @classmethod
    def parse(cls, text: str) -> FileDone:
        """The inverse of ``str``. ValueError for a gap that this release does not know."""
        name, _, gaps = text.partition(":")
        return cls(name, frozenset(Gap(gap) for gap in gaps.split(",") if gap))


@dataclass(frozen=True, slots=True)
class Job:
    """One export of a group."""

    id: uuid.UUID
    group: str
    types: tuple[str, ...]
    since: dt.datetime | None
    """Only what changed since, by the server's clock; None for everything."""
    use: Use
    state: State
    started_at: dt.datetime
    """When it was asked for; once accepted: when the kick-off was sent, which its content is no older than by our own clock."""
    poll_url: str | None = field(default=None, repr=False)
    """Where it answers; kept until the server has let the job go. Never logged."""
    polled_at: dt.datetime | None = None
    next_poll_at: dt.datetime | None = None
    """When to poll, or to kick off, next."""
    polls: int = 0
    """Polls, or kick-offs until one is accepted."""
    misses: int = 0
    """Polls in a row without a usable answer; not stored."""
    manifest: Manifest | None = field(default=None, repr=False)
    transaction_time: dt.datetime | None = None
    """By the server's clock; the content is no newer."""
    content_at: dt.datetime | None = None
    """By our clock; the content may be as old."""
    files_done: tuple[FileDone, ...] = ()
    rows: int = 0
    """Resources read, those of a file that was read twice counted twice."""
    failure: str | None = None
    """Why it did not end well, from our own vocabulary; for one under way, what troubles it."""
    ended_at: dt.datetime | None = None

    @property
    def is_whole(self) -> bool:
        """Whether everything that it exported was read and taken over: the next export may begin where it did."""
        return self.state is State.DONE and self.failure is None

    def gaps(self) -> Mapping[str, frozenset[Gap]]:
        """What each file that was read lacks, by name."""
        return {done.name: done.gaps for done in self.files_done}

    def pending(self) -> list[File]:
        """Files that are still to be read, of what was asked for."""
        read = self.gaps()
        files = self.manifest.files if self.manifest is not None else ()
        wanted = (file for file in files if file.kind is not FileKind.OUTPUT or file.resource_type in self.types)
        return [file for file in wanted if file.name not in read]


BLOCKED, STUCK, STOPPED, INCOMPLETE = "blocked", "stuck", "stopped", "incomplete"
"""Values of :attr:`Job.failure` besides those of FailureKind, State and Gap: another job blocks the group; no end within the patience;
ended by our side; read, but with gaps."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server has begun the job."""

    poll_url: str = field(repr=False)
    began: dt.datetime
    """When the kick-off was sent."""
    asked: float | None = None
    """Seconds until the first poll, if the server names them."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The server runs such a job already and does not say where."""


@dataclass(frozen=True, slots=True)
class Working:
    """The server is not ready yet."""

    asked: float | None = None
    progress: float | None = None
    """Percent, where the server gives a number."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The files can be read."""

    manifest: Manifest
    skew: dt.timedelta | None
    """How far the server's clock is ahead of ours, at most; None if it does not tell the time."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The server does not know the job."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """No usable answer."""

    failure: Failure
    asked: float | None = None


def begin(
    id_: uuid.UUID, group: str, types: Iterable[str], since: dt.datetime | None, use: Use, now: dt.datetime
) -> Job:
    """A job that is to be kicked off."""
    return Job(id_, group, tuple(sorted(set(types))), since, use, State.REQUESTED, now)


def pace(asked: float | None, polls: int) -> dt.timedelta:
    """How long until the next poll: as the server asks, within our bounds; else 30 seconds, growing with the polls made."""
    seconds = asked if asked is not None else _USUAL * _GROWTH ** min(polls, 10)
    return min(LATEST, max(SOONEST, dt.timedelta(seconds=min(seconds, LATEST.total_seconds()))))


def kicked_off(job: Job, answer: Accepted | Duplicate | Trouble, now: dt.datetime, patience: dt.timedelta) -> Job:
    """The job after a kick-off. One that another blocks is tried again, more and more seldom, until the patience is over."""
    tries = job.polls + 1
    match answer:
        case Accepted():
            return replace(
                job,
                state=State.IN_PROGRESS,
                started_at=answer.began,
                poll_url=answer.poll_url,
                polls=0,
                next_poll_at=now + pace(answer.asked, 0),
                failure=None,
            )
        case Duplicate():
            wait = min(_BLOCKED[1], _BLOCKED[0] * 2 ** min(job.polls, 10))
            failure = BLOCKED
        case Trouble():
            wait = pace(answer.asked, job.polls)
            failure = answer.failure.kind.value
            if answer.failure.kind is FailureKind.REFUSED:
                return over(job, State.FAILED, failure, now)
            if answer.failure.kind is FailureKind.UNAUTHORIZED and tries >= _REFUSALS:
                return over(job, State.FAILED, failure, now)
    if now - job.started_at >= patience:
        return over(job, State.FAILED, failure, now)
    return replace(job, polls=tries, next_poll_at=now + wait, failure=failure)


def polled(job: Job, answer: Working | Finished | Lost | Trouble, now: dt.datetime, patience: dt.timedelta) -> Job:
    """The job after a poll. One that is not ready within the patience is stuck: it is given up, and to be cancelled at the server."""
    job = replace(job, polls=job.polls + 1, polled_at=now)
    failure: str | None
    match answer:
        case Finished():
            return _ready(job, answer, now)
        case Working():
            job, failure = replace(job, misses=0), None
            wait = pace(answer.asked, job.polls)
        case Lost() | Trouble():
            job = replace(job, misses=job.misses + 1)
            failure = State.EXPIRED.value if isinstance(answer, Lost) else answer.failure.kind.value
            wait = pace(None if isinstance(answer, Lost) else answer.asked, job.misses - 1)
            if isinstance(answer, Lost) and job.misses >= _LOST:
                return over(job, State.EXPIRED, failure, now)
            if isinstance(answer, Trouble) and job.misses >= _MISSES.get(answer.failure.kind, job.misses + 1):
                return over(job, State.FAILED, failure, now)
    if now - job.started_at >= patience:
        return over(job, State.CANCELLED, STUCK, now)
    return replace(job, next_poll_at=now + wait, failure=failure)


def _ready(job: Job, answer: Finished, now: dt.datetime) -> Job:
    """The files of a manifest, new or told anew; what was read of the same files stays read."""
    manifest = answer.manifest
    is_known = job.manifest is not None and job.manifest.has_same_files(manifest)
    content_at = job.content_at if is_known else None
    return replace(
        job,
        state=State.READY,
        polled_at=now,
        next_poll_at=None,
        misses=0,
        manifest=manifest,
        transaction_time=manifest.transaction_time,
        content_at=content_at or content_time(job.started_at, manifest.transaction_time, answer.skew),
        files_done=job.files_done if is_known else (),
        failure=None,
    )


def content_time(kicked_off_at: dt.datetime, transaction_time: dt.datetime, skew: dt.timedelta | None) -> dt.datetime:
    """From when the content may be, by our clock: the kick-off, or before it where the server exports what it had gathered earlier.

    Never too late: a content that is taken for older than it is decides less, one taken for newer could put an older version over a newer.
    """
    try:
        ours = transaction_time - (skew or dt.timedelta(0))
    except OverflowError:
        ours = BEGINNING  # a clock that is off by thousands of years tells nothing
    return min(kicked_off_at, ours)


def after_file(job: Job, done: FileDone, rows: int) -> Job:
    """The job after a file that will not be read again."""
    return replace(job, files_done=(*job.files_done, done), rows=job.rows + rows)


def done(job: Job, now: dt.datetime) -> Job:
    """The job when all of its files are read that can be."""
    found = frozenset[Gap]().union(*(file.gaps for file in job.files_done))
    lacks = job.manifest is None or job.manifest.is_partial or bool(job.pending())
    failure = INCOMPLETE if lacks or found - {Gap.OUTDATED} else Gap.OUTDATED.value if found else None
    return over(job, State.DONE, failure, now)


def over(job: Job, state: State, failure: str | None, now: dt.datetime) -> Job:
    """The job at its end. Its files are no longer named; where it answers still is, until the server has let it go."""
    return replace(job, state=state, failure=failure, next_poll_at=None, manifest=None, ended_at=now)


def coverage(job: Job) -> dict[str, Coverage]:
    """What the files that were read prove of each type, once all of them were.

    A type without any file is unproven: no such resources, or none that we may see. So is one whose files hold lines that could not be
    read, or fewer than announced. An error that an error file tells of may be about any type.
    """
    if job.manifest is None:
        return dict.fromkeys(job.types, Coverage.INCOMPLETE)
    gaps = job.gaps()
    errs = job.manifest.is_partial or any(
        gaps.get(file.name, {Gap.UNREADABLE}) for file in job.manifest.files if file.kind is FileKind.ERROR
    )
    proven = {}
    for name in job.types:
        files = [file for file in job.manifest.files if file.kind is FileKind.OUTPUT and file.resource_type == name]
        found = frozenset[Gap]().union(*(gaps.get(file.name, {Gap.UNREADABLE}) for file in files)) - {Gap.OUTDATED}
        if errs or found & {Gap.UNREADABLE, Gap.ERRORS}:
            proven[name] = Coverage.INCOMPLETE
        else:
            proven[name] = Coverage.UNPROVEN if found or not files else Coverage.COMPLETE
    return proven


def is_outdated(job: Job, resource_type: str) -> bool:
    """Whether rows of the type were left for another read."""
    gaps = job.gaps()
    files = job.manifest.files if job.manifest is not None else ()
    return any(Gap.OUTDATED in gaps.get(file.name, ()) for file in files if file.resource_type == resource_type)


def fulfils(job: Job, types: Iterable[str], since: dt.datetime | None) -> bool:
    """Whether a job that was found under way exports what is asked for."""
    reaches_back = job.since is None or (since is not None and job.since <= since)
    return reaches_back and set(types) <= set(job.types)


def next_since(jobs: Iterable[Job], types: Iterable[str], overlap: dt.timedelta) -> dt.datetime | None:
    """Where the next export of these types may begin, after ``jobs`` of the same group, oldest first; None: with everything.

    An unbroken chain from a whole export of everything: each link whole, and none begun after the end of the one before. The transaction
    time, but not after the kick-off (a server's clock may leap), minus the overlap: resources can become visible after their stamp.
    """
    reached: dict[str, dt.datetime] = {}
    for job in jobs:
        if not job.is_whole or job.transaction_time is None:
            continue
        end = min(job.transaction_time, job.started_at) - overlap
        for name in job.types:
            before = reached.get(name)
            if job.since is None or (before is not None and job.since <= before):
                reached[name] = end if before is None else max(before, end)
    wanted = set(types)
    return min(reached[name] for name in wanted) if wanted and wanted <= reached.keys() else None
