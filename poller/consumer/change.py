"""What arrives, and what is to be done about it: pure, so that any order of arrivals can be tried."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias

Reprocess: TypeAlias = Literal["none", "all"] | Collection[str]
"""Replays whose events are applied though they were before: none, all, or those with these ids."""

_VERSION = re.compile(r'W/"([0-9]{1,19})"')
_TYPE = re.compile(r"dev\.ehrpoller\.resource\.([a-z-]+)\.v1")


class Malformed(ValueError):  # noqa: N818 - what it is
    """What arrived is no event of the poller's. The text says which member is wrong, never what it holds."""


@dataclass(frozen=True, slots=True)
class Change:
    """One event, read."""

    id: str
    source: str
    """Base URL of the practice's server."""
    subject: str
    """``Type/id``."""
    action: str
    """created, updated, deleted, restored, merged or entered-in-error."""
    version: int
    """Counted per resource by the poller; it only ever grows."""
    sequence: str
    """Place in the practice's log; orders as text."""
    previous_sequence: str | None
    """What was routed to this queue before, of the same practice."""
    origin: str
    """live, baseline, reconcile or replay."""
    replay: str | None
    """Id of the replay that sent it again; None when it was sent for the first time."""
    event: Mapping[str, Any] = field(repr=False)
    """The whole CloudEvent, as ``json.loads`` has it."""

    @property
    def data(self) -> Mapping[str, Any]:
        """``data`` of the event: names of what changed or, by payload, resource and patch."""
        found: Mapping[str, Any] = self.event["data"]
        return found

    @property
    def stream(self) -> str:
        """Which chain of sequences it belongs to: the live one, or its replay's."""
        return self.replay or ""


@dataclass(frozen=True, slots=True)
class Gap:
    """Something was routed to this queue and has not arrived: ask for it with ``poller replay``, by the sequences."""

    source: str
    replay: str | None
    last: str
    """The last sequence that arrived."""
    named: str
    """The sequence that the next one says was routed before it."""
    sequence: str
    """Of that next one."""


class Verdict(Enum):
    """What to do with a change."""

    APPLY = "apply"
    KNOWN = "known"
    """This version was applied: delivery is at least once."""
    OLDER = "older"
    """A later version was applied."""


def read_change(body: bytes | str) -> Change:
    """The change that a message's body holds. Raises Malformed."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None
    if not isinstance(event, dict):
        raise Malformed("not a JSON object")
    for name in ("id", "source", "subject", "type", "sequence"):
        if not isinstance(event.get(name), str) or not event[name]:
            raise Malformed(f"{name} is not text")
    for name in ("previoussequence", "replayid"):
        if not isinstance(event.get(name, ""), str):
            raise Malformed(f"{name} is not text")
    data = event.get("data")
    response = data.get("response") if isinstance(data, dict) else None
    etag = response.get("etag") if isinstance(response, dict) else None
    version = _VERSION.fullmatch(etag) if isinstance(etag, str) else None
    if version is None:
        raise Malformed("data.response.etag is not a version")
    kind = _TYPE.fullmatch(event["type"])
    if kind is None:
        raise Malformed("type is not one of version 1")
    return Change(
        id=event["id"],
        source=event["source"],
        subject=event["subject"],
        action=kind[1],
        version=int(version[1]),
        sequence=event["sequence"],
        previous_sequence=event.get("previoussequence"),
        origin=str(event.get("origin")),
        replay=event.get("replayid"),
        event=event,
    )


def is_reprocessed(change: Change, reprocess: Reprocess) -> bool:
    """Whether the change counts by its replay alone, whatever was applied before."""
    return change.replay is not None and (reprocess == "all" or (reprocess != "none" and change.replay in reprocess))


def judge(change: Change, applied: int | None) -> Verdict:
    """What to do, where ``applied`` is the last version applied: of the resource or, if reprocessed, of the resource in this replay.

    The version is enough to know a change by, and so nothing grows with the number of events: one version makes one event.
    """
    if applied is None or change.version > applied:
        return Verdict.APPLY
    return Verdict.KNOWN if change.version == applied else Verdict.OLDER


def gap_before(change: Change, last: str | None) -> Gap | None:
    """What is missing between ``last``, the stream's last sequence that arrived, and this change.

    None where nothing is known yet: a consumer may begin in the middle. What comes again, or late, opens no gap.
    """
    if last is None or change.previous_sequence is None or not last < change.previous_sequence < change.sequence:
        return None
    return Gap(change.source, change.replay, last, change.previous_sequence, change.sequence)
