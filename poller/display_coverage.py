"""What `poller coverage` says: how patients are known, how much of each feed was read, and what never was. No ids."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from poller.config import PracticeConfig
from poller.config.feed import FeedConfig
from poller.store.coverage import FeedStanding, Findings
from poller.store.known import PatientSource
from poller.store.patients import Enumeration

WIDTH = 100
_UNRECORDED = "unrecorded"
"""Patients of a release that did not keep who had named them."""

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,40}")
"""What a category must look like to be printed: it comes from the server."""


@dataclass(frozen=True, slots=True)
class FeedRow:
    """One feed, or one of its categories."""

    feed: str
    category: str | None
    read_by: str
    targets: int
    never: int
    failing: int
    oldest: dt.datetime | None
    is_whole: bool
    """Whether anything of it was ever read whole."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One source of patients."""

    source: str
    patients: int
    alone: int
    enumeration: Enumeration | None


@dataclass(frozen=True, slots=True)
class Report:
    """Coverage as it is told."""

    practice: str
    findings: Findings
    feeds: Sequence[FeedRow]
    sources: Sequence[SourceRow]
    never: Sequence[str]
    """What was never read, a line each; none if all was."""
    notes: Sequence[str]
    """What else a person should know."""
    retired: Mapping[str, dt.datetime]
    """Feeds that are not in the configuration any more, and since when; what is known of them is kept."""


def judge(practice: PracticeConfig, findings: Findings) -> Report:
    """Hold what was read against what the configuration asks for."""
    feeds = [row for name, feed in practice.feeds.items() for row in _rows(name, feed, findings)]
    sources = list(_sources(findings))
    never = [
        *(line for name in practice.feeds for line in _never(name, feeds, findings)),
        *_never_gone_through(practice, findings),
        *_never_read(practice, findings),
    ]
    retired = {
        name: standing.retired_at
        for name, standing in findings.feeds.items()
        if standing.retired_at is not None and name not in practice.feeds
    }
    return Report(practice.code, findings, feeds, sources, never, list(_notes(practice, findings)), retired)


def categorised(practice: PracticeConfig) -> list[str]:
    """Types that are read category by category."""
    return [name for name, feed in practice.feeds.items() if feed.categories]


def _rows(name: str, feed: FeedConfig, findings: Findings) -> Iterator[FeedRow]:
    covered = [row for row in findings.covered if row.resource_type == name]
    standing = findings.feeds.get(name)
    read_by = standing.strategy.value if standing is not None and standing.strategy is not None else "-"
    for category in feed.categories or (None,):
        about = [row for row in covered if category is None or row.category in (None, category)]
        yield FeedRow(
            name,
            category,
            read_by,
            sum(row.targets for row in about),
            sum(row.never for row in about),
            sum(row.failing for row in about),
            min((row.oldest for row in about if row.oldest is not None), default=None),
            any(row.ever for row in about),
        )


def _never(name: str, feeds: Sequence[FeedRow], findings: Findings) -> Iterator[str]:
    rows = [row for row in feeds if row.feed == name]
    standing = findings.feeds.get(name)
    if not any(row.is_whole for row in rows):
        yield f"{name}: never read whole{_why(standing, max(row.failing for row in rows))}"
        return
    for row in rows:
        label = f"{name}/{row.category}" if row.category else name
        if not row.is_whole:
            yield f"{label}: never read whole{_why(standing, row.failing)}"
        elif row.never:
            yield f"{label}: {row.never} of {row.targets} searches never read whole{_why(standing, row.failing)}"


def _why(standing: FeedStanding | None, failing: int) -> str:
    """What is known of the reason, after a semicolon."""
    if standing is None:
        return "; `poller run` has not come to it yet"
    if standing.paused is not None:
        return f"; paused: {standing.paused}"
    if standing.refused_since is not None or standing.strategy is None:
        return "; cannot be read" + "".join(f": {words}" for words in (standing.reason, standing.advice) if words)
    return f"; {failing} failed at the last try" if failing else ""


def _sources(findings: Findings) -> Iterator[SourceRow]:
    counts = {count.source or _UNRECORDED: count for count in findings.sources}
    known = [source.value for source in PatientSource]
    for source in sorted({*counts, *findings.enumerations}, key=lambda name: (name not in known, name)):
        count = counts.get(source)
        yield SourceRow(
            source,
            count.patients if count is not None else 0,
            count.alone if count is not None else 0,
            findings.enumerations.get(source),
        )


def _never_gone_through(practice: PracticeConfig, findings: Findings) -> Iterator[str]:
    """Sources of patients that the configuration names and that were never gone through to their end."""
    wanted = {
        PatientSource.ROSTER: practice.patients.roster is not None,
        PatientSource.GROUP: practice.patients.group is not None,
        PatientSource.DAYS: bool(practice.patients.practitioners) and "Encounter" in practice.feeds,
        PatientSource.BULK: practice.bulk is not None and "Patient" in practice.feeds,
    }
    for source in (source for source, is_wanted in wanted.items() if is_wanted):
        found = findings.enumerations.get(source.value)
        if found is None or found.began is None:
            yield f"patients, {source.value}: never gone through" + (
                f"; {found.failure}" if found is not None and found.failure else ""
            )


def _never_read(practice: PracticeConfig, findings: Findings) -> Iterator[str]:
    if findings.unread and "Patient" in practice.feeds:
        yield f"patients: nothing was ever read of {findings.unread} of {findings.known}"


