"""What commands make of words that are no text, of a reader that goes, of a full disk: a line at most, and never a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from poller.core.sink import Fate, Sink, park_first
from poller.errors import OutputError
from poller.output import UNREAD
from tests.incidents import CODE, Scene

SINK = Sink("changes", "fhir.changes", ("q",))
NO_TEXT = "bad\udcff"
REFUSED = 2


@pytest.fixture
def scene(engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("KEY", "k" * 32)
    made = Scene(engine, database_url, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    "words",
    [
        ("status", NO_TEXT),
        ("why", NO_TEXT, "Observation/o1"),
        ("why", CODE, f"Observation/{NO_TEXT}"),
        ("why", CODE, "--patient", NO_TEXT),
        ("why", CODE, "Observation/o1", "--reason", NO_TEXT),
        ("history", CODE, f"Observation/{NO_TEXT}"),
        ("audit", NO_TEXT),
        ("as-of", CODE, "--at", "2030-01-01", "--patient", NO_TEXT),
        ("deletes", "release", CODE, "--type", "Observation", "--id", NO_TEXT),
        ("epoch", "start", NO_TEXT),
        ("pause", CODE, NO_TEXT, "--reason", "x"),
        ("read-now", CODE, "--patient", NO_TEXT),
        ("reconcile", CODE, NO_TEXT),
        ("replay", CODE, "--patient", NO_TEXT, "--dry-run"),
        ("replay", CODE, "--queue", NO_TEXT),
        ("replay", "resume", NO_TEXT),
        ("resume", CODE, NO_TEXT),
        ("tail", "--practice", NO_TEXT),
        ("tokens", "revoke", NO_TEXT),
        ("audit", "--actor", NO_TEXT),
        *(
            ("sinks", *words)
            for words in (
                ("show", NO_TEXT),
                ("show", "changes", "--practice", NO_TEXT),
                ("park", NO_TEXT, CODE, "--reason", "x"),
                ("park", "changes", NO_TEXT, "--reason", "x"),
                ("park", "changes", CODE, "--reason", "x", "--type", NO_TEXT),
                ("park", "changes", CODE, "--reason", "x", "--type", "Observation", "--id", NO_TEXT),
                ("park", "changes", CODE, "--reason", "x", "--sequence", NO_TEXT),
                ("release", NO_TEXT, CODE),
                ("release", "changes", NO_TEXT),
                ("release", "changes", CODE, "--id", NO_TEXT),
                ("discard", NO_TEXT, CODE),
                ("discard", "changes", CODE, "--type", NO_TEXT),
            )
        ),
    ],
)
def test_what_is_no_text_is_refused(scene: Scene, words: tuple[str, ...]) -> None:
    result = started(scene, *words)
    assert result.returncode == REFUSED, result.stderr
    assert "Traceback" not in result.stderr
    assert "not UTF-8" in result.stderr or "not a sequence" in result.stderr


@pytest.mark.parametrize(
    ("reason", "said"), [("a\x1b[2Jb", "U+001B"), ("a\nb", "U+000A"), (" ", "blank"), ("", "blank")]
)
@pytest.mark.parametrize(
    "words", [("sinks", "park", "changes", CODE), ("pause", CODE), ("why", CODE, "Observation/o1"), ("reload",)]
)
def test_a_reason_is_a_line_of_words(scene: Scene, words: tuple[str, ...], reason: str, said: str) -> None:
    result = scene.poller(*words, "--reason", reason)
    assert result.exit_code == REFUSED, (result.output, result.exception)
    assert said in result.output
    assert "--reason" in result.output
    assert "\x1b" not in result.output
    assert scene.practice.rows("SELECT FROM poller.control") == []


def started(scene: Scene, *words: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """The same command as a process, as a shell starts it."""
    return subprocess.run(
        [sys.executable, "-m", "poller", *words, *(() if "--help" in words else ("-c", str(scene.file)))],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "100"},
    )


SAYING = [
    ("status",),
    ("status", "--json"),
    ("why", CODE, "Observation/o1"),
    ("sinks", "list"),
    ("sinks", "list", "--json"),
    ("sinks", "show", "changes"),
    ("status", "--help"),
]


@pytest.mark.parametrize("words", SAYING)
def test_a_reader_that_goes_ends_a_command_quietly(scene: Scene, words: tuple[str, ...]) -> None:
    scene.sinks.begin(SINK)
    reads, writes = os.pipe()
    os.close(reads)
    try:
        result = started(scene, *words, stdout=writes)
    finally:
        os.close(writes)
    assert (result.returncode, result.stderr) == (UNREAD, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("words", SAYING)
def test_a_full_disk_is_one_line(scene: Scene, words: tuple[str, ...]) -> None:
    scene.sinks.begin(SINK)
    with Path("/dev/full").open("w") as full:
        result = started(scene, *words, stdout=full.fileno())
    assert result.returncode == OutputError.exit_code, result.stderr
    assert result.stderr.startswith("poller: what was to be said could not be written: No space left on device; ")
    assert result.stderr.count("\n") == 1


def test_what_sinks_say_fits(scene: Scene) -> None:
    """With the longest names that there are, and numbers as of years."""
    name, code = "a-sink-of-a-long-name", CODE
    scene.write(["Observation"], sinks=f"{{{name}: {{exchange: x, queues: [q]}}}}")
    scene.accept()
    scene.practice.whole(scene.practice.observation("0" * 64), scene.practice.observation("1" * 64))
    sink = Sink(name, "x", ("q",))
    scene.sinks.begin(sink)
    asked = scene.poller("sinks", "park", name, code, "--reason", "wait " * 30, "--sequence", "3").stdout
    assert asked.startswith("0000000001-00000000000000000003 will be parked when the sink comes to it;")
    (at,) = scene.sinks.positions(name)
    scene.sinks.advance(
        name, at, park_first(scene.sinks.after(code, 1, 1, 10, bodies=False), [Fate.SEND] * 2, "too large: " + "x" * 80)
    )
    with scene.relay.begin() as connection:
        connection.exec_driver_sql("UPDATE poller.cursor SET delivered = 123456789, filtered = 123456789")
    shown, listed = scene.poller("sinks", "show", name).stdout, scene.poller("sinks", "list").stdout
    for out in (asked, shown, listed):
        assert max(map(len, out.splitlines())) <= 100, out
        assert "…" not in out
    assert "1-2" in shown, "short as in `poller why`, and taken so by --sequence"
    assert sum(map(len, re.findall("0{4,}", shown))) == 64, "a long id is folded, not cut"
    again = scene.poller("sinks", "park", name, code, "--reason", "x", "--sequence", "1-3")
    assert "that is asked already" in str(again.exception)
    assert "123456789" in listed
