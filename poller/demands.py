"""What a configuration asks of a practice's calls, as searches with a number and a cost. Pure, given what is known of the practice.

What there is to read follows from rungs and patients as in :func:`poller.core.plan.wanted_targets`; here it is counted, not listed, so
that a practice can be weighed before anything of it was read.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from poller.config import FeedConfig, PracticeConfig
from poller.core import budget, plan
from poller.core.feasibility import LONGEST, Ask, Load, Part, Verdict, always, weigh
from poller.core.model import Kind, Strategy, Target
from poller.schedules import feed_schedules

TOKEN_CALLS: Final = 0.2
"""A minute: a token lives five minutes."""

ROWS_OF_A_NAME_PAGE: Final = 50.0
"""Patients on a page of a search by name, where none was seen yet."""

_MINUTE: Final = 60.0
_WIDE: Final = frozenset({Strategy.WINDOW, Strategy.SWEEP})
"""Rungs of which a search reads all patients."""
_FIRES: Final = 300
"""So many times a cron schedule is looked ahead: most repeat within these."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a practice before its calls are weighed."""

    patients: int | None = None
    counted: bool = False
    """Whether they were found, rather than said to be expected."""
    rungs: Mapping[str, Strategy] = field(default_factory=dict)
    """How feeds are read: in force, or forced."""
    resources: Mapping[str, int] = field(default_factory=dict)
    """How many are stored of each type."""
    page_size: int | None = None
    """Of the server, as it was measured."""
    latency: float | None = None
    """Seconds of the median call."""

    def is_enough_for(self, practice: PracticeConfig) -> bool:
        """Whether it can be said what the practice's schedules cost."""
        return all(feed in self.rungs for feed in practice.feeds) and (
            self.patients is not None or _WIDE.issuperset(self.rungs.values())
        )

    def assuming(self, practice: PracticeConfig, patients: int) -> Known:
        """With what is usually so in place of what is not known: patient by patient, as eClinicalWorks is read."""
        rungs = {feed: self.rungs.get(feed, Strategy.PATIENT) for feed in practice.feeds}
        return Known(
            self.patients if self.patients is not None else patients,
            self.counted,
            rungs,
            self.resources,
            self.page_size,
            self.latency,
        )


@dataclass(frozen=True, slots=True)
class Sweep:
    """Content reads beside windows."""

    feeds: tuple[str, ...]
    calls: float
    """To read all once."""
    interval: float
    """Seconds in which that is to be done."""

    @property
    def per_minute(self) -> float:
        """What it costs."""
        return self.calls * _MINUTE / self.interval


@dataclass(frozen=True, slots=True)
class Account:
    """What a practice is asked for, and what came of weighing it."""

    practice: PracticeConfig
    known: Known
    detection: tuple[Load, ...]
    sweeps: tuple[Sweep, ...]
    verdict: Verdict

    @property
    def first_load(self) -> float:
        """Calls to read everything once."""
        windowed = {feed for sweep in self.sweeps for feed in sweep.feeds}
        content = sum(load.calls for load in self.detection if not windowed.issuperset(load.feeds))
        return content + sum(sweep.calls for sweep in self.sweeps)

    @property
    def for_worth(self) -> float:
        """Calls a minute that exact schedules and sweeps leave to what is read by worth, promises among it; never less than one."""
        return max(self.verdict.rate - self.verdict.exact - sum(sweep.per_minute for sweep in self.sweeps), 1.0)


def rate_of(practice: PracticeConfig) -> float:
    """Calls a minute that may leave for anything but tokens."""
    pace = budget.pace(practice.budget.calls_per_minute, practice.budget.share)
    return max(pace - (TOKEN_CALLS if practice.auth == "smart" else 0.0), 0.0)


