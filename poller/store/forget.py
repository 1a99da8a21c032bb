"""Forgetting a practice, or one of its patients: all that the database has of them, in one transaction."""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from poller.core.audit import WHOLE, Action, Entry
from poller.core.forget import Forgotten
from poller.errors import Code, NotFound, StoreError
from poller.store.audit import append
from poller.store.engine import sqlstate

_ALIVE = dt.timedelta(minutes=1)
"""A practice that a poller has looked after so lately may be under its hands."""

_TABLES = text("""
SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'practice' AND NOT a.attisdropped
WHERE n.nspname = 'poller' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY c.relname
""")

_STALE = """
SELECT DISTINCT format('ALTER TABLE poller.%I ALTER COLUMN %I TYPE %s', r.relname, a.attname, format_type(a.atttypid, a.atttypmod))
FROM pg_stats AS s
JOIN pg_class AS c ON c.relnamespace = 'poller'::regnamespace AND c.relname = s.tablename AND c.reltuples = 0
JOIN pg_class AS r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid)
JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attname = s.attname
LEFT JOIN pg_partitioned_table AS p ON p.partrelid = r.oid
WHERE s.schemaname = 'poller' AND NOT coalesce(a.attnum = ANY (p.partattrs::smallint[]), false)
ORDER BY 1
"""
"""Statements that give columns the type that they have, which changes nothing and drops their statistics: those of a table without rows
stay as they were through any ANALYZE."""

_IS_THEIRS = "(resource_type, id) IN (SELECT t.resource_type, t.id FROM theirs AS t)"
OF_PATIENT = {
    "absence": _IS_THEIRS,
    "attachment": "partition_key = :key",
    "control": "patient = :patient",
    "hidden": _IS_THEIRS,
    "history": _IS_THEIRS,
    "member": _IS_THEIRS,
    "patient": "id = :patient",
    "patient_source": "id = :patient",
    "replay": "selection ->> 'patient' = :patient OR EXISTS (SELECT FROM theirs AS t"
    " WHERE selection -> 'resources' @> jsonb_build_array(jsonb_build_array(t.resource_type, t.id)))",
    "snapshot": _IS_THEIRS,
    "target": "patient = :patient",
    "visit": "patient = :patient",
}
"""Which rows are a patient's, by table. The others have nothing of a single patient; but for the audit, which is kept."""

_THEIRS = """
CREATE TEMP TABLE theirs ON COMMIT DROP AS
SELECT resource_type, id FROM poller.snapshot WHERE practice = :practice AND partition_key = :key
UNION SELECT resource_type, id FROM poller.event WHERE practice = :practice AND partition_key = :key
UNION SELECT 'Binary', id FROM poller.attachment WHERE practice = :practice AND partition_key = :key
UNION SELECT 'Patient', :patient
"""

_WAITING = """
SELECT s.sink FROM poller.sink AS s
LEFT JOIN poller.cursor AS c ON c.sink = s.sink AND c.practice = :practice
WHERE s.sink = ANY (:configured) AND (
  c.snapshot_type IS NOT NULL
  OR EXISTS (SELECT FROM poller.parked AS p WHERE p.practice = :practice AND p.sink = s.sink AND {parked})
  OR EXISTS (
    SELECT FROM poller.event AS e
    WHERE e.practice = :practice AND (e.epoch, e.sequence) > (coalesce(c.epoch, 0), coalesce(c.sequence, 0)) AND {event}))
ORDER BY s.sink
"""
_OF_THEIRS = "({0}.resource_type, {0}.id) IN (SELECT t.resource_type, t.id FROM theirs AS t)"

_EMPTY = """
UPDATE poller.event
SET resource_type = '', id = '', event_id = gen_random_uuid(), digest = '\\x', changed = '{}', categories = '{}', status = NULL,
    partition_key = '', last_modified = NULL, evidence = NULL, replaced_by = NULL
WHERE practice = :practice AND (resource_type, id) IN (SELECT t.resource_type, t.id FROM theirs AS t)
"""
"""Places in the log stay, or the books of a sink that begins later would not balance; what stood there does not."""

