"""Reads all that a patient has, because a person asks for it: before everything else, within the budget."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from poller.clock import Clock
from poller.core.model import Gone, Present, Strategy, Target, Unclear
from poller.cycle import Came, Cycle
from poller.errors import NotFound, PollerError
from poller.reconcile import Reconciler
from poller.store.repository import Lease

Tell = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Told how far it is, again and again. Holds no id."""


class Registry(Protocol):
    """Where patients are kept."""

    def know_patient(self, lease: Lease, id_: str, now: Any) -> None:
        """Keep a patient whom the source has shown."""
        ...


@dataclass
class _Reading:
    """How far a reading is."""

    new: bool = False
    """Whether the patient was not known before."""
    total: int = 0
    passes: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def said(self) -> dict[str, Any]:
        return {"new": self.new, "total": self.total, "passes": list(self.passes), "notes": list(self.notes)}


async def read_patient(
    patient: str, cycle: Cycle, reconciler: Reconciler, registry: Registry, lease: Lease, clock: Clock, tell: Tell
) -> dict[str, Any]:
    """Read a patient's targets now, and say what came of each. Raises NotFound for one whom the source does not show.

    The Patient resource is read by its id first. One whom nobody has named yet, and whom the source shows, is a patient from then on.
    """
    reading = _Reading()
    known = cycle.targets.knows(patient)
    match await reconciler.look_at("Patient", patient):
        case Present():
            if not known:
                await asyncio.to_thread(registry.know_patient, lease, patient, clock.now())
                await cycle.targets.register()
                reading.new = True
        case Gone() if not known:
            raise NotFound("the source shows no patient with this id, and none is known here")
        case Gone():
            reading.notes.append(
                "the source does not show the Patient resource any more; deletes follow from complete reads"
            )
        case Unclear(failure) if not known:
            raise PollerError(
                f"whether there is such a patient could not be found out: {failure.detail or failure.kind.value}"
            )
        case Unclear(failure):
            reading.notes.append(f"the Patient resource could not be read: {failure.detail or failure.kind.value}")
    targets = [state.target for state in cycle.targets.of_patient(patient)]
    reading.total = len(targets)
    reading.notes.extend(_left_out(cycle))
    await tell(reading.said())

    async def read(target: Target) -> None:
        reading.passes.append(_told(target, await cycle.read_at_once(target.key)))
        await tell(reading.said())

    await asyncio.gather(*(read(target) for target in targets))
    return reading.said()


def _left_out(cycle: Cycle) -> list[str]:
    return [
        f"{feed} is read by sweeps of the whole practice, never of one patient; it is left to its schedule"
        for feed, strategy in sorted(cycle.targets.strategies.items())
        if strategy is Strategy.SWEEP
    ]


def _told(target: Target, came: Came | None) -> dict[str, Any]:
    what = {"feeds": list(target.reads), "category": target.category, "kind": target.kind.value}
    if came is None:
        return what | {"coverage": None, "changes": 0, "failure": "not read any more"}
    failure = came.failure
    return what | {
        "coverage": came.coverage.value,
        "changes": came.changes,
        "failure": (failure.detail or failure.kind.value) if failure is not None else None,
    }
