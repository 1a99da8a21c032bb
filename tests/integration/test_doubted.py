"""What a patient's ``$everything`` shows with elements missing is read by its id: the operation may cut, and that is no change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from poller.core.model import Failure, FailureKind, Kind, Strategy, Target, Unclear
from tests.integration.test_service import CONDITION, Rig, Server, run

if TYPE_CHECKING:
    from poller.core.model import Confirmation
    from tests.integration.conftest import Practice

EVERYTHING, PATIENT = Strategy.EVERYTHING, Strategy.PATIENT
IDS = ("c1", "c2", "c3")
WHOLE = {id_: CONDITION | {"id": id_, "note": "all of it"} for id_ in IDS}
CUT = {id_: {name: value for name, value in one.items() if name != "note"} for id_, one in WHOLE.items()}


class Closed(Server):
    """Reads of single resources fail."""

    async def confirm(self, resource_type: str, id_: str) -> Confirmation:  # noqa: ARG002 - the port's
        return Unclear(Failure(FailureKind.SERVER, 500))


def rig_of(practice: Practice, server: Server) -> Rig:
    """A patient with three conditions, by ``$everything``."""
    names = Target("p1", "Patient", Kind.NAMES)
    practice.register(names)
    practice.whole(practice.patient("a"), target=names)
    server.offers = {"Condition": (EVERYTHING, PATIENT)}
    server.shows["*"] = list(WHOLE.values())
    return Rig(practice, server)


async def shows(rig: Rig, there: dict[str, dict[str, Any]], *more: dict[str, Any]) -> None:
    """``$everything`` shows them cut, and a few passes are made; ``there`` is what each is when it is read alone."""
    await rig.begin()
    await rig.go_on(2)
    rig.server.shows["*"] = [*CUT.values(), *more]
    rig.server.there = {("Condition", id_): one for id_, one in there.items()}
    for seconds in (40, 3, 3, 3, 3):
        await rig.go_on(seconds)


def changed(practice: Practice) -> list[tuple[str, str, int]]:
    return [event for event in practice.actions() if event[0] != "created"]


def test_what_is_cut_is_no_change_and_ends_the_rung(practice: Practice) -> None:
    rig = rig_of(practice, Server())
    new = CONDITION | {"id": "c4"}  # may be cut as well, and nothing is stored that would tell

    async def scenario() -> None:
        rig.server.shows["Condition"] = [*WHOLE.values(), new]
        await shows(rig, WHOLE, new)
        assert rig.rung is PATIENT

    run(scenario)
    assert practice.actions() == [("created", id_, 1) for id_ in ("a", *IDS, "c4")]


def test_what_has_truly_lost_an_element_is_updated_and_the_rung_stays(practice: Practice) -> None:
    rig = rig_of(practice, Server())

    async def scenario() -> None:
        await shows(rig, CUT)
        assert rig.rung is EVERYTHING

    run(scenario)
    assert changed(practice) == [("updated", id_, 2) for id_ in IDS]


def test_what_cannot_be_read_alone_is_believed_at_last(practice: Practice) -> None:
    rig = rig_of(practice, Closed())

    async def scenario() -> None:
        await shows(rig, WHOLE)
        assert rig.rung is EVERYTHING

    run(scenario)
    assert changed(practice) == [("updated", id_, 2) for id_ in IDS]


@pytest.mark.parametrize("offers", [(EVERYTHING,), (EVERYTHING, PATIENT)])
def test_where_there_is_no_other_way_it_is_believed(practice: Practice, offers: tuple[Strategy, ...]) -> None:
    rig = rig_of(practice, Server())
    rig.server.offers["Condition"] = offers

    async def scenario() -> None:
        await shows(rig, WHOLE)

    run(scenario)
    assert bool(changed(practice)) == (PATIENT not in offers)
