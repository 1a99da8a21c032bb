"""`poller sinks`: the books, what is parked, and a person's word on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from poller import cli
from poller.core.sink import Fate, Sink, park_first, settle
from poller.errors import DEGRADED, ConfigError, NotFound
from poller.store.configurations import ConfigurationStore

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

    from tests.relaying import History

pytest_plugins = ["tests.relay_bench"]

SINK = Sink("changes", "fhir.changes", ("q",))


@pytest.fixture
def config(tmp_path: Path, database_url: str) -> Path:
    at = conninfo_to_dict(database_url)
    url = f"postgresql://{at['user']}@{at['host']}:{at.get('port', 5432)}/{at['dbname']}"
    file = tmp_path / "poller.yaml"
    file.write_text(
        f"store: {{url: '{url}', digest_key: {{env: KEY}}}}\n"
        "sinks: {changes: {exchange: fhir.changes, queues: [q]}}\n"
        "practices: {A: {base_url: 'https://ehr.example/A', auth: none, feeds: {Observation: {every: 5m}}}}\n"
    )
    return file


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "k" * 32)


def poller(*words: str, config: Path) -> Result:
    return CliRunner().invoke(cli.app, ["sinks", *words, "-c", str(config)])


def listed(config: Path, exit_code: int) -> dict[str, Any]:
    result = poller("list", "--json", config=config)
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_the_books_and_what_is_parked_are_told_released_and_given_up(config: Path, history: History) -> None:
    for id_, value in (("o1", "1"), ("o1", "2"), ("o2", "1"), ("o3", "1")):
        history.change("A", id_, value)
    history.log.begin(SINK)
    assert listed(config, 0) | {"recorded": 4, "waiting": 4, "missing": 0, "configured": True} == listed(config, 0)
    (at,) = history.log.positions("changes")
    events = history.log.after("A", 0, 0, 10, bodies=False)
    history.log.advance("changes", at, park_first(events, [Fate.SEND] * 4, "too large"))
    (at,) = history.log.positions("changes")
    step = settle(events[1:], [Fate.BEHIND, Fate.SEND, Fate.SEND], 1)
    assert step is not None
    history.log.advance("changes", at, step)
    found = listed(config, DEGRADED)
    assert {name: found[name] for name in ("recorded", "delivered", "parked", "waiting", "missing", "released")} == {
        "recorded": 4, "delivered": 1, "parked": 2, "waiting": 1, "missing": 0, "released": 0,
    }  # fmt: skip
    shown = poller("show", "changes", "--json", config=config)
    assert [json.loads(line)["resource"] for line in shown.stdout.splitlines()] == ["Observation/o1"] * 2
    assert "too large" in poller("show", "changes", "--practice", "A", config=config).stdout
    assert "nothing is parked" in poller("show", "changes", "--practice", "B", config=config).stdout
    assert isinstance(poller("show", "chagnes", config=config).exception, NotFound), (
        "a slip must not look like good news"
    )
    assert poller("release", "changes", "A", "--id", "o2", config=config).stdout == "0 released\n"
    assert (
        poller("release", "changes", "A", "--type", "Observation", "--id", "o1", config=config).stdout == "2 released\n"
    )
    assert listed(config, DEGRADED)["released"] == 2
    assert poller("discard", "changes", "A", config=config).stdout == "2 discarded\n"
    assert listed(config, 0)["discarded"] == 2
    assert isinstance(poller("discard", "changes", "A", config=config).exception, NotFound)
    assert isinstance(poller("release", "changes", "B", config=config).exception, NotFound)
    assert "changes" in poller("list", config=config).stdout


def test_books_that_do_not_balance_are_a_breach(config: Path, history: History) -> None:
    history.change("A", "o1", "1")
    history.log.begin(SINK)
    with history.log._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE poller.cursor SET epoch = 1, sequence = 1 WHERE practice = 'A'")
    assert listed(config, 1)["missing"] == 1


def test_an_operator_parks_what_waits(config: Path, history: History) -> None:
    for id_, value in (("o1", "1"), ("o2", "1"), ("o1", "2")):
        history.change("A", id_, value)
    words = ("park", "changes", "A", "--reason", "not yet", "--actor", "me")
    assert isinstance(poller(*words, config=config).exception, NotFound), "it has not begun"
    history.log.begin(SINK)
    asked = poller(*words, "--type", "Observation", "--id", "o2", config=config)
    assert asked.stdout.startswith("0000000001-00000000000000000002 will be parked"), asked.output
    assert poller(*words, "--sequence", "3", config=config).stdout.startswith("0000000001-00000000000000000003")
    assert isinstance(poller(*words, "--sequence", "4", config=config).exception, NotFound)
    assert isinstance(poller(*words, "--id", "o2", config=config).exception, ConfigError)
    assert isinstance(poller("park", "chagnes", *words[2:], config=config).exception, NotFound)
    assert poller("park", "changes", "A", config=config).exit_code == 2, "a reason must be given"
    shown = [json.loads(line) for line in poller("show", "changes", "--json", config=config).stdout.splitlines()]
    assert [(one["sequence"][-1], one["state"], one["reason"]) for one in shown] == [
        ("2", "to be parked", "not yet (me)"),
        ("3", "to be parked", "not yet (me)"),
    ]
    assert "to be parked" in poller("show", "changes", config=config).stdout
    found = listed(config, 0)
    assert (found["parked"], found["waiting"], found["missing"]) == (0, 3, 0)


def test_what_is_another_pollers_is_not_shown_as_if_it_waited_for_ours(config: Path, history: History) -> None:
    history.change("A", "o1", "1")
    history.change("B", "o1", "1")
    history.log.begin(SINK)
    written = "name: other\npractices: {A: {}, B: {}}\n"
    ConfigurationStore(history.engine).accept("other", written, actor="test", reason="test")
    found = [json.loads(line) for line in poller("list", "--json", config=config).stdout.splitlines()]
    assert [(one["practice"], one["another_pollers"]) for one in found] == [("A", False), ("B", True)]
    told = poller("list", config=config).stdout
    assert [("another" in line) for line in told.splitlines() if "changes" in line] == [False, True]
