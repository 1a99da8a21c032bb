"""Virtual time for gates: an event loop whose clock leaps, and the ledger's own statements on a real Postgres whose clock the test sets."""

from __future__ import annotations

import asyncio
import datetime as dt
import selectors
from bisect import bisect_right
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any, Self

import psycopg
from sqlalchemy import event

from poller.store.engine import ENGINE, open_engine
from poller.store.ledger import PostgresLedger


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while everyone sleeps, and then at once."""

    def __init__(self) -> None:
        self.virtual = 1_000.0
        super().__init__(_LeapingSelector(self))

    def time(self) -> float:
        return self.virtual


class _LeapingSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everyone waits for ever")
        self._loop.virtual += max(0.0, timeout)
        return super().select(0)


def virtually(main: Coroutine[Any, Any, Any]) -> Any:
    """Run it in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main, 100_000))
    finally:
        loop.close()


def most_within(seconds: float, instants: list[float]) -> int:
    """The most instants in a closed interval of so many seconds, however aligned."""
    ordered = sorted(instants)
    return max((bisect_right(ordered, at + seconds) - index for index, at in enumerate(ordered)), default=0)


class VirtualPostgres:
    """A real Postgres in which ``clock_timestamp()`` says what the test says; everything else is as it is.

    The schema ``virtual``, searched before Postgres' own, has a function of that name; so the statements under test are the shipped ones.
    """

    def __init__(self, database_url: str) -> None:
        self.now = 1_800_000_000.0
        """Seconds since 1970."""
        self._url = database_url
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with psycopg.connect(self._url, autocommit=True) as admin:
            admin.execute("CREATE SCHEMA virtual")
            admin.execute(
                "CREATE FUNCTION virtual.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE"
                " AS $$ SELECT current_setting('virtual.now')::timestamptz $$"
            )
            admin.execute("GRANT USAGE ON SCHEMA virtual TO poller_engine")
        self._engine = open_engine(self._url, ENGINE, pool_size=1)
        self._stack.callback(self._engine.dispose)

        @event.listens_for(self._engine, "checkout")
        def _set_the_clock(connection: Any, *_: object) -> None:
            now = dt.datetime.fromtimestamp(self.now, dt.UTC).isoformat()
            connection.execute(
                "SELECT set_config('virtual.now', %s, false), set_config('search_path', 'virtual, pg_catalog', false)",
                [now],
            )
            connection.commit()

        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def admin(self) -> psycopg.Connection[Any]:
        """A connection that may do everything, by the true clock."""
        return psycopg.connect(self._url, autocommit=True)

    def ledger(self) -> PostgresLedger:
        """The ledger of one process more."""
        return PostgresLedger(self._engine)
