"""What is known of a practice that its schedule can be weighed by: patients, rungs, sizes, and what its planner has learned. No ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, text

from poller.core.capability import PracticeReport, from_json
from poller.core.model import Strategy
from poller.store.engine import sql


@dataclass(frozen=True, slots=True)
class Standing:
    """How a practice stands in the store."""

    patients: int = 0
    """Known and not gone."""
    rungs: Mapping[str, Strategy] = field(default_factory=dict)
    """How feeds are read; those that are not read yet are left out."""
    resources: Mapping[str, int] = field(default_factory=dict)
    """How many there are of each type."""
    unread: Mapping[tuple[str, str | None], float] = field(default_factory=dict)
    """Type and category → which part of the searches that there are was never read whole."""
    report: PracticeReport | None = None
    """The last survey."""
    learned: Mapping[str, Any] | None = None
    """The planner's state."""


class OutlookStore:
    """Looks at how practices stand. A role that may only read will do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def look(self, practice: str) -> Standing:
        """What is known of a practice; counts its snapshots and targets, so some seconds for millions."""
        one = {"practice": practice}
        with self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            covered = connection.execute(sql("coverage_targets"), one).all()
            return Standing(
                patients=connection.execute(sql("outlook_patients"), one).scalar_one(),
                rungs={
                    row.resource_type: Strategy(row.strategy)
                    for row in connection.execute(sql("coverage_feeds"), one)
                    if row.strategy is not None
                },
                resources={
                    row.resource_type: row.resources for row in connection.execute(sql("outlook_resources"), one)
                },
                unread={(row.resource_type, row.category): row.never / row.targets for row in covered if row.targets},
                report=_report(connection, practice),
                learned=_learned(connection, practice),
            )


def _report(connection: Connection, practice: str) -> PracticeReport | None:
    said = connection.execute(
        text("SELECT report FROM poller.probe WHERE practice = :practice ORDER BY probed_at DESC LIMIT 1"),
        {"practice": practice},
    ).scalar()
    return from_json(said) if isinstance(said, dict) else None


def _learned(connection: Connection, practice: str) -> Mapping[str, Any] | None:
    said = connection.execute(
        text("SELECT state FROM poller.planning WHERE practice = :practice"), {"practice": practice}
    ).scalar()
    return said if isinstance(said, dict) else None
