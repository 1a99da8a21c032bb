"""Patients whom files and Groups name, and when they were last gone through."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, text

from poller.store.engine import reading, sql
from poller.store.known import PatientSource, note_patients
from poller.store.repository import Lease, hold_lease

BATCH = 1000
"""Patients of one transaction."""


@dataclass(frozen=True, slots=True)
class Enumeration:
    """What is known of going through one source of patients."""

    source: str
    began: dt.datetime | None
    """Of the last complete one; None while there is none."""
    ended: dt.datetime | None
    found: int
    failure: str | None
    """What is wrong with the latest, in our own words; of a complete one what it left out."""


@dataclass(frozen=True, slots=True)
class SourceCount:
    """How many patients, gone ones left out, a source has named."""

    source: str
    """Empty: known from before sources were kept."""
    patients: int
    alone: int
    """Whom no other source has named."""


class PatientStore:
    """Who is known, and by whose word. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, lease: Lease, ids: Iterable[str], source: PatientSource, now: dt.datetime, *, live: bool) -> int:
        """Keep whom a source names; returns how many were not known before.

        ``live``: whether the new ones are new in the practice, rather than part of its baseline. ``ids`` may be any number: they are taken
        as they come, and committed by the thousand. Raises LeaseLost.
        """
        new = 0
        coming = iter(ids)
        while batch := list(itertools.islice(coming, BATCH)):
            with self._engine.begin() as connection:
                hold_lease(connection, lease)
                named = [(id_, source) for id_ in batch]
                new += len(note_patients(connection, lease.practice, named, live=live, now=now))
        return new

    def end_enumeration(
        self,
        lease: Lease,
        source: PatientSource,
        began: dt.datetime,
        ended: dt.datetime,
        found: int | None,
        failure: str | None,
    ) -> None:
        """Keep how going through a source ended; ``found`` is None if it did not come to its end. Raises LeaseLost."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                sql("end_enumeration"),
                {
                    "practice": lease.practice,
                    "source": source.value,
                    "began": began,
                    "ended": ended,
                    "complete": found is not None,
                    "found": found or 0,
                    "failure": failure,
                },
            )

    def enumerations(self, practice: str) -> dict[str, Enumeration]:
        """The sources that were gone through, by name."""
        with reading(self._engine) as connection:
            return enumerations_in(connection, practice)

    def counts(self, practice: str) -> list[SourceCount]:
        """How many patients each source has named."""
        with reading(self._engine) as connection:
            return counts_in(connection, practice)


def enumerations_in(connection: Connection, practice: str) -> dict[str, Enumeration]:
    """As :meth:`PatientStore.enumerations`."""
    statement = text(
        "SELECT source, began, ended, found, failure FROM poller.enumeration WHERE practice = :practice ORDER BY source"
    )
    rows = connection.execute(statement, {"practice": practice}).all()
    return {row.source: enumeration_of(row) for row in rows}


def enumeration_of(row: Any) -> Enumeration:
    """What a row of ``poller.enumeration`` says."""
    is_whole = row.found >= 0
    began, ended = (row.began, row.ended) if is_whole else (None, None)
    return Enumeration(row.source, began, ended, max(0, row.found), row.failure)


def counts_in(connection: Connection, practice: str) -> list[SourceCount]:
    """As :meth:`PatientStore.counts`."""
    rows = connection.execute(sql("count_patient_sources"), {"practice": practice}).all()
    return [SourceCount(row.source, row.patients, row.alone) for row in rows]
