"""When a feed is read, as a person writes it: exactly, or by worth; what is refused, and with which words."""

from __future__ import annotations

import datetime as dt
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from poller import config
from poller.config import ActiveHours, FeedConfig
from poller.config.active import DAYS
from poller.config.values import RESOURCE_TYPES
from poller.config.worth import usual_staleness, usual_weight
from poller.errors import ConfigError

HOUR = dt.timedelta(hours=1)
AROUND = """
defaults:
  auth: none
  every_feed: {EVERY}
  feeds:
    Patient:
    Observation: {DEFAULT}
sinks: {changes: {exchange: fhir.changes, queues: [fhir.changes.all]}}
practices:
  AB:
    base_url: https://fhir.example.org/r4/AB
    feeds: {Patient: , Observation: {FEED}}
"""


def observation(directory: Path, *, every: str = "", default: str = "", feed: str = "") -> FeedConfig:
    """The feed Observation, of what is said of every feed, of the type in general, and of the practice's own."""
    file = directory / "poller.yaml"
    file.write_text(
        AROUND.replace("{EVERY}", f"{{{every}}}")
        .replace("{DEFAULT}", f"{{{default}}}")
        .replace("{FEED}", f"{{{feed}}}")
    )
    return config.load(file).practices["AB"].feeds["Observation"]


def test_who_says_nothing_leaves_it_to_the_planner(tmp_path: Path) -> None:
    feed = observation(tmp_path)
    assert feed.planned
    assert (feed.every, feed.cron, feed.aim, feed.weight, feed.max_staleness) == (None,) * 5


@pytest.mark.parametrize(
    ("lighter", "nearer", "left"),
    [
        ("every: 5m", "aim: 2m", {"aim": dt.timedelta(minutes=2)}),
        ("every: 5m", "weight: 3", {"weight": 3.0}),
        ("every: 5m", "every: null", {}),
        ("aim: 2m", "every: 5m", {"every": dt.timedelta(minutes=5)}),
        ("aim: 2m", "weight: {laboratory: 6}", {"weight": {"laboratory": 6.0}}),
        ("weight: 3, max_staleness: 5h", 'cron: "0 6 * * *"', {"cron": "0 6 * * *"}),
        ("weight: 3", "max_staleness: 5h", {"weight": 3.0, "max_staleness": 5 * HOUR}),
        ('cron: "0 6 * * *"', "max_staleness: 5h", {"max_staleness": 5 * HOUR}),
        ("max_staleness: 5h", "every: 1h", {"every": HOUR, "max_staleness": 5 * HOUR}),
    ],
)
def test_what_is_said_nearer_drives_out_what_excludes_it(
    tmp_path: Path, lighter: str, nearer: str, left: dict[str, Any]
) -> None:
    keys = ("every", "cron", "aim", "weight", "max_staleness")
    for feed in (
        observation(tmp_path, every=lighter, feed=nearer),
        observation(tmp_path, default=lighter, feed=nearer),
    ):
        assert {key: getattr(feed, key) for key in keys if getattr(feed, key) is not None} == left


