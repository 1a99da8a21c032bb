"""What consumers may rely on, as documents: JSON Schemas (draft-07) of an event, and AsyncAPI 3.0 of the way out.

Versions: ``$id`` of the schema of ``data`` is the ``dataschema`` of the event. A member that is added, or a word more in an enumeration
that says it may grow, keeps it; whatever could break a consumer that follows the rules (a member gone, renamed, of another type or
meaning) is a new ``$id``, and then also another ``type``. So consumers ignore members that they do not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poller.core.envelope import CONTENT_TYPE, SCHEMA
from poller.core.model import Action, Origin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poller.core.sink import Payload, Sink

DRAFT = "http://json-schema.org/draft-07/schema#"

EVENT = "urn:ehr-poller:schema:event:1"
"""``$id`` of the schema of a whole event."""

ADDRESS = "fhir.{practice}.{resourceType}.{action}"
"""Of every event, as AsyncAPI writes a routing key; :func:`poller.core.envelope.routing_key`."""

_ID = r"[A-Za-z0-9\-\.]{1,64}"
_SEQUENCE = r"^[0-9]{10}-[0-9]{20}(-[0-9]{20})?$"
_INSTANT = {"type": "string", "format": "date-time"}
_TYPES = "|".join(f"dev\\.ehrpoller\\.resource\\.{action.value}\\.v1" for action in Action)


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description} | more


def data_schema(payload: Payload) -> dict[str, Any]:
    """Schema of ``data`` by payload, its ``$id`` the event's ``dataschema``."""
    carried, required = _NAMES if payload == "id-only" else _CONTENT
    return {
        "$schema": DRAFT,
        "$id": SCHEMA[payload],
        "title": f"What a change was, {payload}",
        "description": "Members of an entry of a FHIR R4 history Bundle, and ours.",
        "type": "object",
        "required": ["fullUrl", "request", "response", *required],
        "properties": {**_ENTRY, **carried},
    }


_ENTRY: Mapping[str, Any] = {
    "fullUrl": _text("The resource's URL at its source.", format="uri"),
    "request": {
        "type": "object",
        "required": ["method", "url"],
        "properties": {
            "method": _text("POST: created, restored; PUT: updated, merged, entered-in-error.", enum=["POST", "PUT", "DELETE"]),
            "url": _text("TYPE, or TYPE/ID."),
        },
    },
    "response": {
        "type": "object",
        "required": ["status", "etag"],
        "properties": {
            "status": {"type": "string", "enum": ["200", "201", "204"]},
            "etag": _text("The version that the poller gives, counted per resource.", pattern='^W/"[1-9][0-9]*"$'),
            "lastModified": _INSTANT | {"description": "What the server says of it; a claim."},
        },
    },
    "replacedBy": _text("For merged: the reference to the patient who stays."),
    "evidence": _text("For deleted: what it was concluded from."),
}  # fmt: skip

_NAMES: tuple[Mapping[str, Any], Sequence[str]] = (
    {
        "category": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Codes of the resource's categories.",
        },
        "status": {"type": ["string", "null"], "description": "Its status, or its clinical status."},
        "changed": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Names of the elements that changed; no values.",
        },
    },
    ("category", "status", "changed"),
)

_CONTENT: tuple[Mapping[str, Any], Sequence[str]] = (
    {
        "resource": {
            "type": "object",
            "required": ["resourceType", "id"],
            "properties": {"resourceType": {"type": "string"}, "id": {"type": "string"}},
            "description": "The FHIR R4 resource as it was read, decimals as written. Not there for deleted.",
        },
        "patch": {
            "type": "array",
            "description": "JSON Patch (RFC 6902) from the version before.",
            "items": {
                "type": "object",
                "required": ["op", "path"],
                "properties": {
                    "op": {"type": "string", "enum": ["add", "remove", "replace", "move", "copy", "test"]},
                    "path": {"type": "string"},
                    "from": {"type": "string"},
                    "value": {},
                },
            },
        },
    },
    (),
)


def event_schema(payload: Payload | None = None) -> dict[str, Any]:
    """Schema of a whole event, a CloudEvent 1.0 in structured mode; of one payload, or of either."""
    wanted: tuple[Payload, ...] = ("id-only", "full-resource") if payload is None else (payload,)
    kinds = [
        {
            "properties": {
                "dataschema": {"const": SCHEMA[one]},
                "data": {name: value for name, value in data_schema(one).items() if name not in {"$schema", "$id"}},
            }
        }
        for one in wanted
    ]
    return {
        "$schema": DRAFT,
        "$id": EVENT if payload is None else f"{EVENT}:{payload}",
        "title": "A change of a resource",
        "description": "CloudEvents 1.0, structured JSON. Members that are not named here may be added; ignore them.",
        "type": "object",
        "required": [name for name, (needed, _) in _ATTRIBUTES.items() if needed] + ["data"],
        "properties": {name: schema for name, (_, schema) in _ATTRIBUTES.items()} | {"data": {"type": "object"}},
        "oneOf": kinds,
    }


