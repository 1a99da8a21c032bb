"""The rate budget of every practice, shared by all processes through Postgres and its clock."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Engine

from poller.core.budget import Grant, spacing
from poller.store.engine import sql

_ASK_AGAIN = 0.05
"""Seconds. The end of a lock-out may have passed, or just been moved, while the answer was made; then ask again, but do not spin."""


class PostgresLedger:
    """Permits and lock-outs in ``poller.budget``. Safe to use from several threads. Needs an engine of role ``poller_engine``.

    Give it an engine of its own: a permit that waits for a connection is a permit burnt.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def grant(self, practice: str, want: int, per_minute: float) -> Grant:
        """``want`` permits at a pace of ``per_minute``; none while the practice is locked out."""
        gap = spacing(per_minute)
        length = dt.timedelta(seconds=gap) * want
        with self._engine.begin() as connection:
            row = connection.execute(sql("grant_permits"), {"practice": practice, "length": length}).one_or_none()
        if row is not None and row.granted:
            return Grant(max(0.0, row.delay), want, gap)
        left = row.delay if row is not None and row.delay is not None else 0.0
        return Grant(max(_ASK_AGAIN, left), 0, gap)

    def block(self, practice: str, seconds: float) -> None:
        """Grant nothing for so long from now."""
        with self._engine.begin() as connection:
            connection.execute(sql("block_practice"), {"practice": practice, "length": dt.timedelta(seconds=seconds)})
