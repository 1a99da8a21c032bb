"""Where events go, and which of them; and what becomes of each event that a sink passes.

Every event of the log is, for a sink, exactly one of: skipped (before the sink's start), filtered, delivered, parked, discarded by a
person, or still waiting. :func:`sort_out` and :func:`settle` are where that is decided, so that the books (``poller sinks list``) can be
held against the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from poller.core.labels import codings, has, labels
from poller.core.model import Action, Origin

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from poller.core.model import Event

Payload: TypeAlias = Literal["id-only", "full-resource"]
"""What an event carries of its resource: nothing but names, or everything."""

CODE_ELEMENTS = ("code", "vaccineCode", "medicationCodeableConcept", "type")
"""Where FHIR R4 says what a resource is of, by type: Observation.code, Immunization.vaccineCode, DocumentReference.type and so on."""


@dataclass(frozen=True, slots=True)
class Only:
    """Which events a sink wants; an empty tuple means all.

    Codes and security labels are written as FHIR writes tokens: ``code``, or ``system|code`` (FHIR R4 §3.1.1.4.10).
    """

    practices: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Top-level elements, one of which an update must have changed. Other actions pass: errors entered must be heard of."""
    security: tuple[str, ...] = ()
    without_security: tuple[str, ...] = ()
    """Labels of which a resource must have none."""

    @property
    def reads_bodies(self) -> bool:
        """Whether the event's row does not suffice: codes and labels stand in bodies, which are opaque to SQL."""
        return bool(self.codes or self.security or self.without_security)

    def wants(self, event: Event) -> bool:
        """Whether the event passes."""
        return (
            (not self.practices or event.practice in self.practices)
            and (not self.types or event.resource_type in self.types)
            and (not self.actions or event.action.value in self.actions)
            and (not self.categories or not set(self.categories).isdisjoint(event.categories))
            and (not self.statuses or event.status in self.statuses)
            and (not self.changed or self._wants_change(event))
            and (not self.reads_bodies or self._wants_body(event))
        )

    def _wants_change(self, event: Event) -> bool:
        is_update = event.action is Action.UPDATED and bool(event.changed)
        return not is_update or not set(self.changed).isdisjoint(event.changed)

    def _wants_body(self, event: Event) -> bool:
        """By code and label: of the version, or of the one before it, so that a sink hears that something has left its filter.

        A resource of which no version is at hand passes, for nothing may be lost; except by ``without_security``, since what is withheld
        for its label must not slip out.
        """
        now = event.body if event.body is not None else event.previous_body
        if self.without_security and (now is None or has(labels(now), self.without_security)):
            return False
        before = event.previous_body if event.action is not Action.CREATED else None
        known = [body for body in (event.body, before) if body is not None]
        return not known or any(
            (not self.codes or has(_codes(body), self.codes))
            and (not self.security or has(labels(body), self.security))
            for body in known
        )

    def patterns(self) -> tuple[str, ...]:
        """Binding patterns that let through all of these, four words each.

        A star for "all": kombu's virtual transports do not match ``#`` to zero words, and four stars say the same. What a routing key does
        not say is filtered before anything is published.
        """
        words = (("fhir",), self.practices or ("*",), self.types or ("*",), self.actions or ("*",))
        return tuple(".".join(choice) for choice in product(*words))


@dataclass(frozen=True, slots=True)
class Start:
    """Where a sink begins in the log when it is new: applied once, to all practices there are then."""

    at: Literal["beginning", "now", "time", "snapshot"] = "beginning"
    since: dt.datetime | None = None
    """With ``time``: the first event recorded then or later is the first one that goes out."""


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
    start: Start = Start()
    pace: float | None = None
    """Events a second at most; None: as fast as the broker takes them."""

    @property
    def reads_bodies(self) -> bool:
        """Whether events must come with their bodies."""
        return self.payload == "full-resource" or self.only.reads_bodies

    def wants(self, event: Event) -> bool:
        """Whether the event goes to this sink's queues, or is passed. A snapshot's always do: whoever asks for one wants what is there.

        The place of one whose patient was forgotten has no id, and nothing to tell.
        """
        if not event.id:
            return False
        wanted = self.baseline or event.origin is not Origin.BASELINE or event.ordinal > 0
        return wanted and self.only.wants(event)


class Fate(StrEnum):
    """What is to become of an event that a sink comes to."""

    FILTERED = "filtered"
    BEHIND = "behind"
    """Parked, since an earlier one of its resource is."""
    ASKED = "asked"
    """Parked, since an operator wants it so."""
    SEND = "send"


@dataclass(frozen=True, slots=True)
class Parking:
    """An event that leaves the stream until it is released."""

    event: Event
    reason: str
    released: bool = False
    """To be tried once more by itself, without a person's word."""
    behind: bool = False
    """Parked only for an earlier one of its resource: goes out when that does."""


