"""Holds the events that a poller published against what truly happened."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from poller.simulator.alignment import Fault, Told, align, content_of, faults_of, states_of
from poller.simulator.owed import Debt, FeedSchedule, Rules
from poller.simulator.truth import max_calls_in_60s

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from poller.simulator.alignment import State
    from poller.simulator.truth import Key, PracticeTruth

__all__ = ["FeedSchedule", "Finding", "Received", "Rules", "examine", "judge"]

_GRACE = 2.0
"""Seconds beyond two window intervals after which a change should have been found by a window."""


@dataclass(frozen=True, slots=True)
class Received:
    """An event as a consumer got it."""

    event: Mapping[str, Any]
    """The CloudEvent with its full resource, parsed by :func:`poller.core.jsontext.loads`."""
    arrived: dt.datetime
    """By a clock of the simulator's machine."""

    @property
    def practice(self) -> str:
        """Code at the end of ``source``."""
        return str(self.event["source"]).rstrip("/").rpartition("/")[2]

    @property
    def key(self) -> Key:
        """Type and id."""
        kind, _, name = str(self.event["subject"]).partition("/")
        return kind, name


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong. Names a resource: for a developer's eyes and synthetic patients only, never part of the verdict."""

    what: str
    key: Key
    detail: str = ""


@dataclass(slots=True)
class Sheet:
    """What was found for one practice."""

    events: int = 0
    changes: int = 0
    deletes: int = 0
    found_only_by_sweep: int = 0
    delays: list[float] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def count(self, what: str) -> int:
        """How many findings of a sort."""
        return sum(finding.what == what for finding in self.findings)


def _told(received: Received) -> Told:
    event = received.event
    body = event.get("data", {})
    etag = str(body.get("response", {}).get("etag", "")).removeprefix("W/").strip('"')
    action = str(event["type"]).split(".")[-2]
    return Told(
        arrived=received.arrived,
        detected=dt.datetime.fromisoformat(str(event["time"])),
        deleted=action == "deleted",
        content=None if action == "deleted" else content_of(body.get("resource", {})),
        origin=str(event.get("origin", "live")),
        sequence=str(event.get("sequence", "")),
        version=int(etag) if etag.isdigit() else 0,
        action=action,
    )


def _distinct(received: Iterable[Received], sheet: Sheet) -> dict[Key, list[Told]]:
    """Events by resource in the order of arrival, replays left out, repeated ids noted and left out."""
    seen: set[str] = set()
    by_key: dict[Key, list[Told]] = defaultdict(list)
    for one in sorted(received, key=lambda item: item.arrived):
        if one.event.get("origin") == "replay":
            continue
        if str(one.event["id"]) in seen:
            sheet.findings.append(Finding("duplicates", one.key))
            continue
        seen.add(str(one.event["id"]))
        by_key[one.key].append(_told(one))
    return by_key


def examine(
    evidence: PracticeTruth, received: Iterable[Received], schedules: Sequence[FeedSchedule], rules: Rules
) -> Sheet:
    """Judge one practice by its own events. The sheet names what is wrong, resource by resource."""
    sheet = Sheet()
    debt = Debt(evidence, schedules, rules)
    intervals = {schedule.resource_type: schedule.every for schedule in schedules}
    by_key = _distinct(received, sheet)
    for key in {**dict.fromkeys(evidence.versions), **dict.fromkeys(by_key)}:
        tolds, states = by_key.get(key, []), states_of(evidence.versions.get(key, ()))
        debt.mark(key, states, published=any(not told.deleted for told in tolds))
        _compare(sheet, key, tolds, states, intervals.get(key[0], math.inf))
        if debt.covers(key):
            _finally(sheet, key, tolds, states)
    return sheet


def _compare(sheet: Sheet, key: Key, tolds: Sequence[Told], states: Sequence[State], every: float) -> None:
    """Events against states: missed, false, out of order, and how late."""
    matches = align(tolds, states)
    told_states = {index for index in matches if index is not None}
    for told, index, fault in zip(tolds, matches, faults_of(tolds, states, matches), strict=True):
        sheet.events += told.origin != "baseline"
        if fault is not None:
            what = "delete" if told.deleted else told.action
            sheet.findings.append(Finding(fault.value, key, f"{what}, origin {told.origin}"))
            if fault is Fault.OUT_OF_ORDER and index is None:
                told_states.update(at for at, state in enumerate(states) if state.content == told.content)
        if index is not None:
            _measure(sheet, told, states[index], every)
    for at, state in enumerate(states):
        if state.counted and at not in told_states and _came_back(at, states, told_states):
            continue
        sheet.changes += state.counted
        if state.counted and at not in told_states:
            until = (
                "final" if state.until is None else f"current for {(state.until - state.since).total_seconds():.1f} s"
            )
            sheet.findings.append(Finding("missed", key, "delete, " + until if state.content is None else until))


