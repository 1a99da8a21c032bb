"""What a configuration promises and the calls cannot keep is refused when it is loaded; what was kept and has been outgrown is told.

Refused is what a person has just written. A practice that was accepted as it stands and has grown since goes on: stopping it would make its
feeds later still.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from poller import metrics
from poller.config import Config, FeedConfig, PracticeConfig, problem_at
from poller.config.values import show_hours
from poller.core.feasibility import Refused, Verdict
from poller.demands import account
from poller.outlook import known_of
from poller.store.outlook import Standing

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What cannot be kept, and where it stands."""

    practice: str
    keys: tuple[str, ...]
    """From the top of the configuration."""
    text: str
    """What it would cost, what is there, what would fit."""
    outgrown: bool
    """Whether as much, or more, was accepted before."""

    def at(self, path: Path | None) -> str:
        """As it is told: with the file and line where it stands, if there is a file. Raises ConfigError if that can't be read any more."""
        if path is None:
            return f"{'.'.join(self.keys)}: {self.text}"
        return problem_at(path, self.keys, self.text)


def refusals(
    config: Config, look: Callable[[str], Standing], before: Config | None, now: dt.datetime
) -> Iterator[Refusal]:
    """All that cannot be kept; nothing of practices of which it is not known yet how, and for how many patients, they are read.

    Args:
        config: What is to be run.
        look: How a practice stands in the store; asked only for practices that promise anything.
        before: What was accepted last; None if nothing was.
        now: Cron schedules are looked ahead from here.

    """
    for code, practice in config.practices.items():
        if not any(_promises(feed) for feed in practice.feeds.values()):
            continue
        verdict = account(practice, known_of(practice, look(code)), now).verdict
        accepted = before.practices.get(code) if before is not None else None
        for one in verdict.refused:
            keys = ("practices", code, "feeds", one.feed, key_of(practice.feeds[one.feed], one))
            yield Refusal(
                code,
                keys,
                in_words(practice, one, verdict),
                accepted is not None and _asks_no_more(practice, accepted),
            )


def tell(practice: str, found: Iterable[Refusal]) -> None:
    """Show and log whether a practice has outgrown what was accepted of it."""
    outgrown = [one.text for one in found if one.practice == practice and one.outgrown]
    metrics.OUTGROWN.labels(practice).set(bool(outgrown))
    for text in outgrown:
        log.warning("what was accepted cannot be kept", action="config.outgrow", practice=practice, problem=text)


def key_of(feed: FeedConfig, one: Refused) -> str:
    """The key of a feed that says what is refused."""
    if one.key == "staleness":
        return "max_staleness"
    return "cron" if feed.every is None else "every"


def in_words(practice: PracticeConfig, one: Refused, verdict: Verdict) -> str:
    """In numbers: what it would cost, what is there and who has it, what would fit.

    E.g. ``72h would cost 118 calls a minute, 169 are there (0.7 of 241), of which 90 are taken; 98h would fit, or 22,000 patients``.
    """
    feed = practice.feeds[one.feed]
    key = key_of(feed, one)
    asked = feed.max_staleness if key == "max_staleness" else feed.every
    text = (
        f"{show_hours(asked) if asked is not None else 'a schedule that comes round so often'} would cost"
        f" {_calls(one.costs)} calls a minute, {_calls(one.part * verdict.rate)} are there"
        f" ({one.part:g} of {_calls(verdict.rate)})"
    )
    if round(one.taken):
        text += f", of which {_calls(one.taken)} are taken"
    if one.rivals:
        text += f" and {one.rivals} more want{'s' if one.rivals == 1 else ''} a part"
    fits = [show_hours(dt.timedelta(seconds=one.fits))] if one.fits is not None else []
    fits += [f"{one.patients:,} patients"] if one.patients is not None else []
    if not fits:
        return f"{text}; nothing would fit beside the other schedules, so make these less frequent"
    return f"{text}; {fits[0]} would fit" + "".join(f", or {other}" for other in fits[1:])


def _calls(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"  # noqa: PLR2004 - two digits


def _promises(feed: FeedConfig) -> bool:
    return not feed.planned or feed.max_staleness is not None


_INTERVALS = ("every", "max_staleness", "sweep_every")
_NO_PROMISES = ("aim", "weight")


def _asks_no_more(practice: PracticeConfig, accepted: PracticeConfig) -> bool:
    """Whether the practice asks for what was accepted, or for less, with the same calls.

    Who slackens a schedule that has been outgrown must not be refused for what is still too much: it would stop what goes on meanwhile.
    """
    same = ("budget", "strategy", "forbid", "patients_per_call")
    return all(getattr(practice, key) == getattr(accepted, key) for key in same) and all(
        name in accepted.feeds and _feed_asks_no_more(feed, accepted.feeds[name])
        for name, feed in practice.feeds.items()
    )


def _feed_asks_no_more(feed: FeedConfig, accepted: FeedConfig) -> bool:
    return all(
        _is_no_shorter(getattr(feed, key), getattr(accepted, key))
        if key in _INTERVALS
        else getattr(feed, key) == getattr(accepted, key)
        for key in type(feed).model_fields
        if key not in _NO_PROMISES
    )


def _is_no_shorter(now: dt.timedelta | None, before: dt.timedelta | None) -> bool:
    return now is None or (before is not None and now >= before)
