"""Noise rules leave out exactly what their paths name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.config.noise import check_noise
from poller.config.values import RESOURCE_TYPES
from poller.core import canonical, jsontext
from poller.core.elements import ELEMENTS
from poller.core.noise import hidden, parse, without

KEY = b"k" * 32
RESOURCE: dict[str, Any] = {
    "resourceType": "Observation",
    "meta": {"tag": [{"system": "a", "code": "1"}, {"system": "b", "code": "2"}], "profile": ["p", "q"]},
    "extension": [{"url": "http://x.example/1", "valueString": "s"}, {"url": "http://x.example/2", "valueInteger": 1}],
    "issued": "2026-11-22T12:00:00Z",
    "_issued": {"extension": [{"url": "u", "valueString": "s"}]},
    "performer": [{"reference": "Practitioner/1", "display": "Dr"}, {"reference": "Practitioner/2"}],
}

LEFT: list[tuple[list[str], dict[str, Any]]] = [
    (["meta.tag"], {"meta": {"profile": ["p", "q"]}}),
    (["meta.tag[a]"], {"meta": {"tag": [{"system": "b", "code": "2"}], "profile": ["p", "q"]}}),
    (["meta.tag[a]", "meta.tag[b]"], {"meta": {"profile": ["p", "q"]}}),
    (["meta.tag", "meta.profile"], {"meta": None}),
    (["meta.profile[p]"], {"meta": {"tag": RESOURCE["meta"]["tag"], "profile": ["q"]}}),
    (["meta", "meta.tag"], {"meta": None}),
    (["extension[http://x.example/1]"], {"extension": [{"url": "http://x.example/2", "valueInteger": 1}]}),
    (["extension"], {"extension": None}),
    (["issued"], {"issued": None, "_issued": None}),
    (["issued.extension"], {"_issued": None}),
    (["performer.display"], {"performer": [{"reference": "Practitioner/1"}, {"reference": "Practitioner/2"}]}),
    (["nothing.of.the.kind"], {}),
]


@pytest.mark.parametrize(("noise", "changes"), LEFT)
def test_a_path_takes_away_what_it_names_and_nothing_else(noise: list[str], changes: dict[str, Any]) -> None:
    before = copy.deepcopy(RESOURCE)
    expected = {name: value for name, value in {**RESOURCE, **changes}.items() if value is not None}
    assert without(RESOURCE, tuple(noise)) == expected
    assert before == RESOURCE


NAMES = st.sampled_from(["a", "_a", "b", "url", "system"])
VALUES = st.recursive(
    st.none() | st.integers(0, 2) | st.sampled_from(["x", "y"]),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(NAMES, inner, min_size=1, max_size=3),
    max_leaves=8,
)
PATHS = st.lists(
    st.sampled_from(["a", "b", "url"]).flatmap(lambda name: st.sampled_from([name, f"{name}[x]"])),
    min_size=1,
    max_size=3,
).map(".".join)


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.lists(PATHS, max_size=3))
def test_left_out_twice_is_left_out_once_and_in_any_order(resource: dict[str, Any], paths: list[str]) -> None:
    once = without(resource, tuple(paths))
    assert without(once, tuple(paths)) == once
    assert without(resource, tuple(reversed(paths))) == once


@given(
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.lists(PATHS, min_size=1, max_size=3),
)
def test_what_the_rules_hide_lies_at_their_paths(one: dict[str, Any], other: dict[str, Any], paths: list[str]) -> None:
    """Two resources that are the same under the rules, and not without them, differ at a path of the rules."""
    noise = tuple(paths)
    same = canonical.digest(one, KEY, noise) == canonical.digest(other, KEY, noise)
    if same and jsontext.dumps(one, sort_keys=True) != jsontext.dumps(other, sort_keys=True):
        assert hidden(one, other, noise)


MOVED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"a": {"a": "x"}}, {"a": {"_a": "x"}}, "a.a"),
    ({"a": [{"b": ["x"]}, {"b": ["y"]}]}, {"a": [{"b": ["x", "y"]}]}, "a.b"),
    ({"a": [{"c": 1}, {"b": "x"}]}, {"a": [{"c": 1, "b": "x"}]}, "a.b"),
    ({"a": {"b": "x"}}, {"a": [{"b": "x"}]}, "a.b"),
]


@pytest.mark.parametrize(("one", "other", "path"), MOVED)
def test_what_only_moved_is_hidden_too(one: dict[str, Any], other: dict[str, Any], path: str) -> None:
    assert without(one, (path,)) == without(other, (path,)), "the rule makes them the same"
    assert hidden(one, other, (path,)) == (path,)


def test_a_path_is_not_named_because_another_path_moved_what_it_names() -> None:
    noise = ("meta.tag[a]", "meta.tag[b]")
    one = {"meta": {"tag": [{"system": "a", "code": "1"}, {"system": "b", "code": "2"}]}}
    other = {"meta": {"tag": [{"system": "b", "code": "2"}]}}
    assert hidden(one, other, noise) == ("meta.tag[a]",)


@pytest.mark.parametrize(
    "path", ["", ".", "meta.", ".meta", "meta..tag", "meta[", "meta[]", "a b", "x-y", "meta.tag[a]b", "a" * 1001]
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="write element names with dots between"):
        parse(path)


def test_a_url_in_brackets_may_have_dots() -> None:
    assert parse("extension[http://a.b/c.d].valueString") == (("extension", "http://a.b/c.d"), ("valueString", None))


REFUSED = [
    ("Observation", "meta.tags", "meta has no tags; did you mean tag"),
    ("Observation", "performers", "Observation has no performers; did you mean performer"),
    ("Observation", "status", "status decides"),
    ("Patient", "link.type", "link decides"),
    ("Condition", "verificationStatus", "verificationStatus decides"),
    ("Observation", "a..b", "not a path"),
]


@pytest.mark.parametrize(("resource_type", "path", "said"), REFUSED)
def test_a_path_that_cannot_be_meant_is_refused_with_what_would_be_right(
    resource_type: str, path: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check_noise({resource_type: (path,)})


def test_rules_are_the_same_in_any_order() -> None:
    assert check_noise({"Observation": ("meta.tag", "extension", "meta.tag")}) == {
        "Observation": ("extension", "meta.tag")
    }


@pytest.mark.parametrize("resource_type", RESOURCE_TYPES)
def test_the_elements_of_a_type_are_those_of_the_specification(resource_type: str) -> None:
    fhir = pytest.importorskip("fhir.resources.R4B").get_fhir_model_class(resource_type)
    named = {field.alias or name for name, field in fhir.model_fields.items()} - {"fhir_comments", "resource_type"}
    assert {name for name in named if not name.startswith("_")} <= ELEMENTS[resource_type]
    assert ELEMENTS[resource_type] - named <= {"resourceType"}
