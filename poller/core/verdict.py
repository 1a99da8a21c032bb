"""The sentence at the top of `poller why`: where it stopped, and what to do next. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from poller.core.advice import next_for_parked
from poller.core.health import FeedHealth, FeedState
from poller.core.trace import (
    Arrival,
    PatientTrace,
    Reading,
    ResourceTrace,
    Stop,
    StoredFacts,
    Told,
    Verdict,
    short,
)

_UNREAD = frozenset({FeedState.LATE, FeedState.REFUSED, FeedState.PAUSED, FeedState.RETIRED})
"""States of a feed in which it is not known what has become of a resource since."""


def judge_resource(trace: ResourceTrace) -> Verdict:
    """Where a resource stopped: at the first station that it, or any of its events, has not passed."""
    if trace.stored is None:
        return _unseen(trace)
    if (stuck := _held(trace, trace.stored) or _worst(trace.practice, trace.events, named=False)) is not None:
        return stuck
    if not trace.events:
        sentence = f"version {trace.stored.version} is stored, and no event of it is kept: retention has dropped them"
        return Verdict(
            Stop.NO_EVENT, sentence, f"`poller history {trace.practice} {trace.resource}` shows what is kept"
        )
    stopped = _at_sinks(trace.practice, trace.events[0], "")
    if stopped.stop is Stop.DELIVERED and trace.feed is not None and trace.feed.state in _UNREAD:
        return _not_read_since(trace.practice, stopped, [trace.feed], _latest(trace.readings))
    if stopped.stop is Stop.DELIVERED and trace.feed is None:
        kind = trace.resource.partition("/")[0]
        sentence = f"{stopped.sentence}; but {kind} is no feed any more, so what became of it since is not known"
        return Verdict(Stop.NOT_READ_SINCE, sentence, _add_feed(kind))
    return stopped


def judge_patient(trace: PatientTrace) -> Verdict:
    """Where what a patient has stopped; the first station that something of it has not passed."""
    code, patient = trace.practice, trace.patient
    if trace.known is None:
        return _nobody(trace.practice, trace.patient, trace.tried)
    if trace.known.gone_at is not None:
        sentence = f"the patient is gone since {_time(trace.known.gone_at)}: no search shows them, and reading them was answered so"
        return Verdict(Stop.GONE, sentence, f"`poller history {code} Patient/{patient}` shows the evidence")
    unread = [one for one in trace.feeds if _never(one.readings) and one.feed.state not in _UNREAD]
    if unread:
        said = ", ".join(one.feed.facts.feed for one in unread)
        failing = next((reading.failure for one in unread for reading in _never(one.readings) if reading.failure), None)
        why = f" (the last try failed: {failing})" if failing else ""
        sentence = f"the patient is known since {_time(trace.known.since)}, and was never read whole for {said}{why}"
        return Verdict(
            Stop.NOT_READ, sentence, f"`poller read-now {code} --patient {patient}` reads them before everything else"
        )
    worst = _worst(code, trace.events, named=True)
    if worst is not None:
        return worst
    behind = [one.feed for one in trace.feeds if one.feed.state in _UNREAD - {FeedState.RETIRED}]
    delivered = (
        _at_sinks(code, trace.events[0], f"all was read, and the last event, {trace.events[0].resource} ")
        if trace.events
        else _read(trace)
    )
    return _not_read_since(code, delivered, behind, None) if behind else delivered


def _unseen(trace: ResourceTrace) -> Verdict:
    code, kind = trace.practice, trace.resource.partition("/")[0]
    if trace.feed is None:
        if trace.in_file:
            sentence = f"{kind} is a feed of {code} in the file, and not in the configuration in force, so nothing of it is read"
            return Verdict(
                Stop.NO_FEED, sentence, "`poller status` says whether a reload was refused; `poller reload` takes it up"
            )
        return Verdict(Stop.NO_FEED, f"{kind} is no feed of {code}, so nothing of it is read", _add_feed(kind))
    if trace.feed.state in {FeedState.REFUSED, FeedState.PAUSED, FeedState.RETIRED}:
        sentence = f"it was never seen, and {kind} is not read: {trace.feed.state.value}, {trace.feed.why}"
        return Verdict(Stop.NOT_READ, sentence, f"`poller status {code}` says what to do about the feed")
    if trace.patient is not None and trace.known is None:
        return _nobody(code, trace.patient, ())
    if trace.by_patient and trace.patient is None:
        sentence = f"it was never seen, and {kind} is read patient by patient: whose it is, is not known here"
        return Verdict(Stop.WHOSE, sentence, f"`poller why {code} --patient ID` says how its patient is read")
    return _not_shown(trace, kind)


def _not_shown(trace: ResourceTrace, kind: str) -> Verdict:
    """Of what is read, and has not been seen."""
    code = trace.practice
    if not trace.readings:
        return Verdict(Stop.NOT_READ, f"it was never seen: no search of {kind} has been made yet", _look_at(code))
    if never := _never(trace.readings):
        failed = f", and the last try failed: {never[0].failure}" if never[0].failure else ""
        sentence = f"it was never seen: a search that would show it was never read whole{failed}"
        return Verdict(Stop.NOT_READ, sentence, _look_at(code))
    asked = f"; searches ask for the categories {', '.join(trace.categories)} only" if trace.categories else ""
    at = _latest(trace.readings)
    when = f", last {_time(at)}" if at is not None else ""
    return Verdict(
        Stop.NOT_SHOWN,
        f"it was never seen: every search that would show it was read whole{when}, and none showed it{asked}",
        f"ask the practice whether it is there and shown to this app; `poller probe {code}` says what is served",
    )


def _nobody(code: str, patient: str, tried: Sequence[tuple[str, dt.datetime | None]]) -> Verdict:
    through = [f"{source} ({_time(at)})" for source, at in tried if at is not None]
    looked = f"; gone through were {', '.join(through)}" if through else ""
    return Verdict(
        Stop.NOBODY,
        f"nobody has named this patient, so nothing of theirs is read{looked}",
        f"`poller read-now {code} --patient {patient}` asks for them by id, and reads them from then on; or put them on patients.roster",
    )


def _held(trace: ResourceTrace, stored: StoredFacts) -> Verdict | None:
    if stored.absence != "held" or stored.missing_since is None:
        return None
    return Verdict(
        Stop.HELD,
        f"it is gone at the source since {_time(stored.missing_since)}, and its delete is held with many others",
        f"`poller deletes list {trace.practice}`, ask the practice, then `poller deletes release {trace.practice}` or `discard`",
    )


def _at_sinks(code: str, event: Told, what: str) -> Verdict:
    """What became of one event; ``what`` is put before its version."""
    named = f"{what}version {event.version} ({event.action}, sequence {short(event.sequence)})"
    parked = next((at for at in event.sinks if at.arrival is Arrival.PARKED), None)
    if parked is not None:
        sentence = f"{named} is parked at {parked.sink}: {parked.reason}"
        return Verdict(Stop.PARKED, sentence, next_for_parked(parked.reason, parked.sink, code))
    by: dict[Arrival, list[str]] = {}
    for at in event.sinks:
        by.setdefault(at.arrival, []).append(at.sink)
    if waiting := by.get(Arrival.WAITING):
        why = next((f": {at.reason}" for at in event.sinks if at.arrival is Arrival.WAITING and at.reason), "")
        sentence = f"{named} waits for {' and '.join(waiting)} since {_time(event.recorded_at)}{why}"
        return Verdict(
            Stop.WAITING,
            sentence,
            f"it goes out by itself; if it waits for long, `poller status {code}` says what keeps the sink",
        )
    if discarded := by.get(Arrival.DISCARDED):
        why = next(f": {at.reason}" for at in event.sinks if at.arrival is Arrival.DISCARDED)
        return Verdict(
            Stop.DISCARDED,
            f"{named} was discarded at {' and '.join(discarded)}{why}",
            f"`poller replay {code}` sends it, if it is wanted after all",
        )
    if delivered := by.get(Arrival.DELIVERED):
        left = [
            f"{arrival.value} by {' and '.join(by[arrival])}"
            for arrival in (Arrival.FILTERED, Arrival.SKIPPED)
            if arrival in by
        ]
        sentence = f"{named} was delivered to {' and '.join(delivered)}" + "".join(f", {one}" for one in left)
        return Verdict(
            Stop.DELIVERED,
            sentence,
            "nothing here; look at the consumer, which may have dropped a version that it knew",
        )
    return _nowhere(code, named, by)


def _nowhere(code: str, named: str, by: Mapping[Arrival, Sequence[str]]) -> Verdict:
    """Of an event that no sink has taken, nor is to take."""
    if filtered := by.get(Arrival.FILTERED):
        sentence = f"{named} was filtered by {' and '.join(filtered)}, so it went nowhere"
        return Verdict(
            Stop.FILTERED,
            sentence,
            "if it is wanted, widen sinks.NAME.only or set baseline: publish, then `poller replay`",
        )
    if skipped := by.get(Arrival.SKIPPED):
        sentence = f"{named} was recorded before {' and '.join(skipped)} began"
        return Verdict(Stop.SKIPPED, sentence, f"`poller replay {code}` sends it, if it is wanted")
    return Verdict(
        Stop.NO_SINK, f"{named} has no sink: none has begun", "`poller run` begins the sinks; `poller sinks list`"
    )


def _worst(code: str, events: Sequence[Told], *, named: bool) -> Verdict | None:
    """The first event that did not go where it should, what is parked before what waits; ``named``: say of which resource."""
    in_order = sorted(events, key=lambda event: event.sequence)
    found = [_at_sinks(code, event, f"{event.resource} " if named else "") for event in in_order]
    for stop in (Stop.PARKED, Stop.WAITING, Stop.DISCARDED):
        for verdict in found:
            if verdict.stop is stop:
                return verdict
    return None


def _read(trace: PatientTrace) -> Verdict:
    """Of a patient of whom no event is kept."""
    if any(one.stored for one in trace.feeds):
        sentence = "the patient was read, and no event is kept: retention has dropped them"
        return Verdict(
            Stop.NO_EVENT, sentence, f"`poller as-of {trace.practice} --patient {trace.patient}` shows what is stored"
        )
    sentence = "every search for this patient was read whole, and none showed anything"
    return Verdict(Stop.NOT_SHOWN, sentence, f"ask the practice; `poller probe {trace.practice}` says what is served")


def _not_read_since(code: str, delivered: Verdict, feeds: Sequence[FeedHealth], at: dt.datetime | None) -> Verdict:
    names = ", ".join(feed.facts.feed for feed in feeds)
    state = feeds[0].state.value
    since = f" since {_time(at)}" if at is not None else " since"
    sentence = f"{delivered.sentence}; but {names} {'is' if len(feeds) == 1 else 'are'} {state}, so what became of it{since} is not known"
    return Verdict(Stop.NOT_READ_SINCE, sentence, f"`poller status {code}` says why and what to do")


def _never(readings: Sequence[Reading]) -> list[Reading]:
    return [one for one in readings if one.shows_all and one.whole is None]


def _latest(readings: Sequence[Reading]) -> dt.datetime | None:
    return max((one.whole for one in readings if one.whole is not None), default=None)


def _look_at(code: str) -> str:
    return f"`poller status {code}` says whether the feed is late; `poller coverage {code}` what was never read"


def _add_feed(kind: str) -> str:
    return f"add practices.CODE.feeds.{kind} to the configuration, `poller check`, then `poller reload`"


def _time(at: dt.datetime) -> str:
    return f"{at.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
