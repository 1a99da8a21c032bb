"""The configurations that were accepted, and by whom each is run. Revisions are numbered over the whole store, and in force by name."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from poller.config import document
from poller.core.audit import WHOLE, Action, Entry
from poller.errors import KeyMissing, NotFound
from poller.store.audit import append
from poller.store.engine import sql


@dataclass(frozen=True, slots=True)
class Revision:
    """A configuration that was accepted."""

    revision: int
    name: str
    """Of the poller."""
    accepted_at: dt.datetime
    actor: str
    reason: str
    written: str
    """Without comments."""


@dataclass(frozen=True, slots=True)
class Living:
    """What a running engine runs by."""

    engine: str
    """``host:pid``."""
    written: str
    """Its configuration, without comments; empty if it has not said which."""
    began: dt.datetime | None = field(default=None, compare=False)
    """When it did, by the database's clock."""


class ConfigurationStore:
    """Accepted configurations. Safe to use from several threads. Needs an engine of role ``poller_engine``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextlib.contextmanager
    def one_at_a_time(self, name: str) -> Iterator[None]:
        """Whatever is done within is done by one poller of this name at a time."""
        lock = {"name": name}
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("SELECT pg_advisory_lock(hashtext('poller.start'), hashtext(:name))"), lock)
            try:
                yield
            finally:
                with contextlib.suppress(DBAPIError):  # a session that is gone holds no lock
                    connection.execute(
                        text("SELECT pg_advisory_unlock(hashtext('poller.start'), hashtext(:name))"), lock
                    )

    def accept(self, name: str, written: str, *, actor: str, reason: str) -> int:
        """Keep a configuration as the one in force for pollers of this name.

        Returns its revision, the former one if nothing but comments differs. What is new goes into the audit, by the same transaction.
        """
        binds = {
            "name": name,
            "digest": hashlib.sha256(written.encode()).digest(),
            "written": written,
            "actor": actor,
            "reason": reason,
        }
        with self._engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('poller.configuration'))"))
            revision = connection.execute(sql("accept_configuration"), binds).scalar()
            if revision is None:
                of_name = text("SELECT max(revision) FROM poller.configuration WHERE name = :name")
                revision = connection.execute(of_name, {"name": name}).scalar_one()
            else:
                scope = {"name": name, "revision": int(revision)}
                append(connection, Entry(WHOLE, actor, Action.CONFIG_ACCEPT, scope, reason))
        return int(revision)

    def revision(self, number: int) -> Revision:
        """An accepted configuration by its number, of whatever poller. Raises NotFound."""
        if found := self._find(1, number=number):
            return found[0]
        raise NotFound(f"no revision {number} of the configuration is kept; see `poller config history`")

    def in_force(self, name: str) -> Revision:
        """The configuration that a poller of this name accepted last. Raises NotFound if none did, naming those that have."""
        if found := self._find(1, name=name):
            return found[0]
        with self._engine.connect() as connection:
            rows = connection.execute(text("SELECT DISTINCT name FROM poller.configuration ORDER BY name"))
            others = ", ".join(rows.scalars())
        if others:
            raise NotFound(f"no configuration was accepted here by a poller named {name}, only by {others}")
        raise NotFound("no configuration was accepted here yet; `poller run` keeps the first")

    def revisions(self, limit: int) -> list[Revision]:
        """The latest accepted configurations, of all pollers on this store, the latest first."""
        return self._find(limit)

    def living(self, name: str | None) -> list[Living]:
        """By what configurations engines of this name run now. None: all engines, also those that have not said it."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql("living_configurations"), {"name": name}).all()
        return [Living(f"{row.host}:{row.pid}", row.written or "", row.started_at) for row in rows]

    def require_master(self, name: str) -> None:
        """Raises KeyMissing unless every living engine, of whatever name, runs by a configuration that has a master key of this name.

        What it wraps, an engine without it can neither read nor write.
        """
        without = [
            one.engine for one in self.living(None) if name not in document.names_in(one.written, "encryption", "keys")
        ]
        if without:
            raise KeyMissing(
                f"the master key {name} is not in the configuration that engine {', '.join(without)} runs by; put it in encryption.keys"
                " of each poller on this store, `poller reload`, then ask again"
            )

    def latest(self) -> dict[str, str]:
        """By name, what pollers of each accepted last, running or not."""
        statement = text(
            "SELECT DISTINCT ON (name) name, written FROM poller.configuration ORDER BY name, revision DESC"
        )
        with self._engine.connect() as connection:
            return {row.name: row.written for row in connection.execute(statement)}

    def practices_of_others(self, name: str) -> set[str]:
        """The practices of configurations in force that pollers of other names have accepted."""
        return {code for other, written in self.latest().items() if other != name for code in _practices(written)}

    def _find(self, limit: int, *, number: int | None = None, name: str | None = None) -> list[Revision]:
        binds = {"revision": number, "name": name, "limit": limit}
        with self._engine.connect() as connection:
            return [Revision(*row) for row in connection.execute(sql("configurations"), binds)]


@functools.lru_cache(maxsize=32)  # asked each minute of what hardly ever changes, and slow to parse where it is long
def _practices(written: str) -> frozenset[str]:
    return frozenset(document.keys_of(written, "practices"))
