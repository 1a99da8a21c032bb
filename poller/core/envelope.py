"""An event as it goes out: CloudEvents 1.0.2, structured JSON.

``data`` reuses the members of an entry of a FHIR history Bundle, so that one stored event can serve a queue, a rest-hook or an ``$events``
answer; only ``patch`` and, where no values may travel, ``category``, ``status`` and ``changed`` are ours.
"""

from __future__ import annotations

import datetime as dt
import functools
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from poller.core import jsontext
from poller.core.model import Action, Origin
from poller.core.patch import difference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poller.core.model import Event
    from poller.core.sink import Payload

CONTENT_TYPE = "application/cloudevents+json"
"""Exactly this: kombu compares content types as text, a charset behind it would be another type."""

SCHEMA: Mapping[Payload, str] = {
    "id-only": "urn:ehr-poller:schema:change:1",
    "full-resource": "urn:ehr-poller:schema:change-full:1",
}
"""``$id`` of the JSON Schema of ``data``, by payload. A breaking change is a new one."""

_NAMESPACE = uuid.UUID("6f1d3c0e-52a7-5b0e-9d0a-3b7f5f0a9c11")
"""Of all event ids of this project. Changing it would make every known event look new."""

_REQUEST: Mapping[Action, tuple[str, str]] = {
    Action.CREATED: ("POST", "201"),
    Action.RESTORED: ("POST", "201"),
    Action.UPDATED: ("PUT", "200"),
    Action.MERGED: ("PUT", "200"),
    Action.ENTERED_IN_ERROR: ("PUT", "200"),
    Action.DELETED: ("DELETE", "204"),
}
_TYPE: Mapping[Action, str] = {action: f"dev.ehrpoller.resource.{action.value}.v1" for action in Action}
_MOMENTS = 4096
"""Moments whose text is remembered: a commit's events share theirs, and writing three costs more than writing all else of an event."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a publisher sends."""

    id: str
    """Of the event; a re-send keeps it."""
    resource: str
    """Whose order matters: two messages of one resource are never in flight together. Names a resource: never log it."""
    routing_key: str
    body: bytes = field(repr=False)
    """UTF-8 JSON, the whole event."""
    attributes: Mapping[str, str] = field(repr=False)
    """The context attributes of the event, by name."""

    @property
    def headers(self) -> dict[str, str]:
        """``ce-…``, the context attributes again, where the broker has headers."""
        return {f"ce-{name}": value for name, value in self.attributes.items() if name != "datacontenttype"}

    @property
    def sequence(self) -> str:
        """Of the event, on the wire."""
        return self.attributes["sequence"]


def event_id(practice: str, resource_type: str, id_: str, version: int, action: Action, digest: bytes) -> uuid.UUID:
    """Name of the event that one version makes: the same change, found again, has the same name."""
    return uuid.uuid5(_NAMESPACE, "|".join((practice, resource_type, id_, str(version), action.value, digest.hex())))


def wire_sequence(epoch: int, sequence: int, ordinal: int = 0) -> str:
    """Place in a practice's log as consumers see it; orders as text, as the CloudEvents sequence extension wants.

    Events of a snapshot have a third part, their number in it: they come behind the event at which it was taken, and before the next.
    """
    place = f"{epoch:010d}-{sequence:020d}"
    return f"{place}-{ordinal:020d}" if ordinal else place


def routing_key(event: Event) -> str:
    """``fhir.<practice>.<ResourceType>.<action>``: always four words and never an id (ids hold dots, and name patients)."""
    return f"fhir.{event.practice}.{event.resource_type}.{event.action}"


def envelope(
    event: Event, *, base_url: str, payload: Payload, previous_sequence: str | None, replay_id: str | None = None
) -> dict[str, Any]:
    """Build the CloudEvent of ``event``.

    ``previous_sequence`` is the wire sequence last routed to the same sink for the same practice, None for the first. With a
    ``replay_id`` it is the same event again: same id, same sequence, its origin ``replay``.
    """
    reference = f"{event.resource_type}/{event.id}"
    cloud_event: dict[str, Any] = {
        "specversion": "1.0",
        "id": str(event.event_id),
        "source": base_url,
        "type": _TYPE[event.action],
        "subject": reference,
        "time": _instant(event.detected_at),
        "datacontenttype": "application/json",
        "dataschema": SCHEMA[payload],
        "partitionkey": event.partition_key,
        "sequence": wire_sequence(event.epoch, event.sequence, event.ordinal),
    }
    if previous_sequence is not None:
        cloud_event["previoussequence"] = previous_sequence
    cloud_event["origin"] = event.origin.value if replay_id is None else Origin.REPLAY.value
    if replay_id is not None:
        cloud_event["replayid"] = replay_id
    if event.previous_read is not None:
        cloud_event["previousread"] = _instant(event.previous_read)
    cloud_event["data"] = _entry(event, f"{base_url}/{reference}", payload)
    return cloud_event


def message(
    event: Event, *, base_url: str, payload: Payload, previous_sequence: str | None, replay_id: str | None = None
) -> Message:
    """The envelope of ``event``, written out and addressed."""
    cloud_event = envelope(
        event, base_url=base_url, payload=payload, previous_sequence=previous_sequence, replay_id=replay_id
    )
    body = jsontext.dumps(cloud_event)
    del cloud_event["data"]  # the body holds it, and it may be large
    resource = f"{event.practice}/{cloud_event['subject']}"
    return Message(cloud_event["id"], resource, routing_key(event), body, cloud_event)


def history_entry(
    resource_type: str, id_: str, version: int, action: Action, full_url: str, last_modified: dt.datetime | None
) -> dict[str, Any]:
    """The members of an entry of a FHIR history Bundle that every version has."""
    method, status = _REQUEST[action]
    response = {"status": status, "etag": f'W/"{version}"'}
    if last_modified is not None:
        response["lastModified"] = _instant(last_modified)
    url = resource_type if method == "POST" else f"{resource_type}/{id_}"
    return {"fullUrl": full_url, "request": {"method": method, "url": url}, "response": response}


def _entry(event: Event, full_url: str, payload: Payload) -> dict[str, Any]:
    entry = history_entry(event.resource_type, event.id, event.version, event.action, full_url, event.last_modified)
    if event.action is Action.MERGED and event.replaced_by is not None:
        entry["replacedBy"] = event.replaced_by
    if event.evidence is not None:
        entry["evidence"] = event.evidence
    if payload == "id-only":
        entry["category"] = list(event.categories)
        entry["status"] = event.status
        entry["changed"] = list(event.changed)
        return entry
    if event.body is not None and event.action is not Action.DELETED:
        entry["resource"] = event.body
        if event.previous_body is not None and event.action is not Action.CREATED:
            entry["patch"] = difference(event.previous_body, event.body)
    return entry


@functools.lru_cache(_MOMENTS)
def _instant(moment: dt.datetime) -> str:
    """RFC 3339 in UTC to the millisecond, e.g. ``2026-11-22T15:04:05.123Z``."""
    return moment.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
