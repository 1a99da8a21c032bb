"""Whether what is asked of a practice's schedule can be kept with the calls there are, and if not, what could. Pure.

Three sums decide, all in calls a minute against the rate B at which calls may leave:

- What is to be read exactly so often (``every``, ``cron``) takes at most :data:`KEPT` · B; the rest is for tokens, surveys, retries and the
  confirmation of deletes.
- Promises (``max_staleness``) that exact schedules do not keep by themselves take at most :data:`PROMISED` · B, since an earliest-deadline
  lane that is loaded higher would leave nothing for what has just changed; and at most what exact schedules leave of :data:`KEPT` · B.
- Promises that nobody wrote down (the defaults) take at most :data:`UNASKED` · B. They are relaxed together until they do.

What cannot be kept is refused with numbers: what it costs, what is there, and what would fit. Where several are refused, what each is told
fits if all follow: those that ask for less than an equal part are kept, the others share the rest in proportion.

Durations are seconds, costs calls a minute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

KEPT: Final = 0.9
PROMISED: Final = 0.7
UNASKED: Final = 0.5

LONGEST: Final = 366 * 86_400.0
"""Seconds. What would have to be longer is nothing that a configuration could say."""

_MINUTE: Final = 60.0
_HOUR: Final = 3_600.0
_UNITS: Final = ((2 * _MINUTE, 1.0), (2 * _HOUR, _MINUTE), (12 * _HOUR, 10 * _MINUTE), (math.inf, _HOUR))
_FEW: Final = 50
_SHORTEST: Final = 1e-3
_HALVINGS: Final = 60
_SLACK: Final = 1e-9
"""Sums of many floats may miss their limit by this part."""


class Part(NamedTuple):
    """What is read: a feed, and a category of it where they are searched one by one."""

    feed: str
    category: str | None = None


def always(seconds: float) -> float:
    """How long a feed without active hours is open in so many seconds."""
    return seconds


Unit = tuple[str, ...]
"""Feeds whose schedules stand and fall together, since the same searches read them."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What the configuration asks for one part."""

    part: Part
    interval: float | None = None
    """Of an exact schedule, while its hours are open."""
    staleness: float | None = None
    """``max_staleness``."""
    said: bool = False
    """Whether ``staleness`` stands in the file; else it is the default, and may be relaxed."""
    open_in: Callable[[float], float] = always
    """How long its hours are open at the least in so many seconds."""


@dataclass(frozen=True, slots=True)
class Load:
    """Searches that are alike: they read the same parts, and a pass of each costs the same."""

    asks: tuple[Ask, ...]
    rows: float
    cost: float
    """Calls of a pass."""
    by_patient: bool = True
    """Whether there are as many more as there are patients more."""

    @property
    def feeds(self) -> Unit:
        """Whom it serves."""
        return tuple(sorted({ask.part.feed for ask in self.asks}))

    @property
    def calls(self) -> float:
        """Calls to read all of them once."""
        return self.rows * self.cost


@dataclass(frozen=True, slots=True)
class Refused:
    """One thing that cannot be kept."""

    feed: str
    key: str
    """``interval`` or ``staleness``."""
    asked: float
    costs: float
    """Of this feed, or of all that are read in one pass with it."""
    part: float
    """Which part of the rate may be spent on such: :data:`KEPT` or :data:`PROMISED`."""
    taken: float
    """What is spent of that already."""
    rivals: int
    """How many others are refused and share what is left."""
    fits: float | None
    """What would fit instead, if the rivals follow as well; None if nothing would."""
    patients: int | None
    """With how many patients all could be kept as it stands; None if that is not what is too much."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it."""

    rate: float
    exact: float
    """What exact schedules cost, those refused with what would fit."""
    promised: float
    """What promises cost on top, defaults as they were relaxed."""
    refused: tuple[Refused, ...] = ()
    accepted: Mapping[Part, float | None] = field(default_factory=dict)
    """The ``max_staleness`` that holds for each planned part; None where none can be kept."""
    relaxed: float = 1.0
    """By which factor the defaults were relaxed; infinite if none can be kept."""

    @property
    def left(self) -> float:
        """What is left for everything else."""
        return max(self.rate - self.exact - self.promised, 0.0)


