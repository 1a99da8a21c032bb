"""What cannot be kept is refused when it is loaded, with numbers, where it stands; what was accepted and has been outgrown is only told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from poller import config, metrics
from poller.config import Config
from poller.core.model import Strategy
from poller.promises import Refusal, refusals, tell
from poller.store.outlook import Standing

NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)
TEXT = """
sinks: {changes: {exchange: x, queues: [q]}}
defaults:
  auth: none
  feeds:
    Patient:
    Observation: {max_staleness: 24h}
    Condition: {every: 1h}
practices:
  AB: {base_url: https://a.example.org}
  CD:
    base_url: https://c.example.org
    feeds: {Patient: , Goal: }
"""


POOR = "budget: {calls_per_minute: 2}"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    def loaded(*replaced: str) -> Config:
        text = TEXT
        for old, new in zip(replaced[::2], replaced[1::2], strict=True):
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "poller.yaml").write_text(text)
        return config.load(tmp_path / "poller.yaml")

    return loaded


def standing(patients: int, rung: Strategy = Strategy.PATIENT) -> Standing:
    return Standing(patients, dict.fromkeys(("Patient", "Observation", "Condition", "Goal"), rung))


def told(loaded: Config, known: Standing, before: Config | None = None) -> list[Refusal]:
    return list(refusals(loaded, lambda _: known, before, NOW))


def test_what_fits_is_not_refused(load: Callable[..., Config]) -> None:
    assert told(load(), standing(3_000)) == []


def test_what_does_not_fit_is_refused_with_the_numbers_and_with_what_would_fit(load: Callable[..., Config]) -> None:
    (refused,) = told(load(), standing(12_000))
    assert refused.practice == "AB"
    assert refused.keys == ("practices", "AB", "feeds", "Observation", "max_staleness")
    assert refused.text == (
        "24h would cost 58 calls a minute, 217 are there (0.9 of 241), of which 200 are taken; 82h would fit, or 10,000 patients"
    )
    assert not refused.outgrown


def test_what_would_fit_can_be_written_and_is_accepted(load: Callable[..., Config]) -> None:
    (refused,) = told(load(), standing(12_000))
    fits = refused.text.partition("; ")[2].partition(" would fit")[0]
    assert told(load("max_staleness: 24h", f"max_staleness: {fits}"), standing(12_000)) == []
    assert told(load(), standing(10_000)) == []


def test_a_schedule_that_comes_too_often_is_refused_at_its_own_key(load: Callable[..., Config]) -> None:
    (refused, _) = told(load(), standing(20_000))
    assert refused.keys[-2:] == ("Condition", "every")
    assert refused.text.startswith("1h would cost 333 calls a minute, 217 are there (0.9 of 241); 93m would fit, or ")
    (refused, _) = told(load("every: 1h", 'cron: "0 * * * *"'), standing(20_000))
    assert refused.keys[-2:] == ("Condition", "cron")
    assert refused.text.startswith("a schedule that comes round so often would cost 333 calls a minute")


def test_where_nothing_would_fit_it_says_what_else_to_do(load: Callable[..., Config]) -> None:
    refused = told(
        load("every: 1h", "every: 1m", "{base_url: https://a", f"{{{POOR}, base_url: https://a"), standing(2_000_000)
    )
    assert {one.text.rpartition("; ")[2] for one in refused} == {
        "nothing would fit beside the other schedules, so make these less frequent"
    }


def test_nothing_is_refused_of_what_is_not_known_yet(load: Callable[..., Config]) -> None:
    assert told(load(), Standing()) == []
    assert told(load(), Standing(90_000)) == []
    assert told(load(), Standing(rungs=standing(0).rungs)) == []


def test_expected_patients_count_where_rungs_are_forced_and_no_one_is_known(load: Callable[..., Config]) -> None:
    loaded = load("  auth: none", "  auth: none\n  strategy: patient\n  patients: {expected: 12000}")
    assert [one.keys[-1] for one in told(loaded, Standing())] == ["max_staleness"]
    assert told(loaded, standing(3_000)) == [], "who is counted counts"


def test_one_call_that_reads_all_patients_is_never_too_much(load: Callable[..., Config]) -> None:
    assert told(load(), standing(1_000_000, Strategy.WINDOW)) == []


def test_only_practices_that_promise_anything_are_looked_at(load: Callable[..., Config]) -> None:
    asked: list[str] = []

    def look(code: str) -> Standing:
        asked.append(code)
        return Standing()

    assert list(refusals(load(), look, None, NOW)) == []
    assert asked == ["AB"]


def test_what_was_accepted_as_it_stands_and_has_been_outgrown_is_not_new(load: Callable[..., Config]) -> None:
    loaded = load()
    (grown,) = told(loaded, standing(12_000), before=loaded)
    assert grown.outgrown
    (changed,) = told(load("24h", "23h"), standing(12_000), before=loaded)
    assert not changed.outgrown
    (slackened,) = told(load("24h", "25h"), standing(12_000), before=loaded)
    assert slackened.outgrown, "who asks for less must not be stopped by what is still too much"
    (fewer,) = told(load("    Patient:\n    Observation", "    Observation"), standing(12_000), before=loaded)
    assert fewer.outgrown
    (more,) = told(loaded, standing(12_000), before=load("    Patient:\n    Observation", "    Observation"))
    assert not more.outgrown
    poorer = told(
        load("{base_url: https://a", "{budget: {share: 0.9}, base_url: https://a"), standing(12_000), before=loaded
    )
    assert [one.outgrown for one in poorer] == [False, False]
    (renamed,) = told(load("AB:", "EF:"), standing(12_000), before=loaded)
    assert not renamed.outgrown


def test_an_outgrown_practice_is_shown_until_it_fits_again(load: Callable[..., Config]) -> None:
    loaded = load()
    shown = metrics.OUTGROWN.labels("AB")
    tell("AB", told(loaded, standing(12_000), before=loaded))
    assert shown._value.get() == 1
    tell("AB", told(loaded, standing(12_000)))
    assert shown._value.get() == 0, "what is refused is no promise"
    tell("CD", told(loaded, standing(12_000), before=loaded))
    assert metrics.OUTGROWN.labels("CD")._value.get() == 0


def test_it_is_told_where_it_stands(load: Callable[..., Config], tmp_path: Path) -> None:
    (refused,) = told(load(), standing(12_000))
    assert refused.at(None) == f"practices.AB.feeds.Observation.max_staleness: {refused.text}"
    said = refused.at(tmp_path / "poller.yaml")
    assert said == f"{tmp_path / 'poller.yaml'}:7: defaults.feeds.Observation.max_staleness: {refused.text}"
