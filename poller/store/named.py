"""The attachments that versions of notes name: written in the transaction of the version, so that none is forgotten."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from poller.core.attachments import Wanted
from poller.store.engine import sql

TARGET = "-/attachment"
"""Stands in ``absence`` for the target that no longer shows a Binary: no pass reads them, notes name them."""


@dataclass(frozen=True, slots=True)
class Named:
    """A version of a note, and what it names."""

    owner_type: str
    owner_id: str
    owner_version: int
    partition_key: str
    """Of the note, and so of its attachments."""
    attachments: tuple[Wanted, ...] = ()
    """Empty for a version that names none, and for a deleted note."""


def note(connection: Connection, practice: str, found: Sequence[Named], now: dt.datetime) -> None:
    """Want what these versions name, and drop what they do not name any more. A version that was noted before changes nothing.

    The notes' snapshots must be locked by this transaction.
    """
    if not found:
        return
    named = [(one, attachment) for one in found for attachment in one.attachments]
    common = {"practice": practice, "now": now}
    if named:
        connection.execute(
            sql("want_attachments"),
            common
            | {
                "target": TARGET,
                "ids": [attachment.id for _, attachment in named],
                "owner_types": [one.owner_type for one, _ in named],
                "owner_ids": [one.owner_id for one, _ in named],
                "owner_versions": [one.owner_version for one, _ in named],
                "partition_keys": [one.partition_key for one, _ in named],
                "states": ["too-large" if attachment.is_too_large else "wanted" for _, attachment in named],
                "sizes": [attachment.size for _, attachment in named],
            },
        )
    connection.execute(
        sql("drop_attachments"),
        common
        | {
            "owner_types": [one.owner_type for one in found],
            "owner_ids": [one.owner_id for one in found],
            "owner_versions": [one.owner_version for one in found],
        },
    )
