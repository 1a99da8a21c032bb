"""`poller probe`: asked by a person, within the shared budget, beside a poller that holds the practice; told as a table without an id."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from psycopg.conninfo import conninfo_to_dict
from rich.console import Console
from sqlalchemy import Engine, text

from poller import cli, keys
from poller.config import PracticeConfig
from poller.config.secret import Secret
from poller.core.capability import (
    ExportReport,
    Finding,
    PracticeReport,
    SmartReport,
    TokenReport,
    TypeReport,
    conclude,
    from_json,
)
from poller.core.model import Strategy
from poller.core.refusals import Why
from poller.display_probe import is_degraded, read_by, show
from poller.errors import DEGRADED, NotFound
from poller.simulator import modes
from poller.simulator.server import SimulatorServer
from poller.simulator.world import World
from poller.store.state import LeaseKeeper
from tests.patients_bench import shared_database, shared_engine

NOW = dt.datetime(2026, 11, 22, 15, tzinfo=dt.UTC)
OPEN, OLD = "OPENOP", "OLDOLD"


@pytest.fixture(scope="module")
def database(postgres_server: str, template_database: str) -> Iterator[str]:
    with shared_database(postgres_server, template_database) as url:
        yield url


@pytest.fixture(scope="module")
def engine(database: str) -> Iterator[Engine]:
    with shared_engine(database) as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SimulatorServer, Path]]:
    pair = keys.new_key(tmp_path_factory.mktemp("keys"))
    size: dict[str, Any] = {"patients": 3, "name_initials": "AB", "limit": 1_000_000}
    world = World([modes.practice("open", OPEN, **size), modes.practice("old-build", OLD, **size)])
    world.register(keys.jwks([(pair.kid, pair.private_key.public_key())]))
    with SimulatorServer(world) as running:
        yield running, pair.private_path


@pytest.fixture
def config(server: tuple[SimulatorServer, Path], database: str, tmp_path: Path) -> Path:
    running, key = server
    parts = conninfo_to_dict(database)
    store = f"postgresql://{parts['user']}@{parts['host']}:{parts['port']}/{parts['dbname']}"
    practices = {
        code: {
            "base_url": running.base_url(code),
            "token_url": running.token_url,
            "client_id": f"poller-{code.lower()}",
            "key": {"file": str(key)},
            "budget": {"calls_per_minute": 100_000},
            "patients": {"names": ["a", "b"]},
            "feeds": {feed: {} for feed in ("Patient", "Condition", "Coverage")},
        }
        for code in (OPEN, OLD)
    }
    sinks = {"changes": {"exchange": "x", "queues": ["q"]}}
    path = tmp_path / "poller.yaml"
    whole = {"data_dir": str(tmp_path), "store": {"url": store}, "sinks": sinks, "practices": practices}
    whole["store"] = {"url": store, "digest_key": {"env": "DIGEST_KEY"}}
    path.write_text(json.dumps(whole), "utf-8")  # JSON is YAML
    return path


@pytest.fixture
def probe(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the command in this process; returns its exit code and what it printed."""
    monkeypatch.setenv("DIGEST_KEY", "k" * 32)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("poller.logs.configure", lambda *_: None)

    def run(code: str, **options: bool) -> tuple[int, str]:
        capsys.readouterr()
        try:
            cli.probe(code, config, **options)
        except click.exceptions.Exit as ended:
            return ended.exit_code, capsys.readouterr().out
        return 0, capsys.readouterr().out

    return run


def last_column(out: str) -> str:
    """What the table says in its last column, in one line."""
    rows = out.partition("─ \n")[2].partition("\npractice ")[0].splitlines()
    return " ".join(row[74:].strip() for row in rows)


def ids(world: World, code: str) -> list[str]:
    return [name for kind in ("Patient", "Condition", "Practitioner") for name in world.written(code, kind)]


def test_a_practice_is_asked_while_a_poller_holds_it_and_the_answer_is_kept(
    probe: Callable[..., tuple[int, str]], engine: Engine, server: tuple[SimulatorServer, Path]
) -> None:
    with pytest.raises(NotFound, match="asks now"):
        probe(OPEN, stored=True)
    keeper = LeaseKeeper(engine)
    keeper.take(OPEN)
    try:
        status, out = probe(OPEN)
    finally:
        keeper.close()
    assert status == 0
    rows = [line for line in out.splitlines() if "practice-wide" in line]
    assert [row.split()[:3] for row in rows] == [
        [kind, "yes", "window"] for kind in ("Patient", "Condition", "Coverage")
    ]
    assert "all feeds can be read" in out
    assert not [name for name in ids(server[0].world, OPEN) if name in out]
    with engine.connect() as connection:
        granted = connection.execute(text("SELECT count(*) FROM poller.budget WHERE practice = :code"), {"code": OPEN})
        assert granted.scalar_one() == 1, "the calls were taken from the budget that all processes share"
    asked = len(server[0].world.calls(OPEN))
    status, out = probe(OPEN, stored=True, as_json=True)
    said = from_json(json.loads(out))
    assert status == 0
    assert said is not None
    assert (said.by, said.calls, said.types["Condition"].offers[0]) == ("operator", asked, Strategy.WINDOW)
    assert not [name for name in ids(server[0].world, OPEN) if name in out]
    assert len(server[0].world.calls(OPEN)) == asked, "the stored answer asks nobody"


