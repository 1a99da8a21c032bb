"""What is to be expected of a practice before anything runs: calls, delays, what is refused and what gives way.

Nothing here asks a server or a store: a :class:`poller.store.outlook.Standing` says what is known; what is not known is assumed, and said.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from poller.config import PracticeConfig
from poller.config.values import show_duration
from poller.core.feasibility import Load, Part, Refused
from poller.core.model import Strategy
from poller.core.planner import Planner, Row
from poller.core.planner.forecast import Expected, Population, foresee
from poller.demands import Account, Known, account, forced, type_name
from poller.store.outlook import Standing

USUAL_LATENCY: Final = 2.5
"""Seconds of a call, where none was measured: what eClinicalWorks is recorded to take."""

ASSUMED_PATIENTS: Final = 1_000
"""Where nobody knows how many there are."""

_MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Line:
    """What is to be expected of one part of a feed. Durations are seconds."""

    part: Part
    rung: Strategy
    assumed: bool
    """Whether the rung is only what is usual."""
    schedule: str
    """In a few words."""
    searches: float
    calls: float
    """A minute."""
    p50: float | None
    """Of the delay of a change; None where none is to be expected, or what is asked cannot be kept."""
    p95: float | None
    worst: float
    """The longest that a change waits: until the next pass of a search, and a call; infinite if nothing bounds it."""
    promised: float | None
    """``max_staleness`` as it is held; None for none."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to be expected of a practice."""

    account: Account
    lines: tuple[Line, ...]
    refusals: tuple[Refused, ...]
    notes: tuple[str, ...]
    """What was assumed, relaxed or will not be kept; a sentence each."""
    first_load: float
    """Calls that are still to be made before everything was read once."""
    sweeps: float
    """Calls a minute that content reads beside windows ask for."""
    certain: bool
    """Whether all of this is known rather than assumed."""

    @property
    def rate(self) -> float:
        """Calls a minute that there are."""
        return self.account.verdict.rate

    @property
    def fits(self) -> bool:
        """Whether everything is kept as it is written, or as is usual where nothing is."""
        verdict = self.account.verdict
        return not self.refusals and verdict.relaxed == 1.0 and self.sweeps <= verdict.left


def known_of(practice: PracticeConfig, standing: Standing) -> Known:
    """What the store and the configuration know between them."""
    counted = standing.patients > 0
    return Known(
        patients=standing.patients if counted else practice.patients.expected,
        counted=counted,
        rungs=forced(practice, standing.rungs),
        resources=standing.resources,
        page_size=standing.report.page_size if standing.report is not None else None,
        latency=standing.report.latency_seconds if standing.report is not None else None,
    )


def look_ahead(practice: PracticeConfig, standing: Standing, now: dt.datetime) -> Outlook:
    """What to expect, with what is usual in place of what is not known."""
    found = known_of(practice, standing)
    known = found.assuming(practice, ASSUMED_PATIENTS)
    weighed = account(practice, known, now)
    sweeps = sum(sweep.per_minute for sweep in weighed.sweeps)
    lines = tuple(_lines(weighed, frozenset(found.rungs), standing))
    return Outlook(
        weighed,
        lines,
        weighed.verdict.refused,
        tuple(_notes(practice, found, weighed, sweeps)),
        _still_to_load(weighed, standing),
        sweeps,
        found.is_enough_for(practice),
    )


def _lines(weighed: Account, sure: frozenset[str], standing: Standing) -> Iterator[Line]:
    practice, held = weighed.practice, weighed.verdict.accepted
    latency = weighed.known.latency or USUAL_LATENCY
    expected = _foreseen(weighed, standing, weighed.for_worth, latency)
    too_often = {one.feed for one in weighed.verdict.refused if one.key == "interval"}
    for load in weighed.detection:
        exact = [ask.interval for ask in load.asks if ask.interval is not None]
        for ask in load.asks:
            feed = practice.feeds[ask.part.feed]
            foreseen = _of_schedule(load, min(exact), latency) if exact else expected.get(type_name(ask.part))
            if foreseen is not None and not too_often.isdisjoint(load.feeds):  # it would take as long as it takes
                foreseen = replace(foreseen, p50=math.inf, p95=math.inf, worst=math.inf)
            bound = held.get(ask.part)
            closed = feed.active.longest_closed.total_seconds() if feed.active is not None else 0.0
            worst = foreseen.worst + latency if foreseen is not None else bound or math.inf
            yield Line(
                ask.part,
                weighed.known.rungs[ask.part.feed],
                ask.part.feed not in sure,
                _in_words(practice, ask.part),
                load.rows,
                foreseen.calls_per_minute if foreseen is not None else 0.0,
                foreseen.p50 if foreseen is not None and foreseen.p50 < math.inf else None,
                foreseen.p95 if foreseen is not None and foreseen.p95 < math.inf else None,
                max(worst, closed),
                bound,
            )


def _of_schedule(load: Load, interval: float, latency: float) -> Expected:
    """Of what is read exactly so often: a change waits for anything between nothing and the interval."""
    calls = load.calls * _MINUTE / interval / len(load.asks)
    return Expected(interval * 0.5 + latency, interval * 0.95 + latency, interval * 0.5 + latency, interval, 0.0, calls)