@pytest.mark.parametrize(
    ("feed", "problem"),
    [
        ("every: 5m, aim: 2m", "both every and aim; an exact schedule leaves the planner no choice, keep one"),
        ("every: 5m, weight: 3", "both every and weight; an exact schedule leaves"),
        ('cron: "0 6 * * *", aim: 2m', "both cron and aim; an exact schedule leaves"),
        ('cron: "0 6 * * *", weight: 2', "both cron and weight; an exact schedule leaves"),
        ('cron: "0 6 * * *", max_staleness: 2d', "both cron and max_staleness; cron says itself how long a pause"),
        ("aim: 2m, weight: 3", "both aim and weight; an aim finds its weight by itself"),
        ("every: 3d, max_staleness: 48h", "max_staleness: 48h cannot be kept, since every and active leave up to 72h"),
        (
            'active: {hours: "07:00-19:00", days: mon-fri}, max_staleness: 24h',
            "leave up to 60h between two readings; write at least max_staleness: 60h",
        ),
        (
            'every: 30m, active: {hours: "07:00-19:00"}, max_staleness: 12h',
            "leave up to 750m between two readings; write at least max_staleness: 750m",
        ),
        ("aim: 2", "aim: not a duration; write a number and a unit"),
        ("max_staleness: never", "max_staleness: not a duration"),
        ("weight: much", "weight: not a number; write a number, as in weight: 3, or one by category"),
        ("weight: true", "weight: not a number"),
        ("weight: 0", "weight: a weight lies above 0 and at most at 1000"),
        ("weight: 1001", "weight: a weight lies above 0 and at most at 1000"),
        ("weight: .nan", "weight: not a number"),
        ("weight: {}", "weight: empty; write a number"),
        ("weight: {laboratory: -1}", "weight: a weight lies above 0"),
        ("weight: {labratory: 6}", "no such category here: labratory; did you mean laboratory?"),
        ("weight: {laboratory: 6}, categories: [exam]", "no such category here: laboratory; valid here: exam"),
        ("weight: {http://x: 6}", "weight: not a category; write its plain code"),
        ("aims: 2m", "unknown key aims; did you mean aim?"),
    ],
)
def test_what_cannot_stand_is_refused_with_what_would_be_right(tmp_path: Path, feed: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        observation(tmp_path, feed=feed)
    (only,) = refused.value.problems
    assert problem in only
    assert f":{len(AROUND.splitlines())}: practices.AB.feeds.Observation" in only


@pytest.mark.parametrize(
    ("practice", "problem"),
    [
        (
            "gives_way: [backfill]",
            "gives_way: not an order of all that can give way; write each once, as in [backfill, ",
        ),
        ("gives_way: [index, index, backfill]", "gives_way: not an order of all that can give way"),
        ("gives_way: [index, backfil, reconcile]", "gives_way: not valid: backfil; did you mean backfill?"),
        ("patients: {expected: 0}", "patients.expected: out of range, it must be greater than 0"),
    ],
)
def test_what_is_said_of_the_practice_is_held_to_its_words(tmp_path: Path, practice: str, problem: str) -> None:
    file = tmp_path / "poller.yaml"
    text = AROUND.replace("{EVERY}", "{}").replace("{DEFAULT}", "{}").replace("{FEED}", "{}")
    file.write_text(text.rstrip() + f"\n    {practice}\n")
    (only,) = config.problems(file)
    assert problem in only


def test_another_order_of_giving_way_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "poller.yaml"
    text = AROUND.replace("{EVERY}", "{}").replace("{DEFAULT}", "{}").replace("{FEED}", "{}")
    file.write_text(text.rstrip() + "\n    gives_way: [index, reconcile, backfill]\n    patients: {expected: 30000}\n")
    practice = config.load(file).practices["AB"]
    assert practice.gives_way == ("index", "reconcile", "backfill")
    assert practice.patients.expected == 30_000


def test_results_come_before_allergies_and_these_before_social_history() -> None:
    reports, allergies = usual_weight("DiagnosticReport", None), usual_weight("AllergyIntolerance", None)
    assert usual_weight("Observation", "laboratory") == reports > allergies
    assert allergies > usual_weight("Observation", "social-history")
    assert all(usual_weight(name, None) > 0 for name in RESOURCE_TYPES)
    assert usual_staleness("Observation", "laboratory") == usual_staleness("DiagnosticReport", None) == 24 * HOUR
    assert usual_staleness("Observation", None) == 24 * HOUR, "one search for all shows results, too"
    assert usual_staleness("Observation", "exam") == usual_staleness("AllergyIntolerance", None) == 72 * HOUR


def test_a_weight_is_for_all_categories_or_for_one_and_the_others_keep_the_usual() -> None:
    assert FeedConfig(weight=3).weight_of("Observation", "sdoh") == 3
    feed = FeedConfig(categories=("laboratory", "sdoh"), weight={"sdoh": 9})
    assert feed.weight_of("Observation", "sdoh") == 9
    assert feed.weight_of("Observation", "laboratory") == usual_weight("Observation", "laboratory")
    assert feed.weight_of("Observation") == 9, "a search for all of them is worth what the weightiest is"
    assert FeedConfig().weight_of("Goal") == usual_weight("Goal", None)


def test_only_what_the_planner_reads_has_a_bound_that_nobody_named() -> None:
    assert FeedConfig(every=HOUR).max_staleness_of("DiagnosticReport") is None
    assert FeedConfig(every=HOUR, max_staleness=3 * HOUR).max_staleness_of("DiagnosticReport") == 3 * HOUR
    assert FeedConfig().max_staleness_of("DiagnosticReport") == 24 * HOUR
    office = ActiveHours(hours="07:00-19:00", days="mon-fri")
    assert FeedConfig(active=office).max_staleness_of("DiagnosticReport") == 24 * HOUR + 60 * HOUR


def test_a_planned_feed_says_what_it_aims_at_and_that_this_is_no_promise() -> None:
    said = FeedConfig(aim=dt.timedelta(minutes=2), max_staleness=24 * HOUR).describe("Observation")
    assert said == "planned, aim 2m (a median, no promise), at most 24h old, whole every 1h"
    said = FeedConfig(categories=("laboratory", "sdoh")).describe("Observation")
    assert said == "planned, weight 0.25 to 4, at most 24h or 72h old if the limit allows, whole every 1h"
    said = FeedConfig(every=HOUR, max_staleness=24 * HOUR).describe("Observation")
    assert said == "every 1h, at most 24h old, whole every 1h"


def test_models_made_in_code_are_held_to_the_same() -> None:
    with pytest.raises(ValidationError, match="both every and aim"):
        FeedConfig(every=HOUR, aim=HOUR)


MONDAY = dt.datetime(2025, 9, 1, tzinfo=dt.UTC)


@st.composite
def all_hours(draw: st.DrawFn) -> ActiveHours:
    begin, length = draw(st.integers(0, 95)), draw(st.integers(1, 95))
    end = (begin + length) % 96
    spelled = f"{begin // 4:02}:{begin % 4 * 15:02}-" + ("24:00" if end == 0 else f"{end // 4:02}:{end % 4 * 15:02}")
    return ActiveHours(hours=spelled, days=",".join(draw(st.sets(st.sampled_from(DAYS), min_size=1))))


def quarters(hours: ActiveHours) -> list[bool]:
    """Whether each quarter of an hour of five weeks is open: the week comes round."""
    return 5 * [hours.includes(MONDAY + number * dt.timedelta(minutes=15)) for number in range(672)]


@settings(max_examples=25, deadline=None)
@given(all_hours(), st.integers(1, 1000))
def test_what_hours_come_to_is_what_a_look_at_each_quarter_of_weeks_shows(hours: ActiveHours, span: int) -> None:
    opened = quarters(hours)
    closed = max((len(list(run)) for is_open, run in itertools.groupby(opened[:-672]) if not is_open), default=0)
    assert hours.longest_closed == closed * dt.timedelta(minutes=15)
    assert hours.part_open == pytest.approx(sum(opened[:672]) / 672)
    until = [0, *itertools.accumulate(opened)]
    assert hours.least_open(span * 900) == min(until[at + span] - until[at] for at in range(4 * 672 - span)) * 900
