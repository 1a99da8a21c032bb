"""Forgetting: no byte of a practice is left in the database, others are untouched, and a patient does not come back."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from poller.cli import app
from poller.core.forget import Forgotten
from poller.core.model import Kind, Target
from poller.core.sink import Sink, settle, sort_out
from poller.errors import BrokerError, ConfigError, LeaseLost, NotFound, PollerError, StoreError
from poller.forgetting import Live, forget_patient, forget_practice
from poller.store.configurations import ConfigurationStore
from poller.store.engine import OWNER, RELAY, open_engine
from poller.store.forget import ForgetStore
from poller.store.planning import PlanningStore
from poller.store.sinks import SinkLog
from tests.integration.conftest import Practice
from tests.integration.test_audit import CONFIG
from tests.integration.test_statements import FILL

WHO = Forgotten("zqx-1", None, "me@here", "contract ended", dt.datetime(2026, 11, 27, tzinfo=dt.UTC))
MORE = """
INSERT INTO poller.budget (practice, next_at) SELECT p, now() FROM practices;
INSERT INTO poller.enumeration SELECT p, 'roster', now(), now(), 3, NULL FROM practices;
INSERT INTO poller.expired SELECT p, 1, 1, now(), now() FROM practices;
INSERT INTO poller.export (practice, job, group_id, types, purpose, state, poll_url, started_at)
SELECT p, gen_random_uuid(), p, '{Observation}', 'first-load', 'ready', 'https://' || p, now() FROM practices;
INSERT INTO poller.forgotten (practice, digest) SELECT p, 'x' FROM practices;
INSERT INTO poller.former VALUES ('salt', 'digest', 1, 1, 1);
INSERT INTO poller.heartbeat SELECT p, 1, now() - interval '1 hour' FROM practices;
INSERT INTO poller.hidden SELECT p, 'Observation', 'o1', 1, '{meta}', 'x', now(), now() FROM practices;
INSERT INTO poller.history SELECT p, 'Observation', 'more', 1, now(), 'created', 'x', 1, 1, NULL, p::bytea, now(), now()
FROM practices;
INSERT INTO poller.hold (practice, sink, replay, state, expires_at) SELECT p, 's1', 'r', 'held', now() FROM practices;
INSERT INTO poller.pause (practice, resource_type, since, reason, next_try_at) SELECT p, '*', now(), 'x', now() FROM practices;
INSERT INTO poller.planning SELECT p, '{}', now() FROM practices;
INSERT INTO poller.probe SELECT p, now(), '{}' FROM practices;
INSERT INTO poller.replay (practice, replay, selection, payload, queue, epoch, sequence, last_epoch, last_sequence, state, made_by)
SELECT p, 'r', '{}', 'id-only', 'replay.' || p, 0, 0, 1, 1, 'done', 'me' FROM practices;
INSERT INTO poller.token (name, digest, practices, made_by) SELECT 't' || p, sha256(p::bytea), ARRAY[p], 'me' FROM practices;
INSERT INTO poller.token (name, digest, practices, made_by) SELECT 'both', 'both', array_agg(p), 'me' FROM practices;
INSERT INTO poller.audit (practice, actor, action, scope, reason)
SELECT '*', 'me', 'tokens new', jsonb_build_object('practices', jsonb_build_array(p)), '' FROM practices;
INSERT INTO poller.trouble (practice, sink, reason) SELECT p, 's1', 'unroutable' FROM practices;
INSERT INTO poller.sink SELECT 'only ' || p, 'now', now() FROM practices;
INSERT INTO poller.configuration (name, digest, written, actor, reason)
SELECT 'n', sha256(p::bytea), 'sinks: {both: {queues: [q.both]}, "only ' || p || '": {queues: ["q.' || p || '"], only:
  {practices: [' || p || ']}}}