def _foreseen(weighed: Account, standing: Standing, rate: float, latency: float) -> Mapping[str, Expected]:
    """What the planner makes of the rest of the rate."""
    practice, patients = weighed.practice, weighed.known.patients or 0
    planned = [load for load in weighed.detection if all(ask.interval is None for ask in load.asks)]
    if not planned:
        return {}
    names = {load: tuple(type_name(ask.part) for ask in load.asks) for load in planned}
    rungs = weighed.known.rungs
    planner = Planner(
        zone=practice.zone,
        calls_per_minute=rate,
        weights={
            type_name(ask.part): practice.feeds[ask.part.feed].weight_of(*ask.part)
            for load in planned
            for ask in load.asks
        },
        aims={name: feed.aim.total_seconds() for name, feed in practice.feeds.items() if feed.aim is not None},
        population=patients,
        signal=bool(practice.patients.practitioners) or rungs.get("Encounter") in {Strategy.WINDOW, Strategy.SWEEP},
        state=standing.learned,
    )
    planner.add([Row("+".join(types), types) for types in names.values()], 0.0)
    populations = [_population(load, types, weighed, patients) for load, types in names.items()]
    return foresee(populations, planner.knowledge(), rate, latency).types


def _population(load: Load, types: tuple[str, ...], weighed: Account, patients: int) -> Population:
    bounds = [weighed.verdict.accepted.get(ask.part) for ask in load.asks]
    return Population(
        types,
        load.rows,
        max(patients / load.rows, 1.0),
        load.cost,
        min((bound for bound in bounds if bound is not None), default=None),
    )


def _still_to_load(weighed: Account, standing: Standing) -> float:
    """Calls of the first reads that are still to come."""
    windowed = {feed: sweep for sweep in weighed.sweeps for feed in sweep.feeds}
    left = 0.0
    for load in weighed.detection:
        if not all(feed in windowed for feed in load.feeds):
            parts = [standing.unread.get((ask.part.feed, ask.part.category), 1.0) for ask in load.asks]
            left += load.calls * max(parts)
    for sweep in weighed.sweeps:
        unread = [part for (feed, _), part in standing.unread.items() if feed in sweep.feeds]
        left += sweep.calls * max(unread, default=1.0)
    return left


def _in_words(practice: PracticeConfig, part: Part) -> str:
    feed = practice.feeds[part.feed]
    if feed.every is not None:
        return f"every {show_duration(feed.every)}"
    if feed.cron is not None:
        return f"cron {feed.cron}"
    return f"aim {show_duration(feed.aim)}" if feed.aim is not None else f"weight {feed.weight_of(*part):g}"


def _notes(practice: PracticeConfig, found: Known, weighed: Account, sweeps: float) -> Iterator[str]:
    verdict, known = weighed.verdict, weighed.known
    unknown = sorted(set(practice.feeds) - set(found.rungs))
    if unknown:
        yield (
            f"how {_listed(unknown)} {'is' if len(unknown) == 1 else 'are'} read is not known yet; reckoned patient by patient,"
            " which is the dearest way; `poller probe` finds out"
        )
    if found.patients is None and any(load.by_patient for load in weighed.detection):
        yield f"how many patients there are is not known yet; reckoned with {ASSUMED_PATIENTS:,}; say patients.expected"
    elif not found.counted and any(load.by_patient for load in weighed.detection):
        yield f"reckoned with patients.expected, {known.patients:,} patients"
    if any(feed.aim is not None for feed in practice.feeds.values()):
        yield "an aim is a median that the planner works towards, no promise"
    if verdict.relaxed > 1.0:
        yield from _relaxed(practice, weighed)
    if sweeps > verdict.left:
        yield (
            f"content reads beside windows ask for {sweeps:,.0f} calls a minute and {verdict.left:,.0f} are left;"
            " they take as long as they take: a longer sweep_every would fit"
        )
    latency = known.latency or USUAL_LATENCY
    carried = practice.budget.max_in_flight / latency * _MINUTE
    if carried < verdict.rate:
        yield (
            f"max_in_flight {practice.budget.max_in_flight} at {latency:.1f} s a call carries {carried:,.0f} calls a minute,"
            f" less than the {verdict.rate:,.0f} that there are; {verdict.rate * latency / _MINUTE:.0f} would carry them"
        )


def _relaxed(practice: PracticeConfig, weighed: Account) -> Iterator[str]:
    """How the default promises were put off."""
    changed: dict[str, list[str]] = {}
    for part, bound in weighed.verdict.accepted.items():
        usual = practice.feeds[part.feed].max_staleness_of(*part)
        if practice.feeds[part.feed].max_staleness is None and usual is not None:
            now = "no bound" if bound is None else span(bound)
            changed.setdefault(f"{span(usual.total_seconds())} became {now}", []).append(type_name(part))
    for what, names in changed.items():
        yield f"the usual max_staleness does not fit: {what} for {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    most = 4
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def span(seconds: float) -> str:
    """A duration as a table shows it: 2.9s, 9.6m, 5.2h, 3.4d; whole hours stay hours, since that is how bounds are written."""
    hours = seconds / 3600
    if hours >= 1 and hours == round(hours) and hours <= 1000:  # noqa: PLR2004 - beyond that days are easier to read
        return f"{hours:.0f}h"
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("m", 60.0)):
        if seconds >= 2 * length:
            value = seconds / length
            return f"{value:.0f}{unit}" if value >= 10 else f"{value:.1f}{unit}"  # noqa: PLR2004 - two digits
    return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.1f}s"  # noqa: PLR2004 - two digits
