"""The audit: appended to before anything is shown or done, read by a person, and removed by nothing but its own retention."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from poller.core.audit import Action, Entry
from poller.errors import Code, StoreError
from poller.store.engine import sql, sqlstate


@dataclass(frozen=True, slots=True)
class Noted:
    """An entry as it was kept."""

    practice: str
    at: dt.datetime
    """By the database's clock."""
    login: str
    """Of Postgres, by which it was written; empty for what was noted before the login was."""
    actor: str
    action: str
    scope: Mapping[str, Any] = field(repr=False)
    reason: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Query:
    """Which entries; None leaves open."""

    practice: str | None = None
    """What concerns the whole installation is told with it."""
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    """Before this time."""
    action: Action | None = None
    actor: str | None = None


def append(connection: Connection, entry: Entry) -> None:
    """Append an entry in the caller's transaction. Raises DBAPIError."""
    binds = {"practice": entry.practice, "actor": entry.actor, "action": entry.action.value, "reason": entry.reason}
    connection.execute(sql("append_audit"), binds | {"scope": json.dumps(dict(entry.scope))})


class AuditStore:
    """Appends and reads, as ``poller_reader``: by the role that reads, so that who may read can also be held to account."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def note(self, entry: Entry) -> None:
        """Append an entry, committed on return. Raises StoreError; then nothing may be shown or done."""
        try:
            with self._engine.begin() as connection:
                append(connection, entry)
        except DBAPIError as error:
            raise StoreError(
                f"the audit cannot be written ({sqlstate(error)}), so nothing was shown or done;"
                " `poller_reader` must be able to append to poller.audit",
                Code.AUDIT_CLOSED,
            ) from None

    def entries(self, query: Query, limit: int) -> list[Noted]:
        """The latest entries, the last first."""
        action = query.action.value if query.action is not None else None
        binds: dict[str, object] = {"practice": query.practice, "since": query.since, "until": query.until}
        binds |= {"action": action, "actor": query.actor, "limit": limit}
        with self._engine.connect() as connection:
            return [Noted(*row) for row in connection.execute(sql("list_audit"), binds)]


class AuditRetention:
    """Removes what is past retention, as ``poller_engine``. Safe to call from many processes at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def expire(self, keep: dt.timedelta) -> int:
        """Remove all entries older than ``keep`` by the database's clock; returns how many. Raises DBAPIError."""
        total = 0
        while True:
            with self._engine.begin() as connection:
                removed = int(connection.execute(sql("expire_audit"), {"keep": keep}).scalar_one())
            if not removed:
                return total
            total += removed
