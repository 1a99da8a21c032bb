"""The audit: everything that is read or done is in it first, nothing goes but by its own retention, and who looks is in it, too."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner, Result

from poller.cli import app
from poller.control import whoami
from poller.core.audit import Action
from poller.errors import DEGRADED, ConfigError, KeyMissing, PollerError
from poller.store.audit import AuditRetention
from poller.store.configurations import ConfigurationStore
from poller.store.deletes import Breaker
from tests.integration.conftest import Practice
from tests.living import posts

__all__ = ["posts"]

SIX_YEARS = dt.timedelta(days=2192)
HELD = Breaker(0.0, 0, dt.timedelta(hours=1))
CONFIG = """
data_dir: {data}
encryption: {{keys: [{{name: k1, env: MASTER}}]}}
store: {{url: "{url}"}}
broker: {{url: "amqp://guest@127.0.0.1:5672//", password: {{env: GUEST}}}}
sinks: {{changes: {{exchange: audit.test, queues: [audit.test]}}}}
practices: {{p1: {{base_url: "https://ehr.example/p1", auth: none, feeds: {{Observation: {{every: 5m}}}}}}}}
"""


@pytest.fixture
def admin(database_url: str) -> Iterator[psycopg.Connection]:
    """A superuser."""
    with closing(psycopg.connect(database_url, autocommit=True)) as connection:
        yield connection


@pytest.fixture
def run(
    practice: Practice, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs a command on a store in which p1 has four resources, one of which is gone and held."""
    monkeypatch.setenv("GUEST", "guest")
    monkeypatch.setenv("MASTER", "6d" * 32)
    practice.whole(*[practice.observation(f"o{n}") for n in range(4)])
    practice.delete("o3", breaker=HELD)
    parts = conninfo_to_dict(database_url)
    at = f"{parts['host']}:{parts.get('port', 5432)}/{parts['dbname']}"
    if str(parts["host"]).startswith("/"):
        at = f"/{parts['dbname']}?host={parts['host']}"
    path = tmp_path / "poller.yaml"
    path.write_text(CONFIG.format(data=tmp_path, url=f"postgresql://{parts.get('user', 'postgres')}@{at}"), "utf-8")
    return lambda *words: CliRunner().invoke(app, [*words, "--config", str(path)])