_ATTRIBUTES: Mapping[str, tuple[bool, Mapping[str, Any]]] = {
    "specversion": (True, {"const": "1.0"}),
    "id": (True, _text("Depends on the change alone; a re-send keeps it.", format="uuid")),
    "source": (True, _text("Base URL of the practice's FHIR server.", format="uri")),
    "type": (True, _text("What happened.", pattern=f"^({_TYPES})$")),
    "subject": (True, _text("TYPE/ID.", pattern=f"^[A-Z][A-Za-z]+/{_ID}$")),
    "time": (True, _INSTANT | {"description": "When the poller found the change."}),
    "datacontenttype": (True, {"const": "application/json"}),
    "dataschema": (True, _text("Version of the schema of data.", enum=sorted(SCHEMA.values()))),
    "partitionkey": (True, _text("Patient/ID, else the resource; never changes for a resource.", pattern=f"^[A-Z][A-Za-z]+/{_ID}$")),
    "sequence": (True, _text("Place in the practice's log: epoch, number (and number in a snapshot); orders as text.", pattern=_SEQUENCE)),
    "previoussequence": (False, _text("The sequence that was routed to this queue before.", pattern=_SEQUENCE)),
    "origin": (True, _text("Why there is this event.", enum=[origin.value for origin in Origin])),
    "replayid": (False, _text("Of the replay that sent it.", minLength=1)),
    "previousread": (False, _INSTANT | {"description": "The read before; the change happened since."}),
}  # fmt: skip


def asyncapi(sinks: Sequence[Sink], version: str) -> dict[str, Any]:
    """AsyncAPI 3.0 of the exchanges and queues of ``sinks``; ``version`` is the poller's."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Changes in EHRs",
            "version": version,
            "description": "Events that the poller publishes. At least once, in order per resource; each queue's events form a chain.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {sink.name: _channel(sink) for sink in sinks} | {q: _queue(q, s) for s in sinks for q in s.queues},
        "operations": {f"publish-{sink.name}": _operation(sink) for sink in sinks},
        "components": {
            "messages": {payload: _message(payload) for payload in sorted({sink.payload for sink in sinks})},
        },
    }


def _channel(sink: Sink) -> dict[str, Any]:
    return {
        "address": ADDRESS,
        "title": f"Exchange {sink.exchange}",
        "messages": {sink.payload: {"$ref": f"#/components/messages/{sink.payload}"}},
        "parameters": {
            "practice": _parameter("Code of the practice.", sink.only.practices),
            "resourceType": _parameter("FHIR R4 resource type.", sink.only.types),
            "action": _parameter("What happened.", sink.only.actions or tuple(action.value for action in Action)),
        },
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": sink.exchange, "type": "topic", "durable": True, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _queue(name: str, sink: Sink) -> dict[str, Any]:
    return {
        "address": name,
        "title": f"Queue {name}, bound to {sink.exchange}",
        "messages": {sink.payload: {"$ref": f"#/components/messages/{sink.payload}"}},
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {"name": name, "durable": True, "exclusive": False, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _parameter(description: str, words: Sequence[str]) -> dict[str, Any]:
    return {"description": description} | ({"enum": list(words)} if words else {})


def _operation(sink: Sink) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{sink.name}"},
        "summary": f"Each change that sink {sink.name} wants, once confirmed never lost.",
        "messages": [{"$ref": f"#/channels/{sink.name}/messages/{sink.payload}"}],
        "bindings": {"amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": "0.3.0"}},
    }


def _message(payload: Payload) -> dict[str, Any]:
    schema = {name: value for name, value in event_schema(payload).items() if name != "$schema"}
    return {
        "name": f"change-{payload}",
        "title": f"A change of a resource, {payload}",
        "contentType": CONTENT_TYPE,
        "headers": {
            "type": "object",
            "description": "The context attributes again, on RabbitMQ only.",
            "properties": {f"ce-{name}": {"type": "string"} for name in _ATTRIBUTES if name != "datacontenttype"},
        },
        "payload": {"schemaFormat": "application/schema+json;version=draft-07", "schema": schema},
        "bindings": {
            "amqp": {"contentEncoding": "utf-8", "messageType": f"change-{payload}", "bindingVersion": "0.3.0"}
        },
    }
