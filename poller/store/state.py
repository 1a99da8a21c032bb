"""What is known of practices, feeds and targets, and who may write for them."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from poller.core import jsontext
from poller.core.ladder import Bar, Footing
from poller.core.model import EVERY_TYPE, Kind, Strategy, Target
from poller.core.pause import Pause
from poller.core.plan import PatientState, TargetState
from poller.errors import LeaseTaken
from poller.store.engine import reading, sql
from poller.store.known import PatientSource, note_patients
from poller.store.repository import Lease, hold_lease


@dataclass(frozen=True, slots=True)
class FeedState:
    """What the probe decided for a feed."""

    resource_type: str
    strategy: Strategy | None
    reason: str
    probed_at: dt.datetime | None
    stepped_down_at: dt.datetime | None
    found_by_sweep: int
    offers: tuple[Strategy, ...] = ()
    bars: Mapping[Strategy, Bar] = field(default_factory=dict)


class Progress(StrEnum):
    """How far the first reading of a feed has come."""

    NONE = "none"
    PARTIAL = "partial"
    WHOLE = "whole"


Groups = Mapping[str, tuple[str, ...]]
"""Group → the patients in it."""


class LeaseKeeper:
    """Holds a practice for as long as this process lives.

    A session-level advisory lock is the lease: Postgres frees it the moment the process or its connection dies, so that a restart takes
    over at once. The epoch in the lease's row fences whoever held it before, should that one wake up again. It needs a session of its
    own: a pooler in transaction mode between us and Postgres would break it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._taken: Counter[str] = Counter()
        """By practice, how often this session has taken it: as often it is to be given back."""
        self._guard = threading.Lock()

    def take(self, practice: str) -> Lease:
        """Take the practice. Raises LeaseTaken while another process holds it."""
        with self._guard:
            connection = self._standing()
            if connection is None:
                connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                connection.detach()  # its session is the lease; the pool must not recycle it
                self._connection = connection
            lease = self._take(connection, practice)
            self._taken[practice] += 1
            return lease

    @staticmethod
    def _take(connection: Connection, practice: str) -> Lease:
        lock = text("SELECT pg_try_advisory_lock(hashtextextended('poller.lease:' || :practice, 0))")
        if not connection.execute(lock, {"practice": practice}).scalar_one():
            raise LeaseTaken(
                f"practice {practice} is held by another poller; stop that one, or leave the practice to it"
            )
        epoch = connection.execute(sql("take_lease"), {"practice": practice}).scalar_one()
        return Lease(practice, epoch)

    def release(self, practice: str) -> None:
        """Give one practice back, however often it was taken."""
        with self._guard:
            connection = self._standing()
            unlock = text("SELECT pg_advisory_unlock(hashtextextended('poller.lease:' || :practice, 0))")
            for _ in range(self._taken.pop(practice, 0)):
                if connection is not None:
                    connection.execute(unlock, {"practice": practice})

    def alive(self) -> bool:
        """Whether the session that holds the leases still exists."""
        with self._guard:
            return self._standing() is not None

    def _standing(self) -> Connection | None:
        """The session, if it still answers. One that broke is let go: SQLAlchemy would open another in its place, without the locks."""
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
            except DBAPIError:
                self._connection.close()
                self._connection = None
                self._taken.clear()
        return self._connection

    def close(self) -> None:
        """Give everything back."""
        with self._guard:
            if self._connection is not None:
                with contextlib.suppress(DBAPIError):  # a session that is gone has given everything back already
                    self._connection.execute(text("SELECT pg_advisory_unlock_all()"))
                self._connection.close()
                self._connection = None


