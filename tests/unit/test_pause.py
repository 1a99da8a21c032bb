from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core import faults, pause
from poller.core.faults import Consequence, Mishap, Shape
from poller.core.model import Failure
from poller.core.pause import IN_A_ROW, PRACTICE, Pause, Reason, Standing

T0 = dt.datetime(2026, 11, 22, 15, tzinfo=dt.UTC)
FEEDS = ("Coverage", "Observation", "Patient")


def answered(status: int) -> Failure:
    failure = faults.judge(status, Shape.FHIR, ["processing"]).failure
    assert failure is not None
    return failure


def mishap(kind: Mishap) -> Failure:
    failure = faults.judge_mishap(kind).failure
    assert failure is not None
    return failure


def token(error: str) -> Failure:
    failure = faults.judge_token(400, error).failure
    assert failure is not None
    return failure


NO_TOKEN = token("invalid_client")
NO_CONNECTION = mishap(Mishap.CONNECT)

FAILURES = [
    *(answered(status) for status in (200, 302, 400, 401, 403, 404, 410, 429, 500, 501)),
    *(mishap(kind) for kind in Mishap),
    *(token(error) for error in ("invalid_client", "access_denied", "403")),
]


def told(
    standing: Standing, *said: tuple[str | None, Failure | None], at: float = 0, feeds: tuple[str, ...] = FEEDS
) -> Standing:
    return reduce(
        lambda now, each: pause.after(now, each[0], each[1], feeds, T0 + dt.timedelta(seconds=at), 0.0), said, standing
    )


def later(seconds: float) -> dt.datetime:
    return T0 + dt.timedelta(seconds=seconds)


def whole(standing: Standing) -> Pause:
    assert standing.practice is not None
    return standing.practice


def test_a_practice_that_gives_no_token_is_paused_and_tried_at_growing_gaps() -> None:
    standing = told(Standing(), ("Patient", NO_TOKEN), ("Patient", NO_TOKEN))
    assert standing.practice is None
    standing = told(standing, (None, NO_TOKEN))
    assert whole(standing).reason is Reason.NO_ACCESS
    assert whole(standing).words == f"no access: {NO_TOKEN.detail}"
    gaps, at = [], 0.0
    for _ in range(6):
        gaps.append((whole(standing).next_try - T0).total_seconds() - at)
        at += gaps[-1]
        assert not standing.allows("Patient", whole(standing).next_try - dt.timedelta(seconds=1))
        assert standing.allows("Patient", whole(standing).next_try)
        standing = told(standing, ("Patient", NO_TOKEN), at=at)
    assert gaps == [60, 120, 240, 480, 900, 900]
    assert whole(standing).since == T0
    assert told(standing, ("Coverage", None), at=at) == Standing()


def test_a_practice_that_cannot_be_reached_is_tried_sooner_and_is_somebodys_business_when_it_lasts() -> None:
    standing = told(Standing(), *[("Patient", NO_CONNECTION)] * 3)
    held = whole(standing)
    assert (held.reason, held.next_try) == (Reason.UNREACHABLE, T0 + dt.timedelta(seconds=5))
    assert not held.is_alert(T0 + dt.timedelta(minutes=4))
    assert held.is_alert(T0 + dt.timedelta(minutes=5))
    at_once = whole(told(Standing(), *[("Patient", mishap(Mishap.UNTRUSTED))] * 3))
    assert at_once.is_alert(T0)
    assert told(standing, ("Patient", answered(500)), at=5).practice is None


def test_an_answer_in_between_shows_that_the_practice_is_reached() -> None:
    said = [
        ("Patient", NO_CONNECTION),
        ("Patient", NO_CONNECTION),
        ("Patient", answered(503)),
        ("Patient", NO_CONNECTION),
    ]
    assert told(Standing(), *said).practice is None


def test_a_type_that_is_refused_pauses_its_feed_and_no_other() -> None:
    standing = told(Standing(), *[("Coverage", answered(403))] * 3)
    assert standing.practice is None
    assert not standing.allows("Coverage", T0)
    assert standing.allows("Patient", T0)
    assert not told(standing, ("Patient", None)).allows("Coverage", T0)
    assert told(standing, ("Coverage", None)) == Standing()


def test_one_patients_404_pauses_nothing() -> None:
    said = [("Observation", answered(404)), ("Observation", None)] * 5
    assert told(Standing(), *said) == Standing()


def test_where_every_type_is_not_found_the_base_url_is_wrong() -> None:
    said = [(feed, answered(404)) for feed in FEEDS for _ in range(IN_A_ROW)]
    assert told(Standing(), *said[:-1]).practice is None
    standing = told(Standing(), *said)
    assert (whole(standing).reason, whole(standing).detail) == (Reason.REFUSED, "not found")
    assert [replace(standing, pauses={PRACTICE: replace(whole(standing), tries=n)}).feed_to_try(FEEDS) for n in (1, 2, 3, 4)] == [
        "Coverage", "Observation", "Patient", "Coverage",
    ]  # fmt: skip
    again = told(standing, ("Observation", answered(404)), at=60)
    assert (whole(again).tries, whole(again).next_try) == (2, T0 + dt.timedelta(seconds=80))
    over = told(again, ("Observation", None), at=180)
    assert over.practice is None
    assert set(over.pauses) == {"Coverage", "Patient"}


