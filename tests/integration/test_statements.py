"""Every statement's plan on 20,000 resources: none on the hot path reads a whole table, or more pages than its input calls for."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, text

from poller.store.engine import open_engine, sql
from poller.store.log import _EVERYTHING, IN_LOG_ORDER
from poller.store.verify import MAKE_VERIFIED

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
PRACTICE = {"practice": "p1"}
PRACTICES = {"practices": ["p1", "p2"]}
GRANT = {"practices": ["p1"], "wants": [4], "raise": 1e-4, "block": dt.timedelta(seconds=1)} | {
    key: [dt.timedelta(seconds=1)] for key in ("gaps", "leads", "horizons")
}
LARGE = ("snapshot", "history", "event", "member", "attachment", "visit", "parked", "parking", "audit")

FILL = """
SELECT poller.ensure_partitions('2026-11-22');
INSERT INTO poller.practice_log (practice, head) SELECT 'p' || n, 20000 FROM generate_series(1, 3) AS n;
INSERT INTO poller.lease SELECT 'p' || n, 1, now() FROM generate_series(1, 3) AS n;
INSERT INTO poller.feed (practice, resource_type, registered_at)
SELECT 'p' || n, t, now() FROM generate_series(1, 3) AS n, unnest(ARRAY['Observation', 'Patient']) AS t;
INSERT INTO poller.patient
SELECT 'p1', 'a' || n, false, '2026-11-01', CASE WHEN n % 50 = 0 THEN now() END, n FROM generate_series(1, 1000) AS n;
INSERT INTO poller.patient_source
SELECT 'p1', 'a' || n, s, '2026-11-01', '2026-11-22' FROM generate_series(1, 1000) AS n, unnest(ARRAY['names', 'reference']) AS s;
INSERT INTO poller.target (practice, target, resource_type, kind, patient, live, registered_at, last_began)
SELECT 'p1', 'Observation/-/patient/a' || n, 'Observation', 'patient', 'a' || n, false, now(), CASE WHEN n > 20 THEN now() END
FROM generate_series(1, 1000) AS n;
INSERT INTO poller.target (practice, target, resource_type, kind, live, registered_at)
VALUES ('p1', 'Observation/-/window/-', 'Observation', 'window', false, now());
CREATE TEMP TABLE made AS
SELECT CASE WHEN n <= 1000 THEN 'Patient' ELSE 'Observation' END AS resource_type,
       CASE WHEN n <= 1000 THEN 'a' || n ELSE 'o' || n END AS id,
       'Patient/a' || (n % 1000 + 1) AS partition_key,
       'p' || (CASE WHEN n % 20 = 0 THEN 2 ELSE 1 END) AS practice,
       sha256(n::text::bytea) AS digest,
       decode(repeat(md5(n::text), 20), 'hex') AS body,
       timestamptz '2026-10-05 00:00Z' + n * interval '3 minutes' AS recorded_at,
       n
FROM generate_series(1, 20000) AS n;
INSERT INTO poller.snapshot (practice, resource_type, id, version, deleted, digest, elements, rules_version, codec, body, categories,
  partition_key, entered_in_error, read_began, read_ended, first_seen_at, changed_at)
SELECT practice, resource_type, id, 1, n % 100 = 0, digest, json_build_object('status', md5(n::text), 'value', md5(id)), 1, 1, body, '{}',
  partition_key, false, recorded_at, recorded_at, recorded_at, recorded_at
FROM made;
INSERT INTO poller.history
SELECT practice, resource_type, id, 1, recorded_at, 'created', digest, 1, 1, NULL, body, recorded_at, recorded_at FROM made;
INSERT INTO poller.event
SELECT practice, 1, row_number() OVER (PARTITION BY practice ORDER BY n), recorded_at, gen_random_uuid(), resource_type, id, 1,
  CASE WHEN n % 100 = 0 THEN 'deleted' ELSE 'created' END, 'live', digest, '{}', '{}', NULL, partition_key, NULL, NULL, NULL
