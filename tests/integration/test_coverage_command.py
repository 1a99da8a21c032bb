"""`poller coverage`: what was read, what never was, by whom patients are known; from the store alone, and without an id."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from rich.console import Console
from sqlalchemy import Engine, text

from poller import cli, keys
from poller.config import PracticeConfig
from poller.config.secret import Secret
from poller.core.model import Kind, Target
from poller.display_coverage import Report, as_json, categorised, judge, show
from poller.errors import DEGRADED
from poller.store.coverage import CoverageStore
from poller.store.engine import READER, open_engine
from poller.store.known import PatientSource
from poller.store.patients import PatientStore
from tests.integration.conftest import Practice
from tests.patients_bench import practice_in, shared_database, shared_engine

LABORATORY, EXAM = "laboratory", "exam"


@pytest.fixture(scope="module")
def database(postgres_server: str, template_database: str) -> Iterator[str]:
    with shared_database(postgres_server, template_database) as url:
        yield url


@pytest.fixture(scope="module")
def engine(database: str) -> Iterator[Engine]:
    with shared_engine(database) as made:
        yield made


@pytest.fixture(scope="module")
def reader(database: str) -> Iterator[Engine]:
    made = open_engine(database, READER, pool_size=1)
    yield made
    made.dispose()


class Bench:
    """A practice whose passes the test makes, and what is said of it."""

    def __init__(self, practice: Practice, reader: Engine) -> None:
        self.practice = practice
        self.code = practice.code
        self.patients = PatientStore(practice.engine)
        self.store = CoverageStore(reader)
        self.feeds: dict[str, Any] = {"Patient": {}, "Observation": {"categories": (LABORATORY, EXAM)}}
        self.more: dict[str, Any] = {}

    def target(self, feed: str, kind: Kind, category: str | None = None, patient: str | None = None) -> Target:
        types = ("Condition", "Observation") if kind is Kind.EVERYTHING else ()
        return Target(self.code, feed, kind, category, patient, types=types)

    def register(self, *targets: Target) -> None:
        self.practice.register(*targets)

    def read(self, *targets: Target, **pass_end: Any) -> None:
        for target in targets:
            self.practice.whole(target=target, **pass_end)

    def know(self, *ids: str, source: PatientSource = PatientSource.NAMES) -> None:
        self.patients.add(self.practice.lease, ids, source, self.practice.at(0), live=False)

    def change(self, statement: str) -> None:
        with self.practice.engine.begin() as connection:
            connection.execute(text(statement), {"code": self.code})

    def verdict(self, feed: str, strategy: str | None, **columns: str) -> None:
        said = {"strategy": (strategy and f"'{strategy}'") or "NULL"} | {
            name: f"'{value}'" for name, value in columns.items()
        }
        parts = ", ".join(f"{name} = {value}" for name, value in said.items())
        self.change(f"UPDATE poller.feed SET {parts} WHERE practice = :code AND resource_type = '{feed}'")  # noqa: S608

    def report(self) -> Report:
        config = PracticeConfig.model_validate(
            {
                "code": "CODE",
                "base_url": "https://ehr.example/r4",
                "client_id": "c",
                "key": Secret(env="UNUSED", file=None),
                "feeds": self.feeds,
            }
            | self.more
        )
        return judge(config, self.store.look(self.code, categorised(config)))


@pytest.fixture
def bench(engine: Engine, reader: Engine) -> Iterator[Bench]:
    with practice_in(engine) as practice:
        practice.state.retire_feeds(practice.lease, [], practice.at(0))
        yield Bench(practice, reader)


def shown(report: Report, columns: int = 160) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=columns))
    return out.getvalue()


def test_what_was_never_read_is_said_and_why(bench: Bench) -> None:
    bench.feeds["Condition"] = {}
    bench.feeds["Coverage"] = {}
    bench.register(
        bench.target("Observation", Kind.SWEEP),
        bench.target("Coverage", Kind.SWEEP),
        bench.target("Patient", Kind.SWEEP),
    )
    bench.verdict("Observation", "sweep")
    bench.verdict("Patient", "sweep")
    bench.verdict(
        "Coverage",
        None,
        reason="refused for the scope",
        advice="needs build 12.0.2 or later",
        refused_since="2026-11-22",
    )
    bench.change("INSERT INTO poller.pause VALUES (:code, 'Patient', now(), 'no token')")
    report = bench.report()
    assert report.never == [
        "Patient: never read whole; paused: no token",
        "Observation: never read whole",
        "Condition: never read whole; `poller run` has not come to it yet",
        "Coverage: never read whole; cannot be read: refused for the scope: needs build 12.0.2 or later",
    ]
    assert [row.is_whole for row in report.feeds] == [False] * 5


def test_a_whole_read_covers_all_categories_and_the_next_one_too(bench: Bench) -> None:
    patient, observation = bench.target("Patient", Kind.SWEEP), bench.target("Observation", Kind.SWEEP)
    bench.register(patient, observation, bench.target("Observation", Kind.WINDOW))
    for feed in ("Patient", "Observation"):
        bench.verdict(feed, "window")
    bench.read(patient, observation)
    report = bench.report()
    assert report.never == []
    assert [(row.feed, row.category, row.targets, row.never) for row in report.feeds] == [
        ("Patient", None, 1, 0),
        ("Observation", LABORATORY, 1, 0),
        ("Observation", EXAM, 1, 0),
    ]
    assert "Everything that is configured has been read whole at least once." in shown(report)


def test_searches_are_counted_by_category_and_none_is_owed_of_who_is_gone(bench: Bench) -> None:
    del bench.feeds["Patient"]
    bench.know("a", "b", "c")
    each = {
        (category, patient): bench.target("Observation", Kind.PATIENT, category, patient)
        for category in (LABORATORY, EXAM)
        for patient in "abc"
    }
    bench.register(*each.values())
    bench.verdict("Observation", "patient")
    bench.read(each[LABORATORY, "a"])
    bench.read(each[LABORATORY, "b"], counts=False, failure="server")
    assert bench.report().never == [
        "Observation/laboratory: 2 of 3 searches never read whole; 1 failed at the last try",
        "Observation/exam: never read whole",
    ]
    bench.change("UPDATE poller.patient SET gone_at = now() WHERE practice = :code AND id IN ('b', 'c')")
    bench.read(each[EXAM, "a"])
    report = bench.report()
    assert report.never == []
    assert [row.targets for row in report.feeds] == [1, 1]
    assert (report.findings.known, report.findings.gone) == (1, 2)


def test_what_was_read_another_way_before_counts_as_once_read(bench: Bench) -> None:
    sweep = bench.target("Observation", Kind.SWEEP)
    bench.register(sweep)
    bench.read(sweep)
    bench.register(bench.target("Observation", Kind.PATIENT, LABORATORY, "a"))
    bench.verdict("Observation", "patient")
    del bench.feeds["Patient"]
    [laboratory, exam] = bench.report().feeds
    assert (laboratory.is_whole, laboratory.targets, laboratory.never, laboratory.oldest) == (True, 1, 1, None)
    assert (exam.is_whole, exam.targets) == (True, 0)


def test_a_reading_of_several_types_covers_those_that_it_has_read(bench: Bench) -> None:
    bench.feeds = {"Observation": {"categories": (LABORATORY,)}, "Condition": {}, "Goal": {}}
    everything = [bench.target("*", Kind.EVERYTHING, patient=patient) for patient in "ab"]
    bench.register(*everything)
    bench.practice.state.register_feed(bench.practice.lease, "Goal", bench.practice.at(0))
    bench.read(everything[0])
    bench.change("UPDATE poller.target SET types = types || '{Goal}' WHERE practice = :code AND kind = 'everything'")
    rows = {row.feed: row for row in bench.report().feeds}
    assert {feed: (row.targets, row.never, row.is_whole) for feed, row in rows.items()} == {
        "Observation": (2, 1, True),
        "Condition": (2, 1, True),
        "Goal": (2, 2, False),
    }


def test_an_export_covers_and_is_owed_nothing(bench: Bench) -> None:
    bench.feeds = {"Condition": {}}
    bulk = bench.target("Condition", Kind.BULK)
    bench.register(bulk)
    assert not bench.report().feeds[0].is_whole
    bench.read(bulk)
    [row] = bench.report().feeds
    assert (row.is_whole, row.targets, row.never) == (True, 0, 0)


def test_patients_of_whom_nothing_was_read_are_counted(bench: Bench) -> None:
    bench.know("shown", "alone", "grouped", "too", "later", "gone")
    bench.change("UPDATE poller.patient SET gone_at = now() WHERE practice = :code AND id = 'gone'")
    names = bench.target("Patient", Kind.NAMES)
    alone = bench.target("Observation", Kind.PATIENT, patient="alone")
    groups = [bench.target("Observation", Kind.PATIENTS, patient=name) for name in ("2.1", "2.2")]
    bench.register(names, alone, *groups)
    assert bench.report().findings.unread == 5
    bench.practice.whole(bench.practice.patient("shown"), target=names)
    assert bench.report().findings.unread == 4
    bench.read(alone)
    assert bench.report().findings.unread == 3
    bench.read(groups[0])
    report = bench.report()
    assert report.findings.unread == 1
    assert "patients: nothing was ever read of 1 of 5" in report.never


def test_sources_are_told_with_whom_they_alone_name(bench: Bench) -> None:
    bench.know("a", "b", source=PatientSource.ROSTER)
    bench.know("b", "c", source=PatientSource.REFERENCE)
    bench.know("gone", source=PatientSource.REFERENCE)
    bench.change("UPDATE poller.patient SET gone_at = now() WHERE practice = :code AND id = 'gone'")
    bench.change("INSERT INTO poller.patient VALUES (:code, 'old', false, now(), NULL, 99)")
    names = bench.target("Patient", Kind.NAMES)
    bench.register(names)
    now = bench.practice.at(5)
    bench.patients.end_enumeration(
        bench.practice.lease, PatientSource.ROSTER, now, now, 2, "1 of 3 lines cannot be read"
    )
    report = bench.report()
    told = [(row.source, row.patients, row.alone, row.enumeration is not None) for row in report.sources]
    assert told == [
        ("names", 0, 0, True),
        ("reference", 2, 1, False),
        ("roster", 2, 1, True),
        ("unrecorded", 1, 1, False),
    ]
    assert list(report.notes) == [
        "patients, roster: 1 of 3 lines cannot be read",
        "patients: 1 are named by other resources alone; no search, roster or Group shows them",
    ]


def test_a_source_that_was_never_gone_through_is_told(bench: Bench) -> None:
    bench.more = {"patients": {"names": (), "roster": "/r.csv", "group": "g"}}
    at = bench.practice.at(0)
    bench.patients.end_enumeration(bench.practice.lease, PatientSource.ROSTER, at, at, None, "there is no such file")
    report = bench.report()
    assert "patients, roster: never gone through; there is no such file" in report.never
    assert "patients, group: never gone through" in report.never
    assert any("no source was gone through whole" in note for note in report.notes)
    bench.patients.end_enumeration(bench.practice.lease, PatientSource.ROSTER, at, at, 0, None)
    report = bench.report()
    assert not any("roster" in line for line in report.never)
    assert not any("no source was gone through whole" in note for note in report.notes)


def test_of_several_practitioners_each_must_have_been_read(bench: Bench) -> None:
    bench.feeds = {"Encounter": {}}
    bench.more = {"patients": {"practitioners": ("d1", "d2")}}
    days = [bench.target("Encounter", Kind.DAYS, patient=name) for name in ("d1", "d2")]
    sweep = bench.target("Encounter", Kind.SWEEP)
    bench.register(*days, sweep)
    bench.read(sweep, days[0])
    assert bench.report().never == ["patients, days: never gone through"]
    bench.read(days[1])
    assert bench.report().never == []


def test_stored_categories_that_no_search_asks_for_are_told(bench: Bench) -> None:
    target = bench.target("Observation", Kind.PATIENT, LABORATORY, "a")
    bench.register(target)

    def observation(id_: str, *codes: str) -> dict[str, Any]:
        return bench.practice.observation(id_, category=[{"coding": [{"code": code} for code in codes]}])

    bench.practice.whole(
        observation("o1", LABORATORY, "genetics"),
        observation("o2", "genetics"),
        observation("o3", "Jane Doe 1970"),
        target=target,
    )
    assert [note for note in bench.report().notes if note.startswith("Observation")] == [
        "Observation/genetics: 2 stored, and no search asks for this category; add it to categories if it matters",
        "Observation: 1 stored in categories that are no codes, and no search asks for them",
    ]
    bench.register(bench.target("Observation", Kind.SWEEP))
    assert not [note for note in bench.report().notes if note.startswith("Observation")]


def test_it_is_never_wider_than_100_columns_and_holds_no_id(bench: Bench) -> None:
    bench.know("secret-1", "secret-2", source=PatientSource.ROSTER)
    bench.know("secret-3", source=PatientSource.REFERENCE)
    at = bench.practice.at(0)
    trouble = "refused: 12345 of 99999 lines cannot be read, the first: line 17: " + "a long reason " * 5
    bench.patients.end_enumeration(bench.practice.lease, PatientSource.ROSTER, at, at, None, trouble)
    bench.feeds["MedicationAdministration"] = {"categories": ("a-long-category-of-medication-that-was-given",)}
    bench.more = {"patients": {"names": (), "roster": "/r.csv", "group": "g"}}
    bench.register(*(bench.target("Observation", Kind.PATIENT, LABORATORY, f"secret-{n}") for n in (1, 2)))
    bench.verdict("Observation", "everything-window")
    report = bench.report()
    for columns in (160, 100):
        text = shown(report, columns)
        assert max(map(len, text.splitlines())) <= 100
        assert "secret" not in text
        assert "everything-window" in text
    assert "secret" not in json.dumps(as_json(report))


def test_the_command_exits_3_until_all_was_read(
    bench: Bench, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = bench.code.upper()
    keys.new_key(tmp_path / "key.pem")
    parts = conninfo_to_dict(database)
    path = tmp_path / "poller.yaml"
    path.write_text(
        f"""
