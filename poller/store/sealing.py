"""Seals what was stored before encryption was turned on. As the owner of the tables: nobody else can touch history."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy.exc import DBAPIError

from poller.core.canonical import CODEC_SEALED
from poller.errors import StoreError
from poller.store import columns
from poller.store.engine import OWNER, sql
from poller.store.vault import Vault

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_BATCH = 500
_NO_RIGHT = "42501"


class Sealing:
    """Goes through one practice, a batch and a transaction at a time. What was sealed stays so: begun again, it goes on."""

    def __init__(self, owner: Engine, vault: Vault, practice: str) -> None:
        self._owner = owner
        self._vault = vault
        self._practice = practice

    def run(self) -> Generator[int]:
        """How many bodies each batch has sealed; none without a master key. Raises StoreError."""
        if not self._vault.seals:
            return
        try:
            yield from self._all(self._snapshots, {"after_type": "", "after_id": ""})
            yield from self._all(self._versions, {"after_type": "", "after_id": "", "after_version": 0})
        except (DBAPIError, psycopg.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if getattr(cause, "sqlstate", None) != _NO_RIGHT:
                raise
            raise StoreError(
                f"this login may not act as {OWNER}; run this as the login that migrates the database"
            ) from None

    def _all(
        self, batch: Callable[[Connection, dict[str, Any]], tuple[int, dict[str, Any]]], after: dict[str, Any]
    ) -> Generator[int]:
        count = _BATCH
        while count == _BATCH:
            with self._owner.begin() as connection:
                count, after = batch(connection, after)
            yield count

    def _binds(self, after: dict[str, Any]) -> dict[str, Any]:
        return {"practice": self._practice, "sealed": CODEC_SEALED, "limit": _BATCH} | after

    def _snapshots(self, connection: Connection, after: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        stored, keys = self._sealed(connection, "unsealed_snapshots", after)
        if keys:
            connection.execute(sql("seal_snapshots"), {"practice": self._practice} | columns.keys(keys) | stored)
            after = {"after_type": keys[-1][0], "after_id": keys[-1][1]}
        return len(keys), after

    def _versions(self, connection: Connection, after: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        stored, keys = self._sealed(connection, "unsealed_history", after)
        if keys:
            connection.execute(sql("seal_history"), {"practice": self._practice} | columns.keys(keys) | stored)
            after = {"after_type": keys[-1][0], "after_id": keys[-1][1], "after_version": stored["versions"][-1]}
        return len(keys), after

    def _sealed(
        self, connection: Connection, statement: str, after: dict[str, Any]
    ) -> tuple[dict[str, list[Any]], list[tuple[str, str]]]:
        seal = self._vault.sealing(connection, self._practice)
        rows = connection.execute(sql(statement), self._binds(after)).all()
        keys = [(row.resource_type, row.id) for row in rows]
        sealed = [seal(key, row.codec, bytes(row.body)) for key, row in zip(keys, rows, strict=True)]
        stored: dict[str, list[Any]] = {
            "codecs": [codec for codec, _ in sealed],
            "bodies": [body for _, body in sealed],
        }
        if statement == "unsealed_history":
            stored |= {"versions": [row.version for row in rows], "times": [row.recorded_at for row in rows]}
        return stored, keys