class StateStore:
    """Feeds, targets and patients. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register_practice(self, lease: Lease) -> None:
        """Make the practice's log, once."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(sql("register_practice"), {"practice": lease.practice})

    def register_feed(self, lease: Lease, resource_type: str, now: dt.datetime) -> FeedState:
        """Make the feed known, once, and return what was decided for it before."""
        return self.register_feeds(lease, [resource_type], now)[resource_type]

    def register_feeds(self, lease: Lease, resource_types: Sequence[str], now: dt.datetime) -> dict[str, FeedState]:
        """The same for several at once, by type: where a thousand practices begin together, each way to Postgres counts."""
        binds = {"practice": lease.practice, "types": list(resource_types), "now": now}
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text(
                    "INSERT INTO poller.feed AS f (practice, resource_type, registered_at)"
                    " SELECT :practice, t, :now FROM unnest(CAST(:types AS text[])) AS t"
                    " ON CONFLICT (practice, resource_type) DO UPDATE SET retired_at = NULL WHERE f.retired_at IS NOT NULL"
                ),
                binds,
            )
            rows = connection.execute(
                text(
                    "SELECT resource_type, strategy, reason, probed_at, stepped_down_at, found_by_sweep, offers, bars FROM poller.feed"
                    " WHERE practice = :practice AND resource_type = ANY (CAST(:types AS text[]))"
                ),
                binds,
            ).all()
        return {row.resource_type: _feed_state(row) for row in rows}

    def save_rung(
        self,
        lease: Lease,
        resource_type: str,
        footing: Footing,
        reason: str,
        evidence: Mapping[str, Any],
        now: dt.datetime,
    ) -> None:
        """Keep on which rung a feed stands, what else was proven, which rungs are barred, and why."""
        bars = {
            rung.value: {"reason": bar.reason, "until": bar.until.isoformat()} for rung, bar in footing.bars.items()
        }
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text(
                    "UPDATE poller.feed SET strategy = :strategy, reason = :reason, evidence = CAST(:evidence AS jsonb), probed_at = :now,"
                    " stepped_down_at = NULL, offers = CAST(:offers AS text[]), bars = CAST(:bars AS jsonb), advice = NULL,"
                    " refused_since = NULL WHERE practice = :practice AND resource_type = :resource_type"
                ),
                {
                    "practice": lease.practice,
                    "resource_type": resource_type,
                    "strategy": footing.strategy.value if footing.strategy is not None else None,
                    "offers": [rung.value for rung in footing.offers],
                    "bars": jsontext.dumps(bars).decode(),
                    "reason": reason,
                    "evidence": jsontext.dumps(dict(evidence)).decode(),
                    "now": now,
                },
            )

    def refuse(self, lease: Lease, resource_type: str, reason: str, advice: str | None, now: dt.datetime) -> None:
        """Keep why a feed cannot be read by any way, and what an operator may do."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text(
                    "UPDATE poller.feed SET reason = :reason, advice = :advice, refused_since = coalesce(refused_since, :now)"
                    " WHERE practice = :practice AND resource_type = :resource_type"
                ),
                {
                    "practice": lease.practice,
                    "resource_type": resource_type,
                    "reason": reason,
                    "advice": advice,
                    "now": now,
                },
            )

    def step_down(self, lease: Lease, resource_type: str, missed: int, now: dt.datetime) -> None:
        """Note that a feed leaves its rung, and how many changes windows had missed by then."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text(
                    "UPDATE poller.feed SET stepped_down_at = :now, found_by_sweep = found_by_sweep + :missed"
                    " WHERE practice = :practice AND resource_type = :resource_type"
                ),
                {"practice": lease.practice, "resource_type": resource_type, "missed": missed, "now": now},
            )

    def save_pauses(self, lease: Lease, pauses: Mapping[str, Pause]) -> None:
        """Make exactly these the pauses of a practice and its feeds, by feed; ``*`` is the whole practice."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text("DELETE FROM poller.pause WHERE practice = :practice"), {"practice": lease.practice}
            )
            for feed, held in pauses.items():
                connection.execute(
                    text(
                        "INSERT INTO poller.pause (practice, resource_type, since, reason, tries, next_try_at)"
                        " VALUES (:practice, :feed, :since, :reason, :tries, :next_try)"
                    ),
                    {
                        "practice": lease.practice,
                        "feed": feed,
                        "since": held.since,
                        "reason": held.words,
                        "tries": held.tries,
                        "next_try": held.next_try,
                    },
                )

    def pauses(self, practice: str) -> dict[str, Pause]:
        """The pauses that were in force when this was last written, by feed."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                text(
                    "SELECT resource_type, since, reason, tries, next_try_at FROM poller.pause WHERE practice = :practice"
                ),
                {"practice": practice},
            ).all()
        return {
            row.resource_type: Pause.recalled(row.since, row.reason, row.tries, row.next_try_at or row.since)
            for row in rows
        }

    def know_patient(self, lease: Lease, id_: str, now: dt.datetime) -> None:
        """Keep a patient whom the source has shown when it was asked by id; new in the practice, if not known before."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            note_patients(connection, lease.practice, [(id_, PatientSource.SEARCH)], live=True, now=now)

    def register_targets(self, lease: Lease, resource_type: str, targets: Sequence[Target], now: dt.datetime) -> None:
        """Make exactly these the feed's targets: new ones are added, others retired, known ones keep their state.

        What is stored of their patients belongs to those that are new, have come back, or read more than before.
        """
        feed = {"practice": lease.practice, "resource_type": resource_type}
        binds = feed | {
            "now": now,
            "targets": [target.key for target in targets],
            "kinds": [target.kind.value for target in targets],
            "categories": [target.category for target in targets],
            "patients": [target.patient for target in targets],
            "types": [",".join(target.types) for target in targets],
            "populations": [len(target.patients) for target in targets],
        }
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            whole = _progress(connection, feed) is Progress.WHOLE
            changed = set(connection.execute(sql("register_targets"), binds | {"whole": whole}).scalars())
            connection.execute(sql("retire_targets"), binds)
            _seed_members(connection, lease.practice, [target for target in targets if target.key in changed])

    def seed(self, lease: Lease, targets: Sequence[Target]) -> None:
        """Give targets what is stored of their patients, by whatever it was shown: what has gone since is missing from their next pass."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            _seed_members(connection, lease.practice, targets)

    def register_bulk(self, lease: Lease, resource_types: Sequence[str], now: dt.datetime) -> None:
        """Make the targets known that stand for what bulk exports show of these types."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            for resource_type in resource_types:
                target = Target(lease.practice, resource_type, Kind.BULK)
                connection.execute(
                    text(
                        "INSERT INTO poller.target (practice, target, resource_type, kind, live, registered_at)"
                        " VALUES (:practice, :target, :resource_type, 'bulk', false, :now) ON CONFLICT DO NOTHING"
                    ),
                    {"practice": lease.practice, "target": target.key, "resource_type": resource_type, "now": now},
                )

    def enliven(self, lease: Lease, resource_type: str) -> None:
        """Take what differs from an export that has shown all of a type for news, also where a target was never read before."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(sql("enliven_targets"), {"practice": lease.practice, "resource_type": resource_type})

    def progress(self, practice: str, resource_type: str) -> Progress:
        """How far the first reading of a feed has come, by whatever strategies."""
        with reading(self._engine) as connection:
            return _progress(connection, {"practice": practice, "resource_type": resource_type})

    def retire_feeds(self, lease: Lease, kept: Sequence[str], now: dt.datetime) -> None:
        """Retire feeds that the configuration no longer names, and their targets; those that read several types follow from the rungs."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(
                text(
                    "UPDATE poller.feed SET retired_at = :now WHERE practice = :practice AND retired_at IS NULL"
                    " AND NOT (resource_type = ANY (CAST(:kept AS text[])))"
                ),
                {"practice": lease.practice, "kept": list(kept), "now": now},
            )
            connection.execute(
                text(
                    "UPDATE poller.target SET retired_at = :now WHERE practice = :practice AND retired_at IS NULL"
                    " AND NOT (resource_type = ANY (CAST(:kept AS text[])))"
                ),
                {"practice": lease.practice, "kept": [*kept, EVERY_TYPE], "now": now},
            )

    def targets(
        self, practice: str, names: Sequence[str], key: str | None = None, groups: Groups | None = None
    ) -> list[TargetState]:
        """The targets in force, or the one with this key; ``names`` are the prefixes of enumerating ones, ``groups`` who is in which."""
        with reading(self._engine) as connection:
            rows = connection.execute(sql("load_targets"), {"practice": practice, "target": key}).all()
        return [
            TargetState(
                target=Target(
                    practice,
                    row.resource_type,
                    Kind(row.kind),
                    row.category,
                    row.patient,
                    tuple(names) if row.kind == Kind.NAMES else (),
                    (groups or {}).get(row.patient, ()) if row.kind == Kind.PATIENTS else (),
                    tuple(row.types),
                ),
                registered_at=row.registered_at,
                live=row.live,
                baseline_at=row.baseline_at,
                cursor_at=row.cursor_at,
                last_began=row.last_began,
                complete_began=row.complete_began,
                failures=row.failures,
                unproven_streak=row.unproven_streak,
                reread=row.reread,
                sweep_found=tuple(row.sweep_found),
                known=frozenset(row.known),
                orphan=row.gone,
            )
            for row in rows
        ]

    def patients(self, practice: str) -> list[PatientState]:
        """The patients whose resources are to be read, in the order in which they were found."""
        with reading(self._engine) as connection:
            rows = connection.execute(sql("load_patients"), {"practice": practice})
            return [PatientState(row.id, row.ordinal, row.gone, row.enumerated) for row in rows]


def _feed_state(row: Any) -> FeedState:
    bars = {
        Strategy(rung): Bar(bar["reason"], dt.datetime.fromisoformat(bar["until"])) for rung, bar in row.bars.items()
    }
    return FeedState(
        row.resource_type,
        Strategy(row.strategy) if row.strategy else None,
        row.reason or "",
        row.probed_at,
        row.stepped_down_at,
        row.found_by_sweep,
        tuple(Strategy(rung) for rung in row.offers),
        bars,
    )


def _progress(connection: Connection, feed: dict[str, Any]) -> Progress:
    row = connection.execute(sql("baseline_progress"), feed).one()
    if not row.read:
        return Progress.NONE
    return Progress.PARTIAL if row.unread else Progress.WHOLE


def _seed_members(connection: Connection, practice: str, targets: Sequence[Target]) -> None:
    """Give targets that read patients what is stored of them."""
    pairs = [
        (target, patient)
        for target in targets
        if target.kind in {Kind.PATIENT, Kind.PATIENTS, Kind.EVERYTHING}
        for patient in target.patients or ((target.patient,) if target.patient is not None else ())
    ]
    for types in {target.reads for target, _ in pairs}:
        of_types = [(target, patient) for target, patient in pairs if target.reads == types]
        connection.execute(
            sql("seed_members"),
            {
                "practice": practice,
                "types": list(types),
                "targets": [target.key for target, _ in of_types],
                "patients": [patient for _, patient in of_types],
                "categories": [target.category for target, _ in of_types],
            },
        )
