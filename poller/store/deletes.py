"""Deletes: correct before clever. Evidence, the breaker for many at once, and the operator's word on what it holds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, text

from poller.core.attachments import ELEMENTS
from poller.core.decide import decide_delete, deletes_allowed, is_outdated
from poller.core.envelope import event_id
from poller.core.model import Origin, Stored
from poller.store import columns
from poller.store.engine import reading, sql
from poller.store.named import Named
from poller.store.named import note as note_attachments
from poller.store.repository import WITHHELD, Lease, append_events, hold_lease, stored_of


@dataclass(frozen=True, slots=True)
class Absence:
    """A resource that a complete pass did not show."""

    resource_type: str
    id: str
    state: str
    reason: str
    first_missing_at: dt.datetime
    pass_began: dt.datetime
    """When the latest complete pass without it began: the evidence that a confirming read must follow."""
    passes: int
    checks: int
    target: str
    """Key of the target whose pass that was; it names a patient."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """How many deletes of one feed are let through: a fraction of it, at least ``min_count``, within ``window``."""

    max_fraction: float
    min_count: int
    window: dt.timedelta


class Settled(StrEnum):
    """What became of a confirmed absence."""

    DELETED = "deleted"
    HELD = "held"
    MOOT = "moot"
    """Already deleted, seen again, or the snapshot is newer than the confirming read."""


class DeleteStore:
    """The absences of practices. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def due(self, practice: str, limit: int = 100) -> list[Absence]:
        """Absences whose resource is to be read now, those that were asked for least first, then the longest missing."""
        with reading(self._engine) as connection:
            rows = connection.execute(sql("due_absences"), {"practice": practice, "limit": limit}).all()
        return [_absence(row) for row in rows]

    def listed(self, practice: str, states: Sequence[str]) -> list[Absence]:
        """Absences in these states, longest missing first."""
        statement = text(
            "SELECT resource_type, id, state, reason, first_missing_at, pass_began, passes, checks, target FROM poller.absence"
            " WHERE practice = :practice AND state = ANY (CAST(:states AS text[])) ORDER BY first_missing_at, resource_type, id"
        )
        with reading(self._engine) as connection:
            return [
                _absence(row) for row in connection.execute(statement, {"practice": practice, "states": list(states)})
            ]

    def postpone(self, lease: Lease, absence: Absence, reason: str) -> None:
        """The evidence did not suffice: ask again after more complete passes without it, twice as many each time, at most 64."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text(
                    "UPDATE poller.absence SET checks = checks + 1, wait_passes = :wait, reason = :reason"
                    " WHERE practice = :practice AND resource_type = :resource_type AND id = :id"
                ),
                _key(lease, absence) | {"wait": 1 << min(absence.checks, 6), "reason": reason},
            )

    def hand_over(self, lease: Lease, absence: Absence) -> bool:
        """The resource is there: forget the absence if another target shows it now, to which it has moved. Whether that is so."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            return connection.execute(sql("hand_over"), _key(lease, absence)).first() is not None

    def renew(self, lease: Lease, absence: Absence, reason: str) -> None:
        """A server error made the evidence void: the next complete pass must show the absence again."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text(
                    "UPDATE poller.absence SET wait_passes = greatest(wait_passes, 1), reason = :reason"
                    " WHERE practice = :practice AND resource_type = :resource_type AND id = :id"
                ),
                _key(lease, absence) | {"reason": reason},
            )

    def settle(
        self,
        lease: Lease,
        absence: Absence,
        read_began: dt.datetime,
        read_ended: dt.datetime,
        breaker: Breaker,
        now: dt.datetime,
        *,
        withheld: bool = False,
    ) -> Settled:
        """Record the delete of a resource that a complete pass did not show and a read at ``read_began`` proved gone.

        ``withheld``: it is there, and the read showed it with a label that its feed skips; a patient goes on being read then. Past the
        breaker it is held for the operator instead. Raises LeaseLost.
        """
        key = _key(lease, absence)
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            rows = connection.execute(
                sql("lock_snapshots"), columns.keys([(absence.resource_type, absence.id)]) | key
            ).all()
            state = connection.execute(
                text(
                    "SELECT state FROM poller.absence WHERE practice = :practice AND resource_type = :resource_type AND id = :id"
                    " AND first_missing_at = :first_missing_at FOR UPDATE"  # seen meanwhile and missing again is another absence
                ),
                key | {"first_missing_at": absence.first_missing_at},
            ).scalar()
            stored = stored_of(rows[0]) if rows else None
            if stored is None or stored.deleted:
                # A pass that ended while the delete was committed has noted it as missing once more.
                connection.execute(sql("forget_absence"), key)
                return Settled.MOOT
            if state not in {"missing", "released"} or is_outdated(stored, read_began):
                return Settled.MOOT
            if state == "missing" and self._allowed(connection, key, breaker, now) < 1:
                connection.execute(
                    text(
                        "UPDATE poller.absence SET state = 'held', reason = 'more deletes at once than deletes.max_fraction allows'"
                        " WHERE practice = :practice AND resource_type = :resource_type AND id = :id"
                    ),
                    key,
                )
                return Settled.HELD
            self._delete(connection, key, stored, absence, read_began, read_ended, now, withheld=withheld)
        return Settled.DELETED

    def _allowed(self, connection: Connection, key: dict[str, Any], breaker: Breaker, now: dt.datetime) -> int:
        # Two that count at once would each see room for one more: the feed's row lets them count one after the other.
        connection.execute(
            text(
                "SELECT FROM poller.feed WHERE practice = :practice AND resource_type = :resource_type FOR NO KEY UPDATE"
            ),
            key,
        )
        count = connection.execute(sql("count_deletes"), key | {"since": now - breaker.window}).one()
        return deletes_allowed(count.live, count.lately, breaker.max_fraction, breaker.min_count)

    def _delete(
        self,
        connection: Connection,
        key: dict[str, Any],
        stored: Stored,
        absence: Absence,
        read_began: dt.datetime,
        read_ended: dt.datetime,
        now: dt.datetime,
        *,
        withheld: bool,
    ) -> None:
        floor = connection.execute(
            text("SELECT version_floor FROM poller.practice_log WHERE practice = :practice"), key
        ).scalar_one()
        decision = decide_delete(stored, floor)
        reads = {"read_began": read_began, "read_ended": read_ended, "now": now, "version": decision.version}
        gone = connection.execute(sql("delete_snapshot"), key | reads).one()
        row = columns.keys([(absence.resource_type, absence.id)]) | {
            "versions": [decision.version],
            "actions": [decision.action.value],
            "digests": [bytes(gone.digest)],
        }
        connection.execute(
            sql("insert_history"),
            key
            | row
            | {"rules": [gone.rules_version], "now": now, "codecs": [None], "bodies": [None]}
            | {"read_began": [read_began], "read_ended": [read_ended]},
        )
        connection.execute(sql("forget_absence"), key)
        if absence.resource_type in ELEMENTS:
            named = Named(absence.resource_type, absence.id, decision.version, gone.partition_key)
            note_attachments(connection, key["practice"], [named], now)
        if absence.resource_type == "Encounter":
            connection.execute(sql("drop_visits"), key | {"ids": [absence.id]})
        if absence.resource_type == "Patient" and not withheld:
            connection.execute(
                text("UPDATE poller.patient SET gone_at = :now WHERE practice = :practice AND id = :id"),
                key | {"now": now},
            )
        append_events(
            connection,
            key["practice"],
            now,
            stored.read_ended,
            f"{WITHHELD}, also when read by its id"
            if withheld
            else f"not in a complete pass begun {absence.pass_began:%Y-%m-%dT%H:%M:%SZ}, then gone when read",
            row
            | {
                "event_ids": [
                    event_id(
                        key["practice"],
                        absence.resource_type,
                        absence.id,
                        decision.version,
                        decision.action,
                        bytes(gone.digest),
                    )
                ],
                "origins": [Origin.LIVE.value],
                "changed": [columns.names(())],
                "categories": [columns.names(gone.categories)],
                "statuses": [gone.status],
                "partition_keys": [gone.partition_key],
                "last_modified": [None],
                "replaced_by": [None],
            },
        )

    def rule(self, practice: str, verdict: str, resource_type: str | None, id_: str | None) -> int:
        """The operator's word on held deletes: ``released`` or ``discarded``. Returns on how many."""
        with self._engine.begin() as connection:
            return connection.execute(
                text(
                    "UPDATE poller.absence SET state = :verdict, wait_passes = 0 WHERE practice = :practice AND state = 'held'"
                    " AND (CAST(:resource_type AS text) IS NULL OR resource_type = :resource_type)"
                    " AND (CAST(:id AS text) IS NULL OR id = :id)"
                ),
                {"practice": practice, "verdict": verdict, "resource_type": resource_type, "id": id_},
            ).rowcount


def _key(lease: Lease, absence: Absence) -> dict[str, Any]:
    return {"practice": lease.practice, "resource_type": absence.resource_type, "id": absence.id}


def _absence(row: Any) -> Absence:
    return Absence(
        row.resource_type,
        row.id,
        row.state,
        row.reason,
        row.first_missing_at,
        row.pass_began,
        row.passes,
        row.checks,
        row.target,
    )
