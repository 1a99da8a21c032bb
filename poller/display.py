"""What a terminal shows of the log: a tailed event, the versions of a resource."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table

from poller.core import jsontext
from poller.store.log import HistoryRow

_WIDTH = 100
"""Columns that tables may take where nobody says how many there are: in a file or a pipe."""


def console() -> Console:
    """Where tables are printed: as wide as the terminal, or wide enough for all tables if there is none."""
    shown = Console()
    return shown if shown.is_terminal else Console(width=_WIDTH)


def table(*columns: Column | str, between: int = 2) -> Table:
    """A table without lines between columns, which leave more room for what it says."""
    return Table(*columns, box=box.SIMPLE, pad_edge=False, padding=(0, between, 0, 0), show_edge=False)


def show_table(shown: Table | None, otherwise: str) -> None:
    """Print a table no wider than others, or a line where there is none. What it holds is text: brackets are no markup."""
    where = console()
    if shown is None:
        where.print(otherwise, markup=False, highlight=False)
    else:
        where.print(shown, width=min(_WIDTH, where.width))


def action_of(event: Mapping[str, Any]) -> str:
    """The action in a CloudEvent's type."""
    return str(event["type"]).split(".")[-2]


_BOOKKEEPING = ("/meta/lastUpdated", "/meta/versionId", "/text")
"""What a patch shows moved with every edit and means nothing by itself."""


def changed_in(event: Mapping[str, Any]) -> str:
    """Names of the changed elements of a CloudEvent, of either payload."""
    data = event["data"]
    paths = [str(step["path"]) for step in data.get("patch", ())]
    names = data.get("changed") or sorted(
        {path.split("/")[1] for path in paths if "/" in path and not path.startswith(_BOOKKEEPING)}
    )
    return ", ".join(names)


def event_line(body: bytes) -> str:
    """One event for a person: when, what, which resource, what changed."""
    event = jsontext.loads(body)
    practice = str(event["source"]).rstrip("/").rpartition("/")[2]
    return "  ".join(
        (
            str(event["time"]),
            practice,
            str(event["sequence"]),
            action_of(event),
            str(event["subject"]),
            str(event["origin"]),
            changed_in(event),
        )
    )


def history_table(rows: Sequence[HistoryRow]) -> Table:
    """The versions of a resource, oldest first."""
    table = Table(
        "version", "recorded at", "action", "origin", "status", "changed", Column("sequence", overflow="fold")
    )
    for row in rows:
        table.add_row(
            str(row.version),
            f"{row.recorded_at:%Y-%m-%d %H:%M:%S}",
            row.action.value,
            row.origin.value if row.origin is not None else "-",
            row.status or "-",
            "; ".join(_what_changed(row)) or "-",
            row.sequence or "-",
        )
    return table


def _what_changed(row: HistoryRow) -> Iterator[str]:
    if row.changed:
        yield ", ".join(row.changed)
    if row.hidden:
        yield f"hidden: {', '.join(row.hidden)}"
    if row.hidden_since and row.hidden_at is not None:
        yield f"hidden since: {', '.join(row.hidden_since)} ({row.hidden_at:%Y-%m-%d})"


def history_lines(rows: Sequence[HistoryRow]) -> Iterator[str]:
    """The versions as JSON, one a line, with the resource."""
    for row in rows:
        yield jsontext.dumps(
            {
                "version": row.version,
                "action": row.action.value,
                "recordedAt": row.recorded_at.isoformat(),
                "origin": row.origin.value if row.origin is not None else None,
                "changed": list(row.changed),
                "hidden": list(row.hidden),
                "hiddenSince": list(row.hidden_since),
                "sequence": row.sequence,
                "id": row.event_id,
                "evidence": row.evidence,
                "resource": dict(row.body) if row.body is not None else None,
            }
        ).decode()


def answer(words: str, *, in_json: bool, **said: object) -> None:
    """What a command has done, in words, or the same as one JSON object."""
    typer.echo(json.dumps(said) if in_json else words)
