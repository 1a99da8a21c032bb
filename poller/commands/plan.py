"""What to expect of the schedules, before anything runs."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from poller import display, display_plan
from poller.app import Installation
from poller.commands.options import DEFAULT_CONFIG, ConfigOption, a_text, load
from poller.config import Config
from poller.errors import DEGRADED, ConfigError, NotFound, StoreError
from poller.outlook import Outlook, known_of, look_ahead
from poller.promises import refusals
from poller.reloading import Written
from poller.store.outlook import Standing

EPILOG = "Example: poller plan FAMLYM --json | jq '.practices[].feeds[] | {feed, category, p50, p95}'"


def plan(
    practice: Annotated[
        str | None, typer.Argument(help="Code of the practice; without, all of them.", callback=a_text)
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object; durations in seconds.")] = False,
) -> None:
    """Say what schedules cost, what delays to expect of them, and what gives way; no server is asked.

    Exits 0 if everything fits, 2 if something would be refused, 3 if it fits only with default promises relaxed or whole readings put off.
    """
    loaded = load(config)
    with Installation(loaded) as installation:
        codes = [installation.practice(practice).code] if practice is not None else list(loaded.practices)
        outlooks = _outlooks(loaded, installation, codes)
    display_plan.show(outlooks, display.console(), in_json=as_json)
    if any(each.refusals and each.certain for each in outlooks):
        raise typer.Exit(ConfigError.exit_code)
    if not all(each.fits for each in outlooks):
        raise typer.Exit(DEGRADED)


def weigh(loaded: Config, path: Path) -> list[str]:
    """Hold what the configuration promises against what the store knows; what could not be weighed, in words. Raises ConfigError."""
    now = dt.datetime.now(dt.UTC)
    with Installation(loaded) as installation:
        try:
            standings = {code: installation.standing(code) for code in loaded.practices}
            before = _accepted(installation, loaded, path) if installation.has_store else None
        except StoreError as error:
            return [f"whether the calls suffice was not weighed: {error}"]
    found = list(refusals(loaded, standings.__getitem__, before, now))
    if refused := [one.at(path) for one in found if not one.outgrown]:
        raise ConfigError(refused)
    notes = [f"was accepted and cannot be kept: {one.at(path)}" for one in found]
    unknown = [
        code for code, each in loaded.practices.items() if not known_of(each, standings[code]).is_enough_for(each)
    ]
    if unknown:
        notes.append(f"whether the calls suffice is not known yet for {', '.join(unknown)}; see `poller plan`")
    return notes


def _accepted(installation: Installation, loaded: Config, path: Path) -> Config | None:
    """The configuration that was accepted last, if it can still be read."""
    try:
        return Written.of(installation.configurations.in_force(loaded.name).written, path).config
    except (NotFound, ConfigError):
        return None


def _outlooks(loaded: Config, installation: Installation, codes: list[str]) -> list[Outlook]:
    now = dt.datetime.now(dt.UTC)
    try:
        standings = {code: installation.standing(code) for code in codes}
    except StoreError as error:
        typer.echo(f"reckoned without the store: {error}", err=True)
        standings = {code: Standing() for code in codes}
    return [look_ahead(loaded.practices[code], standings[code], now) for code in codes]
