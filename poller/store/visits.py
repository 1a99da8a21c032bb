"""Visits that Encounters tell of: written in the transaction of the Encounter's version, so that none is forgotten."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from sqlalchemy import Connection

from poller.core.visits import Visit, is_remembered
from poller.store.engine import sql


def note_visits(connection: Connection, practice: str, visits: Sequence[Visit], now: dt.datetime) -> tuple[Visit, ...]:
    """Keep these visits; returns those that are still ahead or not long ago. One that was moved to long ago is forgotten."""
    fresh = tuple(visit for visit in visits if is_remembered(visit, now))
    if fresh:
        connection.execute(
            sql("note_visits"),
            {
                "practice": practice,
                "ids": [visit.id for visit in fresh],
                "patients": [visit.patient for visit in fresh],
                "starts": [visit.start for visit in fresh],
                "kinds": [visit.kind for visit in fresh],
                "statuses": [visit.status for visit in fresh],
            },
        )
    if len(fresh) < len(visits):
        old = {visit.id for visit in visits} - {visit.id for visit in fresh}
        connection.execute(sql("drop_visits"), {"practice": practice, "ids": sorted(old)})
    return fresh
