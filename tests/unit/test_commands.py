"""Every command: an example, how it exits, and what it has done as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from poller.cli import app

NO_JSON = {
    "as-of",  # NDJSON by itself
    "config show",  # YAML by itself
    "run",  # logs, as JSON if the configuration says so
    "simulator",
}


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    inner: dict[str, Any] = getattr(command, "commands", {})
    for name, one in inner.items():
        yield from commands(one, (*path, name))
    if not inner:
        yield " ".join(path), command


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", ALL)
def test_a_command_shows_an_example_and_says_how_it_exits(name: str) -> None:
    told = f"{ALL[name].help} {ALL[name].epilog}"
    assert f"Example: poller {name.removesuffix(' start')}" in told or f'Example: eval "$(poller {name}' in told
    assert "Exits" in told


@pytest.mark.parametrize("name", sorted(name for name in ALL if name not in NO_JSON and not name.startswith("schema ")))
def test_a_command_says_in_json_what_it_has_done(name: str) -> None:
    assert any("--json" in one.opts for one in ALL[name].params)
