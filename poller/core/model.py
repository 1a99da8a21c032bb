"""The nouns of the engine, as immutable values.

Nothing here reads a clock, touches the network or logs. Times are timezone-aware UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Callable, Mapping

    from poller.core.attachments import Wanted
    from poller.core.visits import Visit


class Action(StrEnum):
    """What happened to a resource; the closed vocabulary of the contract."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    RESTORED = "restored"
    MERGED = "merged"
    ENTERED_IN_ERROR = "entered-in-error"


class Origin(StrEnum):
    """Why an event exists."""

    LIVE = "live"
    BASELINE = "baseline"
    RECONCILE = "reconcile"
    REPLAY = "replay"


class Strategy(StrEnum):
    """How a feed is read."""

    WINDOW = "window"
    """Practice-wide ``_lastUpdated`` windows, with a content sweep beside them."""
    SWEEP = "sweep"
    """Practice-wide, whole, by content: where ``_lastUpdated`` is ignored or has missed changes."""
    EVERYTHING_WINDOW = "everything-window"
    """A patient's ``$everything`` with ``_since``, with a whole one beside it."""
    PATIENT_WINDOW = "patient-window"
    """``_lastUpdated`` windows of one patient, with a content read of that patient beside them."""
    EVERYTHING = "everything"
    """A patient's ``$everything``: all types in one pass, by content."""
    PATIENTS = "patients"
    """Several patients per call (and category by category), by content."""
    PATIENT = "patient"
    """Patient by patient (and category by category), by content."""

    @property
    def is_of_everything(self) -> bool:
        """Whether one pass reads several types."""
        return self in {Strategy.EVERYTHING, Strategy.EVERYTHING_WINDOW}


EVERY_TYPE = "*"
"""Stands for the resource type of a target that reads several."""


class Kind(StrEnum):
    """What one target asks for."""

    WINDOW = "window"
    SWEEP = "sweep"
    PATIENT = "patient"
    PATIENT_WINDOW = "patient-window"
    PATIENTS = "patients"
    """Several patients in one search; :attr:`Target.patient` names the group, as ``<size>.<number>``."""
    EVERYTHING = "everything"
    EVERYTHING_WINDOW = "everything-window"
    NAMES = "names"
    """Enumerates patients by ``Patient?name=<prefix>``, one search a prefix, as one pass."""
    DAYS = "days"
    """A practitioner's encounters of a few days: shows patients and changes, and no absence."""
    BULK = "bulk"
    """A type as bulk exports show it."""

    @property
    def is_window(self) -> bool:
        """Whether it shows what moved its stamp since a cursor, and so never an absence."""
        return self in {Kind.WINDOW, Kind.PATIENT_WINDOW, Kind.EVERYTHING_WINDOW}

    @property
    def is_everything(self) -> bool:
        """Whether it reads several types."""
        return self in {Kind.EVERYTHING, Kind.EVERYTHING_WINDOW}

    @property
    def tracks_members(self) -> bool:
        """Whether what it shows is kept, so that what is missing from a later pass is noticed."""
        return self in {Kind.PATIENT, Kind.PATIENTS, Kind.EVERYTHING, Kind.NAMES, Kind.BULK}

    @property
    def window_beside(self) -> Kind | None:
        """The windows that stand beside content reads of this kind, where a strategy has both."""
        return {
            Kind.SWEEP: Kind.WINDOW,
            Kind.PATIENT: Kind.PATIENT_WINDOW,
            Kind.EVERYTHING: Kind.EVERYTHING_WINDOW,
        }.get(self)

    @property
    def content_beside(self) -> Kind | None:
        """The content reads that stand beside windows of this kind."""
        return {
            Kind.WINDOW: Kind.SWEEP,
            Kind.PATIENT_WINDOW: Kind.PATIENT,
            Kind.EVERYTHING_WINDOW: Kind.EVERYTHING,
        }.get(self)