FROM made;
INSERT INTO poller.member
SELECT practice, 'Observation/-/patient/' || substr(partition_key, 9), resource_type, id FROM made WHERE resource_type = 'Observation';
INSERT INTO poller.absence
SELECT practice, resource_type, id, 't', CASE WHEN n % 300 = 7 THEN 'held' ELSE 'missing' END, '', now(), '2026-11-01', 1, 0, n % 3
FROM made WHERE n % 100 = 7;
INSERT INTO poller.attachment
SELECT practice, 'b' || n / 2, resource_type, id, 1, partition_key,
  CASE WHEN n % 400 IN (22, 23) THEN 'wanted' WHEN n % 400 = 42 THEN 'refused' WHEN n % 400 = 63 THEN 'dropped' ELSE 'fetched' END,
  1000, 0, recorded_at
FROM made WHERE resource_type = 'Observation' AND n > 10000;
INSERT INTO poller.visit
SELECT 'p' || (n % 2 + 1), 'e' || n, 'a' || n, timestamptz '2026-11-01' + n * interval '3 minutes', 'AMB', 'finished'
FROM generate_series(1, 20000) AS n;
INSERT INTO poller.sink SELECT 's' || n, 'beginning', now() FROM generate_series(1, 3) AS n;
INSERT INTO poller.parking (practice, sink, epoch, sequence, actor, reason, met_at)
SELECT 'p' || n % 3, 's1', 1, n, 'a', '', CASE WHEN n > 20 THEN now() END FROM generate_series(1, 20000) AS n;
INSERT INTO poller.engine (host, pid) SELECT 'h', n FROM generate_series(1, 20) AS n;
INSERT INTO poller.control (practice, action, resource_type, actor, reason)
SELECT 'p' || n % 3, 'pause', '*', 'a', '' FROM generate_series(1, 5000) AS n;
INSERT INTO poller.control_answer SELECT practice, control, 1 + control % 20, CASE WHEN control > 4990 THEN 'waiting' ELSE 'done' END
FROM poller.control;
INSERT INTO poller.operator_pause SELECT 'p' || n % 300, 'T' || n, 1, now(), NULL, 'a', '' FROM generate_series(1, 900) AS n;
INSERT INTO poller.configuration (name, digest, written, actor, reason)
SELECT 'n' || n % 5, sha256(n::text::bytea), repeat('x', 4000), 'a', '' FROM generate_series(1, 500) AS n;
INSERT INTO poller.audit (practice, at, actor, action, scope, reason)
SELECT 'p' || n % 7, timestamptz '2026-10-05 00:00Z' + n * interval '3 minutes', 'me', 'why', '{"resource": "Observation/o1"}', ''
FROM generate_series(1, 20000) AS n;
INSERT INTO poller.practice_key SELECT 'p' || n % 300, 1 + n / 300, 'w', 'k1' FROM generate_series(1, 900) AS n;
INSERT INTO poller.cursor SELECT 's' || n, 'p1', 1, 10, NULL, now() FROM generate_series(1, 3) AS n;
UPDATE poller.sink SET start = 'snapshot' WHERE sink <> 's1';
INSERT INTO poller.parked
SELECT practice, sink, epoch, sequence, 0, resource_type, id, 'unroutable', sequence % 10 = 0, now()
FROM poller.event, unnest(ARRAY['s1', 's2', 's3']) AS sink
WHERE practice = 'p1' AND (sequence BETWEEN 1 AND 400 AND sequence % 4 = 0 OR sink <> 's1' AND sequence < 8000);
"""


@pytest.fixture(scope="module")
def filled(postgres_server: str, template_database: str) -> Iterator[Connection]:
    """A connection, as the owner of everything, to a database that holds 20,000 resources and knows its own statistics."""
    name = f"poller_plans_{uuid.uuid4().hex[:12]}"
    with closing(psycopg.connect(postgres_server, autocommit=True)) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
    url = make_conninfo(postgres_server, dbname=name)
    with closing(psycopg.connect(url, autocommit=True)) as admin:
        admin.execute(FILL)
        admin.execute("VACUUM ANALYZE")
    engine = open_engine(url, None)
    with engine.connect() as connection:
        connection.execute(text(MAKE_VERIFIED))
        connection.execute(
            text("INSERT INTO verified SELECT 'Observation', 'o' || n, 'equal' FROM generate_series(1001, 15000) AS n")
        )
        connection.execute(text("ANALYZE verified"))
        connection.commit()
        yield connection
    engine.dispose()
    with closing(psycopg.connect(postgres_server, autocommit=True)) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def rows(count: int) -> dict[str, Any]:
    """A batch of resources that the snapshot knows."""
    numbers = [n for n in range(1001, 20001) if n % 20][:: 19000 // count][:count]
    return {"types": ["Observation"] * len(numbers), "ids": [f"o{n}" for n in numbers]}


def versions(count: int, prefix: str = "", unfiltered: bytes | None = None) -> dict[str, Any]:
    batch = rows(count)
    size = len(batch["ids"])
    return (
        batch
        | {"ids": [prefix + id_ for id_ in batch["ids"]]}
        | {
            name: [value] * size
            for name, value in {
                "versions": 2,
                "digests": b"d" * 32,
                "rules": 1,
                "unfiltered": unfiltered,
                "paths": '{"meta.tag"}',
                "elements": '{"status": "1"}',
                "codecs": 1,
                "bodies": b"b" * 600,
                "last_modified": NOW,
                "replaced_by": None,
                "categories": '{"laboratory"}',
                "statuses": "final",
                "partition_keys": "Patient/a1",
                "entered_in_error": False,
                "read_began": NOW,
                "read_ended": NOW,
                "actions": "updated",
                "origins": "live",
                "changed": '{"status"}',
                "began": NOW,
            }.items()
        }
        | {"event_ids": [uuid.uuid4() for _ in range(size)]}
    )


OWNERS = {
    "owner_types": ["Observation"] * 50,
    "owner_ids": [f"o{n}" for n in range(15001, 15051)],
    "owner_versions": [2] * 50,
}
"""Notes that name attachments."""
WANTED = OWNERS | {
    "ids": [f"b{n // 2}" for n in range(15001, 15051)],
    "partition_keys": ["Patient/a1"] * 50,
    "states": ["wanted"] * 50,
    "sizes": [None] * 50,
}
ATTACHED = PRACTICE | {
    "target": "-/attachment",
    "now": NOW,
    "resource_type": "Observation",
    "owner_types": ["Observation"],
}
ONE = PRACTICE | {"resource_type": "Observation", "id": "o1007"}
TARGET = PRACTICE | {"target": "Observation/-/patient/a1"}
READ = _EVERYTHING | PRACTICE | {"limit": 500}
REGISTERED = PRACTICE | {
    "resource_type": "Observation",
    "now": NOW,
    "targets": [f"Observation/-/patient/a{n}" for n in range(1, 1002)],
    "kinds": ["patient"] * 1001,
    "categories": [None] * 1001,
    "patients": [f"a{n}" for n in range(1, 1002)],
    "types": [""] * 1001,
    "populations": [0] * 1001,
    "whole": False,
}
PASS = PRACTICE | {"resource_type": "Observation", "began": NOW, "now": NOW}
ALL_IDS = [f"o{n}" for n in range(1001, 20001) if n % 50]
NAMED = PRACTICE | {"ids": ["a7"], "sources": ["names"], "proving": ["names"], "live": True, "now": NOW}
ASKED = PRACTICE | {
    "action": "pause",
    "resource_type": "*",
    "patient": None,
    "actor": "a",
    "reason": "",
    "length": None,
    "engine": None,
}
OF_TYPE = {"types": ["Observation"]}
BATCH = {"now": NOW} | PRACTICE
VISITS = PRACTICE | {"since": NOW - dt.timedelta(days=4), "until": NOW + dt.timedelta(days=1)}
SEEN = {
    "ids": [f"e{n}" for n in range(19990, 20040)],
    "patients": ["a1"] * 50,
    "starts": [NOW] * 50,
    "kinds": ["AMB"] * 50,
    "statuses": ["planned"] * 50,
}
EXPORT = (
    {"job": uuid.uuid4(), "group_id": "g", "types": ["Observation"], "since": None, "purpose": "first-load", "polls": 1}
    | {"state": "ready", "poll_url": "u", "started_at": NOW, "polled_at": NOW, "next_poll_at": None, "rows": 1}
    | {"transaction_time": NOW, "manifest": "{}", "files_done": ["output/0"], "failure": None, "ended_at": None}
)

SINK = PRACTICE | {"sink": "s1"}
ANY: dict[str, Any] = {"resource_type": None, "id": None}
PLACE = SINK | {"epoch": 1, "sequence": 100, "ordinal": 0, "resource_type": "Observation", "id": "o1106"}
BEGUN = {"sink": "new", "start": "beginning", "in_log": True, "snapshot": False}
PARKED = len(rows(50)["ids"])
PARKING = (
    SINK
    | rows(50)
    | {"epochs": [1] * PARKED, "sequences": list(range(9000, 9000 + PARKED)), "ordinals": [0] * PARKED}
    | {"reasons": ["unroutable"] * PARKED, "refused": [False] * PARKED, "released": [False] * PARKED}
)
SNAPSHOT = (
    PRACTICE
    | {"epoch": 1, "sequence": 18000, "after_type": "Observation", "after_id": "o1500", "limit": 500}
    | {
        "only_type": None,
        "only_id": None,
    }
)

HELD = PRACTICE | {"sink": "s1", "replay": "r"}
OF_TIME = PRACTICE | {
    "at": dt.datetime(2026, 11, 10, tzinfo=dt.UTC),
    "resource_type": None,
    "limit": 500,
    "bytes": 2**23,
}
SEALED = PRACTICE | {"after_type": "Observation", "after_id": "o15000", "sealed": 2, "limit": 500}
AUDITED = dict.fromkeys(("since", "until", "action", "actor")) | {"limit": 100}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    # statement, or "statement: case" → binds, and how many pages it may touch
    "register_practice": (PRACTICE, 20),
    "note_trouble": (SINK | {"reason": "unroutable"}, 20),
    "clear_trouble": (SINK, 20),
    "add_rules": ({"form": 1, "noise": ["meta.tag"]}, 200),
    "add_key": (SEALED | {"key_id": 9, "master": "k1", "wrapped": b"w" * 60}, 20),
    "newest_key": (SEALED, 10),
    "practice_keys": ({"practices": ["p1"]}, 20),
    "rewrap_key": (SEALED | {"key_id": 2, "former": b"w", "master": "k2", "wrapped": b"w" * 60}, 20),
    "seal_history": (versions(50) | PRACTICE | {"times": [NOW] * len(rows(50)["ids"])}, 1000),
    "seal_snapshots": (versions(50) | PRACTICE, 3000),
    "unsealed_history": (SEALED | {"after_version": 0}, 1500),
    "unsealed_snapshots": (SEALED, 2500),
    "advance_cursor": (
        SINK
        | {"from_epoch": 1, "from_sequence": 10, "from_ordinal": 0, "from_routed": None, "epoch": 1, "sequence": 20, "ordinal": 0}
        | {"routed": None, "delivered": 9, "filtered": 1, "snapshot_type": None, "snapshot_id": None},
        20,
    ),
    "begin_sink": (BEGUN | {"since": None}, 80),
    "begin_sink: from a time": (BEGUN | {"since": dt.datetime(2026, 11, 10, tzinfo=dt.UTC)}, 9000),
    "books": ({}, 400),
    "discard_parked": (SINK | {"epochs": [1] * 50, "sequences": list(range(100, 150)), "ordinals": [0] * 50}, 700),
    "list_parked": (SINK | ANY | {"limit": 100}, 300),
    "lock_cursor": (SINK, 10),
    "park": (PARKING, 1000),
    "park_again": (PLACE | {"reason": "unroutable"}, 40),
    "parked_among": (SINK | rows(500), 3000),
    "parked_released": (SINK | {"limit": 50}, 60),
    "read_snapshot": (SNAPSHOT, 4000),
    "read_snapshot: one": (SNAPSHOT | {"only_type": "Observation", "only_id": "o1007"}, 60),
    "release_parked": (SINK | ANY, 4000),
    "unpark": (SINK | {"epochs": [1] * 50, "sequences": list(range(100, 150)), "ordinals": [0] * 50}, 700),
    "append_events": (versions(50) | BATCH | {"previous_read": NOW, "evidence": None}, 3000),
    "block_practice": (PRACTICE | {"length": dt.timedelta(seconds=1), "part": 0.7, "cut": True}, 20),
    "clear_absences": (versions(1000) | PRACTICE, 8000),
    "compare": (versions(1000) | TARGET | {"now": NOW, "members": True}, 10000),
    "compare: under noise rules": (versions(1000, unfiltered=b"u" * 32) | TARGET | {"now": NOW, "members": False}, 8000),
    "compare: a window's": (versions(1000) | TARGET | {"now": NOW, "members": False}, 5000),
    "compare: a patient's": (versions(20) | TARGET | {"now": NOW, "members": True}, 250),
    "count_deletes": (PRACTICE | {"resource_type": "Observation", "since": NOW - dt.timedelta(hours=1)}, 2000),
    "count_patient_sources": (PRACTICE, 60),
    "drop_attachments": (ATTACHED | OWNERS, 1500),
    "due_attachments": (ATTACHED | {"state": "wanted", "limit": 20}, 800),
    "due_attachments: refused before": (ATTACHED | {"state": "refused", "limit": 20}, 800),
    "forget_attachments": (ATTACHED, 1500),
    "note_missing_attachments": (ATTACHED, 1500),
    "revise_attachments": (ATTACHED | {"most_bytes": 999}, 2500),
    "settle_attachment": (
        ATTACHED | OWNERS | {"id": "b7500", "state": "fetched", "bytes": 5, "tries": 0, "next_try_at": NOW},
        500,
    ),
    "unnoted_attachments": (ATTACHED | {"element": "status", "after": "o12", "limit": 500}, 25000),
    "want_attachments": (ATTACHED | WANTED, 2000),
    "coverage_categories": (PRACTICE | {"types": ["Observation"]}, 3000),
    "coverage_enumerations": (PRACTICE, 200),
    "coverage_feeds": (PRACTICE, 20),
    "coverage_patients": (PRACTICE, 3000),
    "coverage_targets": (PRACTICE, 200),
    "delete_snapshot": (ONE | {"version": 2, "read_began": NOW, "read_ended": NOW, "now": NOW}, 30),
    "accept_configuration": ({"name": "n1", "digest": b"d" * 32, "written": "x: 1", "actor": "a", "reason": ""}, 20),
    "configurations": ({"revision": None, "name": None, "limit": 20}, 40),
    "configurations: by number": ({"revision": 77, "name": None, "limit": 1}, 20),
    "configurations: in force": ({"revision": None, "name": "n1", "limit": 1}, 20),
    "living_configurations": ({"name": "n1"}, 80),
    "living_configurations: of every name": ({"name": None}, 80),
    "ask_engines": (ASKED, 80),
    "control_answers": (PRACTICE | {"control": 4999}, 20),
    "operator_pauses": ({"practice": None}, 40),
    "operator_pauses: one practice": (PRACTICE, 10),
    "waiting_orders": ({"engine": 1}, 20),
    "due_absences": (PRACTICE | {"limit": 100}, 30),
    "drop_visits": (PRACTICE | SEEN, 400),
    "forget_visits": (PRACTICE | {"since": NOW - dt.timedelta(days=20)}, 4000),
    "load_visits": (VISITS, 1500),
    "note_visits": (PRACTICE | SEEN, 1500),
    "earliest": (PRACTICE, 5),
    "end_enumeration": (
        PRACTICE | {"source": "roster", "began": NOW, "ended": NOW, "complete": True, "found": 7, "failure": None}, 20
    ),
    "end_pass": (
        TARGET
        | {"began": NOW, "ended": NOW, "coverage": "complete", "failure": None, "counts": True, "cursor_at": NOW}
        | {"reread": False, "settled": ["o1"], "read_types": [], "read_patients": 0},
        40,
    ),
    "ask_hold": (HELD | {"length": dt.timedelta(minutes=2)}, 20),
    "begin_replay": (
        HELD
        | {"selection": "{}", "payload": "id-only", "queue": "q", "file": None, "made_by": "me"}
        | {"epoch": 0, "sequence": 0, "last_epoch": 1, "last_sequence": 9},
        20,
    ),
    "cancel_replay": (HELD, 10),
    "count_events": (READ | {"partition_key": "Patient/a7", "last_epoch": 1, "last_sequence": 20000}, 300),
    "ask_parking": (PRACTICE | {"sink": "s1", "epoch": 1, "sequence": 9, "actor": "me", "reason": "why"}, 20),
    "parking_asked": (PRACTICE | {"sink": "s1"}, 20),
    "meet_parking": (PRACTICE | {"sink": "s1", "epoch": 1, "sequence": 9}, 20),
    "end_hold": (HELD, 20),
    "keep_hold": (HELD | {"length": dt.timedelta(minutes=2)}, 10),
    "list_replays": ({"replay": "r"}, 10),
    "move_replay": (
        HELD
        | {"epoch": 1, "sequence": 9, "routed": None, "sent": 9, "written": 0, "state": "done"}
        | {"from_epoch": 0, "from_sequence": 0},
        10,
    ),
    "settle_holds": ({"sink": "s1"}, 20),
    "as_of": (OF_TIME | {"partition_key": None, "after_type": "Observation", "after_id": "o15000"}, 4000),
    "as_of: a patient's": (OF_TIME | {"partition_key": "Patient/a7", "after_type": "", "after_id": ""}, 400),
    "events_of_versions": (versions(500) | PRACTICE, 5000),
    "list_tokens": ({"digest": b"x"}, 10),
    "make_token": ({"name": "t", "digest": b"x", "practices": ["p1"], "made_by": "me", "expires_at": None}, 20),
    "read_version": (ONE | {"version": 1, "at": None}, 40),
    "read_version: at a time": (ONE | {"version": None, "at": NOW}, 40),
    "read_events: a list's": (
        READ
        | {"epoch": 0, "sequence": 0, "bodies": False, "listed": True, "last_epoch": 1, "last_sequence": 20000}
        | {"event_ids": [uuid.uuid4()], "references": ["Observation/o1001"]},
        2500,
    ),
    "read_versions": (ONE | {"before": 2**62, "bytes": 2**23, "limit": 20}, 40),
    "revoke_token": ({"name": "t"}, 10),
    "baseline_progress": (PRACTICE | {"resource_type": "Observation"}, 300),
    "enliven_targets": (PRACTICE | {"resource_type": "Observation"}, 45000),
    "expire": (
        {
            "keep": dt.timedelta(days=31 * 240),
            "pollers": ["poller"],
            "practices": ["p1"],
            "sinks": ["s1"],
            "keeps": [None],
        },
        900,
    ),
    "follow_sweep": (PRACTICE | {"window": "Observation/-/window/-", "window_from": NOW}, 60),
    "forget_absence": (ONE, 30),
    "append_audit": (PRACTICE | {"actor": "me", "action": "why", "scope": "{}", "reason": ""}, 40),
    "expire_audit": ({"keep": dt.timedelta(days=2192)}, 600),
    "list_audit": (AUDITED | {"practice": None}, 120),
    "list_audit: a practice's": (AUDITED | {"practice": "p9", "since": NOW - dt.timedelta(days=9)}, 120),
    "grant_permits": (GRANT | {"alone": True}, 20),
    "grant_permits: together": (GRANT | {"alone": False}, 20),
    "hand_over": (ONE, 40),
    "hold_budget": (PRACTICE, 20),
    "hold_lease": (PRACTICE | {"epoch": 1}, 10),
    "insert_history": (versions(50) | BATCH, 1000),
    "insert_members": (rows(1000) | TARGET, 15000),
    "insert_snapshots": (versions(50, "new") | BATCH, 2000),
    "load_exports": (PRACTICE | {"states": ["done"], "group_id": None, "held": False}, 10),
    "load_patients": (PRACTICE, 3000),
    "load_rules": ({}, 5),
    "load_targets": (PRACTICE | {"target": None}, 200),
    "load_targets: one": (TARGET, 10),
    "lock_snapshots": (rows(50) | PRACTICE, 400),
    "new_patient_sources": (NAMED | {"ids": ["a7"] * 1000, "sources": ["reference"] * 1000}, 9000),
    "new_patient_sources: one": (NAMED, 20),
    "note_deleted": (PASS | rows(1000) | {"targets": ["Observation/-/bulk/-"] * 1000, "reason": ""}, 9000),
    "note_failures": ({"engine": 1, "practices": ["p1", "p2"], "failures": ["key-missing", None]}, 30),
    "note_heartbeats": ({"engine": 1, "practices": ["p1", "p2"], "ages": [dt.timedelta(seconds=3)] * 2}, 30),
    "note_hidden": (versions(50, unfiltered=b"u" * 32) | BATCH, 2000),
    "note_missing": (PASS | {"target": "Observation/-/sweep/-", "seen": ALL_IDS}, 20000),
    "note_missing_bulk": (PASS | TARGET, 300),
    "note_missing_members": (PASS | TARGET | OF_TYPE | {"seen_types": ["Observation"], "seen": ["o1001"]}, 300),
    "note_orphans": (PASS | TARGET | OF_TYPE, 300),
    "note_patients": (NAMED | {"ids": ["a1", "z1"], "sources": ["names"] * 2}, 80),
    "positions": ({"sink": "s1"}, 250),
    "read_events": (READ | {"epoch": 1, "sequence": 9000, "bodies": False}, 60),
    "read_events: with bodies": (READ | {"epoch": 1, "sequence": 9000, "bodies": True}, 3500),
    "read_events: the last": (READ | {"epoch": 1, "sequence": 18990, "bodies": True}, 500),
    "outlook_patients": (PRACTICE, 60),
    "outlook_resources": (PRACTICE, 8000),
    "read_events: a patient's": (READ | {"partition_key": "Patient/a7", "bodies": True, "last_epoch": 1, "last_sequence": 20000}, 1500),
    "read_whole": (PRACTICE | {"types": ["Observation"] * 50, "patients": [f"a{n}" for n in range(1, 51)]}, 2500),
    "register_targets": (REGISTERED, 12000),
    "resource_history": (ONE, 50),
    "retire_targets": (REGISTERED, 12000),
    "rewrite_digests": (versions(50) | BATCH, 2000),
    "save_export": (EXPORT | PRACTICE, 20),
    "seed_members": (
        PRACTICE | OF_TYPE | {"targets": ["Observation/-/patient/a1"], "patients": ["a1"], "categories": [None]},
        400,
    ),
    "stored_bodies": (rows(50) | PRACTICE, 400),
    "stamp_members": (rows(1000) | TARGET | {"began": NOW}, 15000),
    "start_epoch": (PRACTICE, 20),
    "status_enumerations": (PRACTICES, 40),
    "status_feeds": (PRACTICES, 40),
    "status_parked": (PRACTICES | {"behind": "x"}, 800),
    "status_pauses": (PRACTICES, 40),
    "status_practices": (PRACTICES, 80),
    "status_reload": ({"name": "n1"}, 40),
    "status_resumed": (PRACTICES, 120),
    "status_targets": (PRACTICES, 300),
    "status_waiting": (PRACTICES, 400),
    "take_lease": (PRACTICE, 10),
    "tell_window": (PRACTICE | {"target": "Observation/-/window/-", "found": ["o1"]}, 60),
    "verify_counts": ({}, 40),
    "verify_extra": (PRACTICE, 3000),
    "verify_list": ({"after_type": "Observation", "after_id": "o2", "limit": 1000}, 40),
    "verify_note": (rows(1000) | {"outcomes": ["missing"] * len(rows(1000)["ids"])}, 200),
    "verify_stored": (versions(1000) | PRACTICE, 5000),
    "verify_stored: under other rules": (versions(1000) | PRACTICE | {"rules": [-1] * len(rows(1000)["ids"])}, 8000),
    "why_discarded": (PRACTICE | {"events": ["Observation/o1 0000000001-00000000000000000001"], "since": NOW - dt.timedelta(days=20)}, 300),
    "why_events": (ONE | {"limit": 20}, 60),
    "why_events_of_patient": (PRACTICE | {"partition_key": "Patient/a7", "limit": 20}, 200),
    "why_parked": (PRACTICE | ANY | {"partition_key": "Patient/a7"}, 600),
    "why_patient": (PRACTICE | {"patient": "a7"}, 20),
    "why_resource": (ONE, 20),
    "why_sinks": (PRACTICE, 20),
    "why_snapshots": (PRACTICE | rows(20), 300),
    "why_stored": (PRACTICE | {"partition_key": "Patient/a7"}, 100),
    "why_targets": (ONE | {"patients": ["a7", "8.0"], "targets": ["Observation/-/sweep/-", "Observation/-/window/-"]}, 100),
    "update_snapshots": (versions(50) | BATCH, 3000),
}  # fmt: skip

WHOLE_TYPE = {
    "books",
    "count_deletes",
    "coverage_categories",
    "coverage_patients",
    "enliven_targets",
    "load_patients",
    "note_missing",
    "outlook_resources",
    "revise_attachments",
    "seed_members",
    "status_parked",
    "verify_extra",
}
"""May read all of a type: a sweep's end, a delete that was confirmed by a call, and what is asked once a start, or by a person."""


