"""Attachments: which Binary resources a note names, and what becomes of one that is read."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from poller.core.model import Gone, Present, Unclear
from poller.core.pages import is_usable_id

ELEMENTS: Mapping[str, str] = MappingProxyType(
    {"DiagnosticReport": "presentedForm", "DocumentReference": "content", "Media": "content"}
)
"""Types that name attachments, and the element in which they do."""

_FIRST_GAP = dt.timedelta(minutes=1)
_LONGEST_GAP = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Rules:
    """Which attachments of a practice are fetched."""

    base_path: str
    """Path of the practice's base URL."""
    limits: Mapping[str, int]
    """Type of the note → the most bytes of an attachment; types that are not here have none fetched."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A Binary that a note names."""

    id: str
    size: int | None
    """Bytes, as announced by the note."""
    is_too_large: bool
    """Whether the note itself says that it is larger than is wanted."""


@dataclass(frozen=True, slots=True)
class TooLarge:
    """A Binary is there, and larger than is wanted."""

    at_least: int
    """Bytes."""


Fetched = Present | Gone | TooLarge | Unclear
"""What reading one Binary came to."""


def wanted(resource: Mapping[str, Any], rules: Rules) -> tuple[Wanted, ...] | None:
    """The Binary resources that a note names, each once, sorted; None for a type whose attachments are not fetched."""
    resource_type = str(resource.get("resourceType"))
    limit = rules.limits.get(resource_type)
    if limit is None or resource_type not in ELEMENTS:
        return None
    sizes: dict[str, int | None] = {}
    for attachment in _attachments(resource.get(ELEMENTS[resource_type])):
        found = binary_id(attachment.get("url"), rules.base_path)
        if found is not None:
            announced = [size for size in (sizes.get(found), _size(attachment.get("size"))) if size is not None]
            sizes[found] = max(announced, default=None)
    return tuple(Wanted(id_, size, size is not None and size > limit) for id_, size in sorted(sizes.items()))


def binary_id(url: object, base_path: str) -> str | None:
    """Logical id of the Binary that a URL names; None if it is none of this practice's.

    ``Binary/<id>``, or any path that ends so after the last segment of our base path. Scheme, host, query and fragment do not count, as in
    links of a Bundle: only the id is ever used, and it is asked for below our own base URL. Of a version the present one is meant.
    """
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme not in {"", "http", "https"}:
        return None
    path = [segment for segment in parts.path.split("/") if segment]
    if path[-2:-1] == ["_history"]:
        path = path[:-2]
    *before, resource_type, written = path if len(path) > 1 else ["", "", ""]
    base = [segment for segment in base_path.split("/") if segment]
    is_ours = before[-1:] == base[-1:] or not (before or parts.netloc)
    id_ = unquote(written)
    is_id = is_usable_id(id_) and set(id_) != {"."}  # of dots alone it would be a way up, not a name
    return id_ if resource_type == "Binary" and is_ours and is_id else None


def _attachments(element: object) -> Iterator[Mapping[str, Any]]:
    """Attachments in an element: itself, each of a list, or what stands in their ``attachment``."""
    for item in element if isinstance(element, list) else [element]:
        found = item.get("attachment", item) if isinstance(item, dict) else None
        if isinstance(found, dict):
            yield found


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def wrap(id_: str, content_type: str, content: bytes) -> dict[str, Any]:
    """Bare content as the Binary resource that it is the content of (FHIR R4 §2.37)."""
    data = {"data": base64.b64encode(content).decode("ascii")} if content else {}
    return {"resourceType": "Binary", "id": id_, "contentType": content_type, **data}


def size_of(binary: Mapping[str, Any]) -> int:
    """Bytes of a Binary's content, near enough: white space in its base64 counts as if it were content."""
    data = binary.get("data")
    return len(data.rstrip("=\r\n ")) * 3 // 4 if isinstance(data, str) else 0


def again_after(tries: int) -> dt.timedelta:
    """How long after the ``tries``-th try in vain (from 1) the next one is due: doubling from a minute, never more than a day."""
    return min(_LONGEST_GAP, _FIRST_GAP * int(2 ** min(max(tries - 1, 0), 11)))