def weigh(loads: Sequence[Load], rate: float, patients: int) -> Verdict:
    """Hold what is asked against the rate.

    Args:
        loads: All searches by which changes are detected.
        rate: Calls a minute that may leave, B.
        patients: How many there are; ``rows`` of loads ``by_patient`` are in proportion to it.

    """
    said = _staleness(loads, said=True)
    intervals, too_often = _hold_exact(loads, rate)
    exact = sum(_exact_cost(load, intervals) for load in loads)
    kept, too_soon = _hold_promises(loads, rate, intervals, said)
    refused = (*too_often, *too_soon)
    if refused:
        enough = _enough_patients(loads, rate, said, patients)
        refused = tuple(replace(one, patients=enough) for one in refused)
    held, factor = _hold_usual(loads, rate, intervals, kept)
    promised = _extra(loads, intervals, held)
    every_part = {part: held.get(part) for part in (*said, *_staleness(loads, said=False))}
    return Verdict(rate, exact, promised, refused, every_part, factor)


def _staleness(loads: Iterable[Load], *, said: bool) -> dict[Part, float]:
    return {
        ask.part: ask.staleness for load in loads for ask in load.asks if ask.said is said and ask.staleness is not None
    }


def _exact_cost(load: Load, intervals: Mapping[str, float]) -> float:
    each = [intervals[ask.part.feed] for ask in load.asks if ask.interval is not None]
    return load.calls * _MINUTE / min(each) if each else 0.0


def _extra(loads: Iterable[Load], intervals: Mapping[str, float], promises: Mapping[Part, float]) -> float:
    """What promises cost beyond what exact schedules read anyway."""
    total = 0.0
    for load in loads:
        within = [ask.open_in(promises[ask.part]) for ask in load.asks if ask.part in promises]
        if within:
            cost = load.calls * _MINUTE / max(min(within), _SHORTEST)
            total += max(cost - _exact_cost(load, intervals), 0.0)
    return total


def _hold_exact(loads: Sequence[Load], rate: float) -> tuple[dict[str, float], list[Refused]]:
    """The interval of each feed with an exact schedule, as asked or as would fit, and what is refused."""
    asked = {ask.part.feed: ask.interval for load in loads for ask in load.asks if ask.interval is not None}
    units: dict[Unit, float] = {}
    for load in loads:
        if (cost := _exact_cost(load, asked)) > 0:
            units[load.feeds] = units.get(load.feeds, 0.0) + cost
    too_much, factor = _share_out(units, KEPT * rate)
    taken = sum(cost for unit, cost in units.items() if unit not in too_much)
    held, refused = dict(asked), list[Refused]()
    for unit in too_much:
        own = {feed: asked[feed] for feed in unit if feed in asked}
        fits = _up(min(own.values()) * factor)
        for feed in (feed for feed, interval in own.items() if interval < fits):
            held[feed] = fits
            there = fits if fits <= LONGEST else None
            refused.append(
                Refused(feed, "interval", own[feed], units[unit], KEPT, taken, len(too_much) - 1, there, None)
            )
    return held, refused


def _hold_promises(
    loads: Sequence[Load], rate: float, intervals: Mapping[str, float], said: Mapping[Part, float]
) -> tuple[dict[Part, float], list[Refused]]:
    """The promise for each part that names one, as asked or as would fit, and what is refused."""
    exact = sum(_exact_cost(load, intervals) for load in loads)
    bound, before = (PROMISED, 0.0) if PROMISED * rate <= KEPT * rate - exact else (KEPT, exact)
    limit = max(bound * rate - before, 0.0)
    units: dict[Unit, float] = {}
    for load in loads:
        if (cost := _extra([load], intervals, said)) > 0:
            units[load.feeds] = units.get(load.feeds, 0.0) + cost
    too_much, _ = _share_out(units, limit)
    taken = sum(cost for unit, cost in units.items() if unit not in too_much)
    theirs = [load for load in loads if load.feeds in too_much]
    unit_of = {feed: unit for unit in too_much for feed in unit}
    soonest = {unit: min(value for part, value in said.items() if part.feed in unit) for unit in too_much}

    def later(factor: float) -> dict[Part, float]:
        floor = {feed: _up(soonest[unit] * factor) for feed, unit in unit_of.items()}
        return {part: max(value, floor.get(part.feed, 0.0)) for part, value in said.items()}

    longest = LONGEST / max(soonest.values(), default=1.0)
    factor = _smallest(lambda by: _extra(theirs, intervals, later(by)) <= limit - taken, longest)
    held = (
        {part: value for part, value in said.items() if part.feed not in unit_of} if factor is None else later(factor)
    )
    refused: dict[str, Refused] = {}
    for part, asked in said.items():
        fits = held.get(part)
        if part.feed in unit_of and (fits is None or fits > asked):
            cost, rivals = units[unit_of[part.feed]], len(too_much) - 1
            refused[part.feed] = Refused(part.feed, "staleness", asked, cost, bound, before + taken, rivals, fits, None)
    return held, list(refused.values())


