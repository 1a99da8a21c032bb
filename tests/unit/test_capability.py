"""What follows from a survey's findings, why a type is refused, and that a report survives being kept."""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.capability import (
    ExportReport,
    Finding,
    LastUpdated,
    PracticeReport,
    SmartReport,
    TokenReport,
    TypeReport,
    conclude,
    from_json,
    to_json,
)
from poller.core.model import Strategy
from poller.core.refusals import Said, Why, advice, covers, why_no_token, why_refused, words_of

NOW = dt.datetime(2026, 11, 22, 15, tzinfo=dt.UTC)
YES, NO, IGNORED = Finding.YES, Finding.NO, Finding.IGNORED


def found(resource_type: str = "Condition", why: Why = Why.REFUSED, **findings: Any) -> TypeReport:
    return conclude(TypeReport(resource_type, NOW, None, why, **findings))


EVERYTHING: dict[str, Any] = {"everything": YES, "everything_since": YES, "several_patients": YES, "by_patient": YES}


@pytest.mark.parametrize(
    ("findings", "offers"),
    [
        ({"by_patient": YES}, "patient"),
        ({"by_patient": YES, "several_patients": YES}, "patients patient"),
        ({"by_patient": YES, "several_patients": Finding.FIRST}, "patient"),
        ({"by_patient": YES, "everything": YES}, "everything patient"),
        ({"by_patient": YES, "everything": Finding.DIFFERS, "everything_since": YES}, "patient"),
        ({"by_patient": YES, "everything": Finding.UNPROVEN}, "patient"),
        ({"by_patient": YES, "patient_window": YES}, "patient-window patient"),
        ({"patient_window": YES}, ""),
        ({"whole": YES}, "sweep"),
        ({"whole": YES, "practice_window": YES}, "window sweep"),
        ({"whole": YES, "practice_window": IGNORED, "by_patient": YES}, "sweep patient"),
        ({"whole": NO, "practice_window": YES, "by_patient": YES}, "patient"),
        ({"whole": Finding.UNCLEAR, "practice_window": YES, "by_patient": YES}, "patient"),
        (
            {"whole": YES, "practice_window": YES, "patient_window": YES, **EVERYTHING},
            "window sweep everything-window patient-window everything patients patient",
        ),
    ],
)
def test_only_what_is_proven_is_offered_the_top_of_the_ladder_first(findings: dict[str, Any], offers: str) -> None:
    report = found(**findings)
    assert " ".join(report.offers) == offers
    assert report.readable is bool(offers)


def test_the_patient_feed_is_read_by_what_finds_new_patients() -> None:
    assert found("Patient", **EVERYTHING, patient_window=YES).offers == (Strategy.PATIENT,)
    assert found("Patient", by_name=YES).offers == (Strategy.PATIENT,)
    assert "by name" in found("Patient", by_name=YES).reason


@pytest.mark.parametrize(
    ("wide", "with_patient", "all_in_all"),
    [
        (YES, Finding.UNTESTED, LastUpdated.PRACTICE),
        (NO, YES, LastUpdated.PATIENT),
        (NO, NO, LastUpdated.NO),
        (NO, IGNORED, LastUpdated.IGNORED),
        (IGNORED, Finding.UNTESTED, LastUpdated.IGNORED),
        (NO, Finding.DIFFERS, LastUpdated.DIFFERS),
        (NO, Finding.UNPROVEN, LastUpdated.UNPROVEN),
        (NO, Finding.UNCLEAR, LastUpdated.UNCLEAR),
        (Finding.UNTESTED, Finding.UNTESTED, LastUpdated.UNTESTED),
    ],
)
def test_what_becomes_of_stamps_all_in_all(wide: Finding, with_patient: Finding, all_in_all: LastUpdated) -> None:
    report = found(practice_window=wide, patient_window=with_patient, by_patient=YES)
    assert report.last_updated is all_in_all
    assert report.reason


def test_the_reason_says_what_was_answered_and_still_is_no_way() -> None:
    reason = found(by_patient=YES, practice_window=NO, everything=Finding.DIFFERS).reason
    assert reason == ("_lastUpdated is refused; read patient by patient and compared by content ($everything: differs)")
    lone = found(whole=NO, practice_window=YES, by_patient=YES).reason
    assert "honoured but a search without any parameter is refused" in lone
    assert found(why=Why.OLD_BUILD, resource_type="Coverage").reason == "build too old; needs build 12.0.2 or later"


def test_a_forced_way_is_offered_whatever_was_found() -> None:
    report = conclude(TypeReport("Condition", NOW, False, Why.REFUSED, whole=NO), Strategy.SWEEP)
    assert (report.offers, report.readable, report.reason) == ((Strategy.SWEEP,), False, "set in the configuration")


