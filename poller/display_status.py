"""What `poller status` says: how practices, feeds and sinks are, and what to do next, most urgent first. No ids."""

from __future__ import annotations

import datetime as dt
import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from poller.core.advice import ago
from poller.core.facts import PracticeFacts, SinkFacts
from poller.core.health import Cause, FeedHealth, FeedState, Finding, Health, State
from poller.health import Report

WIDTH = 100

_STYLES: dict[str, str] = {
    FeedState.FRESH: "green",
    FeedState.LATE: "bold red",
    FeedState.REFUSED: "bold red",
    FeedState.PAUSED: "yellow",
    FeedState.BASELINE: "cyan",
    FeedState.RETIRED: "dim",
    State.HEALTHY: "green",
    State.DEGRADED: "bold red",
    State.UNATTENDED: "bold red",
}
_AS_IT_SHOULD_BE = frozenset({FeedState.FRESH, FeedState.RETIRED})
_BOOKS = ("recorded", "skipped", "delivered", "filtered", "discarded", "parked", "waiting", "missing")


def show(report: Report, console: Console, *, whole: bool, only_late: bool = False, in_json: bool = False) -> None:
    """Print it, no wider than :data:`WIDTH`; or as one line of JSON.

    ``whole``: each feed and sink, else a line for each practice. ``only_late``: leave out what is as it should be.
    """
    if in_json:
        console.print(json.dumps(as_json(report, only_late=only_late)), markup=False, highlight=False, soft_wrap=True)
        return
    width = min(WIDTH, console.width)
    _say(console, _configuration(report), width)
    if whole:
        for health in report.practices:
            _show_practice(health, report.at, console, width, only_late=only_late)
    else:
        shown = [health for health in report.practices if not (only_late and health.state is State.HEALTHY)]
        if shown:
            console.print()
            console.print(_practices(shown, report.at), width=width)
        if only_late and (feeds := [(one, feed) for one in shown for feed in _shown(one, only_late=True)]):
            console.print()
            console.print(_feeds(feeds, report.at, with_practice=True), width=width)
    _show_findings(report, console, width)


def _configuration(report: Report) -> str:
    facts, at = report.configuration, f"{report.at:%Y-%m-%d %H:%M:%S} UTC"
    if facts.revision is None:
        return f"{at}; no configuration was accepted yet"
    disk = "is broken" if facts.problems else "says something else" if facts.differs else "says the same"
    since = f" since {facts.accepted_at:%Y-%m-%d %H:%M} UTC" if facts.accepted_at is not None else ""
    return f"{at}; revision {facts.revision} is in force{since}, the file {disk}"


def _show_practice(health: Health, now: dt.datetime, console: Console, width: int, *, only_late: bool) -> None:
    facts = health.facts
    headline = Text.assemble(
        "\n",
        (facts.code, "bold"),
        " is ",
        (health.state.value, _STYLES.get(health.state, "yellow")),
        f"; {_look(facts, now)}",
    )
    console.print(headline, width=width)
    if facts.configured:
        _say(console, _budget(facts), width)
    if feeds := list(_shown(health, only_late=only_late)):
        console.print()
        console.print(_feeds([(health, feed) for feed in feeds], now, with_practice=False), width=width)
    sinks = [
        sink for sink in facts.sinks if not only_late or sink.stuck or sink.missing or sink.waiting or not sink.begun
    ]
    if sinks:
        console.print()
        console.print(_sinks(sinks, now), width=width)


def _shown(health: Health, *, only_late: bool) -> Iterator[FeedHealth]:
    return (feed for feed in health.feeds if not (only_late and feed.state in _AS_IT_SHOULD_BE))


def _look(facts: PracticeFacts, now: dt.datetime) -> str:
    if facts.last_look is None:
        return "no poller ever looked after it"
    if facts.last_look > now:
        return f"last looked after at {facts.last_look:%Y-%m-%d %H:%M} UTC, a time to come"
    by = f" by {facts.looked_by}" if facts.looked_by is not None else ""
    return f"last looked after {ago(facts.last_look, now)}{by}"