class Coverage(StrEnum):
    """What a pass proved."""

    COMPLETE = "complete"
    """Every page was read to the last and nothing contradicts that these are all resources."""
    UNPROVEN = "unproven"
    """Read to the last page, but ``total`` or a shift between pages says that rows may be missing."""
    INCOMPLETE = "incomplete"
    """Ended early, or held something that could not be read."""


class Purpose(StrEnum):
    """What a call is for, most urgent first; the gate serves them in this order."""

    TOKEN = "token"  # noqa: S105 - the purpose of a call, not a secret
    PROBE = "probe"
    ASKED = "asked"
    """A person waits for it."""
    CONFIRM = "confirm"
    DEADLINE = "deadline"
    """What is promised to be read at the latest by now."""
    DETECT = "detect"
    RECONCILE = "reconcile"
    BACKFILL = "backfill"


class FailureKind(StrEnum):
    """Why a call, and with it a pass, did not succeed. :mod:`poller.core.faults` maps answers to these."""

    REFUSED = "refused"
    """4xx that asking again will not mend: a parameter, a scope, a category."""
    UNAUTHORIZED = "unauthorized"
    """No token could be had, or a fresh one was refused as well."""
    LOCKED_OUT = "locked-out"
    """429: nothing more until the minute has turned."""
    SERVER = "server"
    """5xx."""
    TRANSPORT = "transport"
    """No answer, or one cut off."""
    MALFORMED = "malformed"
    """200 with a body that is not the FHIR it should be: HTML, cut-off JSON, another resource type."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call, safe to log: no URL, id, query or body."""

    kind: FailureKind
    status: int | None = None
    detail: str = ""
    """Written by us from a fixed vocabulary, never the server's words (they may name a patient)."""

    @property
    def is_server_error(self) -> bool:
        """Whether this shows a sick server, which makes absences worthless as evidence."""
        return self.kind in {FailureKind.SERVER, FailureKind.TRANSPORT, FailureKind.MALFORMED}


@dataclass(frozen=True, slots=True)
class Target:
    """One search that is read again and again: a feed, and a patient or category where needed."""

    practice: str
    resource_type: str
    kind: Kind
    category: str | None = None
    patient: str | None = None
    """Logical id, without ``Patient/``; or the group's name, or the practitioner's id."""
    names: tuple[str, ...] = ()
    """Prefixes for :attr:`Kind.NAMES`; not part of the key."""
    patients: tuple[str, ...] = ()
    """Logical ids for :attr:`Kind.PATIENTS`; not part of the key."""
    types: tuple[str, ...] = ()
    """The resource types that count, where it reads several; not part of the key."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The resource types that a pass of it is about."""
        return self.types if self.kind.is_everything else (self.resource_type,)

    @property
    def key(self) -> str:
        """Stable key within the practice, e.g. ``Observation/laboratory/patient/p1``. Holds an id: never log it."""
        return "/".join((self.resource_type, self.category or "-", self.kind.value, self.patient or "-"))


@dataclass(frozen=True, slots=True)
class Sighting:
    """A resource as one request showed it."""

    resource_type: str
    id: str
    resource: Mapping[str, Any]
    began: dt.datetime
    """When the request that showed it was sent, by the store's clock."""
    ended: dt.datetime
    """When its answer had arrived."""


