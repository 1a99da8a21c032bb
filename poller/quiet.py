"""What may stand in a log line: no URL, query, body, token, patient's id, nor the text of an exception that is not ours.

Pure functions over the keys and values of a line; :mod:`poller.logs` puts them in front of every renderer.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import logging
import os
import re
import sys
import traceback
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from poller.errors import PollerError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

LEFT_OUT: Final = "(left out)"
_LONGEST: Final = 2_000
"""Characters of one text; the patterns below are not made for more."""

_WORD: Final = (
    "address|assertion|authorization|birthdate|body|bundle|content|cookie|email|family|given|header|href|id|identifier|jwt|key|link"
    "|name|param|passwd|password|patient|payload|phone|query|reference|resource|secret|self|subject|text|token|uri|url"
)
_SINGULAR: Final = re.compile(_WORD)
_PLURAL: Final = re.compile(f"(?:{_WORD})e?s|bodies|queries|families")
_HARMLESS: Final = frozenset(
    {
        "event_id",
        "job_id",
        "key_id",
        "replay_id",
        "replayid",
        "resource_type",
        "thread_name",
        "process_name",
        "query_name",
        "kid",
    }
)
"""Keys that hold one of those words and none of their danger."""

_DANGEROUS: Final = (
    re.compile(r"-----BEGIN[\s\S]*?(?:-----END[^\n]*|$)"),
    re.compile(r"\beyJ[\w-]{6,}\.[\w.-]+"),
    re.compile(r"\b(?:bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE),
    re.compile(r"\S*://\S+"),
    re.compile(
        r"\b(?!(?:Africa|America|Antarctica|Asia|Atlantic|Australia|Europe|Indian|Pacific)/)[A-Z][A-Za-z]{3,40}/[A-Za-z0-9.-]{1,64}(?:/\S*)?"
    ),
    re.compile(r"\S*\?[\w:.-]+=\S*"),
    re.compile(r"\b(?:patient|subject|name|identifier|_id|birthdate|family|given)=\S+", re.IGNORECASE),
)
"""PEM, JWT, credentials, URLs, FHIR references, queries."""


def scrub(text: str) -> str:
    """The text without what looks like a secret, a URL, a query or a reference to a resource."""
    text = text[:_LONGEST]
    for pattern in _DANGEROUS:
        text = pattern.sub(LEFT_OUT, text)
    return text


def is_dangerous(key: str, value: object) -> bool:
    """Whether a key's name promises what no line may hold. Numbers under a plural are counts and may stay."""
    if key.lower() in _HARMLESS:
        return False
    words = re.split(r"[^a-z]+", key.lower())
    if any(map(_SINGULAR.fullmatch, words)):
        return not isinstance(value, bool)
    return any(map(_PLURAL.fullmatch, words)) and not isinstance(value, int | float)


def harmless(value: object) -> Any:
    """The value as it may be rendered: numbers, times and names as they are, text scrubbed, an unknown object by its type alone."""
    told: Any = f"<{type(value).__name__}>"
    match value:
        case enum.Enum():
            told = harmless(value.value)
        case None | bool() | int() | float():
            told = value
        case dt.timedelta():
            told = value.total_seconds()
        case str():
            told = scrub(value)
        case dt.datetime() | dt.date() | dt.time():
            told = value.isoformat()
        case uuid.UUID() | decimal.Decimal() | Path():
            told = str(value)
        case BaseException():
            told = said(value)
        case dict():
            told = harmless_mapping(value)
        case list() | tuple() | set() | frozenset():
            told = [harmless(item) for item in value]
    return told


def harmless_mapping(line: Mapping[Any, object]) -> dict[str, Any]:
    """The keys that may stay, with harmless values; the names of the others under ``left_out``."""
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for key, value in line.items():
        word = key if isinstance(key, str) else f"<{type(key).__name__}>"
        if is_dangerous(word, value):
            dropped.append(scrub(word))
        else:
            kept[scrub(word)] = harmless(value)
    return kept | ({"left_out": sorted(dropped)} if dropped else {})


def said(error: BaseException) -> str:
    """The class and, only if we wrote it, the message."""
    name = type(error).__qualname__
    module = type(error).__module__
    full = name if module in {"builtins", "__main__"} else f"{module}.{name}"
    return f"{full}: {scrub(str(error))}" if isinstance(error, PollerError) else full


def frames(error: BaseException) -> list[str]:
    """Where it came from, outermost first: ``file:function:line``. No source line, no locals."""
    return [
        f"{_short(frame.filename)}:{frame.name}:{frame.lineno}"
        for frame in traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False)
    ]


def chain(error: BaseException) -> list[dict[str, Any]]:
    """The error, then its causes and, of a group, its members: each as ``said`` and ``at``."""
    told: list[dict[str, Any]] = []
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        told.append({"said": said(each), "at": frames(each)})
        waiting += [each.__cause__, None if each.__suppress_context__ else each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
    return told


def exception_of(exc_info: object) -> BaseException | None:
    """The exception that an ``exc_info`` of any of its shapes means."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def foreign(line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A library's line without its words: a template that has arguments stays, unfilled and scrubbed; a finished text may hold anything."""
    record: logging.LogRecord = line["_record"]
    template = line["event"] if line.pop("positional_args", None) else ""
    line["event"] = scrub(str(template)) or "a library logged a line"
    line["where"] = f"{_short(record.pathname)}:{record.funcName}:{record.lineno}"
    line["library"] = record.name.partition(".")[0]
    line["action"] = "library.logged"
    return line


def _short(filename: str) -> str:
    """A file's path from where Python found it, which says nothing of this machine."""
    for base in sorted({os.path.abspath(entry) for entry in sys.path}, key=len, reverse=True):  # noqa: PTH100 - hot, and text
        if filename.startswith(base + os.sep):
            return filename[len(base) + 1 :].replace(os.sep, "/")
    return os.path.basename(filename)  # noqa: PTH119 - likewise
