"""What a configuration asks of the calls is counted as the targets are made, without making them."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.config import ActiveHours, FeedConfig, PracticeConfig
from poller.core import plan
from poller.core.model import Kind, Strategy
from poller.core.plan import PatientState
from poller.demands import TOKEN_CALLS, Known, accepted, account, detections, exact_interval, forced, rate_of

NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)
HOUR = 3600.0
OFFICE = ActiveHours(hours="07:00-19:00", days="mon-fri")


def practice(feeds: Mapping[str, FeedConfig] | None = None, **more: Any) -> PracticeConfig:
    given = {
        "code": "AB",
        "base_url": "https://ehr.example/r4",
        "auth": "none",
        "feeds": feeds or {"Patient": FeedConfig(), "Observation": FeedConfig(), "Condition": FeedConfig()},
    }
    return PracticeConfig.model_validate(given | more)


def known(said: PracticeConfig, rung: Strategy, patients: int | None = 300, **more: Any) -> Known:
    return Known(patients, counted=True, rungs=dict.fromkeys(said.feeds, rung), **more)


@st.composite
def rungs_of_feeds(draw: st.DrawFn) -> dict[str, Strategy]:
    """As the ladder has them: patients are found practice-wide, or by names and one by one."""
    found = draw(st.dictionaries(st.sampled_from(["Observation", "Condition", "Goal"]), st.sampled_from(Strategy)))
    return found | {"Patient": draw(st.sampled_from([Strategy.WINDOW, Strategy.SWEEP, Strategy.PATIENT]))}


@given(rungs_of_feeds(), st.integers(0, 30), st.sampled_from([(), ("a", "b")]))
def test_it_counts_what_the_plan_would_make(rungs: dict[str, Strategy], patients: int, names: tuple[str, ...]) -> None:
    said = practice(
        {feed: FeedConfig() for feed in rungs}, patients={"names": names, "group": "g"}, patients_per_call=4
    )
    people = [PatientState(f"p{number}", number) for number in range(patients)]
    groups = plan.groups_of(people, 4, enumerated=True)
    made = Counter(
        (feed, target.category)
        for feed, rung in rungs.items()
        for target in plan.wanted_targets("AB", feed, rung, said.feeds[feed].categories, people, names, groups)
        if not plan.beside_windows(target.kind, rung)
    )
    everything = plan.everything_targets("AB", rungs, people)
    detecting = {Strategy.EVERYTHING: Kind.EVERYTHING, Strategy.EVERYTHING_WINDOW: Kind.EVERYTHING_WINDOW}
    made["*", None] = sum(
        target.kind is kind for rung, kind in detecting.items() if rung in rungs.values() for target in everything
    )
    counted = Counter[tuple[str, str | None]]()
    for load in detections(said, Known(patients, counted=True, rungs=rungs), NOW):
        feed, category = load.asks[0].part
        counted["*" if rungs[feed].is_of_everything else feed, category] += int(load.rows)
    assert +counted == +made


def test_windows_detect_and_sweeps_stand_beside() -> None:
    said = practice()
    weighed = account(said, known(said, Strategy.WINDOW, resources={"Observation": 1_001}, page_size=100), NOW)
    assert [(load.rows, load.cost, load.by_patient) for load in weighed.detection] == [(1.0, 1.0, False)] * 3
    assert {sweep.feeds[0]: sweep.calls for sweep in weighed.sweeps} == {
        "Patient": 1,
        "Observation": 11,
        "Condition": 1,
    }
    assert weighed.sweeps[1].per_minute == pytest.approx(11 / 60)
    assert weighed.first_load == 13
    weighed = account(said, known(said, Strategy.PATIENT_WINDOW), NOW)
    assert {sweep.feeds[0]: sweep.calls for sweep in weighed.sweeps} == {"Observation": 2_100, "Condition": 300}
    weighed = account(said, known(said, Strategy.EVERYTHING_WINDOW), NOW)
    assert [(sweep.feeds, sweep.calls) for sweep in weighed.sweeps] == [(("Observation", "Condition"), 300)]
    assert weighed.first_load == 300 + 26


def test_pages_count_where_they_were_seen() -> None:
    said = practice({"Condition": FeedConfig()})
    one = account(said, known(said, Strategy.PATIENT, resources={"Condition": 6_000}), NOW).detection[0]
    assert one.cost == 1.0, "no page size was measured, so none was followed by another"
    some = account(said, known(said, Strategy.PATIENT, resources={"Condition": 6_000}, page_size=20), NOW).detection[0]
    assert some.cost == pytest.approx(1 / (1 - math.exp(-1)))
    few = account(said, known(said, Strategy.PATIENT, resources={"Condition": 300}, page_size=20), NOW).detection[0]
    assert few.cost == pytest.approx(1, abs=1e-6)


def test_names_are_gone_through_in_as_many_calls_as_there_are_beginnings_or_pages() -> None:
    said = practice({"Patient": FeedConfig()})
    assert [load.cost for load in detections(said, known(said, Strategy.PATIENT, 300), NOW)] == [26]
    assert [load.cost for load in detections(said, known(said, Strategy.PATIENT, 30_000, page_size=25), NOW)] == [1_200]


def test_what_is_not_known_counts_for_nothing() -> None:
    said = practice()
    assert not list(detections(said, Known(300), NOW))
    assert not list(detections(said, known(said, Strategy.PATIENT, None), NOW))
    assert len(list(detections(said, known(said, Strategy.SWEEP, None), NOW))) == 3
    assert not Known(300).is_enough_for(said)
    assert not known(said, Strategy.PATIENT, None).is_enough_for(said)
    assert known(said, Strategy.PATIENT, 1).is_enough_for(said)
    assert known(said, Strategy.WINDOW, None).is_enough_for(said)


def test_the_rate_is_the_pace_of_our_share_less_the_tokens() -> None:
    assert rate_of(practice(budget={"calls_per_minute": 250, "share": 0.8})) == pytest.approx(0.965 * 200)
    smart = practice(auth="smart", client_id="c", key={"env": "NOWHERE"})
    assert rate_of(smart) == pytest.approx(0.965 * 250 - TOKEN_CALLS)


@pytest.mark.parametrize(
    ("feed", "seconds"),
    [
        (FeedConfig(every=dt.timedelta(minutes=5)), 300),
        (FeedConfig(every=dt.timedelta(minutes=5), active=OFFICE), 300),
        (FeedConfig(every=dt.timedelta(days=1), active=OFFICE), 12 * HOUR),
        (FeedConfig(every=dt.timedelta(days=7), active=OFFICE), 60 * HOUR),
        (FeedConfig(cron="*/15 7-19 * * mon-fri"), 900),
        (FeedConfig(cron="0 6 * * *"), 24 * HOUR),
        (FeedConfig(cron="0 0 30 2 *"), 366 * 24 * HOUR),
        (FeedConfig(), None),
        (FeedConfig(aim=dt.timedelta(minutes=2)), None),
    ],
)
def test_how_often_a_schedule_reads_while_its_hours_are_open(feed: FeedConfig, seconds: float | None) -> None:
    assert exact_interval(feed, practice({"Condition": feed}), NOW) == seconds


def test_a_rung_that_is_forced_holds_and_one_that_is_forbidden_does_not() -> None:
    said = practice(
        {"Condition": FeedConfig(strategy="patient"), "Goal": FeedConfig(forbid=("window",)), "Device": FeedConfig()}
    )
    found = dict.fromkeys(said.feeds, Strategy.WINDOW)
    assert forced(said, found) == {"Condition": Strategy.PATIENT, "Device": Strategy.WINDOW}


def test_what_is_accepted_has_the_planner_s_names_and_is_relaxed_with_the_number_of_patients() -> None:
    said = practice(
        {
            "Observation": FeedConfig(),
            "Goal": FeedConfig(every=dt.timedelta(hours=9), max_staleness=dt.timedelta(hours=9)),
        }
    )
    few = accepted(account(said, known(said, Strategy.PATIENT, 100), NOW))
    assert few["Observation/laboratory"] == 24 * HOUR
    assert few["Observation/sdoh"] == 72 * HOUR
    assert "Goal" not in few, "a schedule needs no planner"
    many = accepted(account(said, known(said, Strategy.PATIENT, 90_000), NOW))
    assert many["Observation/laboratory"] > 24 * HOUR


@settings(max_examples=25)
@given(st.integers(1, 200_000), st.integers(2, 4000))
def test_accepted_promises_fit_whatever_there_is(patients: int, limit: int) -> None:
    said = practice(
        {"Observation": FeedConfig(), "Condition": FeedConfig(max_staleness=dt.timedelta(hours=2))},
        budget={"calls_per_minute": limit},
    )
    bounds = accepted(account(said, known(said, Strategy.PATIENT, patients), NOW))
    assert sum(60 * patients / bound for bound in bounds.values()) <= 0.7 * rate_of(said) * (1 + 1e-6)


def test_what_is_read_by_worth_has_what_schedules_leave() -> None:
    """What is foretold of it would else be several times too good."""
    planned = practice({"Condition": FeedConfig(), "DiagnosticReport": FeedConfig()})
    beside = practice({"Encounter": FeedConfig(every=dt.timedelta(minutes=15)), "Condition": FeedConfig()})
    alone = account(planned, known(planned, Strategy.PATIENT, 3_000), NOW)
    shared = account(beside, known(beside, Strategy.PATIENT, 3_000), NOW)
    assert alone.for_worth == pytest.approx(alone.verdict.rate)
    assert shared.for_worth == pytest.approx(shared.verdict.rate - 200.0)
