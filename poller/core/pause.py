"""When a practice, or one feed of it, is left alone for a while, when it is asked again, and when that is over. Pure.

A single failure proves little, so several in a row are needed, with no success between. A pause ends by itself: at its next try one pass
or one probe is let through, and if that gets in, everything goes on. The gaps between tries grow, since each is a call that a practice
which has switched us off has to answer.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from poller.core import faults
from poller.core.faults import Alert, Consequence
from poller.core.model import Failure, FailureKind

PRACTICE = "*"
"""Stands for the whole practice among the names of feeds."""

IN_A_ROW = 3
"""So many failures that ask for a pause make one."""

LONG = dt.timedelta(minutes=5)
"""An unreachable practice is somebody's business from then on; the other reasons are at once."""


class Reason(StrEnum):
    """Why there is a pause."""

    NO_ACCESS = "no access"
    """No token is to be had, or none is accepted: credentials, or the practice's activation of the app."""
    UNREACHABLE = "unreachable"
    """No connection: network, name, TLS, proxy."""
    REFUSED = "refused"
    """A feed: the type is not served to us. The practice: all its feeds are paused; base_url may be wrong."""


_GAPS: dict[Reason, tuple[float, float]] = {
    Reason.NO_ACCESS: (60.0, 900.0),
    Reason.UNREACHABLE: (5.0, 120.0),
    Reason.REFUSED: (10.0, 900.0),
}
"""Seconds to the first try and at most; it doubles."""

_FEED_GAP = (10.0, 3600.0)
"""The same for one feed: a scope or a build comes on another day."""

_KEPT = 8
"""So many of the last failures are remembered."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is asked before :attr:`next_try`, and then one thing."""

    since: dt.datetime
    reason: Reason
    detail: str
    """Of the last failure; words of our own."""
    tries: int
    """Failed tries, the failures that led here as the first."""
    next_try: dt.datetime

    @property
    def words(self) -> str:
        """Reason and detail, for people and the store, e.g. ``unreachable: no connection``."""
        return f"{self.reason.value}: {self.detail}"

    @classmethod
    def recalled(cls, since: dt.datetime, words: str, tries: int, next_try: dt.datetime) -> Pause:
        """As it was kept over a restart. ValueError for words that are not :attr:`words`."""
        reason, _, detail = words.partition(": ")
        return cls(since, Reason(reason), detail, tries, next_try)

    def is_alert(self, now: dt.datetime) -> bool:
        """Whether a person must know by now."""
        if self.reason is not Reason.UNREACHABLE or now - self.since >= LONG:
            return True
        return faults.alert(Failure(FailureKind.TRANSPORT, None, self.detail)) is Alert.AT_ONCE


@dataclass(frozen=True, slots=True)
class Standing:
    """How a practice stands: its pauses, and what may add up to more of them."""

    pauses: Mapping[str, Pause] = field(default_factory=dict)
    """By feed; :data:`PRACTICE` for the whole."""
    shut_out: tuple[str, ...] = ()
    """The feeds of the last failures in a row by which nothing can be read; :data:`PRACTICE` where it was no feed's own."""
    unreachable: int = 0
    """Failures in a row to get there."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """By feed: failures in a row by which it can't be read."""

    @property
    def practice(self) -> Pause | None:
        """The pause of the whole practice."""
        return self.pauses.get(PRACTICE)

    def allows(self, feed: str, now: dt.datetime) -> bool:
        """Whether a feed may be read now, if only to try. While it is paused, let one call through and wait for what it comes to."""
        pause = self.pauses.get(PRACTICE) or self.pauses.get(feed)
        return pause is None or pause.next_try <= now

    def feed_to_try(self, feeds: Collection[str]) -> str | None:
        """The feed by which a paused practice is tried next: another each time, since one may be refused on its own. None for no feeds."""
        ordered = sorted(feeds)
        tries = self.practice.tries if self.practice is not None else 1
        return ordered[(tries - 1) % len(ordered)] if ordered else None


@dataclass(frozen=True, slots=True)
class _Now:
    """The moment of a report."""

    failure: Failure
    feeds: Collection[str]
    now: dt.datetime
    jitter: float


