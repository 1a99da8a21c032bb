"""Draws cases: servers of every way, and what may happen to them.

A case is unfolded from bytes, each at its own place and each nought for the plainest choice. So cases are independent of each other (drawn
part by part, Hypothesis makes five of six by copying parts of the one before), and what fails shrinks to little.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from poller.core.model import Strategy
from tests.acceptance.hypo.script import (
    Case,
    Change,
    Everything,
    Fault,
    Filter,
    Op,
    Paging,
    Reads,
    Round,
    Trouble,
    Ways,
)

STRATEGIES: tuple[Strategy | None, ...] = (*Strategy, None)
"""How feeds are read at first, one property each; None: as a survey finds."""

T = TypeVar("T")

_LAST = 7
"""Requests of a round among which something may happen; few rounds have many more."""

_OPS = (*Op, Op.UPDATE, Op.UPDATE, Op.DELETE, Op.DELETE, Op.RESTORE, Op.MOVE, Op.VANISH)
_SILENT = (Fault.HOLE, Fault.ENDS_EARLY, Fault.REPEATS, Fault.SKIPS, Fault.SUBSETTED)
"""Faults of which nothing tells: one that shows would make a pass count for less."""
_LOUD = tuple(fault for fault in Fault if fault not in _SILENT)

_TAKES: Mapping[Strategy | None, Mapping[str, object]] = {
    Strategy.WINDOW: {"filter": Filter.HONOURED, "bare": True},
    Strategy.SWEEP: {"bare": True},
    Strategy.EVERYTHING_WINDOW: {"everything": Everything.SINCE},
    Strategy.PATIENT_WINDOW: {"filter": Filter.WITH_PATIENT},
    Strategy.EVERYTHING: {"everything": Everything.WHOLE},
    Strategy.PATIENTS: {"several": True},
}
"""What a server is like that can be read so."""


class Dice:
    """Makes choices from bytes, one each, in the order in which they are asked for."""

    def __init__(self, thrown: bytes) -> None:
        self._thrown = iter(thrown)

    def of(self, *options: T) -> T:
        """One of these, the first for nought."""
        return options[next(self._thrown) * len(options) // 256]

    def up_to(self, most: int) -> int:
        value: int = self.of(*range(most + 1))
        return value

    def seldom(self) -> bool:
        """In a sixth of all cases: what costs time and is not much of a danger."""
        return self.of(*[False] * 5, True)


def _ways(dice: Dice) -> Ways:
    return Ways(
        patients=dice.of(1, 2),
        resources=dice.of(1, 2, 3),
        page=dice.of(50, 1, 2),
        paging=dice.of(Paging.AFTER, Paging.OFFSET, Paging.KEPT),
        newest_first=dice.of(False, True),
        total=dice.of(False, True),
        filter=dice.of(*Filter),
        conditions=dice.seldom(),
        bare=dice.of(True, False),
        several=dice.of(True, False),
        everything=dice.of(Everything.SINCE, Everything.WHOLE, Everything.OFF),
        date=dice.of(0, 0, 0, 0, 1, -7, 90, -90, 3600, -3600, None),
        stamps=dice.of(0, 0, 0, 30, -30, 3600, -3600),
        lag=dice.of(0, 0, 0, 1, 45, 90, 2000),
        stamps_move=dice.of(True, False),
        gone=dice.of(404, 410),
        empties=dice.of(False, True),
        gone_patient=dice.of(200, 200, 400, 404, 410),
        reads=dice.of(*Reads),
        elsewhere=dice.of(False, True),
        latency=dice.of((0,), (9, 0), (4, 9, 0), (0, 0, 9)),
        late_answers=dice.of(False, True),
        commit=dice.of(0.0, 0.0, 5.0),
        in_flight=dice.of(3, 1, 4),
    )


def _change(dice: Dice) -> Change:
    return Change(dice.of(*_OPS), dice.up_to(2), dice.up_to(2))


def _some(dice: Dice, drawn: tuple[T, ...]) -> tuple[T, ...]:
    """A part of what was drawn, all of it most often."""
    return drawn[: dice.of(*range(len(drawn)), len(drawn), len(drawn))]


def _round(dice: Dice) -> Round:
    """A round of one of four kinds, so that one danger does not hide another."""
    before = _some(dice, tuple(_change(dice) for _ in range(3)))
    during = _some(dice, tuple((dice.up_to(_LAST), _change(dice)) for _ in range(3)))
    silent = _some(dice, tuple(Trouble(dice.of(*_SILENT), dice.up_to(_LAST), dice.of(1, 2, 4)) for _ in range(3)))
    loud = _some(dice, tuple(Trouble(dice.of(*_LOUD), dice.up_to(_LAST), dice.of(1, 3, 6)) for _ in range(2)))
    wait, rung = dice.of(4000, 4000, 700, 10), dice.of(*Strategy)
    filter_, crash = dice.of(None, None, *Filter), dice.of(None, None, *range(_LAST))
    return dice.of(
        # Things change while they are read, by several passes at a time.
        Round(before=before[:1], during=during),
        # Another rung takes over while things change: what one has found, the other must miss.
        Round(before=before, during=during[:1], adopt=rung),
        # Rows are left out, or cut down, and nothing says so.
        Round(wait, during=during[:1], troubles=silent),
        # Anything else.
        Round(wait, before[:2], during[:2], (*loud, *silent[:1]), filter_, crash=crash),
    )


def _unfold(thrown: bytes, strategy: Strategy | None, most: int) -> Case:
    """Most servers take the strategy, and most cases begin with a reading in which nothing happens: there must be something to lose."""
    dice = Dice(thrown)
    ways = _ways(dice)
    if not dice.seldom():
        ways = replace(ways, **_TAKES.get(strategy, {}))  # type: ignore[arg-type]  # the names of fields with their values
    begins, count = dice.of(True, True, True, False), dice.up_to(most - 1) + 1
    patients = dice.of(Strategy.PATIENT, Strategy.WINDOW, Strategy.SWEEP, Strategy.PATIENT, Strategy.SWEEP, None)
    lingers = dice.seldom()
    rounds = tuple(_round(dice) for _ in range(most))[:count]
    return Case(strategy, ways, (Round(), *rounds) if begins else rounds, patients, lingers)


@functools.cache
def cases(strategy: Strategy | None, most: int) -> SearchStrategy[Case]:
    """Cases of at most so many rounds, in which feeds are read by this strategy at first."""
    size = _bytes(most)
    return st.binary(min_size=size, max_size=size).map(lambda thrown: _unfold(thrown, strategy, most))


def _bytes(most: int) -> int:
    """How many choices there are in a case."""
    made = 0

    class Counted(Dice):
        def of(self, *options: T) -> T:
            nonlocal made
            made += 1
            return options[0]

    _ways(counted := Counted(b""))
    ways, made = made, 0
    _round(counted)
    return ways + made * most + 5
