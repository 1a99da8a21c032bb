"""The one place where an action is chosen."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.decide import changed_elements, decide, decide_delete, deletes_allowed, is_outdated
from poller.core.model import Action, Decision, Detail, Rules, Stored, Version

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
DIGESTS = st.sampled_from([b"a" * 32, b"b" * 32])
FLAGS = st.booleans()
MERGES = st.sampled_from([None, "Patient/b"])
ELEMENTS = st.dictionaries(st.sampled_from(["status", "code", "link"]), st.sampled_from(["1", "2"]))


def seen(**changes: Any) -> Version:
    values: dict[str, Any] = {
        "resource_type": "Patient", "id": "a", "digest": b"a" * 32, "rules": Rules(1), "began": NOW, "ended": NOW, "resource": {},
    }  # fmt: skip
    detail: dict[str, Any] = {"elements": {}, "body": b"", "codec": 1}
    own = {name: value for name, value in changes.items() if name in values}
    return Version(
        **values | own, work_out=lambda: Detail(**detail | {n: v for n, v in changes.items() if n not in own})
    )


def stored(**changes: Any) -> Stored:
    values: dict[str, Any] = {
        "version": 3, "deleted": False, "digest": b"a" * 32, "elements": {}, "rules_version": 1, "read_ended": NOW,
        "entered_in_error": False, "replaced_by": None, "partition_key": "Patient/a",
    }  # fmt: skip
    return Stored(**values | changes)


KNOWN = st.none() | st.builds(
    lambda version, deleted, digest, elements, error, merged: stored(
        version=version, deleted=deleted, digest=digest, elements=elements, entered_in_error=error, replaced_by=merged
    ),
    st.integers(1, 50),
    FLAGS,
    DIGESTS,
    ELEMENTS,
    FLAGS,
    MERGES,
)
SEEN = st.builds(
    lambda digest, elements, error, merged: seen(
        digest=digest, elements=elements, entered_in_error=error, replaced_by=merged
    ),
    DIGESTS,
    ELEMENTS,
    FLAGS,
    MERGES,
)
FLOORS = st.integers(1, 100)


@given(KNOWN, SEEN, FLOORS)
def test_something_happened_exactly_if_the_state_differs(known: Stored | None, now: Version, floor: int) -> None:
    decision = decide(known, now, floor)
    same = known is not None and not known.deleted and known.digest == now.digest
    assert (decision is None) == same


@given(KNOWN, SEEN, FLOORS)
def test_versions_rise_and_stay_above_the_floor(known: Stored | None, now: Version, floor: int) -> None:
    decision = decide(known, now, floor)
    if decision is not None:
        assert decision.version >= max(floor, 1)
        assert decision.version == (1 if floor == 1 else floor) if known is None else decision.version > known.version


@given(KNOWN, SEEN, FLOORS)
def test_the_action_fits_the_state_before(known: Stored | None, now: Version, floor: int) -> None:
    decision = decide(known, now, floor)
    if decision is None:
        return
    assert (decision.action is Action.CREATED) == (known is None)
    assert (decision.action is Action.RESTORED) == (known is not None and known.deleted)
    assert decision.action is not Action.DELETED
    if known is None or known.deleted:
        assert decision.changed == ()


MERGED = {"replaced_by": "Patient/b"}
ERROR = {"entered_in_error": True}


@pytest.mark.parametrize(
    ("before", "after", "action"),
    [
        ({}, {}, Action.UPDATED),
        ({}, ERROR, Action.ENTERED_IN_ERROR),
        (ERROR, ERROR, Action.UPDATED),
        (ERROR, {}, Action.UPDATED),
        ({}, MERGED, Action.MERGED),
        (MERGED, MERGED, Action.UPDATED),
        (MERGED, {"replaced_by": "Patient/c"}, Action.UPDATED),
        ({}, MERGED | ERROR, Action.MERGED),
        (MERGED, MERGED | ERROR, Action.ENTERED_IN_ERROR),
    ],
)
def test_merges_and_errors_are_named_once(before: dict[str, Any], after: dict[str, Any], action: Action) -> None:
    elements = {"elements": {"status": "1"}}, {"elements": {"status": "2", "link": "1"}}
    decision = decide(stored(**before, **elements[0]), seen(digest=b"b" * 32, **after, **elements[1]), 1)
    assert decision == Decision(action, 4, ("link", "status"))


@given(ELEMENTS, ELEMENTS)
def test_changed_elements_are_those_that_differ(before: dict[str, str], after: dict[str, str]) -> None:
    changed = changed_elements(before, after)
    assert list(changed) == sorted({name for name, _ in before.items() ^ after.items()})
    assert changed == changed_elements(after, before)


@given(st.integers(1, 10**9), FLOORS)
def test_a_delete_makes_the_next_version(version: int, floor: int) -> None:
    assert decide_delete(stored(version=version), floor) == Decision(Action.DELETED, max(version + 1, floor), ())


@given(st.integers(-5, 5))
def test_a_read_counts_only_if_it_began_after_the_stored_one_had_ended(seconds: int) -> None:
    assert is_outdated(stored(), NOW + dt.timedelta(seconds=seconds)) == (seconds <= 0)
    assert not is_outdated(None, NOW)


@given(
    st.integers(0, 500),
    st.floats(0, 1),
    st.integers(0, 20),
    st.lists(st.integers(1, 30), max_size=10),
)
def test_never_more_deletes_than_the_fraction_or_the_minimum(
    live: int, max_fraction: float, min_count: int, waves: list[int]
) -> None:
    """Waves of deletes within one window: what gets through never passes the ceiling taken of what was there at first."""
    there_at_first, lately = live, 0
    for wave in waves:
        through = min(wave, live, deletes_allowed(live, lately, max_fraction, min_count))
        live, lately = live - through, lately + through
        assert lately <= max(min_count, max_fraction * there_at_first)
    assert live + lately == there_at_first


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10))
def test_all_may_go_where_all_is_allowed_and_nothing_where_nothing_is(live: int, lately: int, min_count: int) -> None:
    assert deletes_allowed(live, lately, 1.0, min_count) >= live
    assert deletes_allowed(live, lately, 0.0, 0) == 0
    assert deletes_allowed(live, lately, 0.0, min_count) == max(0, min_count - lately)
