"""What a survey makes of servers that omit, cut, ignore, mix up and fall ill: nothing is offered that was not proven."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from poller.core.capability import Finding, LastUpdated
from poller.core.model import Strategy
from tests.source_bench import Server, html, refusal
from tests.survey_bench import NAMED, SOME, Change, Ehr, Reply, page, survey, when, windows, with_everything, written


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.core.faults.backoff", lambda _retry, _jitter: 0.0)


# --- _lastUpdated over the whole practice


@pytest.mark.parametrize(
    ("ehr", "stamps", "first"),
    [
        (windows(page(NAMED, []), page(NAMED, SOME), page("", SOME)), LastUpdated.PRACTICE, Strategy.WINDOW),
        (windows(page(NAMED, []), page(NAMED, []), page("", [])), LastUpdated.PRACTICE, Strategy.WINDOW),
        (windows(page(NAMED, []), page(NAMED, []), page("", SOME)), LastUpdated.DIFFERS, Strategy.SWEEP),
        (windows(page(NAMED, []), refusal(400), page("", SOME)), LastUpdated.NO, Strategy.SWEEP),
        (windows(page(NAMED, []), refusal(500), page("", SOME)), LastUpdated.UNCLEAR, Strategy.SWEEP),
        (windows(page(NAMED, []), page("", SOME), page("", SOME)), LastUpdated.IGNORED, Strategy.SWEEP),
        (windows(page(NAMED, []), bare=refusal(400, "required")), LastUpdated.PRACTICE, Strategy.PATIENT),
        (windows(page(NAMED, []), bare=refusal(503)), LastUpdated.PRACTICE, Strategy.PATIENT),
        (windows(page(NAMED, SOME), bare=page("", SOME)), LastUpdated.IGNORED, Strategy.SWEEP),
        (windows(page(NAMED, [], total=9), bare=page("", SOME)), LastUpdated.IGNORED, Strategy.SWEEP),
        (windows(page("Condition", []), bare=page("", SOME)), LastUpdated.IGNORED, Strategy.SWEEP),
        (windows(html(), bare=page("", SOME)), LastUpdated.UNCLEAR, Strategy.SWEEP),
        (windows(httpx.Response(400, html="<h1>Jane</h1>"), bare=refusal(400)), LastUpdated.UNCLEAR, Strategy.PATIENT),
        (windows(refusal(400, "transient"), bare=refusal(400)), LastUpdated.UNCLEAR, Strategy.PATIENT),
        (windows(httpx.Response(500), bare=refusal(400)), LastUpdated.UNCLEAR, Strategy.PATIENT),
        (windows(httpx.Response(400), bare=httpx.Response(400)), LastUpdated.NO, Strategy.PATIENT),
        (windows(refusal(403), bare=refusal(403)), LastUpdated.NO, Strategy.PATIENT),
    ],
)
def test_windows_are_offered_only_where_they_filter_and_lose_nothing(
    ehr: Ehr, stamps: LastUpdated, first: Strategy
) -> None:
    found = survey(ehr)
    assert (found.last_updated, found.offers[0]) == (stamps, first)
    assert found.settled is (stamps is not LastUpdated.UNCLEAR and found.whole is not Finding.UNCLEAR)


# --- _lastUpdated with a patient


def with_patient(past: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Ehr:
    ehr = Ehr()

    def window(path: str, query: dict[str, str]) -> Reply:
        shown = past(ehr.resources(path, query["patient"])) if query["_lastUpdated"].startswith("ge1970") else []
        return page(written(path, query), shown)

    ehr.instead.append(when("Condition", window, patient=None, _lastUpdated=None))
    return ehr


@pytest.mark.parametrize(
    ("past", "finding"),
    [
        (lambda all_: all_, Finding.YES),
        (lambda all_: all_[1:], Finding.DIFFERS),
        (lambda _: [], Finding.DIFFERS),
        (lambda all_: [{**all_[0], "edition": 9}, *all_[1:]], Finding.DIFFERS),
        (lambda all_: [{**all_[0], "text": {"div": "other"}}, *all_[1:]], Finding.YES),
    ],
)
def test_a_patients_window_over_all_time_must_show_what_a_plain_search_does(past: Any, finding: Finding) -> None:
    found = survey(with_patient(past))
    assert found.patient_window is finding
    assert (Strategy.PATIENT_WINDOW in found.offers) is (finding is Finding.YES)


def test_a_patients_window_without_anything_to_compare_is_not_offered() -> None:
    ehr = with_patient(lambda all_: all_)
    ehr.held = {"p1": 0, "p2": 0}
    found = survey(ehr)
    assert (found.last_updated, found.offers, found.unproven) == (LastUpdated.UNPROVEN, (Strategy.PATIENT,), True)


# --- $everything


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda all_: all_, Finding.YES),
        (lambda all_: all_[::-1], Finding.YES),
        (lambda all_: all_[1:], Finding.DIFFERS),
        (lambda _: [], Finding.DIFFERS),
        (lambda all_: [{key: one[key] for key in one if key != "category"} for one in all_], Finding.DIFFERS),
        (lambda all_: [*all_, {**all_[0], "id": "more"}], Finding.DIFFERS),
        (lambda all_: [*all_, {**all_[0], "id": "foreign", "subject": {"reference": "Patient/p9"}}], Finding.DIFFERS),
        (
            lambda all_: [{**one, "meta": {"tag": [{"code": "SUBSETTED"}]}} for one in all_],
            Finding.DIFFERS,
        ),
    ],
)
def test_everything_must_show_what_plain_searches_do(change: Change, finding: Finding) -> None:
    found = survey(with_everything(change))
    assert found.everything is finding
    offered = (Strategy.EVERYTHING, Strategy.PATIENT) if finding is Finding.YES else (Strategy.PATIENT,)
    assert found.offers == offered
    assert found.settled


def test_a_change_between_the_two_readings_is_no_difference() -> None:
    editions = iter([1, 2, 2, 2])
    ehr = with_everything(lambda all_: [{**one, "edition": 2} for one in all_])
    ehr.instead.append(
        when(
            "Condition",
            lambda path, query: page("", ehr.resources(path, query["patient"], edition=next(editions))),
            patient="p1",
        )
    )
    found = survey(ehr, forbid=("patients", "patient-window"))
    assert found.everything is Finding.YES
    assert found.evidence["$everything"] == {"finding": "yes", "same": 3, "differing": 0}


@pytest.mark.parametrize(
    ("since", "finding"),
    [
        (True, Finding.YES),
        (False, Finding.NO),
        ("ignored", Finding.IGNORED),
        ("unnamed", Finding.IGNORED),
        ("forgetful", Finding.DIFFERS),
    ],
)
def test_since_with_everything_must_filter_and_lose_nothing(since: bool | str, finding: Finding) -> None:
    found = survey(with_everything(since=since))
    assert (found.everything, found.everything_since) == (Finding.YES, finding)
    assert (found.offers[0] is Strategy.EVERYTHING_WINDOW) is (finding is Finding.YES)


def test_a_patient_who_is_gone_says_nothing_about_everything() -> None:
    ehr = with_everything()
    ehr.held = {"gone": 0, "p1": 2}
    ehr.instead.insert(0, when("Patient/gone/$everything", lambda *_: refusal(404, "not-found")))
    assert survey(ehr, sample=("gone", "p1")).everything is Finding.YES


def test_everything_without_anything_to_compare_is_not_offered() -> None:
    ehr = with_everything(since=True)
    ehr.held = {"p1": 0, "p2": 0}
    found = survey(ehr)
    assert (found.everything, found.offers, found.unproven) == (Finding.UNPROVEN, (Strategy.PATIENT,), True)


def test_a_sick_server_proves_nothing_about_everything() -> None:
    ehr = with_everything()
    ehr.instead.insert(0, when("Patient/p1/$everything", lambda *_: refusal(500)))
    found = survey(ehr)
    assert (found.everything, found.offers, found.settled) == (Finding.UNCLEAR, (Strategy.PATIENT,), False)


def test_one_patients_record_is_read_once_for_all_feeds() -> None:
    ehr = with_everything()
    server = Server(ehr)
    feeds = ("Condition", "Procedure", "Goal")
    report = server.survey(*feeds, feeds={feed: {} for feed in feeds})
    assert ehr.asked.count("Patient/p1/$everything") == 3, "once, and again for the two that differ"
    assert {kind: one.everything for kind, one in report.types.items()} == {
        "Condition": Finding.YES,
        "Procedure": Finding.DIFFERS,
        "Goal": Finding.DIFFERS,
    }


# --- several patients in one search


def with_groups(answer: Callable[[list[str]], list[str]]) -> Ehr:
    """``answer``: of whom something is shown when these are asked for."""
    ehr = Ehr(held={"p1": 1, "p2": 2, "p3": 0, "p4": 1})

    def group(path: str, query: dict[str, str]) -> Reply:
        named = query["patient"].split(",")
        return page("", ehr.resources(path, *answer(named))) if len(named) > 1 else None

    ehr.instead.append(when("Condition", group, patient=None))
    return ehr


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (lambda named: named, Finding.YES),
        (lambda named: named[:1], Finding.FIRST),
        (lambda named: named[-1:], Finding.DIFFERS),
        (lambda named: named[:3], Finding.DIFFERS),
        (lambda _: [], Finding.DIFFERS),
        (lambda named: [*named, "p9"], Finding.IGNORED),
    ],
)
def test_each_of_several_patients_must_be_answered(answer: Any, finding: Finding) -> None:
    ehr = with_groups(answer)
    ehr.held["p9"] = 1
    found = survey(ehr, sample=("p1", "p2", "p3", "p4"))
    assert found.several_patients is finding
    assert (Strategy.PATIENTS in found.offers) is (finding is Finding.YES)


def test_several_patients_are_unproven_while_only_one_has_something() -> None:
    ehr = with_groups(lambda named: named)
    ehr.held = {"p1": 2, "p2": 0}
    assert survey(ehr).several_patients is Finding.UNPROVEN
    assert survey(ehr, sample=("p1",)).several_patients is Finding.UNPROVEN
    assert survey(Ehr(held={"p1": 2}), sample=("p1",)).several_patients is Finding.NO, (
        "a refusal needs no second patient"
    )


def test_a_group_is_proven_in_the_size_in_which_it_is_read() -> None:
    ehr = with_groups(lambda named: named[:4])
    ehr.held = {f"p{number}": 1 for number in range(1, 7)}
    sample = tuple(ehr.held)
    assert survey(ehr, sample=sample, patients_per_call=4).several_patients is Finding.YES
    assert survey(ehr, sample=sample, patients_per_call=6).several_patients is Finding.DIFFERS
