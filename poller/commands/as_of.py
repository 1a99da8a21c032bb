"""The command that shows a practice as it was."""

from __future__ import annotations

import datetime as dt
import sys
from typing import Annotated

import typer

from poller.app import Installation
from poller.commands.audited import note
from poller.commands.options import DEFAULT_CONFIG, ConfigOption, Practice, Reason, a_text, load
from poller.core.audit import Action
from poller.core.envelope import message
from poller.errors import DEGRADED
from poller.store.reading import ReadingStore, StoredVersion


def as_of(
    practice: Practice,
    at: Annotated[
        dt.datetime, typer.Option(help="The time, to what had been found then; UTC unless it says otherwise.")
    ],
    resource_type: Annotated[
        str | None, typer.Option("--type", help="Only this resource type.", callback=a_text)
    ] = None,
    patient: Annotated[str | None, typer.Option(help="Only this patient's (logical id).", callback=a_text)] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Each resource's last event of then instead, without its patch.")
    ] = False,
    reason: Reason = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Print all resources of a practice as they were at a time, from the store alone: NDJSON, one resource a line, by type and id.

    What was deleted then is left out. Exits 3 if retention has taken what was then of some resources: standard error says of how many.

    Example: poller as-of FAMLYM --at 2026-11-01T00:00 --type Observation > observations.ndjson
    """
    moment = at.replace(tzinfo=dt.UTC) if at.tzinfo is None else at
    past = 0
    with Installation(load(config)) as installation:
        chosen = installation.practice(practice)
        asked = {"at": moment.isoformat(), "type": resource_type, "patient": patient}
        note(installation, Action.AS_OF, chosen.code, reason, **asked)
        installation.reading_log.require_history(chosen.code)
        store, out = installation.reading, sys.stdout.buffer
        for page in store.as_of(chosen.code, moment, resource_type=resource_type, patient=patient):
            found = [one for one in page if isinstance(one, StoredVersion)]
            lines = (
                _events(store, chosen.code, chosen.base_url, found) if events else [one.text or b"" for one in found]
            )
            past += len(page) - len(lines)
            out.write(b"".join(line + b"\n" for line in lines))
        out.flush()
    if past:
        sys.stderr.write(f"poller: of {past} resources retention has taken what was then; they are left out\n")
        raise typer.Exit(DEGRADED)


def _events(store: ReadingStore, practice: str, base_url: str, found: list[StoredVersion]) -> list[bytes]:
    made_by = store.events_of(practice, found)
    lines = []
    for one in found:
        event = made_by.get((one.resource_type, one.id))
        if event is not None:
            whole = one.as_event(event)
            sent = message(whole, base_url=base_url, payload="full-resource", previous_sequence=None, replay_id="as-of")
            lines.append(sent.body)
    return lines
