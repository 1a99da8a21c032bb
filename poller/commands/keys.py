"""Commands on keys: of the client, and those that stored bodies are encrypted with."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from poller import display, keys
from poller.app import Installation
from poller.commands.audited import note
from poller.commands.options import DEFAULT_CONFIG, AsJson, ConfigOption, Practice, Reason, load
from poller.core.audit import WHOLE, Action


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """How many so far, on a terminal only: how many there will be, only going through them would tell."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _count: None
        return
    with console.status("") as line:
        yield lambda count: line.update(f"{count} bodies encrypted")


def _require_everywhere(installation: Installation) -> None:
    """What these commands write must be readable for whoever runs. Raises ConfigError without a master key, and KeyMissing."""
    installation.masters.require()
    installation.masters.load()
    installation.configurations.require_master(installation.masters.current)


app = typer.Typer(help="Keys of the client, and those that stored bodies are encrypted with.", no_args_is_help=True)


@app.command()
def new(
    out: Annotated[Path, typer.Option(help="Where the private key goes (PEM, readable by its owner only).")],
    kid: Annotated[str | None, typer.Option(help="Key id; without, the RFC 7638 thumbprint.")] = None,
    force: Annotated[bool, typer.Option(help="Overwrite a key that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Make the client's private key and, beside it, the JWKS to publish where the vendor can fetch it.

    Exits 1 if a key is there already. Example: poller keys new --out keys/client.pem
    """
    out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pair = keys.new_key(out, kid, force=force)
    told = f"private key: {pair.private_path}\npublic JWKS: {pair.jwks_path} (publish this one)\nkid: {pair.kid}"
    paths = {"private_key": str(pair.private_path), "jwks": str(pair.jwks_path)}
    display.answer(told, in_json=as_json, **paths, kid=pair.kid)


@app.command("list")
def list_(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show which keys practices have, and which master key wraps each; never a key.

    Exits 0, or 4 for the store. Example: poller keys list --json
    """
    with Installation(load(config, master_keys=False)) as installation:
        found = installation.keys.listed()
    if as_json:
        for one in found:
            made = one.made_at.astimezone(dt.UTC).isoformat(timespec="milliseconds")
            said = {"practice": one.practice, "key": one.number, "current": one.is_current}
            typer.echo(json.dumps(said | {"master": one.master, "made_at": made}))
        return
    table = Table("practice", "key", "seals", "master key", "made")
    for one in found:
        seals = "what is written now" if one.is_current else "what was written before"
        table.add_row(one.practice, str(one.number), seals, one.master, f"{one.made_at:%Y-%m-%d %H:%M}")
    display.console().print(table if found else "no practice has a key: nothing is encrypted")


@app.command()
def rotate(
    practice: Practice, reason: Reason = "", config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Give a practice a new key for what it writes from now on; what is stored keeps the key that it has.

    Who runs takes it up by itself. Exits 2 without a master key, 4 if an engine that runs does not have it, 6 for an unknown practice.
    Example: poller keys rotate FAMLYMED
    """
    with Installation(load(config)) as installation:
        code = installation.practice(practice).code
        _require_everywhere(installation)
        note(installation, Action.KEYS_ROTATE, code, reason)
        number = installation.keys.rotate(code)
    told = f"practice {code}: key {number} seals what is written from now on"
    display.answer(told, in_json=as_json, practice=code, key=number)


@app.command()
def rewrap(reason: Reason = "", config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Wrap the keys of this configuration's practices by the first of encryption.keys; it says whether the others may go then.

    Exits 2 without a master key, 3 if keys are still made under another, 4 if one is missing that has wrapped a key, or an engine that runs
    does not have it. Example: poller keys rewrap
    """
    with Installation(load(config)) as installation:
        _require_everywhere(installation)
        note(installation, Action.KEYS_REWRAP, WHOLE, reason, master=installation.masters.current)
        practices = list(installation.config.practices)
        count = installation.keys.rewrap(practices)
        current = installation.masters.current
        others = installation.keys.others(practices)
    told = f"{count} keys wrapped anew; {current} wraps them all"
    if others:
        told = f"{count} keys wrapped anew; {current} wraps all of the practices of this configuration, and not these:"
    for practice, masters in others.items():
        told += f"\npractice {practice}: wrapped by {', '.join(masters)}; keep that"
    kept = {practice: list(masters) for practice, masters in others.items()}
    display.answer(told, in_json=as_json, master=current, wrapped=count, others=kept)


@app.command()
def encrypt(
    practice: Practice, reason: Reason = "", config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Encrypt what was stored before encryption was turned on, batch by batch; stopped and begun again, it goes on.

    Needs the login that migrates the database. Exits 2 without a master key, 4 without that right or if an engine that runs
    does not have the key, 6 for an unknown practice.
    Example: poller keys encrypt FAMLYMED
    """
    with Installation(load(config)) as installation:
        code = installation.practice(practice).code
        _require_everywhere(installation)
        note(installation, Action.KEYS_ENCRYPT, code, reason)
        count = 0
        with _progress() as tell:
            for sealed in installation.sealing(code).run():
                count += sealed
                tell(count)
    told = f"practice {code}: {count} bodies encrypted; VACUUM FULL removes what stood in their place"
    display.answer(told, in_json=as_json, practice=code, encrypted=count)