def _notes(practice: PracticeConfig, findings: Findings) -> Iterator[str]:
    for name, enumeration in findings.enumerations.items():
        if enumeration.began is not None and enumeration.failure is not None:
            yield f"patients, {name}: {enumeration.failure}"
    if not any(enumeration.began is not None for enumeration in findings.enumerations.values()):
        yield "patients: no source was gone through whole, so there may be some whom nobody knows of; see patients.roster"
    by_reference = next((count for count in findings.sources if count.source == PatientSource.REFERENCE.value), None)
    if by_reference is not None and by_reference.alone:
        yield f"patients: {by_reference.alone} are named by other resources alone; no search, roster or Group shows them"
    for name in categorised(practice):
        yield from _empty(practice.code, name, practice.feeds[name], findings)
        yield from _unasked(name, practice.feeds[name], findings)


def _empty(code: str, name: str, feed: FeedConfig, findings: Findings) -> Iterator[str]:
    """Categories that were read whole and have shown nothing, though the type has something: servers answer so of one they do not use."""
    stored = findings.categories.get(name, {})
    for row in findings.covered:
        is_one = row.resource_type == name and row.category in feed.categories and row.ever
        if is_one and stored and not stored.get(row.category or ""):
            what = f"{name}/{row.category}: read whole, and nothing was ever found"
            yield f"{what}; does the practice use this category? `poller probe {code}` asks it"


def _unasked(name: str, feed: FeedConfig, findings: Findings) -> Iterator[str]:
    """Categories that are stored and that no search asks for."""
    if any(row.resource_type == name and row.category is None and row.targets for row in findings.covered):
        return
    others = 0
    for category, count in sorted(findings.categories.get(name, {}).items()):
        if category in feed.categories:
            continue
        if _CODE.fullmatch(category) is None:
            others += count
            continue
        yield f"{name}/{category}: {count} stored, and no search asks for this category; add it to categories if it matters"
    if others:
        yield f"{name}: {others} stored in categories that are no codes, and no search asks for them"


def show(report: Report, console: Console, *, in_json: bool = False) -> None:
    """Print it, no wider than :data:`WIDTH`; or as one line of JSON."""
    if in_json:
        console.print(json.dumps(as_json(report)), markup=False, highlight=False, soft_wrap=True)
        return
    found = report.findings
    width = min(WIDTH, console.width)
    console.print(_source_table(report, width))
    console.print(f"{found.known} patients known, {found.gone} gone, {found.unread} of whom nothing was ever read\n")
    console.print(_feed_table(report, width))
    retired = [
        f"{feed}, {_ago(at, found.now)}; kept, not read, nothing of it deleted" for feed, at in report.retired.items()
    ]
    for title, lines in (("Never read", report.never), ("Retired", retired), ("Worth knowing", report.notes)):
        if lines:
            console.print(f"\n{title}:", style="bold")
        for line in lines:
            console.print(f"- {line}", width=width, markup=False, highlight=False, soft_wrap=False)
    if not report.never:
        console.print("\nEverything that is configured has been read whole at least once.")


def _source_table(report: Report, width: int) -> Table:
    numbers = [Column(name, justify="right") for name in ("patients", "by it alone")]
    table = Table(
        "patients named by", *numbers, "last gone through", Column("trouble", ratio=1, overflow="fold"), width=width
    )
    for row in report.sources:
        gone_through = row.enumeration
        table.add_row(
            row.source,
            str(row.patients),
            str(row.alone),
            _ago(gone_through.began if gone_through else None, report.findings.now) if gone_through else "-",
            gone_through.failure if gone_through and gone_through.failure else "",
        )
    return table


def _feed_table(report: Report, width: int) -> Table:
    numbers = [Column(name, justify="right") for name in ("searches", "never read")]
    table = Table(Column("feed", ratio=1, overflow="fold"), "read by", *numbers, "oldest whole read", width=width)
    for row in report.feeds:
        table.add_row(
            f"{row.feed}/{row.category}" if row.category else row.feed,
            row.read_by,
            str(row.targets),
            str(row.never),
            _ago(row.oldest, report.findings.now),
        )
    return table


def _ago(moment: dt.datetime | None, now: dt.datetime) -> str:
    """How long ago, in its largest unit."""
    if moment is None:
        return "never"
    seconds = max(0, int((now - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit} ago"
    return f"{seconds}s ago"


def as_json(report: Report) -> dict[str, Any]:
    """The same for a program."""
    found = report.findings
    return {
        "practice": report.practice,
        "at": _at(found.now),
        "complete": not report.never,
        "patients": {"known": found.known, "gone": found.gone, "neverRead": found.unread},
        "sources": [
            {
                "source": row.source,
                "patients": row.patients,
                "alone": row.alone,
                "began": _at(row.enumeration.began) if row.enumeration else None,
                "ended": _at(row.enumeration.ended) if row.enumeration else None,
                "failure": row.enumeration.failure if row.enumeration else None,
            }
            for row in report.sources
        ],
        "feeds": [
            {
                "feed": row.feed,
                "category": row.category,
                "strategy": row.read_by if row.read_by != "-" else None,
                "targets": row.targets,
                "neverRead": row.never,
                "oldestWholeRead": _at(row.oldest),
                "everReadWhole": row.is_whole,
            }
            for row in report.feeds
        ],
        "neverRead": list(report.never),
        "retired": [{"feed": feed, "since": _at(at)} for feed, at in report.retired.items()],
        "notes": list(report.notes),
    }


def _at(moment: dt.datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
