"""What state a feed is in, how its practice is, and what is to be done next. Pure: what the store says and ``now`` in, a verdict out.

Whether a feed is late is not decided here but by :func:`poller.core.plan.late`, from what was read. This adds what a poller cannot say of
itself: that there is none any more.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from poller.core.advice import (
    late_words,
    next_for_failure,
    next_for_late,
    next_for_parked,
    next_for_pause,
    next_for_removed,
    next_for_sink,
    next_for_source,
)
from poller.core.facts import ConfigFacts, FeedFacts, Hold, PatientSourceFacts, PracticeFacts, SinkFacts

GONE: Final = dt.timedelta(minutes=1)
"""A poller that has not looked after a practice for so long is gone, or stands still: several times as long as it leaves between notes.

A note of a time to come is as bad: the database's clock was put back, and whoever still looks has noted an earlier one since."""

BEGINS: Final = dt.timedelta(minutes=1)
"""A sink begins as soon as its broker is reached; one that has not after so long is kept from it."""

WAITS_LONG: Final = dt.timedelta(minutes=5)
"""An event that a sink has not taken for so long is somebody's business."""


_WITH_ITS_PRACTICE: Final = "with its practice"


class FeedState(StrEnum):
    """The one word for a feed, the first that is true of these: retired, paused, refused, late, baseline, fresh."""

    FRESH = "fresh"
    LATE = "late"
    REFUSED = "refused"
    PAUSED = "paused"
    BASELINE = "baseline"
    """Its first whole read is under way, and not late."""
    RETIRED = "retired"


class State(StrEnum):
    """The one word for a practice."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    PAUSED = "paused"
    """By an operator, as a whole, and nothing else is wrong."""
    UNATTENDED = "unattended"
    """No poller looks after it."""
    STARTING = "starting"
    """A poller has just begun, and not come to it yet; and nothing else is wrong."""


class Cause(StrEnum):
    """What is found, most urgent first: what stands behind another comes before it."""

    NO_POLLER = "no poller"
    BEGINS_AGAIN = "begins again"
    SHUT_OUT = "shut out"
    REFUSED = "refused"
    FEED_PAUSED = "feed paused"
    LOCKED_OUT = "locked out"
    SOURCE = "patients' source"
    NO_PATIENT = "no patient"
    LATE = "late"
    NOT_CONFIGURED = "not configured"
    BOOKS = "books"
    NOT_BEGUN = "never begun"
    PARKED = "parked"
    SNAPSHOT = "snapshot stands still"
    WAITING = "waiting"
    HELD_DELETES = "held deletes"
    CONFIG_REFUSED = "config refused"
    CONFIG_DIFFERS = "config differs"
    NOT_IN_FORCE = "not in force"
    OPERATOR_PAUSE = "operator's pause"

    @property
    def is_trouble(self) -> bool:
        """Whether somebody must do something; else it is only good to know."""
        return self not in {Cause.CONFIG_DIFFERS, Cause.NOT_IN_FORCE, Cause.OPERATOR_PAUSE}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should know, and what to do next. No id, no word of a server."""

    cause: Cause
    what: str
    next: str
    feeds: tuple[str, ...] = ()
    sink: str | None = None


