"""What is kept of a configuration: no comment, so no secret, and the same values; and where the store is when the file is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poller.config import document
from poller.config.document import Unreadable, parse, without_comments
from poller.config.loader import load_text
from poller.config.salvage import NOTE, note_of, salvage
from poller.errors import ConfigError

SECRET = "hunter2zq"
TOP = Path(__file__).parents[2]
SHIPPED = sorted([*(TOP / "config").rglob("*.yaml"), TOP / "deploy/poller.yaml"])
ODD = f"""\
a: 'one # no comment'   # {SECRET}
b: |  # {SECRET}
  # no comment

  text
c: >-
  # no comment
# {SECRET}
d: [1, # {SECRET}
    "two # no comment"]
e: plain#text
f: plain
   and more   # {SECRET}
g: {{h: 1}}# not one either
"""


def comments_between(lines: list[str], where: list[int]) -> str:
    """The text with a comment after some of its lines, where a comment may stand."""
    return "\n".join(
        f"{line}  # {SECRET}" if number in where and line.strip() else line for number, line in enumerate(lines)
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_lose_their_comments_and_nothing_else(path: Path) -> None:
    text = path.read_text("utf-8")
    kept = without_comments(text)
    assert parse(kept)[0] == parse(text)[0], "values, and the lines at which they stand"
    assert "# " not in kept


@settings(max_examples=25)
@given(st.data())
def test_no_comment_survives_and_no_value_is_lost(data: st.DataObject) -> None:
    lines = data.draw(st.sampled_from([path.read_text("utf-8") for path in SHIPPED])).splitlines()
    where = data.draw(st.lists(st.integers(0, len(lines) - 1), max_size=8))
    text = comments_between(lines, where)
    try:
        before = parse(text)[0]
    except Unreadable:
        assume(False)
    kept = without_comments(text)
    assert parse(kept)[0] == before
    assert SECRET not in kept


def test_what_looks_like_a_comment_and_is_none_stays() -> None:
    odd = ODD.replace("}# not one either", "}")
    kept = without_comments(odd)
    assert parse(kept)[0] == parse(odd)[0]
    assert SECRET not in kept
    assert kept.count("# no comment") == 4


def test_a_file_that_holds_a_secret_is_never_accepted_and_so_never_kept(tmp_path: Path) -> None:
    text = f"store: {{url: embedded, password: {SECRET}}}\npractices: {{}}\n"
    with pytest.raises(ConfigError) as refused:
        load_text(text, tmp_path / "poller.yaml")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("rest", ["practices: [", "practices:\n  A: {base_url: 'x", "sinks: *nowhere"])
def test_where_the_store_is_can_be_read_from_a_file_that_is_broken_elsewhere(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "poller.yaml"
    path.write_text(
        f"name: results\ndata_dir: {tmp_path}/data\nstore:\n  url: postgresql://u@127.0.0.1/db\n{rest}\n", "utf-8"
    )
    found = salvage(path)
    assert found is not None
    assert (found.name, found.data_dir, found.store.url) == (
        "results",
        tmp_path / "data",
        "postgresql://u@127.0.0.1/db",
    )


def test_a_file_that_is_yaml_and_wrong_says_where_the_store_is(tmp_path: Path) -> None:
    path = tmp_path / "poller.yaml"
    path.write_text(
        '{"data_dir": "/d", "store": {"url": "postgresql://u@127.0.0.1/db"}, "practices": {"A": 1}}', "utf-8"
    )
    found = salvage(path)
    assert found is not None
    assert found.store.url == "postgresql://u@127.0.0.1/db"


def test_else_by_the_note_in_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_PASSWORD", SECRET)
    good = tmp_path / "good.yaml"
    data = tmp_path / "it's here"
    good.write_text(
        f'name: results\ndata_dir: "{data}"\nstore: {{url: postgresql://u@127.0.0.1/db, password: {{env: STORE_PASSWORD}}}}\n'
        "sinks: {s: {exchange: x, queues: [q]}}\n"
        "practices: {A: {base_url: https://ehr.example/A, auth: none, feeds: {Patient: }}}\n",
        "utf-8",
    )
    config = load_text(document.text_of(good), good)
    data.mkdir()
    (data / NOTE).write_text(note_of(config), "utf-8")
    assert SECRET not in (data / NOTE).read_text("utf-8")
    broken = tmp_path / "poller.yaml"
    broken.write_text("data_dir: {", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert salvage(broken) is None, "an embedded store that is not there is not made"
    assert not (tmp_path / ".poller").exists()
    found = salvage(broken, data)
    assert found is not None
    assert (found.data_dir, found.store) == (data, config.store)
    gone = salvage(tmp_path / "gone.yaml", data)
    assert gone is not None
    assert (gone.name, gone.store) == ("results", config.store)
    same = f'data_dir: "{data}"\nstore: {{url: postgresql://u@127.0.0.1/db, password: {{env: STORE_PASSWORD}}}}\n'
    broken.write_text(same + "practices: [", "utf-8")
    nameless = salvage(broken)
    assert nameless is not None
    assert nameless.name == "results", "it may have stood in what cannot be read; the note knows it, of the same store"
    broken.write_text(same + "practices: 1", "utf-8")
    called_nothing = salvage(broken)
    assert called_nothing is not None
    assert called_nothing.name == "poller", "it is YAML and has no name; another poller has noted its own"
    broken.write_text(f'{{data_dir: "{data}", store: {{url: postgresql://u@127.0.0.1/another}}, practices: 1}}')
    moved = salvage(broken)
    assert moved is not None
    assert moved.name == "poller", "what is noted of another store says nothing of this one"
