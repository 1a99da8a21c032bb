"""What of a practice has been read, and what never was: for a person, from the store alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, Engine, text

from poller.core.model import Strategy
from poller.store.engine import sql
from poller.store.patients import Enumeration, SourceCount, counts_in, enumerations_in


@dataclass(frozen=True, slots=True)
class FeedStanding:
    """How a feed is read."""

    strategy: Strategy | None
    reason: str
    advice: str | None
    """What an operator may do, where it cannot be read."""
    refused_since: dt.datetime | None
    paused: str | None
    """Why it is left alone for a while, if it is."""
    retired_at: dt.datetime | None = None
    """Since when it is not in the configuration any more."""


@dataclass(frozen=True, slots=True)
class Covered:
    """How much of a type, or of one category, content reads have covered."""

    resource_type: str
    category: str | None
    """None: all categories in one reading."""
    targets: int
    never: int
    """Of these, how many were never read whole."""
    failing: int
    """Of these, how many failed at the last try."""
    oldest: dt.datetime | None
    """When that one of the others began to be read whole which was longest ago."""
    ever: bool
    """Whether anything of it ever was, also by targets that are no longer read."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that is known of a practice's coverage. No ids."""

    now: dt.datetime
    known: int
    gone: int
    unread: int
    """Patients of whom nothing was ever read."""
    sources: Sequence[SourceCount]
    enumerations: Mapping[str, Enumeration]
    feeds: Mapping[str, FeedStanding]
    covered: Sequence[Covered]
    categories: Mapping[str, Mapping[str, int]]
    """Type → category → how many stored resources have it; for the types that were asked about."""


class CoverageStore:
    """Looks at coverage. A role that may only read will do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def look(self, practice: str, categorised: Sequence[str]) -> Findings:
        """How things stand; ``categorised`` are the types of which stored categories are counted. Reads all of these types' rows."""
        one = {"practice": practice}
        with self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            patients = connection.execute(sql("coverage_patients"), one).one()
            covered = connection.execute(sql("coverage_targets"), one).all()
            return Findings(
                now=connection.execute(text("SELECT now()")).scalar_one(),
                known=patients.known,
                gone=patients.gone,
                unread=patients.unread,
                sources=counts_in(connection, practice),
                enumerations=_enumerations(connection, practice),
                feeds=_feeds(connection, practice),
                covered=[Covered(*row) for row in covered],
                categories=_categories(connection, practice, categorised),
            )


def _enumerations(connection: Connection, practice: str) -> dict[str, Enumeration]:
    """Of the sources that are gone through by themselves, and of those that targets are."""
    rows = connection.execute(sql("coverage_enumerations"), {"practice": practice}).all()
    by_target = {row.source: Enumeration(row.source, row.began, row.ended, 0, _words(row.failure)) for row in rows}
    return by_target | enumerations_in(connection, practice)


def _words(failure: str | None) -> str | None:
    return f"the last reading failed: {failure}" if failure is not None else None


def _feeds(connection: Connection, practice: str) -> dict[str, FeedStanding]:
    feeds: dict[str, FeedStanding] = {}
    for row in connection.execute(sql("coverage_feeds"), {"practice": practice}):
        standing = FeedStanding(
            Strategy(row.strategy) if row.strategy else None,
            row.reason or "",
            row.advice,
            row.refused_since,
            row.paused,
            row.retired_at,
        )
        before = feeds.get(row.resource_type)
        feeds[row.resource_type] = standing if before is None else replace(standing, paused=before.paused or row.paused)
    return feeds


def _categories(connection: Connection, practice: str, types: Sequence[str]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    if types:
        for row in connection.execute(sql("coverage_categories"), {"practice": practice, "types": list(types)}):
            found.setdefault(row.resource_type, {})[row.category] = row.resources
    return found
