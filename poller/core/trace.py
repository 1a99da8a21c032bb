"""Where a resource, or all that a patient has, stopped on its way from the source to the sinks. Pure.

The way has five stations: somebody names the patient, a search is read, it is seen, a change becomes an event, each sink takes that.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

from poller.core.health import FeedHealth

Place = tuple[int, int]
"""Epoch and sequence."""


class Arrival(StrEnum):
    """What became of an event at a sink."""

    DELIVERED = "delivered"
    FILTERED = "filtered"
    """By the sink's filter as it is now."""
    SKIPPED = "skipped"
    """It was recorded before the sink's start."""
    DISCARDED = "discarded"
    """A person gave it up while it was parked."""
    PARKED = "parked"
    WAITING = "waiting"


class Stop(StrEnum):
    """Where it stopped."""

    NO_FEED = "no feed"
    NOBODY = "nobody named the patient"
    WHOSE = "of an unknown patient"
    GONE = "the patient is gone"
    NOT_READ = "not read"
    NOT_SHOWN = "not shown"
    HELD = "delete held"
    NO_EVENT = "no event kept"
    NO_SINK = "no sink"
    PARKED = "parked"
    WAITING = "waiting"
    DISCARDED = "discarded"
    FILTERED = "filtered"
    SKIPPED = "skipped"
    NOT_READ_SINCE = "not read since"
    DELIVERED = "delivered"

    @property
    def is_as_it_should_be(self) -> bool:
        """Whether it went as far as the configuration wants it to."""
        return self in {Stop.GONE, Stop.FILTERED, Stop.SKIPPED, Stop.DELIVERED}


@dataclass(frozen=True, slots=True)
class Naming:
    """A source that has named a patient."""

    source: str
    first: dt.datetime
    last: dt.datetime


@dataclass(frozen=True, slots=True)
class PatientFacts:
    """Somebody who is known to be a patient."""

    since: dt.datetime
    gone_at: dt.datetime | None
    named: tuple[Naming, ...]
    """Earliest first; none: known from before sources were kept."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A search that shows it, or would."""

    feed: str
    kind: str
    category: str | None
    shows_all: bool
    """Whether it shows all there is, rather than what has changed."""
    tried: dt.datetime | None
    whole: dt.datetime | None
    """When the last whole read of it began; None: never."""
    failure: str | None
    """How the last try failed; None if it did not."""
    has_shown: bool | None
    """Whether it has shown the resource; None where that is not kept."""


@dataclass(frozen=True, slots=True)
class StoredFacts:
    """What is stored of a resource."""

    version: int
    deleted: bool
    first_seen: dt.datetime
    changed: dt.datetime
    absence: str | None = None
    """How far it is on the way to a delete; None: it is not missing."""
    absent_why: str = ""
    missing_since: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class SinkPlace:
    """Where a sink began and where it stands."""

    sink: str
    start: str
    """``beginning``, ``now``, ``snapshot``, or a time in ISO 8601."""
    started_at: dt.datetime
    place: Place
    discarded: int = 0
    """Events that a person has given up, of whatever resource."""
    in_snapshot: bool = False
    """Whether its snapshot is under way; its place is then where that was taken."""


@dataclass(frozen=True, slots=True)
class Showing:
    """What a sink that starts from a snapshot gets of a resource in place of the events before."""

    version: int
    """The last one before the start."""
    deleted: bool
    """Whether that is a delete: then it gets nothing."""
    to_come: bool
    """Whether the snapshot has not come to it."""


@dataclass(frozen=True, slots=True)
class At:
    """An event at one sink."""

    sink: str
    arrival: Arrival
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """An event, and what became of it."""

    resource: str
    """``Type/id``."""
    version: int
    action: str
    origin: str
    sequence: str
    recorded_at: dt.datetime
    sinks: tuple[At, ...]


@dataclass(frozen=True, slots=True)
class ResourceTrace:
    """All that is known of a resource's way."""

    practice: str
    resource: str
    feed: FeedHealth | None
    """None: its type is not in the configuration."""
    by_patient: bool
    """Whether its feed is read patient by patient."""
    patient: str | None
    """Whose it is, as far as it is known here."""
    known: PatientFacts | None
    readings: tuple[Reading, ...]
    stored: StoredFacts | None
    events: tuple[Told, ...]
    """The newest first."""
    categories: tuple[str, ...] = ()
    """Those that searches ask for; none: all at once."""
    in_file: bool = False
    """Whether the file has a feed of its type, in force or not."""


@dataclass(frozen=True, slots=True)
class FeedTrace:
    """What a feed has of a patient."""

    feed: FeedHealth
    readings: tuple[Reading, ...]
    stored: int
    deleted: int
    changed: dt.datetime | None


@dataclass(frozen=True, slots=True)
class PatientTrace:
    """All that is known of a patient's way."""

    practice: str
    patient: str
    known: PatientFacts | None
    tried: tuple[tuple[str, dt.datetime | None], ...]
    """Sources of patients that were gone through, and when last whole."""
    feeds: tuple[FeedTrace, ...]
    events: tuple[Told, ...]
    """The newest first; those that are parked among them, however old."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where it stopped, as one sentence, and what to do next."""

    stop: Stop
    sentence: str
    next: str


def arrival(
    place: Place,
    recorded_at: dt.datetime,
    sink: SinkPlace,
    *,
    wanted: bool,
    parked: str | None,
    discarded: str | None = None,
    version: int = 0,
    showing: Showing | None = None,
) -> tuple[Arrival, str]:
    """What became of an event at a sink, and why.

    ``parked``: the reason, if it is; ``discarded``: by whom and why, if it was; ``wanted``: by the filter as it is now; ``showing``: what
    the sink's snapshot shows of the resource, of which the event made ``version``.
    """
    if parked is not None or discarded is not None:
        return (Arrival.PARKED, parked) if parked is not None else (Arrival.DISCARDED, discarded or "")
    if place > sink.place:
        return Arrival.WAITING, ""
    if is_before_start(recorded_at, sink):
        if showing is None:
            return Arrival.SKIPPED, f"the sink starts at {sink.start}"
        return _in_snapshot(version, showing, wanted=wanted)
    if not wanted:
        return Arrival.FILTERED, _FILTERED
    return Arrival.DELIVERED, ""


_FILTERED = "by its filter as it is now"


def _in_snapshot(version: int, showing: Showing, *, wanted: bool) -> tuple[Arrival, str]:
    if version != showing.version:
        return Arrival.SKIPPED, f"the snapshot shows version {showing.version}"
    if showing.deleted:
        return Arrival.SKIPPED, "it was deleted before the snapshot"
    if not wanted:
        return Arrival.FILTERED, _FILTERED
    if showing.to_come:
        return Arrival.WAITING, "its snapshot has not come to it"
    return Arrival.DELIVERED, "in the snapshot that the sink starts from"


def is_before_start(recorded_at: dt.datetime, sink: SinkPlace) -> bool:
    """Whether an event that a sink has passed lies before its start."""
    match sink.start:
        case "beginning":
            return False
        case "now" | "snapshot":
            return sink.in_snapshot or recorded_at <= sink.started_at
        case since:
            return recorded_at < dt.datetime.fromisoformat(since)


def short(sequence: str) -> str:
    """A sequence as a person reads it: epoch and number without the noughts before, e.g. ``1-552``."""
    return "-".join(part.lstrip("0") or "0" for part in sequence.split("-"))
