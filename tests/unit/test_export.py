"""A job's states and its manifest."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core import export, jsontext
from poller.core.export import (
    Accepted,
    Duplicate,
    FileDone,
    Finished,
    Gap,
    Job,
    Lost,
    State,
    Trouble,
    Use,
    Working,
)
from poller.core.manifest import Manifest, parse_manifest
from poller.core.model import Coverage, Failure, FailureKind

NOW = dt.datetime(2026, 11, 22, 15, tzinfo=dt.UTC)
PATIENCE = dt.timedelta(hours=6)
SECOND, MINUTE, HOUR = dt.timedelta(seconds=1), dt.timedelta(minutes=1), dt.timedelta(hours=1)
URL = "https://ehr.example.org/fhir/r4/FAMLYMED/$export-poll-location?job_id=1"


def job(**changes: Any) -> Job:
    made = export.begin(uuid.UUID(int=1), "g", ["Patient", "Observation"], None, Use.FIRST_LOAD, NOW)
    return replace(made, **changes)


def accepted(**changes: Any) -> Job:
    return replace(export.kicked_off(job(), Accepted(URL, NOW + SECOND), NOW + SECOND, PATIENCE), **changes)


def listing(*types: str, **more: Any) -> dict[str, Any]:
    output = [{"type": name, "url": f"https://h/{number}.ndjson"} for number, name in enumerate(types)]
    return {"transactionTime": "2026-11-22T10:00:00.000-05:00", "requiresAccessToken": True, "output": output, **more}


def manifest(*types: str, **more: Any) -> Manifest:
    read = parse_manifest(listing(*types, **more))
    assert isinstance(read, Manifest)
    return read


def trouble(kind: FailureKind) -> Trouble:
    return Trouble(Failure(kind))


# --- the pace


@given(st.one_of(st.none(), st.floats(0, 1e12)), st.integers(0, 10_000))
def test_the_pace_is_bounded_whatever_is_asked_for(asked: float | None, polls: int) -> None:
    assert SECOND <= export.pace(asked, polls) <= 5 * MINUTE


def test_the_pace_is_the_servers_or_grows_from_half_a_minute() -> None:
    assert export.pace(120, 7) == 2 * MINUTE
    waits = [export.pace(None, polls).total_seconds() for polls in range(12)]
    assert waits[0] == 30
    assert waits == sorted(waits)
    assert waits[-1] == 300


# --- the kick-off


def test_an_accepted_job_counts_from_when_its_kick_off_was_sent() -> None:
    late = NOW + HOUR
    found = export.kicked_off(job(polls=3), Accepted(URL, late, 120), late + SECOND, PATIENCE)
    assert (found.state, found.started_at, found.polls) == (State.IN_PROGRESS, late, 0)
    assert found.next_poll_at == late + SECOND + 2 * MINUTE
    assert "job_id" not in repr(found)


def test_a_blocked_group_is_asked_more_and_more_seldom_until_the_patience_is_over() -> None:
    found, now, waits = job(), NOW, []
    while not found.state.is_over:
        found = export.kicked_off(found, Duplicate(), now, PATIENCE)
        if found.next_poll_at is not None:
            waits.append((found.next_poll_at - now) / MINUTE)
            assert found.failure == "blocked"
            now = found.next_poll_at
    assert waits == [5, 10, 20, 40, 60, 60, 60, 60, 60]
    assert (found.state, found.failure) == (State.FAILED, "blocked")


def test_a_refused_kick_off_is_over_and_a_passing_fault_is_not() -> None:
    def after(kind: FailureKind, tries: int = 0) -> tuple[State, str | None]:
        found = export.kicked_off(job(polls=tries), trouble(kind), NOW, PATIENCE)
        return found.state, found.failure

    assert after(FailureKind.REFUSED) == (State.FAILED, "refused")
    assert after(FailureKind.SERVER, 20) == (State.REQUESTED, "server")
    assert after(FailureKind.UNAUTHORIZED) == (State.REQUESTED, "unauthorized")
    assert after(FailureKind.UNAUTHORIZED, 2) == (State.FAILED, "unauthorized")
    assert export.kicked_off(job(), trouble(FailureKind.SERVER), NOW + PATIENCE, PATIENCE).state is State.FAILED


# --- polls


def test_a_job_that_never_ends_is_given_up_and_keeps_its_address_to_be_cancelled_at() -> None:
    found = export.polled(accepted(), Working(), NOW + PATIENCE, PATIENCE)
    assert found.state is State.IN_PROGRESS
    found = export.polled(found, Working(), NOW + PATIENCE + SECOND, PATIENCE)
    assert (found.state, found.failure, found.poll_url) == (State.CANCELLED, "stuck", URL)


def test_one_404_may_be_a_node_that_has_not_heard_two_are_the_end() -> None:
    once = export.polled(accepted(), Lost(), NOW, PATIENCE)
    assert once.state is State.IN_PROGRESS
    assert export.polled(export.polled(once, Working(), NOW, PATIENCE), Lost(), NOW, PATIENCE).state is once.state
    twice = export.polled(once, Lost(), NOW, PATIENCE)
    assert (twice.state, twice.failure) == (State.EXPIRED, "expired")


@pytest.mark.parametrize(
    ("kind", "most"), [(FailureKind.REFUSED, 5), (FailureKind.MALFORMED, 5), (FailureKind.SERVER, 10)]
)
def test_polls_without_a_usable_answer_end_a_job_only_in_a_row(kind: FailureKind, most: int) -> None:
    found = accepted()
    for _ in range(most - 1):
        found = export.polled(found, trouble(kind), NOW, PATIENCE)
    assert (found.state, found.failure) == (State.IN_PROGRESS, kind.value)
    well = export.polled(found, Working(), NOW, PATIENCE)
    assert (well.misses, well.failure) == (0, None)
    last = export.polled(found, trouble(kind), NOW, PATIENCE)
    assert (last.state, last.failure) == (State.FAILED, kind.value)


def test_a_server_out_of_reach_says_nothing_of_its_job() -> None:
    found, now = accepted(), NOW
    for kind in (FailureKind.TRANSPORT, FailureKind.UNAUTHORIZED, FailureKind.LOCKED_OUT) * 20:
        found = export.polled(found, trouble(kind), now, PATIENCE)
        assert found.next_poll_at is not None
        now = found.next_poll_at
    assert found.state is State.IN_PROGRESS
    last = export.polled(found, trouble(FailureKind.TRANSPORT), NOW + PATIENCE + SECOND, PATIENCE)
    assert (last.state, last.failure) == (State.CANCELLED, "stuck")


def test_a_job_that_was_slept_over_is_asked_once_more_before_it_is_given_up() -> None:
    found = export.polled(accepted(), Finished(manifest("Patient"), None), NOW + 10 * PATIENCE, PATIENCE)
    assert found.state is State.READY


def test_the_content_may_be_older_than_the_kick_off_and_is_never_taken_for_newer() -> None:
    gathered = NOW - 3 * HOUR
    for skew in (dt.timedelta(0), HOUR, -HOUR):
        assert export.content_time(NOW, gathered + skew, skew) == gathered
        assert export.content_time(NOW, NOW + HOUR + skew, skew) == NOW, (
            "made after the kick-off, of what was there at it"
        )
    assert export.content_time(NOW, gathered, None) == gathered, "a server that does not tell the time"
    assert export.content_time(NOW, NOW, dt.timedelta.max) < NOW, "a clock beyond all reason"


def test_a_manifest_told_anew_keeps_what_was_read_if_it_lists_the_same() -> None:
    ready = export.polled(accepted(), Finished(manifest("Patient", "Observation"), None), NOW, PATIENCE)
    read = export.after_file(ready, FileDone("output/0"), 7)
    signed = listing("Patient", "Observation")
    signed["output"][0]["url"] += "?signed=anew"
    anew = parse_manifest(signed)
    assert isinstance(anew, Manifest)
    again = export.polled(read, Finished(anew, HOUR), NOW + HOUR, PATIENCE)
    assert (again.files_done, again.content_at) == (read.files_done, read.content_at)
    assert again.manifest == anew
    other = export.polled(read, Finished(manifest("Observation", "Patient"), None), NOW + HOUR, PATIENCE)
    assert other.files_done == ()


# --- what the files prove


def test_coverage_is_earned_by_every_file_of_a_type_and_lost_by_any_error() -> None:
    types = ("Patient", "Observation", "Observation")

    def proven(*gaps: set[Gap], error: Any = (), **more: Any) -> list[Coverage]:
        listed = [{"type": "OperationOutcome", "url": "https://h/e"}] if error is not None else []
        done = [FileDone(f"output/{number}", frozenset(found)) for number, found in enumerate(gaps)]
        done += [FileDone("error/0", frozenset(error))] if error is not None else []
        read = export.coverage(job(manifest=manifest(*types, error=listed, **more), files_done=tuple(done)))
        return [read["Patient"], read["Observation"]]

    whole, unproven, not_whole = Coverage.COMPLETE, Coverage.UNPROVEN, Coverage.INCOMPLETE
    assert proven(set(), set(), set(), error=None) == [whole, whole]
    assert proven(set(), set(), set()) == [whole, whole], "warnings only"
    assert proven(set(), set(), set(), error={Gap.ERRORS}) == [not_whole] * 2
    assert proven(set(), set(), {Gap.ERRORS}) == [whole, not_whole]
    assert proven(set(), set(), {Gap.UNREADABLE}) == [whole, not_whole]
    assert proven(set(), set(), {Gap.BAD_LINES}) == [whole, unproven]
    assert proven({Gap.SHORT}, set(), set()) == [unproven, whole]
    assert proven({Gap.OUTDATED}, set(), set()) == [whole, whole]
    assert proven(set(), set()) == [whole, not_whole], "a file that was not read"
    assert proven(set(), set(), set(), link=[{"relation": "next", "url": "x"}]) == [not_whole] * 2
    missing = export.coverage(job(manifest=manifest("Patient"), files_done=(FileDone("output/0"),)))
    assert missing["Observation"] is unproven, "no file at all is no proof that there is nothing"


def test_only_a_job_without_any_gap_is_whole() -> None:
    ready = export.polled(accepted(), Finished(manifest("Patient"), None), NOW, PATIENCE)
    for gaps, failure in (((), None), ([Gap.OUTDATED], "outdated"), ([Gap.SHORT, Gap.OUTDATED], "incomplete")):
        found = export.done(export.after_file(ready, FileDone("output/0", frozenset(gaps)), 1), NOW)
        assert (found.state, found.failure, found.is_whole) == (State.DONE, failure, failure is None)
        assert found.manifest is None
    assert export.done(ready, NOW).failure == "incomplete", "a file that was never read"


@given(st.frozensets(st.sampled_from(Gap)))
def test_files_done_are_stored_as_text(gaps: frozenset[Gap]) -> None:
    assert FileDone.parse(str(FileDone("output/3", gaps))) == FileDone("output/3", gaps)


# --- where the next may begin


def ended(start: float, since: dt.datetime | None = None, *types: str, **changes: Any) -> Job:
    at = NOW + start * HOUR
    given: dict[str, Any] = {"state": State.DONE, "started_at": at, "transaction_time": at, "since": since}
    return job(types=types or ("Patient",), **given | changes)


def test_the_next_export_begins_where_an_unbroken_chain_of_whole_ones_ended() -> None:
    def since(*jobs: Job, types: tuple[str, ...] = ("Patient",)) -> float | None:
        found = export.next_since(jobs, types, MINUTE)
        return None if found is None else (found + MINUTE - NOW) / HOUR

    full = ended(0)
    assert since() is None
    assert since(full) == 0
    assert since(full, ended(5, failure="incomplete")) == 0
    assert since(full, ended(5, state=State.EXPIRED)) == 0
    assert since(ended(5, NOW)) is None, "without a full one before it"
    assert since(full, ended(5, NOW - MINUTE)) == 5
    assert since(full, ended(5, NOW)) == 0, "it began after the overlap"
    assert since(full, types=("Patient", "Observation")) is None
    assert since(full, ended(2, None, "Observation"), types=("Patient", "Observation")) == 0
    assert since(ended(0, transaction_time=NOW + 9 * HOUR)) == 0, "a clock that leapt"
    assert since(ended(0, transaction_time=NOW - 9 * HOUR)) == -9, "gathered the night before"
    assert since(full, types=()) is None


def test_a_job_under_way_is_what_was_asked_for_if_it_shows_as_much() -> None:
    assert export.fulfils(job(), ["Patient"], NOW)
    assert not export.fulfils(job(), ["Patient", "Goal"], None)
    assert not export.fulfils(job(since=NOW), ["Patient"], None)
    assert export.fulfils(job(since=NOW), ["Patient"], NOW + HOUR)


# --- the manifest


def test_a_manifest_is_read_and_written() -> None:
    body = listing("Patient", deleted=[{"type": "Bundle", "url": "https://h/d"}], error=[{"url": "https://h/e"}])
    body["output"][0]["count"] = 5
    read = parse_manifest(body)
    assert isinstance(read, Manifest)
    assert read.transaction_time == dt.datetime(2026, 11, 22, 15, tzinfo=dt.UTC)
    assert [(file.name, file.resource_type, file.count) for file in read.files] == [
        ("error/0", "OperationOutcome", None),
        ("output/0", "Patient", 5),
        ("deleted/0", "Bundle", None),
    ]
    assert "https://h" not in repr(read)
    assert parse_manifest(jsontext.loads(jsontext.dumps(read.as_json()))) == read
    partial = manifest(link=[{"relation": "next", "url": "u"}])
    assert partial.is_partial
    assert parse_manifest(partial.as_json()) == partial
    assert not manifest(requiresAccessToken=False).needs_token
    assert manifest(requiresAccessToken="no").needs_token, "only a plain false says that none is needed"


def of(**changes: Any) -> dict[str, Any]:
    return listing("Patient") | changes


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (None, "no JSON object"),
        ([], "no JSON object"),
        ({"resourceType": "OperationOutcome", "issue": []}, "no list output"),
        (of(output=None), "no list output"),
        (of(transactionTime=None), "no instant"),
        (of(transactionTime="2026-11-22T15:00:00"), "no instant"),
        (of(transactionTime="yesterday"), "no instant"),
        (of(transactionTime="0001-01-01T00:00:00+14:00"), "no instant"),
        (of(output=[{"type": "Patient"}]), "entry of output"),
        (of(output=[{"url": "https://h/1"}]), "entry of output"),
        (of(output=["https://h/1"]), "entry of output"),
        (of(output=[{"type": "Jane Doe", "url": "https://h/1"}]), "entry of output"),
        (of(output=[{"type": "Patient", "url": "https://h/\x00"}]), "entry of output"),
        (of(output=[{"type": "Patient", "url": ""}]), "entry of output"),
        (of(deleted={}), "deleted is no list"),
        (of(error=[{"url": 7}]), "entry of error"),
    ],
)
def test_what_is_no_manifest_is_refused_in_our_words(body: object, detail: str) -> None:
    refused = parse_manifest(body)
    assert isinstance(refused, Failure)
    assert refused.kind is FailureKind.MALFORMED
    assert detail in refused.detail
    assert "Jane" not in refused.detail


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 2**70, "", "x", [], [None], [[]], [{}], {}, {"url": "u"}, [{"url": "u"}]]
)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("output", "deleted", "error", "link", "transactionTime"), ODD))
)
def test_no_manifest_breaks_the_reading(body: dict[str, Any]) -> None:
    assert isinstance(parse_manifest(listing("Patient") | body), Manifest | Failure)
