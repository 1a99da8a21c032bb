"""What an export's manifest lists (FHIR Bulk Data Access IG 2.0, Bulk Data Status Request, complete). Pure."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from poller.core.model import Failure, FailureKind

_TYPE = re.compile(r"[A-Z][A-Za-z]{0,63}")
_URL = re.compile(r"[\x21-\x7e]{1,8192}")
_MOST = 100_000
"""Files. A manifest of more is a mistake of ours or theirs."""


class FileKind(StrEnum):
    """Which list of the manifest a file is in."""

    ERROR = "error"
    OUTPUT = "output"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class File:
    """One NDJSON file."""

    kind: FileKind
    number: int
    """Its place in the list, from 0; URLs may be signed anew whenever the manifest is asked for."""
    resource_type: str
    url: str = field(repr=False)
    count: int | None = None
    """Lines, if the server says."""

    @property
    def name(self) -> str:
        """What it is called among us, e.g. ``output/3``."""
        return f"{self.kind.value}/{self.number}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest, read."""

    transaction_time: dt.datetime
    needs_token: bool
    files: tuple[File, ...]
    """Errors first, since they say what the rest is worth, then output, then what was deleted."""
    is_partial: bool = False
    """Whether it names a continuation, which nobody asked for."""

    def has_same_files(self, other: Manifest) -> bool:
        """Whether the other lists the same files, be it under new URLs."""

        def outline(manifest: Manifest) -> list[tuple[str, str, int | None]]:
            return [(file.name, file.resource_type, file.count) for file in manifest.files]

        return self.transaction_time == other.transaction_time and outline(self) == outline(other)

    def as_json(self) -> dict[str, Any]:
        """As a manifest, less what is not used; :func:`parse_manifest` reads it again."""
        lists: dict[str, list[dict[str, Any]]] = {kind.value: [] for kind in FileKind}
        for file in self.files:
            counted = {"count": file.count} if file.count is not None else {}
            lists[file.kind.value].append({"type": file.resource_type, "url": file.url, **counted})
        continued = {"link": [{"relation": "next"}]} if self.is_partial else {}
        head = {"transactionTime": self.transaction_time.isoformat(), "requiresAccessToken": self.needs_token}
        return head | lists | continued


def parse_manifest(body: object) -> Manifest | Failure:
    """The manifest in a body; a Failure that says what is wrong with it if it is none.

    One that does not say from when it is cannot be used: its content might be older than what is stored.
    """
    if not isinstance(body, Mapping):
        return _refuse("it is no JSON object")
    if not isinstance(body.get("output"), list):
        return _refuse("it has no list output")
    moment = instant(body.get("transactionTime"))
    if moment is None:
        return _refuse("transactionTime is no instant with a time zone")
    files: list[File] = []
    for kind in FileKind:
        entries = body.get(kind.value, [])
        if not isinstance(entries, list) or len(entries) > _MOST:
            return _refuse(f"{kind.value} is no list, or too long")
        for number, entry in enumerate(entries):
            file = _file(kind, number, entry)
            if file is None:
                return _refuse(f"an entry of {kind.value} without a type and an address that can be used")
            files.append(file)
    needs_token = body.get("requiresAccessToken", True)
    links = body.get("link", [])
    partial = isinstance(links, list) and any(
        isinstance(link, Mapping) and link.get("relation") == "next" for link in links
    )
    return Manifest(moment, needs_token is not False, tuple(files), partial)


def _file(kind: FileKind, number: int, entry: object) -> File | None:
    if not isinstance(entry, Mapping):
        return None
    usual = {FileKind.ERROR: "OperationOutcome", FileKind.DELETED: "Bundle"}.get(kind)
    name, url, count = entry.get("type", usual), entry.get("url"), entry.get("count")
    if not isinstance(name, str) or not _TYPE.fullmatch(name) or not is_usable_url(url):
        return None
    is_count = isinstance(count, int) and not isinstance(count, bool) and count >= 0
    return File(kind, number, name, str(url), count if is_count else None)


def is_usable_url(url: object) -> bool:
    """Whether it can be stored and asked for: visible ASCII, of a length that a request can have."""
    return isinstance(url, str) and _URL.fullmatch(url) is not None


def instant(value: object) -> dt.datetime | None:
    """A FHIR instant in UTC; None if it is none."""
    if not isinstance(value, str):
        return None
    try:
        parsed = dt.datetime.fromisoformat(value)
        return parsed.astimezone(dt.UTC) if parsed.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _refuse(detail: str) -> Failure:
    return Failure(FailureKind.MALFORMED, 200, f"the manifest cannot be used: {detail}")
