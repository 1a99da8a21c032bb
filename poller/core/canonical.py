"""From a resource as read to a version that can be compared.

Canonical content leaves out what changes without a change of meaning: ``meta.lastUpdated`` and ``meta.versionId`` (the server's
bookkeeping), the narrative ``text`` (generated from the rest, FHIR R4 §2.4.4), and the order of object keys (RFC 8259 §4). Numbers stay
as written (FHIR R4 §2.24.0.1). Arrays keep their order. A change of these rules raises :data:`RULES_VERSION`; stored bodies are then
digested again before anything is decided, so that new rules make no event.
"""

from __future__ import annotations

import datetime as dt
import hmac
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from poller.core import jsontext
from poller.core.model import Sighting, Version
from poller.core.pages import is_usable_id

RULES_VERSION = 1
"""Version of the canonical form; stored beside every digest."""

CODEC_ZLIB = 1
"""Bodies are JSON text compressed by zlib (RFC 1950)."""

_VOLATILE_META = frozenset({"lastUpdated", "versionId"})
_ENTERED_IN_ERROR = "entered-in-error"
_ELEMENT_DIGITS = 32


def canonical(resource: Mapping[str, Any]) -> dict[str, Any]:
    """The content that is compared: without the volatile parts, also of contained resources."""
    kept = {name: value for name, value in resource.items() if name not in {"text", "_text"}}
    if isinstance(meta := kept.get("meta"), dict):
        meta = {name: value for name, value in meta.items() if name.lstrip("_") not in _VOLATILE_META}
        kept.pop("meta")
        if meta:
            kept["meta"] = meta
    if isinstance(contained := kept.get("contained"), list):
        kept["contained"] = [canonical(item) if isinstance(item, dict) else item for item in contained]
    return kept


def digests(resource: Mapping[str, Any], key: bytes) -> tuple[bytes, dict[str, str]]:
    """Keyed digests of the canonical content: the whole (32 bytes), and per top-level element (32 hex digits).

    Keyed, so that a digest in a log, a backup or an event id can't be matched against guessed content. ``_status`` (the extensions of a
    primitive, FHIR R4 §2.6.2.3) counts as part of ``status``.
    """
    content = canonical(resource)
    whole = hmac.digest(key, jsontext.dumps(content, sort_keys=True), "sha256")
    grouped: dict[str, dict[str, Any]] = {}
    for name, value in content.items():
        grouped.setdefault(_storable(name.removeprefix("_")), {})[name] = value
    elements = {
        name: hmac.digest(key, jsontext.dumps(values, sort_keys=True), "sha256").hex()[:_ELEMENT_DIGITS]
        for name, values in grouped.items()
    }
    return whole, elements


def encode_body(resource: Mapping[str, Any]) -> bytes:
    """A resource as stored: whole, as received but for insignificant white space, compressed."""
    return zlib.compress(jsontext.dumps(resource), level=1)


def decode_body(codec: int, body: bytes) -> dict[str, Any]:
    """The inverse of :func:`encode_body`. Raises ValueError for an unknown codec or a damaged body."""
    if codec != CODEC_ZLIB:
        raise ValueError(f"unknown codec {codec}; this release knows {CODEC_ZLIB}")
    try:
        text = zlib.decompress(body)
    except zlib.error:
        raise ValueError("a stored body is damaged") from None
    resource = jsontext.loads(text)
    if not isinstance(resource, dict):
        raise ValueError("a stored body is not a resource")  # noqa: TRY004 - the content is wrong, not the caller's type
    return resource


def reduce(sighting: Sighting, key: bytes) -> Version:
    """What is compared and stored of a sighting; ``key`` is the digest key of the installation."""
    resource = sighting.resource
    whole, elements = digests(resource, key)
    meta = resource.get("meta")
    return Version(
        resource_type=sighting.resource_type,
        id=sighting.id,
        digest=whole,
        elements=elements,
        body=encode_body(resource),
        codec=CODEC_ZLIB,
        began=sighting.began,
        ended=sighting.ended,
        last_modified=_instant(meta.get("lastUpdated")) if isinstance(meta, dict) else None,
        categories=tuple(sorted(set(_codes(resource.get("category"))))),
        status=_status(resource),
        patient=sighting.id if sighting.resource_type == "Patient" else _patient(resource),
        entered_in_error=_is_entered_in_error(resource),
        replaced_by=_replaced_by(resource) if sighting.resource_type == "Patient" else None,
    )


def _storable(text: str) -> str:
    """The text without U+0000, which FHIR forbids (R4 §2.24.0.1) and Postgres refuses: one such resource would hold up its whole batch."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _instant(value: object) -> dt.datetime | None:
    """A FHIR instant in UTC, or None if it is none: the server's claim is passed on, never relied on."""
    if not isinstance(value, str):
        return None
    try:
        parsed = dt.datetime.fromisoformat(value)
        return parsed.astimezone(dt.UTC) if parsed.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _codes(value: object) -> Iterator[str]:
    """Codes of a CodeableConcept, or of a list of them."""
    for concept in value if isinstance(value, list) else [value]:
        codings = concept.get("coding") if isinstance(concept, dict) else None
        for coding in codings if isinstance(codings, list) else []:
            if isinstance(coding, dict) and isinstance(code := coding.get("code"), str):
                yield _storable(code)


def _status(resource: Mapping[str, Any]) -> str | None:
    if isinstance(status := resource.get("status"), str):
        return _storable(status)
    return next(_codes(resource.get("clinicalStatus")), None)


def _is_entered_in_error(resource: Mapping[str, Any]) -> bool:
    return resource.get("status") == _ENTERED_IN_ERROR or _ENTERED_IN_ERROR in _codes(
        resource.get("verificationStatus")
    )


def _patient(resource: Mapping[str, Any]) -> str | None:
    for name in ("subject", "patient", "beneficiary"):
        target = resource.get(name)
        reference = target.get("reference") if isinstance(target, dict) else None
        if isinstance(reference, str) and "Patient/" in reference:
            patient = reference.rpartition("Patient/")[2].partition("/")[0]
            return (
                patient if is_usable_id(patient) else None
            )  # anything else, of any length, would be a key in an index
    return None


def _replaced_by(resource: Mapping[str, Any]) -> str | None:
    links = resource.get("link")
    for link in links if isinstance(links, list) else []:
        if (
            isinstance(link, dict)
            and link.get("type") == "replaced-by"
            and isinstance(other := link.get("other"), dict)
        ):
            reference = other.get("reference")
            return _storable(reference) if isinstance(reference, str) else "unknown"
    return None
