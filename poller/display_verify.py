"""What a terminal, or a program, is shown of a dump that was compared with the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.table import Column, Table

from poller.core.dump import Outcome
from poller.verifying import Reading

_SHOWN_LINES = 20
_HEADINGS = {
    Outcome.EQUAL: "equal",
    Outcome.DIFFERENT: "different",
    Outcome.MISSING: "missing in the store",
    Outcome.EXTRA: "only in the store",
}

Listed = Iterator[tuple[Outcome, tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Report:
    """What a comparison came to."""

    practice: str
    seen: Reading
    counts: Mapping[str, Mapping[Outcome, int]]

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs of what could be read."""
        return not any(
            number for counted in self.counts.values() for one, number in counted.items() if one is not Outcome.EQUAL
        )


def show(report: Report, listed: Listed | None, console: Console, *, in_json: bool) -> None:
    """Print it. ``listed``: what is not equal, printed as it comes; it may be long."""
    if in_json:
        _show_json(report, listed)
        return
    table = Table(
        "type", *(Column(heading, justify="right") for heading in _HEADINGS.values()), box=None, pad_edge=False
    )
    for resource_type, counted in report.counts.items():
        table.add_row(resource_type, *(f"{counted[outcome]:,}" for outcome in _HEADINGS))
    console.print(table, highlight=False)
    if report.seen.flaws:
        _show_flaws(report.seen)
    for outcome, (resource_type, id_) in listed or ():
        typer.echo(f"{outcome.value} {resource_type}/{id_}")
    if listed is None and not report.is_equal:
        typer.echo(
            f"→ --list names them; `poller why {report.practice} Type/id` says where one stopped;\n"
            f"  `poller reconcile {report.practice}` reads all again, and says what had been missed"
        )


def _show_flaws(seen: Reading) -> None:
    number = seen.flaws.total()
    typer.echo(
        f"{number:,} line{'s' if number > 1 else ''} cannot be read and {'were' if number > 1 else 'was'} left out:"
    )
    for one in seen.flawed[:_SHOWN_LINES]:
        typer.echo(f"{one.file}:{one.line}: {one.flaw.value}")
    if number > _SHOWN_LINES:
        reasons = ", ".join(f"{count:,} {flaw.value}" for flaw, count in seen.flaws.most_common())
        typer.echo(f"and more; in all {reasons}")


def _show_json(report: Report, listed: Listed | None) -> None:
    seen = report.seen
    said = {
        "practice": report.practice,
        "equal": report.is_equal,
        "resources": seen.resources,
        "types": [
            {"type": name} | {one.value: number for one, number in counted.items()}
            for name, counted in report.counts.items()
        ],
        "unreadable": {
            "lines": seen.flaws.total(),
            "first": [{"file": one.file, "line": one.line, "reason": one.flaw.value} for one in seen.flawed],
        },
    }
    written = json.dumps(said)
    if listed is None:
        typer.echo(written)
        return
    typer.echo(written[:-1] + ', "listed": [', nl=False)  # by hand, for it may be longer than what can be held
    between = ""
    for outcome, (resource_type, id_) in listed:
        typer.echo(between + json.dumps({"outcome": outcome.value, "resource": f"{resource_type}/{id_}"}), nl=False)
        between = ", "
    typer.echo("]}")
