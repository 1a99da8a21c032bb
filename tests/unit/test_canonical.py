"""What is compared: everything but bookkeeping, narrative and key order."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from poller.core import canonical, jsontext
from poller.core.model import Sighting

KEY = b"k" * 32
NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)

NAMES = st.sampled_from(["status", "_status", "code", "value", "text", "meta", "contained", "extension", "id"])
LITERALS = st.sampled_from(["13.2", "13.20", "1e2", "0.0"]).map(jsontext.Literal)
SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | LITERALS | st.text("aé\u2028", max_size=2)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
METAS = st.dictionaries(
    st.sampled_from(["versionId", "lastUpdated", "_lastUpdated", "profile", "tag"]), SCALARS, max_size=4
)
CONTAINED = st.lists(st.dictionaries(NAMES, VALUES, max_size=3), max_size=2)
RESOURCES = st.builds(
    lambda rest, meta, contained: rest | meta | contained | {"resourceType": "Observation", "id": "o1"},
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.builds(lambda meta: {"meta": meta}, METAS) | st.just({}),
    st.builds(lambda contained: {"contained": contained}, CONTAINED) | st.just({}),
)


def digest(resource: dict[str, Any]) -> bytes:
    return canonical.digest(resource, KEY)


def elements_of(resource: dict[str, Any]) -> dict[str, str]:
    return canonical.element_digests(resource, KEY)


def turned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: turned(value[name]) for name in reversed(list(value))}
    return [turned(item) for item in value] if isinstance(value, list) else value


@given(RESOURCES, st.text(max_size=5))
def test_noise_does_not_count(resource: dict[str, Any], noise: str) -> None:
    meta = resource.get("meta")
    noisy = turned(resource) | {"text": {"div": noise}, "_text": noise}
    if isinstance(meta, dict):
        noisy["meta"] = meta | {"versionId": noise, "lastUpdated": noise, "_lastUpdated": noise, "_versionId": noise}
    elif meta is None and "meta" not in resource:
        noisy["meta"] = {"versionId": noise, "lastUpdated": noise}
    noisy["contained"] = (
        [item | {"text": noise} if isinstance(item, dict) else item for item in resource.get("contained") or []]
        if isinstance(resource.get("contained"), list)
        else resource.get("contained")
    )
    if "contained" not in resource:
        del noisy["contained"]
    assert digest(noisy) == digest(resource)
    assert elements_of(noisy) == elements_of(resource)


@given(RESOURCES, RESOURCES)
def test_digests_differ_exactly_as_the_canonical_texts_do(one: dict[str, Any], other: dict[str, Any]) -> None:
    texts = [jsontext.dumps(canonical.canonical(resource), sort_keys=True) for resource in (one, other)]
    assert (digest(one) == digest(other)) == (texts[0] == texts[1])


@given(RESOURCES, RESOURCES)
def test_the_whole_differs_exactly_if_an_element_does(one: dict[str, Any], other: dict[str, Any]) -> None:
    elements = [elements_of(resource) for resource in (one, other)]
    assert (digest(one) == digest(other)) == (elements[0] == elements[1])


@given(RESOURCES)
def test_the_stored_body_is_the_resource_and_digests_alike(resource: dict[str, Any]) -> None:
    """What a change of rules relies on."""
    stored = canonical.decode_body(canonical.CODEC_ZLIB, canonical.encode_body(resource))
    assert jsontext.dumps(stored) == jsontext.dumps(resource), "key order and decimals included"
    assert (digest(stored), elements_of(stored)) == (digest(resource), elements_of(resource))


@given(RESOURCES)
def test_nothing_is_altered_in_place(resource: dict[str, Any]) -> None:
    before = jsontext.dumps(resource)
    assert canonical.reduce(Sighting("Observation", "o1", resource, NOW, NOW), KEY).detail.body
    assert jsontext.dumps(resource) == before


@given(RESOURCES)
def test_another_key_gives_another_digest(resource: dict[str, Any]) -> None:
    elements = canonical.element_digests(resource, b"other" * 8)
    assert canonical.digest(resource, b"other" * 8) != digest(resource)
    assume(elements)
    assert not set(elements.values()) & set(elements_of(resource).values())


def test_an_elements_extensions_count_as_the_element() -> None:
    plain = {"resourceType": "Patient", "id": "a", "birthDate": "1970-01-01"}
    extended = plain | {"_birthDate": {"extension": [{"url": "u", "valueTime": "08:00:00"}]}}
    elements = [elements_of(resource) for resource in (plain, extended)]
    assert elements[0].keys() == elements[1].keys()
    assert {name for name in elements[0] if elements[0][name] != elements[1][name]} == {"birthDate"}


def test_the_text_of_a_code_is_no_narrative() -> None:
    one = {"resourceType": "Observation", "id": "o1", "code": {"text": "weight"}}
    assert digest(one) != digest(one | {"code": {"text": "height"}})


REDUCED: list[tuple[str, dict[str, Any], Any]] = [
    ("last_modified", {"meta": {"lastUpdated": "2026-11-22T14:00:00+02:00"}}, NOW),
    ("last_modified", {"meta": {"lastUpdated": "2026-11-22T12:00:00.000Z"}}, NOW),
    ("last_modified", {"meta": {"lastUpdated": "2026-11-22T12:00:00"}}, None),
    ("last_modified", {"meta": {"lastUpdated": "yesterday"}}, None),
    ("last_modified", {"meta": {"lastUpdated": "0001-01-01T00:00:00+14:00"}}, None),
    ("last_modified", {"meta": {"lastUpdated": 7}}, None),
    ("last_modified", {"meta": "strange"}, None),
    ("categories", {"category": [{"coding": [{"code": "b"}, {"code": "a"}]}, {"coding": [{"code": "b"}]}]}, ("a", "b")),
    ("categories", {"category": {"coding": [{"code": "a"}]}}, ("a",)),
    ("categories", {"category": ["strange", {"coding": "x"}, {"coding": [1, {"code": 2}]}]}, ()),
    ("status", {"status": "final"}, "final"),
    ("status", {"clinicalStatus": {"coding": [{"code": "active"}]}}, "active"),
    ("status", {"status": 3}, None),
    ("patient", {"subject": {"reference": "Patient/p1"}}, "p1"),
    ("patient", {"patient": {"reference": "https://x.example/fhir/Patient/p1/_history/3"}}, "p1"),
    ("patient", {"beneficiary": {"reference": "Patient/p1"}}, "p1"),
    ("patient", {"subject": {"reference": "Group/g1"}}, None),
    ("patient", {"subject": {"reference": "Patient/"}}, None),
    ("patient", {"subject": {"display": "nobody"}}, None),
    ("entered_in_error", {"status": "entered-in-error"}, True),
    ("entered_in_error", {"verificationStatus": {"coding": [{"code": "entered-in-error"}]}}, True),
    ("entered_in_error", {"status": "final"}, False),
    ("replaced_by", {"link": [{"type": "replaced-by", "other": {"reference": "Patient/b"}}]}, None),
]


@pytest.mark.parametrize(("name", "content", "expected"), REDUCED)
def test_what_is_read_off_a_resource(name: str, content: dict[str, Any], expected: object) -> None:
    resource = {"resourceType": "Observation", "id": "o1"} | content
    assert getattr(canonical.reduce(Sighting("Observation", "o1", resource, NOW, NOW), KEY).detail, name) == expected


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ([{"type": "replaced-by", "other": {"reference": "Patient/b"}}], "Patient/b"),
        ([{"type": "seealso", "other": {"reference": "Patient/c"}}], None),
        ([{"type": "replaced-by", "other": {"display": "someone"}}], "unknown"),
        ([7, {"type": "replaced-by"}], None),
        ("strange", None),
    ],
)
def test_whom_a_patient_was_merged_into(link: Any, expected: str | None) -> None:
    sighting = Sighting("Patient", "a", {"resourceType": "Patient", "id": "a", "link": link}, NOW, NOW)
    version = canonical.reduce(sighting, KEY)
    assert (version.detail.replaced_by, version.detail.patient) == (expected, "a")


@pytest.mark.parametrize(("codec", "body"), [(2, b""), (1, b"damaged"), (1, canonical.encode_body({})[:-3])])
def test_a_body_that_cannot_be_read_is_no_resource(codec: int, body: bytes) -> None:
    with pytest.raises(ValueError, match="codec|damaged"):  # noqa: RUF043 - either word
        canonical.decode_body(codec, body)
