"""Who is known to be a patient, and who said so. For writers that are in a transaction already."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum

from sqlalchemy import Connection, text

from poller.store.engine import sql


class PatientSource(StrEnum):
    """Who has named a patient."""

    SEARCH = "search"
    """A search for Patient resources, practice-wide or of one patient."""
    NAMES = "names"
    """A search by the beginning of a name."""
    BULK = "bulk"
    """A Patient resource in an export."""
    ROSTER = "roster"
    GROUP = "group"
    DAYS = "days"
    """An encounter of a practitioner's day."""
    REFERENCE = "reference"
    """Any other resource that is about the patient."""

    @property
    def proves_presence(self) -> bool:
        """Whether it showed the Patient resource itself, so that one who was gone is there again."""
        return self in {PatientSource.SEARCH, PatientSource.NAMES, PatientSource.BULK}


_PROVING = [source.value for source in PatientSource if source.proves_presence]


def note_patients(
    connection: Connection,
    practice: str,
    named: Sequence[tuple[str, PatientSource]],
    *,
    live: bool,
    now: dt.datetime,
) -> list[str]:
    """Keep who was named, and by which source; returns the ids of patients not known before, in the order given.

    ``live``: whether the new ones are new in the practice, rather than part of its baseline. The caller holds the lease. It calls this
    after it has locked what snapshots it will lock, and before it touches absences and targets. From here to its end no other transaction
    of the practice notes patients, and one that waits for that must hold nothing that the first still needs.
    """
    binds = {"practice": practice, "now": now, "proving": _PROVING}
    wanted = connection.execute(sql("new_patient_sources"), binds | _pairs(named)).all()
    if not wanted:
        return []
    # In a statement of its own: the next one must see what the transaction before it has committed.
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended('poller.patient:' || :practice, 0))")
    connection.execute(lock, binds)
    written = connection.execute(sql("note_patients"), binds | _pairs(wanted) | {"live": live})
    return list(written.scalars())


def _pairs(named: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    return {"ids": [id_ for id_, _ in named], "sources": [str(source) for _, source in named]}
