"""The rate budget of every practice, shared by all processes through Postgres and its clock."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine

from poller.core.budget import BLOCK, HORIZON, RAISE, Ask, Grant, Throttle, block, spacing
from poller.store.engine import sql

_ASK_AGAIN = 0.05
"""Seconds. The end of a lock-out may have passed, or just been moved, while the answer was made; then ask again, but do not spin."""


class PostgresLedger:
    """Permits and lock-outs in ``poller.budget``. Safe to use from several threads. Needs an engine of role ``poller_engine``.

    Give it an engine of its own: a permit that waits for a connection is a permit burnt.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._at_once = engine.execution_options(isolation_level="AUTOCOMMIT")
        """One statement is a transaction of its own, without three ways to Postgres."""

    def grant(self, practice: str, want: int, per_minute: float, lead: float = 0.0, horizon: float = HORIZON) -> Grant:
        """At most ``want`` permits, ``lead`` seconds from now or later, at what 429s have left of a pace of ``per_minute``.

        None while those granted before reach further than ``horizon`` seconds from now.
        """
        return self._grant([Ask(practice, want, per_minute, lead, horizon)], alone=True)[practice]

    def grant_together(self, asks: Sequence[Ask]) -> dict[str, Grant]:
        """The same for several practices in one transaction, by practice; each may be named once.

        Left out are practices whose row another process holds just now, and those never granted anything before: ask for them by
        :meth:`grant`, which waits.
        """
        return self._grant(asks, alone=False)

    def _grant(self, asks: Sequence[Ask], *, alone: bool) -> dict[str, Grant]:
        binds = {
            "practices": [ask.practice for ask in asks],
            "wants": [min(ask.want, block(ask.per_minute)) for ask in asks],
            "gaps": [dt.timedelta(seconds=spacing(ask.per_minute)) for ask in asks],
            "leads": [dt.timedelta(seconds=ask.lead) for ask in asks],
            "horizons": [dt.timedelta(seconds=ask.horizon) for ask in asks],
            "alone": alone,
            "block": dt.timedelta(seconds=BLOCK),
            "raise": RAISE,
        }
        by_practice = {ask.practice: ask for ask in asks}
        with self._at_once.connect() as connection:
            rows = connection.execute(sql("grant_permits"), binds).all()
        return {row.practice: _grant_of(row, by_practice[row.practice]) for row in rows}

    def block(self, practice: str, seconds: float, left_ago: float | None = None) -> float:
        """Grant nothing for so long from now; after a 429 to a call that left ``left_ago`` seconds ago cut the pace. Returns its part."""
        with self._engine.begin() as connection:
            row = connection.execute(sql("hold_budget"), {"practice": practice}).one()
            before = _throttle(row.part, row.since_cut)
            after = before.refused(left_ago) if left_ago is not None else before
            binds = {
                "practice": practice,
                "length": dt.timedelta(seconds=seconds),
                "part": after.part,
                "cut": after is not before,
            }
            connection.execute(sql("block_practice"), binds)
        return after.now


def _grant_of(row: Any, ask: Ask) -> Grant:
    part = _throttle(row.part, row.since_cut).now
    if row.granted:
        gap = (row.reach - row.delay) / row.granted
        return Grant(row.delay, row.granted, gap, row.told, part)
    locked = row.blocked is not None and row.blocked > 0
    wait = row.blocked if locked else row.reach - ask.horizon
    return Grant(max(_ASK_AGAIN, wait), 0, spacing(ask.per_minute), row.told, part, locked)


def _throttle(part: float, since_cut: float | None) -> Throttle:
    return Throttle(part, max(0.0, since_cut) if since_cut is not None else math.inf)
