"""Absences that no read will ever settle, beside others: they neither hold those up nor eat the budget."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field

from poller.config import PracticeConfig
from poller.config.feed import FeedConfig
from poller.config.secret import Secret
from poller.core.model import Confirmation, Failure, FailureKind, Gone, Kind, Present, Sighting, Target, Unclear
from poller.reconcile import Reconciler
from tests.integration.conftest import KEY, Practice

SICK = Failure(FailureKind.SERVER, 500)


def gone(began: dt.datetime) -> Confirmation:
    return Gone(began, began)


@dataclass
class Server:
    """Answers the reads of single resources, by the practice's clock."""

    practice: Practice
    answers: dict[str, Callable[[dt.datetime], Confirmation]] = field(default_factory=dict)
    last_server_error: dt.datetime | None = None
    asked: list[str] = field(default_factory=list)

    def now(self) -> dt.datetime:
        return self.practice.at(self.practice.tick())

    async def confirm(self, resource_type: str, id_: str) -> Confirmation:  # noqa: ARG002 - the port's
        self.asked.append(id_)
        began = self.now()
        answer = self.answers.get(id_, gone)(began)
        if isinstance(answer, Unclear) and answer.failure.is_server_error:
            self.last_server_error = began
        return answer


def reconciler_of(practice: Practice, server: Server) -> Reconciler:
    config = PracticeConfig(
        code="p1",
        base_url="https://ehr.example.org/fhir",
        client_id="c",
        key=Secret(env="UNUSED"),
        feeds={"Observation": FeedConfig()},
    )
    return Reconciler(config, practice.lease, server, practice.repository, practice.deletes, server, KEY, lambda: None)


def test_a_resource_that_cannot_be_read_holds_up_no_other_delete(practice: Practice) -> None:
    """Some servers answer 500 for what was deleted; that shows a sick server, and made the evidence against all others void."""
    server = Server(practice, {"o1": lambda _: Unclear(SICK)})
    reconciler = reconciler_of(practice, server)
    practice.whole(*map(practice.observation, ("o1", "o2", "o3", "o4")))
    for kept in (["o3", "o4"], ["o4"], ["o4"]):
        practice.whole(*map(practice.observation, kept))
        asyncio.run(reconciler.settle_absences())
    assert [id_ for action, id_, _ in practice.actions() if action == "deleted"] == ["o2", "o3"]


def test_a_resource_that_cannot_be_read_is_read_less_and_less(practice: Practice) -> None:
    server = Server(practice, {"o1": lambda _: Unclear(SICK)})
    reconciler = reconciler_of(practice, server)
    practice.whole(practice.observation("o1"), practice.observation("o2"))
    for _ in range(40):
        practice.whole(practice.observation("o2"))
        asyncio.run(reconciler.settle_absences())
    assert len(server.asked) < 10


def test_all_that_are_due_are_read_however_many(practice: Practice) -> None:
    server = Server(practice)
    reconciler = reconciler_of(practice, server)
    practice.whole(*(practice.observation(f"o{n}") for n in range(103)))
    practice.whole()
    asyncio.run(reconciler.settle_absences())
    assert len(server.asked) == 103


def test_what_has_moved_to_another_patient_is_not_asked_for_in_every_round(by_patient: Practice) -> None:
    """A merge moves hundreds of resources; reading each in every round would leave no call for anything else."""
    of_a, of_b = (Target("p1", "Observation", Kind.PATIENT, patient=name) for name in ("a", "b"))
    by_patient.register(of_a, of_b)
    first, moved = (by_patient.observation("o1", subject={"reference": f"Patient/{name}"}) for name in ("a", "b"))
    server = Server(by_patient, {"o1": lambda began: Present(Sighting("Observation", "o1", moved, began, began))})
    reconciler = reconciler_of(by_patient, server)
    by_patient.whole(first, target=of_a)
    for _ in range(10):
        by_patient.whole(target=of_a)
        asyncio.run(reconciler.settle_absences())
        by_patient.whole(moved, target=of_b)
        asyncio.run(reconciler.settle_absences())
    assert len(server.asked) <= 2
    del server.answers["o1"]
    by_patient.whole(target=of_b)
    asyncio.run(reconciler.settle_absences())
    assert by_patient.actions()[-1] == ("deleted", "o1", 3), "who has it now notices when it goes"