@dataclass(frozen=True, slots=True)
class FeedHealth:
    """The verdict on a feed."""

    facts: FeedFacts
    state: FeedState
    why: str
    """In a few words; empty where the state says all."""


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict on a practice."""

    facts: PracticeFacts
    state: State
    feeds: tuple[FeedHealth, ...]
    findings: tuple[Finding, ...]
    """Most urgent first."""


def is_gone(facts: PracticeFacts, now: dt.datetime) -> bool:
    """Whether no poller looks after a practice that the configuration in force names."""
    if not facts.in_force or is_starting(facts, now):
        return False
    return facts.last_look is None or abs(now - facts.last_look) > GONE


def is_starting(facts: PracticeFacts, now: dt.datetime) -> bool:
    """Whether a poller began so lately that it need not have come to the practice yet."""
    began = facts.began
    if not facts.in_force or began is None or abs(now - began) > GONE:
        return False
    return facts.last_look is None or facts.last_look < began


def judge(facts: PracticeFacts, now: dt.datetime) -> Health:
    """The state of each feed and of the practice, and what to do next."""
    gone = is_gone(facts, now)
    feeds = tuple(_judge_feed(feed, facts, now, gone=gone) for feed in facts.feeds)
    found = sorted(_findings(facts, feeds, now, gone=gone), key=lambda one: list(Cause).index(one.cause))
    if gone:
        state = State.UNATTENDED
    elif any(one.cause.is_trouble for one in found):
        state = State.DEGRADED
    elif is_starting(facts, now):
        state = State.STARTING
    else:
        state = State.PAUSED if facts.paused is not None else State.HEALTHY
    return Health(facts, state, feeds, tuple(found))


def judge_configuration(facts: ConfigFacts, path: str) -> tuple[Finding, ...]:
    """What is to be known of the configuration: refused by a poller, broken, or not taken up."""
    in_force = f"revision {facts.revision} stays in force" if facts.revision is not None else "none is in force"
    mend = f"mend {path}, `poller check`, then `poller reload`"
    if facts.problems:
        return (Finding(Cause.CONFIG_REFUSED, f"the file is broken, {in_force}: {_first(facts.problems)}", mend),)
    if facts.refused_at is not None and facts.differs:
        what = f"the reload at {_time(facts.refused_at)} was refused, {in_force}: {_first(facts.refused_for)}"
        return (Finding(Cause.CONFIG_REFUSED, what, mend),)
    if facts.differs:
        what = f"{path} says something else than revision {facts.revision}, which is in force"
        return (Finding(Cause.CONFIG_DIFFERS, what, "`poller reload` takes it up"),)
    return ()


def _judge_feed(feed: FeedFacts, practice: PracticeFacts, now: dt.datetime, *, gone: bool) -> FeedHealth:
    if feed.retired_at is not None:
        return FeedHealth(feed, FeedState.RETIRED, f"since {_time(feed.retired_at)}; kept, not read")
    if practice.paused is not None:
        return FeedHealth(feed, FeedState.PAUSED, _WITH_ITS_PRACTICE)
    if feed.paused is not None:
        return FeedHealth(feed, FeedState.PAUSED, _hold_words(feed.paused))
    if (hold := practice.shut_out or feed.shut_out) is not None:
        state = FeedState.REFUSED if hold.reason.startswith("refused") else FeedState.PAUSED
        return FeedHealth(feed, state, _WITH_ITS_PRACTICE if practice.shut_out is not None else _hold_words(hold))
    if feed.refused_since is not None:
        return FeedHealth(feed, FeedState.REFUSED, feed.reason)
    return _judge_read(feed, practice, now, gone=gone)


def _judge_read(feed: FeedFacts, practice: PracticeFacts, now: dt.datetime, *, gone: bool) -> FeedHealth:
    """The verdict on a feed that is to be read and not refused."""
    if gone:
        return FeedHealth(feed, FeedState.LATE, "no poller reads it")
    if not practice.in_force:
        return FeedHealth(feed, FeedState.BASELINE, "not in force yet")
    if feed.read_by is None and is_starting(practice, now):
        return FeedHealth(feed, FeedState.BASELINE, "a poller has just begun")
    if feed.late:
        return FeedHealth(feed, FeedState.LATE, late_words(feed, now))
    if feed.unread or feed.read_by is None or not feed.searches:
        return FeedHealth(feed, FeedState.BASELINE, _baseline_words(feed))
    return FeedHealth(feed, FeedState.FRESH, f"{feed.failing} of {feed.searches} failed lately" if feed.failing else "")


def _findings(facts: PracticeFacts, feeds: Sequence[FeedHealth], now: dt.datetime, *, gone: bool) -> Iterator[Finding]:
    if not facts.configured:
        yield from _removed_findings(facts)
        return
    if gone:
        yield Finding(
            Cause.NO_POLLER,
            _gone_words(facts.last_look, now),
            "start `poller run`; if it runs, its log says why it stands still (action=lease.wait, practice.restart)",
        )
    if not facts.in_force:
        yield Finding(Cause.NOT_IN_FORCE, "it is in the file, and not in force", "`poller reload` takes it up")
    if facts.failure is not None and facts.paused is None:
        since = f" since {_time(facts.failing_since)}" if facts.failing_since is not None else ""
        what = f"reading it ends in an error and begins again{since}, and no pass has ended well since then: {facts.failure}"
        yield Finding(Cause.BEGINS_AGAIN, what, next_for_failure(facts.failure))
    yield from _pause_findings(facts, feeds)
    if not gone and facts.shut_out is None:
        yield from _patient_findings(facts, feeds)
        yield from _late_findings(facts, feeds)
    yield from _refused_findings(facts, feeds)
    for sink in facts.sinks:
        yield from _sink_findings(facts.code, sink, now, gone=gone)
    held = [feed.facts for feed in feeds if feed.facts.held_deletes]
    if held:
        said = ", ".join(f"{feed.held_deletes} of {feed.feed}" for feed in held)
        yield Finding(
            Cause.HELD_DELETES,
            f"deletes are held, more at once than deletes.max_fraction allows: {said}",
            f"`poller deletes list {facts.code}`, ask the practice, then `poller deletes release {facts.code}` or `discard`",
            tuple(feed.feed for feed in held),
        )


def _pause_findings(facts: PracticeFacts, feeds: Sequence[FeedHealth]) -> Iterator[Finding]:
    if (hold := facts.shut_out) is not None and facts.paused is None:
        what = f"the poller has paused the practice, {_hold_words(hold)}"
        yield Finding(Cause.SHUT_OUT, what, next_for_pause(hold.reason, facts.code))
    if (hold := facts.paused) is not None:
        what = f"an operator has paused the practice, {_hold_words(hold)}"
        yield Finding(Cause.OPERATOR_PAUSE, what, f"`poller resume {facts.code}` when it may be read again")
        return
    for feed in feeds:
        name, hold = feed.facts.feed, feed.facts.paused
        if feed.state is FeedState.RETIRED:
            continue
        if hold is not None:
            what = f"an operator has paused {name}, {_hold_words(hold)}"
            then = f"`poller resume {facts.code} {name}` when it may be read again"
            yield Finding(Cause.OPERATOR_PAUSE, what, then, (name,))
        elif (own := feed.facts.shut_out) is not None and feed.state is FeedState.PAUSED and facts.shut_out is None:
            what = f"the poller has paused {name}, {_hold_words(own)}"
            yield Finding(Cause.FEED_PAUSED, what, next_for_pause(own.reason, facts.code), (name,))


def _refused_findings(facts: PracticeFacts, feeds: Sequence[FeedHealth]) -> Iterator[Finding]:
    if facts.shut_out is not None:
        return
    for feed in feeds:
        if feed.state is FeedState.REFUSED:
            name, advice = feed.facts.feed, feed.facts.advice
            then = (
                f"{advice}; `poller probe {facts.code}` says more"
                if advice
                else f"`poller probe {facts.code}` says why"
            )
            yield Finding(Cause.REFUSED, f"{name} cannot be read: {feed.why}", then, (name,))


def _removed_findings(facts: PracticeFacts) -> Iterator[Finding]:
    """Of a practice that is in no configuration: what nobody will carry or read any more."""
    for sink in facts.sinks:
        left = [
            f"{count} event{'s' if count > 1 else ''} of it {verb} {sink.sink}"
            for count, verb in (
                (sink.waiting, "wait for" if sink.waiting > 1 else "waits for"),
                (sink.stuck, "are parked at" if sink.stuck > 1 else "is parked at"),
            )
            if count
        ]
        if left:
            what = f"it is not in the configuration any more, and {' and '.join(left)}"
            then = next_for_removed(facts.code, sink.sink if sink.stuck else None)
            yield Finding(Cause.NOT_CONFIGURED, what, then, sink=sink.sink)


def _patient_findings(facts: PracticeFacts, feeds: Sequence[FeedHealth]) -> Iterator[Finding]:
    """Of patients whom nobody names: no feed is late of whom one does not know."""
    if facts.paused is not None or not facts.in_force:
        return
    for source in facts.failing_sources:
        yield Finding(Cause.SOURCE, _source_words(source), next_for_source(source.source, facts.code))
    named = tuple(
        feed.facts.feed
        for feed in feeds
        if feed.facts.nobody and feed.state in {FeedState.BASELINE, FeedState.LATE, FeedState.FRESH}
    )
    if named:
        what = (
            f"{', '.join(named)} {'is' if len(named) == 1 else 'are'} read patient by patient, and no patient is known"
        )
        then = f"name them by patients.roster, .group or .practitioners; `poller coverage {facts.code}` says what was gone through"
        yield Finding(Cause.NO_PATIENT, what, then, named)


def _late_findings(facts: PracticeFacts, feeds: Sequence[FeedHealth]) -> Iterator[Finding]:
    budget = facts.budget
    late = [feed for feed in feeds if feed.state is FeedState.LATE]
    if budget.blocked_until is not None:
        yield Finding(
            Cause.LOCKED_OUT,
            f"429: no call leaves until {_time(budget.blocked_until)}; more calls than the limit allows come from somewhere",
            "find out who else reads the practice, and give budget.share; or lower budget.calls_per_minute",
        )
    together: dict[str | None, list[FeedHealth]] = {}
    for feed in late:
        together.setdefault(feed.facts.failure if feed.facts.failing else None, []).append(feed)
    for failure, alike in together.items():
        names = tuple(feed.facts.feed for feed in alike)
        said = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} late"
        said += f": {alike[0].why}" if len(names) == 1 else f", {'failing' if failure else 'though nothing failed'}"
        yield Finding(Cause.LATE, said, next_for_late(failure, facts), names)


def _sink_findings(code: str, sink: SinkFacts, now: dt.datetime, *, gone: bool) -> Iterator[Finding]:
    if not sink.configured:
        return
    if not sink.begun:
        if not gone and sink.wanted_since is not None and now - sink.wanted_since > BEGINS:
            yield Finding(
                Cause.NOT_BEGUN,
                f"{sink.sink} has never begun, though it is configured since {_time(sink.wanted_since)}: "
                + (sink.trouble or "its exchange was not reached"),
                next_for_sink(sink.trouble or "the broker", sink.sink),
                sink=sink.sink,
            )
        return
    if sink.missing:
        yield Finding(
            Cause.BOOKS,
            f"of {sink.missing} changes nobody can say what became of them at {sink.sink}",
            f"`poller sinks list`; was the database restored? Then `poller epoch start {code}`, else a defect: report it",
            sink=sink.sink,
        )
    if sink.stuck:
        reason = sink.parked_for[0][0] if sink.parked_for else "released, to be tried again"
        yield Finding(
            Cause.PARKED,
            f"{sink.stuck} event{'s are' if sink.stuck > 1 else ' is'} parked at {sink.sink}: {reason}",
            next_for_parked(reason, sink.sink, code),
            sink=sink.sink,
        )
    held = f"; delivery waits for replay {sink.held_by}" if sink.held_by is not None else ""
    held = held or (f": {sink.trouble}" if sink.trouble is not None else "")
    then = "`poller replay list` says how far it is" if sink.held_by else next_for_sink(sink.trouble, sink.sink)
    if sink.in_snapshot and not gone and sink.moved_at is not None and now - sink.moved_at > WAITS_LONG:
        since = _time(sink.moved_at)
        what = f"the snapshot for {sink.sink} has not gone on since {since}, after {sink.shown} resources{held}"
        yield Finding(Cause.SNAPSHOT, what, then, sink=sink.sink)
    waits = sink.oldest_waiting
    kept = sink.trouble_since is not None and now - sink.trouble_since > BEGINS
    if waits is not None and (kept or now - waits > WAITS_LONG) and not (gone or sink.in_snapshot):
        yield Finding(
            Cause.WAITING,
            f"{sink.waiting} events wait for {sink.sink} since {_time(waits)}{held}",
            then,
            sink=sink.sink,
        )


def _gone_words(last: dt.datetime | None, now: dt.datetime) -> str:
    if last is None:
        return "no poller has looked after it yet"
    if last > now:
        return f"the last sign of life of a poller is of {_time(last)}, which is to come: the database's clock was put back"
    return f"no poller has looked after it since {_time(last)}"


def _source_words(source: PatientSourceFacts) -> str:
    name = {"roster": "the roster", "group": "the Group"}.get(source.source, source.source)
    if source.failure is None:
        return f"{name} was never gone through"
    whole = f"last gone through {_time(source.whole)}" if source.whole is not None else "never gone through"
    return f"{name} cannot be gone through: {source.failure}; {whole}"


def _baseline_words(feed: FeedFacts) -> str:
    if feed.read_by is None:
        return "it is being found out how it can be read"
    return (
        f"first read under way: {feed.unread} of {feed.searches} to come"
        if feed.searches
        else "no patient is known yet"
    )


def _hold_words(hold: Hold) -> str:
    until = f" until {_time(hold.until)}" if hold.until is not None else ""
    by = f"by {hold.actor}: " if hold.actor is not None else ""
    return f"{by}{hold.reason}, since {_time(hold.since)}{until}"


def _first(problems: Sequence[str]) -> str:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{problems[0] if problems else 'its log says why'}{more}"


def _time(at: dt.datetime) -> str:
    return f"{at.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"
