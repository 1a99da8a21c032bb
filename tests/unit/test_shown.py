"""What a search has shown: a dictionary would say the same, in six times the memory."""

from __future__ import annotations

import hashlib
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from poller.core.shown import Before, Shown

_KEYS = st.tuples(st.sampled_from(["Patient", "Observation"]), st.integers(0, 300).map(str))


def content(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


@given(st.lists(st.tuples(_KEYS, st.integers(0, 2)), max_size=500))
def test_it_remembers_what_a_dictionary_would(showings: list[tuple[tuple[str, str], int]]) -> None:
    shown = Shown()
    model: dict[tuple[str, str], int] = {}
    for key, number in showings:
        before = shown.add(key, content(number))
        if key not in model:
            assert before is Before.NOTHING
        else:
            assert before is (Before.THE_SAME if model[key] == number else Before.OTHERWISE)
        model[key] = number
        assert len(shown) == len(model)


def test_a_type_and_an_id_are_told_apart_from_another_type_and_id() -> None:
    shown = Shown()
    shown.add(("Patient", "1"), content(1))
    assert shown.add(("Observation", "1"), content(1)) is Before.NOTHING


def test_it_takes_little_however_many_there_are() -> None:
    names = [f"observation-with-a-long-id-as-they-are-there-{number}" for number in range(20_000)]
    tracemalloc.start()
    try:
        shown = Shown()
        for name in names:
            shown.add(("Observation", name), content(1))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(shown) == len(names)
    assert all(shown.add(("Observation", name), content(1)) is Before.THE_SAME for name in names)
    assert held < 60 * len(names)