def test_without_a_patient_to_ask_with_patients_are_read_as_they_become_known() -> None:
    report = found(why=Why.NO_PATIENT, whole=NO)
    assert (report.offers, report.readable, report.settled) == ((Strategy.PATIENT,), None, False)
    assert found(why=Why.NO_PATIENT, whole=YES).offers == (Strategy.SWEEP,)


def test_an_unclear_answer_leaves_the_question_open_and_a_refusal_does_not() -> None:
    assert found(by_patient=YES, everything=NO).settled
    assert not found(by_patient=YES, everything=Finding.UNCLEAR).settled
    assert found(by_patient=YES, count=Finding.UNCLEAR).settled, "no way of reading hangs on it"
    unproven = found(by_patient=YES, everything=Finding.UNPROVEN)
    assert (unproven.settled, unproven.unproven) == (True, True)
    assert found(why=Why.NOT_HERE).settled
    assert not found(why=Why.UNCLEAR).settled
    assert found(why=Why.NOT_ACTIVATED).readable is None


# --- refusals

_TOO_OLD = "The operation is not supported for the scope"
_ALL = {"system/*.read"}


@pytest.mark.parametrize(
    ("said", "granted", "why"),
    [
        (Said(400, is_own=True, words=_TOO_OLD.lower()), _ALL, Why.OLD_BUILD),
        (Said(403, is_own=True, words=_TOO_OLD.lower()), None, Why.OLD_BUILD),
        (Said(403, is_own=True, words=_TOO_OLD.lower()), {"system/Patient.read"}, Why.NO_SCOPE),
        (Said(403, is_own=True), _ALL, Why.NO_SCOPE),
        (Said(403, is_own=True, words="fhir app authentication is not enabled"), _ALL, Why.NOT_ACTIVATED),
        (Said(500, is_own=True, words="access_denied"), _ALL, Why.NOT_ACTIVATED),
        (Said(404, is_own=True), _ALL, Why.NOT_HERE),
        (Said(501, is_own=True), _ALL, Why.NOT_HERE),
        (Said(400, is_own=True, words="unknown resource type 'claim'"), _ALL, Why.NOT_HERE),
        (Said(400, is_own=True, words="invalid request: category is required"), _ALL, Why.NEEDS_CATEGORY),
        (Said(400, is_own=True, words="anything"), _ALL, Why.REFUSED),
        (Said(422, is_own=True), None, Why.REFUSED),
        (Said(400, is_own=False), _ALL, Why.UNCLEAR),
        (Said(403, is_own=False), {"system/Patient.read"}, Why.UNCLEAR),
        (Said(500, is_own=True), {"system/Patient.read"}, Why.UNCLEAR),
        (Said(401, is_own=True), _ALL, Why.UNCLEAR),
        (Said(None, is_own=True), _ALL, Why.UNCLEAR),
    ],
)
def test_why_a_type_is_refused(said: Said, granted: set[str] | None, why: Why) -> None:
    assert why_refused(said, "Condition", granted) is why


def test_an_operator_is_told_what_to_do() -> None:
    assert advice(Why.OLD_BUILD, "Coverage") == "needs build 12.0.2 or later"
    assert advice(Why.OLD_BUILD, "ServiceRequest") == "needs a USCDI v3 build"
    assert advice(Why.READABLE, "Coverage") is None
    silent = {Why.READABLE, Why.REFUSED, Why.UNCLEAR}
    assert {why for why in Why if advice(why, "Condition") is None} == silent


@pytest.mark.parametrize(
    ("error", "why"),
    [
        ({"error": "access_denied", "error_description": "x"}, Why.NOT_ACTIVATED),
        ({"error": "403", "error_description": "invalid_request"}, Why.NOT_ACTIVATED),
        ({"error": "invalid_request", "error_description": "client_assertion is missing"}, Why.NO_TOKEN),
        ({"error": "invalid_client"}, Why.NO_TOKEN),
        ({"error": 7}, Why.NO_TOKEN),
    ],
)
def test_why_there_is_no_token(error: Any, why: Why) -> None:
    assert why_no_token(Said(400, is_own=True, words=words_of(error))) is why