def _came_back(at: int, states: Sequence[State], told_states: set[int]) -> bool:
    """Whether a state is the last known one again, with nothing between that was owed or told: to a reader nothing happened."""
    before = next((index for index in range(at - 1, 0, -1) if states[index].counted or index in told_states), 0)
    return at > 0 and states[before].content == states[at].content


def _measure(sheet: Sheet, told: Told, state: State, every: float) -> None:
    sheet.deletes += told.deleted
    if told.deleted or told.origin == "baseline":
        return
    sheet.delays.append(max((told.arrived - state.since).total_seconds(), 0.0))
    age = (told.detected - state.since).total_seconds()
    sheet.found_only_by_sweep += told.origin == "reconcile" and age > 2 * every + _GRACE


def _finally(sheet: Sheet, key: Key, tolds: Sequence[Told], states: Sequence[State]) -> None:
    """The last event must leave the resource as it truly is."""
    true = states[-1].content if states else None
    built = tolds[-1].content if tolds else None
    if true != built:
        detail = "absent in the end" if true is None else "not as it is in the end" if tolds else "never told of"
        sheet.findings.append(Finding("state", key, detail))


def _percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest rank; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[max(math.ceil(share * len(ordered)) - 1, 0)], 3)


def _row(evidence: PracticeTruth, sheet: Sheet) -> dict[str, Any]:
    return {
        "mode": evidence.mode,
        "changes": sheet.changes,
        "events": sheet.events,
        "missed": sheet.count("missed"),
        "false": sheet.count("false"),
        "out_of_order": sheet.count("out_of_order"),
        "duplicates": sheet.count("duplicates"),
        "deletes": sheet.deletes,
        "found_only_by_sweep": sheet.found_only_by_sweep,
        "max_calls_in_60s": max_calls_in_60s(evidence.calls),
        "calls": len(evidence.calls),
        "delay_seconds": {
            "p50": _percentile(sheet.delays, 0.5),
            "p95": _percentile(sheet.delays, 0.95),
            "p99": _percentile(sheet.delays, 0.99),
        },
    }


_NAMES = {
    "missed": "missed",
    "false": "false",
    "out_of_order": "out of order",
    "duplicates": "delivered twice",
    "state": "of the final state wrong",
}


def _breaches(evidence: PracticeTruth, sheet: Sheet, row: Mapping[str, Any], rules: Rules) -> list[str]:
    """What breaks the run, in words that name no resource."""
    found = []
    for what, words in _NAMES.items():
        if what == "duplicates" and rules.allow_duplicates:
            continue
        types = Counter(finding.key[0] for finding in sheet.findings if finding.what == what)
        if types:
            parts = ", ".join(f"{kind} {number}" for kind, number in sorted(types.items()))
            found.append(f"{types.total()} {words} ({parts})")
    if row["changes"] < rules.min_changes:
        found.append(f"only {row['changes']} changes, {rules.min_changes} are needed to judge")
    if row["deletes"] < rules.min_deletes:
        found.append(f"only {row['deletes']} deletes, {rules.min_deletes} needed to judge")
    if row["max_calls_in_60s"] > evidence.limit:
        found.append(f"{row['max_calls_in_60s']} calls in 60 seconds, {evidence.limit} are allowed")
    return found


def judge(
    evidence: Mapping[str, PracticeTruth],
    received: Iterable[Received],
    schedules: Mapping[str, Sequence[FeedSchedule]],
    rules: Rules | None = None,
) -> dict[str, Any]:
    """The verdict on a run: {"practices": {code: figures}, "ok", "breaches": [text]}.

    ``evidence`` is ``world.evidence()`` or, from another process, ``truth.load_truth``; ``schedules`` the feeds of each practice. An
    event of a practice that is not simulated is a breach too.
    """
    held = rules or Rules()
    by_practice: dict[str, list[Received]] = defaultdict(list)
    for one in received:
        by_practice[one.practice].append(one)
    practices: dict[str, Any] = {}
    breaches: list[str] = []
    for code, truth in evidence.items():
        sheet = examine(truth, by_practice.pop(code, []), schedules.get(code, ()), held)
        practices[code] = _row(truth, sheet)
        breaches.extend(f"{code}: {breach}" for breach in _breaches(truth, sheet, practices[code], held))
    if by_practice:
        breaches.append(f"{sum(map(len, by_practice.values()))} events of a practice that does not exist")
    return {"practices": practices, "ok": not breaches, "breaches": breaches}
