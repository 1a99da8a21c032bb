"""Attachments that are wanted, and what became of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import Connection, Engine

from poller.core.attachments import ELEMENTS, Rules, wanted
from poller.core.model import Origin
from poller.store.engine import sql
from poller.store.named import TARGET, Named, note
from poller.store.repository import Lease, hold_lease
from poller.store.vault import PLAIN, Vault

State = Literal["wanted", "fetched", "too-large", "refused"]

_NOTES = 500
"""Notes that are looked at together."""


@dataclass(frozen=True, slots=True)
class Due:
    """A Binary to be fetched, and on whose behalf."""

    id: str
    owners: tuple[tuple[str, str, int], ...]
    """Type, id and version of the notes that name it."""
    partition_key: str
    tries: int
    """How often it was tried in vain."""
    origin: Origin
    """Of its first version: the baseline's only if all notes that name it are."""


class AttachmentStore:
    """The attachments of practices. Safe to use from several threads."""

    def __init__(self, engine: Engine, vault: Vault = PLAIN) -> None:
        self._engine = engine
        self._vault = vault

    def due(self, practice: str, owner_types: Sequence[str], now: dt.datetime, limit: int) -> list[Due]:
        """At most so many to be fetched now, the latest named first; what was refused before comes after what was not."""
        found: dict[str, Due] = {}
        with self._engine.connect() as connection:
            for state in ("wanted", "refused"):
                if len(found) < limit:
                    binds = {"state": state, "owner_types": list(owner_types), "now": now, "limit": limit - len(found)}
                    rows = connection.execute(sql("due_attachments"), {"practice": practice} | binds).all()
                    for due in _dues(rows):
                        found.setdefault(due.id, due)
        return list(found.values())

    def settle(
        self, lease: Lease, due: Due, state: State, next_try_at: dt.datetime, *, tries: int = 0, size: int | None = None
    ) -> None:
        """Keep what became of it, unless a note that names it has changed meanwhile. ``size``: its bytes, or more than so many less one."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                sql("settle_attachment"),
                {
                    "practice": lease.practice,
                    "id": due.id,
                    "owner_types": [owner_type for owner_type, _, _ in due.owners],
                    "owner_ids": [owner_id for _, owner_id, _ in due.owners],
                    "owner_versions": [owner_version for _, _, owner_version in due.owners],
                    "state": state,
                    "bytes": size,
                    "tries": tries,
                    "next_try_at": next_try_at,
                },
            )

    def note_missing(self, lease: Lease, now: dt.datetime) -> None:
        """Take what no note names any more for missing: whether it is deleted, a read of it must tell."""
        binds = {"practice": lease.practice, "target": TARGET, "now": now}
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(sql("forget_attachments"), binds)
            connection.execute(sql("note_missing_attachments"), binds)

    def revise(self, lease: Lease, rules: Rules, now: dt.datetime) -> None:
        """Bring what is known in line with the limits in force, and with what was deleted while no attachments were fetched."""
        for resource_type, limit in rules.limits.items():
            binds = {"practice": lease.practice, "resource_type": resource_type, "most_bytes": limit, "now": now}
            with self._engine.begin() as connection:
                hold_lease(connection, lease)
                connection.execute(sql("revise_attachments"), binds)

    def catch_up(self, lease: Lease, rules: Rules, resource_type: str, after: str, now: dt.datetime) -> str | None:
        """Look for attachments in the next notes of the type that were recorded while none were fetched.

        Returns the id of the last one looked at, from which to go on; None when there are no more.
        """
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            rows = self._unnoted(connection, lease.practice, resource_type, after)
            note(
                connection,
                lease.practice,
                [self._named(lease.practice, resource_type, row, rules) for row in rows],
                now,
            )
        return rows[-1].id if len(rows) == _NOTES else None

    def _unnoted(self, connection: Connection, practice: str, resource_type: str, after: str) -> Sequence[Any]:
        return connection.execute(
            sql("unnoted_attachments"),
            {
                "practice": practice,
                "resource_type": resource_type,
                "element": ELEMENTS[resource_type],
                "after": after,
                "limit": _NOTES,
            },
        ).all()

    def _named(self, practice: str, resource_type: str, row: Any, rules: Rules) -> Named:
        resource = self._vault.resource(practice, (resource_type, row.id), row.codec, bytes(row.body))
        return Named(resource_type, row.id, row.version, row.partition_key, wanted(resource, rules) or ())


def _dues(rows: Sequence[Any]) -> Iterator[Due]:
    for id_, of_one in groupby(rows, key=lambda row: row.id):
        named = list(of_one)
        origins = {Origin(row.origin) for row in named}
        yield Due(
            id=id_,
            owners=tuple((row.owner_type, row.owner_id, row.owner_version) for row in named),
            partition_key=named[0].partition_key,
            tries=max(row.tries for row in named),
            origin=Origin.BASELINE if origins == {Origin.BASELINE} else Origin.LIVE,
        )
