"""Waiting after failures: longer each time, never for ever, never all at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poller.core.backoff import pause


def test_it_doubles_up_to_half_a_minute() -> None:
    assert [pause(times, 0) for times in (1, 2, 3, 6, 7, 1000)] == [0.5, 1, 2, 16, 30, 30]


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_jitter_takes_at_most_half(times: int, jitter: float) -> None:
    assert pause(times, 0) / 2 <= pause(times, jitter) <= pause(times, 0)
