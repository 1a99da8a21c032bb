"""The choice of a rung: what is proven, allowed and has not failed lately, the highest first."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from poller.core.ladder import (
    BARRED_FOR,
    CONTRADICTIONS,
    FAILURES,
    ORDER,
    REFUSALS,
    Footing,
    after_contradiction,
    after_pass,
    choose,
    is_climb,
    lower,
)
from poller.core.model import Failure, FailureKind, Kind, Strategy

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
RUNGS = st.sampled_from(list(Strategy))
FOOTINGS = st.builds(Footing, st.none() | RUNGS, st.frozensets(RUNGS).map(tuple))


@given(FOOTINGS, st.sets(RUNGS), st.sets(RUNGS), st.booleans())
def test_the_highest_rung_that_is_proven_allowed_and_not_barred(
    footing: Footing,
    forbidden: set[Strategy],
    barred: set[Strategy],
    half_read: bool,
) -> None:
    for rung in barred:
        footing = footing.bar(rung, "it failed", NOW)
    chosen = choose(footing, "auto", {rung.value for rung in forbidden}, NOW, half_read=half_read)
    fit = [rung for rung in ORDER if rung in footing.offers and rung not in forbidden | barred]
    if half_read and footing.strategy is not Strategy.PATIENTS:
        fit = [rung for rung in fit if rung is not Strategy.PATIENTS]
    assert chosen is (fit[0] if fit else None)


@given(FOOTINGS, RUNGS, st.sets(RUNGS))
def test_what_is_forced_is_taken_whatever_is_proven(footing: Footing, forced: Strategy, barred: set[Strategy]) -> None:
    for rung in barred:
        footing = footing.bar(rung, "it failed", NOW)
    assert choose(footing, forced.value, set(), NOW) is forced


def test_a_bar_ends() -> None:
    footing = Footing(Strategy.PATIENT, (Strategy.WINDOW, Strategy.PATIENT)).bar(Strategy.WINDOW, "it failed", NOW)
    assert choose(footing, "auto", (), NOW) is Strategy.PATIENT
    assert choose(footing, "auto", (), NOW + BARRED_FOR) is Strategy.WINDOW
    assert footing.bar(Strategy.PATIENT, "too", NOW + BARRED_FOR).bars.keys() == {Strategy.PATIENT}, (
        "old ones are let go"
    )


def test_only_up_is_a_climb() -> None:
    assert is_climb(Strategy.PATIENT, Strategy.WINDOW)
    assert not is_climb(Strategy.WINDOW, Strategy.PATIENT)
    assert not is_climb(None, Strategy.WINDOW), (
        "nothing was read before, so there is nothing to be interchangeable with"
    )


def after_all(*failures: Failure | None, on: Strategy = Strategy.EVERYTHING) -> list[bool]:
    """After each pass, whether the feed must step down."""
    footing, fallen = Footing(on), []
    for failure in failures:
        footing, reason = after_pass(footing, Kind.EVERYTHING, failure)
        fallen.append(reason is not None)
    return fallen


REFUSED, SICK = Failure(FailureKind.REFUSED, 400), Failure(FailureKind.SERVER, 500)


def test_refusals_in_a_row_are_the_rung_s_affair() -> None:
    assert after_all(*[REFUSED] * REFUSALS) == [False] * (REFUSALS - 1) + [True]
    assert not any(after_all(*[REFUSED, None] * 10)), "one patient's refusal, while others are read, is not"


def test_content_reads_that_succeed_say_nothing_for_the_windows_beside_them() -> None:
    footing, reason = Footing(Strategy.WINDOW), None
    for _ in range(REFUSALS):
        footing, _ = after_pass(footing, Kind.SWEEP, None)
        footing, reason = after_pass(footing, Kind.WINDOW, REFUSED)
    assert reason is not None


def test_a_sick_answer_takes_longer() -> None:
    assert after_all(*[SICK] * FAILURES) == [False] * (FAILURES - 1) + [True]


def test_what_says_nothing_of_the_rung_counts_for_nothing() -> None:
    elsewhere = [Failure(kind) for kind in (FailureKind.UNAUTHORIZED, FailureKind.LOCKED_OUT, FailureKind.TRANSPORT)]
    assert not any(after_all(*elsewhere * 10))


def test_what_is_there_and_was_not_shown_speaks_against_passes_that_read_several_at_once() -> None:
    for rung, falls in ((Strategy.EVERYTHING, True), (Strategy.PATIENTS, True), (Strategy.PATIENT, False)):
        footing, reasons = Footing(rung), []
        for _ in range(CONTRADICTIONS):
            footing, reason = after_contradiction(footing)
            reasons.append(reason is not None)
        assert reasons == [False] * (CONTRADICTIONS - 1) + [falls]


def test_what_lies_below() -> None:
    footing = Footing(Strategy.EVERYTHING, (Strategy.WINDOW, Strategy.EVERYTHING, Strategy.PATIENTS, Strategy.PATIENT))
    assert lower(footing, {"patients"}, NOW) == [Strategy.PATIENT]
    assert lower(footing.bar(Strategy.PATIENT, "it failed", NOW), {"patients"}, NOW) == []
    assert lower(Footing(), (), NOW) == ()
