"""Newline-delimited JSON, however it is cut."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poller.core import jsontext
from poller.source.ndjson import Ndjson


def lines(*chunks: bytes, longest: int = 1_000_000) -> tuple[list[Any], Ndjson]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def main() -> tuple[list[Any], Ndjson]:
        read = Ndjson(stream(), longest)
        return [found async for found, _ in read], read

    run = main()  # it waits for nothing, so it needs no loop
    with pytest.raises(StopIteration) as ended:
        run.send(None)
    return cast("tuple[list[Any], Ndjson]", ended.value.value)


@given(
    st.lists(st.dictionaries(st.text(), st.integers(-(2**53), 2**53) | st.text(), max_size=3), max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \r\n"]),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_objects_come_whole_however_the_stream_is_cut(
    objects: list[Any], end: bytes, bom: bool, final: bool, cuts: list[int]
) -> None:
    text = (b"\xef\xbb\xbf" if bom else b"") + end.join(jsontext.dumps(found) for found in objects)
    text += end if final else b""
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    found, read = lines(*(text[one:other] for one, other in itertools.pairwise(edges)))
    assert found == objects
    assert (read.lines, read.bad, read.cut_off) == (len(objects), 0, False)


@given(st.lists(st.dictionaries(st.text(), st.text(), min_size=1), min_size=1, max_size=4), st.data())
def test_what_is_cut_off_within_a_line_is_no_object(objects: list[Any], data: st.DataObject) -> None:
    text = b"\n".join(jsontext.dumps(found) for found in objects)
    start = text.rfind(b"\n") + 1
    found, read = lines(text[: data.draw(st.integers(start + 1, len(text) - 1))])
    assert found == objects[:-1]
    assert read.cut_off
    assert read.bad == 0


@pytest.mark.parametrize("bad", [b"<html>", b"[]", b'"text"', b"{", b'{"a":NaN}', b'{"a":"\xff"}', b'{"a":1}{"b":2}'])
def test_a_bad_line_is_counted_and_the_rest_is_read(bad: bytes) -> None:
    found, read = lines(b'{"a":1}\n' + bad + b'\n{"b":2}\n')
    assert found == [{"a": 1}, {"b": 2}]
    assert (read.lines, read.bad, read.cut_off) == (3, 1, False)


def test_numbers_keep_their_text() -> None:
    [found], _ = lines(b'{"value":13.20}')
    assert jsontext.dumps(found) == b'{"value":13.20}'


@example(sizes=[1] * 2000)
@given(sizes=st.lists(st.integers(1, 500), min_size=1, max_size=20))
def test_a_line_that_is_too_long_is_skipped_without_being_held(sizes: list[int]) -> None:
    chunks = [b'{"a":"' + b"x" * 1000, *(b"x" * size for size in sizes), b'"}\n{"b":2}']
    found, read = lines(*chunks, longest=1000)
    assert found == [{"b": 2}]
    assert (read.lines, read.bad, read.cut_off) == (2, 1, False)
    assert len(read._held) == 0
    unended, read = lines(b"x" * 1001, longest=1000)
    assert (unended, read.bad, read.cut_off) == ([], 1, False)
