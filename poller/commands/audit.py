"""The command that reads the audit."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from poller import display
from poller.commands.audited import note
from poller.commands.options import DEFAULT_CONFIG, AsJson, ConfigOption, Reason, a_text, installed, utc
from poller.core.audit import WHOLE, Action
from poller.store.audit import Noted, Query


def audit(
    practice: Annotated[
        str | None,
        typer.Argument(
            help="Only this practice, also one no longer configured, and what concerns all; without, all.",
            callback=a_text,
        ),
    ] = None,
    since: Annotated[dt.datetime | None, typer.Option(help="Noted at or after; UTC.")] = None,
    until: Annotated[dt.datetime | None, typer.Option(help="Noted before; UTC.")] = None,
    action: Annotated[Action | None, typer.Option(help="Only this.")] = None,
    actor: Annotated[
        str | None, typer.Option(help="Only by this one: user@host, or token:NAME of the reading API.", callback=a_text)
    ] = None,
    limit: Annotated[int, typer.Option(help="So many at most.", min=1, max=100_000)] = 100,
    reason: Reason = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show who read patients' data or had the poller do what, of whom, when and why; the latest first. It names patients' resources by id.

    Reading it is noted in it, too, and shows first.

    Example: poller audit FAMLYM --action why --since 2026-11-01 --json

    Exits 0, 2 for wrong words, 4 for the store: then nothing is shown.
    """
    query = Query(practice, utc(since), utc(until), action, actor)
    asked = {"since": query.since, "until": query.until}
    times = {name: at.isoformat() if at is not None else None for name, at in asked.items()}
    with installed(config) as installation:
        note(installation, Action.AUDIT, practice or WHOLE, reason, **times, action=action, actor=actor, limit=limit)
        found = installation.audit.entries(query, limit)
    if as_json:
        typer.echo(json.dumps({"entries": [_to_json(one) for one in found]}))
        return
    table = Table("at", "practice", "actor", "action", "scope", "reason")
    for one in found:
        at = f"{one.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(at, one.practice, one.actor, one.action, _shown(one.scope), one.reason)
    display.console().print(table if found else "nothing of that was noted")


def _to_json(one: Noted) -> dict[str, Any]:
    return {
        "at": one.at.isoformat(timespec="milliseconds"),
        "practice": one.practice,
        "actor": one.actor,
        "login": one.login,
        "action": one.action,
        "scope": one.scope,
        "reason": one.reason,
    }


def _shown(scope: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in scope.items())


_SHOWN = 3


def _short(value: object) -> str:
    """For a table: of a long list the first; --json has them all."""
    if isinstance(value, list) and len(value) > _SHOWN:
        return f"{json.dumps(value[:_SHOWN])} and {len(value) - _SHOWN} more"
    return value if isinstance(value, str) else json.dumps(value)
