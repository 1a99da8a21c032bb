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
from functools import lru_cache, partial
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from poller.core import attachments, jsontext
from poller.core.model import Detail, Rules, Sighting, Version
from poller.core.noise import without
from poller.core.pages import is_usable_id
from poller.core.visits import visit_of

RULES_VERSION = 2
"""Version of the canonical form, and of how it and its elements are digested; stored beside every digest."""

CODEC_ZLIB = 1
"""Bodies are JSON text compressed by zlib (RFC 1950)."""

CODEC_SEALED = 2
"""The same, encrypted; :mod:`poller.store.vault` opens it."""

_VOLATILE_META = frozenset({"lastUpdated", "versionId"})
_ENTERED_IN_ERROR = "entered-in-error"
_ELEMENT_BYTES = 8
"""Enough, since they only tell which elements differ of two versions that do; whether they do, the whole digest says."""
_SMALL_WINDOW = 12
"""Of zlib: 4 KB. The usual 32 KB take longer to clear than a body takes to compress."""
_LARGE_WINDOW = 15
_NO_NOISE: Mapping[str, tuple[str, ...]] = MappingProxyType({})


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


def digest(resource: Mapping[str, Any], key: bytes, noise: tuple[str, ...] = ()) -> bytes:
    """Keyed digest of the whole canonical content, 32 bytes; ``noise`` as :attr:`poller.core.model.Rules.noise`.

    Keyed, so that a digest in a log, a backup or an event id can't be matched against guessed content.
    """
    return _digest_of(canonical(without(resource, noise)), key)


def _digest_of(content: Mapping[str, Any], key: bytes) -> bytes:
    return hmac.digest(key, jsontext.dumps(content, sort_keys=True), "sha256")


def element_digests(resource: Mapping[str, Any], key: bytes, noise: tuple[str, ...] = ()) -> dict[str, str]:
    """Keyed digests of the top-level elements of the canonical content, 16 hex digits each.

    ``_status`` (the extensions of a primitive, FHIR R4 §2.6.2.3) counts as part of ``status``.
    """
    return _digests_of(canonical(without(resource, noise)), key)


def _digests_of(content: Mapping[str, Any], key: bytes) -> dict[str, str]:
    """Keyed BLAKE2b (RFC 7693 §2.9): of such short texts an HMAC would digest three times as many blocks."""
    grouped: dict[str, dict[str, Any]] = {}
    for name, value in content.items():
        grouped.setdefault(_element(name), {})[name] = value
    own = _element_key(key)
    return {
        name: blake2b(jsontext.dumps(values, sort_keys=True), digest_size=_ELEMENT_BYTES, key=own).hexdigest()
        for name, values in grouped.items()
    }


@lru_cache(maxsize=1024)
def _element(name: str) -> str:
    """The element that a member of a resource belongs to."""
    return _storable(name.removeprefix("_"))


@lru_cache(maxsize=16)
def _element_key(key: bytes) -> bytes:
    """Of the digest key, which may be longer than BLAKE2b takes."""
    return hmac.digest(key, b"elements", "sha256")


def encode_body(resource: Mapping[str, Any]) -> bytes:
    """A resource as stored: whole, as received but for insignificant white space, compressed."""
    text = jsontext.dumps(resource)
    return zlib.compress(text, level=1, wbits=_SMALL_WINDOW if len(text) <= 1 << _SMALL_WINDOW else _LARGE_WINDOW)


def decode_body(codec: int, body: bytes) -> dict[str, Any]:
    """The inverse of :func:`encode_body`. Raises ValueError for an unknown codec or a damaged body."""
    return resource_of(body_text(codec, body))


def resource_of(text: bytes) -> dict[str, Any]:
    """A stored body's text, parsed. Raises ValueError as :func:`decode_body`."""
    resource = jsontext.loads(text)
    if not isinstance(resource, dict):
        raise ValueError("a stored body is not a resource")  # noqa: TRY004 - the content is wrong, not the caller's type
    return resource


def body_text(codec: int, body: bytes) -> bytes:
    """A stored body as JSON text in UTF-8, its numbers as received. Raises ValueError as :func:`decode_body`."""
    if codec != CODEC_ZLIB:
        raise ValueError(f"unknown codec {codec}; this release knows {CODEC_ZLIB}")
    try:
        return zlib.decompress(body)
    except zlib.error:
        raise ValueError("a stored body is damaged") from None


def reduce(
    sighting: Sighting,
    key: bytes,
    rules: attachments.Rules | None = None,
    noise: Mapping[str, tuple[str, ...]] = _NO_NOISE,
    patient: str | None = None,
    drop: Mapping[str, tuple[str, ...]] = _NO_NOISE,
) -> Version:
    """What is compared of a sighting, and how to work out what is stored of it.

    ``key`` is the digest key of the installation, ``rules`` say which attachments count, ``noise`` has by type the paths that do not.
    ``patient``: whose it is, where the resource itself does not say. ``drop``: by type, what is taken out before anything else; it counts
    as noise, so that what was stored with it is the same. Raises TypeError for what cannot be written as JSON.
    """
    resource_type = sighting.resource_type
    noisy, dropped = noise.get(resource_type, ()), drop.get(resource_type, ())
    resource = without(sighting.resource, dropped)
    left_out = tuple(sorted({*noisy, *dropped})) if dropped else noisy
    content = canonical(without(resource, left_out))
    return Version(
        resource_type=resource_type,
        id=sighting.id,
        digest=_digest_of(content, key),
        rules=Rules(RULES_VERSION, left_out),
        began=sighting.began,
        ended=sighting.ended,
        resource=resource,
        work_out=partial(_detail, resource_type, sighting.id, resource, content, key, rules, patient),
        unfiltered=digest(resource, key) if noisy else None,
        dropped=dropped,
    )


def _detail(
    resource_type: str,
    id_: str,
    resource: Mapping[str, Any],
    content: Mapping[str, Any],
    key: bytes,
    rules: attachments.Rules | None,
    patient: str | None,
) -> Detail:
    meta = resource.get("meta")
    whose = patient or (id_ if resource_type == "Patient" else _patient(resource))
    return Detail(
        elements=_digests_of(content, key),
        body=encode_body(resource),
        codec=CODEC_ZLIB,
        last_modified=_instant(meta.get("lastUpdated")) if isinstance(meta, dict) else None,
        categories=tuple(sorted(set(_codes(resource.get("category"))))),
        status=_status(resource),
        patient=whose,
        entered_in_error=_is_entered_in_error(resource),
        replaced_by=_replaced_by(resource) if resource_type == "Patient" else None,
        attachments=attachments.wanted(resource, rules) if rules is not None else None,
        visit=visit_of(resource, whose),
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
