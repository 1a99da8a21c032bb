"""The patch says exactly what changed, whatever the JSON."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from poller.core import jsontext
from poller.core.patch import applied, difference

DECIMALS = st.builds("{}.{}".format, st.integers(-99, 99), st.sampled_from(["0", "00", "2", "20"])).map(
    jsontext.Literal
)
TEXT = st.text("aé~/0\u2028", max_size=4)
SCALARS = st.none() | st.booleans() | st.integers(-99, 99) | DECIMALS | TEXT
KEYS = st.sampled_from(["a", "b", "0", "~1", "x/y", "é", ""])
RESOURCES = st.dictionaries(
    KEYS,
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)),
    max_size=4,
)


@given(RESOURCES, RESOURCES)
@example({"a": [jsontext.Literal("13.2")]}, {"a": [jsontext.Literal("13.20")]})
@example({"a": 1, "b": True}, {"a": True, "b": 1})
@example({"a": 1}, {"a": jsontext.Literal("1.0")})
def test_applied_to_the_old_it_gives_the_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    before = jsontext.dumps(old)
    over_the_wire = jsontext.loads(jsontext.dumps(difference(old, new)))
    assert jsontext.dumps(applied(old, over_the_wire), sort_keys=True) == jsontext.dumps(new, sort_keys=True)
    assert jsontext.dumps(old) == before


@given(RESOURCES)
def test_nothing_changed_is_no_operation(same: dict[str, Any]) -> None:
    assert difference(same, jsontext.loads(jsontext.dumps(same))) == []


def test_an_item_put_in_front_is_one_operation() -> None:
    assert difference({"name": ["b", "c"]}, {"name": ["a", "b", "c"]}) == [
        {"op": "add", "path": "/name/0", "value": "a"}
    ]
