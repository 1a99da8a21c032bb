"""What a feed may drop and skip, and that what is dropped is in nothing that is made of a resource."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from poller.config import Config, PracticeConfig
from poller.config.least import is_withheld
from poller.core import canonical
from poller.core.model import Sighting

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
KEY = b"k" * 32
CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"


def practice(feeds: dict[str, dict[str, Any]], **more: Any) -> PracticeConfig:
    return PracticeConfig.model_validate(
        {"code": "p1", "base_url": "https://ehr.example/p1", "auth": "none", "feeds": feeds} | more
    )


def test_what_is_dropped_counts_as_noise_beside_the_rules() -> None:
    made = practice(
        {"Observation": {"drop": ("note", "device.display", "note")}, "Patient": {}, "Condition": {"drop": ("note",)}},
        noise={"Observation": ("meta.tag",), "Patient": ("photo",)},
    )
    assert made.drop == {"Observation": ("device.display", "note"), "Condition": ("note",)}
    assert made.left_out == {
        "Observation": ("device.display", "meta.tag", "note"),
        "Patient": ("photo",),
        "Condition": ("note",),
    }


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({"Observation": {"drop": ("subject",)}}, r"feeds\.Observation\.drop: subject: subject says whose"),
        ({"Immunization": {"drop": ("patient.display",)}}, "says whose a resource is"),
        ({"Observation": {"drop": ("category",)}}, "choose by"),
        ({"Observation": {"drop": ("status",)}}, "status decides what an event is"),
        ({"Patient": {"drop": ("link.other",)}}, "link decides what an event is"),
        ({"Observation": {"drop": ("id",)}}, "id decides what an event is"),
        ({"Observation": {"drop": ("meta",)}}, "security labels"),
        ({"Observation": {"drop": ("meta.security",)}}, "security labels"),
        ({"Observation": {"drop": ("meta.security.code",)}}, "security labels"),
        ({"Observation": {"drop": ("meta.security.coding.system",)}}, "security labels"),
        ({"Observation": {"drop": ("meta[http://a].security",)}}, "security labels"),
        ({"Encounter": {"drop": ("period.start",)}}, "visits, which period tells"),
        ({"Encounter": {"drop": ("class",)}}, "visits, which class tells"),
        ({"Observation": {"drop": ("nte",)}}, "Observation has no nte; did you mean note"),
        ({"Observation": {"drop": ("note.",)}}, "not a path"),
        ({"DocumentReference": {"drop": ("content.attachment",), "attachments": {}}}, "attachments are found by it"),
        ({"Observation": {"skip_security": ("R V",)}}, "not a code"),
    ],
)
def test_what_cannot_be_done_without_is_not_dropped(feeds: dict[str, dict[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        practice(feeds)


def test_an_attachment_s_element_may_go_where_none_is_fetched() -> None:
    assert practice({"DocumentReference": {"drop": ("content.attachment.data",)}}).drop


@pytest.mark.parametrize(
    ("resource_type", "drop", "only", "refused"),
    [
        ("Observation", "code", {"codes": ("4548-4",)}, True),
        ("Observation", "code.coding.system", {"codes": ("4548-4",), "types": ("Patient", "Observation")}, True),
        ("MedicationRequest", "medicationCodeableConcept", {"codes": ("1",), "practices": ("p1",)}, True),
        ("Immunization", "vaccineCode.text", {"codes": ("1",)}, True),
        ("DocumentReference", "type", {"codes": ("1",)}, True),
        ("Observation", "code", {"codes": ("4548-4",), "types": ("Patient",)}, False),
        ("Observation", "code", {"codes": ("4548-4",), "practices": ("p2",)}, False),
        ("Observation", "code", {"types": ("Observation",)}, False),
        ("Observation", "note", {"codes": ("4548-4",)}, False),
    ],
)
def test_what_a_sink_s_codes_are_found_by_is_not_dropped(
    resource_type: str, drop: str, only: dict[str, Any], *, refused: bool
) -> None:
    sinks = {"all": {"exchange": "x", "queues": ("q",)}, "some": {"exchange": "y", "queues": ("r",), "only": only}}
    made = {"sinks": sinks, "practices": {"p1": practice({resource_type: {"drop": (drop,)}})}}
    if not refused:
        assert Config.model_validate(made).practices["p1"].drop
        return
    with pytest.raises(
        ValidationError, match=r"p1\.feeds\.[A-Za-z]+\.drop: [a-zA-Z.]+: sinks\.some\.only\.codes chooses by it"
    ):
        Config.model_validate(made)


MARKER = "Marker-1743"
VALUES = st.one_of(st.text(max_size=5), st.lists(st.dictionaries(st.sampled_from(["text", "a"]), st.text(max_size=5))))


@given(st.dictionaries(st.sampled_from(["note", "device", "valueString", "bodySite", "_note"]), VALUES))
def test_nothing_of_it_is_stored_compared_or_told(content: dict[str, Any]) -> None:
    drop = {"Observation": ("bodySite.text", "note")}
    whole = {"resourceType": "Observation", "id": "o1"} | content | {"note": MARKER, "bodySite": {"text": MARKER}}
    lean = {name: value for name, value in whole.items() if name not in {"note", "_note", "bodySite"}}
    dropped = canonical.reduce(Sighting("Observation", "o1", whole, NOW, NOW), KEY, drop=drop)
    without = canonical.reduce(Sighting("Observation", "o1", lean, NOW, NOW), KEY)
    assert canonical.decode_body(1, dropped.detail.body) == lean
    assert dropped.digest == without.digest
    assert dropped.detail.elements == without.detail.elements
    assert dropped.resource == lean


@pytest.mark.parametrize(
    ("skipped", "security", "withheld"),
    [
        ((), [{"code": "R"}], False),
        (("R",), None, False),
        (("R",), [{"code": "N"}], False),
        (("R", "V"), [{"code": "N"}, {"system": CONFIDENTIALITY, "code": "V"}], True),
        ((f"{CONFIDENTIALITY}|R",), [{"code": "R"}], False),
        ((f"{CONFIDENTIALITY}|R",), [{"system": CONFIDENTIALITY, "code": "R"}], True),
        (("R",), "broken", False),
        (("R",), ["broken"], False),
    ],
)
def test_a_resource_is_skipped_for_a_label_of_its_feed(
    skipped: tuple[str, ...], security: object, *, withheld: bool
) -> None:
    made = practice({"Observation": {"skip_security": skipped}, "Patient": {}})
    resource = {"meta": {"security": security} if security is not None else {}}
    assert is_withheld(made, "Observation", resource) is withheld
    assert not is_withheld(made, "Patient", resource)
    assert not is_withheld(made, "Binary", resource)
