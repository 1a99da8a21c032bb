"""Commands on the configurations that were accepted."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from poller import display
from poller.commands.options import DEFAULT_CONFIG, ConfigOption, installed

app = typer.Typer(help="Configurations that were accepted.", no_args_is_help=True)


@app.command("show")
def show(
    config: ConfigOption = DEFAULT_CONFIG,
    revision: Annotated[
        int | None, typer.Option(help="Which; without, the one in force for this poller's name.", min=1, max=2**63 - 1)
    ] = None,
) -> None:
    """Print an accepted configuration as it was written, without its comments.

    Example: poller config show --revision 3

    Exits 0, 4 for the store, 6 if there is none.
    """
    with installed(config) as installation:
        store, name = installation.configurations, installation.config.name
        found = store.in_force(name) if revision is None else store.revision(revision)
    typer.echo(
        f"# revision {found.revision} of {found.name}, {found.accepted_at:%Y-%m-%d %H:%M:%S} UTC, {found.actor}: {found.reason}"
    )
    typer.echo(found.written, nl=False)


@app.command("history")
def history(
    config: ConfigOption = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option(help="How many, the latest first.", min=1, max=10_000)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """List the accepted configurations of all pollers on this store, the latest first: when, by whom, why.

    Example: poller config history --json

    Exits 0, 4 for the store.
    """
    with installed(config) as installation:
        found = installation.configurations.revisions(limit)
    rows = [
        {
            "revision": one.revision,
            "name": one.name,
            "acceptedAt": one.accepted_at.isoformat(),
            "actor": one.actor,
            "reason": one.reason,
        }
        for one in found
    ]
    if as_json:
        typer.echo(json.dumps({"revisions": rows}))
        return
    table = Table("revision", "name", "accepted", "by", "reason")
    for one in found:
        table.add_row(str(one.revision), one.name, f"{one.accepted_at:%Y-%m-%d %H:%M:%S}", one.actor, one.reason)
    display.console().print(table if found else "none was accepted yet; `poller run` keeps the first")