_IN_AUDIT = """practice = :practice
OR practice = '*' AND jsonb_path_exists(scope, '$.** ? (@ == $p)', jsonb_build_object('p', CAST(:practice AS text)))"""
_LESS = """
UPDATE poller.audit SET scope = jsonb_set(scope, '{practices}', (scope -> 'practices') - CAST(:practice AS text))
WHERE practice = '*' AND scope -> 'practices' @> to_jsonb(CAST(:practice AS text))
  AND jsonb_array_length(CASE jsonb_typeof(scope -> 'practices') WHEN 'array' THEN scope -> 'practices' ELSE '[]' END) > 1
"""
"""What the audit says of several practices stays with the others."""
_OF_AUDIT = f"SELECT practice, number, at, login, actor, action, scope, reason FROM poller.audit WHERE {_IN_AUDIT} ORDER BY number"  # noqa: S608 - our own words


@dataclass
class Found:
    """What is kept of a practice beside its own rows."""

    configurations: list[tuple[int, str, str]]
    """Revision, poller's name and text of those that were accepted, the oldest first."""
    replay_queues: list[str]
    """That replays of no other practice were told to fill."""
    replay_files: list[str]
    audit: list[dict[str, Any]] = field(repr=False)
    """Its entries and those that name it, the oldest first."""
    rows: dict[str, int] = field(default_factory=dict)
    """How many have gone, by table."""


