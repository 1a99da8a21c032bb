"""Where the store is, when the configuration itself is broken: as far as the file still says it, else as the last engine has noted it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from poller.config import document
from poller.config.model import Config, PracticeConfig
from poller.config.secret import Surroundings
from poller.config.values import parse_directory

NOTE: Final = "store.yaml"
"""In the data directory: where the store is, as the last accepted configuration had it."""

_TOP = re.compile(r"^(?=[A-Za-z_])", re.MULTILINE)
_WANTED: Final = ("name", "data_dir", "store")


class Found(Config):
    """As much of a configuration as it takes to reach its store."""

    practices: dict[str, PracticeConfig] = Field(default={})


def salvage(path: Path, data_dir: Path | None = None) -> Found | None:
    """Where the store is and what the poller is called, by what stands at the top of ``path``, however broken the rest of it is.

    Where the file does not say it, by the note in ``data_dir``, or in the data directory that the file names or that is the default. None
    if that says nothing either: an embedded store that is not there is no answer, and must not be made. A file that is YAML and has no
    ``name`` says by that what it is called, whatever another poller has noted in the same directory.
    """
    text = _text(path)
    found = _found(text, path, data_dir)
    says_store = found is not None and "store" in found.model_fields_set
    says_name = found is not None and ("name" in found.model_fields_set or _is_yaml(text))
    if not says_store or not says_name:
        note = (found.data_dir if found is not None else _directory(data_dir)) / NOTE
        noted = _found(_text(note), note, data_dir)
        if noted is not None and (not says_store or (found is not None and noted.store == found.store)):
            name = found.name if found is not None and says_name else noted.name
            found = (found if found is not None and says_store else noted).model_copy(update={"name": name})
    if found is not None and found.is_embedded_store and not (found.data_dir / "postgres").is_dir():
        return None
    return found


def _text(path: Path) -> str:
    try:
        return document.text_of(path)
    except document.Unreadable:
        return ""


def _is_yaml(text: str) -> bool:
    try:
        document.parse(text)
    except document.Unreadable:
        return False
    return True


def note_of(config: Config) -> str:
    """What :data:`NOTE` holds for a configuration. Secrets are named in it by their places, as in the configuration."""
    lines = [
        f"name: {_quoted(config.name)}",
        f"data_dir: {_quoted(config.data_dir)}",
        "store:",
        f"  url: {_quoted(config.store.url)}",
    ]
    for key in ("password", "digest_key"):
        secret = getattr(config.store, key)
        if secret is not None:
            place = f"env: {secret.env}" if secret.env is not None else f"file: {_quoted(secret.file)}"
            lines.append(f"  {key}: {{{place}}}")
    return "\n".join(lines) + "\n"


def _found(text: str, path: Path, data_dir: Path | None) -> Found | None:
    parts = _parts(text)
    if parts is None:
        return None
    said = parts["data_dir"].value if "data_dir" in parts else None
    try:
        directory = data_dir or parse_directory(said)
    except ValueError:
        return None
    directory = directory if isinstance(directory, Path) else _directory(None)
    around: Surroundings = {
        "beside": Path.cwd() / path.parent,
        "data_dir": directory,
        "environment": os.environ,
        "master_keys": False,
        "usable": {},
    }
    given: dict[str, object] = {"data_dir": str(directory)}
    given |= {key: parts[key].plain() for key in ("name", "store") if key in parts}
    try:
        return Found.model_validate(given, context=around)
    except ValidationError:
        return None


def _parts(text: str) -> dict[str, document.Node] | None:
    """What the file says at its top, or of a file that is no YAML as a whole, what each part says that is; None if what matters is not."""
    try:
        return document.parse(text)[0].mapping
    except document.Unreadable:
        pass
    parts: dict[str, document.Node] = {}
    for block in _TOP.split(text):
        if block.partition(":")[0] in _WANTED:
            try:
                parts |= document.parse(block)[0].mapping
            except document.Unreadable:
                return None
    return parts or None


def _directory(said: Path | None) -> Path:
    return said if said is not None else Path.cwd() / ".poller"


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"
