"""The shared clock: carried forward, never back."""

from __future__ import annotations

import datetime as dt
import time

from poller.clock import AnchoredClock

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)


def test_it_catches_up_after_a_suspension_and_never_goes_back() -> None:
    at = time.monotonic()
    clock = AnchoredClock(NOON, at)
    assert clock.catch_up(NOON - dt.timedelta(hours=1), at) == dt.timedelta(0)
    assert clock.now() >= NOON
    assert clock.catch_up(NOON + dt.timedelta(hours=8), at) == dt.timedelta(hours=8)
    assert NOON + dt.timedelta(hours=8) <= clock.now() < NOON + dt.timedelta(hours=9)
