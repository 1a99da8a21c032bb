"""Ids of resources and events as options and a file name them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

from poller.errors import ConfigError


def listed_ids(said: Sequence[str], file: Path | None) -> tuple[tuple[tuple[str, str], ...], tuple[uuid.UUID, ...]]:
    """Resources and events that options and a file name; never shown, for ids are patients' data. Raises ConfigError."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()] if file is not None else []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            [f"--ids {file}: cannot be read ({type(error).__name__}); name a file of ids, one a line"]
        ) from None
    resources, events = [], []
    for number, one in [(None, one) for one in said] + [(n, one) for n, one in enumerate(lines, start=1) if one]:
        kind, slash, id_ = one.partition("/")
        try:
            if slash:
                resources.append((kind, id_))
            else:
                events.append(uuid.UUID(one))
        except ValueError:
            where = "--id" if number is None else f"--ids {file}: line {number}"
            raise ConfigError([f"{where}: neither Type/id nor the id of an event"]) from None
    if file is not None and not resources and not events:
        raise ConfigError([f"--ids {file}: no id in it"])
    return tuple(resources), tuple(events)
