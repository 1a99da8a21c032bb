"""The write path: hops 5 to 7 of a change's way.

One transaction holds snapshot, history, events, absences and the target's state, or none of them (guarantee 2). The network has ended
before it begins.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Engine, text

from poller.core import canonical, jsontext
from poller.core.decide import decide, is_outdated, origin_of_change
from poller.core.envelope import event_id
from poller.core.model import Coverage, Decision, Kind, Origin, Stored, Target, Version
from poller.errors import LeaseLost
from poller.store import columns
from poller.store.engine import sql

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write for a practice, until another takes it."""

    practice: str
    epoch: int


@dataclass(frozen=True, slots=True)
class PassEnd:
    """How a pass ended; given with its last batch."""

    began: dt.datetime
    ended: dt.datetime
    coverage: Coverage
    failure: str | None = None
    """Kind of the failure that ended it early, from our own vocabulary."""
    cursor_at: dt.datetime | None = None
    """Where the next window starts; windows only."""
    seen: Sequence[str] = ()
    """Ids of all resources that the pass showed; absences are concluded from these."""
    counts: bool = False
    """Whether it counts as the whole read that the schedule owed; see :func:`poller.core.plan.counts_as_whole`."""
    outdated: bool = False
    """Whether an earlier batch of the pass left rows for another read."""
    window_from: dt.datetime | None = None
    """Where the first window beside this sweep starts; sweeps only."""
    judged: Sequence[str] = ()
    """Ids that sweeps had found before this window began: shown by it or not, they are settled with it; windows only."""


@dataclass(frozen=True, slots=True)
class PassContext:
    """What a batch is part of."""

    lease: Lease
    target: Target
    origin: Origin
    previous_read: dt.datetime | None = None
    """When the last whole pass of this target began: what changed did so after that."""
    patients_live: bool = False
    """Whether patients first seen now are new in the practice, not part of its baseline."""
    tells_window: Target | None = None
    """The window that must show what this pass finds changed, or windows miss changes; sweeps beside windows only."""
    keep_absences: bool = False
    """For a confirming read: its caller settles the evidence itself."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a batch came to."""

    changes: tuple[tuple[Key, Decision], ...] = ()
    outdated: frozenset[Key] = field(default_factory=frozenset)
    """Left for another read: older, or possibly older, than what is stored."""


