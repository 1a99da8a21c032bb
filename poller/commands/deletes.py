"""Commands on deletes that wait for a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from poller import display
from poller.app import Installation
from poller.commands.audited import note
from poller.commands.options import DEFAULT_CONFIG, AsJson, ConfigOption, Practice, Reason, a_text, load
from poller.core.audit import Action
from poller.store.deletes import Absence

app = typer.Typer(help="Deletes that wait for a person.", no_args_is_help=True)

Held = Annotated[str | None, typer.Option("--type", help="Only this resource type.", callback=a_text)]
HeldId = Annotated[str | None, typer.Option("--id", help="Only this id.", callback=a_text)]


@app.command("list")
def list_(
    practice: Practice,
    config: ConfigOption = DEFAULT_CONFIG,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is merely missing, and what was discarded.")
    ] = False,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Deletes held because they are too many at once, and why.

    Exits 0 whether or not something is held, 6 for an unknown practice. Example: poller deletes list FAMLYM --all
    """
    with Installation(load(config)) as installation:
        states = ["held", "released"] + (["missing", "discarded"] if everything else [])
        code = installation.practice(practice).code
        note(installation, Action.DELETES_LIST, code, reason, states=states)
        found = installation.deletes.listed(code, states)
    if as_json:
        typer.echo(json.dumps({"practice": code, "deletes": [_as_json(absence) for absence in found]}))
        return
    table = Table("resource", "state", "missing since", "passes", "reason")
    for absence in found:
        since = f"{absence.first_missing_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(
            f"{absence.resource_type}/{absence.id}", absence.state, since, str(absence.passes), absence.reason
        )
    display.console().print(table if found else "nothing is held")


@app.command("release")
def release(
    practice: Practice,
    resource_type: Held = None,
    id_: HeldId = None,
    reason: Reason = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Let held deletes go on: each is read once more and, if still gone, published.

    Exits 0, also where none is held, 6 for an unknown practice.
    Example: poller deletes release FAMLYM --type Goal --reason "the practice has cleaned up"
    """
    _rule(config, practice, Action.DELETES_RELEASE, reason, (resource_type, id_), as_json=as_json)


@app.command("discard")
def discard(
    practice: Practice,
    resource_type: Held = None,
    id_: HeldId = None,
    reason: Reason = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Never publish these deletes, unless the resources are seen and go missing again.

    Exits 0, also where none is held, 6 for an unknown practice.
    Example: poller deletes discard FAMLYM --type Goal --reason "their server hides them tonight"
    """
    _rule(config, practice, Action.DELETES_DISCARD, reason, (resource_type, id_), as_json=as_json)


def _rule(
    config: Path, practice: str, action: Action, reason: str, which: tuple[str | None, str | None], *, as_json: bool
) -> None:
    verdict = "released" if action is Action.DELETES_RELEASE else "discarded"
    resource_type, id_ = which
    with Installation(load(config)) as installation:
        code = installation.practice(practice).code
        note(installation, action, code, reason, type=resource_type, id=id_)
        count = installation.deletes.rule(code, verdict, resource_type, id_)
    display.answer(f"{count} {verdict}", in_json=as_json, practice=code, verdict=verdict, count=count)


def _as_json(absence: Absence) -> dict[str, object]:
    return {
        "resource": f"{absence.resource_type}/{absence.id}",
        "state": absence.state,
        "missing_since": absence.first_missing_at.isoformat(),
        "passes": absence.passes,
        "reason": absence.reason,
    }
