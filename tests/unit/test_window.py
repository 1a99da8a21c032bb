from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from poller.core.window import initial_cursor, instant, next_cursor

MOMENTS = st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001 - naive bounds
OVERLAPS = st.timedeltas(dt.timedelta(0), dt.timedelta(days=1))


@given(st.none() | MOMENTS, st.none() | MOMENTS, MOMENTS, OVERLAPS)
def test_the_cursor_never_goes_back_nor_past_what_the_pass_may_have_missed(
    previous: dt.datetime | None, date: dt.datetime | None, began: dt.datetime, overlap: dt.timedelta
) -> None:
    cursor = next_cursor(previous, date, began, overlap)
    if date is None:
        assert cursor == previous
        return
    assert cursor is not None
    assert previous is None or cursor >= previous
    assert cursor == previous or cursor <= min(date, began) - overlap


@given(st.none() | MOMENTS, MOMENTS, OVERLAPS)
def test_the_first_window_starts_before_the_first_sweep(
    date: dt.datetime | None, began: dt.datetime, overlap: dt.timedelta
) -> None:
    assert initial_cursor(date, began, overlap) <= began - overlap


def test_a_clock_that_leaps_ahead_for_one_answer_does_not_carry_the_cursor_away() -> None:
    began = dt.datetime(2026, 11, 22, 15, 0, tzinfo=dt.UTC)
    overlap = dt.timedelta(minutes=1)
    assert next_cursor(None, began + dt.timedelta(days=300), began, overlap) == began - overlap


def test_an_instant_is_utc_in_whole_seconds_cut_down() -> None:
    east = dt.timezone(dt.timedelta(hours=-5))
    assert instant(dt.datetime(2026, 11, 22, 10, 4, 5, 999_999, tzinfo=east)) == "2026-11-22T15:04:05Z"
    assert instant(dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) == "1970-01-01T00:00:00Z"
