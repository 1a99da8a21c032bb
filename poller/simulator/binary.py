"""Attachments: what ``Binary/{id}`` holds, made from the id where a visible note or report names it, or put there by hand."""

from __future__ import annotations

import base64
import random
from typing import TYPE_CHECKING, Any

from poller.core import jsontext
from poller.simulator.exchange import Answer, outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from poller.simulator.practice import Practice

_NAMED_BY = ("DocumentReference", "DiagnosticReport")
_LARGEST = 40_000
_WORDS = (
    "patient",
    "reports",
    "no",
    "new",
    "complaints",
    "seen",
    "today",
    "follow",
    "up",
    "in",
    "weeks",
    "stable",
    "exam",
)
_HEADS = {
    "application/pdf": b"%PDF-1.4\n% synthetic test record\n",
    "text/html": b"<!DOCTYPE html><html><body><p>Synthetic test record.</p>\n",
    "application/xml": b'<?xml version="1.0"?><!-- synthetic test record -->\n',
}


def binary(name: str, content: bytes, content_type: str = "application/octet-stream") -> dict[str, Any]:
    """A Binary resource, to be put into a world by hand: of any size, or under an id that a note names."""
    data = base64.b64encode(content).decode()
    return {"resourceType": "Binary", "id": name, "contentType": content_type, "data": data}


def content_of(name: str, content_type: str) -> bytes:
    """What an attachment holds: some bytes to some tens of thousands, always the same for its id."""
    rng = random.Random(f"{name}/{content_type}")
    size = int(200 * (_LARGEST / 200) ** rng.random())
    text = " ".join(rng.choices(_WORDS, k=size // 4)).encode()
    return (_HEADS.get(content_type, b"Synthetic test record.\n") + text)[:size]


def attachments(resource: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The attachments of a DocumentReference or DiagnosticReport."""
    for part in resource.get("content", ()):
        yield part["attachment"]
    yield from resource.get("presentedForm", ())


def read_binary(practice: Practice, name: str, accept: str) -> Answer:
    """The answer to ``GET Binary/{id}``: a Binary in JSON, or its own bytes where the practice or ``accept`` has it so."""
    row = practice.chart.row("Binary", name)
    if row is not None:
        content_type = str(row.resource.get("contentType", "application/octet-stream"))
        content = base64.b64decode(str(row.resource.get("data", "")))
    else:
        named = _content_type(practice, name)
        if named is None:
            return outcome(404, "not-found", "Resource is not known")
        content_type, content = named, content_of(name, named)
    if practice.spec.binary_raw or (accept and "json" not in accept and "*/*" not in accept):
        return Answer(200, content, content_type)
    return Answer(200, jsontext.dumps(row.resource if row is not None else binary(name, content, content_type)))


def _content_type(practice: Practice, name: str) -> str | None:
    """What a visible note or report says that this attachment is; None where none names it."""
    url = f"Binary/{name}"
    for kind in _NAMED_BY:
        for row in practice.chart.rows(kind):
            for attachment in attachments(row.resource):
                if attachment.get("url") == url:
                    return str(attachment.get("contentType", "application/octet-stream"))
    return None
