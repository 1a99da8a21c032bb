from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core import budget, faults
from poller.core.faults import Alert, Consequence, Hint, Mishap, Remedy, Shape
from poller.core.model import Failure, FailureKind

NOW = dt.datetime(2026, 11, 22, 15, 0, tzinfo=dt.UTC)


def outcome(*codes: str, severity: str = "error") -> dict[str, Any]:
    return {"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": code} for code in codes]}


@pytest.mark.parametrize(
    ("status", "code", "kind", "remedy"),
    [
        (400, "processing", FailureKind.REFUSED, Remedy.GIVE_UP),
        (400, "exception", FailureKind.REFUSED, Remedy.GIVE_UP),
        (400, "transient", FailureKind.SERVER, Remedy.RETRY),
        (401, "login", FailureKind.UNAUTHORIZED, Remedy.FRESH_TOKEN),
        (403, "forbidden", FailureKind.REFUSED, Remedy.GIVE_UP),
        (403, "too-costly", FailureKind.REFUSED, Remedy.GIVE_UP),
        (404, "not-found", FailureKind.REFUSED, Remedy.GIVE_UP),
        (408, "timeout", FailureKind.SERVER, Remedy.RETRY),
        (429, "throttled", FailureKind.LOCKED_OUT, Remedy.LOCK_OUT),
        (429, "exception", FailureKind.LOCKED_OUT, Remedy.LOCK_OUT),
        (500, "processing", FailureKind.SERVER, Remedy.RETRY),
        (501, "not-supported", FailureKind.SERVER, Remedy.GIVE_UP),
        (503, "throttled", FailureKind.LOCKED_OUT, Remedy.LOCK_OUT),
        (503, "processing", FailureKind.SERVER, Remedy.RETRY),
        (200, "processing", FailureKind.MALFORMED, Remedy.RETRY),
        (302, "processing", FailureKind.MALFORMED, Remedy.GIVE_UP),
    ],
)
def test_status_and_code_give_kind_and_remedy(status: int, code: str, kind: FailureKind, remedy: Remedy) -> None:
    verdict = faults.judge(status, Shape.FHIR, faults.outcome_codes(outcome(code)))
    assert verdict.failure is not None
    assert (verdict.failure.kind, verdict.remedy) == (kind, remedy)


@given(st.integers(-10, 1000), st.sampled_from(Shape), st.lists(st.text(), max_size=3))
def test_every_answer_has_a_verdict_in_our_own_words(status: int, shape: Shape, codes: list[str]) -> None:
    verdict = faults.judge(status, shape, codes)
    assert (
        (verdict.failure is None)
        == (verdict.remedy is Remedy.NONE)
        == (status == 200 and shape is Shape.FHIR and not codes)
    )
    if verdict.failure is not None:
        assert verdict.failure.detail
        assert not any(len(code) > 20 and code in verdict.failure.detail for code in codes)


def test_a_web_page_or_cut_off_json_with_200_is_malformed_and_tried_again() -> None:
    for shape in (Shape.OTHER, Shape.JSON, Shape.EMPTY):
        verdict = faults.judge(200, shape)
        assert verdict.failure is not None
        assert verdict.failure.kind is FailureKind.MALFORMED
        assert verdict.failure.is_server_error
        assert verdict.remedy is Remedy.RETRY


@pytest.mark.parametrize(
    ("status", "error", "kind", "remedy"),
    [
        (401, "invalid_client", FailureKind.UNAUTHORIZED, Remedy.GIVE_UP),
        (400, "invalid_grant", FailureKind.UNAUTHORIZED, Remedy.GIVE_UP),
        (500, "access_denied", FailureKind.UNAUTHORIZED, Remedy.GIVE_UP),
        (500, None, FailureKind.SERVER, Remedy.RETRY),
        (503, "temporarily_unavailable", FailureKind.SERVER, Remedy.RETRY),
        (429, None, FailureKind.LOCKED_OUT, Remedy.LOCK_OUT),
        (403, "403", FailureKind.UNAUTHORIZED, Remedy.GIVE_UP),
        (200, None, FailureKind.MALFORMED, Remedy.RETRY),
    ],
)
def test_token_refusals(status: int, error: str | None, kind: FailureKind, remedy: Remedy) -> None:
    verdict = faults.judge_token(status, error)
    assert verdict.failure is not None
    assert (verdict.failure.kind, verdict.remedy) == (kind, remedy)


def test_a_call_without_an_answer_is_tried_again_unless_that_can_never_help() -> None:
    for mishap in Mishap:
        verdict = faults.judge_mishap(mishap)
        assert verdict.failure is not None
        lasts = {Mishap.TOO_LARGE, Mishap.UNTRUSTED, Mishap.OTHER_HOST, Mishap.EXPIRED}
        assert (verdict.remedy is Remedy.RETRY) == (mishap not in lasts)


NOT_ENABLED = {"error": "403", "error_description": "invalid_request"}


