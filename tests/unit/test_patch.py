"""The patch says exactly what changed, whatever the JSON, and no more than that."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poller.core import jsontext
from poller.core.patch import applied, difference

DECIMALS = st.builds("{}.{}".format, st.integers(-99, 99), st.sampled_from(["0", "00", "2", "20"])).map(
    jsontext.Literal
)
TEXT = st.text("aé~/0\u2028\U0001f600", max_size=4)
SCALARS = st.none() | st.booleans() | st.integers(-99, 99) | DECIMALS | TEXT
KEYS = st.sampled_from(["a", "b", "0", "-", "~1", "x/y", "é", "", "url", "system", "code", "id", "value"])
RESOURCES = st.dictionaries(
    KEYS,
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=4)),
    max_size=4,
)
CODINGS = st.lists(
    st.fixed_dictionaries(
        {"system": st.sampled_from(["s", "t"]), "code": st.sampled_from("123")},
        optional={"display": st.sampled_from(["x", "y"])},
    ),
    max_size=6,
)


@given(RESOURCES, RESOURCES)
@example({"a": [jsontext.Literal("13.2")]}, {"a": [jsontext.Literal("13.20")]})
@example({"a": 1, "b": True}, {"a": True, "b": 1})
@example({"a": 1}, {"a": jsontext.Literal("1.0")})
@example({"a": [1, True, jsontext.Literal("1.0")]}, {"a": [True, jsontext.Literal("1.0"), 1]})
@example({"a": None}, {"a": [None]})
@example({"a": [[]]}, {"a": [{}]})
def test_applied_to_the_old_it_gives_the_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    before = jsontext.dumps(old)
    over_the_wire = jsontext.loads(jsontext.dumps(difference(old, new)))
    assert jsontext.dumps(applied(old, over_the_wire), sort_keys=True) == jsontext.dumps(new, sort_keys=True)
    assert jsontext.dumps(old) == before


@given(CODINGS, CODINGS)
def test_lists_of_keyed_items_go_over_into_each_other(old: list[Any], new: list[Any]) -> None:
    one, other = {"code": {"coding": old}}, {"code": {"coding": new}}
    assert applied(one, difference(one, other)) == other


@given(RESOURCES)
def test_nothing_changed_is_no_operation(same: dict[str, Any]) -> None:
    assert difference(same, jsontext.loads(jsontext.dumps(same))) == []


@given(CODINGS, st.data())
def test_one_item_more_or_less_is_one_operation(items: list[Any], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(items)))
    more = [*items[:place], {"system": "new", "code": "9"}, *items[place:]]
    assert [one["op"] for one in difference({"a": items}, {"a": more})] == ["add"]
    assert [one["op"] for one in difference({"a": more}, {"a": items})] == ["remove"]


ONE_OPERATION: list[tuple[str, Any, Any, dict[str, Any]]] = [
    ("name", ["b", "c"], ["a", "b", "c"], {"op": "add", "path": "/name/0", "value": "a"}),
    (
        "coding",
        [{"system": "s", "code": "1"}, {"system": "s", "code": "2"}],
        [{"system": "t", "code": "7"}, {"system": "s", "code": "1"}, {"system": "s", "code": "2"}],
        {"op": "add", "path": "/coding/0", "value": {"system": "t", "code": "7"}},
    ),
    (
        "identifier",
        [{"system": "a", "value": "1"}, {"system": "b", "value": "2", "use": "old"}],
        [{"system": "a", "value": "1"}, {"system": "b", "value": "2", "use": "usual"}],
        {"op": "replace", "path": "/identifier/1/use", "value": "usual"},
    ),
    (
        "extension",
        [{"url": "x", "valueString": "1"}, {"url": "y", "valueString": "2"}],
        [{"url": "y", "valueString": "2"}],
        {"op": "remove", "path": "/extension/0"},
    ),
    (
        "component",
        [{"code": {"text": "systolic"}, "value": 1}, {"code": {"text": "diastolic"}, "value": 2}],
        [{"code": {"text": "systolic"}, "value": 1}, {"code": {"text": "diastolic"}, "value": 3}],
        {"op": "replace", "path": "/component/1/value", "value": 3},
    ),
    ("a/b~c", 1, 2, {"op": "replace", "path": "/a~1b~0c", "value": 2}),
]


@pytest.mark.parametrize(("name", "old", "new", "operation"), ONE_OPERATION)
def test_what_is_one_change_is_one_operation(name: str, old: Any, new: Any, operation: dict[str, Any]) -> None:
    assert difference({name: old}, {name: new}) == [operation]


def test_an_item_that_comes_and_one_that_changes_behind_it_are_two_operations() -> None:
    old = {"telecom": [{"system": "phone", "value": "1", "use": "home"}, {"system": "email", "value": "a@b.example"}]}
    new = copy.deepcopy(old)
    new["telecom"].insert(0, {"system": "fax", "value": "2"})
    new["telecom"][1]["use"] = "work"
    assert [(one["op"], one["path"]) for one in difference(old, new)] == [
        ("add", "/telecom/0"),
        ("replace", "/telecom/1/use"),
    ]


def test_what_has_become_something_else_is_replaced_as_a_whole() -> None:
    old, new = {"a": [dict.fromkeys("abcdefgh", 1)]}, {"a": [dict.fromkeys("ijkl", 2)]}
    assert difference(old, new) == [{"op": "replace", "path": "/a/0", "value": dict.fromkeys("ijkl", 2)}]


@pytest.mark.timeout(30)  # by positions against positions this takes minutes
def test_long_lists_take_no_square_of_their_length() -> None:
    items = [{"url": f"u{n}", "valueInteger": n} for n in range(20_000)]
    turned = list(reversed(items))
    assert applied({"a": items}, difference({"a": items}, {"a": [*items[1:], *turned[:1]]})) == {
        "a": [*items[1:], *turned[:1]]
    }
    assert len(difference({"a": items}, {"a": turned})) > 20_000
    assert len(difference({"a": items}, {"a": [{"url": "new"}, *items]})) == 1