def noted(admin: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Practice, actor, action, scope and reason of each entry, the first first."""
    return admin.execute("SELECT practice, actor, action, scope, reason FROM poller.audit ORDER BY number").fetchall()


ME = whoami()
READ = {"at": "2030-01-01T00:00:00+00:00", "type": "Observation", "patient": "a"}
COMMANDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "history": ("history p1 Observation/o1 --reason asked", ("p1", ME, {"resource": "Observation/o1"}, "asked")),
    "as-of": ("as-of p1 --at 2030-01-01 --type Observation --patient a", ("p1", ME, READ, "")),
    "why": ("why p1 Observation/o1", ("p1", ME, {"resource": "Observation/o1"}, "")),
    "why a patient": ("why p1 --patient Patient/a", ("p1", ME, {"patient": "a"}, "")),
    "read-now": (
        "read-now p1 --patient Patient/a --actor me --reason now",
        ("p1", "me", {"patient": "a", "runBy": ME}, "now"),
    ),
    "deletes list": ("deletes list p1", ("p1", ME, {"states": ["held", "released"]}, "")),
    "deletes release": ("deletes release p1 --type Observation --id o3", ("p1", ME, {"type": "Observation", "id": "o3"}, "")),
    "deletes discard": ("deletes discard p1 --reason no", ("p1", ME, {}, "no")),
    "sinks show": ("sinks show changes", ("*", ME, {"sink": "changes"}, "")),
    "sinks park": (
        "sinks park changes p1 --type Observation --id o1 --reason wait",
        ("p1", ME, {"sink": "changes", "type": "Observation", "id": "o1"}, "wait"),
    ),
    "sinks release": ("sinks release changes p1", ("p1", ME, {"sink": "changes"}, "")),
    "sinks discard": ("sinks discard changes p1 --type Observation", ("p1", ME, {"sink": "changes", "type": "Observation"}, "")),
    "pause": ("pause p1 Observation --for 2h --reason moved", ("p1", ME, {"feed": "Observation", "length": "2h"}, "moved")),
    "resume": ("resume p1", ("p1", ME, {}, "poller resume")),
    "tokens new": ("tokens new billing --practice p1", ("*", ME, {"token": "billing", "practices": ["p1"]}, "")),
    "tokens revoke": ("tokens revoke billing", ("*", ME, {"token": "billing"}, "")),
    "epoch start": ("epoch start p1 --reason restored", ("p1", ME, {}, "restored")),
    "reconcile": ("reconcile p1 Observation --wait 1s", ("p1", ME, {"feed": "Observation"}, "poller reconcile")),
    "verify": ("verify p1 --against - --list", ("p1", ME, {"listed": True}, "poller verify")),
    "keys rotate": ("keys rotate p1 --reason yearly", ("p1", ME, {}, "yearly")),
    "keys rewrap": ("keys rewrap", ("*", ME, {"master": "k1"}, "")),
    "keys encrypt": ("keys encrypt p1", ("p1", ME, {}, "")),
    "audit": ("audit p1 --action why", ("p1", ME, {"action": "why", "limit": 100}, "")),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_is_in_the_audit(run: Callable[..., Result], admin: psycopg.Connection, case: str) -> None:
    words, (practice, actor, scope, reason) = COMMANDS[case]
    run(*words.split())
    action = case.removesuffix(" a patient")
    assert noted(admin) == [(practice, actor, action, scope, reason)]
    ((login, age),) = admin.execute("SELECT login = session_user, now() - at < interval '1 hour' FROM poller.audit")
    assert (login, age) == (True, True)


@pytest.mark.parametrize("case", COMMANDS)
def test_what_cannot_be_noted_is_neither_shown_nor_done(
    run: Callable[..., Result], admin: psycopg.Connection, case: str
) -> None:
    admin.execute("REVOKE INSERT (practice) ON poller.audit FROM poller_reader")
    before = state(admin)
    result = run(*COMMANDS[case][0].split())
    assert isinstance(result.exception, PollerError)
    assert (result.exception.exit_code, "the audit cannot be written" in str(result.exception)) == (4, True)
    assert result.stdout == ""
    assert "o1" not in str(result.exception)
    assert state(admin) == before


@pytest.mark.usefixtures("posts")
@pytest.mark.parametrize("command", ["keys rotate p1", "keys rewrap", "keys encrypt p1"])
def test_nothing_is_wrapped_by_a_key_that_a_running_engine_does_not_have(
    run: Callable[..., Result], admin: psycopg.Connection, command: str
) -> None:
    before = state(admin)
    result = run(*command.split())
    assert isinstance(result.exception, KeyMissing)
    assert "the master key k1 is not in the configuration that engine host:1, host:2 runs by" in str(result.exception)
    assert (state(admin), noted(admin)) == (before, [])


@pytest.mark.parametrize("key", ["{name: k1, env: GONE}", '{name: k1, command: ["false"]}'])
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("status", DEGRADED),
        ("sinks list", 0),
        ("sinks show changes", 0),
        ("why p1 Observation/o1", DEGRADED),
        ("keys list", 0),
        ("keys rotate p1", ConfigError.exit_code),
        ("keys rewrap", ConfigError.exit_code),
        ("keys encrypt p1", ConfigError.exit_code),
        ("run", ConfigError.exit_code),
        ("run --last-good", ConfigError.exit_code),
    ],
)
def test_what_opens_no_body_does_without_a_master_key_that_cannot_be_had(
    run: Callable[..., Result], engine: Engine, tmp_path: Path, key: str, command: str, code: int
) -> None:
    path = tmp_path / "poller.yaml"
    path.write_text(path.read_text("utf-8").replace("{name: k1, env: MASTER}", key), "utf-8")
    ConfigurationStore(engine).accept("poller", path.read_text("utf-8"), actor="ann", reason="because")
    result = run(*command.split())
    if code != ConfigError.exit_code:
        assert (result.exit_code, isinstance(result.exception, PollerError)) == (code, False), result.exception
        return
    assert isinstance(result.exception, ConfigError)
    assert "encryption.keys" in str(result.exception)


def state(admin: psycopg.Connection) -> list[Any]:
    """All that a command might do."""
    tables = (
        "control",
        "operator_pause",
        "token",
        "absence",
        "parking",
        "parked",
        "practice_log",
        "replay",
        "audit",
        "practice_key",
    )
    return [admin.execute(f"SELECT * FROM poller.{table}").fetchall() for table in tables]  # noqa: S608


def test_replays_are_in_the_audit(run: Callable[..., Result], admin: psycopg.Connection, tmp_path: Path) -> None:
    path = tmp_path / "events"
    assert run("replay", "p1", "--patient", "a", "--dry-run").exit_code == 0
    assert run("replay", "p1", "--id", "Observation/o1", "--file", str(path), "--reason", "lost").exit_code == 0
    (replay,) = admin.execute("UPDATE poller.replay SET state = 'running' RETURNING replay").fetchone() or ()
    run("replay", "resume", replay)
    admin.execute("UPDATE poller.replay SET state = 'running'")
    run("replay", "cancel", replay, "--reason", "enough")
    counted, started, resumed, cancelled = noted(admin)
    assert (counted[2], counted[3]["dryRun"], counted[3]["selection"]["patient"]) == ("replay start", True, "a")
    assert (started[2], started[3]["replay"], started[3]["file"], started[4]) == (
        "replay start",
        replay,
        str(path),
        "lost",
    )
    assert started[3]["selection"]["resources"] == [["Observation", "o1"]]
    assert (resumed[2:], cancelled[2:]) == (
        ("replay resume", {"replay": replay}, ""),
        ("replay cancel", {"replay": replay}, "enough"),
    )


def test_a_replay_that_cannot_be_noted_does_not_begin(
    run: Callable[..., Result], admin: psycopg.Connection, tmp_path: Path
) -> None:
    admin.execute("REVOKE INSERT (practice) ON poller.audit FROM poller_reader")
    result = run("replay", "p1", "--file", str(tmp_path / "events"))
    assert isinstance(result.exception, PollerError)
    assert (result.exception.exit_code, (tmp_path / "events").exists()) == (4, False)
    assert admin.execute("SELECT count(*) FROM poller.replay").fetchone() == (0,)


def test_a_tail_that_cannot_be_noted_shows_nothing(
    run: Callable[..., Result], admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broker:
        def tail(self, *_: object) -> Iterator[bytes]:
            assert len(noted(admin)) == 1, "it is noted before anything is asked of the broker"
            return iter(())

    monkeypatch.setattr("poller.installation.Installation.broker", lambda _: Broker())
    assert run("tail", "--practice", "p1", "--type", "Observation").exit_code == 0
    assert noted(admin) == [("p1", ME, "tail", {"sink": "changes", "type": "Observation"}, "")]
    admin.execute("REVOKE INSERT (practice) ON poller.audit FROM poller_reader")
    result = run("tail")
    assert isinstance(result.exception, PollerError)
    assert result.exception.exit_code == 4


def test_a_configuration_is_in_it_by_the_transaction_that_takes_it_up(
    engine: Engine, admin: psycopg.Connection
) -> None:
    store = ConfigurationStore(engine)
    first = store.accept("one", "a: 1", actor="me", reason="start")
    assert store.accept("one", "a: 1", actor="me", reason="start") == first
    second = store.accept("one", "a: 2", actor="you", reason="a reload")
    assert noted(admin) == [
        ("*", "me", "config accept", {"name": "one", "revision": first}, "start"),
        ("*", "you", "config accept", {"name": "one", "revision": second}, "a reload"),
    ]
    admin.execute("REVOKE INSERT (practice) ON poller.audit FROM poller_engine")
    with pytest.raises(DBAPIError, match="permission denied"):
        store.accept("one", "a: 3", actor="me", reason="start")
    assert store.in_force("one").revision == second


def fill(admin: psycopg.Connection, entries: int, years: float, practice: str = "p1", action: str = "why") -> None:
    admin.execute(
        "INSERT INTO poller.audit (practice, at, actor, action, scope, reason)"
        " SELECT %s, now() - %s * interval '365.25 days', 'me', %s, '{}', n::text FROM generate_series(1, %s) AS n",
        [practice, years, action, entries],
    )


def test_only_what_is_past_retention_goes_and_that_is_noted(engine: Engine, admin: psycopg.Connection) -> None:
    fill(admin, 12_000, 6.5)
    fill(admin, 1, 5.9)
    fill(admin, 1, 0)
    retention = AuditRetention(engine)
    assert retention.expire(SIX_YEARS) == 12_000
    assert [(row[2], row[3].get("entries")) for row in noted(admin)] == [
        ("why", None), ("why", None), ("audit expire", 10_000), ("audit expire", 2_000),
    ]  # fmt: skip
    assert retention.expire(SIX_YEARS) == 0
    with pytest.raises(DBAPIError, match="at least 365 days"):
        retention.expire(dt.timedelta(days=364))


@pytest.mark.parametrize("who", ["poller_owner", None])
@pytest.mark.parametrize("as_retention_would", [False, True])
def test_neither_the_owner_nor_a_superuser_changes_a_row_by_mistake(
    admin: psycopg.Connection, who: str | None, *, as_retention_would: bool
) -> None:
    fill(admin, 1, 0.9)
    if not as_retention_would:
        fill(admin, 1, 10)
    before = noted(admin)
    if who is not None:
        admin.execute(f"SET ROLE {who}")
    if as_retention_would:
        admin.execute("SET poller.audit_expires = 'on'")
    for statement in ("UPDATE poller.audit SET reason = ''", "DELETE FROM poller.audit", "TRUNCATE poller.audit"):
        with pytest.raises(psycopg.errors.RestrictViolation, match="only ever appended to"):
            admin.execute(statement)
    admin.execute("RESET ROLE")
    assert noted(admin) == before


def told(run: Callable[..., Result], *words: str) -> list[Any]:
    result = run("audit", *words, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return list(json.loads(result.stdout)["entries"])


def test_it_is_read_by_practice_time_action_and_actor(run: Callable[..., Result], admin: psycopg.Connection) -> None:
    fill(admin, 2, 1)
    fill(admin, 1, 0.2, "p2")
    fill(admin, 1, 0.1, "*", "config accept")
    assert [one["practice"] for one in told(run)] == ["*", "*", "p2", "p1", "p1"]
    both = told(run, "p1")
    assert [(one["practice"], one["action"]) for one in both][-3:] == [
        ("*", "config accept"),
        ("p1", "why"),
        ("p1", "why"),
    ]
    assert (both[0]["action"], both[0]["actor"], both[0]["scope"]) == ("audit", ME, {"limit": 100})
    assert [one["reason"] for one in told(run, "p1", "--action", "why", "--limit", "1")] == ["2"]
    young = (dt.datetime.now(dt.UTC) - dt.timedelta(days=100)).strftime("%Y-%m-%d")
    assert {one["action"] for one in told(run, "p1", "--since", young)} == {"config accept", "audit"}
    assert {one["action"] for one in told(run, "p1", "--until", young)} == {"why"}
    assert {one["actor"] for one in told(run, "--actor", "me")} == {"me"}
    assert told(run, "gone", "--action", "history") == []
    wide = run("audit", "p1")
    assert max(map(len, wide.stdout.splitlines())) <= 100
    assert run("audit", "--action", "nonsense").exit_code == 2


def test_every_action_is_tested_here() -> None:
    elsewhere = {
        "api read",
        "audit expire",
        "config accept",
        "forget",
        "tail",
        "replay start",
        "replay resume",
        "replay cancel",
    }
    assert {action.value for action in Action} == {case.removesuffix(" a patient") for case in COMMANDS} | elsewhere
