"""What a right configuration becomes: defaults merged, schedules, examples that load."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from poller import config, keys
from poller.config import ActiveHours, Config, FeedConfig, PracticeConfig, Secret, document
from poller.config import values as kinds
from poller.config.salvage import Found
from poller.config.section import Section

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "config" / "poller.yaml", *sorted((ROOT / "config" / "examples").glob("*.yaml"))]
MINUTE, HOUR = dt.timedelta(minutes=1), dt.timedelta(hours=1)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keys.new_key(tmp_path_factory.mktemp("keys") / "key.pem").private_path


def loaded(directory: Path, key: Path, text: str) -> Config:
    """The configuration of ``text``, with a sink, and a key in ``defaults``."""
    file = directory / "poller.yaml"
    whole = text.replace("KEY", str(key)) + "\nsinks: {changes: {exchange: fhir.changes, queues: [fhir.changes.all]}}\n"
    file.write_text(whole)
    return config.load(file)


SMALL = """
practices:
  AB:
    base_url: https://fhir.example.org/r4/AB/
    client_id: poller
    key: {file: KEY}
    feeds: {Patient: , Observation: , Coverage: {every: 1d}}
"""


def test_what_is_not_said_has_its_default(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = loaded(tmp_path, key, SMALL)
    practice = whole.practices["AB"]
    assert whole.data_dir == tmp_path / ".poller"
    assert whole.is_embedded_store
    assert whole.is_embedded_broker
    assert whole.http.listen == "127.0.0.1:9464"
    assert practice.code == "AB"
    assert practice.base_url == "https://fhir.example.org/r4/AB"
    assert practice.scopes == ("system/Patient.read", "system/Observation.read", "system/Coverage.r")
    assert (practice.budget.calls_per_minute, practice.budget.share, practice.budget.max_in_flight) == (250, 1.0, 12)
    assert (practice.timeout, practice.overlap) == (dt.timedelta(seconds=30), MINUTE)
    assert len(practice.patients.names) == 26
    assert practice.feeds["Patient"] == FeedConfig(sweep_every=HOUR)
    assert practice.feeds["Patient"].planned
    assert practice.gives_way == ("backfill", "reconcile", "index")
    assert practice.feeds["Observation"].categories == kinds.DEFAULT_CATEGORIES["Observation"]
    assert practice.feeds["Coverage"].every == 24 * HOUR
    assert practice.key is not None
    assert practice.key.read().startswith("-----BEGIN")


def test_models_made_in_code_have_the_same_defaults() -> None:
    made = PracticeConfig(
        code="AB",
        base_url="https://fhir.example.org/r4/AB",
        client_id="poller",
        key=Secret(env="NOWHERE"),
        feeds={"Observation": FeedConfig(), "Patient": FeedConfig(cron="0 * * * *")},
    )
    assert made.feeds["Observation"].planned
    assert made.feeds["Observation"].sweep_every == HOUR
    assert not made.feeds["Patient"].planned
    assert len(made.feeds["Observation"].categories) == 7
    assert made.feeds["Patient"].every is None
    assert made.scopes == ("system/Observation.read", "system/Patient.read")


LAYERED = """
defaults:
  client_id: poller
  key: {file: KEY}
  time_zone: America/New_York
  budget: {calls_per_minute: 100, share: 0.5}
  every_feed: {every: 10m, sweep_every: 2h, active: {hours: 07:00-19:00, days: mon-fri}}
  feeds:
    Patient: {cron: "0 6 * * *", active: null}
    Observation: {categories: [laboratory]}
