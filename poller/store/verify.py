"""An outside dump beside the store: what is stored of each block of it, and how each resource stands.

How each stands is kept in a temporary table of the session, so that a dump may be of any size: neither it nor its ids are held here. What
is asked for names people: log none of it.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from poller.core import canonical
from poller.core.dump import Dumped, Held, Outcome
from poller.core.model import Rules
from poller.errors import Code, StoreError
from poller.store import columns
from poller.store.engine import key_check, reading, sql
from poller.store.vault import PLAIN, Vault

Key = tuple[str, str]

MAKE_VERIFIED = """
CREATE TEMPORARY TABLE verified (resource_type text, id text, outcome text NOT NULL, PRIMARY KEY (resource_type, id))
"""
"""Of the session; what stands in it is told by ``verify_note``."""
_PAGE = 1000
_NO_RIGHT = "42501"


class Verification:
    """One comparison under way. Not to be used from several threads: it is one session."""

    def __init__(self, connection: Connection, practice: str, vault: Vault) -> None:
        self._connection = connection
        self._vault = vault
        self._practice = practice
        self._rules: Mapping[int, Rules] = MappingProxyType(
            {row.version: Rules(row.form, tuple(row.noise)) for row in connection.execute(sql("load_rules"))}
        )
        self._numbers = {rules: number for number, rules in self._rules.items()}

    def held(self, block: Sequence[Dumped], noise: Mapping[str, tuple[str, ...]]) -> dict[Key, Held]:
        """What is stored of these, with the body where it was digested under other rules than ``noise`` (by type) comes to."""
        numbers = [
            self._numbers.get(Rules(canonical.RULES_VERSION, noise.get(one.resource_type, ())), -1) for one in block
        ]
        binds = {"practice": self._practice, "rules": numbers} | columns.keys([one.key for one in block])
        return {
            (row.resource_type, row.id): Held(
                bytes(row.digest),
                self._rules.get(row.rules_version),
                row.deleted,
                self._vault.resource(self._practice, (row.resource_type, row.id), row.codec, bytes(row.body))
                if row.body is not None
                else None,
            )
            for row in self._connection.execute(sql("verify_stored"), binds)
        }

    def note(self, outcomes: Mapping[Key, Outcome]) -> None:
        """Keep how these stand, in place of what was kept of them before."""
        binds = columns.keys(list(outcomes)) | {"outcomes": [outcome.value for outcome in outcomes.values()]}
        self._connection.execute(sql("verify_note"), binds)

    def end(self) -> dict[str, dict[Outcome, int]]:
        """Keep what the dump does not have of the types that it has, and count how all stand, by type."""
        self._connection.execute(text("ANALYZE pg_temp.verified"))
        self._connection.execute(sql("verify_extra"), {"practice": self._practice})
        counts: dict[str, dict[Outcome, int]] = {}
        for row in self._connection.execute(sql("verify_counts")):
            counts.setdefault(row.resource_type, dict.fromkeys(Outcome, 0))[Outcome(row.outcome)] = row.resources
        return counts

    def listed(self) -> Iterator[tuple[Outcome, Key]]:
        """What does not stand equal, by type and id."""
        after: Key = ("", "")
        while True:
            binds = {"after_type": after[0], "after_id": after[1], "limit": _PAGE}
            rows = self._connection.execute(sql("verify_list"), binds).all()
            for row in rows:
                after = row.resource_type, row.id
                yield Outcome(row.outcome), after
            if len(rows) < _PAGE:
                return


class VerifyStore:
    """Where outside dumps are compared with. A role that may only read will do, and may make temporary tables."""

    def __init__(self, engine: Engine, vault: Vault = PLAIN) -> None:
        self._engine = engine
        self._vault = vault

    @contextlib.contextmanager
    def begin(self, practice: str, key: bytes) -> Iterator[Verification]:
        """A comparison. Raises StoreError if ``key`` is not this database's digest key: all would differ; or for want of a right."""
        with reading(self._engine) as connection:
            known = connection.execute(text("SELECT key_check FROM poller.installation")).scalar()
            if known is not None and not hmac.compare_digest(bytes(known), key_check(key)):
                raise StoreError(
                    "store.digest_key is not the key this database was made with; put the former key back",
                    Code.STORE_KEY,
                )
            try:
                connection.execute(text(MAKE_VERIFIED))
            except ProgrammingError as error:
                if getattr(error.orig, "sqlstate", None) != _NO_RIGHT:
                    raise
                raise StoreError(
                    "the role poller_reader may not make temporary tables in this database; GRANT TEMPORARY ON DATABASE … TO poller_reader",
                    Code.STORE_GRANTS,
                ) from None
            try:
                yield Verification(connection, practice, self._vault)
            finally:
                connection.invalidate()  # its temporary table goes with the session, also where the store has failed