data_dir: {tmp_path}
store: {{url: "postgresql://{parts["user"]}@{parts["host"]}:{parts["port"]}/{parts["dbname"]}"}}
sinks: {{changes: {{exchange: x, queues: [x]}}}}
practices:
  {code}:
    base_url: http://127.0.0.1:1/r4
    client_id: c
    key: {{file: key.pem}}
    feeds: {{Patient: {{every: 1m}}}}
""",
        "utf-8",
    )
    said = subprocess.run(
        [sys.executable, "-m", "poller", "coverage", code, "-c", str(path)],
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (said.returncode, said.stderr) == (DEGRADED, "")
    assert "Patient: never read whole; `poller run` has not come to it yet" in said.stdout
    with practice_in(bench.practice.engine, code) as practice:
        sweep = Target(code, "Patient", Kind.SWEEP)
        practice.register(sweep)
        practice.whole(practice.patient("a"), target=sweep)
    monkeypatch.setattr("poller.logs.configure", lambda *_: None)
    cli.coverage(code, path, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["complete"], told["neverRead"]) == (True, [])
    assert told["patients"] == {"known": 1, "gone": 0, "neverRead": 0}
    assert dt.datetime.fromisoformat(told["feeds"][0]["oldestWholeRead"]).tzinfo is not None
