"""How practices are, and what is to be done next: the store's word held against the configuration in force."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from poller.config import Config, PracticeConfig
from poller.core.audit import WHOLE
from poller.core.budget import pace
from poller.core.facts import BudgetFacts, ConfigFacts, FeedFacts, PatientSourceFacts, PracticeFacts, SinkFacts
from poller.core.health import Finding, Health, State, judge, judge_configuration
from poller.core.model import Strategy
from poller.lateness import TO_BEGIN, FromStore
from poller.store.control import ALL
from poller.store.known import PatientSource
from poller.store.sinks import Books
from poller.store.status import Alike, PracticeRow, Seen


@dataclass(frozen=True, slots=True)
class Report:
    """What `poller status` tells."""

    at: dt.datetime
    configuration: ConfigFacts
    findings: tuple[Finding, ...]
    """On the configuration."""
    practices: tuple[Health, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nobody has to do anything."""
        return not any(one.cause.is_trouble for one in self.findings) and all(
            practice.state in {State.HEALTHY, State.PAUSED, State.STARTING} for practice in self.practices
        )


@dataclass(frozen=True, slots=True)
class Scope:
    """The practices to look at, each as the configuration in force has it, else as the file."""

    practices: Mapping[str, PracticeConfig]
    in_force: frozenset[str]
    sinks: Mapping[str, Collection[str]]
    """Configured ones, each with the practices of which alone it wants events; none: of all."""
    since: dt.datetime | None = None
    """When that configuration was accepted."""
    began: dt.datetime | None = None
    """When the youngest of the pollers began that run by it now."""

    @classmethod
    def of(cls, file: Config, in_force: Config | None, since: dt.datetime | None = None) -> Scope:
        """``in_force``: what was accepted last, at ``since``; None where nothing was, or it cannot be read any more."""
        ruling = in_force if in_force is not None else file
        sinks = {name: sink.only.practices for name, sink in ruling.sinks.items()}
        return cls({**file.practices, **ruling.practices}, frozenset(ruling.practices), sinks, since)


def report(
    scope: Scope, codes: Sequence[str], seen: Seen, books: Iterable[Books], configuration: ConfigFacts, path: str
) -> Report:
    """The verdict on these practices, ``path`` being the configuration file as a person names it.

    A practice that the scope does not have is one of which only the store knows: see :func:`left_behind`.
    """
    by_practice: dict[str, list[Books]] = {}
    for one in books:
        by_practice.setdefault(one.practice, []).append(one)
    return Report(
        seen.now,
        configuration,
        judge_configuration(configuration, path),
        tuple(judge(facts_of(scope, code, seen, by_practice.get(code, ())), seen.now) for code in codes),
    )


def left_behind(scope: Scope, books: Iterable[Books], others: Collection[str]) -> list[str]:
    """Practices of which events wait or are parked at a configured sink, though neither we nor other pollers (``others``) have them."""
    known = {*scope.practices, *others}
    return sorted(
        {
            one.practice
            for one in books
            if one.practice not in known and one.sink in scope.sinks and (one.waiting or one.parked or one.released)
        }
    )


def facts_of(scope: Scope, code: str, seen: Seen, books: Iterable[Books]) -> PracticeFacts:
    """What the store says of a practice, with what is late of it."""
    if code not in scope.practices:
        sinks = tuple(_sink(one, seen, configured=one.sink in scope.sinks) for one in books)
        last_look = seen.practices[code].looked_at
        return PracticeFacts(code, (), sinks, BudgetFacts(0, 0.0), last_look, in_force=False, configured=False)
    config, row = scope.practices[code], seen.practices[code]
    limit = config.budget
    return PracticeFacts(
        code=code,
        feeds=tuple(_feeds(config, row, seen.now)),
        sinks=(
            *(_sink(one, seen, configured=one.sink in scope.sinks) for one in books),
            *(
                SinkFacts(name, begun=False, wanted_since=scope.since, **_trouble(name, code, seen))
                for name, only in scope.sinks.items()
                if name not in seen.begun and (not only or code in only)
            ),
        ),
        budget=BudgetFacts(
            limit.calls_per_minute,
            pace(limit.calls_per_minute, limit.share),
            row.used,
            row.part,
            row.blocked_until,
        ),
        last_look=row.looked_at,
        looked_by=row.looked_by,
        began=scope.began,
        failure=row.failure,
        failing_since=row.failed_at,
        paused=row.pauses.get(ALL),
        shut_out=row.shut_out.get(ALL),
        in_force=code in scope.in_force,
        failing_sources=tuple(_failing_sources(config, row, seen.now)),
    )