def _budget(facts: PracticeFacts) -> str:
    budget = facts.budget
    said = f"{budget.used} of {budget.leave:.0f} calls were used in the last whole minute, of a limit of {budget.limit}"
    if budget.part < 1:
        said += f"; 429s have left {budget.part:.0%} of the pace"
    if budget.blocked_until is not None:
        said += f"; none leaves until {budget.blocked_until:%H:%M:%S} UTC"
    return said


def _table(*columns: Column | str, between: int = 2) -> Table:
    return Table(*columns, box=box.SIMPLE, pad_edge=False, padding=(0, between, 0, 0), show_edge=False)


def _practices(shown: Sequence[Health], now: dt.datetime) -> Table:
    numbers = [Column(name, justify="right") for name in ("fresh", "late", "used", "held", "parked", "waiting")]
    table = _table("practice", "state", *numbers, "oldest read", "last look")
    for health in shown:
        facts = health.facts
        oldest = min((feed.facts.oldest for feed in health.feeds if feed.facts.oldest is not None), default=None)
        counted = [feed.state for feed in health.feeds if feed.state is not FeedState.RETIRED]
        configured = [sink for sink in facts.sinks if sink.configured]
        table.add_row(
            facts.code,
            Text(health.state.value, _STYLES.get(health.state, "yellow")),
            f"{counted.count(FeedState.FRESH)}/{len(counted)}" if facts.configured else "-",
            str(counted.count(FeedState.LATE)) if facts.configured else "-",
            f"{facts.budget.used}/{facts.budget.leave:.0f}" if facts.configured else "-",
            str(sum(feed.facts.held_deletes for feed in health.feeds)),
            str(sum(sink.stuck for sink in configured)),
            str(sum(sink.waiting for sink in configured)),
            ago(oldest, now) if oldest is not None else "-",
            ago(facts.last_look, now) if facts.last_look is not None else "never",
        )
    return table


def _feeds(rows: Sequence[tuple[Health, FeedHealth]], now: dt.datetime, *, with_practice: bool) -> Table:
    columns: list[Column | str] = ["practice"] if with_practice else []
    columns += ["feed", "state", "read by", "last read", "oldest", Column("held", justify="right")]
    table = _table(*columns, Column("why", overflow="fold"))
    for health, feed in rows:
        facts = feed.facts
        table.add_row(
            *([health.facts.code] if with_practice else []),
            Text(facts.feed, no_wrap=True),
            Text(feed.state.value, _STYLES[feed.state]),
            facts.read_by or "-",
            ago(facts.last_complete, now) if facts.last_complete is not None else "never",
            ago(facts.oldest, now) if facts.oldest is not None and facts.last_complete is not None else "never",
            str(facts.held_deletes) if facts.held_deletes else "",
            Text(feed.why),
        )
    return table


def _sinks(sinks: Sequence[SinkFacts], now: dt.datetime) -> Table:
    table = _table("sink", *(Column(name, justify="right") for name in _BOOKS), "oldest", between=1)
    for sink in sinks:
        oldest = ago(sink.oldest_waiting, now) if sink.oldest_waiting is not None else ""
        named = sink.sink if sink.configured else f"{sink.sink} (not configured)"
        named = named if sink.begun else f"{sink.sink} (not begun)"
        table.add_row(Text(named, overflow="fold"), *(str(getattr(sink, name)) for name in _BOOKS), oldest)
    return table