practices: {' || p || ': {base_url: "https://' || p || '", key: {file: /keys/' || p || '.pem}}}', 'me', '' FROM practices;
INSERT INTO poller.configuration (name, digest, written, actor, reason)
VALUES ('n', 'z', 'sinks: {both: {queues: [q.both]}}
practices: {zqx-2: {base_url: "https://zqx-2"}}', 'me', '')
"""
HERE = Live(frozenset({"both"}), frozenset({"q.both"}))
SLOW = Live(frozenset({"slow"}), frozenset())
NOTHING = Live(frozenset(), frozenset())
OURS = re.compile(rb"zqx-1(?![0-9])")


class NoBroker:
    """Notes what is asked of it, and may be away."""

    def __init__(self, *, away: bool = False) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.away = away

    def delete_queue(self, queue: str) -> int | None:
        self.asked.append(("delete", queue))
        if self.away:
            raise BrokerError("away")
        return 7

    def sweep(self, queue: str, practice: str) -> int | None:
        self.asked.append(("sweep", queue, practice))
        return None


@pytest.fixture
def admin(database_url: str) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(database_url, autocommit=True)) as connection:
        yield connection


@pytest.fixture
def store(database_url: str) -> Iterator[ForgetStore]:
    engine = open_engine(database_url, OWNER)
    yield ForgetStore(engine)
    engine.dispose()


@pytest.fixture
def filled(database_url: str, admin: psycopg.Connection) -> psycopg.Connection:
    """A store in which three practices have something in every table."""
    with closing(psycopg.connect(database_url, autocommit=True)) as filling:
        filling.execute(
            FILL.replace("'p' ||", "'zqx-' ||")
            .replace("'p1'", "'zqx-1'")
            .replace("20000", "2000")
            .replace("n > 10000", "n > 1000")
        )
        filling.execute("CREATE TEMP TABLE practices AS SELECT 'zqx-' || n AS p FROM generate_series(1, 2) AS n")
        for statement in MORE.split(";\n"):
            filling.execute(statement)
        filling.execute("DELETE FROM poller.configuration WHERE name <> 'n'")
    admin.execute("ANALYZE")
    return admin


def tables(admin: psycopg.Connection) -> list[str]:
    found = admin.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'poller'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
    )
    return sorted(name for (name,) in found)


def of(admin: psycopg.Connection, practice: str) -> dict[str, str]:
    """By table: a digest of the rows that name the practice, whole and in order; nothing for a table without any."""
    found = {}
    for table in tables(admin):
        rows = admin.execute(f"SELECT r::text FROM poller.{table} AS r ORDER BY 1").fetchall()  # noqa: S608 - our own names
        theirs = [row for (row,) in rows if re.search(rf"{practice}(?![0-9])", row)]
        if theirs:
            found[table] = sha256("\n".join(theirs).encode()).hexdigest()
    return found


def bytes_on_disk(admin: psycopg.Connection) -> int:
    """How many files of the database hold the practice's code."""
    admin.execute("CHECKPOINT")
    base = "SELECT 'base/' || oid FROM pg_database WHERE datname = current_database()"
    files = admin.execute(f"SELECT d || '/' || f FROM ({base}) AS b (d), pg_ls_dir(d) AS f").fetchall()  # noqa: S608 - as above
    found = 0
    for (name,) in files:
        (content,) = admin.execute("SELECT pg_read_binary_file(%s, 0, 200000000, true)", [name]).fetchone() or (None,)
        found += content is not None and OURS.search(content) is not None
    return found


WITHOUT_PRACTICE = {"former", "installation", "rules", "engine", "sink", "configuration", "token"}


def test_no_byte_of_a_practice_is_left_and_others_are_untouched(
    filled: psycopg.Connection, store: ForgetStore, tmp_path: Path
) -> None:
    """In no row, and after ``--vacuum`` in no page either, statistics included."""
    before, other = of(filled, "zqx-1"), of(filled, "zqx-2")
    assert set(before) >= set(tables(filled)) - WITHOUT_PRACTICE, (
        "each table had something, or this proves nothing of it"
    )
    assert set(before) >= {"sink", "configuration", "token"}
    assert bytes_on_disk(filled) > 20
    broker = NoBroker()
    said = forget_practice(store, broker, WHO, HERE, tmp_path / "out", vacuum=False)
    assert of(filled, "zqx-1") == {}
    after = of(filled, "zqx-2")
    assert other.pop("token") != after.pop("token"), "a token of both is of one now"
    assert after == other
    assert bytes_on_disk(filled) > 0, "a DELETE leaves bytes in pages: the search finds what is there"
    store.vacuum()
    assert bytes_on_disk(filled) == 0
    assert broker.asked == [("delete", "q.zqx-1"), ("delete", "replay.zqx-1"), ("sweep", "q.both", "zqx-1")]
    assert said["queues"] == {"q.zqx-1": 7, "replay.zqx-1": 7}
    assert any(one.startswith("queue q.both:") for one in said["outOfReach"])
    assert any("/keys/zqx-1.pem" in one for one in said["outOfReach"])
    assert any("--vacuum" in one for one in said["outOfReach"])


def test_the_certificate_says_what_went_and_the_audit_is_kept_beside_it(
    filled: psycopg.Connection, store: ForgetStore, tmp_path: Path
) -> None:
    (entries,) = filled.execute(
        "SELECT count(*) FROM poller.audit WHERE practice = 'zqx-1' OR scope::text ~ 'zqx-1\"'"
    ).fetchone() or (0,)
    counts = {
        table: filled.execute(f"SELECT count(*) FROM poller.{table} WHERE practice = 'zqx-1'").fetchone()  # noqa: S608 - as above
        for table in ("event", "history")
    }
    said = forget_practice(store, NoBroker(), WHO, HERE, tmp_path / "out", vacuum=False)
    assert said == json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert {name: (said["rows"][name],) for name in counts} == counts
    kept = (tmp_path / "out" / "audit.ndjson").read_bytes()
    assert said["audit"] == {"sha256": sha256(kept).hexdigest(), "entries": entries}
    assert len(kept.splitlines()) == entries > 200
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0
    left = filled.execute(
        "SELECT practice, actor, action, scope, reason FROM poller.audit ORDER BY number DESC LIMIT 1"
    )
    assert left.fetchone() == ("*", "me@here", "forget", {"rows": sum(said["rows"].values())}, "contract ended")


def test_nothing_goes_while_a_poller_looks_after_it_or_is_to(
    filled: psycopg.Connection, store: ForgetStore, tmp_path: Path
) -> None:
    before = of(filled, "zqx-1")
    filled.execute("UPDATE poller.heartbeat SET at = now() WHERE practice = 'zqx-1'")
    with pytest.raises(StoreError, match="a poller looks after practice zqx-1"):
        forget_practice(store, NoBroker(), WHO, NOTHING, tmp_path / "a", vacuum=False)
    filled.execute("UPDATE poller.heartbeat SET at = '2026-01-01' WHERE practice = 'zqx-1'")
    filled.execute("DELETE FROM poller.configuration WHERE revision = (SELECT max(revision) FROM poller.configuration)")
    filled.execute("UPDATE poller.configuration SET name = 'other' WHERE written LIKE '%base_url: \"https://zqx-2%'")
    with pytest.raises(ConfigError, match="in the configuration in force of n: take it out"):
        forget_practice(store, NoBroker(), WHO, NOTHING, tmp_path / "b", vacuum=False)
    assert of(filled, "zqx-1").keys() == before.keys()
    with pytest.raises(NotFound, match="nothing of practice zqx-9"):
        forget_practice(
            store, NoBroker(), Forgotten("zqx-9", None, "me", "", WHO.at), NOTHING, tmp_path / "c", vacuum=False
        )


def test_a_directory_that_is_there_is_kept_and_a_broker_that_is_away_is_said(
    filled: psycopg.Connection, store: ForgetStore, tmp_path: Path
) -> None:
    before = of(filled, "zqx-1")
    with pytest.raises(PollerError, match="is there already"):
        forget_practice(store, NoBroker(), WHO, NOTHING, tmp_path, vacuum=False)
    assert of(filled, "zqx-1") == before
    with pytest.raises(BrokerError, match="the store has forgotten the practice, and something is left to do: away"):
        forget_practice(store, NoBroker(away=True), WHO, HERE, tmp_path / "out", vacuum=False)
    said = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert sorted(one.split(":")[0] for one in said["outOfReach"] if one.startswith("queue")) == [
        "queue q.both", "queue q.zqx-1", "queue replay.zqx-1",
    ]  # fmt: skip
    assert of(filled, "zqx-1") == {}


def test_whoever_reads_the_practice_still_can_write_nothing_more(
    practice: Practice, store: ForgetStore, tmp_path: Path
) -> None:
    practice.whole(practice.observation("o1"))
    forget_practice(store, None, Forgotten("p1", None, "me", "", WHO.at), NOTHING, tmp_path / "out", vacuum=False)
    with pytest.raises(LeaseLost):
        practice.whole(practice.observation("o2"))
    assert practice.rows("SELECT FROM poller.snapshot") == []


PATIENT = Forgotten("p1", "zqx-1", "me@here", "asked to", WHO.at)


@pytest.fixture
def treated(practice: Practice) -> Practice:
    """A practice with two patients, of whom it has seen something by several ways."""
    alone = Target("p1", "Observation", Kind.PATIENT, patient="zqx-1")
    practice.register(Target("p1", "Patient", Kind.SWEEP))
    practice.register(alone)
    practice.whole(practice.patient("zqx-1"), practice.patient("a"), target=Target("p1", "Patient", Kind.SWEEP))
    theirs = {"reference": "Patient/zqx-1"}
    practice.whole(practice.observation("zqx-1.1", subject=theirs), practice.observation("o1"))
    practice.whole(practice.observation("zqx-1.1", "14", subject=theirs), practice.observation("o1"))
    practice.whole(practice.observation("zqx-1.1", "14", subject=theirs), target=alone)
    return practice


def test_a_patient_goes_from_everywhere_but_the_audit_and_others_stay(
    treated: Practice, store: ForgetStore, admin: psycopg.Connection, tmp_path: Path
) -> None:
    learned = {"practice": {}, "patients": {"zqx-1": {"found": 2}, "a": {"found": 1}}}
    PlanningStore(treated.engine).save(treated.lease, learned, WHO.at)
    assert {"snapshot", "history", "event", "member", "patient", "patient_source", "target", "planning"} <= of(
        admin, "zqx-1"
    ).keys()
    said = forget_patient(store, PATIENT, NOTHING, tmp_path / "out", vacuum=False)
    assert of(admin, "zqx-1").keys() == {"audit"}
    assert said["rows"]["history"] == 3
    assert [(row.id, row.version) for row in treated.rows("SELECT id, version FROM poller.snapshot ORDER BY id")] == [
        ("a", 1),
        ("o1", 1),
    ]
    assert [entry[1:] for entry in treated.actions()] == [("a", 1), ("", 1), ("o1", 1), ("", 1), ("", 2)], "places stay"
    last = admin.execute("SELECT practice, action, scope ->> 'patient' FROM poller.audit").fetchall()
    assert last == [("p1", "forget", "zqx-1")]


def test_a_patient_who_was_forgotten_is_not_taken_up_again(
    treated: Practice, store: ForgetStore, admin: psycopg.Connection, tmp_path: Path
) -> None:
    """Whatever still names or shows them; and what was in memory of them is not written either."""
    forget_patient(store, PATIENT, NOTHING, tmp_path / "out", vacuum=False)
    with pytest.raises(LeaseLost):
        treated.read(treated.observation("o1", "15"))
    treated.keeper.close()
    again = Practice(treated.engine)
    again.seconds = treated.seconds
    theirs = {"reference": "Patient/zqx-1"}
    recorded = again.whole(again.observation("zqx-1.1", "16", subject=theirs), again.observation("o1", "15"))
    assert [key for key, _ in recorded.changes] == [("Observation", "o1")]
    again.register(Target("p1", "Patient", Kind.SWEEP))
    again.whole(again.patient("zqx-1"), again.patient("b"), target=Target("p1", "Patient", Kind.SWEEP))
    PlanningStore(again.engine).save(again.lease, {"patients": {"zqx-1": {}, "a": {"found": 1}}}, WHO.at)
    found = of(admin, "zqx-1")
    found.pop("target", None)  # how many ids it has seen, not which
    assert found.keys() == {"audit"}
    assert PlanningStore(again.engine).load("p1") == {"patients": {"a": {"found": 1}}}
    again.keeper.close()


@pytest.mark.usefixtures("treated")
def test_a_patient_stays_while_a_sink_has_not_had_all(
    store: ForgetStore, admin: psycopg.Connection, tmp_path: Path
) -> None:
    """Else a consumer would never hear of what was recorded, and nobody of that."""
    admin.execute("INSERT INTO poller.sink VALUES ('slow', 'beginning', now())")
    before = of(admin, "zqx-1")
    admin.execute(
        "INSERT INTO poller.cursor (sink, practice, epoch, sequence, moved_at) VALUES ('slow', 'p1', 1, 3, now())"
    )
    with pytest.raises(StoreError, match="events of the patient wait, or are parked, for: slow"):
        forget_patient(store, PATIENT, SLOW, tmp_path / "a", vacuum=False)
    admin.execute("UPDATE poller.cursor SET sequence = 5")
    admin.execute(
        "INSERT INTO poller.parked SELECT practice, 'slow', 1, sequence, 0, resource_type, id, 'x', false, now() FROM poller.event"
        " WHERE id = 'zqx-1.1' LIMIT 1"
    )
    with pytest.raises(StoreError, match="slow"):
        forget_patient(store, PATIENT, SLOW, tmp_path / "b", vacuum=False)
    assert of(admin, "zqx-1").keys() == before.keys() | {"parked"}
    admin.execute("DELETE FROM poller.parked")
    forget_patient(store, PATIENT, SLOW, tmp_path / "c", vacuum=False)
    with pytest.raises(NotFound, match="nothing of that patient"):
        forget_patient(store, PATIENT, SLOW, tmp_path / "d", vacuum=False)


def test_a_practice_stays_while_a_configured_sink_has_not_had_all(
    practice: Practice, store: ForgetStore, admin: psycopg.Connection, tmp_path: Path
) -> None:
    """Its relay would send the rest afterwards; also one that has begun and never moved in this practice."""
    practice.whole(practice.observation("o1"))
    admin.execute("INSERT INTO poller.sink VALUES ('slow', 'beginning', now())")
    gone, slow = Forgotten("p1", None, "me", "", WHO.at), Live(frozenset({"slow"}), frozenset())
    with pytest.raises(StoreError, match="events of practice p1 wait for: slow"):
        forget_practice(store, None, gone, slow, tmp_path / "a", vacuum=False)
    admin.execute(
        "INSERT INTO poller.cursor (sink, practice, epoch, sequence, moved_at) VALUES ('slow', 'p1', 1, 1, now())"
    )
    forget_practice(store, None, gone, slow, tmp_path / "b", vacuum=False)
    assert admin.execute("SELECT sink FROM poller.sink").fetchall() == [("slow",)]


def test_a_practice_that_returns_goes_on_behind_what_it_was(
    practice: Practice, store: ForgetStore, tmp_path: Path
) -> None:
    """Else consumers take new content for what they have had, and who slept while it was forgotten writes again."""
    for value in ("1", "2", "3"):
        practice.whole(practice.observation("o1", value))
    before = practice.log.after("p1", 0, 0, 9, bodies=False)
    forget_practice(store, None, Forgotten("p1", None, "me", "", WHO.at), NOTHING, tmp_path / "out", vacuum=False)
    practice.keeper.close()
    again = Practice(practice.engine)
    again.whole(again.observation("o1", "1"))
    (event,) = again.log.after("p1", 0, 0, 9, bodies=False)
    assert (event.epoch, event.sequence, event.version) == (2, 1, 4)
    assert event.event_id not in {one.event_id for one in before}
    assert again.lease.epoch == practice.lease.epoch + 1
    with pytest.raises(LeaseLost):
        practice.whole(practice.observation("o2"))
    again.keeper.close()


def test_what_others_use_as_well_stays_theirs(filled: psycopg.Connection, store: ForgetStore, tmp_path: Path) -> None:
    """A sink and a queue that were the practice's alone once, a queue that two were replayed into, an audit entry of both."""
    filled.execute(
        "INSERT INTO poller.configuration (name, digest, written, actor, reason) VALUES ('elsewhere', 'y',"
        " 'sinks: {\"only zqx-1\": {queues: [q.zqx-1]}}\npractices: {zqx-2: {}}', 'me', '')"
    )
    filled.execute(
        "INSERT INTO poller.cursor (sink, practice, epoch, sequence, moved_at) VALUES ('only zqx-1', 'zqx-1', 1, 2000, now())"
    )
    filled.execute("UPDATE poller.replay SET queue = 'backfill'")
    filled.execute(
        "INSERT INTO poller.audit (practice, actor, action, scope, reason)"
        " VALUES ('*', 'me', 'tokens new', '{\"token\": \"both\", \"practices\": [\"zqx-1\", \"zqx-2\"]}', '')"
    )
    broker = NoBroker()
    forget_practice(store, broker, WHO, HERE, tmp_path / "out", vacuum=False)
    assert [asked for asked in broker.asked if asked[0] == "delete"] == []
    assert ("sweep", "q.zqx-1", "zqx-1") in broker.asked
    assert filled.execute("SELECT count(*) FROM poller.sink WHERE sink = 'only zqx-1'").fetchone() == (1,)
    kept = filled.execute("SELECT scope -> 'practices' FROM poller.audit WHERE scope ->> 'token' = 'both'").fetchall()
    assert kept == [(["zqx-2"],)]


def test_a_certificate_is_there_whatever_fails_once_all_is_gone(
    practice: Practice, store: ForgetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    practice.whole(practice.observation("o1"))

    def no_room() -> None:
        raise StoreError("no room")

    monkeypatch.setattr(store, "vacuum", no_room)
    with pytest.raises(StoreError, match="the store has forgotten the practice, and something is left to do: no room"):
        forget_practice(store, None, Forgotten("p1", None, "me", "", WHO.at), NOTHING, tmp_path / "out", vacuum=True)
    said = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert said["rows"]["snapshot"] == 1
    assert any("--vacuum" in one for one in said["outOfReach"])


def test_a_poller_that_is_no_more_does_not_keep_a_practice_for_ever(
    filled: psycopg.Connection, store: ForgetStore, tmp_path: Path
) -> None:
    filled.execute(
        "INSERT INTO poller.configuration (name, digest, written, actor, reason)"
        " VALUES ('old-host', 'w', 'practices: {zqx-1: {}}', 'me', '')"
    )
    with pytest.raises(ConfigError, match=r"in force of old-host: take it out .* --although NAME"):
        forget_practice(store, None, WHO, HERE, tmp_path / "a", vacuum=False)
    forget_practice(store, None, WHO, HERE, tmp_path / "b", vacuum=False, although=["old-host"])
    assert of(filled, "zqx-1") == {}


@pytest.mark.usefixtures("treated")
def test_the_books_of_a_sink_that_begins_later_balance(store: ForgetStore, database_url: str, tmp_path: Path) -> None:
    """The places of a patient's events stay, and are passed like what a sink does not want."""
    forget_patient(store, PATIENT, NOTHING, tmp_path / "out", vacuum=False)
    relay = open_engine(database_url, RELAY)
    log, sink = SinkLog(relay), Sink("later", "x", ("q",))
    log.begin(sink)
    (position,) = log.positions("later")
    events = log.after("p1", position.epoch, position.sequence, 100, bodies=False)
    step = settle(events, sort_out(events, sink, ()), len(events))
    assert step is not None
    log.advance("later", position, step)
    (books,) = log.books()
    relay.dispose()
    assert (books.recorded, books.delivered, books.filtered, books.waiting, books.missing) == (5, 2, 3, 0, 0)


def test_a_null_in_a_scope_lets_nobody_delete_from_the_audit(admin: psycopg.Connection) -> None:
    admin.execute(
        "INSERT INTO poller.audit (practice, actor, action, scope, reason) VALUES ('*', 'me', 'why', '{\"x\": {\"y\": null}}', '')"
    )
    with pytest.raises(psycopg.errors.RestrictViolation):
        admin.execute("DELETE FROM poller.audit")


@pytest.fixture
def run(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("GUEST", "guest")
    monkeypatch.setenv("MASTER", "6d" * 32)
    host = make_conninfo(database_url)
    parts = dict(one.split("=", 1) for one in host.split())
    at = f"{parts['host']}:{parts.get('port', 5432)}/{parts['dbname']}"
    if parts["host"].startswith("/"):
        at = f"/{parts['dbname']}?host={parts['host']}"
    path = tmp_path / "poller.yaml"
    path.write_text(CONFIG.format(data=tmp_path, url=f"postgresql://{parts.get('user', 'postgres')}@{at}"), "utf-8")
    return lambda *words: CliRunner().invoke(app, ["forget", *words, "--config", str(path)])


@pytest.mark.usefixtures("treated")
def test_the_command_asks_refuses_what_is_configured_and_says_what_is_out_of_reach(
    run: Callable[..., Result], engine: Engine, admin: psycopg.Connection, tmp_path: Path
) -> None:
    ConfigurationStore(engine).accept("poller", "practices: {}", actor="me", reason="")
    to = str(tmp_path / "out")
    refused = run("p1", "--to", to, "--reason", "r", "--yes")
    assert isinstance(refused.exception, ConfigError)
    assert "take it out" in str(refused.exception)
    unsure = run("p1", "--patient", "zqx-1", "--to", to, "--reason", "r")
    assert unsure.exit_code == 1
    assert "zqx-1" not in unsure.output
    assert "snapshot" in of(admin, "zqx-1")
    done = run("p1", "--patient", "Patient/zqx-1", "--to", to, "--reason", "r", "--yes")
    assert done.exit_code == 0
    assert "Out of reach:" in done.output
    assert "zqx-1" not in done.output
    assert all(len(line) <= 200 for line in done.output.splitlines())
    unknown = run("p7", "--to", str(tmp_path / "n"), "--reason", "r", "--yes")
    assert isinstance(unknown.exception, NotFound)
    assert not (tmp_path / "n").exists()
