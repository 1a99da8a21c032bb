"""The practices' data keys as an operator sees them: listed, rotated, wrapped anew. Their bytes never leave this module."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from poller.errors import KeyMissing, StoreError, Unanswered
from poller.store.engine import reading, sql
from poller.store.vault import LAST, Masters, new_key

if TYPE_CHECKING:
    from sqlalchemy import Engine

_ROUNDS: Final = 10
"""Listings, at most, until no key is found that was made meanwhile."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A practice's key, without the key."""

    practice: str
    number: int
    master: str
    """The master key that wraps it."""
    made_at: dt.datetime
    is_current: bool
    """Whether it seals what is written now."""


class KeyStore:
    """The keys of all practices. ``engine`` acts as the engine."""

    def __init__(self, engine: Engine, masters: Masters) -> None:
        self._engine = engine
        self._masters = masters

    def _rows(self, practices: Sequence[str] | None) -> Sequence[Any]:
        with reading(self._engine) as connection:
            return connection.execute(
                sql("practice_keys"), {"practices": list(practices) if practices is not None else None}
            ).all()

    def refusals(self, masters: Masters, practices: Sequence[str]) -> list[str]:
        """Why these practices cannot do with these master keys, a line each."""
        refused = []
        for row in self._rows(practices):
            try:
                masters.prove(row.practice, row.key_id, bytes(row.wrapped), row.master)
            except KeyMissing as missing:
                refused.append(str(missing))
        return refused

    def listed(self, practice: str | None = None) -> list[DataKey]:
        """The keys of one practice, or of all."""
        rows = self._rows([practice] if practice is not None else None)
        newest = {row.practice: row.key_id for row in rows}
        return [
            DataKey(row.practice, row.key_id, row.master, row.created_at, row.key_id == newest[row.practice])
            for row in rows
        ]

    def rotate(self, practice: str) -> int:
        """Make a new key for what the practice writes from now on; its number. Raises ConfigError without a master key, and StoreError.

        Who writes takes it up with the next transaction, who reads looks a number up that it does not know.
        """
        self._masters.require()
        with self._engine.begin() as connection:
            row = connection.execute(sql("newest_key"), {"practice": practice}).first()
            number = row.key_id + 1 if row is not None else 1
            if number > LAST:
                raise StoreError(f"practice {practice} has had {LAST} keys, and there are no more numbers")
            new_key(connection, self._masters, practice, number)
        return number

    def rewrap(self, practices: Sequence[str]) -> int:
        """Wrap every key of these practices by the current master key; how many were wrapped by another.

        The keys stay the same, and so does all that they have sealed. What wraps a key is told by opening it, not by the name that the
        table has for it. Raises ConfigError as above, KeyMissing for keys that none opens, when all others are done, and Unanswered if
        others make keys all the while.
        """
        self._masters.require()
        count = 0
        for _ in range(_ROUNDS):
            done, missing = self._wrap_anew(rows := self._by_others(practices))
            count += done
            if missing:
                raise KeyMissing("\n".join(missing))
            if not rows:
                return count
        left = ", ".join(f"{row.practice} {row.key_id}" for row in self._by_others(practices))
        raise Unanswered(
            f"{count} keys wrapped anew, and others are still made under another master key ({left}); ask again"
        )

    def others(self, practices: Sequence[str]) -> dict[str, list[str]]:
        """The practices besides these that have keys which the current master key does not open, with the names of those that wrap them."""
        found: dict[str, list[str]] = {}
        for row in self._rows(None):
            if row.practice in practices or self._masters.wraps(row.practice, row.key_id, bytes(row.wrapped)):
                continue
            if row.master not in found.setdefault(row.practice, []):
                found[row.practice].append(row.master)
        return found

    def _by_others(self, practices: Sequence[str]) -> list[Any]:
        """The keys that the current master key does not open, by whatever name."""
        rows = self._rows(practices)
        foreign = [row for row in rows if not self._masters.wraps(row.practice, row.key_id, bytes(row.wrapped))]
        current = self._masters.current
        if used := next((row for row in foreign if row.master == current), None):
            raise KeyMissing(
                f"practice {used.practice}: its key {used.key_id} was wrapped by another master key of the name {current};"
                " give the new one a name that was never used, and put the former one behind it"
            )
        return foreign

    def _wrap_anew(self, rows: Sequence[Any]) -> tuple[int, list[str]]:
        count, missing = 0, []
        for row in rows:
            former = bytes(row.wrapped)
            try:
                key = self._masters.unwrap(row.practice, row.key_id, former, row.master)
            except KeyMissing as error:
                missing.append(str(error))
                continue
            binds = {"practice": row.practice, "key_id": row.key_id, "former": former}
            with self._engine.begin() as connection:
                wrapped = self._masters.wrap(row.practice, row.key_id, key)
                count += connection.execute(sql("rewrap_key"), binds | wrapped).rowcount
        return count, missing
