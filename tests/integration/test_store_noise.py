"""Noise rules make no event, nor does a change of them, whether they hide more or less; and what they hid can be told."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poller.core import canonical
from poller.core.model import Action, Sighting
from poller.store.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poller.store.repository import Recorded
    from tests.integration.conftest import Practice

pytestmark = pytest.mark.usefixtures("bodies")

RUNS = itertools.count(1)
NOISE = {"Observation": ("device", "meta.tag")}


def read(practice: Practice, resource: Mapping[str, Any], noise: Mapping[str, tuple[str, ...]]) -> Recorded:
    second = practice.tick()
    began, ended = practice.at(second), practice.at(second + 1)
    version = canonical.reduce(
        Sighting(resource["resourceType"], resource["id"], resource, began, ended), b"k" * 32, None, noise
    )
    return practice.repository.record(practice.context(), [version], ended)


def actions(recorded: Recorded) -> list[tuple[Action, tuple[str, ...]]]:
    return [(decision.action, decision.changed) for _, decision in recorded.changes]


def test_noise_makes_no_event_and_what_is_none_does(practice: Practice) -> None:
    read(practice, practice.observation(device="d1"), NOISE)
    assert actions(read(practice, practice.observation(device="d2"), NOISE)) == []
    assert actions(read(practice, practice.observation(value="14", device="d3"), NOISE)) == [
        (Action.UPDATED, ("valueString",))
    ]


def test_rules_that_hide_less_tell_nothing_old(practice: Practice) -> None:
    """The device changed while it was noise; that it counts again is no news."""
    read(practice, practice.observation(device="d1"), NOISE)
    read(practice, practice.observation(device="d2"), NOISE)
    assert actions(read(practice, practice.observation(device="d3"), {})) == []
    assert actions(read(practice, practice.observation(device="d3"), {})) == []
    assert actions(read(practice, practice.observation(device="d4"), {})) == [(Action.UPDATED, ("device",))]


def test_rules_that_hide_more_tell_nothing(practice: Practice) -> None:
    read(practice, practice.observation(device="d1"), {})
    assert actions(read(practice, practice.observation(device="d2"), NOISE)) == []
    assert actions(read(practice, practice.observation(device="d3"), NOISE)) == []
    assert actions(read(practice, practice.observation(value="14", device="d3"), NOISE)) == [
        (Action.UPDATED, ("valueString",))
    ]


def test_a_change_beside_new_rules_is_told(practice: Practice) -> None:
    read(practice, practice.observation(device="d1"), {})
    assert actions(read(practice, practice.observation(value="14", device="d2"), NOISE)) == [
        (Action.UPDATED, ("valueString",))
    ]
    assert actions(read(practice, practice.observation(value="15", device="d2"), {})) == [
        (Action.UPDATED, ("valueString",))
    ]


PATHS = st.sampled_from([(), ("device",), ("device", "note")])
STEPS = st.lists(st.tuples(st.sampled_from(["1", "2"]), st.sampled_from(["d1", "d2"]), PATHS), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_an_event_is_a_change_under_the_rules_before_and_after(
    practice: Practice, steps: list[tuple[str, str, tuple[str, ...]]]
) -> None:
    id_ = f"o{next(RUNS)}"
    (kept_value, kept_device, rules), *later = steps
    read(practice, practice.observation(id_, value=kept_value, device=kept_device), {"Observation": rules})
    for value, device, paths in later:
        found = actions(read(practice, practice.observation(id_, value=value, device=device), {"Observation": paths}))
        differs_before = value != kept_value or (not rules and device != kept_device)
        differs_now = value != kept_value or (not paths and device != kept_device)
        assert bool(found) == (differs_before and differs_now)
        if found or (paths != rules and not differs_before):
            kept_value, kept_device = value, device
        rules = paths


def test_rules_keep_their_numbers_over_a_restart(practice: Practice) -> None:
    read(practice, practice.observation(device="d1"), NOISE)
    [before] = practice.rows("SELECT rules_version FROM poller.snapshot")
    practice.repository = Repository(practice.engine, b"k" * 32)
    assert actions(read(practice, practice.observation("o2", device="d1"), NOISE)) == [(Action.CREATED, ())]
    assert {row.rules_version for row in practice.rows("SELECT rules_version FROM poller.snapshot")} == {
        before.rules_version
    }
    assert before.rules_version != 1


def test_rules_that_another_process_made_are_known_when_a_row_is_under_them(practice: Practice) -> None:
    """As where noise is taken back, and another engine that has been up for long takes the practice over."""
    other = Repository(practice.engine, b"k" * 32)
    first, practice.repository = practice.repository, other
    read(practice, practice.observation("o2"), {})
    practice.repository = first
    read(practice, practice.observation(device="d1"), NOISE)
    practice.repository = other
    assert actions(read(practice, practice.observation(device="d2"), {})) == []


def test_history_shows_what_the_rules_hid(practice: Practice) -> None:
    read(practice, practice.observation(device="d1"), NOISE)
    read(practice, practice.observation(value="14", device="d2"), NOISE)
    read(practice, practice.observation(value="14", device="d2", meta={"tag": [{"code": "x"}]}), NOISE)
    first, second = practice.log.history("p1", "Observation", "o1")
    assert (first.hidden, first.hidden_since) == ((), ())
    assert (second.hidden, second.hidden_since) == (("device",), ("meta.tag",))
    read(practice, practice.observation(value="15", device="d2"), NOISE)
    *_, last = practice.log.history("p1", "Observation", "o1")
    assert (last.hidden, last.hidden_since) == ((), ())


def test_what_changes_with_every_read_is_noted_once_a_day(practice: Practice) -> None:
    for turn in range(4):
        read(practice, practice.observation(device=f"d{turn}"), NOISE)
    [row] = practice.rows("SELECT paths, first_at = last_at AS once FROM poller.hidden")
    assert (row.paths, row.once) == (["device"], True)
    assert len(practice.rows("SELECT FROM poller.snapshot WHERE version = 1")) == 1
