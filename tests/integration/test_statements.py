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

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
PRACTICE = {"practice": "p1"}
LARGE = ("snapshot", "history", "event", "member")

FILL = """
SELECT poller.ensure_partitions('2026-11-22');
INSERT INTO poller.practice_log (practice, head) SELECT 'p' || n, 20000 FROM generate_series(1, 3) AS n;
INSERT INTO poller.lease SELECT 'p' || n, 1, now() FROM generate_series(1, 3) AS n;
INSERT INTO poller.feed (practice, resource_type, registered_at)
SELECT 'p' || n, t, now() FROM generate_series(1, 3) AS n, unnest(ARRAY['Observation', 'Patient']) AS t;
INSERT INTO poller.patient
SELECT 'p1', 'a' || n, false, '2026-11-01', CASE WHEN n % 50 = 0 THEN now() END FROM generate_series(1, 1000) AS n;
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
SELECT practice, resource_type, id, 1, n % 100 = 0, digest, jsonb_build_object('status', md5(n::text), 'value', md5(id)), 1, 1, body, '{}',
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
INSERT INTO poller.cursor SELECT 's' || n, 'p1', 1, 10, NULL, now() FROM generate_series(1, 3) AS n;
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
        yield connection
    engine.dispose()
    with closing(psycopg.connect(postgres_server, autocommit=True)) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def rows(count: int) -> dict[str, Any]:
    """A batch of resources that the snapshot knows."""
    numbers = [n for n in range(1001, 20001) if n % 20][:: 19000 // count][:count]
    return {"types": ["Observation"] * len(numbers), "ids": [f"o{n}" for n in numbers]}


def versions(count: int, prefix: str = "") -> dict[str, Any]:
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
                "elements": '{"status": "1"}',
                "codecs": 1,
                "bodies": b"b" * 600,
                "last_modified": NOW,
                "categories": '["laboratory"]',
                "statuses": "final",
                "partition_keys": "Patient/a1",
                "entered_in_error": False,
                "replaced_by": None,
                "read_began": NOW,
                "read_ended": NOW,
                "actions": "updated",
                "origins": "live",
                "changed": '["status"]',
                "began": NOW,
            }.items()
        }
        | {"event_ids": [uuid.uuid4() for _ in range(size)]}
    )


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
}
PASS = PRACTICE | {"resource_type": "Observation", "began": NOW, "now": NOW}
ALL_IDS = [f"o{n}" for n in range(1001, 20001) if n % 50]
BATCH = {"rules_version": 1, "now": NOW} | PRACTICE

CASES: dict[str, tuple[dict[str, Any], int]] = {
    # statement, or "statement: case" → binds, and how many pages it may touch
    "advance_cursor": (PRACTICE | {"sink": "s1", "epoch": 1, "sequence": 20, "routed": None}, 20),
    "append_events": (versions(50) | BATCH | {"previous_read": NOW, "evidence": None}, 3000),
    "block_practice": (PRACTICE | {"length": dt.timedelta(seconds=1)}, 20),
    "clear_absences": (versions(1000) | PRACTICE, 8000),
    "compare": (versions(1000) | TARGET | {"rules_version": 1, "members": True}, 10000),
    "compare: a window's": (versions(1000) | TARGET | {"rules_version": 1, "members": False}, 5000),
    "compare: a patient's": (versions(20) | TARGET | {"rules_version": 1, "members": True}, 250),
    "count_deletes": (PRACTICE | {"resource_type": "Observation", "since": NOW - dt.timedelta(hours=1)}, 2000),
    "delete_snapshot": (ONE | {"version": 2, "read_began": NOW, "read_ended": NOW, "now": NOW}, 30),
    "due_absences": (PRACTICE | {"limit": 100}, 30),
    "end_pass": (
        TARGET
        | {"began": NOW, "ended": NOW, "coverage": "complete", "failure": None, "counts": True, "cursor_at": NOW}
        | {"reread": False, "settled": ["o1"]},
        40,
    ),
    "follow_sweep": (PRACTICE | {"resource_type": "Observation", "window_from": NOW}, 60),
    "forget_absence": (ONE, 30),
    "grant_permits": (PRACTICE | {"length": dt.timedelta(seconds=1)}, 20),
    "hand_over": (ONE, 40),
    "hold_lease": (PRACTICE | {"epoch": 1}, 10),
    "insert_history": (versions(50) | BATCH, 1000),
    "insert_members": (rows(1000) | TARGET, 15000),
    "insert_patients": (PRACTICE | {"ids": ["a1", "z1"], "live": True, "now": NOW}, 30),
    "insert_snapshots": (versions(50, "new") | BATCH, 2000),
    "load_patients": (PRACTICE, 3000),
    "load_targets": (PRACTICE | {"target": None}, 200),
    "load_targets: one": (TARGET, 10),
    "lock_snapshots": (rows(50) | PRACTICE, 400),
    "note_missing": (PASS | {"target": "Observation/-/sweep/-", "seen": ALL_IDS}, 20000),
    "note_missing_members": (PASS | TARGET | {"seen": ["o1001"]}, 300),
    "positions": ({"sink": "s1"}, 20),
    "read_events": (READ | {"epoch": 1, "sequence": 9000, "bodies": False}, 60),
    "read_events: with bodies": (READ | {"epoch": 1, "sequence": 9000, "bodies": True}, 3500),
    "read_events: the last": (READ | {"epoch": 1, "sequence": 18990, "bodies": True}, 500),
    "read_events: a patient's": (READ | {"partition_key": "Patient/a7", "bodies": True, "last_epoch": 1, "last_sequence": 20000}, 1500),
    "register_targets": (REGISTERED, 12000),
    "resource_history": (ONE, 50),
    "retire_targets": (REGISTERED, 12000),
    "rewrite_digests": (versions(50) | BATCH, 2000),
    "rules_mismatch": (rows(50) | PRACTICE | {"rules_version": 2}, 400),
    "seed_members": (PRACTICE | {"resource_type": "Observation"}, 6000),
    "start_epoch": (PRACTICE, 20),
    "take_lease": (PRACTICE, 10),
    "tell_window": (PRACTICE | {"target": "Observation/-/window/-", "found": ["o1"]}, 60),
    "update_snapshots": (versions(50) | BATCH, 3000),
}  # fmt: skip

WHOLE_TYPE = {"note_missing", "count_deletes", "load_patients", "seed_members"}
"""May read all of a type: a sweep's end, a delete that was confirmed by a call, and what is asked once a start."""


def test_every_statement_is_here() -> None:
    found = {path.name.removesuffix(".sql") for path in files("poller.store").joinpath("sql").iterdir()}
    assert found == {case.partition(":")[0] for case in CASES}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def pages_of(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize("case", CASES)
def test_the_plan_fits_the_input(filled: Connection, case: str) -> None:
    name = case.partition(":")[0]
    binds, pages = CASES[case]
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
    assert touched <= pages, f"{touched} pages\n{shown}"
    if name not in WHOLE_TYPE:
        scans = [node for node in nodes(plan) if node["Node Type"] == "Seq Scan" and pages_of(node)]
        assert not [node for node in scans if node["Relation Name"].startswith(LARGE)], shown
    assert not [node for node in nodes(plan) if node["Node Type"] == "Function Scan" and node["Actual Loops"] > 1], (
        shown
    )
