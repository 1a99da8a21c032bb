"""What a plan foretells is what the planner then does, and what it does not know it says."""

from __future__ import annotations

import datetime as dt
import io
import json
import zoneinfo
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from poller.config import ActiveHours, FeedConfig, PracticeConfig
from poller.core.model import Strategy
from poller.core.planner import Planner, Row
from poller.demands import rate_of
from poller.display_plan import WIDTH, as_json, show
from poller.outlook import ASSUMED_PATIENTS, Outlook, look_ahead, span
from poller.store.outlook import Standing

NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)
HOUR = 3600.0
MINUTES = dt.timedelta(minutes=1)


def practice(feeds: Mapping[str, FeedConfig], **more: Any) -> PracticeConfig:
    given = {"code": "AB", "base_url": "https://ehr.example/r4", "auth": "none", "feeds": feeds}
    return PracticeConfig.model_validate(given | more)


def ahead(
    feeds: Mapping[str, FeedConfig],
    rung: Strategy = Strategy.PATIENT,
    patients: int = 3_000,
    found: Mapping[str, Any] | None = None,
    **more: Any,
) -> Outlook:
    said = practice(feeds, patients=found or {}, **more)
    return look_ahead(said, Standing(patients, dict.fromkeys(said.feeds, rung)), NOW)


def shown(*outlooks: Outlook) -> str:
    out = io.StringIO()
    show(outlooks, Console(file=out, width=WIDTH))
    return out.getvalue()


def test_an_exact_schedule_is_foretold_exactly() -> None:
    outlook = ahead({"Condition": FeedConfig(every=60 * MINUTES)})
    (line,) = outlook.lines
    latency = 2.5
    assert (line.searches, line.calls, line.schedule) == (3_000, 50, "every 1h")
    assert (line.p50, line.p95, line.worst) == (1_800 + latency, 3_420 + latency, 3_600 + latency)
    assert outlook.fits
    assert outlook.certain


def test_what_gets_more_weight_is_foretold_sooner_and_nothing_later_than_promised() -> None:
    feeds = {"Condition": FeedConfig(weight=9), "Goal": FeedConfig(weight=1), "Procedure": FeedConfig(weight=1)}
    condition, goal, procedure = ahead(feeds, patients=20_000).lines
    assert condition.p95 is not None
    assert procedure.p95 is not None
    assert condition.p95 < procedure.p95
    for line in (condition, goal, procedure):
        assert line.promised is not None
        assert line.worst <= line.promised + 2.5


def test_what_visits_bring_is_foretold_later_where_nothing_but_reading_encounters_tells_of_them() -> None:
    feeds = {"Encounter": FeedConfig(), "MedicationRequest": FeedConfig()}
    hidden = {line.part.feed: line.p50 for line in ahead(feeds, patients=30_000).lines}
    told = {line.part.feed: line.p50 for line in ahead(feeds, patients=30_000, found={"practitioners": ("one",)}).lines}
    assert hidden["MedicationRequest"] is not None
    assert told["MedicationRequest"] is not None
    assert hidden["MedicationRequest"] > 3 * told["MedicationRequest"]


def test_the_planner_spends_what_the_schedules_leave() -> None:
    outlook = ahead({"Condition": FeedConfig(every=60 * MINUTES), "Goal": FeedConfig(), "Device": FeedConfig()})
    assert sum(line.calls for line in outlook.lines) == pytest.approx(rate_of(outlook.account.practice), rel=0.02)


def test_what_is_refused_has_no_delay_that_could_be_foretold() -> None:
    outlook = ahead({"Condition": FeedConfig(every=MINUTES)})
    assert not outlook.fits
    assert [(line.p50, line.p95, line.worst) for line in outlook.lines] == [(None, None, float("inf"))]
    assert "REFUSED feeds.Condition.every: 1m would cost 3,000 calls a minute, 217 are there" in shown(outlook).replace(
        "\n", " "
    )


def test_what_is_not_known_is_assumed_and_said() -> None:
    said = practice({"Condition": FeedConfig(every=MINUTES), "Goal": FeedConfig(aim=MINUTES)})
    outlook = look_ahead(said, Standing(), NOW)
    assert not outlook.certain
    assert [(line.rung, line.assumed, line.searches) for line in outlook.lines] == [
        (Strategy.PATIENT, True, ASSUMED_PATIENTS)
    ] * 2
    text = " ".join(shown(outlook).split())
    for words in (
        "how Condition, Goal are read is not known yet; reckoned patient by patient",
        "how many patients there are is not known yet; reckoned with 1,000; say patients.expected",
        "an aim is a median that the planner works towards, no promise",
        "would be refused, if it is as reckoned: feeds.Condition.every",
    ):
        assert words in text
    expected = practice(said.feeds, patients={"expected": 70_000}, strategy="patient")
    text = " ".join(shown(look_ahead(expected, Standing(), NOW)).split())
    assert "reckoned with patients.expected, 70,000 patients" in text
    assert "not known" not in text


def test_relaxed_defaults_are_said_and_do_not_fit() -> None:
    outlook = ahead({"Observation": FeedConfig(), "Condition": FeedConfig()}, patients=200_000)
    assert not outlook.fits
    text = " ".join(shown(outlook).split())
    assert "the usual max_staleness does not fit: 24h became" in text
    assert "for Observation/laboratory" in text
    assert not outlook.refusals


