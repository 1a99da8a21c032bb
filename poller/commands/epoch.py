"""Commands on epochs of the event log."""

from __future__ import annotations

import typer

from poller.app import Installation
from poller.commands.options import DEFAULT_CONFIG, ConfigOption, Practice, load

app = typer.Typer(help="Epochs of the event log.", no_args_is_help=True)


@app.callback()
def epochs() -> None:
    """Epochs of the event log."""


@app.command("start")
def start(practice: Practice, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """After a restore of the database: begin a new epoch of the practice's log, before anything is published."""
    with Installation(load(config)) as installation:
        epoch = installation.start_epoch(installation.practice(practice).code)
    typer.echo(f"practice {practice}: epoch {epoch}")
