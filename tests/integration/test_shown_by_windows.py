"""What only a window has shown, of a patient or of a practitioner's days, is missed by the next content read when it goes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from poller.config.feed import FeedConfig
from poller.config.model import PatientsConfig, PracticeConfig
from poller.core.model import Kind, Strategy, Target
from poller.targets import Targets
from tests.integration.conftest import T0, Practice

NAMES = Target("p1", "Patient", Kind.NAMES)
ENCOUNTER = {"resourceType": "Encounter", "id": "e1", "subject": {"reference": "Patient/a"}}


@pytest.mark.parametrize(
    ("strategy", "shown_by"),
    [
        (Strategy.PATIENT_WINDOW, Kind.PATIENT_WINDOW),
        (Strategy.EVERYTHING_WINDOW, Kind.EVERYTHING_WINDOW),
        (Strategy.PATIENT, Kind.DAYS),
        (Strategy.PATIENTS, Kind.DAYS),
        (Strategy.EVERYTHING, Kind.DAYS),
        (Strategy.PATIENT_WINDOW, Kind.DAYS),
    ],
)
def test_what_a_window_shows_first_is_missed_when_it_goes(
    practice: Practice, strategy: Strategy, shown_by: Kind
) -> None:
    practice.register(NAMES)
    practice.whole(practice.patient("a"), practice.patient("b"), target=NAMES)
    config = PracticeConfig.model_construct(
        code="p1",
        feeds={"Encounter": FeedConfig()},
        patients=PatientsConfig(practitioners=("d",)),
        time_zone="UTC",
        patients_per_call=2,
    )
    targets = Targets(config, practice.lease, practice.state, SimpleNamespace(now=lambda: T0))

    async def scenario() -> None:
        await targets.adopt("Encounter", strategy)
        window = next(
            state.target
            for state in targets.states.values()
            if state.target.kind is shown_by and state.target.patient != "b"
        )
        contents = [state.target for state in targets.states.values() if state.target.kind.tracks_members]
        for target in contents:
            practice.whole(target=target)
        practice.read(ENCOUNTER, target=window, missed_by=targets.missing(window))
        for target in contents:
            practice.whole(target=target)

    asyncio.run(scenario())
    assert [absence.id for absence in practice.deletes.due("p1")] == ["e1"]