class Repository:
    """Records what was read. Safe to use from several threads."""

    def __init__(self, engine: Engine, digest_key: bytes, rules_version: int = canonical.RULES_VERSION) -> None:
        self._engine = engine
        self._digest_key = digest_key
        self._rules_version = rules_version

    def record(
        self, context: PassContext, versions: Sequence[Version], now: dt.datetime, end: PassEnd | None = None
    ) -> Recorded:
        """Compare a batch with the snapshot and commit what changed, together with the pass's end if this is its last batch.

        Raises LeaseLost, in which case nothing was written.
        """
        latest = {version.key: version for version in versions}
        with self._engine.begin() as connection:
            differing, new_members = self._compare(connection, context, latest)
            if not differing and not new_members and end is None and not latest:
                return Recorded()
            hold_lease(connection, context.lease)
            recorded, writes = self._settle(connection, context, differing, now)
            if new_members:
                connection.execute(sql("insert_members"), self._target(context) | columns.keys(new_members))
            if latest and not context.keep_absences:
                began = {"began": [version.began for version in latest.values()]}
                connection.execute(
                    sql("clear_absences"), {"practice": context.lease.practice} | columns.keys(list(latest)) | began
                )
            if context.tells_window is not None and recorded.changes:
                found = {"target": context.tells_window.key, "found": [id_ for (_, id_), _ in recorded.changes]}
                connection.execute(sql("tell_window"), {"practice": context.lease.practice} | found)
            if end is not None:
                self._end(connection, context, end, now, recorded)
            if writes:
                self._append(connection, context, writes, now)
        return recorded

    def _target(self, context: PassContext) -> dict[str, Any]:
        return {"practice": context.lease.practice, "target": context.target.key}

    def _compare(
        self, connection: Connection, context: PassContext, latest: Mapping[Key, Version]
    ) -> tuple[dict[Key, Version], list[Key]]:
        if not latest:
            return {}, []
        members = context.target.kind in {Kind.PATIENT, Kind.NAMES} and not context.keep_absences
        rows = connection.execute(
            sql("compare"),
            self._target(context)
            | columns.keys(list(latest))
            | {
                "digests": [version.digest for version in latest.values()],
                "rules_version": self._rules_version,
                "members": members,
            },
        ).all()
        differing = {(row.resource_type, row.id): latest[row.resource_type, row.id] for row in rows if row.differs}
        return differing, list(latest) if members and rows else []

    def _settle(
        self, connection: Connection, context: PassContext, differing: Mapping[Key, Version], now: dt.datetime
    ) -> tuple[Recorded, list[tuple[Version, Decision, str]]]:
        """Decide again under the lock, and write snapshots and history. Returns what the log must be told."""
        if not differing:
            return Recorded(), []
        practice = {"practice": context.lease.practice}
        floor = connection.execute(
            text("SELECT version_floor FROM poller.practice_log WHERE practice = :practice"), practice
        ).scalar_one()
        stored = self._lock(connection, context, sorted(differing))
        outdated: set[Key] = set()
        first: list[tuple[Version, Decision]] = []
        later: list[tuple[Version, Decision]] = []
        for key, version in sorted(differing.items()):
            known = stored.get(key)
            decision = decide(known, version, floor)
            if decision is None:
                continue
            if is_outdated(known, version.began):
                outdated.add(key)
            else:
                (first if known is None else later).append((version, decision))
        common = practice | {"rules_version": self._rules_version, "now": now}
        if first:
            binds = columns.snapshots(first) | {
                "partition_keys": [columns.partition_key(version) for version, _ in first]
            }
            inserted = {tuple(row) for row in connection.execute(sql("insert_snapshots"), common | binds)}
            outdated |= {version.key for version, _ in first if version.key not in inserted}
            first = [change for change in first if change[0].key in inserted]
        if later:
            connection.execute(sql("update_snapshots"), common | columns.snapshots(later))
        changes = first + later
        if changes:
            connection.execute(
                sql("insert_history"),
                common | columns.snapshots(changes) | {"actions": [d.action.value for _, d in changes]},
            )
            self._note_patients(connection, context, changes, now)
        writes = [
            (
                version,
                decision,
                stored[version.key].partition_key if version.key in stored else columns.partition_key(version),
            )
            for version, decision in changes
        ]
        return Recorded(tuple((v.key, d) for v, d in changes), frozenset(outdated)), writes

    def _lock(self, connection: Connection, context: PassContext, found: list[Key]) -> dict[Key, Stored]:
        binds = {"practice": context.lease.practice} | columns.keys(found)
        stored = {
            (row.resource_type, row.id): stored_of(row) for row in connection.execute(sql("lock_snapshots"), binds)
        }
        if any(row.rules_version != self._rules_version for row in stored.values()):
            stored |= self._digest_again(connection, binds, stored)
        return stored

    def _digest_again(
        self, connection: Connection, binds: dict[str, Any], stored: Mapping[Key, Stored]
    ) -> dict[Key, Stored]:
        """Stored bodies under the rules of this release, so that a change of rules is not taken for a change of content."""
        rules = {"rules_version": self._rules_version}
        again: dict[Key, Stored] = {}
        for row in connection.execute(sql("rules_mismatch"), binds | rules):
            digest, elements = canonical.digests(canonical.decode_body(row.codec, bytes(row.body)), self._digest_key)
            key = (row.resource_type, row.id)
            again[key] = replace(stored[key], digest=digest, elements=elements, rules_version=self._rules_version)
        if again:
            connection.execute(
                sql("rewrite_digests"),
                {"practice": binds["practice"]}
                | rules
                | columns.keys(list(again))
                | {
                    "digests": [row.digest for row in again.values()],
                    "elements": [jsontext.dumps(dict(row.elements)).decode() for row in again.values()],
                },
            )
        return again

    def _note_patients(
        self,
        connection: Connection,
        context: PassContext,
        changes: Sequence[tuple[Version, Decision]],
        now: dt.datetime,
    ) -> None:
        found = [version.id for version, _ in changes if version.resource_type == "Patient"]
        if found:
            binds = {"practice": context.lease.practice, "ids": found, "live": context.patients_live, "now": now}
            connection.execute(sql("insert_patients"), binds)

    def _end(
        self, connection: Connection, context: PassContext, end: PassEnd, now: dt.datetime, recorded: Recorded
    ) -> None:
        target = context.target
        if end.coverage is Coverage.COMPLETE and target.kind is not Kind.WINDOW:
            connection.execute(
                sql("note_missing" if target.kind is Kind.SWEEP else "note_missing_members"),
                self._target(context)
                | {
                    "resource_type": target.resource_type,
                    "seen": list(end.seen),
                    "began": end.began,
                    "now": now,
                },
            )
        connection.execute(
            sql("end_pass"),
            self._target(context)
            | {
                "began": end.began,
                "ended": end.ended,
                "coverage": end.coverage.value,
                "failure": end.failure,
                "counts": end.counts,
                "cursor_at": end.cursor_at,
                "reread": bool(recorded.outdated) or end.outdated,
                "settled": [*end.judged, *end.seen] if target.kind is Kind.WINDOW else [],
            },
        )
        if target.kind is Kind.SWEEP and end.counts and end.window_from is not None:
            connection.execute(
                sql("follow_sweep"),
                {
                    "practice": context.lease.practice,
                    "resource_type": target.resource_type,
                    "window_from": end.window_from,
                },
            )

    def _append(
        self,
        connection: Connection,
        context: PassContext,
        writes: Sequence[tuple[Version, Decision, str]],
        now: dt.datetime,
    ) -> None:
        practice = context.lease.practice
        append_events(
            connection,
            practice,
            now,
            context.previous_read,
            None,
            columns.keys([version.key for version, _, _ in writes])
            | {
                "event_ids": [event_id(practice, *v.key, d.version, d.action, v.digest) for v, d, _ in writes],
                "versions": [decision.version for _, decision, _ in writes],
                "actions": [decision.action.value for _, decision, _ in writes],
                "origins": [origin_of_change(context.origin, decision.action).value for _, decision, _ in writes],
                "digests": [version.digest for version, _, _ in writes],
                "changed": [columns.names(decision.changed) for _, decision, _ in writes],
                "categories": [columns.names(version.categories) for version, _, _ in writes],
                "statuses": [version.status for version, _, _ in writes],
                "partition_keys": [partition_key for _, _, partition_key in writes],
                "last_modified": [version.last_modified for version, _, _ in writes],
            },
        )


def append_events(
    connection: Connection,
    practice: str,
    now: dt.datetime,
    previous_read: dt.datetime | None,
    evidence: str | None,
    rows: Mapping[str, Any],
) -> None:
    """Append to the practice's log; the last statement of a writing transaction."""
    common = {
        "practice": practice,
        "now": now,
        "previous_read": previous_read,
        "evidence": evidence,
    }
    connection.execute(sql("append_events"), common | dict(rows))


def hold_lease(connection: Connection, lease: Lease) -> None:
    """Make sure that this lease is the practice's, until the transaction ends. Raises LeaseLost."""
    if connection.execute(sql("hold_lease"), {"practice": lease.practice, "epoch": lease.epoch}).first() is None:
        raise LeaseLost(f"practice {lease.practice}: another poller has taken it over")


def stored_of(row: Any) -> Stored:
    """A row of lock_snapshots."""
    return Stored(
        version=row.version,
        deleted=row.deleted,
        digest=bytes(row.digest),
        elements=row.elements,
        rules_version=row.rules_version,
        read_ended=row.read_ended,
        entered_in_error=row.entered_in_error,
        replaced_by=row.replaced_by,
        partition_key=row.partition_key,
    )
