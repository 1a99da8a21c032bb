"""`poller plan` and `poller check` with what a store knows, and without one: figures, refusals, exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from poller import cli
from poller.core.capability import PracticeReport, TokenReport
from poller.core.model import Kind, Strategy, Target
from poller.errors import ConfigError
from poller.store.configurations import ConfigurationStore
from poller.store.engine import READER, open_engine
from poller.store.known import PatientSource
from poller.store.outlook import OutlookStore, Standing
from poller.store.patients import PatientStore
from poller.store.planning import PlanningStore
from poller.store.probes import ProbeStore
from tests.integration.conftest import T0
from tests.patients_bench import practice_in, shared_database, shared_engine

CODE = "PLANNED"


@pytest.fixture(scope="module")
def database(postgres_server: str, template_database: str) -> Iterator[str]:
    with shared_database(postgres_server, template_database) as url:
        yield url


@pytest.fixture(scope="module")
def store(database: str) -> Iterator[str]:
    """A store that knows 400 patients of a practice, each read whole but for one, of one type."""
    with shared_engine(database) as engine, practice_in(engine, CODE) as practice:
        practice.state.retire_feeds(practice.lease, [], practice.at(0))
        people = [f"p{number}" for number in range(400)]
        PatientStore(engine).add(practice.lease, people, PatientSource.NAMES, practice.at(0), live=False)
        targets = [Target(CODE, "Condition", Kind.PATIENT, None, one) for one in people[:2]]
        practice.register(*targets)
        practice.whole(
            practice.observation("c1", resourceType="Condition", subject={"reference": "Patient/p0"}), target=targets[0]
        )
        with engine.begin() as connection:
            connection.execute(text("UPDATE poller.feed SET strategy = 'patient' WHERE resource_type = 'Condition'"))
            connection.execute(text("UPDATE poller.patient SET gone_at = now() WHERE id = 'p399'"))
        report = PracticeReport(T0, TokenReport(granted=True), page_size=40, latency_seconds=1.5)
        ProbeStore(engine).save(practice.lease, report)
        PlanningStore(engine).save(practice.lease, {"practice": {}}, T0)
        yield database


@pytest.fixture
def reader(store: str) -> Iterator[Engine]:
    made = open_engine(store, READER, pool_size=1)
    yield made
    made.dispose()


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.logs.configure", lambda *_: None)


def written(place: Path, feeds: str, store: str = "embedded") -> Path:
    path = place / "poller.yaml"
    path.write_text(
        f"""
data_dir: {place / "data"}
store: {{url: "{store}"}}
sinks: {{changes: {{exchange: x, queues: [x]}}}}
practices:
  {CODE}:
    base_url: http://127.0.0.1:1/r4
    auth: none
    feeds: {feeds}
""",
        "utf-8",
    )
    return path


def poller(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": "100"})


def url(database: str) -> str:
    parts = conninfo_to_dict(database)
    return f"postgresql://{parts['user']}@{parts['host']}:{parts['port']}/{parts['dbname']}"


def test_a_practice_is_known_by_the_store_alone(reader: Engine) -> None:
    found = OutlookStore(reader).look(CODE)
    assert (found.patients, found.rungs) == (399, {"Condition": Strategy.PATIENT})
    assert found.resources["Condition"] == 1
    assert found.unread["Condition", None] == 0.5
    assert found.report is not None
    assert (found.report.page_size, found.report.latency_seconds) == (40, 1.5)
    assert found.learned == {"practice": {}}
    assert OutlookStore(reader).look("NOBODY") == Standing()


def test_a_plan_is_made_of_what_the_store_knows(store: str, tmp_path: Path) -> None:
    said = poller("plan", CODE, "--json", "-c", written(tmp_path, "{Condition: {every: 1h}}", url(store)))
    assert said.exit_code == 0, said.output
    (plan,) = json.loads(said.output)["practices"]
    assert (plan["practice"], plan["known"], plan["patients"], plan["patientsCounted"]) == (CODE, True, 399, True)
    (feed,) = plan["feeds"]
    assert feed["callsPerMinute"] == pytest.approx(399 / 60)
    assert feed["p50"] == pytest.approx(1800 + 1.5)
    assert plan["firstLoad"]["calls"] == pytest.approx(399 / 2)


@pytest.mark.parametrize(
    ("feeds", "code"),
    [
        ("{Condition: }", 0),
        ("{Condition: {every: 1m}}", 2),
        ("{Condition: {max_staleness: 1m}}", 2),
        ("{Condition: {every: 2m}}", 0),
        ("{Condition: {every: 1m}, Goal: }", 3),
    ],
)
def test_the_exit_code_says_whether_it_fits(store: str, tmp_path: Path, feeds: str, code: int) -> None:
    assert poller("plan", "-c", written(tmp_path, feeds, url(store))).exit_code == code


def test_check_refuses_what_the_store_knows_cannot_be_kept(store: str, tmp_path: Path) -> None:
    path = written(tmp_path, "{Condition: {max_staleness: 1m}}", url(store))
    refused = poller("check", "-c", path).exception
    assert isinstance(refused, ConfigError)
    (told,) = refused.problems
    assert told.startswith(
        f"{path}:9: practices.{CODE}.feeds.Condition.max_staleness: 1m would cost 399 calls a minute"
    )
    assert told.endswith(", 169 are there (0.7 of 241); 3m would fit, or 160 patients")


def test_what_was_accepted_and_has_been_outgrown_is_told_and_not_refused(store: str, tmp_path: Path) -> None:
    path = written(tmp_path, "{Condition: {max_staleness: 1m}}", url(store))
    with shared_engine(store) as engine:
        ConfigurationStore(engine).accept("poller", path.read_text("utf-8"), actor="a", reason="test")
    said = poller("check", "-c", path)
    assert said.exit_code == 0
    assert "was accepted and cannot be kept: " in said.output
    less = written(tmp_path, "{Condition: {max_staleness: 2m}}", url(store))
    assert poller("check", "-c", less).exit_code == 0, "who asks for less is not stopped by what is still too much"
    more = written(tmp_path, "{Condition: {max_staleness: 50s}}", url(store))
    assert isinstance(poller("check", "-c", more).exception, ConfigError)


def test_check_says_what_could_not_be_weighed(store: str, tmp_path: Path) -> None:
    said = poller("check", "-c", written(tmp_path, "{Condition: {every: 2m}}", url(store)))
    assert (said.exit_code, "suffice" in said.output) == (0, False)
    said = poller("check", "-c", written(tmp_path, "{Goal: {every: 2m}}", url(store)))
    assert f"whether the calls suffice is not known yet for {CODE}; see `poller plan`" in said.output
    said = poller("check", "-c", written(tmp_path, "{Goal: {every: 2m}}", "postgresql://nobody@127.0.0.1:1/none"))
    assert "whether the calls suffice was not weighed: " in said.output


def test_without_a_store_none_is_made_for_a_look(tmp_path: Path) -> None:
    path = written(tmp_path, "{Condition: }")
    assert poller("plan", "-c", path).exit_code == 0
    assert poller("check", "-c", path).exit_code == 0
    assert not (tmp_path / "data" / "postgres").exists()


def test_an_unknown_practice_is_said(tmp_path: Path) -> None:
    said: Any = poller("plan", "NOBODY", "-c", written(tmp_path, "{Condition: }")).exception
    assert said.exit_code == 6


def test_help_has_an_example() -> None:
    assert "poller plan FAMLYM --json" in poller("plan", "--help").output
