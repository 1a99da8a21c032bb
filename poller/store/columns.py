"""Values to the parallel arrays that the set-based statements unnest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poller.core import jsontext
from poller.core.model import Decision, Rules, Version
from poller.store.vault import Seal


def partition_key(version: Version) -> str:
    """The patient a resource belongs to, else the resource itself; frozen at first sight."""
    patient = version.detail.patient
    return f"Patient/{patient}" if patient else f"{version.resource_type}/{version.id}"


def names(values: Sequence[str]) -> str:
    """Texts as Postgres writes an array of them: arrays of arrays must be rectangular there, these are not."""
    return "{" + ",".join('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values) + "}"


def keys(found: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Types and ids."""
    return {"types": [resource_type for resource_type, _ in found], "ids": [id_ for _, id_ in found]}


def compared(versions: Sequence[Version], numbers: Mapping[Rules, int]) -> dict[str, list[Any]]:
    """Binds of compare; ``numbers`` has the number of each version's rules."""
    return keys([version.key for version in versions]) | {
        "digests": [version.digest for version in versions],
        "rules": [numbers[version.rules] for version in versions],
        "unfiltered": [version.unfiltered for version in versions],
    }


def snapshots(
    changes: Sequence[tuple[Version, Decision]], numbers: Mapping[Rules, int], seal: Seal
) -> dict[str, list[Any]]:
    """Binds of insert_snapshots, update_snapshots and insert_history."""
    versions = [version for version, _ in changes]
    details = [version.detail for version in versions]
    stored = [seal(version.key, detail.codec, detail.body) for version, detail in zip(versions, details, strict=True)]
    return compared(versions, numbers) | {
        "versions": [decision.version for _, decision in changes],
        "actions": [decision.action.value for _, decision in changes],
        "partition_keys": [partition_key(version) for version in versions],
        "elements": [jsontext.dumps(dict(detail.elements)).decode() for detail in details],
        "codecs": [codec for codec, _ in stored],
        "bodies": [body for _, body in stored],
        "last_modified": [detail.last_modified for detail in details],
        "categories": [names(detail.categories) for detail in details],
        "statuses": [detail.status for detail in details],
        "entered_in_error": [detail.entered_in_error for detail in details],
        "replaced_by": [detail.replaced_by for detail in details],
        "read_began": [version.began for version in versions],
        "read_ended": [version.ended for version in versions],
    }
