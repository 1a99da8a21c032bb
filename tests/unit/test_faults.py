from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core import faults
from poller.core.faults import Mishap, Remedy, Shape
from poller.core.model import FailureKind

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


def test_a_call_without_an_answer_is_tried_again_unless_it_can_never_fit() -> None:
    for mishap in Mishap:
        verdict = faults.judge_mishap(mishap)
        assert verdict.failure is not None
        assert (verdict.remedy is Remedy.RETRY) == (mishap is not Mishap.TOO_LARGE)


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
        ("9" * 30, None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_sanely(header: str | None, seconds: float | None) -> None:
    assert faults.retry_after(header, NOW) == seconds


@given(st.text(max_size=80))
def test_no_header_makes_the_readers_fail(header: str) -> None:
    wait = faults.retry_after(header, NOW)
    assert wait is None or wait >= 0
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
