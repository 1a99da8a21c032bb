"""The judge must acquit a faithful poller and catch each way of being unfaithful."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from poller.simulator.judge import FeedSchedule, Received, Rules, examine, judge
from poller.simulator.spec import PracticeSpec
from poller.simulator.truth import PracticeTruth
from poller.simulator.world import World
from tests.judge_bench import (
    BASELINE,
    CODE,
    FEED,
    FIRST,
    LENIENT,
    START,
    A,
    B,
    C,
    at,
    event,
    history,
    row,
    sweep,
    verdict,
)


def test_a_faithful_run_is_acquitted() -> None:
    truth = history((-100, A), (10, B), (30, None))
    result = verdict(truth, [FIRST, event(12, B, 2), event(50, None, 3)])
    assert result["ok"], result["breaches"]
    assert row(result) == {
        "mode": "open",
        "changes": 2,
        "events": 2,
        "missed": 0,
        "false": 0,
        "out_of_order": 0,
        "duplicates": 0,
        "deletes": 1,
        "found_only_by_sweep": 0,
        "max_calls_in_60s": 1,
        "calls": 1,
        "delay_seconds": {"p50": 2.0, "p95": 2.0, "p99": 2.0},
    }


def test_a_version_that_lived_long_enough_and_was_not_told_of_is_missed() -> None:
    result = verdict(history((-100, A), (10, B), (20, C)), [FIRST, event(22, C, 2)])
    assert row(result)["missed"] == 1
    assert result["breaches"] == [f"{CODE}: 1 missed (Observation 1)"]


def test_a_version_that_no_owed_pass_could_see_whole_is_not_missed() -> None:
    result = verdict(history((-100, A), (10, B), (19, C)), [FIRST, event(22, C, 2)])
    assert (row(result)["missed"], row(result)["changes"]) == (0, 1)


def test_a_short_lived_version_counts_when_a_whole_pass_showed_it() -> None:
    truth = history((-100, A), (10, B), (12, C))
    whole = sweep(10.5, 11.5, "o1", read=2)
    assert row(verdict(truth, [FIRST, event(22, C, 2)], whole))["missed"] == 1
    late = sweep(10.5, 12.5, "o1", read=2)
    assert row(verdict(truth, [FIRST, event(22, C, 2)], late))["missed"] == 0
    spoilt = sweep(10.5, 11.5, "o1", read=2)
    spoilt.intact = False
    assert row(verdict(truth, [FIRST, event(22, C, 2)], spoilt))["missed"] == 0
    unfinished = sweep(10.5, 11.5, "o1", read=2)
    unfinished.last = False
    assert row(verdict(truth, [FIRST, event(22, C, 2)], unfinished))["missed"] == 0


def test_the_last_version_always_counts() -> None:
    result = verdict(history((-100, A), (59, B)), [FIRST])
    assert row(result)["missed"] == 1
    assert f"{CODE}: 1 of the final state wrong (Observation 1)" in result["breaches"]


def test_a_lost_delete_is_missed() -> None:
    result = verdict(history((-100, A), (10, None)), [FIRST])
    assert row(result)["missed"] == 1
    assert len(result["breaches"]) == 2


def test_a_resource_that_came_and_went_unseen_is_not_owed() -> None:
    truth = history((10, A), (12, None))
    assert verdict(truth, [])["ok"]
    told = [event(11, A, 1)]
    assert row(verdict(truth, told))["missed"] == 1


def test_content_that_never_was_is_false() -> None:
    result = verdict(history((-100, A)), [FIRST, event(10, C, 2), event(11, A, 3)])
    assert row(result)["false"] == 2


def test_content_before_its_time_is_false() -> None:
    result = verdict(history((-100, A), (20, B)), [FIRST, event(10, B, 2)])
    assert row(result)["false"] == 1


def test_decimals_are_content() -> None:
    result = verdict(history((-100, A)), [event(1, B, 1, origin="baseline")])
    assert row(result)["false"] == 1


def test_a_touch_is_no_change_and_an_event_for_it_is_false() -> None:
    touched = {**A, "text": {"div": "other"}, "meta": {"lastUpdated": "2026-11-22T15:00:10Z", "versionId": "2"}}
    truth = history((-100, A), (10, touched))
    assert row(verdict(truth, [FIRST]))["changes"] == 0
    assert verdict(truth, [FIRST])["ok"]
    assert row(verdict(truth, [FIRST, event(12, touched, 2)]))["false"] == 1


def test_a_delete_of_what_was_there_is_false() -> None:
    result = verdict(history((-100, A)), [FIRST, event(10, None, 2)])
    assert row(result)["false"] == 1
    assert row(result)["deletes"] == 0
    early = verdict(history((-100, A), (20, None)), [FIRST, event(10, None, 2)])
    assert row(early)["false"] == 1


def test_a_delete_told_twice_is_false() -> None:
    result = verdict(history((-100, A), (10, None)), [FIRST, event(12, None, 2), event(13, None, 3)])
    assert (row(result)["false"], row(result)["deletes"]) == (1, 1)


def test_an_event_of_an_unknown_resource_is_false() -> None:
    result = verdict(history((-100, A)), [FIRST, event(10, A, 2, name="o2")])
    assert row(result)["false"] == 1


def test_older_content_after_newer_is_out_of_order() -> None:
    truth = history((-100, A), (10, B), (30, C))
    result = verdict(truth, [FIRST, event(32, C, 2), event(33, B, 3)])
    assert row(result)["out_of_order"] == 1
    assert row(result)["missed"] == 0
    assert not result["ok"]


@pytest.mark.parametrize(
    "changed", [{"sequence": f"0000000001-{1:020d}"}, {"data": {"response": {"etag": 'W/"1"'}, "resource": B}}]
)
def test_a_sequence_or_version_that_does_not_grow_is_out_of_order(changed: dict[str, Any]) -> None:
    result = verdict(history((-100, A), (10, B)), [FIRST, event(12, B, 2, **changed)])
    assert row(result)["out_of_order"] == 1


def test_the_same_event_twice_is_a_duplicate() -> None:
    events = [FIRST, event(12, B, 2), event(13, B, 2)]
    result = verdict(history((-100, A), (10, B)), events)
    assert (row(result)["duplicates"], row(result)["false"]) == (1, 0)
    assert not result["ok"]
    assert verdict(
        history((-100, A), (10, B)), events, rules=Rules(allow_duplicates=True, min_changes=0, min_deletes=0)
    )["ok"]


def test_there_and_back_again_is_two_changes() -> None:
    truth = history((-100, A), (10, B), (30, A))
    assert verdict(truth, [FIRST, event(12, B, 2), event(32, A, 3)])["ok"]
    assert row(verdict(truth, [FIRST, event(12, B, 2)]))["missed"] == 1


def test_deleted_and_restored() -> None:
    truth = history((-100, A), (10, None), (80, A))
    result = verdict(truth, [FIRST, event(40, None, 2), event(82, A, 3)])
    assert result["ok"], result["breaches"]
    assert row(verdict(truth, [FIRST]))["missed"] == 2


def test_away_and_back_between_two_passes_is_nothing_to_a_reader() -> None:
    result = verdict(history((-100, A), (10, None), (12, A)), [FIRST])
    assert result["ok"], result["breaches"]
    assert row(result)["changes"] == 0


def test_events_that_wait_for_the_broker_are_late_but_whole() -> None:
    truth = history((-100, A), (10, B), (30, A), (50, B))
    result = verdict(truth, [FIRST, event(60, B, 2), event(60, A, 3), event(60, B, 4)])
    assert result["ok"], result["breaches"]
    assert row(result)["delay_seconds"]["p99"] == 50.0


def test_the_first_pass_is_the_baseline() -> None:
    truth = history((-100, A), (0.5, B))
    assert row(verdict(truth, [event(1, B, 1, origin="baseline")]))["changes"] == 0
    assert row(verdict(truth, [event(1, B, 1, origin="baseline")]))["missed"] == 0
    assert not verdict(truth, [])["ok"], "the final state lacks it"


def test_replays_are_not_judged() -> None:
    again = event(20, A, 1, origin="replay", replayid="r1")
    assert verdict(history((-100, A)), [FIRST, again])["ok"]


def test_what_only_a_sweep_found_is_counted() -> None:
    truth = history((-100, A), (10, B))
    assert row(verdict(truth, [FIRST, event(23, B, 2, origin="reconcile")]))["found_only_by_sweep"] == 1
    assert row(verdict(truth, [FIRST, event(21, B, 2, origin="reconcile")]))["found_only_by_sweep"] == 0
    assert row(verdict(truth, [FIRST, event(23, B, 2)]))["found_only_by_sweep"] == 0


def test_too_many_calls_and_too_little_to_judge_are_breaches() -> None:
    calls = [sweep(100 + index / 10, 100 + index / 10, read=index + 2) for index in range(251)]
    result = verdict(history((-100, A)), [FIRST], *calls, rules=Rules())
    assert result["breaches"] == [
        f"{CODE}: only 0 changes, 20 are needed to judge",
        f"{CODE}: only 0 deletes, 1 needed to judge",
        f"{CODE}: 251 calls in 60 seconds, 250 are allowed",
    ]


def test_while_the_poller_is_down_nothing_is_owed() -> None:
    truth = history((-100, A), (10, B), (25, C))
    down = Rules(outages=((at(14), at(20)),), min_changes=0, min_deletes=0)
    events = [FIRST, event(27, C, 2)]
    assert row(verdict(truth, events))["missed"] == 1
    assert verdict(truth, events, rules=down)["ok"]
    lost_with_it = sweep(12, 13, "o1", read=2)
    assert verdict(truth, events, lost_with_it, rules=down)["ok"]
    kept = sweep(10.5, 11.5, "o1", read=2)
    assert row(verdict(truth, events, kept, rules=down))["missed"] == 1


def test_categories_that_no_feed_reads_are_not_owed() -> None:
    category = [{"coding": [{"code": "survey"}]}]
    truth = history((-100, {**A, "category": category}), (10, {**B, "category": category}))
    evidence = PracticeTruth("open", 250, {("Observation", "o1"): truth}, [BASELINE])
    feeds = [FeedSchedule("Observation", every=5, categories=("laboratory",))]
    assert judge({CODE: evidence}, [], {CODE: feeds}, LENIENT)["ok"]


def test_findings_name_what_the_verdict_does_not() -> None:
    evidence = PracticeTruth("open", 250, {("Observation", "o1"): history((-100, A), (10, B))}, [BASELINE])
    sheet = examine(evidence, [FIRST], [FEED], LENIENT)
    assert [(finding.what, finding.key[1]) for finding in sheet.findings] == [("missed", "o1"), ("state", "o1")]
    assert "o1" not in str(judge({CODE: evidence}, [FIRST], {CODE: [FEED]}, LENIENT))


def perfect(world: World, code: str) -> list[Received]:
    """Events of a poller that sees every state at once; ``CODE`` stands for the practice."""
    events = []
    for number, (key, versions) in enumerate(world.truth(code).items()):
        contents: list[Any] = []
        for version in versions:
            content = {**version.resource, "meta": {}, "text": {}} if version.resource else None
            if not contents or contents[-1] != content:
                contents.append(content)
                origin = "baseline" if version.visible_from <= at(0) else "live"
                one = event(
                    (version.visible_from - START).total_seconds() + 1.1, version.resource, len(contents), origin=origin
                )
                one.event["id"] = f"{number}-{len(contents)}"  # type: ignore[index]
                one.event["subject"] = "/".join(key)  # type: ignore[index]
                events.append(one)
    return events


def living() -> World:
    world = World([PracticeSpec(CODE, "open", patients=4, tempo=1e-5)], seed=5, now=START)
    world.begin(at(2), 3)
    for second in range(60):
        world.advance(at(second))
    world.quiet()
    return world


def judged(world: World, events: list[Received]) -> dict[str, Any]:
    kinds = {kind for kind, _ in world.truth(CODE)}
    return judge(world.evidence(), events, {CODE: [FeedSchedule(kind, 5, sweep_every=15) for kind in kinds]})


def test_a_perfect_poller_of_a_living_practice_is_acquitted() -> None:
    world = living()
    result = judged(world, perfect(world, CODE))
    assert result["ok"], result["breaches"]
    assert row(result)["changes"] > 50


@pytest.mark.parametrize(
    ("spoil", "figure"),
    [
        (lambda events: [one for one in events if one.event["type"].split(".")[-2] != "deleted"], "missed"),
        (lambda events: [*events, events[-1]], "duplicates"),
        (lambda events: events[:-5], "missed"),
    ],
)
def test_a_living_practice_shows_a_spoilt_poller(
    spoil: Callable[[list[Received]], list[Received]], figure: str
) -> None:
    world = living()
    ordered = sorted(perfect(world, CODE), key=lambda one: one.arrived)
    result = judged(world, spoil(ordered))
    assert not result["ok"]
    assert row(result)[figure] > 0