def account(practice: PracticeConfig, known: Known, now: dt.datetime) -> Account:
    """Weigh what is asked of a practice; feeds of which the rung, or the number of patients, is not known count for nothing."""
    detection, sweeps = tuple(detections(practice, known, now)), tuple(_sweeps(practice, known, now))
    return Account(practice, known, detection, sweeps, weigh(detection, rate_of(practice), known.patients or 0))


def accepted(weighed: Account) -> dict[str, float]:
    """The ``max_staleness`` in seconds that holds for each planned type, by the planner's name for it (``Observation/laboratory``).

    Defaults are relaxed as far as they must be; what the file says and cannot be kept (any more) is put off to what would fit.
    """
    return {
        type_name(part): bound
        for part, bound in weighed.verdict.accepted.items()
        if bound is not None and weighed.practice.feeds[part.feed].planned
    }


def account_of(practice: PracticeConfig, rungs: Mapping[str, Strategy], patients: int, now: dt.datetime) -> Account:
    """Weigh what is asked of a practice whose feeds are read by these rungs, for so many patients who were found."""
    return account(practice, Known(patients, counted=True, rungs=dict(rungs)), now)


def planned_names(practice: PracticeConfig, target: Target, rungs: Mapping[str, Strategy]) -> tuple[str, ...]:
    """What the planner reads by a target, by its names for it; nothing where a schedule alone says when."""
    category = "days" if target.kind is Kind.DAYS else target.category
    return tuple(
        type_name(Part(feed, category)) for feed in plan.detected_by(target, rungs) if practice.feeds[feed].planned
    )


def bound_by(limits: Mapping[str, float], names: tuple[str, ...]) -> dt.timedelta | None:
    """How long a target may go without a whole read, that the planner reads by these names; None for what it promises nothing of."""
    bounds = [limits[name] for name in names if name in limits]
    return dt.timedelta(seconds=min(bounds)) if bounds else None


def type_name(part: Part) -> str:
    """How the planner names what is read, e.g. ``Observation/laboratory``."""
    return f"{part.feed}/{part.category}" if part.category is not None else part.feed


def detections(practice: PracticeConfig, known: Known, now: dt.datetime) -> Iterator[Load]:
    """The searches by which changes are detected, those that are alike together."""
    several: dict[Strategy, list[str]] = {Strategy.EVERYTHING: [], Strategy.EVERYTHING_WINDOW: []}
    for name, feed in practice.feeds.items():
        rung = known.rungs.get(name)
        if rung is None:
            continue
        if rung in several and name != "Patient":
            several[rung].append(name)
        else:
            yield from _own_searches(practice, name, feed, rung, known, now)
    if known.patients is None:
        return
    for names in filter(None, several.values()):
        asks = tuple(_ask(practice, Part(name), now) for name in names)
        windowed = names is several[Strategy.EVERYTHING_WINDOW]
        cost = 1.0 if windowed else _pages(known, sum(known.resources.get(name, 0) for name in names), known.patients)
        yield Load(asks, known.patients, cost)


def _own_searches(
    practice: PracticeConfig, name: str, feed: FeedConfig, rung: Strategy, known: Known, now: dt.datetime
) -> Iterator[Load]:
    if rung in _WIDE:
        cost = 1.0 if rung is Strategy.WINDOW else _whole(feed, name, known)
        yield Load((_ask(practice, Part(name), now),), 1.0, cost, by_patient=rung is Strategy.SWEEP)
        return
    if known.patients is None:
        return
    if name == "Patient":
        names = len(practice.patients.names)
        cost = max(float(names), known.patients / (known.page_size or ROWS_OF_A_NAME_PAGE)) if names else 1.0
        rows = 1.0 if names else known.patients
        yield Load((_ask(practice, Part(name), now),), rows, cost, by_patient=not names)
        return
    rows = known.patients
    size = 1
    if rung is Strategy.PATIENTS:
        size = practice.patients_per_call
        rows = math.ceil(rows / size)
    each = feed.categories or (None,)
    here = known.resources.get(name, 0) / len(each)
    cost = 1.0 if rung is Strategy.PATIENT_WINDOW else _pages(known, here, max(rows, 1))
    for category in each:
        yield Load((_ask(practice, Part(name, category), now),), rows, cost)


