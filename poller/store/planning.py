"""What a planner goes on from after a restart: visits, and what was learned."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, text

from poller.core import jsontext
from poller.core.visits import REMEMBERED, Visit
from poller.store.engine import reading, sql
from poller.store.forget import forgotten_among
from poller.store.repository import Lease, hold_lease


class PlanningStore:
    """The planner's memory. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def visits(self, practice: str, now: dt.datetime, until: dt.datetime) -> list[Visit]:
        """Visits not long ago, and those ahead that begin before ``until``, by start."""
        binds = {"practice": practice, "since": now - REMEMBERED, "until": until}
        with reading(self._engine) as connection:
            rows = connection.execute(sql("load_visits"), binds).all()
        return [Visit(row.id, row.patient, row.start_at, row.kind, row.status) for row in rows]

    def forget_visits(self, lease: Lease, now: dt.datetime) -> None:
        """Forget those from which nothing follows any more. Raises LeaseLost."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(sql("forget_visits"), {"practice": lease.practice, "since": now - REMEMBERED})

    def save(self, lease: Lease, state: Mapping[str, Any], now: dt.datetime) -> None:
        """Keep what was learned. Raises LeaseLost: only who reads a practice knows."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            # A planner that was there before goes on with whom it knew.
            patients = state.get("patients", {})
            if forgotten := forgotten_among(connection, lease.practice, patients):
                kept = {id_: entry for id_, entry in patients.items() if id_ not in forgotten}
                state = dict(state) | {"patients": kept}
            connection.execute(
                text(
                    "INSERT INTO poller.planning (practice, state, saved_at) VALUES (:practice, CAST(:state AS jsonb), :now)"
                    " ON CONFLICT (practice) DO UPDATE SET state = EXCLUDED.state, saved_at = EXCLUDED.saved_at"
                ),
                {"practice": lease.practice, "state": jsontext.dumps(dict(state)).decode(), "now": now},
            )

    def load(self, practice: str) -> dict[str, Any] | None:
        """What was learned; None for a practice that was never planned."""
        with reading(self._engine) as connection:
            state = connection.execute(
                text("SELECT state FROM poller.planning WHERE practice = :practice"), {"practice": practice}
            ).scalar_one_or_none()
        return dict(state) if state is not None else None
