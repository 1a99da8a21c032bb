"""The write path: hops 5 to 7 of a change's way.

One transaction holds snapshot, history, events, absences and the target's state, or none of them (guarantee 2). The network has ended
before it begins.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, text

from poller.core.decide import decide, is_outdated, origin_of_change
from poller.core.envelope import event_id
from poller.core.model import Coverage, Decision, Kind, Origin, Stored, Target, Version
from poller.core.visits import Visit
from poller.errors import LeaseLost
from poller.store import columns
from poller.store.engine import sql
from poller.store.forget import forgotten_among
from poller.store.known import PatientSource, note_patients
from poller.store.named import Named
from poller.store.named import note as note_attachments
from poller.store.rules import Bodies, RuleBook, note_hidden, under_the_same
from poller.store.vault import PLAIN, Seal, Vault
from poller.store.visits import note_visits

Key = tuple[str, str]

WITHHELD = "shown with a security label that the feed skips"

_SOURCES = {Kind.NAMES: PatientSource.NAMES, Kind.BULK: PatientSource.BULK}
"""Who names a patient by showing the Patient resource; any other target is a search."""


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
    """Names of all resources that the pass showed, see :func:`name_in`; absences are concluded from these."""
    counts: bool = False
    """Whether it counts as the whole read that the schedule owed; see :func:`poller.core.plan.counts_as_whole`."""
    outdated: bool = False
    """Whether an earlier batch of the pass left rows for another read."""
    window_from: dt.datetime | None = None
    """Where the first window beside this content read starts; content reads beside windows only."""
    judged: Sequence[str] = ()
    """Names that content reads had found before this window began: shown by it or not, they are settled with it; windows only."""
    orphaned: bool = False
    """Whether it was refused because its patient is gone: what it showed before is then asked for one by one."""


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
    baseline: frozenset[str] = frozenset()
    """Types whose finds are a baseline, whatever ``origin`` says of the others."""
    references: bool = True
    """Whether patients whom other resources name are noted."""
    missed_by: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By patient: keys of the targets that miss what this pass shows first and what goes before they have shown it; of passes that
    show no absence."""
    tells_window: Target | None = None
    """The window that must show what this pass finds changed, or windows miss changes; content reads beside windows only."""
    believes: frozenset[bytes] | None = None
    """Given: a resource that is shown with elements missing that are stored is left for a read of its id, and the batch for another pass,
    unless its digest is among these. For ways of reading that may show less than a resource's own read."""
    keep_absences: bool = False
    """For a confirming read: its caller settles the evidence itself."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a batch came to."""

    changes: tuple[tuple[Key, Decision], ...] = ()
    outdated: frozenset[Key] = field(default_factory=frozenset)
    """Left for another read: older, or possibly older, than what is stored."""
    new_patients: tuple[str, ...] = ()
    """Patients not known before."""
    doubted: tuple[Version, ...] = ()
    """Shown with elements missing, and so not believed; see :attr:`PassContext.believes`."""
    visits: tuple[Visit, ...] = ()
    """Of Encounters that are new or have changed, those still ahead or not long ago."""


def name_in(target: Target, key: Key) -> str:
    """How a target names a resource that it shows: by its id, with its type where it shows several."""
    return f"{key[0]}/{key[1]}" if target.kind.is_everything else key[1]


def key_in(target: Target, name: str) -> Key:
    """The inverse of :func:`name_in`."""
    if not target.kind.is_everything:
        return target.resource_type, name
    resource_type, _, id_ = name.partition("/")
    return resource_type, id_


def origin_in(context: PassContext, resource_type: str) -> Origin:
    """The origin of what a pass finds of a type."""
    return Origin.BASELINE if resource_type in context.baseline else context.origin


