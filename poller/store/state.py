"""What is known of practices, feeds and targets, and who may write for them."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from poller.core import jsontext
from poller.core.model import Kind, Strategy, Target
from poller.core.plan import TargetState
from poller.errors import LeaseTaken
from poller.store.engine import sql
from poller.store.repository import Lease, hold_lease


@dataclass(frozen=True, slots=True)
class FeedState:
    """What the probe decided for a feed."""

    resource_type: str
    strategy: Strategy | None
    reason: str
    probed_at: dt.datetime | None
    stepped_down_at: dt.datetime | None
    found_by_sweep: int


class LeaseKeeper:
    """Holds a practice for as long as this process lives.

    A session-level advisory lock is the lease: Postgres frees it the moment the process or its connection dies, so that a restart takes
    over at once. The epoch in the lease's row fences whoever held it before, should that one wake up again. It needs a session of its
    own: a pooler in transaction mode between us and Postgres would break it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._guard = threading.Lock()

    def take(self, practice: str) -> Lease:
        """Take the practice. Raises LeaseTaken while another process holds it."""
        with self._guard:
            connection = self._standing()
            if connection is None:
                connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                connection.detach()  # its session is the lease; the pool must not recycle it
                self._connection = connection
            return self._take(connection, practice)

    @staticmethod
    def _take(connection: Connection, practice: str) -> Lease:
        lock = text("SELECT pg_try_advisory_lock(hashtextextended('poller.lease:' || :practice, 0))")
        if not connection.execute(lock, {"practice": practice}).scalar_one():
            raise LeaseTaken(
                f"practice {practice} is held by another poller; stop that one, or leave the practice to it"
            )
        epoch = connection.execute(sql("take_lease"), {"practice": practice}).scalar_one()
        return Lease(practice, epoch)

    def alive(self) -> bool:
        """Whether the session that holds the leases still exists."""
        with self._guard:
            return self._standing() is not None

    def _standing(self) -> Connection | None:
        """The session, if it still answers. One that broke is let go: SQLAlchemy would open another in its place, without the locks."""
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
            except DBAPIError:
                self._connection.close()
                self._connection = None
        return self._connection

    def close(self) -> None:
        """Give everything back."""
        with self._guard:
            if self._connection is not None:
                with contextlib.suppress(DBAPIError):  # a session that is gone has given everything back already
                    self._connection.execute(text("SELECT pg_advisory_unlock_all()"))
                self._connection.close()
                self._connection = None


class StateStore:
    """Feeds, targets and patients. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register_practice(self, lease: Lease) -> None:
        """Make the practice's log, once."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text("INSERT INTO poller.practice_log (practice) VALUES (:practice) ON CONFLICT DO NOTHING"),
                {"practice": lease.practice},
            )

    def register_feed(self, lease: Lease, resource_type: str, now: dt.datetime) -> FeedState:
        """Make the feed known, once, and return what was decided for it before."""
        binds = {"practice": lease.practice, "resource_type": resource_type, "now": now}
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text(
                    "INSERT INTO poller.feed (practice, resource_type, registered_at) VALUES (:practice, :resource_type, :now)"
                    " ON CONFLICT DO NOTHING"
                ),
                binds,
            )
            row = connection.execute(
                text(
                    "SELECT resource_type, strategy, reason, probed_at, stepped_down_at, found_by_sweep FROM poller.feed"
                    " WHERE practice = :practice AND resource_type = :resource_type"
                ),
                binds,
            ).one()
        strategy = Strategy(row.strategy) if row.strategy else None
        return FeedState(
            row.resource_type, strategy, row.reason or "", row.probed_at, row.stepped_down_at, row.found_by_sweep
        )

    def save_verdict(
        self,
        lease: Lease,
        resource_type: str,
        strategy: Strategy,
        reason: str,
        evidence: dict[str, Any],
        now: dt.datetime,
    ) -> None:
        """Keep what a probe decided, and why."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text(
                    "UPDATE poller.feed SET strategy = :strategy, reason = :reason, evidence = CAST(:evidence AS jsonb), probed_at = :now,"
                    " stepped_down_at = NULL WHERE practice = :practice AND resource_type = :resource_type"
                ),
                {
                    "practice": lease.practice,
                    "resource_type": resource_type,
                    "strategy": strategy.value,
                    "reason": reason,
                    "evidence": jsontext.dumps(evidence).decode(),
                    "now": now,
                },
            )

    def step_down(self, lease: Lease, resource_type: str, missed: int, now: dt.datetime) -> None:
        """Windows have missed changes that the sweep found: the feed is read by sweeps from now on."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text(
                    "UPDATE poller.feed SET strategy = 'sweep', reason = 'windows missed changes that a sweep found',"
                    " stepped_down_at = :now, found_by_sweep = found_by_sweep + :missed"
                    " WHERE practice = :practice AND resource_type = :resource_type"
                ),
                {"practice": lease.practice, "resource_type": resource_type, "missed": missed, "now": now},
            )

    def register_targets(self, lease: Lease, resource_type: str, targets: Sequence[Target], now: dt.datetime) -> None:
        """Make exactly these the feed's targets: new ones are added, others retired, known ones keep their state."""
        binds = {
            "practice": lease.practice,
            "resource_type": resource_type,
            "now": now,
            "targets": [target.key for target in targets],
            "kinds": [target.kind.value for target in targets],
            "categories": [target.category for target in targets],
            "patients": [target.patient for target in targets],
        }
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(sql("register_targets"), binds)
            connection.execute(sql("retire_targets"), binds)
            connection.execute(sql("seed_members"), binds)

    def retire_feeds(self, lease: Lease, kept: Sequence[str], now: dt.datetime) -> None:
        """Retire the targets of feeds that the configuration no longer names."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text(
                    "UPDATE poller.target SET retired_at = :now WHERE practice = :practice AND retired_at IS NULL"
                    " AND NOT (resource_type = ANY (CAST(:kept AS text[])))"
                ),
                {"practice": lease.practice, "kept": list(kept), "now": now},
            )

    def targets(self, practice: str, names: Sequence[str], key: str | None = None) -> list[TargetState]:
        """The targets in force, or the one with this key; ``names`` are the prefixes of enumerating ones."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql("load_targets"), {"practice": practice, "target": key}).all()
        return [
            TargetState(
                target=Target(
                    practice,
                    row.resource_type,
                    Kind(row.kind),
                    row.category,
                    row.patient,
                    tuple(names) if row.kind == Kind.NAMES else (),
                ),
                registered_at=row.registered_at,
                live=row.live,
                baseline_at=row.baseline_at,
                cursor_at=row.cursor_at,
                last_began=row.last_began,
                complete_began=row.complete_began,
                failures=row.failures,
                unproven_streak=row.unproven_streak,
                reread=row.reread,
                sweep_found=tuple(row.sweep_found),
            )
            for row in rows
        ]

    def patients(self, practice: str) -> list[str]:
        """Ids of the patients whose resources are to be read, first seen first."""
        with self._engine.connect() as connection:
            return list(connection.execute(sql("load_patients"), {"practice": practice}).scalars())
