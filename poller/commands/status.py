"""The command that is opened first when something may be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from poller import display, display_status
from poller.app import Installation
from poller.commands.options import DEFAULT_CONFIG, AsJson, ConfigOption, a_text, last_good, load_written
from poller.config import Config
from poller.core.facts import ConfigFacts
from poller.errors import DEGRADED, Code, ConfigError, NotFound, StoreError
from poller.health import Report, Scope, left_behind, report
from poller.reloading import Written
from poller.store.configurations import Revision


def status(
    practice: Annotated[
        str | None,
        typer.Argument(
            help="Code of the practice, for each feed and sink of it; without, a line for each.", callback=a_text
        ),
    ] = None,
    late: Annotated[bool, typer.Option("--late", help="Only what is not as it should be.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Say how practices, feeds and sinks are and what to do next, from the store alone: also when no poller runs.

    Example: poller status --late

    Exits 0 if all is well, 2 for a file that is broken where none was ever accepted, 3 if something is to be done, 4 for the store, 6 for
    an unknown practice.
    """
    try:
        written, problems = load_written(config, master_keys=False), tuple[str, ...]()
    except ConfigError as broken:
        written, problems = last_good(config, None, broken)[0], tuple(broken.problems)
    with Installation(written.config) as installation:
        found = _look(installation, written, problems, practice)
    whole = practice is not None or len(found.practices) == 1
    display_status.show(found, display.console(), whole=whole, only_late=late, in_json=as_json)
    if not found.is_healthy:
        raise typer.Exit(DEGRADED)


def _look(installation: Installation, written: Written, problems: tuple[str, ...], practice: str | None) -> Report:
    if not installation.has_store:
        raise StoreError(
            f"there is no store in {installation.config.data_dir} yet; `poller run` makes it", Code.STORE_MISSING
        )
    revision, in_force = in_force_by(installation, written.path)
    scope = Scope.of(written.config, in_force, revision.accepted_at if revision is not None else None)
    name, books = installation.config.name, installation.sinks.books()
    began = [one.began for one in installation.configurations.living(name) if one.began is not None]
    scope = replace(scope, began=max(began, default=None))
    codes = [*scope.practices, *left_behind(scope, books, installation.configurations.practices_of_others(name))]
    if practice is not None and practice not in codes:
        raise NotFound(f"no practice {practice} in the configuration; there are: {', '.join(sorted(scope.practices))}")
    codes = [practice] if practice is not None else codes
    reloaded = installation.status.last_reload(name)
    refused = reloaded is not None and reloaded.refused_for is not None
    since = revision is None or (reloaded is not None and reloaded.asked_at > revision.accepted_at)
    facts = ConfigFacts(
        revision=revision.revision if revision is not None else None,
        accepted_at=revision.accepted_at if revision is not None else None,
        problems=problems,
        differs=revision is not None and (bool(problems) or written.text != revision.written),
        refused_at=reloaded.asked_at if reloaded is not None and refused and since else None,
        refused_for=(reloaded.refused_for or ()) if reloaded is not None and refused and since else (),
    )
    return report(scope, codes, installation.status.look(codes), books, facts, written.path.name)


def in_force_by(installation: Installation, path: Path) -> tuple[Revision | None, Config | None]:
    """The configuration in force; None for one that was never accepted, or cannot be read any more: a file that it names may be gone."""
    try:
        revision = installation.configurations.in_force(installation.config.name)
    except NotFound:
        return None, None
    try:
        return revision, Written.of(revision.written, path).config
    except ConfigError:
        return revision, None
