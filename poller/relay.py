"""Hop 8 of a change's way: events after each sink's cursor go to its broker, and the cursor follows what was confirmed.

The log is the truth. Whatever happens (a crash, a broker that is away, a refusal) the next thing sent is the first event behind the cursor.
Each sink has a thread and a connection of its own (:mod:`poller.courier`), so that a slow one holds up no other.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from poller import metrics
from poller.courier import Courier

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from poller.outlet import Outlet, SinkLog

__all__ = ["Relay"]

log = structlog.get_logger(__name__)


class Relay:
    """Carries the log to the sinks, each on a thread of its own."""

    def __init__(
        self, event_log: SinkLog, outlets: Sequence[Outlet], sources: Mapping[str, str], *, poll: float = 1.0
    ) -> None:
        """``sources``: base URL by practice. ``poll``: seconds between two looks at the log without :meth:`notify`."""
        self._log = event_log
        self._poll = poll
        self._sources = dict(sources)
        """Shared with the couriers. Of a practice that is gone it stays: what waits is still carried, as long as this process lives."""
        self._theirs: set[str] = set()
        """Shared as well: practices that pollers of other names have."""
        self._couriers = [self._courier(outlet) for outlet in outlets]

    def _courier(self, outlet: Outlet) -> Courier:
        return Courier(self._log, outlet, self._sources, self._poll, self._theirs)

    def start(self) -> None:
        """Begin."""
        for courier in self._couriers:
            courier.start()

    def follow(self, outlets: Sequence[Outlet], sources: Mapping[str, str], timeout: float = 20.0) -> None:
        """Serve exactly these sinks from now on, once those that end have ended, for which it waits at most ``timeout`` seconds.

        One that is served already by the same settings goes on untouched. Cursors are the store's, so one that comes back goes on where it
        was, and one that changes as well.
        """
        self._sources.update(sources)
        wanted = {outlet.sink.name: outlet.sink for outlet in outlets}
        kept = {one.sink.name: one for one in self._couriers if wanted.get(one.sink.name) == one.sink}
        gone = [one for one in self._couriers if one.sink.name not in kept]
        self._end(gone, timeout)  # before others begin: they may be for the same exchange
        for courier in gone:
            if courier.sink.name not in wanted:
                metrics.forget_sink(courier.sink.name)
            log.info("the sink ends, or changes", action="relay.end", sink=courier.sink.name)
        new = [self._courier(outlet) for outlet in outlets if outlet.sink.name not in kept]
        self._couriers = [*kept.values(), *new]
        for courier in new:
            courier.start()

    def leave_out(self, practices: Collection[str]) -> None:
        """Have nothing to do with exactly these practices of other pollers, unless we have, or had, them as well. Safe from any thread."""
        self._theirs.update(practices)
        self._theirs.intersection_update(practices)

    def notify(self) -> None:
        """There is something new in the log. Safe from any thread."""
        for courier in self._couriers:
            courier.notify()

    def stop(self, timeout: float = 20.0) -> None:
        """End soon, wherever it stands, and wait for it, at most ``timeout`` seconds; nothing is lost by it."""
        self._end(self._couriers, timeout)

    @staticmethod
    def _end(couriers: Sequence[Courier], timeout: float) -> None:
        for courier in couriers:
            courier.halt()
        until = time.monotonic() + timeout
        for courier in couriers:
            courier.join(max(0.0, until - time.monotonic()))

    def troubles(self) -> dict[str, str]:
        """What keeps sinks, or one practice's events to them, from going on; nothing when all is well. Safe from any thread."""
        return {name: reason for courier in self._couriers for name, reason in courier.troubles().items()}