class ForgetStore:
    """Needs an engine of role ``poller_owner``: no other may take from what is only appended to."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def open(self, practice: str) -> Iterator[Forgetting]:
        """A transaction that no poller writes beside, for this practice; whatever the block raises keeps everything.

        Raises NotFound where there is nothing of the practice.
        """
        with self._engine.begin() as connection:
            binds = {"practice": practice}
            # As whoever takes the lease over: a batch that is being written ends first, and the next one finds another epoch, or none.
            locks = (
                "lease WHERE practice = :practice FOR UPDATE",
                "practice_log WHERE practice = :practice FOR UPDATE",
            )
            held = [connection.execute(text(f"SELECT practice FROM poller.{lock}"), binds).first() for lock in locks]  # noqa: S608
            if not any(held) and not connection.execute(text(_OF_AUDIT), binds).first():
                raise NotFound(f"there is nothing of practice {practice} in the store")
            yield Forgetting(connection, practice)

    def vacuum(self) -> None:
        """Write all tables anew, and the statistics, which hold values too. Locks each table meanwhile. Raises StoreError."""
        try:
            self._vacuum()
        except DBAPIError as error:
            raise StoreError(
                f"the tables could not be written anew ({sqlstate(error)}); `VACUUM (FULL, ANALYZE)` does it",
                Code.STORE_ENDED,
            ) from None

    def _vacuum(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("RESET ROLE"))  # some catalogues are the login's to write anew, if anyone's
            connection.execute(text("VACUUM (FULL, ANALYZE)"))
            for (column,) in connection.execute(text(_STALE)).all():
                connection.execute(text(column))
            connection.execute(text("ANALYZE"))
            connection.execute(text("VACUUM (FULL) pg_statistic"))


class Forgetting:
    """One transaction of :meth:`ForgetStore.open`."""

    def __init__(self, connection: Connection, practice: str) -> None:
        self._connection = connection
        self._practice = practice

    def found(self) -> Found:
        """What is kept beside the practice's rows. Raises StoreError while a poller looks after the practice."""
        binds = {"practice": self._practice, "since": _ALIVE}
        alive = "SELECT FROM poller.heartbeat WHERE practice = :practice AND at > clock_timestamp() - CAST(:since AS interval)"
        if self._connection.execute(text(alive), binds).first() is not None:
            raise StoreError(
                f"a poller looks after practice {self._practice}, and would read it again: take the practice out of the configuration,"
                " `poller reload`, and wait a minute",
                Code.IN_USE,
            )
        queues = """
SELECT DISTINCT r.queue FROM poller.replay AS r
WHERE r.practice = :practice AND r.queue IS NOT NULL AND r.sink IS NULL
  AND NOT EXISTS (SELECT FROM poller.replay AS o WHERE o.queue = r.queue AND o.practice <> r.practice)
ORDER BY r.queue"""
        replayed = (
            "SELECT DISTINCT file FROM poller.replay WHERE practice = :practice AND file IS NOT NULL ORDER BY file"
        )
        return Found(
            self.accepted(),
            list(self._connection.execute(text(queues), binds).scalars()),
            list(self._connection.execute(text(replayed), binds).scalars()),
            [dict(row) for row in self._connection.execute(text(_OF_AUDIT), binds).mappings()],
        )

    def accepted(self) -> list[tuple[int, str, str]]:
        """Revision, poller's name and text of each configuration that was accepted, the oldest first."""
        rows = self._connection.execute(
            text("SELECT revision, name, written FROM poller.configuration ORDER BY revision")
        )
        return [(row.revision, row.name, row.written) for row in rows]

    def require_delivered(self, configured: Collection[str]) -> None:
        """Raises StoreError while a configured sink has not had all of the practice: its relay would send it after this."""
        binds = {"practice": self._practice, "configured": list(configured)}
        found = (
            self._connection.execute(text(_WAITING.format(parked="p.released", event="true")), binds).scalars().all()
        )
        if found:
            raise StoreError(
                f"events of practice {self._practice} wait for: {', '.join(found)}. Let them go out, or take the sink out of the"
                " configuration; see `poller sinks list`",
                Code.IN_USE,
            )

    def forget(self, who: Forgotten, found: Found, revisions: Collection[int], sinks: Collection[str]) -> None:
        """Delete all of the practice, accepted configurations, and sinks that were of it alone."""
        binds: dict[str, Any] = {"practice": self._practice, "revisions": list(revisions), "sinks": list(sinks)}
        self._connection.execute(text("SELECT set_config('poller.audit_forgets', :practice, true)"), binds)
        self._remember(binds)
        self._connection.execute(text(_LESS), binds)
        for table in self._connection.execute(_TABLES).scalars().all():
            found.rows[table] = self._delete(table, _IN_AUDIT if table == "audit" else "practice = :practice", binds)
        self._connection.execute(text("SELECT set_config('poller.audit_forgets', '', true)"))
        found.rows["configuration"] = self._delete("configuration", "revision = ANY (:revisions)", binds)
        free = (
            "NOT EXISTS (SELECT FROM poller.cursor AS c WHERE c.sink = s.sink)"
            " AND NOT EXISTS (SELECT FROM poller.parked AS p WHERE p.sink = s.sink)"
        )
        found.rows["sink"] = self._delete("sink AS s", f"s.sink = ANY (:sinks) AND {free}", binds)
        named = "practices @> ARRAY[CAST(:practice AS text)]"
        found.rows["token"] = self._delete("token", f"{named} AND cardinality(practices) = 1", binds)
        fewer = f"UPDATE poller.token SET practices = array_remove(practices, CAST(:practice AS text)) WHERE {named}"  # noqa: S608 - our own words
        found.rows["token"] += self._connection.execute(text(fewer), binds).rowcount
        self._note(WHOLE, who, {"rows": sum(found.rows.values())})

    def forget_patient(self, who: Forgotten, configured: Collection[str]) -> dict[str, int]:
        """Delete all of a patient, and keep a salted digest of the id, so that nobody takes them up again. Returns rows by table.

        Raises NotFound for a patient of whom there is nothing, StoreError while one of these sinks has not had all of their events.
        """
        binds: dict[str, Any] = {"practice": self._practice, "patient": who.patient, "key": f"Patient/{who.patient}"}
        binds["configured"] = list(configured)
        self._connection.execute(text(_THEIRS), binds)
        theirs = _WAITING.format(parked=_OF_THEIRS.format("p"), event=_OF_THEIRS.format("e"))
        if waiting := self._connection.execute(text(theirs), binds).scalars().all():
            raise StoreError(
                f"events of the patient wait, or are parked, for: {', '.join(waiting)}. Let them go out, or release or discard what is"
                " parked; see `poller sinks list`",
                Code.IN_USE,
            )
        rows = {
            table: self._delete(table, f"practice = :practice AND ({which})", binds)
            for table, which in OF_PATIENT.items()
        }
        rows["event"] = self._connection.execute(text(_EMPTY), binds).rowcount
        for table in ("snapshot", "event"):  # of patients who were merged into this one
            merged = (
                f"UPDATE poller.{table} SET replaced_by = 'unknown' WHERE practice = :practice AND replaced_by = :key"  # noqa: S608
            )
            self._connection.execute(text(merged), binds)
        if not any(rows.values()):
            raise NotFound(f"there is nothing of that patient in practice {self._practice}")
        learned = "UPDATE poller.planning SET state = state #- ARRAY['patients', CAST(:patient AS text)] WHERE practice = :practice"
        self._connection.execute(text(learned), binds)
        # Whoever reads the practice has the patient's searches in memory: as if taken over, it begins anew, with what is in the store.
        self._connection.execute(text("UPDATE poller.lease SET epoch = epoch + 1 WHERE practice = :practice"), binds)
        salt = secrets.token_bytes(16)
        remember = text("INSERT INTO poller.forgotten (practice, salt, digest) VALUES (:practice, :salt, :digest)")
        self._connection.execute(remember, binds | {"salt": salt, "digest": digest_of(salt, who.patient or "")})
        self._note(self._practice, who, {"patient": who.patient, "rows": sum(rows.values())})
        return rows

    def _remember(self, binds: dict[str, Any]) -> None:
        """Of the practice, that it was, and up to where its epochs, versions and leases went."""
        salt = secrets.token_bytes(16)
        keep = """
INSERT INTO poller.former (salt, digest, epoch, version_floor, lease)
SELECT :salt, :digest, coalesce((SELECT l.epoch FROM poller.practice_log AS l WHERE l.practice = :practice), 0),
       1 + greatest((SELECT max(h.version) FROM poller.history AS h WHERE h.practice = :practice),
                    (SELECT max(s.version) FROM poller.snapshot AS s WHERE s.practice = :practice),
                    (SELECT l.version_floor FROM poller.practice_log AS l WHERE l.practice = :practice), 0),
       coalesce((SELECT e.epoch FROM poller.lease AS e WHERE e.practice = :practice), 0)"""
        self._connection.execute(text(keep), binds | {"salt": salt, "digest": digest_of(salt, self._practice)})

    def _delete(self, table: str, which: str, binds: dict[str, Any]) -> int:
        return self._connection.execute(text(f"DELETE FROM poller.{table} WHERE {which}"), binds).rowcount  # noqa: S608 - our own names

    def _note(self, practice: str, who: Forgotten, scope: dict[str, Any]) -> None:
        append(self._connection, Entry(practice, who.actor, Action.FORGET, scope, who.reason))


def digest_of(salt: bytes, name: str) -> bytes:
    """By which a patient or a practice is known again; as ``new_patient_sources.sql`` and ``register_practice.sql`` make it."""
    return hashlib.sha256(salt + name.encode()).digest()


def forgotten_among(connection: Connection, practice: str, patients: Collection[str]) -> set[str]:
    """Those of ``patients`` who were forgotten. In a transaction that holds the lease, no one more can be meanwhile."""
    rows = connection.execute(
        text("SELECT salt, digest FROM poller.forgotten WHERE practice = :practice"), {"practice": practice}
    ).all()
    return (
        {patient for patient in patients if any(digest_of(row.salt, patient) == row.digest for row in rows)}
        if rows
        else set()
    )
