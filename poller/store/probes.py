"""What practices' servers were found to allow, with the evidence."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection, Engine, text

from poller.core import jsontext
from poller.core.capability import PracticeReport, from_json, to_json
from poller.store.engine import reading
from poller.store.repository import Lease, hold_lease

KEPT = 30
"""Surveys of a practice that are kept, the latest ones."""

_LATEST = text("SELECT report FROM poller.probe WHERE practice = :practice ORDER BY probed_at DESC LIMIT 1")

_INSERT = text(
    "INSERT INTO poller.probe (practice, probed_at, report) VALUES (:practice, :probed_at, CAST(:report AS jsonb))"
    " ON CONFLICT (practice, probed_at) DO UPDATE SET report = excluded.report"
)

_DROP = text(
    "DELETE FROM poller.probe WHERE practice = :practice AND probed_at <="
    " (SELECT probed_at FROM poller.probe WHERE practice = :practice ORDER BY probed_at DESC OFFSET :kept LIMIT 1)"
)


class ProbeStore:
    """Surveys. Safe to use from several threads. Needs an engine of role ``poller_engine``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def save(self, lease: Lease, report: PracticeReport) -> None:
        """Keep what the poller of a practice found; types that it did not ask about stay as they were known. Raises LeaseLost."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            _save(connection, lease.practice, report)

    def save_asked(self, practice: str, report: PracticeReport) -> PracticeReport:
        """Keep what a person asked for, while another process may hold the practice: it says so, and decides nothing there."""
        said = replace(report, by="operator")
        with self._engine.begin() as connection:
            _save(connection, practice, said)
        return said

    def latest(self, practice: str) -> PracticeReport | None:
        """What was found last; None if nothing was, or another release wrote it."""
        with reading(self._engine) as connection:
            return _latest(connection, practice)


def _latest(connection: Connection, practice: str) -> PracticeReport | None:
    said = connection.execute(_LATEST, {"practice": practice}).scalar()
    return from_json(said) if isinstance(said, dict) else None


def _save(connection: Connection, practice: str, report: PracticeReport) -> None:
    # Two surveys at once must not lose each other's types.
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended('poller.probe:' || :practice, 0))")
    connection.execute(lock, {"practice": practice})
    whole = report.after(_latest(connection, practice))
    binds = {"practice": practice, "probed_at": report.probed_at, "report": jsontext.dumps(to_json(whole)).decode()}
    connection.execute(_INSERT, binds)
    connection.execute(_DROP, {"practice": practice, "kept": KEPT})
