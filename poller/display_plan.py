"""What `poller plan` says: per feed what is to be expected, the sums against the budget, and what gives way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from poller.core.feasibility import KEPT, PROMISED
from poller.demands import type_name
from poller.outlook import Line, Outlook, span
from poller.promises import in_words, key_of

WIDTH = 100


def show(outlooks: Sequence[Outlook], console: Console, *, in_json: bool = False) -> None:
    """Print it, no wider than :data:`WIDTH`; or as one line of JSON."""
    if in_json:
        said = {"practices": [as_json(each) for each in outlooks]}
        console.print(json.dumps(said), markup=False, highlight=False, soft_wrap=True)
        return
    for place, each in enumerate(outlooks):
        if place:
            console.print()
        _show_one(each, console)


def _show_one(outlook: Outlook, console: Console) -> None:
    practice, known = outlook.account.practice, outlook.account.known
    width = min(WIDTH, console.width)
    numbers = [Column(name, justify="right") for name in ("searches", "calls/min", "p50", "p95", "worst", "promised")]
    table = Table(Column("feed", ratio=1, overflow="fold"), "read by", "schedule", *numbers, width=width, box=None)
    for line in outlook.lines:
        table.add_row(
            type_name(line.part),
            line.rung.value + ("?" if line.assumed else ""),
            line.schedule,
            f"{line.searches:,.0f}",
            _number(line.calls),
            *(span(value) if value is not None else "-" for value in (line.p50, line.p95)),
            span(line.worst) if line.worst < float("inf") else "-",
            span(line.promised) if line.promised is not None else "-",
        )
    of = f", {known.patients:,} patients" if any(load.by_patient for load in outlook.account.detection) else ""
    console.print(
        f"{practice.code}{of}, {practice.budget.calls_per_minute} calls a minute", style="bold", highlight=False
    )
    console.print(table)
    for text in (*_sums(outlook), *(f"- {note}" for note in outlook.notes), *_refusals(outlook)):
        console.print(text, width=width, markup=False, highlight=False)


def _sums(outlook: Outlook) -> list[str]:
    verdict, practice = outlook.account.verdict, outlook.account.practice
    sums = [
        (
            f"calls a minute: {_number(verdict.rate)} leave; {_number(verdict.exact)} by exact schedules,"
            f" {_number(verdict.promised)} owed to promises (at most {_number(PROMISED * verdict.rate)};"
            f" {_number(KEPT * verdict.rate)} with schedules), {_number(outlook.sweeps)} for content reads beside windows"
        ),
    ]
    if outlook.first_load >= 1:
        soonest = outlook.first_load / max(verdict.rate - verdict.exact, 1.0) * 60
        sums.append(f"first load: {outlook.first_load:,.0f} calls, {span(soonest)} if nothing else is read meanwhile")
    sums.append(f"gives way where calls are short: {', '.join(practice.gives_way)}, in this order")
    return sums


def _refusals(outlook: Outlook) -> list[str]:
    practice, verdict = outlook.account.practice, outlook.account.verdict
    word = "REFUSED" if outlook.certain else "would be refused, if it is as reckoned:"
    return [
        f"{word} feeds.{one.feed}.{key_of(practice.feeds[one.feed], one)}: {in_words(practice, one, verdict)}"
        for one in outlook.refusals
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"  # noqa: PLR2004 - two digits


def as_json(outlook: Outlook) -> dict[str, Any]:
    """The same for a program; durations in seconds, calls a minute."""
    verdict, practice, known = outlook.account.verdict, outlook.account.practice, outlook.account.known
    return {
        "practice": practice.code,
        "fits": outlook.fits,
        "known": outlook.certain,
        "patients": known.patients,
        "patientsCounted": known.counted,
        "feeds": [_line(line) for line in outlook.lines],
        "callsPerMinute": {
            "limit": practice.budget.calls_per_minute,
            "leave": verdict.rate,
            "exact": verdict.exact,
            "promised": verdict.promised,
            "promisedAtMost": PROMISED * verdict.rate,
            "sweeps": outlook.sweeps,
        },
        "relaxed": verdict.relaxed if verdict.relaxed < float("inf") else None,
        "firstLoad": {
            "calls": outlook.first_load,
            "hours": outlook.first_load / max(verdict.rate - verdict.exact, 1.0) / 60,
        },
        "givesWay": list(practice.gives_way),
        "refused": [
            {
                "feed": one.feed,
                "key": key_of(practice.feeds[one.feed], one),
                "asked": one.asked,
                "costs": one.costs,
                "part": one.part,
                "taken": one.taken,
                "fits": one.fits,
                "patients": one.patients,
                "text": in_words(practice, one, verdict),
            }
            for one in outlook.refusals
        ],
        "notes": list(outlook.notes),
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "feed": line.part.feed,
        "category": line.part.category,
        "strategy": line.rung.value,
        "strategyAssumed": line.assumed,
        "schedule": line.schedule,
        "searches": line.searches,
        "callsPerMinute": line.calls,
        "p50": line.p50,
        "p95": line.p95,
        "worst": line.worst if line.worst < float("inf") else None,
        "maxStaleness": line.promised,
    }
