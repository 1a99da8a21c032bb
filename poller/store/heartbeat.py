"""Signs of life: when a poller last looked after each practice, for whoever asks the store alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from sqlalchemy import Engine

from poller.store.engine import sql


class HeartbeatStore:
    """Keeps them. Needs an engine of role ``poller_engine``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def note(self, engine: int | None, ages: Mapping[str, dt.timedelta]) -> None:
        """Practices that an engine, by its number, looks after, with how long ago it last did. Raises DBAPIError."""
        binds = {"engine": engine, "practices": list(ages), "ages": list(ages.values())}
        with self._engine.begin() as connection:
            connection.execute(sql("note_heartbeats"), binds)

    def note_failures(self, engine: int | None, failures: Mapping[str, str | None]) -> None:
        """By practice, the code of the error in which reading it ended; None: a pass has ended well since. Raises DBAPIError."""
        binds = {"engine": engine, "practices": list(failures), "failures": list(failures.values())}
        with self._engine.begin() as connection:
            connection.execute(sql("note_failures"), binds)
