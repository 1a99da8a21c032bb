"""What several commands take, and how each reads the configuration."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from poller import config as configuration
from poller import keys, logs
from poller.app import Installation
from poller.config import Config
from poller.config.salvage import Found, salvage
from poller.config.values import parse_duration
from poller.control import whoami
from poller.errors import ConfigError, NotFound
from poller.reloading import Written
from poller.store.configurations import Revision
from poller.store.log import Place

ConfigOption = Annotated[Path, typer.Option("--config", "-c", envvar="POLLER_CONFIG", help="The configuration file.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where data_dir is, should the file be too broken to say it."),
]
_HIDES_OR_MOVES = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Bidirectional classes of marks by which a terminal shows another text than stands there."""


def a_text(value: str | None) -> str | None:
    """What is kept or looked for as text. Raises typer.BadParameter for what no database takes as such, or a terminal would obey."""
    for place, letter in enumerate(value or "", 1):
        category = unicodedata.category(letter)
        if category == "Cs":
            raise typer.BadParameter(f"not UTF-8 (character {place}); write it as UTF-8")
        if category in {"Cc", "Zl", "Zp"} or unicodedata.bidirectional(letter) in _HIDES_OR_MOVES:
            raise typer.BadParameter(
                f"a control character (U+{ord(letter):04X}, character {place}); write one line of plain text"
            )
    return value


def some_words(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """The same of what must say something where it is given at all."""
    source = context.get_parameter_source(str(parameter.name))
    if not value.strip() and source is not None and source.name != "DEFAULT":
        raise typer.BadParameter("blank; write a few words")
    return a_text(value) or ""


Practice = Annotated[str, typer.Argument(help="Code of the practice, as in the configuration.", callback=a_text)]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with who asks. Name no patient.", callback=some_words)]
Actor = Annotated[
    str, typer.Option("--actor", help="Who asks; without, who runs this.", default_factory=whoami, callback=some_words)
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
_WIRE = re.compile(r"([0-9]{1,10})-([0-9]{1,20})")
"""Also without the noughts before, as commands print it."""
_LARGEST = 2**63 - 1
_NUMBER = re.compile(r"[0-9]{1,18}")
DEFAULT_CONFIG = Path("config/poller.yaml")


def make_simulator_key(path: Path) -> Path:
    """The key that the shipped configuration reads the simulator with; made at first use, so that the file runs as it is."""
    key = configuration.data_directory(path) / "keys" / "simulator.pem"
    try:
        wanted = not path.exists() or "$data_dir/keys/simulator.pem" in path.read_text(
            encoding="utf-8", errors="replace"
        )
    except OSError:
        wanted = False  # what is wrong with the file is said when it is loaded
    if wanted and not key.exists():
        key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        keys.new_key(key)
    return key


def load(path: Path, *, master_keys: bool = True) -> Config:
    """The configuration, with the logs set up as it says. Raises ConfigError. ``master_keys``: whether they must be at hand."""
    return load_written(path, master_keys=master_keys).config


def load_written(path: Path, *, master_keys: bool = True) -> Written:
    """The same, with the text. Raises ConfigError."""
    make_simulator_key(path)
    written = Written.read(path, master_keys=master_keys)
    logs.configure(written.config.logging.format, written.config.logging.level)
    return written


def locate(path: Path, data_dir: Path | None, broken: ConfigError) -> Found:
    """Where the store of a broken configuration is. Raises ConfigError with what is broken if that cannot be told."""
    found = salvage(path, data_dir)
    if found is None:
        raise ConfigError(
            [
                *broken.problems,
                f"{path}: nor can it be told where the store is; mend data_dir: and store: first, or name the former with --data-dir",
            ]
        )
    return found


def last_good(path: Path, data_dir: Path | None, broken: ConfigError) -> tuple[Written, Revision]:
    """The configuration that was accepted last, for a file that is broken. Raises ConfigError if there is none that can be used."""
    located = locate(path, data_dir, broken)
    with Installation(located) as installation:
        try:
            revision = installation.configurations.in_force(located.name)
        except NotFound as error:
            raise ConfigError([*broken.problems, f"{path}: {error}"]) from None
    try:
        written = Written.of(revision.written, path, master_keys=False)  # `run` looks for them itself
    except ConfigError as error:
        problems = [f"revision {revision.revision}: {problem}" for problem in error.problems]
        raise ConfigError([*broken.problems, *problems]) from None
    logs.configure(written.config.logging.format, written.config.logging.level)
    return written, revision


@contextlib.contextmanager
def installed(path: Path) -> Iterator[Installation]:
    """Store and broker, for commands that must not fail because someone has just broken the file: then by what was accepted last."""
    try:
        config = load(path, master_keys=False)  # who opens a body is told then
    except ConfigError as broken:
        config = last_good(path, None, broken)[0].config
    with Installation(config) as installation:
        yield installation


def duration(written: str) -> dt.timedelta:
    """A duration as the configuration takes it."""
    try:
        return parse_duration(written)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def utc(moment: dt.datetime | None) -> dt.datetime | None:
    """A time as it was written; UTC unless it says otherwise."""
    return moment.replace(tzinfo=dt.UTC) if moment is not None and moment.tzinfo is None else moment


def place(option: str, written: str | None, epoch: int) -> Place | None:
    """A sequence as it was written for ``option``; a number alone is of ``epoch``. Raises ConfigError."""
    if written is None:
        return None
    if (match := _WIRE.fullmatch(written)) and int(match[2]) <= _LARGEST:
        return int(match[1]), int(match[2])
    if _NUMBER.fullmatch(written):
        return epoch, int(written)
    raise ConfigError(
        [
            f"{option}: not a sequence; write it as in events, 0000000001-00000000000000000042, as 1-42, or its number alone"
        ]
    )
