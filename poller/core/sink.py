"""Where events go, and which of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, TypeAlias

from poller.core.model import Origin

if TYPE_CHECKING:
    from poller.core.model import Event

Payload: TypeAlias = Literal["id-only", "full-resource"]
"""What an event carries of its resource: nothing but names, or everything."""


@dataclass(frozen=True, slots=True)
class Only:
    """Which events a sink wants; an empty tuple means all."""

    practices: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()

    def wants(self, event: Event) -> bool:
        """Whether the event passes."""
        return (
            (not self.practices or event.practice in self.practices)
            and (not self.types or event.resource_type in self.types)
            and (not self.actions or event.action.value in self.actions)
        )

    def patterns(self) -> tuple[str, ...]:
        """Binding patterns that let through exactly these, four words each.

        A star for "all": kombu's virtual transports do not match ``#`` to zero words, and four stars say the same.
        """
        words = (("fhir",), self.practices or ("*",), self.types or ("*",), self.actions or ("*",))
        return tuple(".".join(choice) for choice in product(*words))


@dataclass(frozen=True, slots=True)
class Sink:
    """One exchange with its queues, all bound by the same filter, so that one chain of sequences is true for each of them."""

    name: str
    exchange: str
    queues: tuple[str, ...]
    payload: Payload = "id-only"
    baseline: bool = True
    """Whether the events of a target's first complete pass are wanted."""
    only: Only = Only()

    def wants(self, event: Event) -> bool:
        """Whether the event goes to this sink's queues, or is passed."""
        return (self.baseline or event.origin is not Origin.BASELINE) and self.only.wants(event)
