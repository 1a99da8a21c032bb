"""Where something stopped on its way: total, at the first station that was not passed, and with a next step."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.facts import FeedFacts
from poller.core.health import FeedHealth, FeedState
from poller.core.trace import (
    Arrival,
    At,
    FeedTrace,
    Naming,
    PatientFacts,
    PatientTrace,
    Reading,
    ResourceTrace,
    Showing,
    SinkPlace,
    Stop,
    StoredFacts,
    Told,
    arrival,
    short,
)
from poller.core.verdict import judge_patient, judge_resource

NOW = dt.datetime(2026, 11, 27, 2, tzinfo=dt.UTC)
TIMES = st.integers(-100_000, 0).map(lambda seconds: NOW + dt.timedelta(seconds=seconds))
PLACES = st.tuples(st.integers(0, 3), st.integers(0, 5))
REASONS = st.sampled_from(["unroutable: no queue is bound that wants it", "too large: 9 bytes", "not acceptable"])
FEEDS = st.builds(
    FeedHealth,
    st.builds(FeedFacts, st.sampled_from(["Observation", "Condition"]), st.none() | st.just("patient"), st.just(value=False)),
    st.sampled_from(FeedState),
    st.just("why"),
)  # fmt: skip
KNOWN = st.builds(
    PatientFacts,
    TIMES,
    st.none() | TIMES,
    st.lists(st.builds(Naming, st.just("roster"), TIMES, TIMES), max_size=2).map(tuple),
)
READINGS = st.builds(
    Reading,
    st.sampled_from(["Observation", "Condition"]),
    st.sampled_from(["patient", "patient-window"]),
    st.none() | st.just("laboratory"),
    st.booleans(),
    st.none() | TIMES,
    st.none() | TIMES,
    st.none() | st.just("server"),
    st.none() | st.booleans(),
)
STORED = st.builds(
    StoredFacts, st.integers(1, 9), st.booleans(), TIMES, TIMES, st.none() | st.sampled_from(["missing", "held"]), st.just("gone"), TIMES
)  # fmt: skip
AT = st.builds(At, st.sampled_from(["changes", "full"]), st.sampled_from(Arrival), REASONS)
EVENTS = st.builds(
    Told,
    st.just("Observation/o1"),
    st.integers(1, 9),
    st.sampled_from(["created", "updated", "deleted"]),
    st.just("live"),
    st.just("0000000001-00000000000000000552"),
    TIMES,
    st.lists(AT, max_size=2, unique_by=lambda at: at.sink).map(tuple),
)
RESOURCES = st.builds(
    ResourceTrace,
    st.just("FAMLYM"),
    st.just("Observation/o1"),
    st.none() | FEEDS,
    st.booleans(),
    st.none() | st.just("a"),
    st.none() | KNOWN,
    st.lists(READINGS, max_size=3).map(tuple),
    st.none() | STORED,
    st.lists(EVENTS, max_size=3).map(tuple),
    st.sampled_from([(), ("laboratory",)]),
)
PATIENTS = st.builds(
    PatientTrace,
    st.just("FAMLYM"),
    st.just("a"),
    st.none() | KNOWN,
    st.lists(st.tuples(st.just("roster"), st.none() | TIMES), max_size=2).map(tuple),
    st.lists(
        st.builds(
            FeedTrace, FEEDS, st.lists(READINGS, max_size=2).map(tuple), st.integers(0, 3), st.integers(0, 3), st.none() | TIMES
        ),
        max_size=2,
    ).map(tuple),
    st.lists(EVENTS, max_size=3).map(tuple),
)  # fmt: skip


@given(RESOURCES)
def test_every_way_of_a_resource_has_an_end_a_sentence_and_a_next_step(trace: ResourceTrace) -> None:
    verdict = judge_resource(trace)
    assert verdict.sentence
    assert verdict.next
    assert not verdict.sentence.endswith(".")
    if trace.stored is None:
        assert not verdict.stop.is_as_it_should_be, "what was never seen went nowhere"
        assert verdict.stop in {Stop.NO_FEED, Stop.NOBODY, Stop.WHOSE, Stop.NOT_READ, Stop.NOT_SHOWN}


@given(RESOURCES)
def test_nothing_is_called_delivered_that_a_sink_lacks_or_that_is_read_no_more(trace: ResourceTrace) -> None:
    if judge_resource(trace).stop is Stop.DELIVERED:
        assert Arrival.DELIVERED in {at.arrival for at in trace.events[0].sinks}
        arrivals = {at.arrival for event in trace.events for at in event.sinks}
        assert not arrivals & {Arrival.PARKED, Arrival.WAITING, Arrival.DISCARDED}
        assert trace.feed is not None
        assert trace.feed.state in {FeedState.FRESH, FeedState.BASELINE}


@given(RESOURCES, REASONS)
def test_a_parked_event_is_what_is_told_of(trace: ResourceTrace, reason: str) -> None:
    if trace.stored is not None and trace.stored.absence != "held" and trace.events:
        parked = replace(trace.events[0], sinks=(*trace.events[0].sinks, At("third", Arrival.PARKED, reason)))
        verdict = judge_resource(replace(trace, events=(parked, *trace.events[1:])))
        assert verdict.stop is Stop.PARKED
        assert "sinks release" in verdict.next


@given(PATIENTS)
def test_every_way_of_a_patient_has_an_end_a_sentence_and_a_next_step(trace: PatientTrace) -> None:
    verdict = judge_patient(trace)
    assert verdict.sentence
    assert verdict.next
    assert (verdict.stop is Stop.NOBODY) == (trace.known is None)
    if verdict.stop.is_as_it_should_be and verdict.stop is not Stop.GONE:
        arrivals = {at.arrival for event in trace.events for at in event.sinks}
        assert not arrivals & {Arrival.PARKED, Arrival.WAITING, Arrival.DISCARDED}


@given(
    PLACES,
    PLACES,
    TIMES,
    TIMES,
    st.sampled_from(["beginning", "now", "snapshot", NOW.isoformat()]),
    st.booleans(),
    st.none() | REASONS,
    st.none() | st.just("by ann"),
    st.none() | st.builds(Showing, st.integers(1, 3), st.booleans(), st.booleans()),
)
def test_an_event_is_at_a_sink_what_the_cursor_says(
    place: tuple[int, int],
    cursor: tuple[int, int],
    recorded: dt.datetime,
    started: dt.datetime,
    start: str,
    wanted: bool,
    parked: str | None,
    discarded: str | None,
    showing: Showing | None,
) -> None:
    showing = showing if start == "snapshot" else None
    sink = SinkPlace("changes", start, started, cursor)
    found, reason = arrival(
        place, recorded, sink, wanted=wanted, parked=parked, discarded=discarded, version=2, showing=showing
    )
    if parked is not None:
        assert (found, reason) == (Arrival.PARKED, parked)
    elif discarded is not None:
        assert (found, reason) == (Arrival.DISCARDED, discarded)
    elif showing is not None and place <= cursor and recorded <= started:
        assert (found is Arrival.DELIVERED) == (showing == Showing(2, deleted=False, to_come=False) and wanted)
        assert (found is Arrival.WAITING) == (showing == Showing(2, deleted=False, to_come=True) and wanted)
    else:
        assert (found is Arrival.WAITING) == (place > cursor)
        if found is Arrival.DELIVERED:
            assert wanted
            assert start == "beginning" or recorded > started or start == NOW.isoformat()


@pytest.mark.parametrize(
    ("sequence", "said"), [("0000000001-00000000000000000552", "1-552"), ("0000000000-00000000000000000000", "0-0")]
)
def test_a_sequence_is_short_for_a_person(sequence: str, said: str) -> None:
    assert short(sequence) == said
