"""Rows of the log as events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from poller.core.model import Action, Event, Origin
from poller.store.vault import Vault

_ACTIONS = {action.value: action for action in Action}
_ORIGINS = {origin.value: origin for origin in Origin}


def event_of(row: Iterable[Any], vault: Vault) -> Event:
    """A row that begins with ``event_columns`` and goes on with the bodies of the version and of the one before, as read_events gives it.

    Bodies are parsed only by whoever looks into them. Raises ValueError for a body that cannot be read.
    """
    (practice, epoch, sequence, event_id, resource_type, id_, version, action, origin, changed, categories, status, partition_key,
     recorded_at, previous_read, last_modified, replaced_by, evidence, codec, body, previous_codec, previous_body, *_) = row  # fmt: skip
    key = resource_type, id_
    return Event(
        practice,
        epoch,
        sequence,
        event_id,
        resource_type,
        id_,
        version,
        _ACTIONS[action],
        _ORIGINS[origin],
        tuple(changed),
        tuple(categories),
        status,
        partition_key,
        recorded_at,
        previous_read,
        last_modified,
        replaced_by,
        evidence,
        vault.written(practice, key, codec, body) if body is not None else None,
        vault.written(practice, key, previous_codec, previous_body) if previous_body is not None else None,
    )
