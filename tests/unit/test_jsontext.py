"""What was written comes back as written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poller.core import jsontext

NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(
    lambda text: json.dumps(text, ensure_ascii=False)
)


def _objects(members: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{name}:{value}" for name, value in dict(members).items()) + "}"


DOCUMENTS = st.recursive(
    NUMBERS | STRINGS | st.sampled_from(["true", "false", "null"]),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(STRINGS, inner), max_size=4).map(_objects)
    ),
    max_leaves=12,
)


@given(DOCUMENTS)
@example('{"value":13.20}')
@example("[1e2,1E+2,100,100.0,-0,0,-0.0]")
@example("[18446744073709551616,123456789012345678901234567890,-9223372036854775809]")
@example("[0.1000000000000000055511151231257827021181583404541015625,1e400]")
def test_numbers_and_order_come_back_as_they_were(document: str) -> None:
    assert jsontext.loads(jsontext.dumps(jsontext.loads(document))) == jsontext.loads(document)
    assert json.loads(jsontext.dumps(jsontext.loads(document)), parse_float=str, parse_int=str) == json.loads(
        document, parse_float=str, parse_int=str
    )


@given(NUMBERS)
def test_a_number_is_its_text(number: str) -> None:
    assert jsontext.dumps(jsontext.loads(number)) == number.encode()


@given(NUMBERS, NUMBERS)
def test_numbers_are_equal_as_they_are_written_alike(one: str, other: str) -> None:
    assert (jsontext.loads(one) == jsontext.loads(other)) == (one == other)


@given(DOCUMENTS)
def test_sorted_keys_are_one_form_for_all_orders(document: str) -> None:
    value = jsontext.loads(document)
    assert jsontext.dumps(_turned(value), sort_keys=True) == jsontext.dumps(value, sort_keys=True)


def _turned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _turned(value[name]) for name in reversed(list(value))}
    return [_turned(item) for item in value] if isinstance(value, list) else value


SECRET = "Virtanen"
BROKEN = [
    b'{"family":"Virtanen"',
    b'{"family":"Virtanen",}',
    b'{"family":Virtanen}',
    b'{"value":NaN,"family":"Virtanen"}',
    b'{"value":-Infinity,"family":"Virtanen"}',
    b'{"family":"Virtanen\xff"}',
    b"<html>Virtanen</html>",
    b"",
    pytest.param(b"[" * 100_000, id="too deep to parse"),
]


@pytest.mark.parametrize("document", BROKEN)
def test_what_is_no_json_is_refused_without_being_quoted(document: bytes) -> None:
    with pytest.raises(ValueError, match="JSON|UTF-8") as refused:  # noqa: RUF043 - either word
        jsontext.loads(document)
    shown: BaseException | None = refused.value
    while shown is not None:
        assert SECRET not in str(shown)
        shown = None if shown.__suppress_context__ else shown.__context__


@pytest.mark.parametrize("document", [b'{"a":' * 300 + b"1" + b"}" * 300, b"[" * 201 + b"]" * 201])
def test_what_is_too_deep_to_be_written_back_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match="JSON"):
        jsontext.loads(document)


def test_brackets_in_a_string_are_no_depth() -> None:
    document = b'{"a":"' + b"[{" * 300 + b'"}'
    assert jsontext.dumps(jsontext.loads(document)) == document


@pytest.mark.parametrize(
    ("document", "taken"),
    [
        (rb'{"family":"a\ud800b"}', '{"family":"a\ufffdb"}'),
        (rb'{"\udfff":1.50}', '{"\ufffd":1.50}'),
        (rb'["\uD83D"]', '["\ufffd"]'),
    ],
)
def test_half_a_surrogate_pair_does_not_hold_up_the_rest(document: bytes, taken: str) -> None:
    assert jsontext.dumps(jsontext.loads(document)) == taken.encode()


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert jsontext.dumps(jsontext.loads(b'"\\ud83d\\ude00"')) == '"😀"'.encode()


def test_an_object_that_is_only_passed_on_is_written_as_it_stood_and_never_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = b'{"b":13.20,"a":[1e5,"\\u00e9"]}'
    with monkeypatch.context() as patch:
        patch.setattr(jsontext, "loads", None)
        assert jsontext.dumps({"resource": jsontext.Written(text)}) == b'{"resource":' + text + b"}"
    written = jsontext.Written(text)
    assert written == jsontext.loads(text)
    assert (list(written), len(written), str(written["b"])) == (["b", "a"], 2, "13.20")
    assert "13" not in repr(written)
    with pytest.raises(ValueError, match="not a JSON object"):
        len(jsontext.Written(b"[]"))