def test_the_command_says_what_to_do_and_exits_3(config: Path, server: tuple[SimulatorServer, Path]) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "poller", "probe", OLD, "-c", str(config)],
        env={**os.environ, "COLUMNS": "100", "DIGEST_KEY": "k" * 32},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (said.returncode, said.stderr) == (DEGRADED, "")
    row = next(line for line in said.stdout.splitlines() if "Coverage" in line)
    assert "NO" in row
    assert "build too old: needs build 12.0.2 or later" in last_column(said.stdout)
    assert "cannot be read: Coverage" in said.stdout
    assert max(map(len, said.stdout.splitlines())) <= 100
    assert not [name for name in ids(server[0].world, OLD) if name in said.stdout]


# --- the table


def practice(**more: Any) -> PracticeConfig:
    feeds = ("Patient", "MedicationAdministration", "ServiceRequest", "Coverage", "Observation")
    given: dict[str, Any] = {
        "code": "FAMLYMED",
        "base_url": "https://ehr.example.org/fhir/r4/FAMLYMED",
        "client_id": "c",
        "key": Secret(env="KEY", file=None),
        "feeds": {feed: {} for feed in feeds},
    }
    return PracticeConfig.model_validate(given | more)


def found(kind: str, why: Why = Why.READABLE, advice: str | None = None, **findings: Any) -> TypeReport:
    return conclude(TypeReport(kind, NOW, None, why, advice, **findings))


def printed(report: PracticeReport, config: PracticeConfig, columns: int = 100) -> str:
    out = io.StringIO()
    show(report, config, Console(file=out, width=columns))
    return out.getvalue()


YES, NO = Finding.YES, Finding.NO
WHOLE = PracticeReport(
    NOW,
    TokenReport(granted=True, scopes=("system/Patient.read",), refused=("system/Coverage.r",)),
    SmartReport(found=True, token_endpoint=True, private_key_jwt=True, rs384=True),
    "eCW FHIR Facade 1.6",
    "4.0.1",
    ExportReport(("Group",), scope=False),
    clock_offset_seconds=-3.2,
    latency_seconds=2.61,
    page_size=27,
    patients=4,
    calls=61,
    types={
        "Patient": found("Patient", by_name=YES, practice_window=NO),
        "MedicationAdministration": found(
            "MedicationAdministration", by_patient=YES, everything=YES, everything_since=YES, several_patients=NO
        ),
        "ServiceRequest": found("ServiceRequest", Why.OLD_BUILD),
        "Coverage": found("Coverage", Why.NO_SCOPE),
        "Observation": found(
            "Observation",
            advice="refused categories: sdoh",
            by_patient=YES,
            practice_window=NO,
            patient_window=YES,
            everything=Finding.DIFFERS,
            several_patients=Finding.FIRST,
            since=Finding.IGNORED,
        ),
    },
)


def test_the_table_fits_100_columns_and_says_what_to_do() -> None:
    for columns in (100, 160):
        out = printed(WHOLE, practice(), columns)
        assert max(map(len, out.splitlines())) <= 100
        words = " ".join(out.split())
        for said in (
            "token: granted, scopes: 1; refused with any of: system/Coverage.r",
            "server: eCW FHIR Facade 1.6, FHIR 4.0.1; smart-configuration names private_key_jwt, RS384",
            "bulk export: declared for Group; the token does not cover Group; no job was started to try it",
            "_since on Observation ignored",
            "measured: 2.6 s a call, clock -3 s, pages of 27, by 4 patients",
            "cannot be read: ServiceRequest, Coverage",
            "61 calls",
        ):
            assert said in words, said
        column = last_column(out)
        for said in (
            "build too old: needs a USCDI v3 build",
            "scope not granted: register the app for it, or take it out of feeds",
            "refused categories: sdoh",
            "$everything leaves out or alters what searches show",
            "several patients: only the first is answered",
        ):
            assert said in column, column


def test_how_a_feed_will_be_read_follows_what_is_allowed() -> None:
    def rungs(**more: Any) -> list[str]:
        config = practice(**more)
        return [read_by(WHOLE.types[feed], config, WHOLE).replace("\n", "") for feed in config.feeds]

    assert rungs() == ["patient", "everything-window", "-", "-", "patient-window"]
    assert rungs(forbid=("patient-window", "everything-window"))[1:] == ["everything", "-", "-", "patient"]
    assert rungs(strategy="sweep") == ["sweep"] * 5


def test_a_practice_that_lets_nobody_in_is_told_so() -> None:
    types = {kind: found(kind, Why.NOT_ACTIVATED) for kind in practice().feeds}
    report = PracticeReport(NOW, TokenReport(granted=False, status=403, why="the app is not enabled"), types=types)
    out = printed(report, practice())
    assert "token: NONE (403): the app is not enabled" in out
    assert "the practice cannot be read: not activated" in out
    assert is_degraded(report, practice())
    open_ = PracticeReport(NOW, TokenReport(granted=True, needed=False), types={})
    assert "none is needed" in printed(open_, practice())
    assert is_degraded(open_, practice()), "nothing is known of its feeds"