practices:
  AA: {base_url: https://a.example.org}
  BB:
    base_url: https://b.example.org
    client_id: other
    budget: {share: 0.9}
    every_feed: {every: 1m, active: {days: mon-sun}}
    feeds:
      Observation: {sweep_cron: "0 3 * * *"}
      Patient:
      Encounter: {active: null}
"""


def test_a_practice_without_feeds_has_those_of_the_defaults(tmp_path: Path, key: Path) -> None:
    practice = loaded(tmp_path, key, LAYERED).practices["AA"]
    assert list(practice.feeds) == ["Patient", "Observation"]
    assert practice.budget.share == 0.5
    assert practice.zone.key == "America/New_York"
    assert practice.feeds["Patient"] == FeedConfig(cron="0 6 * * *", sweep_every=2 * HOUR)
    assert practice.feeds["Observation"].describe("Observation") == "every 10m mon-fri 07:00-19:00, whole every 2h"


def test_the_nearer_and_the_more_special_outweighs(tmp_path: Path, key: Path) -> None:
    practice = loaded(tmp_path, key, LAYERED).practices["BB"]
    assert list(practice.feeds) == ["Observation", "Patient", "Encounter"]
    assert practice.client_id == "other"
    assert (practice.budget.calls_per_minute, practice.budget.share) == (100, 0.9)
    observation = practice.feeds["Observation"]
    assert (observation.every, observation.categories) == (MINUTE, ("laboratory",))
    assert (observation.sweep_every, observation.sweep_cron) == (None, "0 3 * * *")
    assert observation.active == ActiveHours(hours="07:00-19:00", days="mon-sun")
    assert practice.feeds["Patient"].every is None
    assert practice.feeds["Patient"].describe("Patient") == "cron 0 6 * * *, whole every 2h"
    assert practice.feeds["Encounter"].active is None


def test_another_place_of_a_secret_replaces_the_place_in_the_defaults(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLLER_TEST_PEM", key.read_text())
    text = LAYERED.replace("client_id: other", "key: {env: POLLER_TEST_PEM}")
    assert loaded(tmp_path, key, text).practices["BB"].key == Secret(env="POLLER_TEST_PEM")


def test_relative_paths_begin_beside_the_file_or_in_the_data_directory(tmp_path: Path, key: Path) -> None:
    beside, inside = tmp_path / "beside.pem", tmp_path / "state" / "keys" / "inside.pem"
    inside.parent.mkdir(parents=True)
    for path in (beside, inside):
        path.write_text(key.read_text())
        path.chmod(0o600)

    def place(where: str, text: str) -> Path | None:
        secret = loaded(tmp_path, Path(where), text).practices["AB"].key
        return None if secret is None else secret.file

    assert place("beside.pem", SMALL) == beside
    text = f"data_dir: {tmp_path / 'state'}\n{SMALL}"
    assert place("$data_dir/keys/inside.pem", text) == inside


def test_the_data_directory_is_known_before_the_key_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "poller.yaml"
    file.write_text("data_dir: state\npractices: 5")
    assert config.data_directory(file) == tmp_path / "state"
    file.write_text("{")
    assert config.data_directory(file) == tmp_path / ".poller"


def test_words_that_old_yaml_takes_for_something_else_stay_words(tmp_path: Path, key: Path) -> None:
    text = SMALL.replace("AB:", "NO:").replace("client_id: poller", "client_id: off\n    patients: {names: [y, n, on]}")
    practice = loaded(tmp_path, key, text).practices["NO"]
    assert practice.client_id == "off"
    assert practice.patients.names == ("y", "n", "on")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_that_is_shipped_loads(
    file: Path, tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is, but for secrets, which the test provides."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLLER_KEY", key.read_text())
    monkeypatch.setenv("POLLER_BROKER_PASSWORD", "x")
    copy = tmp_path / file.name
    copy.write_text(re.sub(r"/etc/poller/([\w.]+)(?=\})", "secret-\\1", file.read_text()))
    for name in ("secret-key.pem", "secret-store.password", "secret-digest.key", ".poller/keys/simulator.pem"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(key.read_text())
        (tmp_path / name).chmod(0o600)
    assert config.problems(copy) == []
    assert config.load(copy).practices


def test_the_file_that_runs_as_it_is_lacks_at_most_its_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (only,) = config.problems(FILES[0])
    assert "make one with `poller keys new --out .poller/keys/simulator.pem`" in only


def sections(section: type[Section]) -> list[type[Section]]:
    return [section, *(each for below in section.__subclasses__() for each in sections(below))]


WRITTEN = [one for one in sections(Section)[1:] if one is not Found]  # nobody writes that one


@pytest.mark.parametrize("section", [*WRITTEN, ActiveHours, Secret])
def test_every_key_has_an_example_that_is_right(section: type[BaseModel], tmp_path: Path) -> None:
    """Refusals show them; an example that is itself refused would send people in circles."""
    for name, known in section.model_fields.items():
        assert known.examples, name
        if "…" in known.examples[0]:
            continue
        (tmp_path / "one.yaml").write_text(f"{name}: {known.examples[0]}")
        node, found = document.read(tmp_path / "one.yaml")
        assert found == []
        try:
            section.model_validate(node.plain())
        except ValidationError as refused:
            assert name not in {error["loc"][0] for error in refused.errors() if error["loc"]}  # noqa: PT017 - others lack


@pytest.mark.parametrize(
    ("written", "seconds", "shown"),
    [("500ms", 0.5, "500ms"), ("30s", 30, "30s"), ("90s", 90, "90s"), ("120s", 120, "2m"), ("24h", 86400, "1d")],
)
def test_durations(written: str, seconds: float, shown: str) -> None:
    value = kinds.parse_duration(written)
    assert value.total_seconds() == seconds
    assert kinds.show_duration(value) == shown


def at(day: int, hour: int, minute: int = 0) -> dt.datetime:
    """In the week of Monday 2025-09-01."""
    return dt.datetime(2025, 9, day, hour, minute, tzinfo=dt.UTC)


def test_active_hours_of_a_day() -> None:
    office = ActiveHours(hours="07:00-19:00", days="mon-fri")
    assert office.includes(at(1, 7))
    assert office.includes(at(5, 18, 59))
    assert not office.includes(at(5, 19))
    assert not office.includes(at(6, 12))
    assert ActiveHours(hours="00:00-24:00").includes(at(7, 23, 59))


def test_active_hours_past_midnight_belong_to_the_day_they_began_on() -> None:
    night = ActiveHours(hours="22:00-06:00", days="fri")
    assert night.includes(at(5, 22))
    assert night.includes(at(6, 5, 59))
    assert not night.includes(at(5, 5))
    assert not night.includes(at(6, 6))
    assert not night.includes(at(6, 22))


def test_days_go_round_the_week() -> None:
    weekend = ActiveHours(hours="08:00-12:00", days="sat-mon,wed")
    assert [weekend.includes(at(day, 9)) for day in range(1, 8)] == [True, False, True, False, False, True, True]