def after(
    standing: Standing,
    feed: str | None,
    failure: Failure | None,
    feeds: Collection[str],
    now: dt.datetime,
    jitter: float,
    consequence: Consequence | None = None,
) -> Standing:
    """How the practice stands after a pass or probe of ``feed`` came to ``failure`` (None: it succeeded).

    ``feed`` is None for what reads several types at once: it can pause no feed. ``feeds`` are all that are configured. ``jitter`` in [0, 1)
    takes up to a quarter of a gap away, so that practices that fell together do not come back together. ``consequence`` stands in the place
    of the table's: a feed on its last rung can step down no further, so it asks for a pause; a rung whose own path is not found does not.
    """
    if failure is None:
        return _succeeded(standing, feed)
    said = _Now(failure, feeds, now, jitter)
    match consequence or faults.consequence(failure):
        case Consequence.PAUSE_PRACTICE if failure.kind is FailureKind.TRANSPORT:
            row = replace(standing, unreachable=standing.unreachable + 1)
            is_enough = row.unreachable >= IN_A_ROW or row.practice is not None
            return _hold(row, PRACTICE, Reason.UNREACHABLE, said) if is_enough else row
        case Consequence.PAUSE_PRACTICE:
            return _shut_out(_reached(standing), feed, said)
        case Consequence.PAUSE_FEED if feed is not None:
            return _refused(_let_in(standing), feed, said)
        case _ if failure.kind is FailureKind.REFUSED:
            return _succeeded(standing, feed)  # it is served, only not by that search
        case _:
            return _unclear(standing, feed, said)


def gap(reason: Reason, tries: int, jitter: float, *, whole: bool = True) -> dt.timedelta:
    """How long after the ``tries``-th failed try (from 1) the next one is; ``whole``: of a practice, not of a feed."""
    first, longest = _GAPS[reason] if whole else _FEED_GAP
    return dt.timedelta(seconds=min(longest, first * 2.0 ** min(max(tries, 1) - 1, 16)) * (1 - jitter / 4))


def _hold(standing: Standing, name: str, reason: Reason, said: _Now) -> Standing:
    """Begin a pause, or put off the next try of one whose time it was."""
    pause, now, whole = standing.pauses.get(name), said.now, name == PRACTICE
    if pause is not None and now < pause.next_try:
        return standing  # said by a pass that was under way when the pause began
    tries = pause.tries + 1 if pause is not None and pause.reason is reason else 1
    since = pause.since if pause is not None else now
    held = Pause(since, reason, said.failure.detail, tries, now + gap(reason, tries, said.jitter, whole=whole))
    return replace(standing, pauses={**standing.pauses, name: held})


def _shut_out(standing: Standing, feed: str | None, said: _Now) -> Standing:
    """Nothing can be read. Only of a call's own 401 it takes two feeds to say that, where there are two: else it is that feed's affair."""
    is_calls_own = said.failure.detail == faults.TOKEN_NOT_ACCEPTED and feed is not None
    shut_out = (*standing.shut_out, feed if is_calls_own and feed is not None else PRACTICE)[-_KEPT:]
    now_out = replace(standing, shut_out=shut_out)
    speakers = set(shut_out)
    is_whole = PRACTICE in speakers or len(speakers) >= min(2, len(said.feeds))
    if standing.practice is not None or (is_whole and len(shut_out) >= IN_A_ROW):
        return _hold(now_out, PRACTICE, Reason.NO_ACCESS, said)
    return _refused(now_out, feed, said) if is_calls_own and feed is not None else now_out


def _refused(standing: Standing, feed: str, said: _Now) -> Standing:
    """One type is not served; if none is, the practice is not."""
    row = standing.refused.get(feed, 0) + 1
    held = replace(standing, refused={**standing.refused, feed: row})
    if row >= IN_A_ROW or feed in standing.pauses:
        held = _hold(held, feed, Reason.REFUSED, said)
    if said.feeds and all(name in held.pauses for name in said.feeds):
        held = _hold(held, PRACTICE, Reason.REFUSED, said)
    return held


def _reached(standing: Standing) -> Standing:
    """There was an answer."""
    return _without(replace(standing, unreachable=0), Reason.UNREACHABLE)


def _let_in(standing: Standing) -> Standing:
    """There was an answer to our token: the practice knows us."""
    return _without(replace(_reached(standing), shut_out=()), Reason.NO_ACCESS)


def _without(standing: Standing, reason: Reason) -> Standing:
    """The practice's pause is over if it was for this."""
    if standing.practice is None or standing.practice.reason is not reason:
        return standing
    return replace(standing, pauses={name: pause for name, pause in standing.pauses.items() if name != PRACTICE})


def _succeeded(standing: Standing, feed: str | None) -> Standing:
    """This feed can be read; others that are paused are still to show it."""
    over = {PRACTICE, feed}
    return Standing(
        pauses={name: pause for name, pause in standing.pauses.items() if name not in over},
        refused={name: row for name, row in standing.refused.items() if name != feed},
    )


def _unclear(standing: Standing, feed: str | None, said: _Now) -> Standing:
    """Neither let in nor shut out: a try that comes to this is made again after the same gap. But any answer shows that we get there."""
    if said.failure.status is not None:
        standing = _reached(standing)
    pauses = dict(standing.pauses)
    for name in (PRACTICE, feed):
        if name is not None and name in pauses and pauses[name].next_try <= said.now:
            pause = pauses[name]
            put_off = gap(pause.reason, pause.tries, said.jitter, whole=name == PRACTICE)
            pauses[name] = replace(pause, next_try=said.now + put_off)
    return replace(standing, pauses=pauses)
