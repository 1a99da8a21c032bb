"""Finds patients where no search shows them: in a roster and in a Group. Whom these no longer name is not gone: that proves nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import structlog

from poller import metrics
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.core import roster
from poller.core.model import Failure, Purpose
from poller.core.roster import Entry, Listed, Tally
from poller.source.group import Membership
from poller.store.known import PatientSource
from poller.store.patients import PatientStore
from poller.store.repository import Lease

log = structlog.get_logger(__name__)

LOOK_EVERY = dt.timedelta(seconds=10)
"""How often :meth:`PatientFinder.find` should be called; it does what is due."""
GROUP_EVERY = dt.timedelta(hours=1)
_GROUP_RETRY = dt.timedelta(minutes=5)
_COUNT_EVERY = dt.timedelta(minutes=15)


class Roll(Protocol):
    """A Group of the practice."""

    async def read(self, purpose: Purpose) -> Membership:
        """All members that can be had now."""
        ...


@dataclass(frozen=True, slots=True)
class _State:
    """By what a file is known to be the one that was read."""

    modified: int
    size: int
    file: int


class _Unwanted(Exception):  # noqa: N818 - what happened, in the words of errors.py
    """The practice is given up while a file is read, on a thread that nothing else could stop."""


class PatientFinder:
    """The roster and the Group of one practice, for as long as its lease holds."""

    def __init__(
        self, config: PracticeConfig, lease: Lease, store: PatientStore, group: Roll | None, clock: Clock
    ) -> None:
        self._practice = config.code
        self._roster = config.patients.roster
        self._group = group
        self._lease = lease
        self._store = store
        self._clock = clock
        self._log = log.bind(practice=config.code)
        self._read: _State | None = None
        """The roster as it was when it was read last."""
        self._unwanted = threading.Event()
        self._group_at: dt.datetime | None = None
        self._group_failures = 0
        self._group_was_short = False
        self._count_at: dt.datetime | None = None
        self._counted: list[str] = []
        self._failing: dict[PatientSource, str] = {}
        self._recalled = False
        self._enumerated: set[str] = set()

    async def find(self, now: dt.datetime) -> bool:
        """Read the roster if it has changed and the Group if it is time; returns whether patients were found who were not known.

        Raises LeaseLost and what the store raises; a source that fails is noted and tried again. One call at a time.
        """
        if not self._recalled:
            await self._recall()
        new = 0
        if self._roster is not None:
            new += await self._find_in_roster(self._roster, now)
        if self._group is not None and (self._group_at is None or self._group_at <= now):
            new += await self._find_in_group(self._group, now)
        if new or self._count_at is None or self._count_at <= now:
            self._count_at = now + _COUNT_EVERY
            await self._count()
        return new > 0

    async def _recall(self) -> None:
        known = await asyncio.to_thread(self._store.enumerations, self._practice)
        whole = {source: row.began for source, row in known.items() if row.began is not None}
        self._enumerated = set(whole)
        self._recalled = True
        if (began := whole.get(PatientSource.GROUP)) is not None and known[PatientSource.GROUP].failure is None:
            self._group_at = began + GROUP_EVERY

    def _is_live(self, source: PatientSource) -> bool:
        """Whether whom this source names for the first time is new in the practice: once it has been gone through."""
        return source.value in self._enumerated

    async def _find_in_roster(self, path: Path, now: dt.datetime) -> int:
        state = await asyncio.to_thread(_look, path)
        if state == self._read:
            return 0
        if isinstance(state, str):
            self._read = None
            await asyncio.to_thread(self._fail, PatientSource.ROSTER, state, now)
            return 0
        self._unwanted.clear()
        try:
            return await asyncio.to_thread(self._read_roster, path, now)
        except asyncio.CancelledError:
            self._unwanted.set()
            raise

    def _read_roster(self, path: Path, now: dt.datetime) -> int:
        """Read it twice: to know whether it may be taken, then to take it. Nothing of it is held in memory."""
        new = 0
        try:
            with path.open("rb") as file:
                before = _state(file.fileno())
                tally = Tally()
                for entry in self._entries(file):
                    tally.add(entry)
                self._tell(tally)
                if tally.refusal is None:
                    file.seek(0)
                    ids = (entry.id for entry in self._entries(file) if isinstance(entry, Listed))
                    live = self._is_live(PatientSource.ROSTER)
                    new = self._store.add(self._lease, ids, PatientSource.ROSTER, now, live=live)
                if _state(file.fileno()) != before:
                    return new  # written while it was read, so this was no whole list
        except _Unwanted:
            return new
        except OSError as error:
            self._fail(PatientSource.ROSTER, _unreadable(error), now)
            return new
        self._read = before
        if tally.refusal is not None:
            self._fail(PatientSource.ROSTER, tally.refusal, now)
            return 0
        self._end(PatientSource.ROSTER, now, tally.patients, tally.trouble)
        self._log.info("the roster was read", action="roster.read", patients=tally.patients, new=new)
        return new

    def _entries(self, file: BinaryIO) -> Iterator[Entry]:
        for entry in roster.read(_lines(file)):
            if self._unwanted.is_set():
                raise _Unwanted
            yield entry

    def _tell(self, tally: Tally) -> None:
        if tally.repeated:
            self._log.warning(
                "the roster names patients more than once",
                action="roster.repeat",
                count=tally.repeated,
                lines=tally.first_repeated,
            )
        if tally.unread:
            self._log.warning(
                "lines of the roster cannot be read",
                action="roster.unread",
                count=tally.unread,
                lines=[str(unread) for unread in tally.first_unread],
            )

    async def _find_in_group(self, group: Roll, now: dt.datetime) -> int:
        found = await group.read(Purpose.DETECT)
        live = self._is_live(PatientSource.GROUP)
        new = await asyncio.to_thread(self._store.add, self._lease, found.patients, PatientSource.GROUP, now, live=live)
        trouble = _said(found.failure) if found.failure is not None else found.trouble
        if found.failure is not None or (trouble is not None and not self._group_was_short):
            self._group_failures += 1
            self._group_was_short = found.failure is None
            self._group_at = now + min(GROUP_EVERY, _GROUP_RETRY * int(2 ** min(self._group_failures - 1, 10)))
            await asyncio.to_thread(self._fail, PatientSource.GROUP, trouble or "", now)
            return new
        # One that is short again counts: what it says of itself may be wrong for ever, and newcomers would never be live.
        self._group_failures = 0
        self._group_was_short = trouble is not None
        self._group_at = now + GROUP_EVERY
        await asyncio.to_thread(self._end, PatientSource.GROUP, now, len(found.patients), trouble)
        self._log.info("the Group was read", action="group.read", patients=len(found.patients), new=new)
        return new

    def _fail(self, source: PatientSource, failure: str, now: dt.datetime) -> None:
        """Note, and say once, that a source was not gone through to its end."""
        if self._failing.get(source) == failure:
            return
        self._store.end_enumeration(self._lease, source, now, self._clock.now(), None, failure)
        self._failing[source] = failure
        self._log.warning(
            "a source of patients cannot be read", action="patients.fail", source=source.value, reason=failure
        )

    def _end(self, source: PatientSource, began: dt.datetime, found: int, trouble: str | None) -> None:
        self._store.end_enumeration(self._lease, source, began, self._clock.now(), found, trouble)
        self._failing.pop(source, None)
        self._enumerated.add(source.value)

    async def _count(self) -> None:
        counts = await asyncio.to_thread(self._store.counts, self._practice)
        told = dict.fromkeys(self._counted, 0) | {count.source or "before": count.patients for count in counts}
        for source, patients in told.items():
            metrics.PATIENTS.labels(self._practice, source).set(patients)
        self._counted = list(told)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, each no longer than what a roster may have, and a byte."""
    while line := file.readline(roster.LONGEST + 1):
        yield line
        while len(line) > roster.LONGEST and not line.endswith(b"\n"):
            line = file.readline(roster.LONGEST + 1)


def _look(path: Path) -> _State | str:
    """What a file is known by; text if there is none that can be read, and why."""
    try:
        if not path.is_file():  # to open a pipe would wait for whoever writes to it
            return "there is no such file" if not path.exists() else "it is no file"
        return _state(path)
    except OSError as error:
        return _unreadable(error)


def _state(file: Path | int) -> _State:
    found = os.stat(file)  # noqa: PTH116 - of an open file as well
    return _State(found.st_mtime_ns, found.st_size, found.st_ino)


def _unreadable(error: OSError) -> str:
    """Why, in the words of the operating system; never the file's name."""
    return f"the file cannot be read: {os.strerror(error.errno) if error.errno else type(error).__name__}"


def _said(failure: Failure) -> str:
    return f"{failure.detail} ({failure.status})" if failure.status is not None else failure.detail
