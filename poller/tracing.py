"""Where a resource, or what a patient has, stopped on its way: what the store knows of each station, put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from poller.config import PracticeConfig
from poller.core.audit import discarded_as
from poller.core.envelope import wire_sequence
from poller.core.health import FeedHealth, Health
from poller.core.model import Action, Event, Origin
from poller.core.sink import Sink
from poller.core.trace import (
    At,
    FeedTrace,
    PatientTrace,
    Place,
    ResourceTrace,
    SinkPlace,
    Told,
    arrival,
    is_before_start,
)
from poller.store.log import EventLog
from poller.store.why import Counted, Kept, Parkings, WhyStore

SHOWN = 20
"""Events that are looked at, the newest; those that are parked count besides."""

_PATIENT = "Patient/"


def trace_resource(
    config: PracticeConfig,
    health: Health,
    sinks: Iterable[Sink],
    store: WhyStore,
    log: EventLog,
    resource: tuple[str, str],
) -> ResourceTrace:
    """The way of one resource, by type and id."""
    code, (kind, id_) = config.code, resource
    found = store.resource(code, kind, id_)
    patient = id_ if kind == "Patient" else None
    if found is not None and found.partition_key.startswith(_PATIENT):
        patient = found.partition_key.removeprefix(_PATIENT)
    known = store.patient(code, patient) if patient is not None else None
    whose = (patient, known[1] if known is not None else None) if patient is not None else None
    kept = store.events(code, kind, id_, SHOWN)
    parked = store.parked(code, found.partition_key, resource) if found is not None else Parkings({}, {})
    kept += _older(code, {place for _, place in parked.of_log} - {one.place for one in kept}, log)
    feed = next((one for one in health.feeds if one.facts.feed == kind and kind in config.feeds), None)
    return ResourceTrace(
        practice=code,
        resource=f"{kind}/{id_}",
        feed=feed,
        by_patient=_is_by_patient(feed),
        patient=patient,
        known=known[0] if known is not None else None,
        readings=tuple(store.readings(code, [kind], whose, resource)),
        stored=found.facts if found is not None else None,
        events=tuple(_told(code, kept, parked, list(sinks), store, log)),
        categories=config.feeds[kind].categories if kind in config.feeds and _is_by_patient(feed) else (),
    )


def trace_patient(
    config: PracticeConfig, health: Health, sinks: Iterable[Sink], store: WhyStore, log: EventLog, patient: str
) -> PatientTrace:
    """The way of all that a patient has."""
    code, known = config.code, store.patient(config.code, patient)
    readings = store.readings(code, list(config.feeds), (patient, known[1] if known is not None else None))
    stored = store.stored(code, patient)
    parked = store.parked(code, f"{_PATIENT}{patient}")
    kept = store.events_of_patient(code, patient, SHOWN)
    kept += _older(code, {place for _, place in parked.of_log} - {one.place for one in kept}, log)
    told = _told(code, kept, parked, list(sinks), store, log)
    feeds = [one for one in health.feeds if one.facts.feed in config.feeds]
    return PatientTrace(
        practice=code,
        patient=patient,
        known=known[0] if known is not None else None,
        tried=tuple((source, one.ended) for source, one in store.sources(code).items()),
        feeds=tuple(
            FeedTrace(
                feed,
                tuple(one for one in readings if one.feed == feed.facts.feed),
                counted.stored,
                counted.deleted,
                counted.changed_at,
            )
            for feed in feeds
            for counted in [stored.get(feed.facts.feed, Counted(0, 0, None))]
        ),
        events=tuple(told),
    )


def _is_by_patient(feed: FeedHealth | None) -> bool:
    """Whether one must know whose a resource is to know which search shows it."""
    return feed is not None and feed.facts.feed != "Patient" and feed.facts.read_by not in {"window", "sweep"}


def _older(code: str, places: Iterable[Place], log: EventLog) -> list[Kept]:
    """Events at these places, the first of all."""
    found = (_event_at(code, place, log, bodies=False) for place in sorted(places)[:SHOWN])
    return [
        Kept((one.epoch, one.sequence), one.resource_type, one.id, one.version, one.action, one.origin, one.detected_at)
        for one in found
        if one is not None
    ]


def _event_at(code: str, place: Place, log: EventLog, *, bodies: bool) -> Event | None:
    """The event at a place; None if retention has dropped it."""
    found = log.after(code, place[0], place[1] - 1, 1, bodies=bodies, of_deleted=bodies)
    return found[0] if found and (found[0].epoch, found[0].sequence) == place else None


def _told(
    code: str,
    kept: Sequence[Kept],
    parked: Parkings,
    sinks: Sequence[Sink],
    store: WhyStore,
    log: EventLog,
) -> Iterable[Told]:
    """Events with what became of each at each sink; of a sink that is not configured any more nothing is told."""
    by_name = {place.sink: place for place in store.sinks(code)}
    showings = store.showings(code, sorted({(one.resource_type, one.id) for one in kept}))
    discarded = store.discarded(code, kept) if any(_may_have_lost(place) for place in by_name.values()) else {}
    bodies = any(sink.only.reads_bodies for sink in sinks)
    for one in kept:
        event = _event_at(code, one.place, log, bodies=bodies)
        resource = f"{one.resource_type}/{one.id}"
        at = []
        for sink in sinks:
            place = by_name.get(sink.name) or SinkPlace(sink.name, "beginning", one.recorded_at, (0, 0))
            showing = showings.get((sink.name, resource))
            is_shown = (
                showing is not None and showing.version == one.version and is_before_start(one.recorded_at, place)
            )
            came, why = arrival(
                one.place,
                one.recorded_at,
                place,
                wanted=event is None or sink.wants(_shown(event) if is_shown else event),
                parked=parked.of_snapshot.get((sink.name, resource))
                if is_shown
                else parked.of_log.get((sink.name, one.place)),
                discarded=discarded.get((sink.name, discarded_as(resource, None if is_shown else one.place))),
                version=one.version,
                showing=showing,
            )
            at.append(At(sink.name, came, why))
        yield Told(
            resource,
            one.version,
            one.action,
            one.origin,
            wire_sequence(*one.place),
            one.recorded_at,
            tuple(at),
        )


def _may_have_lost(place: SinkPlace) -> bool:
    """Whether a person may have given up events there; those of a snapshot are in no books."""
    return place.discarded > 0 or place.start == "snapshot"


def _shown(event: Event) -> Event:
    """A change as a snapshot shows what it has made, as far as filters look at it."""
    return replace(event, action=Action.CREATED, origin=Origin.BASELINE, changed=(), ordinal=1)
