"""Fetches the attachments that notes name, so that each becomes a resource of its own, with events like any other."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Protocol, assert_never

import structlog

from poller import metrics
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.config.attachments import attachment_rules
from poller.core.attachments import Fetched, TooLarge, again_after, size_of
from poller.core.canonical import reduce
from poller.core.decide import origin_of_change
from poller.core.model import Failure, FailureKind, Gone, Kind, Present, Sighting, Target, Unclear
from poller.store.attachments import AttachmentStore, Due, State
from poller.store.repository import Lease, PassContext, Recorded, Repository

log = structlog.get_logger(__name__)

_AT_ONCE = 20
"""Attachments that one call of :meth:`Attacher.fetch_due` takes up."""

_ENOUGH_ERRORS = 2
"""So many server errors in a row end a round: the server is not well."""

_ENOUGH_REFUSALS = 3
"""So many in a row that are refused or cannot be read, and all wait: a scope is missing, or Binary is not served here as it should be."""

_SICK = frozenset({FailureKind.SERVER, FailureKind.TRANSPORT})
"""Failures that show a server that is not well. A body that is not what was asked for may be one attachment's own."""

_NO_ANSWER = frozenset({FailureKind.UNAUTHORIZED, FailureKind.LOCKED_OUT})
"""Failures that say nothing of the attachment."""


class Fetcher(Protocol):
    """Reads attachments from the source."""

    async def attachment(self, id_: str, max_bytes: int) -> Fetched:
        """Read one Binary of at most so many bytes."""
        ...


class Attacher:
    """Fetches one practice's attachments, one at a time.

    One at a time bounds memory to one attachment and, since calls of one purpose leave in turn, its share of the budget to one of the calls
    under way. Its calls must not wait behind all others: where rounds take all calls there are, they would wait for ever.
    """

    def __init__(
        self,
        config: PracticeConfig,
        lease: Lease,
        source: Fetcher,
        repository: Repository,
        store: AttachmentStore,
        clock: Clock,
        digest_key: bytes,
        on_commit: Callable[[], None],
    ) -> None:
        self._rules = attachment_rules(config)
        self._lease = lease
        self._source = source
        self._repository = repository
        self._store = store
        self._clock = clock
        self._digest_key = digest_key
        self._on_commit = on_commit
        self._log = log.bind(practice=lease.practice)
        self._catching_up: dict[str, str] | None = None
        """Type → the last of its notes that was looked at; None before the first round."""
        self._errors = 0
        self._refusals = 0
        self._pauses = 0
        self._resume_at: dt.datetime | None = None

    async def fetch_due(self, now: dt.datetime) -> int:
        """Fetch what is due, as much as one round takes. Returns how many were fetched: if any, more may be due."""
        if not self._rules.limits:
            return 0
        await self._catch_up(now)
        await asyncio.to_thread(self._store.note_missing, self._lease, now)
        if self._resume_at is not None and now < self._resume_at:
            return 0
        self._resume_at = None
        due = await asyncio.to_thread(self._store.due, self._lease.practice, list(self._rules.limits), now, _AT_ONCE)
        fetched = 0
        self._errors = 0
        for one in due:
            state = await self._fetch(one)
            fetched += state == "fetched"
            if state is None or self._errors >= _ENOUGH_ERRORS or self._resume_at is not None:
                break
        return fetched

    async def _catch_up(self, now: dt.datetime) -> None:
        """Take up notes that were recorded while attachments were not fetched, some at each call."""
        if self._catching_up is None:
            await asyncio.to_thread(self._store.revise, self._lease, self._rules, now)
            self._catching_up = dict.fromkeys(self._rules.limits, "")
        for resource_type, after in list(self._catching_up.items()):
            last = await asyncio.to_thread(self._store.catch_up, self._lease, self._rules, resource_type, after, now)
            if last is None:
                del self._catching_up[resource_type]
            else:
                self._catching_up[resource_type] = last

    async def _fetch(self, due: Due) -> State | None:
        """Read one and keep what it came to; None if the source takes no calls now."""
        limit = max(self._rules.limits[owner_type] for owner_type, _, _ in due.owners)
        match await self._source.attachment(due.id, limit):
            case Present(sighting):
                return await self._take(due, sighting)
            case TooLarge(at_least):
                self._answered()
                await self._settle(due, "too-large", size=at_least)
                return "too-large"
            case Gone():
                self._answered()
                return await self._put_off(due, "refused")
            case Unclear(failure):
                return await self._failed(due, failure)
            case unknown:
                assert_never(unknown)

    async def _take(self, due: Due, sighting: Sighting) -> State:
        recorded = await asyncio.to_thread(self._record, due, sighting)
        if recorded.outdated:  # read by another at the same time: whichever was first, the next read will tell
            return await self._put_off(due, "wanted")
        self._answered()
        await self._settle(due, "fetched", size=size_of(sighting.resource))
        return "fetched"

    def _record(self, due: Due, sighting: Sighting) -> Recorded:
        patient = due.partition_key.removeprefix("Patient/") if due.partition_key.startswith("Patient/") else None
        version = reduce(sighting, self._digest_key, patient=patient)
        target = Target(self._lease.practice, sighting.resource_type, Kind.WINDOW)
        context = PassContext(self._lease, target, due.origin)
        recorded = self._repository.record(context, [version], self._clock.now())
        for (feed, _), decision in recorded.changes:
            origin = origin_of_change(due.origin, decision.action)
            metrics.CHANGES.labels(self._lease.practice, feed, decision.action.value, origin.value).inc()
        if recorded.changes:
            self._on_commit()
        return recorded

    async def _failed(self, due: Due, failure: Failure) -> State | None:
        if failure.kind in _NO_ANSWER:
            return None
        if failure.kind in _SICK:
            self._errors += 1
            return await self._put_off(due, "wanted")
        self._refusals += 1
        if self._refusals >= _ENOUGH_REFUSALS:
            self._pause(failure)
        return await self._put_off(due, "refused")

    def _pause(self, failure: Failure) -> None:
        """All attachments are refused, it seems: they wait, for longer each time."""
        self._refusals = 0
        self._pauses += 1
        self._resume_at = self._clock.now() + again_after(self._pauses)
        self._log.warning(
            "attachments are refused or cannot be read, and wait; is the app registered for system/Binary.r, and is it among the scopes",
            action="attachment.refuse",
            failure=failure.kind.value,
            status=failure.status,
            detail=failure.detail,
        )

    async def _put_off(self, due: Due, state: State) -> State:
        """Try it again after a gap that grows with each try."""
        tries = due.tries + 1
        await self._settle(due, state, next_try_at=self._clock.now() + again_after(tries), tries=tries)
        return state

    async def _settle(
        self, due: Due, state: State, *, next_try_at: dt.datetime | None = None, tries: int = 0, size: int | None = None
    ) -> None:
        at = next_try_at or self._clock.now()
        await asyncio.to_thread(self._store.settle, self._lease, due, state, at, tries=tries, size=size)
        metrics.ATTACHMENTS.labels(self._lease.practice, state).inc()

    def _answered(self) -> None:
        """The server answered for this one: attachments are served here."""
        self._errors = self._refusals = self._pauses = 0
        self._resume_at = None
