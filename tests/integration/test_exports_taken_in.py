"""What an export has shown, and what has gone since its kick-off: the next reading of its patient must miss it, or nobody ever does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from poller.beside import Beside, Errands
from poller.config.feed import FeedConfig
from poller.config.model import BulkConfig, PatientsConfig, PracticeConfig
from poller.core.model import Kind, Strategy, Target
from poller.targets import Targets
from tests.integration.conftest import T0, Practice

if TYPE_CHECKING:
    from collections.abc import Callable

CONDITION = {"resourceType": "Condition", "id": "c1", "subject": {"reference": "Patient/a"}}
NAMES = Target("p1", "Patient", Kind.NAMES)


@dataclass
class Exporter:
    """Brings what a test says, and ends as it says."""

    bring: Callable[[], Any]
    is_whole: bool

    async def run(self, *_: Any) -> Any:
        self.bring()
        return SimpleNamespace(job=SimpleNamespace(is_whole=self.is_whole))


@pytest.mark.parametrize("strategy", [Strategy.PATIENT, Strategy.PATIENTS, Strategy.EVERYTHING])
@pytest.mark.parametrize("is_gone", [False, True])
@pytest.mark.parametrize("is_whole", [True, False])
def test_what_an_export_shows_that_no_poll_does_is_missed_by_the_next_poll(
    practice: Practice, strategy: Strategy, *, is_gone: bool, is_whole: bool
) -> None:
    practice.register(NAMES)
    practice.whole(practice.patient("a"), practice.patient("b"), target=NAMES)
    config = PracticeConfig.model_construct(
        code="p1",
        feeds={"Condition": FeedConfig()},
        patients=PatientsConfig(),
        time_zone="UTC",
        patients_per_call=2,
        bulk=BulkConfig(group="g"),
    )
    clock = SimpleNamespace(now=lambda: T0)
    targets = Targets(config, practice.lease, practice.state, clock)

    def bring() -> None:
        if is_gone:
            practice.whole(practice.patient("b"), target=NAMES)
            [absence] = practice.deletes.due("p1")
            practice.confirm(absence)
        bulk = Target("p1", "Condition", Kind.BULK)
        practice.read(CONDITION, second=1, target=bulk, lease=practice.lease)

    async def scenario() -> None:
        await targets.adopt("Condition", strategy)
        for state in list(targets.states.values()):
            practice.whole(target=state.target)
        exports: Any = SimpleNamespace(last_whole=lambda *_: {})
        nothing: Any = SimpleNamespace()
        errands = Errands(nothing, nothing, Exporter(bring, is_whole=is_whole), exports)
        await Beside(config, practice.lease, errands, practice.state, targets, clock)._export()
        for state in list(targets.states.values()):
            practice.whole(target=state.target)

    asyncio.run(scenario())
    assert [absence.id for absence in practice.deletes.due("p1")] == ["c1"]
