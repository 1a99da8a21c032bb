"""What `poller why` says: where it stopped, as one sentence, then each station of the way. It prints ids, since they were asked for."""

from __future__ import annotations

import datetime as dt
import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from poller.core.advice import ago
from poller.core.health import FeedHealth
from poller.core.trace import PatientFacts, PatientTrace, Reading, ResourceTrace, Told, Verdict, short

WIDTH = 100

_Row = tuple[FeedHealth, tuple[Reading, ...], int | None, int | None]
"""A feed, its searches, and how many resources are stored and deleted, where that is told."""


def show(
    trace: ResourceTrace | PatientTrace, verdict: Verdict, now: dt.datetime, console: Console, *, in_json: bool = False
) -> None:
    """Print it, no wider than :data:`WIDTH`; or as one line of JSON."""
    if in_json:
        console.print(json.dumps(as_json(trace, verdict)), markup=False, highlight=False, soft_wrap=True)
        return
    width = min(WIDTH, console.width)
    name = trace.resource if isinstance(trace, ResourceTrace) else f"Patient/{trace.patient}"
    _say(console, f"{name}: {verdict.sentence}.", width)
    _say(console, verdict.next, width, "→ ", "  ")
    console.print()
    _say(console, f"patient   {_patient(trace, now)}", width, "", " " * 10)
    if isinstance(trace, ResourceTrace):
        _say(console, f"feed      {_feed(trace)}", width, "", " " * 10)
        _say(console, f"stored    {_stored(trace, now)}", width, "", " " * 10)
        readings: Iterable[Reading] = trace.readings
    else:
        if trace.known is not None:
            console.print()
            console.print(_feeds(trace, now), width=width)
        readings = ()
    if table := _readings(list(readings), now):
        console.print()
        console.print(table, width=width)
    if trace.events:
        console.print()
        console.print(_events(trace.events, with_resource=isinstance(trace, PatientTrace)), width=width)


def _say(console: Console, text: str, width: int, first: str = "", then: str = "") -> None:
    lines = textwrap.wrap(text, width, initial_indent=first, subsequent_indent=then, break_on_hyphens=False)
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _patient(trace: ResourceTrace | PatientTrace, now: dt.datetime) -> str:
    if trace.patient is None:
        return "not known here"
    if trace.known is None:
        return f"{trace.patient}, whom nobody has named"
    return f"{trace.patient}, {_known(trace.known, now)}"


def _known(known: PatientFacts, now: dt.datetime) -> str:
    by = ", ".join(f"{one.source} ({ago(one.first, now)})" for one in known.named)
    gone = f"; gone {ago(known.gone_at, now)}" if known.gone_at is not None else ""
    return (f"named by {by}" if by else f"known {ago(known.since, now)}") + gone


def _feed(trace: ResourceTrace) -> str:
    if trace.feed is None:
        return "not in the configuration"
    why = f": {trace.feed.why}" if trace.feed.why else ""
    return (
        f"{trace.feed.facts.feed} is {trace.feed.state.value}, read by {trace.feed.facts.read_by or 'nothing yet'}{why}"
    )


def _stored(trace: ResourceTrace, now: dt.datetime) -> str:
    stored = trace.stored
    if stored is None:
        return "never seen"
    said = f"version {stored.version}{', deleted' if stored.deleted else ''}, changed {ago(stored.changed, now)}"
    said += f", first seen {ago(stored.first_seen, now)}"
    if stored.absence is not None and stored.missing_since is not None:
        said += f"; missing at the source since {ago(stored.missing_since, now)}, {stored.absence}: {stored.absent_why}"
    return said


def _table(*columns: Column | str, between: int = 2) -> Table:
    return Table(*columns, box=box.SIMPLE, pad_edge=False, padding=(0, between, 0, 0), show_edge=False)


def _readings(readings: Sequence[Reading], now: dt.datetime) -> Table | None:
    if not readings:
        return None
    table = _table("read by", "category", "last tried", "last whole", "has shown it", Column("failed", overflow="fold"))
    for one in readings:
        table.add_row(
            one.kind,
            Text(one.category or "-"),
            _ago(one.tried, now),
            _ago(one.whole, now),
            {True: "yes", False: "no", None: "-"}[one.has_shown],
            one.failure or "",
        )
    return table


