"""What the commands say that are opened next, on prepared incidents: each names the cause and the next step. Texts as in test_incidents."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from poller.core.capability import Finding, PracticeReport, TokenReport, TypeReport
from poller.core.model import Kind, Strategy, Target
from poller.core.refusals import Why, advice
from poller.errors import DEGRADED
from poller.store.probes import ProbeStore
from tests.incidents import CODE, Scene
from tests.integration.test_incidents import timeless

GOLDEN = Path(__file__).parents[1] / "golden" / "further"


@pytest.fixture
def scene(engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("KEY", "k" * 32)
    monkeypatch.setenv("MASTER", "6d" * 32)
    made = Scene(engine, database_url, tmp_path)
    yield made
    made.close()


def a_category_that_the_practice_does_not_use(scene: Scene) -> tuple[str, ...]:
    """The server answers each search of it with an empty Bundle, as if nothing were there."""
    feeds = "Observation: {every: 1h, categories: [labs, vital-signs]}"
    scene.file.write_text(scene.file.read_text("utf-8").replace("Observation: {every: 5m}", feeds), "utf-8")
    targets = [Target(CODE, "Observation", Kind.SWEEP, category=category) for category in ("labs", "vital-signs")]
    scene.read_by("Observation", Strategy.SWEEP, *targets)
    scene.practice.whole(target=targets[0])
    vital = {"category": [{"coding": [{"code": "vital-signs"}]}]}
    scene.practice.whole(scene.practice.observation("v1") | vital, target=targets[1])
    scene.accept()
    return ("coverage", CODE)


def a_dump_that_has_something_else(scene: Scene) -> tuple[str, ...]:
    """One changed, one that the store lacks, and one line that cannot be read."""
    lines = [json.dumps(one) for one in (scene.practice.observation(value="15"), scene.practice.observation("o9"))]
    dump = scene.file.with_name("dump.ndjson")
    dump.write_text("\n".join([*lines, "{broken"]) + "\n", "utf-8")
    return ("verify", CODE, "--against", str(dump))


def more_than_there_are_calls_for(scene: Scene) -> tuple[str, ...]:
    """Each patient of a thousand is to be read each minute."""
    scene.write(["Observation", "Condition"], every="1m", more=", patients: {names: [a]}, forbid: [window, sweep]")
    scene.change(
        "INSERT INTO poller.patient SELECT :code, 'a' || n, false, now(), NULL, n FROM generate_series(1, 1000) AS n"
    )
    return ("plan", CODE)


def an_app_that_lost_its_scope(scene: Scene) -> tuple[str, ...]:
    """Of two types the token gives out one."""
    at = scene.practice.at(0)
    types = {
        "Observation": TypeReport(
            "Observation", at, True, Why.READABLE, whole=Finding.YES, offers=(Strategy.SWEEP,), reason="searches answer"
        ),
        "Condition": TypeReport(
            "Condition", at, False, Why.NO_SCOPE, advice=advice(Why.NO_SCOPE, "Condition"), reason="no scope"
        ),
    }
    token = TokenReport(granted=True, scopes=("system/Observation.read",), refused=("system/Condition.read",))
    report = PracticeReport(at, token, software="eClinicalWorks", types=types, calls=9)
    ProbeStore(scene.practice.engine).save(scene.practice.lease, report)
    return ("probe", CODE, "--stored")


INCIDENTS: dict[str, tuple[Callable[[Scene], tuple[str, ...]], int]] = {
    "wrong-category": (a_category_that_the_practice_does_not_use, 0),
    "other-dump": (a_dump_that_has_something_else, 2),
    "lost-scope": (an_app_that_lost_its_scope, DEGRADED),
    "too-few-calls": (more_than_there_are_calls_for, DEGRADED),
}


@pytest.mark.parametrize("incident", INCIDENTS)
def test_what_is_read_next(scene: Scene, incident: str, tmp_path: Path) -> None:
    prepare, exit_code = INCIDENTS[incident]
    words = prepare(scene)
    result = scene.poller(*words)
    told = timeless(result.stdout).replace(str(tmp_path), "DIR")
    found = f"$ poller {' '.join(words)}\n{told}[exit {result.exit_code}]\n".replace(str(tmp_path), "DIR")
    file = GOLDEN / f"{incident}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        file.write_text(found, "utf-8")
    assert result.exit_code == exit_code, (result.output, result.exception)
    assert found == file.read_text("utf-8"), "WRITE_GOLDEN=1 writes it anew; look at what has changed"
    assert max(map(len, told.splitlines())) <= 100
    assert any(mark in told for mark in ("→ ", "`poller ", "would fit", "what to do"))
