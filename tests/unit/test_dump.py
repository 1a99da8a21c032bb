"""What a line of a dump holds, and how it stands to what is stored: as the diff would judge."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core import canonical, jsontext
from poller.core.dump import Dumped, Flaw, Held, Outcome, compare, read_line
from poller.core.model import Rules

KEY = b"k" * 32
TAGS = ("meta.tag",)


def observation(value: str = "1.20", **more: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "id": "o1", "valueDecimal": jsontext.Literal(value)} | more


def dumped(resource: dict[str, Any]) -> Dumped:
    found = read_line(jsontext.dumps(resource))
    assert isinstance(found, Dumped)
    return found


def held(resource: dict[str, Any], noise: tuple[str, ...] = (), *, body: bool = False, deleted: bool = False) -> Held:
    digest = canonical.digest(resource, KEY, noise)
    return Held(digest, Rules(canonical.RULES_VERSION, noise), deleted, resource if body else None)


@pytest.mark.parametrize(
    ("line", "flaw"),
    [
        (b"{", Flaw.NOT_JSON),
        (b"\xff", Flaw.NOT_JSON),
        (b"[1]", Flaw.NO_OBJECT),
        (b'{"id": "a"}', Flaw.NO_TYPE),
        (b'{"resourceType": "no type", "id": "a"}', Flaw.NO_TYPE),
        (b'{"resourceType": "Patient"}', Flaw.NO_ID),
        (b'{"resourceType": "Patient", "id": ".."}', Flaw.NO_ID),
        (b'{"resourceType": "Patient", "id": 7}', Flaw.NO_ID),
    ],
)
def test_a_line_that_cannot_be_read_says_why(line: bytes, flaw: Flaw) -> None:
    assert read_line(line) is flaw


def test_blank_lines_are_nothing_and_a_byte_order_mark_is_no_part_of_a_line() -> None:
    assert read_line(b" \r\n") is None
    assert dumped(observation()).key == ("Observation", "o1")
    assert read_line(b'\xef\xbb\xbf{"resourceType":"Patient","id":"a"}\n') == Dumped(
        "Patient", "a", {"resourceType": "Patient", "id": "a"}
    )


@given(st.binary(max_size=80))
def test_any_line_is_a_resource_a_flaw_or_nothing(line: bytes) -> None:
    assert isinstance(read_line(line), Dumped | Flaw | None)


def test_what_the_diff_leaves_out_does_not_count() -> None:
    moved = observation(meta={"versionId": "9", "lastUpdated": "2026-11-01T00:00:00Z"}, text={"div": "x"})
    assert compare(dumped(moved), held(observation()), KEY, ()) is Outcome.EQUAL
    assert compare(dumped(observation("1.2")), held(observation()), KEY, ()) is Outcome.DIFFERENT, (
        "a decimal as written"
    )
    assert compare(dumped(observation()), None, KEY, ()) is Outcome.MISSING
    assert compare(dumped(observation()), held(observation(), deleted=True), KEY, ()) is Outcome.MISSING


def test_noise_does_not_count_whatever_rules_it_was_stored_under() -> None:
    tagged = observation(meta={"tag": [{"code": "a"}]})
    other = observation(meta={"tag": [{"code": "b"}]})
    assert compare(dumped(other), held(tagged, TAGS), KEY, TAGS) is Outcome.EQUAL
    assert compare(dumped(other), held(tagged, body=True), KEY, TAGS) is Outcome.EQUAL, "rules that hide more"
    assert compare(dumped(other), held(tagged, TAGS, body=True), KEY, ()) is Outcome.EQUAL, "no news, the diff says"
    assert compare(dumped(other), held(tagged), KEY, ()) is Outcome.DIFFERENT
    assert compare(dumped(observation("2")), held(tagged, body=True), KEY, TAGS) is Outcome.DIFFERENT
    older = Held(b"d" * 32, Rules(1), False, observation())
    assert compare(dumped(observation()), older, KEY, ()) is Outcome.EQUAL, "another canonical form"
    assert compare(dumped(observation("3")), older, KEY, ()) is Outcome.DIFFERENT
