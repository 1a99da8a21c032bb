"""Which rung a feed is read by: what is proven, allowed and has not failed lately, the cheapest first. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from poller.core.model import Failure, FailureKind, Kind, Strategy

ORDER: tuple[Strategy, ...] = tuple(Strategy)
"""From the top of the ladder down. Practice-wide rungs need no list of patients; below them the calls for each patient grow in number."""

BARRED_FOR = dt.timedelta(days=1)
"""How long a rung that has failed is left out."""

REFUSALS = 2
"""So many refused passes in a row, over all targets of a feed, and the rung is not to be had: one patient whose search is refused is not
the rung's affair while others are read."""

FAILURES = 5
"""So many passes in a row that the server answered with an error or with nonsense."""

CONTRADICTIONS = 3
"""So many resources that were in no complete pass and were there when read: its passes are not as complete as they look."""

_SHOWS_LESS = frozenset({Strategy.EVERYTHING, Strategy.EVERYTHING_WINDOW, Strategy.PATIENTS})
"""Rungs that may leave out what one patient's own search shows."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Why a rung is left out for a while."""

    reason: str
    until: dt.datetime


@dataclass(frozen=True, slots=True)
class Footing:
    """How a feed stands on the ladder."""

    strategy: Strategy | None = None
    """The rung in force."""
    offers: tuple[Strategy, ...] = ()
    """The rungs that are proven."""
    bars: Mapping[Strategy, Bar] = field(default_factory=dict)
    refused: Mapping[Kind, int] = field(default_factory=dict)
    """Refused passes in a row, by what they ask for: content reads that succeed say nothing for the windows beside them."""
    failed: Mapping[Kind, int] = field(default_factory=dict)
    """Passes in a row that the server answered with an error or nonsense, by what they ask for."""
    contradicted: int = 0

    def barred(self, rung: Strategy, now: dt.datetime) -> Bar | None:
        """What keeps a rung from being used now."""
        bar = self.bars.get(rung)
        return bar if bar is not None and bar.until > now else None

    def bar(self, rung: Strategy, reason: str, now: dt.datetime) -> Footing:
        """Leave a rung out for a while."""
        kept = {other: bar for other, bar in self.bars.items() if bar.until > now}
        return replace(self, bars={**kept, rung: Bar(reason, now + BARRED_FOR)})

    def on(self, rung: Strategy | None) -> Footing:
        """Standing on this rung, with nothing against it yet."""
        return Footing(rung, self.offers, self.bars)


def choose(
    footing: Footing, forced: str, forbidden: Collection[str], now: dt.datetime, *, half_read: bool = False
) -> Strategy | None:
    """The rung to read by: the one that the configuration forces, or the highest that is proven, allowed and not barred. None for none.

    ``half_read``: the feed's first reading has begun and is not over. Then no groups of patients are begun: what some of a group were read
    for already would look as it were a baseline.
    """
    if forced != "auto":
        return Strategy(forced)
    for rung in ORDER:
        if rung not in footing.offers or rung.value in forbidden or footing.barred(rung, now) is not None:
            continue
        if rung is Strategy.PATIENTS and half_read and footing.strategy is not Strategy.PATIENTS:
            continue
        return rung
    return None


def is_climb(before: Strategy | None, after: Strategy) -> bool:
    """Whether a change of rungs leads up, and so must be shown to lose nothing first."""
    return before is not None and ORDER.index(after) < ORDER.index(before)


def after_pass(footing: Footing, kind: Kind, failure: Failure | None) -> tuple[Footing, str | None]:
    """How the feed stands after a pass of this kind, and why it must step down, if it must.

    What says nothing of the rung counts for nothing: a token, a lock-out, a lost connection.
    """
    if failure is None:
        return replace(footing, refused={**footing.refused, kind: 0}, failed={**footing.failed, kind: 0}), None
    reason = None
    match failure.kind:
        case FailureKind.REFUSED:
            refused = footing.refused.get(kind, 0) + 1
            footing = replace(footing, refused={**footing.refused, kind: refused})
            reason = f"refused: {failure.detail}" if refused >= REFUSALS else None
        case FailureKind.SERVER | FailureKind.MALFORMED:
            failed = footing.failed.get(kind, 0) + 1
            footing = replace(footing, failed={**footing.failed, kind: failed})
            reason = f"it fails: {failure.detail}" if failed >= FAILURES else None
    return footing, reason


def after_contradiction(footing: Footing) -> tuple[Footing, str | None]:
    """How the feed stands after a resource was there that a complete pass had not shown, and why it must step down, if it must."""
    if footing.strategy not in _SHOWS_LESS:
        return footing, None
    footing = replace(footing, contradicted=footing.contradicted + 1)
    missed = "its complete passes did not show what was there when read"
    return footing, missed if footing.contradicted >= CONTRADICTIONS else None


def lower(footing: Footing, forbidden: Collection[str], now: dt.datetime) -> Sequence[Strategy]:
    """The rungs below the present one that could be stepped down to."""
    if footing.strategy is None:
        return ()
    below = ORDER[ORDER.index(footing.strategy) + 1 :]
    return [
        rung
        for rung in below
        if rung in footing.offers and rung.value not in forbidden and footing.barred(rung, now) is None
    ]