class Repository:
    """Records what was read. Safe to use from several threads."""

    def __init__(self, engine: Engine, digest_key: bytes, vault: Vault = PLAIN) -> None:
        self._engine = engine
        self._digest_key = digest_key
        self._vault = vault
        self._book = RuleBook(engine)

    def record(
        self, context: PassContext, versions: Sequence[Version], now: dt.datetime, end: PassEnd | None = None
    ) -> Recorded:
        """Compare a batch with the snapshot and commit what changed, together with the pass's end if this is its last batch.

        Raises LeaseLost, in which case nothing was written.
        """
        latest = {version.key: version for version in versions}
        self._book.numbers({version.rules for version in latest.values()})
        with self._engine.begin() as connection:
            differing, hiding, new_members = self._compare(connection, context, latest, now)
            if not differing and not new_members and end is None and not latest:
                return Recorded()
            hold_lease(connection, context.lease)
            if hiding:
                note_hidden(connection, context.lease.practice, self._vault, hiding, now)
            if not_wanted := _of_forgotten(connection, context.lease.practice, differing):
                latest = {key: version for key, version in latest.items() if key not in not_wanted}
                differing = {key: version for key, version in differing.items() if key not in not_wanted}
                new_members = [key for key in new_members if key not in not_wanted]
            recorded, writes = self._settle(connection, context, differing, now)
            # Right after the snapshots: its lock is the practice's, and two batches must not hold members and wait for it in a ring.
            if latest:
                new = self._note_patients(
                    connection, context, [latest[key] for key, _ in recorded.changes], new_members, now
                )
                recorded = replace(recorded, new_patients=tuple(new))
            self._note_members(connection, context, latest, new_members)
            if context.missed_by:
                self._insert_missed_by(connection, context, [latest[key] for key, _ in recorded.changes])
            if latest and not context.keep_absences:
                began = {"began": [version.began for version in latest.values()]}
                connection.execute(
                    sql("clear_absences"), {"practice": context.lease.practice} | columns.keys(list(latest)) | began
                )
            if context.tells_window is not None and recorded.changes:
                names = [
                    name_in(context.tells_window, key)
                    for key, _ in recorded.changes
                    if key[0] in context.tells_window.reads
                ]
                found = {"target": context.tells_window.key, "found": names}
                connection.execute(sql("tell_window"), {"practice": context.lease.practice} | found)
            # Before its own end makes this target one that has read them whole.
            news = self._news(connection, context, writes)
            if end is not None:
                self._end(connection, context, end, now, recorded)
            if writes:
                self._append(connection, context, writes, news, now)
        return recorded

    def note_withheld(self, context: PassContext, found: Sequence[Key], began: dt.datetime, now: dt.datetime) -> None:
        """Note as missing what is stored of these, which a pass has shown with labels that their feeds skip.

        A read of the id must show it again before it is deleted. To be called before the batch that shows them is recorded, whose end may
        move a cursor past them. Raises LeaseLost.
        """
        binds = self._target(context) | {"targets": [context.target.key] * len(found)}
        with self._engine.begin() as connection:
            hold_lease(connection, context.lease)
            times = {"began": began, "now": now, "reason": WITHHELD}
            connection.execute(sql("note_deleted"), binds | columns.keys(found) | times)

    def _note_members(
        self, connection: Connection, context: PassContext, latest: Mapping[Key, Version], new_members: Sequence[Key]
    ) -> None:
        if context.target.kind is Kind.BULK and latest and not context.keep_absences:
            shown_at = min(version.began for version in latest.values())
            connection.execute(
                sql("stamp_members"), self._target(context) | columns.keys(list(latest)) | {"began": shown_at}
            )
        elif new_members:
            connection.execute(sql("insert_members"), self._target(context) | columns.keys(new_members))

    @staticmethod
    def _insert_missed_by(connection: Connection, context: PassContext, changed: Sequence[Version]) -> None:
        by_target: dict[str, list[Key]] = {}
        for version in changed:
            for target in context.missed_by.get(version.detail.patient or "", ()):
                by_target.setdefault(target, []).append(version.key)
        for target, keys in sorted(by_target.items()):
            binds = {"practice": context.lease.practice, "target": target} | columns.keys(keys)
            connection.execute(sql("insert_members"), binds)

    def _target(self, context: PassContext) -> dict[str, Any]:
        return {"practice": context.lease.practice, "target": context.target.key}

    def _compare(
        self, connection: Connection, context: PassContext, latest: Mapping[Key, Version], now: dt.datetime
    ) -> tuple[dict[Key, Version], list[Version], list[Key]]:
        """What differs, what differs only in what noise rules hide, and what is to be noted as the target's."""
        if not latest:
            return {}, [], []
        members = (
            context.target.kind.tracks_members and context.target.kind is not Kind.BULK and not context.keep_absences
        )
        rows = connection.execute(
            sql("compare"),
            self._target(context)
            | columns.compared(list(latest.values()), self._book.numbers(()))
            | {"members": members, "now": now},
        ).all()
        differing = {(row.resource_type, row.id): latest[row.resource_type, row.id] for row in rows if row.differs}
        hiding = [latest[row.resource_type, row.id] for row in rows if row.hides and not row.differs]
        return differing, hiding, list(latest) if members and rows else []

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
        seal = self._vault.sealing(connection, context.lease.practice)
        stored = self._lock(connection, context, differing, seal)
        if doubted := _doubted(context, stored, differing):
            return Recorded(outdated=frozenset(differing), doubted=doubted), []
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
        common, numbers = practice | {"now": now}, self._book.numbers(())
        if first:
            binds = common | columns.snapshots(first, numbers, seal)
            inserted = {tuple(row) for row in connection.execute(sql("insert_snapshots"), binds)}
            if raced := {version.key for version, _ in first} - inserted:
                outdated |= raced
                first = [change for change in first if change[0].key in inserted]
                binds = common | columns.snapshots(first, numbers, seal)
            connection.execute(sql("insert_history"), binds)
        if later:
            binds = common | columns.snapshots(later, numbers, seal)
            connection.execute(sql("update_snapshots"), binds)
            connection.execute(sql("insert_history"), binds)
        changes = first + later
        writes = [
            (
                version,
                decision,
                stored[version.key].partition_key if version.key in stored else columns.partition_key(version),
            )
            for version, decision in changes
        ]
        named = [
            Named(*version.key, decision.version, partition_key, version.detail.attachments)
            for version, decision, partition_key in writes
            if version.detail.attachments is not None
        ]
        note_attachments(connection, context.lease.practice, named, now)
        visits = [version.detail.visit for version, _ in changes if version.detail.visit is not None]
        noted = note_visits(connection, context.lease.practice, visits, now)
        return Recorded(tuple((v.key, d) for v, d in changes), frozenset(outdated), visits=noted), writes

    def _lock(
        self, connection: Connection, context: PassContext, differing: Mapping[Key, Version], seal: Seal
    ) -> dict[Key, Stored]:
        practice = context.lease.practice
        rows = connection.execute(sql("lock_snapshots"), {"practice": practice} | columns.keys(sorted(differing)))
        stored = {(row.resource_type, row.id): stored_of(row) for row in rows}
        bodies = Bodies(connection, practice, self._vault, seal)
        return under_the_same(bodies, self._book, self._digest_key, stored, differing)

    def _note_patients(
        self,
        connection: Connection,
        context: PassContext,
        changed: Sequence[Version],
        new_members: Sequence[Key],
        now: dt.datetime,
    ) -> list[str]:
        """Note the patients whom a batch names for the first time; returns those who were not known at all."""
        source = _SOURCES.get(context.target.kind, PatientSource.SEARCH)
        shown = {id_ for resource_type, id_ in new_members if resource_type == "Patient"}
        shown |= {version.id for version in changed if version.resource_type == "Patient"}
        named = [(id_, source) for id_ in sorted(shown)]
        if context.references:
            by = PatientSource.DAYS if context.target.kind is Kind.DAYS else PatientSource.REFERENCE
            others = {version.detail.patient for version in changed if version.resource_type != "Patient"}
            named += [(id_, by) for id_ in sorted(id_ for id_ in others if id_ is not None)]
        if not named:
            return []
        return note_patients(connection, context.lease.practice, named, live=context.patients_live, now=now)

    def _end(
        self, connection: Connection, context: PassContext, end: PassEnd, now: dt.datetime, recorded: Recorded
    ) -> None:
        target = context.target
        pass_binds = self._target(context) | {"began": end.began, "now": now}
        if end.orphaned:
            connection.execute(sql("note_orphans"), pass_binds | {"types": list(target.reads)})
        elif end.coverage is Coverage.COMPLETE:
            self._note_missing(connection, target, end, pass_binds)
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
                "settled": [*end.judged, *end.seen] if target.kind.is_window else [],
                "read_types": list(target.types),
                "read_patients": len(target.patients),
            },
        )
        window = target.kind.window_beside
        if window is not None and end.counts and end.window_from is not None:
            connection.execute(
                sql("follow_sweep"),
                {
                    "practice": context.lease.practice,
                    "window": replace(target, kind=window).key,
                    "window_from": end.window_from,
                },
            )

    @staticmethod
    def _note_missing(connection: Connection, target: Target, end: PassEnd, binds: dict[str, Any]) -> None:
        """What a complete pass did not show of what it would have to."""
        if target.kind is Kind.SWEEP:
            connection.execute(
                sql("note_missing"), binds | {"resource_type": target.resource_type, "seen": list(end.seen)}
            )
        elif target.kind is Kind.BULK:
            connection.execute(sql("note_missing_bulk"), binds)
        elif target.kind.tracks_members:
            seen = [key_in(target, name) for name in end.seen]
            found = {"seen_types": [kind for kind, _ in seen], "seen": [id_ for _, id_ in seen]}
            connection.execute(sql("note_missing_members"), binds | found | {"types": list(target.reads)})

    @staticmethod
    def _news(
        connection: Connection, context: PassContext, writes: Sequence[tuple[Version, Decision, str]]
    ) -> set[tuple[str, str | None]]:
        """Types and patients of whom what a baseline creates is news after all: another target has read them whole before."""
        asked = sorted(
            {
                (version.resource_type, version.detail.patient)
                for version, _, _ in writes
                if version.detail.patient is not None and origin_in(context, version.resource_type) is Origin.BASELINE
            }
        )
        if not asked:
            return set()
        whose = {"types": [kind for kind, _ in asked], "patients": [patient for _, patient in asked]}
        return {
            tuple(row) for row in connection.execute(sql("read_whole"), {"practice": context.lease.practice} | whose)
        }

    def _append(
        self,
        connection: Connection,
        context: PassContext,
        writes: Sequence[tuple[Version, Decision, str]],
        news: Collection[tuple[str, str | None]],
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
                "origins": [
                    Origin.LIVE.value
                    if (version.resource_type, version.detail.patient) in news
                    else origin_of_change(origin_in(context, version.resource_type), decision.action).value
                    for version, decision, _ in writes
                ],
                "digests": [version.digest for version, _, _ in writes],
                "changed": [columns.names(decision.changed) for _, decision, _ in writes],
                "categories": [columns.names(version.detail.categories) for version, _, _ in writes],
                "statuses": [version.detail.status for version, _, _ in writes],
                "partition_keys": [partition_key for _, _, partition_key in writes],
                "last_modified": [version.detail.last_modified for version, _, _ in writes],
                "replaced_by": [version.detail.replaced_by for version, _, _ in writes],
            },
        )


def _of_forgotten(connection: Connection, practice: str, differing: Mapping[Key, Version]) -> set[Key]:
    """What is of patients who were forgotten: all of it is new to the store."""
    if not differing:
        return set()
    of = {key: version.detail.patient for key, version in differing.items() if version.detail.patient is not None}
    forgotten = forgotten_among(connection, practice, set(of.values()))
    return {key for key, patient in of.items() if patient in forgotten}


def _doubted(
    context: PassContext, stored: Mapping[Key, Stored], differing: Mapping[Key, Version]
) -> tuple[Version, ...]:
    """What lacks elements that the stored version has, where that is a reason for doubt."""
    if context.believes is None:
        return ()
    return tuple(
        version
        for key, version in sorted(differing.items())
        if (known := stored.get(key)) is not None
        and not known.deleted
        and known.elements.keys() - version.detail.elements.keys()
        and version.digest not in context.believes
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
        elements=orjson.loads(row.elements),
        rules_version=row.rules_version,
        read_ended=row.read_ended,
        entered_in_error=row.entered_in_error,
        replaced_by=row.replaced_by,
        partition_key=row.partition_key,
    )
