"""Which attachments a note names, and what is made of their content."""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core import jsontext
from poller.core.attachments import ELEMENTS, Rules, Wanted, again_after, binary_id, size_of, wanted, wrap

BASE = "/fhir/r4/FAMLYM"
RULES = Rules(BASE, dict.fromkeys(ELEMENTS, 1000))


def document(*attachments: Any) -> dict[str, Any]:
    return {"resourceType": "DocumentReference", "id": "d", "content": [{"attachment": each} for each in attachments]}


@pytest.mark.parametrize(
    "url",
    [
        "Binary/b.-1",
        "/Binary/b.-1",
        "https://fhir4.eclinicalworks.com/fhir/r4/FAMLYM/Binary/b.-1",
        "http://inside.example.org/facade/FAMLYM/Binary/b.-1",
        "/fhir/r4/FAMLYM/Binary/b.-1",
        "Binary/b%2E-1",
        "Binary/b.-1/",
        "Binary/b.-1/_history/3",
        "Binary/b.-1?_format=json",
    ],
)
def test_a_binary_of_the_practice_is_known_however_its_url_is_written(url: str) -> None:
    assert binary_id(url, BASE) == "b.-1"


@pytest.mark.parametrize(
    "url",
    [
        None,
        3,
        "",
        "Binary",
        "Binary/",
        "b1",
        "Patient/b1",
        "https://fhir4.eclinicalworks.com/fhir/r4/OTHERS/Binary/b1",
        "https://evil.example.org/Binary/b1",
        "//evil.example.org/Binary/b1",
        "http://169.254.169.254/latest/meta-data",
        "https://fhir4.eclinicalworks.com/fhir/r4/FAMLYM/Binary/b1/extra",
        "file:///fhir/r4/FAMLYM/Binary/b1",
        "data:text/plain;base64,Qmk=",
        "urn:uuid:0",
        "Binary/..",
        "Binary/%2e%2e",
        "Binary/b%2Fetc",
        "Binary/b%00",
        "Binary/" + "b" * 300,
        "https://[/Binary/b1",
    ],
)
def test_nothing_else_is_ever_asked_for(url: object) -> None:
    assert binary_id(url, BASE) is None


def test_a_server_without_a_path_has_binaries_too() -> None:
    assert binary_id("https://ehr.example.org/Binary/b1", "") == "b1"
    assert binary_id("https://ehr.example.org/fhir/Binary/b1", "") is None


def test_each_kind_of_note_names_its_attachments_in_its_own_way() -> None:
    attachment = {"url": "Binary/b1"}
    report = {"resourceType": "DiagnosticReport", "id": "r", "presentedForm": [attachment]}
    media = {"resourceType": "Media", "id": "m", "content": attachment}
    found = (Wanted("b1", None, is_too_large=False),)
    assert [wanted(note, RULES) for note in (document(attachment), report, media)] == [found] * 3


def test_each_is_wanted_once_in_order_and_what_says_that_it_is_too_large_is_known_without_a_call() -> None:
    note = document(
        {"url": "Binary/c", "size": 1001}, {"url": "Binary/a", "size": 1000}, {"url": "Binary/b"}, {"url": "Binary/a"}
    )
    assert wanted(note, RULES) == (
        Wanted("a", 1000, is_too_large=False),
        Wanted("b", None, is_too_large=False),
        Wanted("c", 1001, is_too_large=True),
    )


def test_of_a_type_whose_attachments_are_not_fetched_nothing_is_known() -> None:
    note = document({"url": "Binary/b1"})
    assert wanted(note, Rules(BASE, {"DiagnosticReport": 1000})) is None
    assert wanted({"resourceType": "Patient", "id": "p", "photo": [{"url": "Binary/b1"}]}, RULES) is None
    assert wanted({"resourceType": "DocumentReference", "id": "d"}, RULES) == ()


@pytest.mark.parametrize("size", ["12", True, -1, None, jsontext.Literal("1e9"), [5]])
def test_a_size_that_makes_no_sense_is_none(size: Any) -> None:
    assert wanted(document({"url": "Binary/b", "size": size}), RULES) == (Wanted("b", None, is_too_large=False),)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["attachment", "url", "size", "x"]), inner)
    ),
    max_leaves=8,
)


@given(element=JSON, resource_type=st.sampled_from(sorted(ELEMENTS)))
def test_whatever_a_server_sends_is_read(element: Any, resource_type: str) -> None:
    found = wanted({"resourceType": resource_type, ELEMENTS[resource_type]: element}, RULES)
    assert found is not None
    assert all(each.id for each in found)


@given(url=st.text(alphabet="Bb/inary.%2eF?#:@\\[]é ", max_size=30))
def test_no_url_leads_astray(url: str) -> None:
    found = binary_id(f"Binary/{url}", BASE)
    assert found is None or ("/" not in found and found.strip("."))


@given(content=st.binary(max_size=200))
def test_bare_content_becomes_the_resource_that_holds_it(content: bytes) -> None:
    made = wrap("b1", "application/pdf", content)
    assert base64.b64decode(made.get("data", "")) == content
    assert size_of(made) == len(content)
    assert list(made)[:3] == ["resourceType", "id", "contentType"]


def test_what_is_not_there_is_tried_again_ever_less_often_down_to_daily() -> None:
    gaps = [again_after(tries) for tries in range(1, 20)]
    assert gaps[0] == dt.timedelta(minutes=1)
    assert gaps == sorted(gaps)
    assert gaps[-1] == dt.timedelta(days=1)
