"""Schemas say what the code writes: no more, no less. That the committed ones are current, tests/unit/test_docs.py holds."""

from __future__ import annotations

import copy
import datetime as dt
import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from poller.commands.schema import documents
from poller.config.schema import config_schema
from poller.core.envelope import SCHEMA, envelope, wire_sequence
from poller.core.model import Action, Event, Origin
from poller.core.schema import asyncapi, data_schema, event_schema
from poller.core.sink import Only, Payload, Sink

TOP = Path(__file__).parents[2]
PAYLOADS: tuple[Payload, Payload] = ("id-only", "full-resource")
NOW = dt.datetime(2026, 11, 22, 15, 4, 5, 123_456, tzinfo=dt.UTC)
FORMATS = jsonschema.Draft7Validator.FORMAT_CHECKER

ids = st.text("abcXYZ019.-", min_size=1, max_size=20)
bodies = st.fixed_dictionaries(
    {"resourceType": st.just("Observation"), "id": ids}, optional={"valueString": st.text(max_size=5)}
)
events = st.builds(
    Event,
    practice=st.just("ABC"),
    epoch=st.integers(1, 2**31),
    sequence=st.integers(1, 2**62),
    event_id=st.uuids(),
    resource_type=st.sampled_from(["Observation", "Patient", "Binary"]),
    id=ids,
    version=st.integers(1, 2**62),
    action=st.sampled_from(Action),
    origin=st.sampled_from([Origin.LIVE, Origin.BASELINE, Origin.RECONCILE]),
    changed=st.lists(st.sampled_from(["status", "code"]), unique=True).map(tuple),
    categories=st.lists(st.text(max_size=4), max_size=2).map(tuple),
    status=st.none() | st.text(max_size=5),
    partition_key=ids.map("Patient/{}".format),
    detected_at=st.just(NOW),
    previous_read=st.none() | st.just(NOW),
    last_modified=st.none() | st.just(NOW),
    replaced_by=st.none() | ids.map("Patient/{}".format),
    evidence=st.none() | st.just("gone when read"),
    body=st.none() | bodies,
    previous_body=st.none() | bodies,
)  # fmt: skip


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, in which a member without a name is a mistake: only consumers must bear with those."""
    shut = copy.deepcopy(schema)
    shut["additionalProperties"] = False
    for name in ("request", "response"):
        if name in shut["properties"]:
            shut["properties"][name]["additionalProperties"] = False
    return shut


@pytest.mark.parametrize("payload", PAYLOADS)
@given(event=events, replay=st.none() | st.just("r-1"), previous=st.none() | st.just(wire_sequence(1, 7)))
def test_whatever_the_code_writes_fits_and_no_member_is_unnamed(
    payload: Payload, event: Event, replay: str | None, previous: str | None
) -> None:
    sent = envelope(
        event, base_url="https://ehr.example/A", payload=payload, previous_sequence=previous, replay_id=replay
    )
    for validator in (OPEN, *CLOSED[payload]):
        validator.validate(sent["data"] if validator is CLOSED[payload][1] else sent)
    assert sent["dataschema"] == data_schema(payload)["$id"]


OPEN = jsonschema.Draft7Validator(event_schema(), format_checker=FORMATS)
CLOSED = {
    payload: [
        jsonschema.Draft7Validator(closed(schema), format_checker=FORMATS)
        for schema in (event_schema(payload), data_schema(payload))
    ]
    for payload in PAYLOADS
}


def an_event() -> dict[str, Any]:
    event = Event(
        "ABC", 1, 7, uuid.UUID(int=7), "Observation", "o1", 2, Action.UPDATED, Origin.LIVE,
        ("status",), (), "final", "Patient/p1", NOW, None, None,
    )  # fmt: skip
    return envelope(event, base_url="https://ehr.example/A", payload="id-only", previous_sequence=None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"specversion": "2.0"},
        {"id": 7},
        {"type": "dev.ehrpoller.resource.changed.v1"},
        {"sequence": "7"},
        {"origin": "dream"},
        {"dataschema": SCHEMA["full-resource"] + "1"},
        {"subject": None},
        {"data": {}},
    ],
)
def test_what_is_no_event_of_ours_does_not_fit(wrong: dict[str, Any]) -> None:
    jsonschema.validate(an_event(), event_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(an_event() | wrong, event_schema())


def test_a_member_that_is_added_one_day_does_not_break_who_validates_today() -> None:
    later = an_event() | {"traceparent": "00-1"}
    later["data"]["reason"] = "new"
    jsonschema.validate(later, event_schema())


@pytest.mark.parametrize("name", documents())
def test_each_is_a_schema_of_its_draft_with_an_id_of_its_own(name: str) -> None:
    document = documents()[name]
    if name == "asyncapi.json":
        assert document["asyncapi"] == "3.0.0"
        return
    jsonschema.Draft7Validator.check_schema(document)
    assert document["$id"].startswith("urn:ehr-poller:schema:")
    assert len({one.get("$id") for one in documents().values()}) == len(documents())


CONFIGURATIONS = [
    TOP / "config/poller.yaml",
    TOP / "deploy/poller.yaml",
    *sorted((TOP / "config/examples").glob("*.yaml")),
]


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_every_configuration_of_ours_fits_and_a_typing_error_does_not(path: Path) -> None:
    said = yaml.safe_load(path.read_text("utf-8"))
    jsonschema.validate(said, config_schema())
    for wrong in (
        said | {"sink": {}},
        said | {"practices": {}},
        said | {"logging": {"level": "loud"}},
        said | {"practices": {"A": {"feeds": {"Patients": None}}}},
        said | {"practices": {"A": {"feeds": {"Patient": {"every": "5 minutes"}}}}},
        said | {"practices": {"A": {"code": "A"}}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, config_schema())


def test_asyncapi_has_each_sink_s_exchange_queues_and_filter() -> None:
    sinks = [
        Sink(
            "labs", "x.labs", ("q.a", "q.b"), "full-resource", only=Only(types=("Observation",), actions=("created",))
        ),
        Sink("all", "x.all", ("q.c",)),
    ]
    document = asyncapi(sinks, "1")
    assert set(document["channels"]) == {"labs", "all", "q.a", "q.b", "q.c"}
    labs = document["channels"]["labs"]
    assert labs["bindings"]["amqp"]["exchange"]["name"] == "x.labs"
    assert labs["parameters"]["resourceType"]["enum"] == ["Observation"]
    assert labs["parameters"]["action"]["enum"] == ["created"]
    assert document["channels"]["all"]["parameters"]["action"]["enum"] == [action.value for action in Action]
    payload = document["components"]["messages"]["full-resource"]["payload"]["schema"]
    assert payload["properties"]["type"] == event_schema()["properties"]["type"]


PARSER = """
const { readFileSync } = require('node:fs');
const { Parser } = require('@asyncapi/parser');
new Parser().parse(readFileSync(0, 'utf8')).then(({ document, diagnostics }) => {
  const wrong = diagnostics.filter((one) => one.severity < 2).map((one) => `${one.message} at ${one.path.join('.')}`);
  console.log(JSON.stringify({ read: document !== undefined, wrong }));
});
"""


def parsed(document: dict[str, Any]) -> dict[str, Any]:
    """What the official parser says; its modules are looked for where NODE_PATH says."""
    reason = "node and npm's @asyncapi/parser are not there; name their directory in NODE_PATH, as .ci/run does"
    node = shutil.which("node")
    found = node is not None and subprocess.run(
        [node, "-e", "require.resolve('@asyncapi/parser')"], capture_output=True, check=False
    )
    if not found or found.returncode:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    done = subprocess.run(
        [str(node), "-e", PARSER], input=json.dumps(document), capture_output=True, text=True, timeout=60, check=True
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_the_official_parser_takes_the_asyncapi_document_and_no_broken_one() -> None:
    document = documents()["asyncapi.json"]
    assert parsed(document) == {"read": True, "wrong": []}
    document["channels"]["changes"]["bindings"]["amqp"]["exchange"]["type"] = "radio"
    assert parsed(document)["wrong"]
