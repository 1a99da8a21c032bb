"""What differs between two configurations: which practices and sinks begin, end or change, and what only a restart can change. Pure.

Secrets are shown as the places that are named for them; a configuration holds no more of them than that.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from poller.config.active import ActiveHours
from poller.config.encryption import MasterKey
from poller.config.model import Config, PracticeConfig
from poller.config.secret import Secret
from poller.config.values import show_duration

HOT = ("audit.", "encryption.", "logging.", "reload.")
"""Beginnings of keys, beside practices and sinks, that a running engine takes up."""


@dataclass(frozen=True, slots=True)
class Change:
    """One key; None where it does not stand."""

    key: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        return f"{self.key}: {self.before if self.before is not None else '-'} → {self.after if self.after is not None else '-'}"


@dataclass(frozen=True, slots=True)
class Named:
    """What became of things that have names: practices, sinks."""

    begin: tuple[str, ...]
    end: tuple[str, ...]
    changed: Mapping[str, tuple[Change, ...]]


@dataclass(frozen=True, slots=True)
class Difference:
    """Everything that differs."""

    practices: Named
    sinks: Named
    other: tuple[Change, ...]

    @property
    def needs_restart(self) -> tuple[Change, ...]:
        """What an engine cannot change while it runs."""
        return tuple(change for change in self.other if not change.key.startswith(HOT))

    @property
    def touches_relay(self) -> bool:
        """Whether what is published, or where from, differs."""
        return self.sinks != Named((), (), {}) or self.practices != Named((), (), {})

    def lines(self) -> list[str]:
        """For people, one line for each thing; none if nothing differs."""
        return [
            *(f"practice {code} begins" for code in self.practices.begin),
            *(
                f"practice {code} ends; what is known of it stays, and nothing is deleted"
                for code in self.practices.end
            ),
            *(
                f"practice {code}: {said}"
                for code, changes in self.practices.changed.items()
                for said in _told(changes)
            ),
            *(f"sink {name} begins" for name in self.sinks.begin),
            *(f"sink {name} ends; its cursors stay" for name in self.sinks.end),
            *(f"sink {name}: {change}" for name, changes in self.sinks.changed.items() for change in changes),
            *(str(change) for change in self.other),
        ]


def difference(before: Config, after: Config) -> Difference:
    """What differs from ``before`` to ``after``."""
    return Difference(
        _named(before.practices, after.practices),
        _named(before.sinks, after.sinks),
        tuple(
            change
            for name in Config.model_fields
            if name not in {"practices", "sinks"}
            for change in changes({name: getattr(before, name)}, {name: getattr(after, name)})
        ),
    )


def changes(before: object, after: object) -> tuple[Change, ...]:
    """The keys that differ between two values, sections or mappings, in order of their names."""
    was, now = dict(flat(before)), dict(flat(after))
    return tuple(
        Change(key, was.get(key), now.get(key)) for key in sorted({*was, *now}) if was.get(key) != now.get(key)
    )


def flat(value: object, at: str = "") -> Iterator[tuple[str, str]]:
    """Every key below ``value`` that holds no others, with its value as a person would write it."""
    below: Mapping[str, object] | None = None
    if isinstance(value, Mapping):
        below = value
    elif isinstance(value, BaseModel) and not isinstance(value, Secret | ActiveHours):
        below = {name: getattr(value, name) for name in type(value).model_fields}
    if below:
        for name, part in below.items():
            yield from flat(part, f"{at}.{name}" if at else name)
    else:
        yield at, _shown(value)


def _named(before: Mapping[str, object], after: Mapping[str, object]) -> Named:
    both = [name for name in before if name in after]
    return Named(
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
        {name: changes(before[name], after[name]) for name in both if before[name] != after[name]},
    )


def _told(found: tuple[Change, ...]) -> Iterator[str]:
    """A practice's changes; a feed that comes or goes is one."""
    feeds: dict[str, list[Change]] = {}
    for change in found:
        words = change.key.split(".")
        if words[0] == "feeds" and len(words) > 1:
            feeds.setdefault(words[1], []).append(change)
        else:
            yield str(change)
    for feed, its_changes in feeds.items():
        if all(change.before is None for change in its_changes):
            yield f"feed {feed} begins, or comes back and catches up"
        elif all(change.after is None for change in its_changes):
            yield f"feed {feed} is retired; nothing of it is deleted"
        else:
            yield from (f"feed {feed}: {str(change).removeprefix(f'feeds.{feed}.')}" for change in its_changes)


def without_feeds(practice: PracticeConfig, left_out: frozenset[str]) -> PracticeConfig | None:
    """The practice with fewer feeds, all else the same, its scopes too; None if no feed is left."""
    feeds = {name: feed for name, feed in practice.feeds.items() if name not in left_out}
    if len(feeds) == len(practice.feeds):
        return practice
    return practice.model_copy(update={"feeds": feeds}) if feeds else None


def _shown(value: object) -> str:
    match value:
        case None | bool():
            said = "none" if value is None else str(value).lower()
        case dt.timedelta():
            said = show_duration(value)
        case MasterKey():
            said = f"{value.name} in {value.place}"
        case Secret():
            said = f"{{env: {value.env}}}" if value.env is not None else f"{{file: {value.file}}}"
        case ActiveHours():
            said = f"{{hours: {value.hours}, days: {value.days}}}"
        case tuple():
            said = f"[{', '.join(map(_shown, value))}]"
        case Mapping():
            said = "{}"
        case _:
            said = str(value)
    return said
