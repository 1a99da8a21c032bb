"""Commands as a person types them: what is wrong is said in one line, with an exit code that a script can tell apart."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from poller import cli

TOP = Path(__file__).parents[2]
SHIPPED = TOP / "config" / "poller.yaml"
DEAR = ("alembic", "pgmq", "sqlalchemy.orm", "poller.broker.rabbit", "poller.simulator.world")
"""Each takes its time to load, and is for whoever migrates, has the embedded queue, or speaks to a broker."""


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


def process(where: Path, *words: str) -> Said:
    """As a person's shell starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "poller", *words],
        cwd=where,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def poller(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Said]]:
    """The same command in this process, where starting one more would prove nothing; that both say the same is proven below."""
    before = structlog.get_config()
    monkeypatch.setenv("COLUMNS", "100")

    def run(where: Path, *words: str) -> Said:
        capfd.readouterr()
        monkeypatch.chdir(where)
        monkeypatch.setattr(sys, "argv", ["poller", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        code = end.value.code
        return Said(code if isinstance(code, int) else 0, *capfd.readouterr())

    yield run
    structlog.configure(**before)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the shipped configuration in it."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "poller.yaml").write_text(SHIPPED.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def test_the_shipped_configuration_is_in_order_on_a_fresh_clone(place: Path) -> None:
    said = process(place, "check")
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
        (["why", "DEMOOP", "Observation"], 2, "write Type/id, e.g. Observation/lab-1"),
        (["why", "DEMOOP"], 2, "name either a resource as Type/id"),
        (["status"], 4, "`poller run` makes it"),
        (["tail", "--sink", "nope"], 6, "there are: changes, full"),
        (["replay", "DEMOOP", "--queue", "fhir.changes.all"], 2, "is a live queue"),
    ],
)
def test_wrong_words_get_one_line_and_a_code(
    poller: Callable[..., Said], place: Path, words: list[str], code: int, said: str
) -> None:
    answer = poller(place, *words)
    assert answer.returncode == code, answer.stderr
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith("poller: ")
    assert re.fullmatch(r".* \[[a-z-]+\]\n", answer.stderr)


def test_what_is_none_of_the_choices_is_told_with_them(poller: Callable[..., Said], place: Path) -> None:
    answer = poller(place, "replay", "DEMOOP", "--payload", "all")
    assert answer.returncode == 2
    assert "'all' is not one of 'id-only', 'full-resource'" in answer.stderr


def test_a_process_says_and_exits_as_the_command_does(poller: Callable[..., Said], place: Path) -> None:
    words = ["history", "DEMOX", "Observation/1"]
    assert process(place, *words) == poller(place, *words)


def test_a_command_loads_only_what_it_needs() -> None:
    look = f"import sys, poller.cli; print(*sorted(set(sys.modules) & {set(DEAR)}))"
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=TOP, capture_output=True, text=True, timeout=110, check=True
    )
    assert done.stdout.split() == []


def test_every_problem_of_a_file_is_told_at_once(poller: Callable[..., Said], place: Path) -> None:
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


def test_keys_are_made_once_and_never_overwritten_by_accident(poller: Callable[..., Said], tmp_path: Path) -> None:
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


def test_commands_on_an_empty_store_say_what_to_do(poller: Callable[..., Said], place: Path) -> None:
    """One embedded server serves them all: nothing is there, then the schema, then still no history."""
    empty = poller(place, "replay", "DEMOOP", "--dry-run")
    assert (empty.returncode, "poller migrate" in empty.stderr) == (4, True)
    assert poller(place, "migrate").returncode == 0
    standing = poller(place, "status")
    assert (standing.returncode, "no poller has looked after it yet" in standing.stdout) == (3, True)
    unknown = poller(place, "history", "DEMOOP", "Observation/1")
    assert unknown.returncode == 6
    assert poller(place, "replay", "DEMOOP", "--dry-run").returncode == 6
    assert "nothing is held" in poller(place, "deletes", "list", "DEMOOP").stdout
    assert poller(place, "deletes", "release", "DEMOOP").stdout == "0 released\n"
    assert poller(place, "epoch", "start", "DEMOOP").returncode == 6
