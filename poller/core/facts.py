"""How a practice, its feeds and its sinks stand, as the store says it: what :mod:`poller.core.health` judges. No ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datetime as dt


@dataclass(frozen=True, slots=True)
class Hold:
    """Why something is left alone."""

    since: dt.datetime
    reason: str
    actor: str | None = None
    """The operator; None: the poller itself."""
    until: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class FeedFacts:
    """What the store says of a feed."""

    feed: str
    read_by: str | None
    """The rung; None while it is not known how it can be read."""
    late: bool
    searches: int = 0
    unread: int = 0
    """Of these, how many were never read whole."""
    failing: int = 0
    """Of these, how many failed at the last try."""
    failure: str | None = None
    """How most of those failed: a :class:`poller.core.model.FailureKind`."""
    last_complete: dt.datetime | None = None
    """When a whole read last ended, of any search."""
    oldest: dt.datetime | None = None
    """When the search that was read whole longest ago was; one that never was counts from when it was made."""
    refused_since: dt.datetime | None = None
    reason: str = ""
    """Why it is read so, or not at all."""
    advice: str | None = None
    retired_at: dt.datetime | None = None
    paused: Hold | None = None
    """By an operator, also as part of its practice."""
    shut_out: Hold | None = None
    """By the poller itself: this feed alone."""
    held_deletes: int = 0
    nobody: bool = False
    """Whether it is read patient by patient, and there was time to hear of one, and none is known."""


@dataclass(frozen=True, slots=True)
class PatientSourceFacts:
    """A file or a Group that is to name patients and was not gone through to its end."""

    source: str
    """As :class:`poller.store.known.PatientSource` has it."""
    failure: str | None
    """What is wrong, in our own words; None: nobody has come to it."""
    whole: dt.datetime | None = None
    """When it last was."""


@dataclass(frozen=True, slots=True)
class SinkFacts:
    """What became of a practice's changes at a sink."""

    sink: str
    recorded: int = 0
    skipped: int = 0
    delivered: int = 0
    filtered: int = 0
    discarded: int = 0
    parked: int = 0
    released: int = 0
    waiting: int = 0
    configured: bool = True
    begun: bool = True
    """Whether it has ever taken its place in the log: a poller does that as soon as it has reached the sink's broker."""
    wanted_since: dt.datetime | None = None
    """Of one that has not begun: since when the configuration in force names it, or longer."""
    in_snapshot: bool = False
    shown: int = 0
    """Resources of the snapshot that have been passed."""
    moved_at: dt.datetime | None = None
    """When its cursor was last moved; None: never."""
    held_by: str | None = None
    """The replay that delivery waits for."""
    trouble: str | None = None
    """What keeps it, in the words of the relay that found out,"""
    trouble_since: dt.datetime | None = None
    oldest_waiting: dt.datetime | None = None
    """When the first event that it has not passed was recorded."""
    parked_for: tuple[tuple[str, int], ...] = ()
    """Reasons, each with how many events that are not released, most first; those of a snapshot count, which are in no books."""

    @property
    def stuck(self) -> int:
        """Events that are parked, of the log or of a snapshot."""
        return max(self.parked, sum(events for _, events in self.parked_for))

    @property
    def missing(self) -> int:
        """Changes of which nobody can say what became of them; 0, or something is wrong."""
        passed = self.skipped + self.delivered + self.filtered + self.discarded
        return self.recorded - passed - self.parked - self.waiting


@dataclass(frozen=True, slots=True)
class BudgetFacts:
    """Calls a minute."""

    limit: int
    leave: float
    """As many may leave, our share of the limit, less what keeps it kept."""
    used: int = 0
    """Granted in the last whole minute."""
    part: float = 1.0
    """What 429s have left of it."""
    blocked_until: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class PracticeFacts:
    """What the store says of a practice."""

    code: str
    feeds: tuple[FeedFacts, ...]
    sinks: tuple[SinkFacts, ...]
    budget: BudgetFacts
    last_look: dt.datetime | None
    """When a poller last looked after it; None: never."""
    looked_by: str | None = None
    """``host:pid``."""
    began: dt.datetime | None = None
    """When the youngest poller began that runs by the configuration in force; None: none runs."""
    paused: Hold | None = None
    """As a whole, by an operator,"""
    shut_out: Hold | None = None
    """or by the poller itself."""
    in_force: bool = True
    """Whether the configuration in force names it."""
    configured: bool = True
    """Whether that or the file does; else what is left of it is told."""
    failing_sources: tuple[PatientSourceFacts, ...] = ()
    failure: str | None = None
    """The code of the error, ours or Postgres's, that reading it ended in, where no pass has ended well since;"""
    failing_since: dt.datetime | None = None
    """when it first did."""


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """The configuration in force, and the file."""

    revision: int | None
    """In force; None: none was ever accepted."""
    accepted_at: dt.datetime | None = None
    problems: tuple[str, ...] = ()
    """What is wrong with the file as it stands."""
    differs: bool = False
    """Whether the file says something else than what is in force."""
    refused_at: dt.datetime | None = None
    """When a running poller was last asked to read it again and refused, if nothing was accepted since,"""
    refused_for: tuple[str, ...] = ()
    """and why."""