def test_sweeps_that_ask_for_more_than_is_left_are_said() -> None:
    outlook = ahead({"Condition": FeedConfig()}, Strategy.PATIENT_WINDOW, 30_000)
    assert outlook.sweeps == pytest.approx(500)
    assert not outlook.fits
    assert "content reads beside windows ask for 500 calls a minute" in " ".join(shown(outlook).split())


def test_too_few_calls_at_once_are_said() -> None:
    outlook = ahead({"Condition": FeedConfig()}, budget={"max_in_flight": 5})
    assert (
        "max_in_flight 5 at 2.5 s a call carries 120 calls a minute, less than the 241 that there are; 10 would"
        in " ".join(shown(outlook).split())
    )


def test_closed_hours_are_part_of_the_worst_case() -> None:
    office = ActiveHours(hours="07:00-19:00", days="mon-fri")
    (line,) = ahead({"Condition": FeedConfig(every=5 * MINUTES, active=office)}, patients=100).lines
    assert line.worst == 60 * HOUR


def test_the_first_load_is_what_was_never_read() -> None:
    said = practice({"Condition": FeedConfig(), "Goal": FeedConfig()})
    rungs = dict.fromkeys(said.feeds, Strategy.PATIENT)
    assert look_ahead(said, Standing(3_000, rungs), NOW).first_load == 6_000
    half: dict[tuple[str, str | None], float] = {("Condition", None): 0.5, ("Goal", None): 0.0}
    assert look_ahead(said, Standing(3_000, rungs, unread=half), NOW).first_load == 1_500


def test_the_table_keeps_to_its_width_and_json_has_the_same() -> None:
    feeds = {"Patient": FeedConfig(), "Observation": FeedConfig(), "DocumentReference": FeedConfig(every=240 * MINUTES)}
    outlook = ahead(feeds, patients=30_000, patients_per_call=8)
    text = shown(outlook, outlook)
    assert max(map(len, text.splitlines())) <= WIDTH
    out = io.StringIO()
    show([outlook], Console(file=out, width=20), in_json=True)
    (said,) = json.loads(out.getvalue())["practices"]
    assert said == json.loads(json.dumps(as_json(outlook)))
    assert [feed["category"] for feed in said["feeds"] if feed["feed"] == "Observation"][:2] == [
        "laboratory",
        "vital-signs",
    ]
    assert said["givesWay"] == ["backfill", "reconcile", "index"]
    assert said["callsPerMinute"]["leave"] == pytest.approx(241.25)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (2.85, "2.9s"),
        (90, "90s"),
        (576, "9.6m"),
        (1800, "30m"),
        (3600, "1h"),
        (5400, "90m"),
        (259200, "72h"),
        (80000, "22h"),
    ],
)
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words


RATES = {"Condition": 24.0, "Goal": 6.0}
"""Changes a day and patient, in a practice that has neither hours nor visits."""


def test_delays_are_as_foretold_when_the_planner_runs() -> None:
    """In virtual time: the planner that ships reads 60 patients for some hours with six calls a minute."""
    month = dt.timedelta(days=30)
    feeds = {"Condition": FeedConfig(weight=4, max_staleness=month), "Goal": FeedConfig(max_staleness=month)}
    said = practice(feeds, budget={"calls_per_minute": 6})
    standing = Standing(60, dict.fromkeys(feeds, Strategy.PATIENT), learned=learned())
    foretold = {line.part.feed: line for line in look_ahead(said, standing, NOW).lines}
    planner = Planner(
        zone=zoneinfo.ZoneInfo("UTC"),
        calls_per_minute=rate_of(said),
        state=learned(),
        weights={"Condition": 4, "Goal": 0.5},
    )
    for name, delays in measured(planner, 60, rate_of(said)).items():
        p50, p95 = foretold[name].p50, foretold[name].p95
        assert p50 is not None
        assert p95 is not None
        assert np.median(delays) == pytest.approx(p50, rel=0.15), name
        assert np.quantile(delays, 0.95) == pytest.approx(p95, rel=0.15), name


def learned() -> dict[str, Any]:
    """A planner's state that knows all this."""
    planner = Planner(zone=zoneinfo.ZoneInfo("UTC"), calls_per_minute=1)
    planner.add([Row(name, (name,), ("a",)) for name in RATES], 0.0)
    state = planner.state()
    known = state["practice"]
    for name, rate in RATES.items():
        known["types"][name]["rate"] = rate
        known["types"][name]["kernel"] = np.zeros_like(known["types"][name]["kernel"]).tolist()
    known["week"] = [1.0] * 168
    known["visits"] = [0.0] * len(known["visits"])
    return {"practice": known, "patients": {}}


def measured(planner: Planner, patients: int, calls: float) -> dict[str, Any]:
    """Delays by type, of what changes from the second hour to the tenth."""
    random = np.random.default_rng(7)
    planner.add(
        [Row(f"{name}/{who}", (name,), (str(who),), last=0.0) for name in RATES for who in range(patients)], 0.0
    )
    reads: dict[str, list[float]] = {}
    for turn in range(int(13 * 60 * calls)):
        now = turn * 60 / calls
        for choice in planner.choose(now, 1):
            planner.note_pass(choice.key, now)
            reads.setdefault(choice.key, []).append(now)
    delays: dict[str, list[float]] = {name: [] for name in RATES}
    for name, rate in RATES.items():
        for who in range(patients):
            read = np.array([*reads.get(f"{name}/{who}", []), 13 * HOUR])
            changed = HOUR * (2 + 8 * random.random(random.poisson(rate / 3)))
            delays[name] += list(read[np.searchsorted(read, changed)] - changed)
    return delays