def _show_findings(report: Report, console: Console, width: int) -> None:
    found = dict[Finding, list[str]]()
    for one in report.findings:
        found[one] = []
    for health in report.practices:
        for one in health.findings:
            found.setdefault(replace(one, feeds=()), []).append(health.facts.code)
    if not found:
        console.print("\nNothing is to be done.", style="green", width=width)
        return
    for title, is_trouble in (("What to do next", True), ("Good to know", False)):
        told = [(one, codes) for one, codes in found.items() if one.cause.is_trouble is is_trouble]
        if told:
            console.print(f"\n{title}:", style="bold")
        for one, codes in sorted(told, key=lambda pair: list(Cause).index(pair[0].cause)):
            whose = f"{_listed(codes)}: " if len(report.practices) > 1 and codes else ""
            _say(console, f"{whose}{one.what}", width, "- ", "  ")
            _say(console, one.next, width, "  → ", "    ")


_LISTED = 8
"""So many practices are named of those that have the same trouble."""


def _listed(codes: Sequence[str]) -> str:
    more = f" and {len(codes) - _LISTED} more" if len(codes) > _LISTED else ""
    return ", ".join(codes[:_LISTED]) + more


def _say(console: Console, text: str, width: int, first: str = "", then: str = "") -> None:
    lines = textwrap.wrap(text, width, initial_indent=first, subsequent_indent=then, break_on_hyphens=False)
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def as_json(report: Report, *, only_late: bool = False) -> dict[str, Any]:
    """The same for a program; :func:`poller.core.report_schema.status_schema` says its shape."""
    facts = report.configuration
    return {
        "at": report.at.isoformat(),
        "healthy": report.is_healthy,
        "configuration": {
            "revision": facts.revision,
            "acceptedAt": _at(facts.accepted_at),
            "fileDiffers": facts.differs,
            "problems": list(facts.problems),
            "reloadRefusedAt": _at(facts.refused_at),
        },
        "findings": [_finding(one) for one in report.findings],
        "practices": [
            _practice(health, only_late=only_late)
            for health in report.practices
            if not (only_late and health.state is State.HEALTHY)
        ],
    }


def _practice(health: Health, *, only_late: bool) -> dict[str, Any]:
    facts, budget = health.facts, health.facts.budget
    return {
        "practice": facts.code,
        "state": health.state.value,
        "lastLook": _at(facts.last_look),
        "lookedBy": facts.looked_by,
        "failure": facts.failure,
        "failingSince": _at(facts.failing_since),
        "budget": {
            "limit": budget.limit,
            "leave": budget.leave,
            "used": budget.used,
            "part": budget.part,
            "blockedUntil": _at(budget.blocked_until),
        },
        "feeds": [_feed(feed) for feed in _shown(health, only_late=only_late)],
        "sinks": [_sink(sink) for sink in facts.sinks],
        "findings": [_finding(one) for one in health.findings],
    }


def _feed(feed: FeedHealth) -> dict[str, Any]:
    facts = feed.facts
    return {
        "feed": facts.feed,
        "state": feed.state.value,
        "why": feed.why,
        "strategy": facts.read_by,
        "searches": facts.searches,
        "neverRead": facts.unread,
        "failing": facts.failing,
        "failure": facts.failure,
        "lastWholeRead": _at(facts.last_complete),
        "oldest": _at(facts.oldest),
        "heldDeletes": facts.held_deletes,
    }


def _sink(sink: SinkFacts) -> dict[str, Any]:
    return {
        "sink": sink.sink,
        "configured": sink.configured,
        "begun": sink.begun,
        **{name: getattr(sink, name) for name in _BOOKS},
        "released": sink.released,
        "oldestWaiting": _at(sink.oldest_waiting),
        "trouble": sink.trouble,
        "troubleSince": _at(sink.trouble_since),
        "parkedFor": [{"reason": reason, "events": events} for reason, events in sink.parked_for],
    }


def _finding(one: Finding) -> dict[str, Any]:
    return {
        "cause": one.cause.value,
        "trouble": one.cause.is_trouble,
        "what": one.what,
        "next": one.next,
        "feeds": list(one.feeds),
        "sink": one.sink,
    }


def _at(moment: dt.datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