@dataclass(frozen=True, slots=True)
class Step:
    """How far a cursor moves, and what became of each event on the way."""

    last: Event
    routed: Event | None
    """The event that went to the queues last; None if none did."""
    delivered: int
    filtered: int
    parked: tuple[Parking, ...] = ()

    @property
    def passed(self) -> int:
        """How many events are on the way."""
        return self.delivered + self.filtered + len(self.parked)


BEHIND = "an earlier one of the same resource is parked"
ASKED = "an operator wants it parked"
TRIED_AGAIN = "it came between a refused event and one that was taken"


def sort_out(
    events: Sequence[Event],
    sink: Sink,
    parked: Collection[tuple[str, str]],
    asked: Collection[tuple[int, int]] = (),
) -> list[Fate]:
    """What is to become of each event.

    ``parked`` are the resources (type, id) of which events are parked already, ``asked`` the events of the log (epoch, sequence) that an
    operator wants parked: later ones of their resources go behind them.
    """
    fates, waiting = [], set(parked)
    for event in events:
        resource = (event.resource_type, event.id)
        if not sink.wants(event):
            fates.append(Fate.FILTERED)
        elif (
            event.ordinal == 0 and (event.epoch, event.sequence) in asked
        ):  # also behind others, which may be released before it
            waiting.add(resource)
            fates.append(Fate.ASKED)
        elif resource in waiting:
            fates.append(Fate.BEHIND)
        else:
            fates.append(Fate.SEND)
    return fates


def settle(events: Sequence[Event], fates: Sequence[Fate], confirmed: int) -> Step | None:
    """The step after the first ``confirmed`` of the events to send were taken; None if nothing is passed."""
    passed: list[tuple[Event, Fate]] = []
    left = confirmed
    for event, fate in zip(events, fates, strict=True):
        if fate is Fate.SEND:
            if left == 0:
                break
            left -= 1
        passed.append((event, fate))
    return _step(passed, {}) if passed else None


def go_around(events: Sequence[Event], fates: Sequence[Fate], taken: int, why: str) -> Step:
    """The step past an event that is refused while a later one, ``events[taken]``, was taken.

    The refused one is the first to send. It and those between that were to be sent are parked and released at once: each is tried once more
    by itself, in order, and only what is refused then waits for a person.
    """
    between: dict[int, Parking] = {}
    for index, (event, fate) in enumerate(zip(events[:taken], fates[:taken], strict=True)):
        if fate is Fate.SEND:
            between[index] = Parking(event, TRIED_AGAIN if between else why, released=True)
    return _step(list(zip(events[: taken + 1], fates[: taken + 1], strict=True)), between)


def park_first(events: Sequence[Event], fates: Sequence[Fate], why: str) -> Step:
    """The step past the first event to send, which the broker has said that it will never take."""
    first = fates.index(Fate.SEND)
    passed = list(zip(events[: first + 1], fates[: first + 1], strict=True))
    return _step(passed, {first: Parking(events[first], why)})


def witnesses(events: Sequence[Event], fates: Sequence[Fate], most: int) -> Iterator[int]:
    """Events by which to tell a refusal of one event from a refusal of all: of other resources, and each of another routing key.

    The first is the next one of another resource, whatever its key: it is the likeliest to pass.
    """
    to_send = [index for index, fate in enumerate(fates) if fate is Fate.SEND]
    if not to_send:
        return
    refused = events[to_send[0]]
    seen: set[tuple[str, str]] = set()
    for index in to_send[1:]:
        event = events[index]
        key = (event.resource_type, event.action.value)
        if (event.resource_type, event.id) == (refused.resource_type, refused.id) or key in seen:
            continue
        seen.add(key)
        yield index
        if len(seen) == most:
            return


def _step(passed: Sequence[tuple[Event, Fate]], parkings: Mapping[int, Parking]) -> Step:
    asked = {index: Parking(event, ASKED) for index, (event, fate) in enumerate(passed) if fate is Fate.ASKED}
    parkings = {**parkings, **asked}
    delivered = [event for index, (event, fate) in enumerate(passed) if fate is Fate.SEND and index not in parkings]
    parked = [
        parkings.get(index) or Parking(event, BEHIND, behind=True)
        for index, (event, fate) in enumerate(passed)
        if index in parkings or fate is Fate.BEHIND
    ]
    return Step(
        last=passed[-1][0],
        routed=delivered[-1] if delivered else None,
        delivered=len(delivered),
        filtered=sum(fate is Fate.FILTERED for _, fate in passed),
        parked=tuple(parked),
    )


def _codes(resource: Mapping[str, Any]) -> list[tuple[str, str]]:
    concepts: list[Any] = []
    for name in CODE_ELEMENTS:
        value = resource.get(name)
        concepts += value if isinstance(value, list) else [value]
    return [coding for concept in concepts if isinstance(concept, dict) for coding in codings(concept.get("coding"))]