@pytest.mark.parametrize(
    ("failure", "consequence", "alert"),
    [
        (faults.judge(400, Shape.FHIR, ["processing"]), Consequence.STEP_DOWN, Alert.NONE),
        (faults.judge(422, Shape.FHIR, ["invalid"]), Consequence.STEP_DOWN, Alert.NONE),
        (faults.judge(403, Shape.FHIR, ["forbidden"]), Consequence.PAUSE_FEED, Alert.AT_ONCE),
        (faults.judge(400, Shape.FHIR, ["processing"], Hint.NOT_IN_SCOPE), Consequence.PAUSE_FEED, Alert.AT_ONCE),
        (faults.judge(404, Shape.FHIR, ["not-found"]), Consequence.PAUSE_FEED, Alert.AT_ONCE),
        (faults.judge(302, Shape.OTHER), Consequence.PAUSE_FEED, Alert.AT_ONCE),
        (faults.judge(401, Shape.EMPTY), Consequence.PAUSE_PRACTICE, Alert.AT_ONCE),
        (faults.judge(403, Shape.JSON, hint=Hint.NOT_ENABLED), Consequence.PAUSE_PRACTICE, Alert.AT_ONCE),
        (faults.judge(500, Shape.FHIR, ["exception"], Hint.NOT_ENABLED), Consequence.PAUSE_PRACTICE, Alert.AT_ONCE),
        (faults.judge(200, Shape.JSON, hint=Hint.NOT_ENABLED), Consequence.PAUSE_PRACTICE, Alert.AT_ONCE),
        (faults.judge_token(401, "invalid_client"), Consequence.PAUSE_PRACTICE, Alert.AT_ONCE),
        (faults.judge_token(400, "invalid_grant"), Consequence.PAUSE_PRACTICE, Alert.AT_ONCE),
        (faults.judge_token(500, "access_denied"), Consequence.PAUSE_PRACTICE, Alert.AT_ONCE),
        (faults.judge_token(403, "403"), Consequence.PAUSE_PRACTICE, Alert.AT_ONCE),
        (faults.judge_token(500, None, Hint.NOT_ENABLED), Consequence.PAUSE_PRACTICE, Alert.AT_ONCE),
        (faults.judge_token(404, None), Consequence.PAUSE_PRACTICE, Alert.AT_ONCE),
        (faults.judge_token(500, None), Consequence.RETRY_PASS, Alert.LASTING),
        (faults.judge_mishap(Mishap.CONNECT), Consequence.PAUSE_PRACTICE, Alert.LASTING),
        (faults.judge_mishap(Mishap.NO_ADDRESS), Consequence.PAUSE_PRACTICE, Alert.LASTING),
        (faults.judge_mishap(Mishap.UNTRUSTED), Consequence.PAUSE_PRACTICE, Alert.AT_ONCE),
        (faults.judge_mishap(Mishap.TIMEOUT), Consequence.RETRY_PASS, Alert.NONE),
        (faults.judge_mishap(Mishap.TOO_LARGE), Consequence.STEP_DOWN, Alert.NONE),
        (faults.judge(503, Shape.EMPTY), Consequence.RETRY_PASS, Alert.LASTING),
        (faults.judge(429, Shape.EMPTY), Consequence.RETRY_PASS, Alert.LASTING),
    ],
)
def test_what_comes_of_a_failure_at_last(failure: faults.Verdict, consequence: Consequence, alert: Alert) -> None:
    assert failure.failure is not None
    assert (faults.consequence(failure.failure), faults.alert(failure.failure)) == (consequence, alert)


def test_one_failure_has_one_consequence() -> None:
    """Consequences are looked up by kind and detail, so two rows of the same must say the same."""
    said: dict[tuple[FailureKind, str], set[tuple[Consequence, Alert]]] = {}
    for _, row in faults.table():
        said.setdefault((row.kind, row.detail), set()).add((row.consequence, row.alert))
    assert {key for key, found in said.items() if len(found) > 1} == set()


@given(st.sampled_from(FailureKind), st.none() | st.integers(), st.text())
def test_whatever_the_failure_something_comes_of_it(kind: FailureKind, status: int | None, detail: str) -> None:
    failure = Failure(kind, status, detail)
    assert faults.consequence(failure) in Consequence
    assert faults.alert(failure) in Alert


def test_an_ignored_filter_steps_the_feed_down() -> None:
    ignored = Failure(FailureKind.REFUSED, 200, "filter ignored: the self link does not name it")
    assert faults.consequence(ignored) is Consequence.STEP_DOWN


def with_words(words: str, **issue: Any) -> dict[str, Any]:
    return {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "diagnostics": words, **issue}]}


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (with_words("FHIR app authentication is not enabled"), Hint.NOT_ENABLED),
        (NOT_ENABLED, Hint.NOT_ENABLED),
        ({"error": "FHIR App Authentication is not enabled for Jane Doe"}, Hint.NOT_ENABLED),
        (with_words("The operation is not supported for the scope"), Hint.NOT_IN_SCOPE),
        (with_words("", details={"text": "Insufficient scope"}), Hint.NOT_IN_SCOPE),
        ({"error": "insufficient_scope"}, Hint.NOT_IN_SCOPE),
        (with_words("not supported for the scope", severity="warning"), None),
        (with_words("Unsupported query parameter(s): _count. These parameters are not allowed."), None),
        ({"error": "invalid_request"}, None),
        ({"error": 403, "issue": [None, {"details": 5}]}, None),
        ([], None),
        (None, None),
    ],
)
def test_known_words_of_a_refusal_are_understood_and_none_is_repeated(body: object, hint: Hint | None) -> None:
    assert faults.hint_of(body) is hint
    failure = faults.judge(403, Shape.JSON, (), hint).failure
    assert failure is not None
    assert "Jane" not in failure.detail


