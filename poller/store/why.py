"""What the store knows of one resource, or of one patient, on its way to the sinks. What is asked for names people: log none of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text

from poller.core.audit import discarded_as
from poller.core.model import Action, Kind, Target
from poller.core.trace import Naming, PatientFacts, Place, Reading, Showing, SinkPlace, StoredFacts
from poller.store.engine import sql
from poller.store.patients import Enumeration, enumerations_in

_GROUPS = range(2, 101)
"""What patients_per_call may be."""

_WIDE = (Kind.SWEEP, Kind.WINDOW, Kind.NAMES)
"""Kinds of searches that show all patients."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An event as it is kept."""

    place: Place
    resource_type: str
    id: str
    version: int
    action: str
    origin: str
    recorded_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Found:
    """What is stored of a resource, and whose it is."""

    facts: StoredFacts
    partition_key: str


@dataclass(frozen=True, slots=True)
class Counted:
    """What is stored of a patient, of one type."""

    stored: int
    deleted: int
    changed_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Parkings:
    """Why events are parked."""

    of_log: dict[tuple[str, Place], str]
    """By sink and place."""
    of_snapshot: dict[tuple[str, str], str]
    """By sink and ``Type/id``: of what a sink that starts from a snapshot gets in place of the events before."""


class WhyStore:
    """Looks at one resource's or patient's way. A role that may only read will do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def patient(self, practice: str, patient: str) -> tuple[PatientFacts, int] | None:
        """Who has named somebody, and their number among the patients; None for one whom nobody has."""
        rows = self._rows("why_patient", {"practice": practice, "patient": patient})
        if not rows:
            return None
        named = tuple(Naming(row.source, row.named_at, row.last_named_at) for row in rows if row.source is not None)
        return PatientFacts(rows[0].first_seen_at, rows[0].gone_at, named), rows[0].ordinal

    def sources(self, practice: str) -> Mapping[str, Enumeration]:
        """When each source of patients was last gone through."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql("coverage_enumerations"), {"practice": practice}).all()
            found = {row.source: Enumeration(row.source, row.began, row.ended, 0, row.failure) for row in rows}
            return found | enumerations_in(connection, practice)

    def readings(
        self,
        practice: str,
        types: Collection[str],
        patient: tuple[str, int | None] | None,
        resource: tuple[str, str] = ("", ""),
    ) -> list[Reading]:
        """The searches of these types that show what a patient (id and number) has, or all have; each type of each a row of its own."""
        patients: list[str] = []
        if patient is not None:
            id_, ordinal = patient
            patients = [id_] + ([f"{size}.{ordinal // size}" for size in _GROUPS] if ordinal is not None else [])
        wide = [Target(practice, kind_of, kind).key for kind_of in types for kind in _WIDE]
        binds = {"practice": practice, "patients": patients, "targets": wide}
        rows = self._rows("why_targets", binds | {"resource_type": resource[0], "id": resource[1]})
        return [_reading(row, feed) for row in rows for feed in (row.types or [row.resource_type]) if feed in types]

    def resource(self, practice: str, resource_type: str, id_: str) -> Found | None:
        """What is stored of a resource; None if it was never seen."""
        rows = self._rows("why_resource", {"practice": practice, "resource_type": resource_type, "id": id_})
        if not rows:
            return None
        row = rows[0]
        facts = StoredFacts(
            row.version,
            row.deleted,
            row.first_seen_at,
            row.changed_at,
            row.absence,
            row.absent_why or "",
            row.missing_since,
        )
        return Found(facts, row.partition_key)

    def stored(self, practice: str, patient: str) -> dict[str, Counted]:
        """What is stored of a patient, by type."""
        rows = self._rows("why_stored", {"practice": practice, "partition_key": f"Patient/{patient}"})
        return {row.resource_type: Counted(row.stored, row.deleted, row.changed_at) for row in rows}

    def events(self, practice: str, resource_type: str, id_: str, limit: int) -> list[Kept]:
        """The latest events of a resource, the newest first."""
        binds = {"practice": practice, "resource_type": resource_type, "id": id_, "limit": limit}
        return [_kept(row) for row in self._rows("why_events", binds)]

    def events_of_patient(self, practice: str, patient: str, limit: int) -> list[Kept]:
        """The latest events of all that a patient has, the newest first."""
        binds = {"practice": practice, "partition_key": f"Patient/{patient}", "limit": limit}
        return [_kept(row) for row in self._rows("why_events_of_patient", binds)]

    def sinks(self, practice: str) -> list[SinkPlace]:
        """Where each sink that has begun stands in the practice's log."""
        return [
            SinkPlace(row.sink, row.start, row.started_at, (row.epoch, row.sequence), row.discarded, row.in_snapshot)
            for row in self._rows("why_sinks", {"practice": practice})
        ]

    def parked(self, practice: str, partition_key: str, resource: tuple[str, str] | None = None) -> Parkings:
        """Why events of a patient, or of one resource of theirs, are parked."""
        resource_type, id_ = resource if resource is not None else (None, None)
        binds = {"practice": practice, "partition_key": partition_key, "resource_type": resource_type, "id": id_}
        found = Parkings({}, {})
        for row in self._rows("why_parked", binds):
            reason = f"{row.reason}; released, to be tried again" if row.released else row.reason
            if row.ordinal:
                found.of_snapshot[row.sink, f"{row.resource_type}/{row.id}"] = reason
            else:
                found.of_log[row.sink, (row.epoch, row.sequence)] = reason
        return found

    def showings(self, practice: str, resources: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Showing]:
        """What snapshots show of resources, by sink and ``Type/id``, for sinks that start from one and resources that were there."""
        binds = {"practice": practice, "types": [kind for kind, _ in resources], "ids": [id_ for _, id_ in resources]}
        return {
            (row.sink, f"{row.resource_type}/{row.id}"): Showing(
                row.version, row.action == Action.DELETED.value, row.to_come
            )
            for row in self._rows("why_snapshots", binds)
        }

    def discarded(self, practice: str, events: Sequence[Kept]) -> dict[tuple[str, str], str]:
        """Which of these events were given up, by sink and :func:`poller.core.audit.discarded_as`: by whom, when and why."""
        asked = {discarded_as(f"{one.resource_type}/{one.id}", at) for one in events for at in (one.place, None)}
        found = {}
        since = min((one.recorded_at for one in events), default=None)
        binds = {"practice": practice, "events": sorted(asked), "since": since}
        for row in self._rows("why_discarded", binds):
            because = f": {row.reason}" if row.reason else ""
            for one in asked.intersection(row.events):
                found[row.sink, one] = f"by {row.actor} at {row.at.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC{because}"
        return found

    def now(self) -> dt.datetime:
        """The database's time."""
        with self._engine.connect() as connection:
            at: dt.datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return at

    def _rows(self, statement: str, binds: Mapping[str, Any]) -> Sequence[Any]:
        with self._engine.connect() as connection:
            return connection.execute(sql(statement), binds).all()


def _reading(row: Any, feed: str) -> Reading:
    kind = Kind(row.kind)
    is_whole = not kind.is_everything or kind.is_window or feed in row.known
    return Reading(
        feed=feed,
        kind=kind.value,
        category=row.category,
        shows_all=not kind.is_window,
        tried=row.last_began,
        whole=row.complete_began if is_whole else None,
        failure=row.failure if row.failures else None,
        has_shown=row.has_shown if kind.tracks_members else None,
    )


def _kept(row: Any) -> Kept:
    return Kept(
        (row.epoch, row.sequence), row.resource_type, row.id, row.version, row.action, row.origin, row.recorded_at
    )
