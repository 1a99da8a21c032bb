"""Which events a sink wants, and what becomes of each: every event it comes to is one thing and no other, and none overtakes another."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.model import Action, Event, Origin
from poller.core.pace import Pace
from poller.core.sink import Fate, Only, Sink, go_around, park_first, settle, sort_out, witnesses

NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)
LOINC = "http://loinc.org"


def an_event(sequence: int = 1, id_: str = "o1", **changes: Any) -> Event:
    event = Event(
        practice="P",
        epoch=1,
        sequence=sequence,
        event_id=uuid.UUID(int=sequence),
        resource_type="Observation",
        id=id_,
        version=1,
        action=Action.UPDATED,
        origin=Origin.LIVE,
        changed=("status",),
        categories=("laboratory",),
        status="final",
        partition_key="Patient/p",
        detected_at=NOW,
        previous_read=None,
        last_modified=None,
    )
    return replace(event, **changes)


def coded(code: str, *, label: str | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"resourceType": "Observation", "code": {"coding": [{"system": LOINC, "code": code}]}}
    return body | ({"meta": {"security": [{"system": "s", "code": label}]}} if label else {})


@pytest.mark.parametrize(
    ("only", "passes"),
    [
        (Only(), True),
        (Only(practices=("P", "Q"), types=("Observation",), actions=("updated",)), True),
        (Only(practices=("Q",)), False),
        (Only(types=("Patient",)), False),
        (Only(actions=("created",)), False),
        (Only(categories=("exam", "laboratory")), True),
        (Only(categories=("exam",)), False),
        (Only(statuses=("final",)), True),
        (Only(statuses=("amended",)), False),
        (Only(changed=("status", "value")), True),
        (Only(changed=("value",)), False),
        (Only(codes=("4548-4",)), True),
        (Only(codes=(f"{LOINC}|4548-4",)), True),
        (Only(codes=("urn:other|4548-4", "1-1")), False),
        (Only(security=("R",)), True),
        (Only(security=("s|R",)), True),
        (Only(security=("N",)), False),
        (Only(without_security=("R",)), False),
        (Only(without_security=("V",)), True),
        (Only(codes=("4548-4",), security=("N",)), False),
    ],
)
def test_each_part_of_a_filter_holds_back_what_it_names(only: Only, *, passes: bool) -> None:
    assert only.wants(an_event(body=coded("4548-4", label="R"))) is passes


def test_what_has_no_changed_elements_has_changed_in_all() -> None:
    assert Only(changed=("value",)).wants(an_event(action=Action.CREATED, changed=()))


@pytest.mark.parametrize("action", [one for one in Action if one is not Action.UPDATED])
def test_a_filter_by_changed_elements_is_of_updates_alone(action: Action) -> None:
    """One who wants new values must hear that the resource was entered in error, though only its status has changed."""
    only = Only(changed=("value",))
    assert only.wants(an_event(action=action, changed=("status",)))
    assert not only.wants(an_event(action=Action.UPDATED, changed=("status",)))


def test_a_resource_that_leaves_a_filter_is_still_told_of_once() -> None:
    only = Only(codes=("A",))
    leaving = an_event(body=coded("B"), previous_body=coded("A"))
    assert only.wants(leaving)
    assert not only.wants(replace(leaving, previous_body=coded("B")))
    assert only.wants(an_event(action=Action.DELETED, previous_body=coded("A")))
    assert not only.wants(an_event(action=Action.DELETED, previous_body=coded("B")))


def test_a_label_that_holds_back_does_so_without_exception() -> None:
    only = Only(without_security=("R",))
    assert not only.wants(an_event(body=coded("A", label="R"), previous_body=coded("A")))
    assert only.wants(an_event(body=coded("A"), previous_body=coded("A", label="R")))
    assert not only.wants(an_event(action=Action.DELETED, previous_body=coded("A", label="R")))
    assert not only.wants(an_event()), "without a body nobody can say that it has no label"
    assert Only(codes=("A",)).wants(an_event()), "but what only narrows must lose nothing"


@pytest.mark.parametrize("body", [{}, {"code": 1}, {"code": {"coding": 1}}, {"code": [None]}, {"meta": []}])
def test_a_strange_body_has_no_codes(body: dict[str, Any]) -> None:
    assert not Only(codes=("A",)).wants(an_event(body=body))
    assert Only(without_security=("A",)).wants(an_event(body=body))


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Event], Sink, set[tuple[str, str]]]:
    """Some events of a few resources, a filter, and a few resources that are parked already."""
    events = [
        an_event(n, draw(st.sampled_from("abcd")), action=draw(st.sampled_from(Action)))
        for n in range(1, draw(st.integers(1, 14)) + 1)
    ]
    actions = draw(st.sets(st.sampled_from(Action), max_size=4))
    sink = Sink("s", "x", ("q",), only=Only(actions=tuple(action.value for action in actions)))
    return events, sink, {("Observation", id_) for id_ in draw(st.sets(st.sampled_from("abcd"), max_size=2))}


@given(runs(), st.data())
def test_every_event_that_is_passed_is_one_thing(
    run: tuple[list[Event], Sink, set[tuple[str, str]]], data: st.DataObject
) -> None:
    events, sink, parked = run
    fates = sort_out(events, sink, parked)
    to_send = [event for event, fate in zip(events, fates, strict=True) if fate is Fate.SEND]
    confirmed = data.draw(st.integers(0, len(to_send)))
    step = settle(events, fates, confirmed)
    passed = 0 if step is None else step.delivered + step.filtered + len(step.parked)
    if step is not None:
        assert step.last == events[passed - 1]
        assert step.delivered == confirmed
        assert step.routed == (to_send[confirmed - 1] if confirmed else None)
        assert all((one.event.resource_type, one.event.id) in parked and one.behind for one in step.parked)
    left = events[passed:]
    assert not left or left[0] == to_send[confirmed], "it stops at the first that was not taken, and nowhere else"
    assert not any((event.resource_type, event.id) in parked for event in to_send), "nothing overtakes what is parked"


@given(runs())
def test_around_a_refused_event_nothing_of_its_resource_goes_on(
    run: tuple[list[Event], Sink, set[tuple[str, str]]],
) -> None:
    events, sink, parked = run
    fates = sort_out(events, sink, parked)
    for index in witnesses(events, fates, 4):
        step = go_around(events, fates, index, "unroutable")
        assert step.last == step.routed == events[index]
        assert step.delivered == 1
        assert step.delivered + step.filtered + len(step.parked) == index + 1
        first = fates.index(Fate.SEND)
        refused = next(one for one in step.parked if not one.behind)
        assert (refused.event, refused.reason) == (events[first], "unroutable")
        assert (events[index].resource_type, events[index].id) != (refused.event.resource_type, refused.event.id)
        assert [one.event.sequence for one in step.parked] == sorted(one.event.sequence for one in step.parked)


@given(runs())
def test_an_event_that_is_never_taken_is_parked_alone(run: tuple[list[Event], Sink, set[tuple[str, str]]]) -> None:
    events, sink, parked = run
    fates = sort_out(events, sink, parked)
    if Fate.SEND not in fates:
        return
    step = park_first(events, fates, "too large")
    assert [one.event for one in step.parked if not one.behind] == [step.last]
    assert step.routed is None
    assert step.filtered + len(step.parked) == fates.index(Fate.SEND) + 1


@given(st.floats(0.1, 5000), st.lists(st.floats(0, 0.5), min_size=1, max_size=60), st.data())
def test_no_more_leave_in_any_span_than_the_pace_allows(rate: float, gaps: list[float], data: st.DataObject) -> None:
    pace, now, left = Pace(rate), 100.0, list[tuple[float, int]]()
    for gap in gaps:
        now += gap
        spent = data.draw(st.integers(0, pace.allowed(now)))
        pace.spend(spent)
        left.append((now, spent))
    for index, (began, _) in enumerate(left):
        total = 0
        for moment, spent in left[index:]:
            total += spent
            assert total <= rate * (moment - began + 0.1) + 1.001


def test_a_pace_lets_the_next_one_go_after_its_wait() -> None:
    pace = Pace(4)
    assert pace.allowed(10.0) == 1
    pace.spend(1)
    assert pace.allowed(10.1) == 0
    assert pace.wait() == pytest.approx(0.15)
    assert pace.allowed(10.1 + pace.wait() + 1e-9) == 1


@given(runs(), st.sets(st.integers(0, 30)), st.integers(0, 30))
def test_what_an_operator_wants_parked_is_never_sent_nor_overtaken(
    run: tuple[list[Event], Sink, set[tuple[str, str]]], wanted: set[int], confirmed: int
) -> None:
    events, sink, parked = run
    asked = {(event.epoch, event.sequence) for index, event in enumerate(events) if index in wanted}
    fates = sort_out(events, sink, parked, asked)
    waiting = set(parked)
    for event, fate in zip(events, fates, strict=True):
        key = (event.resource_type, event.id)
        if fate is Fate.SEND:
            assert key not in waiting
            assert (event.epoch, event.sequence) not in asked
        elif fate in {Fate.ASKED, Fate.BEHIND}:
            assert (fate is Fate.ASKED) == (event.ordinal == 0 and (event.epoch, event.sequence) in asked)
            assert fate is Fate.ASKED or key in waiting
            waiting.add(key)
    step = settle(events, fates, min(confirmed, fates.count(Fate.SEND)))
    if step is not None:
        passed = fates[: events.index(step.last) + 1]
        assert [one.event for one in step.parked if not one.behind] == [
            event for event, fate in zip(events, passed, strict=False) if fate is Fate.ASKED
        ]
        assert step.delivered + step.filtered + len(step.parked) == len(passed)
