"""The practices' data keys as an operator sees them: listed, rotated, wrapped anew. Their bytes never leave this module."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poller.errors import KeyMissing, StoreError
from poller.store.engine import reading, sql
from poller.store.vault import LAST, Masters, new_key

if TYPE_CHECKING:
    from sqlalchemy import Engine


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
                masters.unwrap(row.practice, row.key_id, bytes(row.wrapped), row.master)
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

    def rewrap(self) -> int:
        """Wrap every key by the current master key; how many were wrapped by another. Raises ConfigError as above, and KeyMissing.

        The keys stay the same, and so does all that they have sealed.
        """
        self._masters.require()
        count = 0
        for row in self._rows(None):
            if row.master == self._masters.current:
                continue
            former = bytes(row.wrapped)
            key = self._masters.unwrap(row.practice, row.key_id, former, row.master)
            binds = {"practice": row.practice, "key_id": row.key_id, "former": former}
            with self._engine.begin() as connection:
                wrapped = self._masters.wrap(row.practice, row.key_id, key)
                count += connection.execute(sql("rewrap_key"), binds | wrapped).rowcount
        return count
