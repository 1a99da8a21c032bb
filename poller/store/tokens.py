"""Tokens of the reading API."""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from poller.errors import NotFound, PollerError
from poller.store.engine import sql

EVERY_PRACTICE = "*"
_MARK = "ehrp_"
"""By which scanners for leaked secrets can tell one of ours."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept: never the token itself."""

    name: str
    practices: tuple[str, ...]
    made_at: dt.datetime
    made_by: str
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None

    def may_read(self, practice: str) -> bool:
        """Whether it has rights in the practice."""
        return practice in self.practices or EVERY_PRACTICE in self.practices


def digest_of(token: str) -> bytes:
    """What is kept of a token. A plain hash: 256 random bits cannot be guessed, so nothing slow is needed."""
    return hashlib.sha256(token.encode()).digest()


class TokenStore:
    """Makes, lists and revokes tokens, for an operator. Each statement is a transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def new(self, name: str, practices: Sequence[str], made_by: str, expires_at: dt.datetime | None = None) -> str:
        """Make a token; what is returned is kept nowhere. Raises PollerError for a name that is taken, also by a revoked one."""
        token = _MARK + secrets.token_urlsafe(32)
        binds = {"name": name, "digest": digest_of(token), "practices": list(practices), "made_by": made_by}
        try:
            with self._engine.begin() as connection:
                connection.execute(sql("make_token"), binds | {"expires_at": expires_at})
        except IntegrityError:
            raise PollerError(
                f"there is or was a token {name}, and the audit must not confuse them; take another name"
            ) from None
        return token

    def listed(self) -> list[Token]:
        """All tokens, revoked ones too."""
        with self._engine.connect() as connection:
            return [_token(row) for row in connection.execute(sql("list_tokens"), {"digest": None})]

    def revoke(self, name: str) -> None:
        """Let nobody read with a token any more. Raises NotFound."""
        with self._engine.begin() as connection:
            if connection.execute(sql("revoke_token"), {"name": name}).first() is None:
                raise NotFound(f"no token {name} is valid; `poller tokens list` shows them")


def token_of(connection: Connection, digest: bytes) -> Token | None:
    """The token with this digest if it is valid now, as the API asks in its own transaction."""
    row = connection.execute(sql("list_tokens"), {"digest": digest}).first()
    return _token(row) if row is not None and row.is_valid else None


def _token(row: Any) -> Token:
    return Token(row.name, tuple(row.practices), row.made_at, row.made_by, row.expires_at, row.revoked_at)
