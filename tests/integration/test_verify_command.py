"""`poller verify`: an outside dump beside the store, as a person and a program are told."""

from __future__ import annotations

import io
import json
import logging
import sys
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, text

from poller import verifying
from poller.config import FeedConfig, PracticeConfig
from poller.core.dump import Outcome
from poller.core.report_schema import verify_schema
from poller.errors import DEGRADED, ConfigError, NotFound, StoreError
from poller.store.engine import prove_digest_key
from poller.store.verify import VerifyStore
from tests.incidents import CODE, Scene

pytestmark = pytest.mark.usefixtures("bodies")

BAD_FILE = 2
KEY = b"k" * 32
PRACTICE = PracticeConfig.model_validate(
    {"code": CODE, "base_url": "https://ehr.example/A", "auth": "none", "feeds": {"Observation": {}}}
)


@pytest.fixture
def scene(engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """The store holds Observation/o1, and no more."""
    monkeypatch.setenv("KEY", KEY.decode())
    made = Scene(engine, database_url, tmp_path)
    yield made
    made.close()


def dump(path: Path, *resources: Mapping[str, Any] | str) -> str:
    lines = [one if isinstance(one, str) else json.dumps(one) for one in resources]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return str(path)


def verified(scene: Scene, exit_code: int, source: str, *words: str) -> Any:
    """As a program is told, and a person, no wider than 100 columns."""
    told = scene.told(exit_code, "verify", CODE, "--against", source, *words, schema=verify_schema())
    shown = scene.poller("verify", CODE, "--against", source, *words)
    assert shown.exit_code == exit_code
    assert max(map(len, shown.stdout.splitlines())) <= 100
    return told


def test_what_is_equal_says_so_however_it_is_written(scene: Scene, tmp_path: Path) -> None:
    moved = scene.practice.observation(
        text={"div": "<p>x</p>"}, meta={"versionId": "7", "lastUpdated": "2026-01-01T00:00:00Z"}
    )
    told = verified(scene, 0, dump(tmp_path / "dump.ndjson", dict(reversed(moved.items()))))
    assert told["equal"] is True
    assert told["types"] == [{"type": "Observation", "equal": 1, "different": 0, "missing": 0, "extra": 0}]


def test_each_difference_is_counted_and_named_on_request_only(scene: Scene, tmp_path: Path) -> None:
    practice = scene.practice
    practice.read(practice.observation("o2"), practice.observation("o3"), practice.observation("o4"))
    practice.read(practice.patient("a"))
    export = tmp_path / "export"
    export.mkdir()
    dump(export / "1.ndjson", practice.observation("o2", "other"), practice.observation("o9"))
    dump(export / "2.ndjson", practice.observation("o1"), practice.observation("o3"))
    dump(export / "notes.txt", "no resource")
    told = verified(scene, DEGRADED, str(export))
    assert told["types"] == [{"type": "Observation", "equal": 2, "different": 1, "missing": 1, "extra": 1}]
    assert "listed" not in told, "and no Patient: the dump has none at all"
    listed = verified(scene, DEGRADED, str(export), "--list")["listed"]
    wanted = [("different", "Observation/o2"), ("extra", "Observation/o4"), ("missing", "Observation/o9")]
    assert [(one["outcome"], one["resource"]) for one in listed] == wanted
    shown = scene.poller("verify", CODE, "--against", str(export), "--list").stdout
    assert [tuple(line.split()) for line in shown.splitlines()[-3:]] == wanted
    assert "o2" not in scene.poller("verify", CODE, "--against", str(export)).output


def test_what_was_deleted_is_missing_and_the_last_line_of_a_resource_counts(scene: Scene, tmp_path: Path) -> None:
    practice = scene.practice
    practice.read(practice.observation("o2"))
    with practice.engine.begin() as connection:
        connection.execute(text("UPDATE poller.snapshot SET deleted = true, body = NULL, codec = NULL WHERE id = 'o2'"))
    twice = [practice.observation("o1", "before"), practice.observation("o2"), practice.observation("o1")]
    told = verified(scene, DEGRADED, dump(tmp_path / "dump.ndjson", *twice))
    assert told["types"] == [{"type": "Observation", "equal": 1, "different": 0, "missing": 1, "extra": 0}]


def test_noise_rules_are_those_in_force(scene: Scene, tmp_path: Path) -> None:
    other = scene.practice.observation(meta={"tag": [{"code": "b"}]})
    source = dump(tmp_path / "dump.ndjson", other)
    assert verified(scene, DEGRADED, source)["types"][0]["different"] == 1
    scene.write(["Observation", "Condition"], more=", noise: {Observation: [meta.tag]}")
    assert verified(scene, DEGRADED, source)["types"][0]["different"] == 1, "not in force yet"
    scene.accept()
    assert verified(scene, 0, source)["types"][0]["equal"] == 1, "stored under the rules before"


def test_lines_that_cannot_be_read_are_told_by_place_and_never_quoted(
    scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source = dump(
        tmp_path / "dump.ndjson",
        '{"secret-one": ',
        scene.practice.observation(),
        "",
        '{"resourceType": "Patient", "id": "secret two"}',
    )
    told = verified(scene, BAD_FILE, source)
    assert told["unreadable"] == {
        "lines": 2,
        "first": [
            {"file": "dump.ndjson", "line": 1, "reason": "not JSON"},
            {"file": "dump.ndjson", "line": 4, "reason": "no id that FHIR allows"},
        ],
    }
    assert told["types"][0]["equal"] == 1, "the rest is compared"
    shown = scene.poller("verify", CODE, "--against", source).output
    assert "dump.ndjson:4: no id that FHIR allows" in shown
    assert "secret" not in shown + caplog.text


def test_more_flaws_than_are_told_are_counted_and_a_line_without_end_is_not_held(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "LONGEST", 1000)
    source = dump(tmp_path / "dump.ndjson", *["x" * 5000] * 150, scene.practice.observation())
    told = verified(scene, BAD_FILE, source)
    assert told["unreadable"]["lines"] == 150
    assert told["unreadable"]["first"][-1] == {"file": "dump.ndjson", "line": 100, "reason": "longer than 16 MB"}
    assert told["types"][0]["equal"] == 1


def test_a_dump_comes_by_standard_input(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    class Piped:
        buffer = io.BytesIO(json.dumps(scene.practice.observation()).encode())

    with VerifyStore(scene.practice.engine).begin(CODE, KEY) as verification, monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", Piped())
        seen, counts = verifying.verify("-", verification, KEY, PRACTICE, lambda _seen: None)
    assert (seen.resources, counts["Observation"][Outcome.EQUAL]) == (1, 1)


def test_what_cannot_be_compared_is_refused(scene: Scene, tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "empty").mkdir()
    blank = dump(tmp_path / "blank.ndjson", "")
    for source in (str(tmp_path / "none.ndjson"), str(tmp_path / "empty"), blank):
        result = scene.poller("verify", CODE, "--against", source)
        assert isinstance(result.exception, ConfigError)
    source = dump(tmp_path / "dump.ndjson", scene.practice.observation())
    assert isinstance(scene.poller("verify", "NOBODY", "--against", source).exception, NotFound)
    prove_digest_key(engine, KEY)
    assert verified(scene, 0, source)["equal"]
    with pytest.raises(StoreError, match="digest_key"), VerifyStore(engine).begin(CODE, b"x" * 32):
        pass


def test_where_no_temporary_table_may_be_made_the_right_that_is_wanted_is_named(
    scene: Scene, database_url: str, tmp_path: Path
) -> None:
    with closing(psycopg.connect(database_url, autocommit=True)) as admin:
        name = admin.info.dbname
        admin.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
        source = dump(tmp_path / "dump.ndjson", scene.practice.observation())
        refused = scene.poller("verify", CODE, "--against", source)
        assert isinstance(refused.exception, StoreError)
        assert "GRANT TEMPORARY ON DATABASE" in str(refused.exception)
        admin.execute(sql.SQL("GRANT TEMPORARY ON DATABASE {} TO poller_reader").format(sql.Identifier(name)))
        assert verified(scene, 0, source)["equal"]


def test_the_store_is_as_it_was_and_a_second_comparison_begins_anew(scene: Scene, tmp_path: Path) -> None:
    def all_tables() -> Any:
        names = ("snapshot", "history", "event", "member", "absence", "target", "rules", "hidden", "installation")
        rows = scene.practice.rows
        return {name: rows(f"SELECT md5(t::text) FROM poller.{name} AS t ORDER BY 1") for name in names}  # noqa: S608

    before = all_tables()
    source = dump(tmp_path / "dump.ndjson", scene.practice.observation("o9"))
    for _ in range(2):
        assert verified(scene, DEGRADED, source)["types"][0] == {
            "type": "Observation",
            "equal": 0,
            "different": 0,
            "missing": 1,
            "extra": 1,
        }
    assert all_tables() == before


def test_what_feeds_drop_and_skip_does_not_count(scene: Scene, tmp_path: Path) -> None:
    feed = FeedConfig(drop=("note",), skip_security=("R",))
    practice = PRACTICE.model_copy(update={"feeds": {"Observation": feed}})
    more = scene.practice.observation(note=[{"text": "more"}])
    skipped = scene.practice.observation("o7", meta={"security": [{"code": "R"}]})
    with VerifyStore(scene.practice.engine).begin(CODE, KEY) as verification:
        source = dump(tmp_path / "dump.ndjson", more, skipped)
        _, counts = verifying.verify(source, verification, KEY, practice, lambda _seen: None)
    assert counts["Observation"] == dict.fromkeys(Outcome, 0) | {Outcome.EQUAL: 1}


def test_a_dump_ten_times_as_large_takes_no_more_memory(scene: Scene, tmp_path: Path) -> None:
    def most_held(resources: int) -> int:
        source = tmp_path / f"{resources}.ndjson"
        with source.open("w", encoding="utf-8") as out:
            for number in range(resources):
                out.write(json.dumps(scene.practice.observation(f"x{number}", "v" * 200)) + "\n")
        with VerifyStore(scene.practice.engine).begin(CODE, KEY) as verification:
            tracemalloc.start()
            seen, counts = verifying.verify(str(source), verification, KEY, PRACTICE, lambda _seen: None)
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert (seen.resources, counts["Observation"][Outcome.MISSING]) == (resources, resources)
        return most

    most_held(100)  # what is loaded once
    few = most_held(2_000)
    assert most_held(20_000) < 1.3 * few
