"""Commands on epochs of the event log."""

from __future__ import annotations

import typer

from poller import display
from poller.app import Installation
from poller.commands.audited import note
from poller.commands.options import DEFAULT_CONFIG, AsJson, ConfigOption, Practice, Reason, load
from poller.core.audit import Action

app = typer.Typer(help="Epochs of the event log.", no_args_is_help=True)


@app.callback()
def epochs() -> None:
    """Epochs of the event log."""


@app.command("start")
def start(
    practice: Practice, reason: Reason = "", config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """After a restore of the database: begin a new epoch of the practice's log, before anything is published.

    Exits 0 when it has begun, 4 for the store, 6 for an unknown practice. Example: poller epoch start FAMLYM --reason "restored"
    """
    with Installation(load(config)) as installation:
        code = installation.practice(practice).code
        note(installation, Action.EPOCH_START, code, reason)
        epoch = installation.start_epoch(code)
    display.answer(f"practice {practice}: epoch {epoch}", in_json=as_json, practice=code, epoch=epoch)
