"""The command that compares an outside dump with the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from poller import display, display_verify
from poller.commands.audited import note
from poller.commands.options import DEFAULT_CONFIG, AsJson, ConfigOption, Practice, Reason, installed
from poller.commands.status import in_force_by
from poller.config import PracticeConfig
from poller.core.audit import Action
from poller.errors import DEGRADED, Code, ConfigError, NotFound, StoreError
from poller.health import Scope
from poller.installation import Installation
from poller.verifying import Reading, files_of
from poller.verifying import verify as compare


def verify(
    practice: Practice,
    against: Annotated[
        str,
        typer.Option(help="FHIR resources, one a line: a file, - for standard input, or a directory of *.ndjson."),
    ],
    list_: Annotated[bool, typer.Option("--list", help="Also each resource that is not equal, as Type/id.")] = False,
    reason: Reason = "poller verify",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Compare an outside dump with the store, by content as the diff does it. No call is made, and no poller need run.

    Of each type that the dump has: what is equal, different, missing in the store, and in the store but not in the dump. Lines that
    cannot be read are counted, never quoted. Ids are printed by --list alone, and never logged.

    Example: poller verify FAMLYM --against export/

    Exits 0 if all is equal, 2 for a dump that cannot be read or of which a line cannot, 3 for differences, 4 for the store, 6 for an
    unknown practice.
    """
    files = files_of(against)
    with installed(config) as installation:
        if not installation.has_store:
            raise StoreError(
                f"there is no store in {installation.config.data_dir} yet; `poller run` makes it", Code.STORE_MISSING
            )
        chosen = _practice(installation, config, practice)
        if list_:
            note(installation, Action.VERIFY, practice, reason, listed=True)
        key = installation.digest_key
        with installation.verify.begin(practice, key) as verification, _progress(files) as tell:
            seen, counts = compare(against, verification, key, chosen, tell)
            report = display_verify.Report(practice, seen, counts)
            listed = verification.listed() if list_ else None
            display_verify.show(report, listed, display.console(), in_json=as_json)
    if not seen.resources and not seen.flaws:
        raise ConfigError([f"--against: {against} holds no resource"])
    if seen.flaws:
        raise typer.Exit(ConfigError.exit_code)
    if not report.is_equal:
        raise typer.Exit(DEGRADED)


def _practice(installation: Installation, path: Path, practice: str) -> PracticeConfig:
    """As it is polled: by the configuration in force, else by the file. Raises NotFound."""
    scope = Scope.of(installation.config, in_force_by(installation, path)[1])
    if practice not in scope.practices:
        raise NotFound(f"no practice {practice} in the configuration; there are: {', '.join(sorted(scope.practices))}")
    return scope.practices[practice]


@contextmanager
def _progress(files: list[Path]) -> Iterator[Callable[[Reading], None]]:
    """A bar, on a terminal only."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _seen: None
        return
    total = sum(path.stat().st_size for path in files) or None  # of standard input nobody knows
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TextColumn("{task.fields[resources]} resources"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, resources=0)
        yield lambda seen: bar.update(task, completed=seen.bytes, resources=seen.resources)
