"""Arrays of our own making are the ones that psycopg makes."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.array import ListBinaryDumper

from poller.store.arrays import FlatListDumper

ITEMS: list[st.SearchStrategy[Any]] = [
    st.binary(max_size=5),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=5),
    st.integers(-(2**62), 2**62),
    st.booleans(),
    st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC)),  # noqa: DTZ001 - bounds of the strategy
    st.uuids(),
    st.lists(st.integers(0, 3), min_size=2, max_size=2),
]
LISTS = st.sampled_from(ITEMS).flatmap(
    lambda items: st.lists(items | st.none(), max_size=6) if items is not ITEMS[-1] else st.lists(items)
)


@pytest.fixture(scope="module")
def both(postgres_server: str) -> Iterator[tuple[psycopg.Connection, psycopg.Connection]]:
    with closing(psycopg.connect(postgres_server)) as theirs, closing(psycopg.connect(postgres_server)) as ours:
        theirs.adapters.register_dumper(list, ListBinaryDumper)
        ours.adapters.register_dumper(list, FlatListDumper)
        yield theirs, ours


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=LISTS)
def test_the_bytes_are_those_that_psycopg_sends(
    both: tuple[psycopg.Connection, psycopg.Connection], values: list[Any]
) -> None:
    sent = []
    for connection in both:
        transformer = psycopg.adapt.Transformer(connection)
        [dumped] = transformer.dump_sequence([values], [psycopg.adapt.PyFormat.AUTO])
        sent.append((dumped if dumped is None else bytes(dumped), transformer.types))
    assert sent[0] == sent[1]


def test_what_goes_in_comes_out(both: tuple[psycopg.Connection, psycopg.Connection]) -> None:
    _, ours = both
    rows: list[list[Any]] = [[b"a", None, b""], ["é", "", None], [1, None, -5], [uuid.UUID(int=7)], [True, None]]
    for values, kind in zip(rows, ["bytea", "text", "bigint", "uuid", "boolean"], strict=True):
        assert ours.execute(f"SELECT CAST(%s AS {kind}[])", [values]).fetchone() == (values,)
