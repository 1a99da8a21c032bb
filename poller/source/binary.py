"""Reads one Binary, never holding more of it than is wanted."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from urllib.parse import quote

from poller.clock import Clock
from poller.core import faults, jsontext
from poller.core.attachments import Fetched, TooLarge, size_of, wrap
from poller.core.faults import Shape
from poller.core.model import Confirmation, Failure, FailureKind, Present, Purpose, Sighting, Unclear
from poller.core.pages import Problem, fingerprint, is_subsetted
from poller.source.absence import NOT_THERE, absent
from poller.source.client import Answer, Client, Download, malformed
from poller.source.wire import Interrupted

_ACCEPT = "application/fhir+json, */*;q=0.1"
"""The resource if it can be had; else its bare content, which some servers give whatever is asked for (FHIR R4 §2.37.2)."""

_FHIR = frozenset({"application/fhir+json", "application/json+fhir"})
_JSON = _FHIR | {"application/json", "text/json"}
_UNREADABLE = frozenset({"application/fhir+xml", "application/xml+fhir", "application/fhir+turtle"})
"""A Binary in another format than ours; its bytes are not the content."""

_TOO_LARGE = 413
_AROUND = 64 * 1024
"""Bytes of a Binary in JSON besides its content."""


async def fetch(
    client: Client, clock: Clock, id_: str, max_bytes: int, purpose: Purpose, *, retries: int = 0
) -> Fetched:
    """Read a Binary of at most so many bytes of content, whether the server gives the resource or its bare content.

    A web page is no content, whatever the note says of its type: it cannot be told from the page of a server that is being mended. That is
    no sign of a sick server here, nor is 500 for an id with dots, which some servers cannot read by path.
    """
    no_sign = frozenset({200, 500} if "." in id_ else {200})
    path = f"Binary/{quote(id_, safe='')}"
    async with client.stream(path, purpose, headers={"Accept": _ACCEPT}, retries=retries, expected=no_sign) as download:
        answer = download.answer
        if (refusal := _refusal(answer, max_bytes)) is not None:
            return refusal
        content_type = answer.headers.get("content-type", "application/octet-stream").strip()
        content = await _read(download, max_bytes, may_be_json=_media_type(content_type) in _JSON)
        ended = clock.now()
    if not isinstance(content, bytes):
        return content
    binary = await asyncio.to_thread(_binary, id_, content_type, content)
    if isinstance(binary, Failure):
        return Unclear(binary)
    size = size_of(binary)
    return TooLarge(size) if size > max_bytes else Present(Sighting("Binary", id_, binary, answer.began, ended))


async def confirm(client: Client, clock: Clock, id_: str, max_bytes: int, purpose: Purpose) -> Confirmation:
    """Read a Binary to know whether it is there. One that has become too large is, but what it holds is not known."""
    fetched = await fetch(client, clock, id_, max_bytes, purpose, retries=faults.RETRIES)
    if isinstance(fetched, TooLarge):
        return Unclear(Failure(FailureKind.REFUSED, 200, "larger than attachments may be"))
    return fetched


def _refusal(answer: Answer, max_bytes: int) -> Fetched | None:
    """What an answer without content says."""
    if answer.status in NOT_THERE:
        return absent(answer)
    if answer.status == _TOO_LARGE:
        return TooLarge(max_bytes + 1)
    return Unclear(answer.failure) if answer.failure is not None else None


async def _read(download: Download, max_bytes: int, *, may_be_json: bool) -> bytes | TooLarge | Unclear:
    """The body, or no more of it than shows that it is too large. In JSON the content is base64, a third longer than itself."""
    pieces = bytearray()
    try:
        async with contextlib.aclosing(download.chunks()) as chunks:
            async for chunk in chunks:
                pieces += chunk
                if len(pieces) > (max_bytes * 4 // 3 + _AROUND if may_be_json or _is_object(pieces) else max_bytes):
                    return TooLarge(max_bytes + 1)
    except Interrupted as interrupted:
        return Unclear(interrupted.failure)
    return bytes(pieces)


def _binary(id_: str, content_type: str, content: bytes) -> dict[str, Any] | Failure:
    """The resource: as it came, or made of bare content."""
    media_type = _media_type(content_type)
    if media_type in _UNREADABLE:
        return malformed("a Binary in another format than was asked for")
    try:
        found = jsontext.loads(content) if _is_object(content) else None
    except ValueError:
        found = None
        if media_type in _JSON:
            return malformed("the body is cut off, or no JSON")
    kind = found.get("resourceType") if isinstance(found, dict) else None
    if kind == "OperationOutcome":
        verdict = faults.judge(200, Shape.FHIR, faults.outcome_codes(found))
        return verdict.failure or malformed("an outcome instead of the content")
    if kind == "Binary" and isinstance(found, dict):
        return _as_it_came(id_, found)
    if media_type in _FHIR or (media_type in _JSON and isinstance(kind, str)):
        return malformed("the body is not the resource that was asked for")
    return wrap(id_, content_type, content)


def _as_it_came(id_: str, found: dict[str, Any]) -> dict[str, Any] | Failure:
    if found.get("id") != id_:
        return malformed("the body is not the resource that was asked for")
    if is_subsetted(found):
        return Problem.SUBSETTED.failure
    try:
        fingerprint(found)
    except TypeError:
        return Problem.UNWRITABLE.failure
    return found


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_object(content: bytes | bytearray) -> bool:
    """Whether it begins as a JSON object does."""
    return content[:64].lstrip()[:1] == b"{"