def _failing_sources(config: PracticeConfig, row: PracticeRow, now: dt.datetime) -> Iterable[PatientSourceFacts]:
    named = {PatientSource.ROSTER: config.patients.roster, PatientSource.GROUP: config.patients.group}
    for source in (source for source, said in named.items() if said is not None):
        found = row.enumerations.get(source.value)
        if found is None and _had_time(row, now):
            yield PatientSourceFacts(source.value, None)
        elif found is not None and found.failure is not None:
            yield PatientSourceFacts(source.value, found.failure, found.began)


def _had_time(row: PracticeRow, now: dt.datetime) -> bool:
    """Whether whoever reads the practice has read it long enough to have begun with everything."""
    return row.lease_taken_at is not None and now - row.lease_taken_at > TO_BEGIN


def _feeds(config: PracticeConfig, row: PracticeRow, now: dt.datetime) -> Iterable[FeedFacts]:
    strategies = {feed: said.strategy for feed, said in row.feeds.items() if said.strategy is not None}
    lateness = FromStore(config, strategies, row.patients, now)
    for feed in config.feeds:
        alike = [one for one in row.alike if feed in one.state.target.reads]
        nobody = False
        if feed in strategies:
            late = lateness.is_late(feed, [one.state for one in alike], row.owed_from(feed))
            by_patient = strategies[feed] not in {Strategy.WINDOW, Strategy.SWEEP}
            nobody = by_patient and not alike and not row.patients and _had_time(row, now)
        else:  # as a poller has it: a feed is late that it has not found a way to read within two minutes
            late = row.lease_taken_at is None or now - row.lease_taken_at > TO_BEGIN
        yield replace(_feed(feed, row, alike, late=late, is_configured=True), nobody=nobody)
    for feed, said in row.feeds.items():
        if feed not in config.feeds and said.retired_at is not None:
            yield _feed(feed, row, [], late=False, is_configured=False)


def _feed(feed: str, row: PracticeRow, alike: Sequence[Alike], *, late: bool, is_configured: bool) -> FeedFacts:
    said = row.feeds.get(feed)
    failing = sorted((one for one in alike if one.failing), key=lambda one: one.failing, reverse=True)
    return FeedFacts(
        feed=feed,
        read_by=said.strategy.value if said is not None and said.strategy is not None else None,
        late=late,
        searches=sum(one.targets for one in alike),
        unread=sum(one.unread_of(feed) for one in alike),
        failing=sum(one.failing for one in failing),
        failure=failing[0].failure if failing else None,
        last_complete=max((one.last_complete for one in alike if one.last_complete is not None), default=None),
        oldest=min((one.oldest for one in alike), default=None),
        refused_since=said.refused_since if said is not None else None,
        reason=said.reason if said is not None else "",
        advice=said.advice if said is not None else None,
        retired_at=said.retired_at if said is not None and not is_configured else None,
        paused=row.pauses.get(feed),
        shut_out=row.shut_out.get(feed),
        held_deletes=said.held_deletes if said is not None else 0,
    )


def _trouble(sink: str, practice: str, seen: Seen) -> dict[str, Any]:
    found = seen.trouble.get((sink, practice)) or seen.trouble.get((sink, WHOLE))
    return {"trouble": found[0], "trouble_since": found[1]} if found is not None else {}


def _sink(books: Books, seen: Seen, *, configured: bool) -> SinkFacts:
    key = books.sink, books.practice
    return SinkFacts(
        sink=books.sink,
        recorded=books.recorded,
        skipped=books.skipped,
        delivered=books.delivered,
        filtered=books.filtered,
        discarded=books.discarded,
        parked=books.parked,
        released=books.released,
        waiting=books.waiting,
        configured=configured,
        in_snapshot=books.in_snapshot,
        shown=books.ordinal,
        moved_at=books.moved_at,
        held_by=books.held,
        oldest_waiting=seen.oldest_waiting.get(key),
        **_trouble(*key, seen),
        parked_for=tuple(seen.parked_for.get(key, ())),
    )