def _hold_usual(
    loads: Sequence[Load], rate: float, intervals: Mapping[str, float], kept: Mapping[Part, float]
) -> tuple[dict[Part, float], float]:
    """All promises, with the defaults relaxed together as far as they must be; and by which factor, infinite if none can be kept."""
    usual = _staleness(loads, said=False)
    exact, said = sum(_exact_cost(load, intervals) for load in loads), _extra(loads, intervals, kept)
    limit = max(min(UNASKED * rate, KEPT * rate - exact), said)

    def relaxed(factor: float) -> dict[Part, float]:
        return {**kept, **{part: _hours_up(value * factor) for part, value in usual.items()}}

    if not usual:
        return dict(kept), 1.0
    longest = LONGEST / max(usual.values())
    factor = _smallest(lambda by: _extra(loads, intervals, relaxed(by)) <= limit * (1 + _SLACK), longest)
    return (relaxed(factor), factor) if factor is not None else (dict(kept), math.inf)


def _share_out(costs: Mapping[Unit, float], limit: float) -> tuple[list[Unit], float]:
    """Who asks for more than an equal part of what is left when the modest have been served, and by how much they must ask for less."""
    left, waiting = limit, sorted(costs, key=lambda unit: (costs[unit], unit))
    while waiting:
        if costs[waiting[0]] > left / len(waiting) * (1 + _SLACK):
            return waiting, sum(costs[unit] for unit in waiting) / left if left > 0 else math.inf
        left -= costs[waiting.pop(0)]
    return [], 1.0


def _smallest(fits: Callable[[float], bool], most: float) -> float | None:
    """The smallest factor from 1 that fits, to a millionth; None if not even ``most`` does. ``fits`` never turns false again."""
    if fits(1.0):
        return 1.0
    if not fits(most):
        return None
    low, high = 1.0, most
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
        if high / low < 1 + 1e-6:
            break
    return high


def _enough_patients(loads: Sequence[Load], rate: float, said: Mapping[Part, float], patients: int) -> int | None:
    """The most patients for whom all could be kept as asked, rounded down to two digits; None if so few that it is no advice."""
    asked = {ask.part.feed: ask.interval for load in loads for ask in load.asks if ask.interval is not None}

    def holds(number: float) -> bool:
        scaled = [replace(load, rows=load.rows * number / patients) if load.by_patient else load for load in loads]
        exact = sum(_exact_cost(load, asked) for load in scaled)
        return exact <= KEPT * rate and _extra(scaled, asked, said) <= min(PROMISED * rate, KEPT * rate - exact)

    if patients <= 0 or not holds(0.0):
        return None
    low, high = 0.0, float(patients)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    digits = 10 ** max(len(str(int(low))) - 2, 0)
    return int(low) // digits * digits if low * _FEW > patients else None


def _up(seconds: float) -> float:
    """Rounded up to what a person would write: the longer, the rounder."""
    unit = next(unit for below, unit in _UNITS if seconds <= below)
    return math.ceil(seconds / unit * (1 - _SLACK)) * unit


def _hours_up(seconds: float) -> float:
    return math.ceil(seconds / _HOUR * (1 - _SLACK)) * _HOUR
