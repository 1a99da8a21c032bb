"""Guesses are bounded, whoever makes them; who was valid before is heard whatever others do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poller.core.failures import Failures

callers = st.sampled_from(["a", "b", "c", "d"])


@given(tries=st.lists(st.tuples(callers, st.floats(0, 30)), max_size=120))
def test_in_any_window_no_more_fail_than_may(tries: list[tuple[str, float]]) -> None:
    failures, now, failed = Failures(per_caller=3, of_all=7), 0.0, list[tuple[str, float]]()
    for caller, later in tries:
        now += later
        wait = failures.wait(caller, b"guess", now)
        if wait == 0:
            failures.failed(caller, now)
            failed.append((caller, now))
        else:
            assert 0 < wait <= 60
    for _, end in failed:
        within = [who for who, at in failed if end - 60 < at <= end]
        assert len(within) <= 7
        assert all(within.count(who) <= 3 for who in within)


def test_who_was_valid_is_heard_until_the_token_is_not() -> None:
    failures = Failures(per_caller=1)
    failures.succeeded(b"good")
    failures.failed("a", 0.0)
    assert failures.wait("a", b"guess", 1.0) == 59
    assert failures.wait("a", b"good", 1.0) == 0
    failures.forget(b"good")
    assert failures.wait("a", b"good", 1.0) == 59
    assert failures.wait("a", b"guess", 60.0) == 0
    assert failures.wait("b", b"guess", 1.0) == 0


def test_no_more_callers_are_remembered_than_fit() -> None:
    failures = Failures(per_caller=1, of_all=10**6, most_callers=3)
    for number in range(100):
        failures.failed(f"c{number}", 0.0)
        failures.succeeded(f"t{number}".encode())
    assert failures.wait("c0", b"", 1.0) == 0, "forgotten"
    assert failures.wait("c99", b"", 1.0) > 0
    assert failures.wait("c99", b"t0", 1.0) > 0
    assert failures.wait("c99", b"t99", 1.0) == 0