def _sweeps(practice: PracticeConfig, known: Known, now: dt.datetime) -> Iterator[Sweep]:
    """The content reads beside windows, which nobody is promised."""
    several: list[str] = []
    for name, feed in practice.feeds.items():
        interval = exact_interval(feed, practice, now, whole=True)
        match known.rungs.get(name):
            case _ if interval is None:
                continue
            case Strategy.WINDOW:
                yield Sweep((name,), _whole(feed, name, known), interval)
            case Strategy.PATIENT_WINDOW if known.patients is not None and name != "Patient":
                each = max(len(feed.categories), 1)
                cost = _pages(known, known.resources.get(name, 0) / each, max(known.patients, 1))
                yield Sweep((name,), known.patients * each * cost, interval)
            case Strategy.EVERYTHING_WINDOW if name != "Patient":
                several.append(name)
    if several and known.patients is not None:
        intervals = [exact_interval(practice.feeds[name], practice, now, whole=True) for name in several]
        cost = _pages(known, sum(known.resources.get(name, 0) for name in several), max(known.patients, 1))
        yield Sweep(tuple(several), known.patients * cost, min(each for each in intervals if each is not None))


def _ask(practice: PracticeConfig, part: Part, now: dt.datetime) -> Ask:
    feed = practice.feeds[part.feed]
    bound = feed.max_staleness_of(part.feed, part.category)
    return Ask(
        part,
        exact_interval(feed, practice, now),
        bound.total_seconds() if bound is not None else None,
        feed.max_staleness is not None,
        feed.active.least_open if feed.active is not None else always,
    )


def exact_interval(
    feed: FeedConfig, practice: PracticeConfig, now: dt.datetime, *, whole: bool = False
) -> float | None:
    """Seconds from one reading to the next, while the feed's hours are open, by its schedule or (``whole``) by that of its sweeps.

    What is read once in a spell of hours, or less often, is spread over the hours there are. Of a cron schedule the shortest gap counts.
    None for what the planner decides.
    """
    if feed.planned and not whole:
        return None
    schedule = feed_schedules(feed, practice)[1 if whole else 0]
    if schedule.every is not None:
        every = schedule.every.total_seconds()
        hours = feed.active
        return max(min(every, hours.spell), every * hours.part_open) if hours is not None else every
    at, gap = now, None
    for _ in range(_FIRES):
        after = schedule.cron(at) if schedule.cron is not None else None
        if after is None:
            break
        if at is not now:
            gap = min(gap or LONGEST, (after - at).total_seconds())
        at = after
    return gap if gap is not None else LONGEST


def _whole(feed: FeedConfig, name: str, known: Known) -> float:
    """Calls to read all of a type practice-wide."""
    size = feed.page_size or known.page_size
    return float(max(1, math.ceil(known.resources.get(name, 0) / size))) if size else 1.0


def _pages(known: Known, resources: float, searches: float) -> float:
    """Calls that a search takes in the mean, where some patients have many times as many resources as others.

    The mean number of pages, if what a search shows is distributed exponentially; 1 while no search was seen that had a second page.
    """
    mean = resources / max(searches, 1.0)
    if known.page_size is None or mean <= 0:
        return 1.0
    return 1.0 / -math.expm1(-known.page_size / mean)


def forced(practice: PracticeConfig, found: Mapping[str, Strategy]) -> dict[str, Strategy]:
    """The rungs that hold: those that the configuration forces, and those that were found and are not forbidden."""
    rungs: dict[str, Strategy] = {}
    for feed in practice.feeds:
        said = practice.strategy_of(feed)
        if said != "auto":
            rungs[feed] = Strategy(said)
        elif feed in found and found[feed].value not in practice.forbidden(feed):
            rungs[feed] = found[feed]
    return rungs
