"""Passes by ``$everything`` and for several patients are passes of every target that they showed, unless they only compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from poller.simulator.judge import FeedSchedule, Received, judge
from poller.simulator.passes import complete_passes
from poller.simulator.truth import Call, PracticeTruth
from tests.judge_bench import CODE, LENIENT, event, history, observation, row, sweep

OF_P1 = {"reference": "Patient/p1"}
A, B, C = (observation(value, subject=OF_P1) for value in ("13.20", "13.2", "14.0"))
FEED = FeedSchedule("Observation", every=50)
TYPES = ("Patient", "Observation", "Condition")


def everything(began: float, ended: float, *rows: str, read: int, **scope: Any) -> Call:
    called = sweep(began, ended, *rows, read=read, **({"patient": "p1", "types": TYPES} | scope))
    called.path = "/fhir/r4/BBBBBB/Patient/p1/$everything"
    return called


def several(began: float, ended: float, *rows: str, read: int) -> Call:
    return sweep(began, ended, *rows, read=read, patients=("p1", "p2"))


def alone(began: float, ended: float, *rows: str, read: int) -> Call:
    return sweep(began, ended, *rows, read=read, patient="p1")


def judged(events: Sequence[Received], *calls: Call, feed: FeedSchedule = FEED) -> dict[str, Any]:
    """Over a value that stood from the 10th to the 14th second only, so that no schedule owes it."""
    truth = {("Observation", "o1"): history((-100, A), (10, B), (14, C))}
    return row(judge({CODE: PracticeTruth("ecw", 250, truth, list(calls))}, events, {CODE: [feed]}, LENIENT))


SEEN = [event(2, A, 1, origin="baseline"), event(16, C, 2)]


@pytest.mark.parametrize(
    ("read", "name"),
    [(everything, "Observation/o1"), (several, "p1/o1"), (alone, "o1")],
    ids=["everything", "several", "alone"],
)
def test_what_a_way_showed_whole_is_owed(read: Any, name: str) -> None:
    passes = [read(start, start + 1, name, read=start) for start in (1, 6, 11, 15)]
    assert judged(SEEN, *passes)["missed"] == 1
    assert judged(SEEN, *passes[:2], passes[3])["missed"] == 0, "none saw it whole"


def test_pages_of_everything_make_one_pass_of_each_type() -> None:
    first, last = everything(1, 2, "Patient/p1", read=1), everything(3, 4, "Observation/o1", read=1)
    first.last, last.page = False, 2
    found = complete_passes([first, last])
    assert [(one.scope.resource_type, one.scope.patient, one.rows) for one in found] == [
        ("Patient", "p1", frozenset({"p1"})),
        ("Observation", "p1", frozenset({"o1"})),
        ("Condition", "p1", frozenset()),
    ]
    last.intact = False
    assert complete_passes([first, last]) == []


def test_what_everything_leaves_out_it_has_not_shown() -> None:
    passes = [everything(start, start + 1, "Patient/p1", read=start, types=("Patient",)) for start in (1, 6, 11, 15)]
    assert judged(SEEN, *passes)["missed"] == 0


def test_a_search_for_several_is_a_pass_of_those_that_were_answered() -> None:
    (one, two) = complete_passes([several(1, 2, "p1/o1", "p2/o2", "p2/o3", read=1)])
    assert (one.scope.patient, one.rows) == ("p1", frozenset({"o1"}))
    assert (two.scope.patient, two.rows) == ("p2", frozenset({"o2", "o3"}))
    assert one.scope.patients == two.scope.patients == ()


def test_everything_since_proves_no_more_than_a_window() -> None:
    passes = [everything(start, start + 1, "Observation/o1", read=start, windowed=True) for start in (1, 11)]
    assert judged(SEEN, *passes)["missed"] == 1, "but what it shows, it shows"
    assert all(one.scope.windowed for one in complete_passes(passes))


def test_reading_both_ways_to_compare_is_no_pass() -> None:
    searches = [alone(start, start + 1, "o1", read=start) for start in (1, 6, 15, 20)]
    compared = everything(11, 12, "Observation/o1", read=11)
    assert judged(SEEN, *searches, compared)["missed"] == 0
    asked_first = [everything(0, 1, "Observation/o1", read=100), alone(1, 2, "o1", read=101), *searches[1:]]
    starts = [one.began.second for one in complete_passes(asked_first) if one.scope.resource_type == "Observation"]
    assert starts == [6, 15, 20]


def test_ways_that_a_feed_is_not_read_by_are_no_passes_of_it() -> None:
    passes = [everything(start, start + 1, "Observation/o1", read=start) for start in (1, 6, 11, 15)]
    by_search = FeedSchedule("Observation", every=50, ways=("search",))
    assert judged(SEEN, *passes, feed=by_search)["missed"] == 0
