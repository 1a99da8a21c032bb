"""Versions of resources as they are read by the API and by ``poller as-of``: bodies as text, as they were received."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from sqlalchemy import Connection, Engine

from poller.core import jsontext
from poller.core.model import Action, Event
from poller.store.engine import sql, sql_in_binary
from poller.store.events import event_of
from poller.store.vault import PLAIN, Vault

_PAGE = 500
_PAGE_BYTES = 8 * 1024 * 1024
"""Of stored bodies in a page: one of attachments would else fill the memory."""


class Missing(Enum):
    """Why a version cannot be given."""

    UNKNOWN = "unknown"
    """There never was such a resource or version, or it was not there yet."""
    PAST = "past"
    """It was, and retention has taken it."""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version of a resource."""

    resource_type: str
    id: str
    version: int
    is_deleted: bool
    recorded_at: dt.datetime
    """When it was found."""
    action: Action | None
    """None where retention has taken what the version was made by."""
    text: bytes | None = field(repr=False)
    """The resource as JSON; None for deleted."""

    def as_event(self, event: Event) -> Event:
        """The event that made the version, with the resource in it."""
        return replace(event, body=jsontext.loads(self.text) if self.text is not None else None)


class ReadingStore:
    """Reads versions. Safe to use from several threads."""

    def __init__(self, engine: Engine, vault: Vault = PLAIN) -> None:
        self._engine = engine
        self._vault = vault

    def version(
        self,
        connection: Connection,
        practice: str,
        resource_type: str,
        id_: str,
        *,
        version: int | None = None,
        at: dt.datetime | None = None,
    ) -> StoredVersion | Missing:
        """The latest version of a resource, the one with a number, or the one that stood at a time."""
        binds = {"practice": practice, "resource_type": resource_type, "id": id_, "version": version, "at": at}
        row = connection.execute(sql("read_version"), binds).first()
        if row is None or (at is not None and row.first_seen_at > at):
            return Missing.UNKNOWN
        if version is not None and version > row.latest:
            return Missing.UNKNOWN
        stands = version in {None, row.latest} and (at is None or row.changed_at <= at)
        return self._version(practice, (resource_type, id_), row, stands=stands)

    def versions(
        self, connection: Connection, practice: str, resource_type: str, id_: str, *, before: int | None, limit: int
    ) -> tuple[list[StoredVersion], bool]:
        """The versions that are kept, the latest first, and whether there are older ones than these."""
        binds = {"practice": practice, "resource_type": resource_type, "id": id_, "limit": limit}
        binds |= {"before": before if before is not None else 2**62, "bytes": _PAGE_BYTES}
        rows = connection.execute(sql("read_versions"), binds).all()
        return [self._kept(practice, (resource_type, id_), row) for row in rows], bool(rows) and rows[
            0
        ].remaining > len(rows)

    def as_of(
        self, practice: str, at: dt.datetime, *, resource_type: str | None = None, patient: str | None = None
    ) -> Iterator[list[StoredVersion | Missing]]:
        """The state of a practice at a time, in pages, by type and id: what was deleted then is left out.

        Missing.PAST stands for a resource whose version of that time retention has taken.
        """
        binds: dict[str, Any] = {
            "practice": practice,
            "at": at,
            "resource_type": resource_type,
            "partition_key": f"Patient/{patient}" if patient is not None else None,
            "after_type": "",
            "after_id": "",
            "limit": _PAGE,
            "bytes": _PAGE_BYTES,
        }
        while True:
            with self._engine.connect() as connection:
                rows = connection.execute(sql("as_of"), binds).all()
            if not rows:
                return
            found = [
                self._version(practice, (row.resource_type, row.id), row, stands=row.changed_at <= at) for row in rows
            ]
            yield [
                one for one in found if one is Missing.PAST or (isinstance(one, StoredVersion) and not one.is_deleted)
            ]
            binds |= {"after_type": rows[-1].resource_type, "after_id": rows[-1].id}

    def events_of(self, practice: str, versions: Sequence[StoredVersion]) -> dict[tuple[str, str], Event]:
        """The event that made each version, without bodies; those that retention has taken are not there."""
        binds = {
            "practice": practice,
            "types": [one.resource_type for one in versions],
            "ids": [one.id for one in versions],
            "versions": [one.version for one in versions],
        }
        with self._engine.connect() as connection:
            rows = connection.execute(sql_in_binary("events_of_versions"), binds)
            return {(row.resource_type, row.id): event_of(row, self._vault) for row in rows}

    def _version(self, practice: str, key: tuple[str, str], row: Any, *, stands: bool) -> StoredVersion | Missing:
        """From history if it is kept there, else from the snapshot if it ``stands``."""
        if row.version is not None:
            return self._kept(practice, key, row)
        if not stands:
            return Missing.PAST
        text = None if row.deleted else self._vault.text(practice, key, row.latest_codec, bytes(row.latest_body))
        return StoredVersion(*key, row.latest, row.deleted, row.changed_at, None, text)

    def _kept(self, practice: str, key: tuple[str, str], row: Any) -> StoredVersion:
        action = Action(row.action)
        text = self._vault.text(practice, key, row.codec, bytes(row.body)) if row.body is not None else None
        return StoredVersion(*key, row.version, action is Action.DELETED, row.recorded_at, action, text)