def test_401_on_one_type_is_that_types_affair_and_on_two_the_practices() -> None:
    alone = told(Standing(), *[("Coverage", answered(401))] * 4)
    assert (alone.practice, set(alone.pauses)) == (None, {"Coverage"})
    both = told(Standing(), ("Coverage", answered(401)), ("Patient", answered(401)), ("Patient", answered(401)))
    assert whole(both).reason is Reason.NO_ACCESS
    only = told(Standing(), *[("Patient", answered(401))] * 3, feeds=("Patient",))
    assert whole(only).reason is Reason.NO_ACCESS


def test_a_refused_way_of_reading_is_no_pause_unless_there_is_no_other_way() -> None:
    assert told(Standing(), *[("Patient", answered(400))] * 9) == Standing()
    standing = Standing()
    for _ in range(IN_A_ROW):
        standing = pause.after(standing, "Patient", answered(400), FEEDS, T0, 0.0, Consequence.PAUSE_FEED)
    assert set(standing.pauses) == {"Patient"}


def test_what_was_under_way_when_the_pause_began_does_not_lengthen_it() -> None:
    standing = told(Standing(), *[("Patient", NO_TOKEN)] * 3)
    assert told(standing, *[("Observation", NO_TOKEN)] * 12, at=59).pauses == standing.pauses


def test_what_came_through_after_all_ends_it() -> None:
    assert told(told(Standing(), *[("Patient", NO_TOKEN)] * 3), ("Observation", None)).practice is None


@pytest.mark.parametrize("first", [NO_TOKEN, NO_CONNECTION])
@pytest.mark.parametrize("then", [NO_TOKEN, NO_CONNECTION, answered(503), mishap(Mishap.TIMEOUT)])
def test_a_try_that_fails_in_whatever_way_is_followed_by_a_wait(first: Failure, then: Failure) -> None:
    standing = told(Standing(), *[("Patient", first)] * 3)
    again = told(standing, ("Patient", then), at=60)
    assert again.practice is None or again.practice.next_try > T0 + dt.timedelta(seconds=60)
    if then in (NO_TOKEN, NO_CONNECTION) and first is not NO_CONNECTION:
        assert whole(again).detail == then.detail


def test_a_paused_feed_outlives_a_restart_and_a_try_that_fails() -> None:
    held = told(Standing(), *[("Coverage", answered(403))] * 3).pauses["Coverage"]
    again = told(Standing(pauses={"Coverage": held}), ("Coverage", answered(403)), at=60).pauses["Coverage"]
    assert (again.tries, again.next_try) == (2, T0 + dt.timedelta(seconds=80))


def test_a_pause_outlives_a_restart() -> None:
    held = whole(told(Standing(), *[("Patient", NO_TOKEN)] * 3))
    again = Pause.recalled(held.since, held.words, held.tries, held.next_try)
    assert again == held
    standing = told(Standing(pauses={PRACTICE: again}), ("Patient", NO_TOKEN), at=60)
    assert whole(standing).tries == 2
    with pytest.raises(ValueError, match="nonsense"):
        Pause.recalled(T0, "nonsense", 1, T0)


reports = st.tuples(
    st.sampled_from([*FEEDS, None]),
    st.sampled_from([*FAILURES, None]),
    st.floats(0, 2000),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([None, None, None, *Consequence]),
)


@given(st.lists(reports, max_size=40))
def test_a_pause_needs_several_failures_ends_with_the_first_success_and_never_waits_without_bound(
    history: list[tuple[str | None, Failure | None, float, float, Consequence | None]],
) -> None:
    standing, now = Standing(), T0
    since_success = 0
    for feed, failure, later, jitter, consequence in history:
        now += dt.timedelta(seconds=later)
        before = standing
        standing = pause.after(before, feed, failure, FEEDS, now, jitter, consequence)
        if failure is None:
            since_success = 0
            assert standing.practice is None
            assert feed not in standing.pauses
            assert set(standing.pauses) <= set(before.pauses)
            continue
        since_success += 1
        assert since_success >= IN_A_ROW or set(standing.pauses) <= set(before.pauses)
        for name, held in standing.pauses.items():
            was = before.pauses.get(name)
            assert was is None or was.since == held.since
            longest = dt.timedelta(seconds=900 if name == PRACTICE else 3600)
            if held is not was:
                assert was is None or was.next_try <= now
                assert dt.timedelta(seconds=3) <= held.next_try - now <= longest
        tried = standing.practice
        assert tried is None or tried.next_try > now, "a try that failed must be followed by a wait"


@given(st.sampled_from(Reason), st.integers(-5, 10_000), st.floats(0, 1, exclude_max=True), st.booleans())
def test_gaps_grow_and_are_bounded(reason: Reason, tries: int, jitter: float, whole: bool) -> None:
    wait = pause.gap(reason, tries, jitter, whole=whole)
    assert dt.timedelta(0) < wait <= dt.timedelta(hours=1)
    assert pause.gap(reason, tries, jitter, whole=whole) <= pause.gap(reason, tries + 1, jitter, whole=whole)
    assert pause.gap(reason, tries, 0.0, whole=whole) * 0.75 <= wait
