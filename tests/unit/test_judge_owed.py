"""What a pass of a schedule is, and so what a poller is held to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest

from poller.simulator.judge import Received, judge
from poller.simulator.truth import Call, PracticeTruth, TrueVersion
from tests.judge_bench import CODE, FEED, LENIENT, START, A, history, row, sweep


def asked(second: float, query: tuple[tuple[str, str], ...], read: int, *rows: str) -> Call:
    found = sweep(second, second, *rows, read=read, windowed=bool(query))
    found.query = query
    return found


def over(versions: Sequence[TrueVersion], events: Sequence[Received], *calls: Call) -> dict[str, Any]:
    evidence = PracticeTruth("open", 250, {("Observation", "o1"): versions}, list(calls))
    return row(judge({CODE: evidence}, events, {CODE: [FEED]}, LENIENT))


ALL_TIME = (("_lastUpdated", "ge1970-01-01T00:00:00Z"),)
TO_COME = (("_lastUpdated", f"ge{START + dt.timedelta(days=366):%Y-%m-%dT%H:%M:%SZ}"),)


@pytest.mark.parametrize("window", [ALL_TIME, TO_COME])
def test_finding_out_how_to_read_is_no_pass(window: tuple[tuple[str, str], ...]) -> None:
    """A whole page asked for after such a window is a question about the server; what came and went before the first pass is not owed."""
    truth = history((1, A), (5, None))
    inquiry = [asked(2, window, 1, "o1"), asked(3, (), 2, "o1")]
    assert over(truth, [], *inquiry, asked(8, (), 3))["missed"] == 0


def test_what_the_first_pass_showed_is_owed_whatever_was_asked_before() -> None:
    truth = history((1, A), (9, None))
    inquiry = [asked(2, ALL_TIME, 1, "o1"), asked(3, (), 2, "o1")]
    assert over(truth, [], *inquiry, asked(5, (), 3, "o1"), asked(12, (), 4))["missed"] == 1


def test_what_came_while_the_first_pass_was_answered_and_went_is_not_owed() -> None:
    """The answer was made before the resource was; it only arrived after."""
    truth = history((0.5, A), (3, None))
    assert over(truth, [], sweep(0, 1, read=1), sweep(5, 6, read=2))["missed"] == 0
