"""Commands on tokens of the reading API."""

from __future__ import annotations

import datetime as dt
import getpass
import json
import re
from typing import Annotated

import typer
from rich.table import Table

from poller import display
from poller.app import Installation
from poller.commands.audited import note
from poller.commands.options import DEFAULT_CONFIG, AsJson, ConfigOption, Reason, a_text, load
from poller.config.values import parse_duration
from poller.core.audit import WHOLE, Action
from poller.errors import ConfigError
from poller.store.tokens import EVERY_PRACTICE, Token

app = typer.Typer(help="Tokens of the reading API.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(help="Whom it is for, as the audit will name them: letters, digits, . _ -", callback=a_text)
]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@app.command()
def new(
    name: Name,
    practice: Annotated[
        list[str] | None, typer.Option(help="A practice whose versions it may read; repeat for more.")
    ] = None,
    every_practice: Annotated[bool, typer.Option(help="It may read all practices, also those to come.")] = False,
    expires: Annotated[str | None, typer.Option(help="When it ends by itself, e.g. 90d; without, never.")] = None,
    reason: Reason = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Make a token and show it, this once: only a digest of it is kept.

    Exits 2 for wrong words, 6 for an unknown practice. Example: poller tokens new billing --practice FAMLYM --expires 90d
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(["NAME: not a name; write letters, digits, dots, dashes and underscores, as in billing"])
    if bool(practice) == every_practice:
        raise ConfigError(["say which practices it may read: --practice CODE, once for each, or --every-practice"])
    try:
        ends = dt.datetime.now(dt.UTC) + parse_duration(expires) if expires is not None else None
    except ValueError as error:
        raise ConfigError([f"--expires: {error}"]) from None
    with Installation(load(config)) as installation:
        codes = [installation.practice(code).code for code in practice or ()] or [EVERY_PRACTICE]
        note(installation, Action.TOKENS_NEW, WHOLE, reason, token=name, practices=codes, expires=_shown(ends))
        token = installation.tokens.new(name, codes, getpass.getuser(), ends)
    if as_json:
        typer.echo(json.dumps({"name": name, "practices": codes, "expires_at": _shown(ends), "token": token}))
    else:
        typer.echo(token)


@app.command("list")
def list_(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show whom there are tokens for; never a token.

    Exits 0, or 4 for the store. Example: poller tokens list --json
    """
    with Installation(load(config)) as installation:
        found = installation.tokens.listed()
    if as_json:
        for token in found:
            typer.echo(json.dumps(_to_json(token)))
        return
    table = Table("name", "practices", "made", "by", "expires", "revoked")
    for token in found:
        times = [f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (token.made_at, token.expires_at, token.revoked_at)]
        table.add_row(token.name, ", ".join(token.practices), times[0], token.made_by, *times[1:])
    display.console().print(table if found else "there are no tokens")


@app.command()
def revoke(name: Name, reason: Reason = "", config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Let nobody read with a token any more, from the next request on.

    Exits 6 if none of this name is valid. Example: poller tokens revoke billing
    """
    with Installation(load(config)) as installation:
        note(installation, Action.TOKENS_REVOKE, WHOLE, reason, token=name)
        installation.tokens.revoke(name)
    display.answer(f"{name} revoked", in_json=as_json, token=name, revoked=True)


def _to_json(token: Token) -> dict[str, object]:
    return {
        "name": token.name,
        "practices": list(token.practices),
        "made_by": token.made_by,
        "made_at": _shown(token.made_at),
        "expires_at": _shown(token.expires_at),
        "revoked_at": _shown(token.revoked_at),
    }


def _shown(at: dt.datetime | None) -> str | None:
    return at.astimezone(dt.UTC).isoformat(timespec="milliseconds") if at is not None else None