def _feeds(trace: PatientTrace, now: dt.datetime) -> Table:
    numbers = [Column(name, justify="right") for name in ("searches", "unread", "stored", "deleted")]
    table = _table(
        Column("feed", no_wrap=True),
        "state",
        *numbers,
        "last whole",
        "last change",
        Column("failed", overflow="fold"),
        between=1,
    )
    for one in trace.feeds:
        whole = [reading.whole for reading in one.readings if reading.shows_all]
        failures = sorted({reading.failure for reading in one.readings if reading.failure})
        table.add_row(
            one.feed.facts.feed,
            one.feed.state.value,
            str(len(one.readings)),
            str(whole.count(None)),
            str(one.stored),
            str(one.deleted),
            _ago(max((at for at in whole if at is not None), default=None), now),
            _ago(one.changed, now),
            ", ".join(failures),
        )
    return table


def _events(events: Sequence[Told], *, with_resource: bool) -> Table:
    columns: list[Column | str] = [Column("resource", overflow="fold")] if with_resource else []
    table = _table(
        *columns,
        "version",
        "action",
        "recorded at, UTC",
        Column("sequence", overflow="fold"),
        Column("sinks", overflow="fold"),
    )
    for one in events:
        by: dict[str, list[str]] = {}
        for at in one.sinks:
            by.setdefault(f"{at.arrival.value}{f' ({at.reason})' if at.reason else ''}", []).append(at.sink)
        sinks = "\n".join(f"{', '.join(names)}: {arrival}" for arrival, names in by.items())
        table.add_row(
            *([Text(one.resource)] if with_resource else []),
            str(one.version),
            one.action,
            f"{one.recorded_at:%Y-%m-%d %H:%M:%S}",
            short(one.sequence),
            Text(sinks),
        )
    return table


def _ago(moment: dt.datetime | None, now: dt.datetime) -> str:
    return ago(moment, now) if moment is not None else "never"


def as_json(trace: ResourceTrace | PatientTrace, verdict: Verdict) -> dict[str, Any]:
    """The same for a program; :func:`poller.core.report_schema.why_schema` says its shape."""
    is_resource = isinstance(trace, ResourceTrace)
    return {
        "practice": trace.practice,
        "resource": trace.resource if isinstance(trace, ResourceTrace) else None,
        "patient": trace.patient,
        "stop": verdict.stop.value,
        "asItShouldBe": verdict.stop.is_as_it_should_be,
        "sentence": verdict.sentence,
        "next": verdict.next,
        "known": _known_as_json(trace.known),
        "sources": []
        if isinstance(trace, ResourceTrace)
        else [{"source": name, "whole": _at(at)} for name, at in trace.tried],
        "feeds": _feeds_as_json(trace),
        "stored": _stored_as_json(trace) if is_resource else None,
        "events": [
            {
                "resource": one.resource,
                "version": one.version,
                "action": one.action,
                "origin": one.origin,
                "sequence": one.sequence,
                "recordedAt": one.recorded_at.isoformat(),
                "sinks": [{"sink": at.sink, "arrival": at.arrival.value, "reason": at.reason} for at in one.sinks],
            }
            for one in trace.events
        ],
    }


def _known_as_json(known: PatientFacts | None) -> dict[str, Any] | None:
    if known is None:
        return None
    named = [
        {"source": one.source, "first": one.first.isoformat(), "last": one.last.isoformat()} for one in known.named
    ]
    return {"since": known.since.isoformat(), "goneAt": _at(known.gone_at), "named": named}


def _feeds_as_json(trace: ResourceTrace | PatientTrace) -> list[dict[str, Any]]:
    if isinstance(trace, ResourceTrace):
        if trace.feed is None:
            return []
        rows: list[_Row] = [(trace.feed, trace.readings, None, None)]
    else:
        rows = [(one.feed, one.readings, one.stored, one.deleted) for one in trace.feeds]
    return [
        {
            "feed": feed.facts.feed,
            "state": feed.state.value,
            "why": feed.why,
            "strategy": feed.facts.read_by,
            "stored": stored,
            "deleted": deleted,
            "readings": [
                {
                    "kind": one.kind,
                    "category": one.category,
                    "showsAll": one.shows_all,
                    "lastTried": _at(one.tried),
                    "lastWhole": _at(one.whole),
                    "failure": one.failure,
                    "hasShown": one.has_shown if isinstance(trace, ResourceTrace) else None,
                }
                for one in readings
            ],
        }
        for feed, readings, stored, deleted in rows
    ]


def _stored_as_json(trace: ResourceTrace | PatientTrace) -> dict[str, Any] | None:
    stored = trace.stored if isinstance(trace, ResourceTrace) else None
    if stored is None:
        return None
    return {
        "version": stored.version,
        "deleted": stored.deleted,
        "firstSeen": stored.first_seen.isoformat(),
        "changed": stored.changed.isoformat(),
        "absence": stored.absence,
        "missingSince": _at(stored.missing_since),
    }


def _at(moment: dt.datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
