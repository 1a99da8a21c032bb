"""How practices are, and what is to be done next: the store's word held against the configuration in force."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from poller.config import Config, PracticeConfig
from poller.core.budget import pace
from poller.core.facts import BudgetFacts, ConfigFacts, FeedFacts, PracticeFacts, SinkFacts
from poller.core.health import Finding, Health, State, judge, judge_configuration
from poller.lateness import TO_BEGIN, FromStore
from poller.store.control import ALL
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
            practice.state in {State.HEALTHY, State.PAUSED} for practice in self.practices
        )


@dataclass(frozen=True, slots=True)
class Scope:
    """The practices to look at, each as the configuration in force has it, else as the file."""

    practices: Mapping[str, PracticeConfig]
    in_force: frozenset[str]
    sinks: frozenset[str]
    """Configured ones."""

    @classmethod
    def of(cls, file: Config, in_force: Config | None) -> Scope:
        """``in_force``: what was accepted last; None where nothing was, or it cannot be read any more."""
        if in_force is None:
            return cls(file.practices, frozenset(file.practices), frozenset(file.sinks))
        practices = {**file.practices, **in_force.practices}
        return cls(practices, frozenset(in_force.practices), frozenset(in_force.sinks))


def report(
    scope: Scope, codes: Sequence[str], seen: Seen, books: Iterable[Books], configuration: ConfigFacts, path: str
) -> Report:
    """The verdict on these practices, ``path`` being the configuration file as a person names it."""
    by_practice: dict[str, list[Books]] = {}
    for one in books:
        by_practice.setdefault(one.practice, []).append(one)
    return Report(
        seen.now,
        configuration,
        judge_configuration(configuration, path),
        tuple(judge(facts_of(scope, code, seen, by_practice.get(code, ())), seen.now) for code in codes),
    )


def facts_of(scope: Scope, code: str, seen: Seen, books: Iterable[Books]) -> PracticeFacts:
    """What the store says of a practice, with what is late of it."""
    config, row = scope.practices[code], seen.practices[code]
    limit = config.budget
    return PracticeFacts(
        code=code,
        feeds=tuple(_feeds(config, row, seen.now)),
        sinks=tuple(_sink(one, seen, configured=one.sink in scope.sinks) for one in books),
        budget=BudgetFacts(
            limit.calls_per_minute,
            pace(limit.calls_per_minute, limit.share),
            row.used,
            row.part,
            row.blocked_until,
        ),
        last_look=row.looked_at,
        looked_by=row.looked_by,
        paused=row.pauses.get(ALL),
        shut_out=row.shut_out.get(ALL),
        in_force=code in scope.in_force,
    )


def _feeds(config: PracticeConfig, row: PracticeRow, now: dt.datetime) -> Iterable[FeedFacts]:
    strategies = {feed: said.strategy for feed, said in row.feeds.items() if said.strategy is not None}
    lateness = FromStore(config, strategies, row.patients, now)
    for feed in config.feeds:
        alike = [one for one in row.alike if feed in one.state.target.reads]
        if feed in strategies:
            late = lateness.is_late(feed, [one.state for one in alike], row.owed_from(feed))
        else:  # as a poller has it: a feed is late that it has not found a way to read within two minutes
            late = row.lease_taken_at is None or now - row.lease_taken_at > TO_BEGIN
        yield _feed(feed, row, alike, late=late, is_configured=True)
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
        held_by=books.held,
        oldest_waiting=seen.oldest_waiting.get(key),
        parked_for=tuple(seen.parked_for.get(key, ())),
    )
