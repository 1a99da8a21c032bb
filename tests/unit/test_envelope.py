"""The outside of an event: CloudEvents, FHIR history entry, identity, routing."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event

from poller.core import jsontext
from poller.core.envelope import CONTENT_TYPE, envelope, event_id, message, routing_key, wire_sequence
from poller.core.model import Action, Event, Origin
from poller.core.sink import Only, Sink

if TYPE_CHECKING:
    from poller.core.sink import Payload

BASE = "https://ehr.example/fhir/r4/ABC"
DETECTED = dt.datetime(2026, 11, 22, 15, 4, 5, 123_456, tzinfo=dt.UTC)


def an_event(action: Action = Action.UPDATED, **changes: Any) -> Event:
    fields: dict[str, Any] = {
        "practice": "ABC",
        "epoch": 1,
        "sequence": 4711,
        "event_id": uuid.UUID(int=7),
        "resource_type": "Observation",
        "id": "lab-1.a",
        "version": 2,
        "action": action,
        "origin": Origin.LIVE,
        "changed": ("status", "valueQuantity"),
        "categories": ("laboratory",),
        "status": "final",
        "partition_key": "Patient/123",
        "detected_at": DETECTED,
        "previous_read": DETECTED - dt.timedelta(minutes=5),
        "last_modified": DETECTED.replace(microsecond=0) - dt.timedelta(seconds=7),
    }
    return Event(**(fields | changes))


def of(event: Event, payload: Payload = "id-only", previous: str | None = None, replay: str | None = None) -> Any:
    return envelope(event, base_url=BASE, payload=payload, previous_sequence=previous, replay_id=replay)


def test_an_id_only_event_names_what_changed_and_carries_no_value() -> None:
    assert of(an_event(body={"secret": 1}), previous="0000000001-00000000000000004700") == {
        "specversion": "1.0",
        "id": "00000000-0000-0000-0000-000000000007",
        "source": BASE,
        "type": "dev.ehrpoller.resource.updated.v1",
        "subject": "Observation/lab-1.a",
        "time": "2026-11-22T15:04:05.123Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:ehr-poller:schema:change:1",
        "partitionkey": "Patient/123",
        "sequence": "0000000001-00000000000000004711",
        "previoussequence": "0000000001-00000000000000004700",
        "origin": "live",
        "previousread": "2026-11-22T14:59:05.123Z",
        "data": {
            "fullUrl": f"{BASE}/Observation/lab-1.a",
            "request": {"method": "PUT", "url": "Observation/lab-1.a"},
            "response": {"status": "200", "etag": 'W/"2"', "lastModified": "2026-11-22T15:03:58.000Z"},
            "category": ["laboratory"],
            "status": "final",
            "changed": ["status", "valueQuantity"],
        },
    }


def test_a_full_event_carries_resource_and_patch_with_decimals_as_written() -> None:
    old = jsontext.loads(b'{"resourceType":"Observation","valueQuantity":{"value":13.2}}')
    new = jsontext.loads(b'{"resourceType":"Observation","valueQuantity":{"value":13.20}}')
    sent = message(
        an_event(body=new, previous_body=old), base_url=BASE, payload="full-resource", previous_sequence=None
    )
    assert b'"resource":{"resourceType":"Observation","valueQuantity":{"value":13.20}}' in sent.body
    assert b'"patch":[{"op":"replace","path":"/valueQuantity/value","value":13.20}]' in sent.body
    assert b"change-full:1" in sent.body
    assert b'"changed"' not in sent.body


@pytest.mark.parametrize(
    ("action", "method", "status"),
    [
        (Action.CREATED, "POST", "201"),
        (Action.RESTORED, "POST", "201"),
        (Action.UPDATED, "PUT", "200"),
        (Action.MERGED, "PUT", "200"),
        (Action.ENTERED_IN_ERROR, "PUT", "200"),
        (Action.DELETED, "DELETE", "204"),
    ],
)
def test_every_action_is_an_entry_of_a_history(action: Action, method: str, status: str) -> None:
    data = of(an_event(action, body={"a": 1}, previous_body={"a": 2}), "full-resource")["data"]
    assert (data["request"]["method"], data["response"]["status"]) == (method, status)
    assert data["request"]["url"] == ("Observation" if method == "POST" else "Observation/lab-1.a")
    assert ("resource" in data) == (action is not Action.DELETED)
    assert ("patch" in data) == (action not in {Action.CREATED, Action.DELETED})


def test_what_is_not_known_is_absent_rather_than_null() -> None:
    sent = of(an_event(previous_read=None, last_modified=None))
    assert not {"previousread", "previoussequence", "replayid"} & sent.keys()
    assert "lastModified" not in sent["data"]["response"]


@pytest.mark.parametrize("payload", ["id-only", "full-resource"])
def test_a_merge_names_both_and_a_delete_says_what_it_was_concluded_from(payload: Payload) -> None:
    merged = of(an_event(Action.MERGED, resource_type="Patient", id="old", replaced_by="Patient/new"), payload)
    assert (merged["subject"], merged["data"]["replacedBy"]) == ("Patient/old", "Patient/new")
    assert "replacedBy" not in of(an_event(Action.UPDATED, replaced_by="Patient/new"), payload)["data"], "merged before"
    deleted = of(an_event(Action.DELETED, evidence="gone when read"), payload)
    assert deleted["data"]["evidence"] == "gone when read"


def test_a_replay_is_the_same_event_with_another_origin() -> None:
    event = an_event()
    first, again = of(event), of(event, replay="r-1")
    assert (again["origin"], again["replayid"]) == ("replay", "r-1")
    assert {**again, "origin": "live", "replayid": None} == {**first, "replayid": None}


def test_the_cloudevents_sdk_reads_what_we_write() -> None:
    sent = message(an_event(), base_url=BASE, payload="id-only", previous_sequence=None)
    read = from_rabbitmq_event(RabbitMQMessage(headers=dict(sent.headers), content_type=CONTENT_TYPE, body=sent.body))
    assert read.get_id() == sent.id
    assert read.get_type() == "dev.ehrpoller.resource.updated.v1"
    assert read.get_extension("partitionkey") == "Patient/123"
    assert read.get_extension("sequence") == wire_sequence(1, 4711)


def test_headers_repeat_the_attributes_of_the_body() -> None:
    sent = message(an_event(), base_url=BASE, payload="id-only", previous_sequence="x")
    body = json.loads(sent.body)
    assert {name.removeprefix("ce-"): value for name, value in sent.headers.items()} == {
        name: value for name, value in body.items() if name not in {"data", "datacontenttype"}
    }
    assert all(name.isascii() and name.isalnum() and name.islower() and len(name) <= 20 for name in body)


@pytest.mark.parametrize(
    ("payload", "replay", "data"),
    [
        (
            "id-only",
            None,
            '"category":["laboratory"],"status":"final","changed":["status","valueQuantity"]',
        ),
        (
            "full-resource",
            "r-1",
            '"resource":{"id":"lab-1.a","value":13.20},"patch":[{"op":"replace","path":"/value","value":13.20}]',
        ),
    ],
)
def test_an_event_is_written_to_the_byte_as_it_always_was(payload: Payload, replay: str | None, data: str) -> None:
    """Who compares bytes (digests of messages, a replay with the original) sees no other event after an upgrade."""
    old, new = (jsontext.Written(b'{"id":"lab-1.a","value":%s}' % value) for value in (b"13.2", b"13.20"))
    event = an_event(body=new, previous_body=old)
    sent = message(event, base_url=BASE, payload=payload, previous_sequence="x", replay_id=replay)
    origin = f'"origin":"replay","replayid":"{replay}"' if replay else '"origin":"live"'
    assert sent.body.decode() == (
        '{"specversion":"1.0","id":"00000000-0000-0000-0000-000000000007","source":"https://ehr.example/fhir/r4/ABC",'
        '"type":"dev.ehrpoller.resource.updated.v1","subject":"Observation/lab-1.a","time":"2026-11-22T15:04:05.123Z",'
        f'"datacontenttype":"application/json","dataschema":"urn:ehr-poller:schema:change{"-full" if data[1] == "r" else ""}:1",'
        '"partitionkey":"Patient/123","sequence":"0000000001-00000000000000004711","previoussequence":"x",'
        f'{origin},"previousread":"2026-11-22T14:59:05.123Z",'
        '"data":{"fullUrl":"https://ehr.example/fhir/r4/ABC/Observation/lab-1.a","request":{"method":"PUT","url":"Observation/lab-1.a"},'
        f'"response":{{"status":"200","etag":"W/\\"2\\"","lastModified":"2026-11-22T15:03:58.000Z"}},{data}}}}}'
    )


def test_the_same_version_always_makes_the_same_id() -> None:
    known = event_id("ABC", "Observation", "1", 2, Action.UPDATED, bytes(32))
    assert known == event_id("ABC", "Observation", "1", 2, Action.UPDATED, bytes(32))
    assert str(known) == "b2eaae34-76cd-5ed7-af5e-062d71fdad47"  # frozen: a consumer may have stored it
    assert known != event_id("ABC", "Observation", "1", 3, Action.UPDATED, bytes(32))
    assert known != event_id("ABC", "Observation", "1", 2, Action.DELETED, bytes(32))


def test_sequences_order_as_text() -> None:
    places = [(1, 2), (1, 10), (1, 10**19), (2, 1), (10, 0)]
    assert sorted(wire_sequence(*place) for place in places) == [wire_sequence(*place) for place in places]


def test_a_routing_key_has_four_words_and_no_id() -> None:
    assert routing_key(an_event(Action.ENTERED_IN_ERROR)) == "fhir.ABC.Observation.entered-in-error"


def test_nothing_of_a_patient_shows_when_a_message_is_printed() -> None:
    event = an_event(body={"family": "Geheim"})
    assert "Geheim" not in repr(message(event, base_url=BASE, payload="full-resource", previous_sequence=None))


def test_a_sink_wants_what_its_filter_lets_through() -> None:
    sink = Sink("s", "x", ("q",), baseline=False, only=Only(types=("Observation",), actions=("updated", "deleted")))
    assert sink.wants(an_event())
    assert not sink.wants(an_event(Action.CREATED))
    assert not sink.wants(an_event(origin=Origin.BASELINE))
    assert not sink.wants(an_event(resource_type="Patient"))
    assert sink.only.patterns() == ("fhir.*.Observation.updated", "fhir.*.Observation.deleted")
    assert Only().patterns() == ("fhir.*.*.*",)
