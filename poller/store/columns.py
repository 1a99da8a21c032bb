"""Values to the parallel arrays that the set-based statements unnest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poller.core import jsontext
from poller.core.model import Decision, Version


def partition_key(version: Version) -> str:
    """The patient a resource belongs to, else the resource itself; frozen at first sight."""
    return f"Patient/{version.patient}" if version.patient else f"{version.resource_type}/{version.id}"


def names(values: Sequence[str]) -> str:
    """A list of texts as one JSON text: arrays of arrays must be rectangular in Postgres, these are not."""
    return jsontext.dumps(list(values)).decode()


def keys(found: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Types and ids."""
    return {"types": [resource_type for resource_type, _ in found], "ids": [id_ for _, id_ in found]}


def snapshots(changes: Sequence[tuple[Version, Decision]]) -> dict[str, list[Any]]:
    """Binds of insert_snapshots and update_snapshots."""
    versions = [version for version, _ in changes]
    return keys([version.key for version in versions]) | {
        "versions": [decision.version for _, decision in changes],
        "digests": [version.digest for version in versions],
        "elements": [jsontext.dumps(dict(version.elements)).decode() for version in versions],
        "codecs": [version.codec for version in versions],
        "bodies": [version.body for version in versions],
        "last_modified": [version.last_modified for version in versions],
        "categories": [names(version.categories) for version in versions],
        "statuses": [version.status for version in versions],
        "entered_in_error": [version.entered_in_error for version in versions],
        "replaced_by": [version.replaced_by for version in versions],
        "read_began": [version.began for version in versions],
        "read_ended": [version.ended for version in versions],
    }
