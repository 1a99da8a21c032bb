"""Commands as a person types them: what is wrong is said in one line, with an exit code that a script can tell apart."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SHIPPED = Path(__file__).parents[2] / "config" / "poller.yaml"


def poller(where: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "poller", *words],
        cwd=where,
        env={**os.environ, "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the shipped configuration in it."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "poller.yaml").write_text(SHIPPED.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def test_the_shipped_configuration_is_in_order_on_a_fresh_clone(place: Path) -> None:
    said = poller(place, "check")
    assert (said.returncode, said.stderr) == (0, "")
    assert "DEMOEC Observation: every 10s" in said.stdout
    key = place / ".poller" / "keys" / "simulator.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "-c", "nope.yaml"], 2, "nope.yaml:1: the file cannot be read"),
        (["history", "DEMOOP", "Observation"], 6, "Type/id"),
        (["history", "DEMOX", "Observation/1"], 6, "there are: DEMOEC, DEMOOP"),
        (["tail", "--sink", "nope"], 6, "there are: changes, full"),
        (["replay", "DEMOOP", "--queue", "fhir.changes.all"], 2, "is a live queue"),
        (["replay", "DEMOOP", "--payload", "all"], 2, "id-only and full-resource"),
    ],
)
def test_wrong_words_get_one_line_and_a_code(place: Path, words: list[str], code: int, said: str) -> None:
    answer = poller(place, *words)
    assert answer.returncode == code, answer.stderr
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith("poller: ")


def test_every_problem_of_a_file_is_told_at_once(place: Path) -> None:
    path = place / "config" / "poller.yaml"
    path.write_text(
        path.read_text(encoding="utf-8")
        .replace("every: 10s", "evry: 10s")
        .replace("payload: id-only", "payload: id-onl"),
        encoding="utf-8",
    )
    said = poller(place, "run")
    assert said.returncode == 2
    lines = said.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("poller: config/poller.yaml:") for line in lines)
    assert "did you mean every?" in said.stderr
    assert "did you mean id-only?" in said.stderr


def test_keys_are_made_once_and_never_overwritten_by_accident(tmp_path: Path) -> None:
    made = poller(tmp_path, "keys", "new", "--out", "k/app.pem")
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE((tmp_path / "k" / "app.pem").stat().st_mode) == 0o600
    [key] = json.loads((tmp_path / "k" / "app.jwks.json").read_text())["keys"]
    assert key["alg"] == "RS384"
    assert key["kid"] in made.stdout
    assert "d" not in key
    again = poller(tmp_path, "keys", "new", "--out", "k/app.pem")
    assert again.returncode != 0
    assert len(again.stderr.splitlines()) == 1


def test_commands_on_an_empty_store_say_what_to_do(place: Path) -> None:
    """One embedded server serves them all: nothing is there, then the schema, then still no history."""
    empty = poller(place, "replay", "DEMOOP", "--dry-run")
    assert (empty.returncode, "poller migrate" in empty.stderr) == (4, True)
    assert poller(place, "migrate").returncode == 0
    unknown = poller(place, "history", "DEMOOP", "Observation/1")
    assert unknown.returncode == 6
    assert poller(place, "replay", "DEMOOP", "--dry-run").returncode == 6
    assert "nothing is held" in poller(place, "deletes", "list", "DEMOOP").stdout
    assert poller(place, "deletes", "release", "DEMOOP").stdout == "0 released\n"
    assert poller(place, "epoch", "start", "DEMOOP").returncode == 6
