"""``poller replay``, ``poller tokens`` and ``poller as-of`` as a person types them, on a store with a past."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner, Result

from poller.cli import app
from poller.errors import NotFound, PollerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import Practice

CONFIG = """
data_dir: {data}
store: {{url: "postgresql://{user}@{host}:{port}/{name}"}}
sinks: {{changes: {{exchange: x, queues: [live.queue]}}}}
practices: {{p1: {{base_url: "https://ehr.example/p1", auth: none, feeds: {{Observation: {{every: 5m}}}}}}}}
"""


@pytest.fixture
def run(practice: Practice, database_url: str, tmp_path: Path) -> Callable[..., Result]:
    """Runs a command on a store in which p1 has twelve events."""
    for n in range(3):
        practice.read(*[practice.observation(f"o{i}", value=f"{n}") for i in range(4)])
    parts = conninfo_to_dict(database_url)
    text = CONFIG.format(
        data=tmp_path,
        user=parts.get("user", "postgres"),
        host=parts["host"],
        port=parts.get("port", 5432),
        name=parts["dbname"],
    )
    if str(parts["host"]).startswith("/"):
        text = text.replace(
            f"@{parts['host']}:{parts.get('port', 5432)}/{parts['dbname']}", f"@/{parts['dbname']}?host={parts['host']}"
        )
    path = tmp_path / "poller.yaml"
    path.write_text(text, "utf-8")

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--config", str(path)])

    return invoke


def lines(result: Result) -> list[Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_replay_is_counted_written_kept_and_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    (counted,) = lines(run("replay", "p1", "--dry-run", "--json"))
    assert counted["events"] == 12
    assert {(row["action"], row["events"]) for row in counted["counts"]} == {("created", 4), ("updated", 8)}
    streamed = lines(run("replay", "start", "p1", "--file", "-", "--from", "5", "--to", "8"))
    assert [event["sequence"][-2:] for event in streamed] == ["05", "06", "07", "08"]
    listed = tmp_path / "ids"
    listed.write_text(f"Observation/o1\n\n{streamed[0]['id']}\n", "utf-8")
    path = tmp_path / "events.ndjson"
    (done,) = lines(run("replay", "p1", "--file", str(path), "--ids", str(listed), "--payload", "id-only", "--json"))
    assert (done["state"], done["events"]) == ("done", 4)
    events = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [event["sequence"][-2:] for event in events] == ["02", "05", "06", "10"]
    assert {event["replayid"] for event in events} == {done["replay"]}
    ((kept,),) = lines(run("replay", "list", "--json"))
    assert kept["replay"] == done["replay"], "what went to standard output is not kept"
    for words in (("resume", done["replay"]), ("cancel", done["replay"]), ("resume", "unknown")):
        assert isinstance(run("replay", *words).exception, NotFound)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--queue", "live.queue"], "is a live queue"),
        (["--queue", "own", "--hold"], "only for a live queue"),
        (["--queue", "live.queue", "--hold", "--payload", "full-resource"], "expects id-only"),
        (["--queue", "live.queue", "--hold"], "delivered nothing of practice p1"),
        (["--queue", "q", "--file", "f"], "exclude each other"),
        (["--from", "x"], "--from: not a sequence"),
        (["--id", "secret"], "--id: neither Type/id nor the id of an event"),
        (["--ids", "/nowhere"], "cannot be read"),
    ],
)
def test_wrong_words_are_told(run: Callable[..., Result], words: list[str], said: str) -> None:
    error = run("replay", "p1", *words).exception
    assert isinstance(error, PollerError)
    assert said in str(error)
    assert "secret" not in str(error)


def test_a_token_is_shown_once_and_ended(run: Callable[..., Result]) -> None:
    (made,) = lines(run("tokens", "new", "billing", "--practice", "p1", "--expires", "90d", "--json"))
    assert made["token"].startswith("ehrp_")
    (kept,) = lines(run("tokens", "list", "--json"))
    assert (kept["name"], kept["practices"], kept["revoked_at"]) == ("billing", ["p1"], None)
    assert made["token"] not in str(kept)
    assert run("tokens", "revoke", "billing").stdout == "billing revoked\n"
    assert lines(run("tokens", "list", "--json"))[0]["revoked_at"] is not None
    for words in (
        ["x"],
        ["x", "--practice", "p1", "--every-practice"],
        ["x y", "--practice", "p1"],
        ["x", "--practice", "p9"],
    ):
        assert isinstance(run("tokens", "new", *words).exception, PollerError)


def test_as_of_prints_what_stood(run: Callable[..., Result], practice: Practice) -> None:
    assert len(lines(run("as-of", "p1", "--at", "2030-01-01"))) == 4
    assert lines(run("as-of", "p1", "--at", "2000-01-01")) == []
    assert isinstance(run("as-of", "p9", "--at", "2030-01-01").exception, NotFound)
    assert practice.code == "p1"
