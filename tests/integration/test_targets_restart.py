"""What a restart writes of targets that are in force already: nothing. A thousand practices begin at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from poller.config import FeedConfig, PatientsConfig, PracticeConfig
from poller.core.model import Strategy, Target
from poller.targets import Targets
from tests.integration.conftest import T0, Practice

STRATEGIES = {"Condition": Strategy.WINDOW, "Goal": Strategy.SWEEP, "Patient": Strategy.PATIENT}


class Counted:
    """The store, counting for which feeds targets are written."""

    def __init__(self, practice: Practice) -> None:
        self._state = practice.state
        self.written: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def register_targets(self, lease: Any, resource_type: str, targets: list[Target], now: Any) -> None:
        self.written.append(resource_type)
        self._state.register_targets(lease, resource_type, targets, now)


def begun(practice: Practice, strategies: dict[str, Strategy]) -> tuple[Targets, list[str]]:
    """The targets as after a start, and for which feeds something was written."""
    config = PracticeConfig.model_construct(
        code="p1",
        feeds={feed: FeedConfig() for feed in strategies},
        patients=PatientsConfig(),
        time_zone="UTC",
        patients_per_call=2,
    )
    store: Any = Counted(practice)
    clock: Any = SimpleNamespace(now=lambda: T0)
    targets = Targets(config, practice.lease, store, clock)
    asyncio.run(targets.adopt_all(strategies))
    return targets, store.written


def test_a_restart_that_changes_nothing_writes_nothing_and_knows_the_same(practice: Practice) -> None:
    first, written = begun(practice, STRATEGIES)
    assert set(written) >= set(STRATEGIES)
    again, written = begun(practice, STRATEGIES)
    assert written == []
    assert again.states == first.states != {}


@pytest.mark.parametrize("strategy", [Strategy.SWEEP, Strategy.PATIENT])
def test_a_restart_that_changes_a_feed_writes_that_and_retires_what_it_leaves(
    practice: Practice, strategy: Strategy
) -> None:
    begun(practice, STRATEGIES)
    changed = STRATEGIES | {"Condition": strategy}
    again, written = begun(practice, changed)
    assert "Condition" in written
    stored = {state.target.key for state in practice.state.targets("p1", []) if state.target.resource_type in changed}
    assert stored == set(again.states)
    assert not any(key.startswith("Condition/-/window") for key in again.states)
    assert begun(practice, changed)[1] == []