def test_every_statement_is_here() -> None:
    statements = files("poller.store").joinpath("sql")
    found = {path.name.removesuffix(".sql") for path in statements.iterdir() if path.is_file()}
    assert found == {case.partition(":")[0] for case in CASES}


def test_every_part_is_taken_by_several_statements_and_written_once() -> None:
    statements = files("poller.store").joinpath("sql")
    texts = [path.read_text(encoding="utf-8") for path in statements.iterdir() if path.is_file()]
    for part in statements.joinpath("parts").iterdir():
        name, body = part.name.removesuffix(".sql"), part.read_text(encoding="utf-8").splitlines()[1:]
        assert sum(f"{{{name}}}" in one for one in texts) > 1, name
        assert not [one for one in texts if max(body, key=len).strip() in one], name
    assert "{selected}" not in sql("read_events").text
    assert "AND (l.epoch, l.sequence) <=" in sql("read_events").text


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def pages_of(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize("case", CASES)
def test_the_plan_fits_the_input(filled: Connection, case: str) -> None:
    check_plan(filled, case.partition(":")[0], *CASES[case])


CATALOGUE = 40
"""Pages that a session may have to read the first time that it works with a table."""


NEW = """
INSERT INTO poller.snapshot (practice, resource_type, id, version, deleted, digest, elements, rules_version, codec, body, categories,
  partition_key, entered_in_error, read_began, read_ended, first_seen_at, changed_at)
SELECT 'new', 'Observation', 'o' || n, 1, false, sha256(n::text::bytea), '{}', 1, 1, decode(repeat(md5(n::text), 20), 'hex'), '{}',
  'Patient/a1', false, now(), now(), now(), now()
FROM generate_series(1, 20000) AS n
"""


@pytest.mark.parametrize(
    "name",
    ["compare", "lock_snapshots", "stored_bodies", "rewrite_digests", "update_snapshots", "insert_snapshots", "insert_history"],
)  # fmt: skip
def test_a_batch_of_a_practice_that_the_statistics_do_not_know_reads_no_more_than_itself(
    filled: Connection, name: str
) -> None:
    """Else each batch of its first load reads all that came before, and in a large database no ANALYZE comes for it for weeks."""
    binds = versions(500, "x" if name == "insert_snapshots" else "") | TARGET | {"now": NOW, "members": False}
    with filled.begin() as transaction:
        filled.execute(text(NEW))
        statement = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql(name).text}")
        wanted = {bind: binds[bind] for bind in statement._bindparams} | {"practice": "new"}
        (explained,) = filled.execute(statement, wanted).one()
        transaction.rollback()
    plan = explained[0]["Plan"]
    read = max(node["Actual Rows"] * node["Actual Loops"] for node in nodes(plan))
    assert read <= 500, json.dumps(plan, indent=1)[:12000]


def check_plan(filled: Connection, name: str, binds: dict[str, Any], pages: int) -> None:
    """Run a statement, and look at how it was done."""
    statement = text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql(name).text}")
    wanted = {bind: binds[bind] for bind in statement._bindparams}
    with filled.begin() as transaction:
        if "partition_key" in wanted and wanted["partition_key"] is None:
            filled.execute(IN_LOG_ORDER)
        (explained,) = filled.execute(statement, wanted).one()
        transaction.rollback()
    plan = explained[0]["Plan"]
    shown = json.dumps(plan, indent=1)[:12000]
    touched = pages_of(plan)
    assert touched <= pages + CATALOGUE, f"{touched} pages\n{shown}"
    if name not in WHOLE_TYPE:
        scans = [node for node in nodes(plan) if node["Node Type"] == "Seq Scan" and pages_of(node)]
        assert not [node for node in scans if node["Relation Name"].startswith(LARGE)], shown
    assert not [node for node in nodes(plan) if node["Node Type"] == "Function Scan" and node["Actual Loops"] > 1], (
        shown
    )