def test_words_are_found_wherever_an_outcome_has_them_and_show_nowhere() -> None:
    issue = {"diagnostics": "Jane DOE", "details": {"text": "Born"}}
    words = words_of({"resourceType": "OperationOutcome", "issue": [issue, "odd", {"details": 7}]})
    assert words == "jane doe born"
    assert "jane" not in repr(Said(400, is_own=True, words=words))
    odd: tuple[Any, ...] = (None, [], "text", {"issue": {"diagnostics": "x"}})
    assert {words_of(one) for one in odd} == {""}


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        ("system/Condition.read", True),
        ("system/Condition.rs", True),
        ("system/Condition.r", True),
        ("system/Condition.cruds?category=x", True),
        ("system/Condition.*", True),
        ("system/*.read", True),
        ("user/*.rs", True),
        ("system/Condition.write", False),
        ("system/Condition.s", False),
        ("system/Conditions.read", False),
        ("Condition", False),
        ("", False),
    ],
)
def test_which_scopes_cover_a_type(scope: str, covered: bool) -> None:
    assert covers({"openid", scope}, "Condition") is covered


# --- the whole practice


@given(
    st.fixed_dictionaries(
        {
            name: st.sampled_from(Finding)
            for name in (
                *("whole", "by_patient", "by_name", "practice_window", "patient_window", "everything"),
                *("everything_since", "several_patients"),
            )
        }
    ),
    st.sampled_from(Why),
    st.sampled_from(["Patient", "Observation"]),
)
def test_a_report_is_in_order_and_survives_being_kept(findings: dict[str, Any], why: Why, kind: str) -> None:
    report = found(kind, why, **findings, evidence={"patient": {"status": 200, "rows": 3}})
    assert list(report.offers) == [strategy for strategy in Strategy if strategy in report.offers]
    assert Strategy.WINDOW not in report.offers or Strategy.SWEEP in report.offers, "windows need a sweep beside them"
    assert Strategy.EVERYTHING_WINDOW not in report.offers or Strategy.EVERYTHING in report.offers
    assert Strategy.PATIENT_WINDOW not in report.offers or Strategy.PATIENT in report.offers
    assert report.readable or report.why is not Why.READABLE or not report.offers
    whole = PracticeReport(
        NOW,
        TokenReport(granted=True, scopes=("system/*.read",), refused=("system/Claim.r",)),
        SmartReport(found=True, rs384=True),
        "software 1.6",
        export=ExportReport(("Group",), scope=None),
        clock_offset_seconds=-0.5,
        types={kind: report},
        calls=7,
    )
    assert from_json(json.loads(json.dumps(to_json(whole)))) == whole


def test_what_another_release_wrote_is_read_as_far_as_it_is_understood() -> None:
    said = to_json(PracticeReport(NOW, TokenReport(granted=True)))
    assert from_json({**said, "news": {}}) == PracticeReport(NOW, TokenReport(granted=True))
    said.pop("calls")
    assert from_json(said) == PracticeReport(NOW, TokenReport(granted=True))
    assert from_json({"probed_at": "soon"}) is None
    assert from_json({**said, "types": {"Observation": {"why": "a reason of tomorrow"}}}) is None


def test_a_survey_of_some_types_leaves_the_others_as_they_were_known() -> None:
    before = PracticeReport(NOW, TokenReport(granted=True), types={"A": found("A"), "B": found("B")})
    after = replace(before, types={"B": found("B", by_patient=YES)}).after(before)
    assert (after.types["A"].readable, after.types["B"].readable) == (False, True)
    assert not after.all_readable
    assert replace(before, types={}).after(None).types == {}


def test_the_trouble_of_a_practice_is_that_of_all_its_types() -> None:
    def practice(*reasons: Why) -> PracticeReport:
        types = {str(number): found(str(number), why) for number, why in enumerate(reasons)}
        return PracticeReport(NOW, TokenReport(granted=False), types=types)

    assert practice(Why.NOT_ACTIVATED, Why.NOT_ACTIVATED).trouble is Why.NOT_ACTIVATED
    assert practice(Why.NO_TOKEN).trouble is Why.NO_TOKEN
    assert practice(Why.NOT_HERE, Why.NOT_HERE).trouble is None
    assert practice(Why.NOT_ACTIVATED, Why.OLD_BUILD).trouble is None
    assert practice().trouble is None


def test_the_readme_has_the_ladder_in_its_order_and_every_reason() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    section = readme.partition("\n## The ladder\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| \*\*([a-z-]+)\*\* \|", section, re.MULTILINE) == [strategy.value for strategy in Strategy]
    said = readme.partition("\n## What a practice allows\n")[2].partition("\n## ")[0]
    told_elsewhere = {Why.READABLE, Why.REFUSED, Why.NO_TOKEN, Why.NO_PATIENT, Why.UNCLEAR}
    assert {why for why in Why if f'"{why.value}"' not in said} == told_elsewhere
