"""What passes alone cannot settle: absences become deletes only after a read of the id; misses of windows step a feed down."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

import structlog

from poller import metrics
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.config.attachments import attachment_rules
from poller.config.least import is_withheld
from poller.core.canonical import reduce
from poller.core.model import Action, Confirmation, Gone, Kind, Origin, Present, Sighting, Target, Unclear, Version
from poller.store.deletes import Absence, Breaker, DeleteStore, Settled
from poller.store.repository import WITHHELD, Key, Lease, PassContext, Recorded, Repository

log = structlog.get_logger(__name__)

_AT_ONCE = 100
"""Absences taken from the store together."""

_ENOUGH = 20
"""Misses that are looked into: one proves as much as all of them, and each costs a call before all others."""

_COUNT_EVERY = dt.timedelta(minutes=1)
"""How often held deletes are counted where nothing was settled: an operator may have decided of some. After each pass would be costly."""


class Confirmer(Protocol):
    """Reads single resources."""

    @property
    def last_server_error(self) -> dt.datetime | None:
        """When the source last showed that it is not well; None if it has not since this process began."""
        ...

    async def confirm(self, resource_type: str, id_: str) -> Confirmation:
        """Read one resource by its id."""
        ...


class Reconciler:
    """Settles the absences of one practice, one read at a time."""

    def __init__(
        self,
        config: PracticeConfig,
        lease: Lease,
        confirmer: Confirmer,
        repository: Repository,
        deletes: DeleteStore,
        clock: Clock,
        digest_key: bytes,
        on_commit: Callable[[], None],
    ) -> None:
        self._config = config
        self._lease = lease
        self._confirmer = confirmer
        self._repository = repository
        self._deletes = deletes
        self._clock = clock
        self._digest_key = digest_key
        self._rules = attachment_rules(config)
        self._on_commit = on_commit
        self._began = clock.now()
        self._breaker = Breaker(config.deletes.max_fraction, config.deletes.min_count, config.deletes.window)
        self._log = log.bind(practice=config.code)
        self._counted_at: dt.datetime | None = None
        """When it was counted how many deletes are held."""
        self.deleted = 0
        """How many deletes were recorded so far."""
        self.patients_gone = 0
        """How many of them were of patients."""
        self.on_contradiction: Callable[[Absence, str | None], None] = lambda _absence, _patient: None
        """Told of each resource that a complete pass had not shown and that is there as it was before, and whose it is."""

        self.on_settled: Callable[[Absence, Settled], None] = lambda _absence, _settled: None
        """Told what became of each that was confirmed to be gone."""

    async def settle_absences(self) -> None:
        """Read every id that a complete pass did not show; delete what is gone, take in what is there, leave the rest missing."""
        settled = False
        while True:
            due = await asyncio.to_thread(self._deletes.due, self._lease.practice, _AT_ONCE)
            for absence in due:
                await self._settle(absence)
            settled = settled or bool(due)
            if len(due) < _AT_ONCE:
                break
        now = self._clock.now()
        if settled or self._counted_at is None or now >= self._counted_at + _COUNT_EVERY:
            self._counted_at = now
            held = await asyncio.to_thread(self._deletes.listed, self._lease.practice, ["held"])
            metrics.HELD_DELETES.labels(self._lease.practice).set(len(held))

    async def _settle(self, absence: Absence) -> None:
        if self._evidence_is_void(absence):
            await self._renew(absence)
            return
        confirmation = await self._confirmer.confirm(absence.resource_type, absence.id)
        match confirmation:
            case Present(sighting) if self._is_withheld(sighting):
                await self._delete(absence, sighting.began, sighting.ended, withheld=True)
            case Present(sighting):
                version = self._version(sighting)
                recorded = await asyncio.to_thread(self._record, version)
                if absence.reason == WITHHELD:  # the label has gone again
                    await self._postpone(absence, "with no label that the feed skips when read")
                elif not await asyncio.to_thread(self._deletes.hand_over, self._lease, absence):
                    await self._postpone(absence, "in no pass, but there when read")
                    if not recorded.changes:  # what has changed may have become another patient's before the pass
                        self.on_contradiction(absence, version.detail.patient)
            case Gone(began, ended):
                if self._evidence_is_void(absence):
                    await self._renew(absence)
                else:
                    await self._delete(absence, began, ended)
            case Unclear(failure):
                # Not merely renewed: a resource whose every read fails would make all other evidence void in every round.
                await self._postpone(absence, f"not readable: {failure.kind.value}")
            case _:
                assert_never(confirmation)

    def _evidence_is_void(self, absence: Absence) -> bool:
        """Whether the source has erred since the pass without the id began; what it did before this process began is not known."""
        error = self._confirmer.last_server_error
        return absence.pass_began < self._began or (error is not None and error >= absence.pass_began)

    async def _postpone(self, absence: Absence, reason: str) -> None:
        await asyncio.to_thread(self._deletes.postpone, self._lease, absence, reason)

    async def _renew(self, absence: Absence) -> None:
        await asyncio.to_thread(
            self._deletes.renew, self._lease, absence, "the source erred since; another complete pass is needed"
        )

    def _version(self, sighting: Sighting) -> Version:
        config = self._config
        return reduce(sighting, self._digest_key, self._rules, config.noise, drop=config.drop)

    def _is_withheld(self, sighting: Sighting) -> bool:
        return is_withheld(self._config, sighting.resource_type, sighting.resource)

    async def _delete(
        self, absence: Absence, began: dt.datetime, ended: dt.datetime, *, withheld: bool = False
    ) -> None:
        settled = await asyncio.to_thread(
            functools.partial(self._deletes.settle, withheld=withheld),
            self._lease,
            absence,
            began,
            ended,
            self._breaker,
            self._clock.now(),
        )
        self.on_settled(absence, settled)
        feed = absence.resource_type
        if settled is Settled.DELETED:
            self.deleted += 1
            self.patients_gone += feed == "Patient" and not withheld
            metrics.CHANGES.labels(self._lease.practice, feed, Action.DELETED.value, Origin.LIVE.value).inc()
            self._on_commit()
        elif settled is Settled.HELD:
            self._log.warning(
                "more deletes at once than deletes.max_fraction allows: held; see `poller deletes list`",
                action="delete.hold",
                feed=feed,
            )

    def _record(self, version: Version) -> Recorded:
        target = Target(self._lease.practice, version.resource_type, Kind.WINDOW)
        context = PassContext(self._lease, target, Origin.LIVE, keep_absences=True, patients_live=True)
        recorded = self._repository.record(context, [version], self._clock.now())
        if recorded.changes:
            self._on_commit()
        return recorded

    async def look_at(self, resource_type: str, id_: str) -> Confirmation:
        """Read a resource by its id; if it is there, and of a feed that does not skip it, what has changed of it is recorded."""
        confirmation = await self._confirmer.confirm(resource_type, id_)
        if (
            isinstance(confirmation, Present)
            and resource_type in self._config.feeds
            and not self._is_withheld(confirmation.sighting)
        ):
            await asyncio.to_thread(self._record, self._version(confirmation.sighting))
        return confirmation

    async def read_again(self, version: Version) -> bytes | None:
        """Read by its id what a pass showed, and record what is there; returns its digest, None if that could not be read."""
        match await self._confirmer.confirm(*version.key):
            case Present(sighting) if not self._is_withheld(sighting):
                found = self._version(sighting)
                await asyncio.to_thread(self._record, found)
                return found.digest
            case _:
                return None

    async def truly_missed(self, found: Sequence[Key]) -> int:
        """How many of these (the first 20) that a window should have shown are there; one that is gone proves nothing against windows."""
        missed = 0
        for resource_type, id_ in found[:_ENOUGH]:
            match await self._confirmer.confirm(resource_type, id_):
                case Present(sighting) if not self._is_withheld(sighting):
                    missed += 1
                case _:
                    continue
        return missed