@dataclass(frozen=True, slots=True)
class Batch:
    """At most 1,000 sightings; normally one page."""

    sightings: tuple[Sighting, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as content; stored beside every digest, by a number. Other rules make no event, whatever they leave out."""

    form: int
    """Version of the canonical form, which each release has one of."""
    noise: tuple[str, ...] = ()
    """Paths that the configuration leaves out besides, sorted; see :mod:`poller.core.noise`."""


@dataclass(frozen=True, slots=True)
class Detail:
    """What is stored of a version, and told of it."""

    elements: Mapping[str, str]
    """Top-level element name → keyed digest of its canonical content, 16 hex digits."""
    body: bytes
    """The resource as received (key order kept, decimals as written), encoded by ``codec``."""
    codec: int
    last_modified: dt.datetime | None = None
    """``meta.lastUpdated``: the server's claim, never trusted."""
    categories: tuple[str, ...] = ()
    status: str | None = None
    patient: str | None = None
    """Logical id of the patient it belongs to, its own id for a Patient."""
    entered_in_error: bool = False
    replaced_by: str | None = None
    """For a Patient merged into another: the reference in ``link.type=replaced-by``."""
    attachments: tuple[Wanted, ...] | None = None
    """The attachments that it names, where those of its type are fetched."""
    visit: Visit | None = None
    """The visit that it tells of, if it is an Encounter."""


@dataclass(frozen=True)
class Version:
    """A sighting reduced to what is compared. Its :attr:`detail` is worked out when it is asked for: what has not changed needs none."""

    resource_type: str
    id: str
    digest: bytes
    """HMAC-SHA-256 of the canonical content, 32 bytes."""
    rules: Rules
    """Under which it was digested."""
    began: dt.datetime
    ended: dt.datetime
    resource: Mapping[str, Any] = field(repr=False, compare=False)
    work_out: Callable[[], Detail] = field(repr=False, compare=False)
    dropped: tuple[str, ...] = ()
    """Paths whose content was taken out, and is to be in no body."""
    unfiltered: bytes | None = None
    """The digest without the configured noise left out, where there is any: tells what the noise rules hide."""

    @property
    def key(self) -> tuple[str, str]:
        """Type and id."""
        return self.resource_type, self.id

    @cached_property
    def detail(self) -> Detail:
        """All that is stored of it beside the digest."""
        return self.work_out()


@dataclass(frozen=True, slots=True)
class Stored:
    """What the snapshot holds of a resource, without its body."""

    version: int
    deleted: bool
    digest: bytes
    elements: Mapping[str, str]
    rules_version: int
    read_ended: dt.datetime
    entered_in_error: bool
    replaced_by: str | None
    partition_key: str


@dataclass(frozen=True, slots=True)
class Decision:
    """One change to record."""

    action: Action
    version: int
    """Number of the version this makes; 1 for the first."""
    changed: tuple[str, ...]
    """Names of the top-level elements that differ, sorted; empty for created, deleted and restored."""


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the event log with, where asked for, the bodies that its payload needs."""

    practice: str
    epoch: int
    sequence: int
    event_id: uuid.UUID
    resource_type: str
    id: str
    version: int
    action: Action
    origin: Origin
    changed: tuple[str, ...]
    categories: tuple[str, ...]
    status: str | None
    partition_key: str
    """``Patient/<id>`` or ``<Type>/<id>``, frozen at first sight."""
    detected_at: dt.datetime
    previous_read: dt.datetime | None
    last_modified: dt.datetime | None
    replaced_by: str | None = None
    """For a patient merged into another: the reference to that one."""
    evidence: str | None = None
    """What a delete was concluded from, in our words."""
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    """The resource at this version; None for deleted or when not asked for."""
    previous_body: Mapping[str, Any] | None = field(default=None, repr=False)
    """The resource at the version before; None for created or when not asked for."""
    ordinal: int = 0
    """In a snapshot: its number there, from 1, and ``epoch`` and ``sequence`` are where in the log it was taken. 0 in the log."""


@dataclass(frozen=True, slots=True)
class Present:
    """A read of an id showed the resource."""

    sighting: Sighting


@dataclass(frozen=True, slots=True)
class Gone:
    """A read of an id was answered 404 or 410, or an empty search by ``_id`` where a path read cannot serve."""

    began: dt.datetime
    ended: dt.datetime


@dataclass(frozen=True, slots=True)
class Unclear:
    """A read of an id proved nothing."""

    failure: Failure


Confirmation = Present | Gone | Unclear
"""What reading one id came to."""