def test_a_401_has_its_fresh_token_and_a_429_its_lock_out_whatever_the_words() -> None:
    assert faults.judge(401, Shape.JSON, (), Hint.NOT_ENABLED).remedy is Remedy.FRESH_TOKEN
    assert faults.judge(429, Shape.JSON, (), Hint.NOT_ENABLED).remedy is Remedy.LOCK_OUT


def test_only_a_plain_404_or_410_says_that_something_is_absent() -> None:
    absent = [faults.judge(404, Shape.EMPTY), faults.judge(410, Shape.FHIR, ["deleted"])]
    other = [faults.judge(404, Shape.FHIR, (), hint) for hint in Hint] + [faults.judge(403, Shape.EMPTY)]
    assert all(verdict.failure is not None and faults.says_absent(verdict.failure) for verdict in absent)
    assert not any(verdict.failure is not None and faults.says_absent(verdict.failure) for verdict in other)


def test_the_table_in_the_architecture_is_the_code_s() -> None:
    text = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text("utf-8")
    section = text.partition("\n## Failures\n")[2].partition("\n## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    assert table == rendered(), f"what it should be:\n{rendered()}"


def rendered() -> str:
    """The table as the document has it: what is treated alike stands in one line."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for came, row in faults.table():
        at_once = "" if row.remedy is Remedy.GIVE_UP else row.remedy.value.replace("-", " ")
        lines.setdefault((row.consequence.value, at_once, row.alert.value), []).append(came)
    head = ["| what comes | at once | when that does not help | a person must know |", "|---|---|---|---|"]
    order = [consequence.value for consequence in Consequence]
    done = sorted(lines.items(), key=lambda item: order.index(item[0][0]))
    return "\n".join([*head, *(f"| {' · '.join(came)} | {how[1]} | {how[0]} | {how[2]} |" for how, came in done)])


@given(st.integers(1, 1000), st.floats(0, 1))
def test_backoff_grows_and_is_bounded(retry: int, jitter: float) -> None:
    wait = faults.backoff(retry, jitter)
    assert 0 < wait <= 8
    assert faults.backoff(retry, 1.0) <= faults.backoff(retry + 1, 1.0)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Sun, 22 Nov 2026 15:02:00 GMT", 120.0),
        ("Sun, 22 Nov 2026 14:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("1000000000000", 900.0),
        ("9" * 64, 900.0),
        ("9" * 300, None),
        ("1.5", 1.5),
        ("5, 120", 120.0),
        ("7, Sun, 22 Nov 2026 15:02:00 GMT", 120.0),
        ("Sunday, 22-Nov-26 15:02:00 GMT", 120.0),
        ("Sun, 22 Nov 9999 15:02:00 GMT", 900.0),
        ("Sun, 99 Nov 2026 15:02:00 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_sanely(header: str | None, seconds: float | None) -> None:
    assert faults.retry_after(header, NOW) == seconds


@given(
    st.text(max_size=80)
    | st.lists(
        st.integers().map(str)
        | st.floats().map(str)
        | st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT"))
    ).map(", ".join)
)
def test_whatever_a_header_says_the_wait_is_bounded(header: str) -> None:
    wait = faults.retry_after(header, NOW)
    assert wait is None or 0 <= wait <= faults.LONGEST_ASKED
    for answered in (None, NOW):
        assert 0 <= budget.lock_out(answered, wait) <= budget.LONGEST_LOCK_OUT + budget.LOCK_OUT_MARGIN
    moment = faults.http_date(header)
    assert moment is None or moment.tzinfo is dt.UTC


def test_dates_are_aware_utc() -> None:
    assert faults.http_date("Sun, 22 Nov 2026 10:00:00 -0500") == NOW
    assert faults.http_date("Sun, 22 Nov 2026 15:00:00 -0000") == NOW
    assert faults.http_date(None) is None


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        (outcome("processing", "invalid"), ("processing", "invalid")),
        (outcome("informational", severity="information"), ()),
        ({"resourceType": "OperationOutcome", "issue": [{"severity": "fatal"}]}, ("unknown",)),
        ({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": 5}]}, ("unknown",)),
        ({"resourceType": "OperationOutcome"}, ("unknown",)),
        ({"resourceType": "OperationOutcome", "issue": ["?"]}, ()),
        ({"resourceType": "OperationOutcome", "issue": [{"severity": []}]}, ("unknown",)),
        ({"resourceType": "Patient"}, ()),
        ([], ()),
        (None, ()),
    ],
)
def test_outcome_codes(body: object, codes: tuple[str, ...]) -> None:
    assert faults.outcome_codes(body) == codes
