"""Least data: elements that a feed drops, and resources that it skips for their security labels, before anything is stored or told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from poller.config.noise import check_noise
from poller.core.attachments import ELEMENTS
from poller.core.labels import has, labels
from poller.core.noise import DECISIVE, parse
from poller.core.sink import CODE_ELEMENTS

if TYPE_CHECKING:
    from poller.config.model import PracticeConfig
    from poller.config.sinks import SinkConfig

_NEEDED: Final = {
    "subject": "says whose a resource is",
    "patient": "says whose a resource is",
    "beneficiary": "says whose a resource is",
    "category": "is what feeds and sinks choose by",
}
_LABELS: Final = ("meta", "security")
_VISIT: Final = frozenset({"period", "class"})
"""Of an Encounter."""


def check_drop(resource_type: str, paths: tuple[str, ...], *, attachments: bool) -> tuple[str, ...]:
    """Paths of elements that can be done without, sorted and each once. ValueError for the first that cannot."""
    for path in paths:
        names = tuple(name for name, _ in _parsed(resource_type, path))
        if names[0] in DECISIVE or (resource_type, names[0]) == ("Patient", "link"):
            raise ValueError(f"{path}: {names[0]} decides what an event is and can't be dropped; name another element")
        if (why := _NEEDED.get(names[0])) is not None:
            raise ValueError(f"{path}: {names[0]} {why} and can't be dropped; leave it out, or name another element")
        if names[:2] == _LABELS or names == _LABELS[:1]:
            raise ValueError(
                f"{path}: sinks choose by security labels; name what else of meta is to go, as in meta.tag"
            )
        if resource_type == "Encounter" and names[0] in _VISIT:
            raise ValueError(f"{path}: patients are looked after by their visits, which {names[0]} tells; leave it out")
        if attachments and names[0] == ELEMENTS.get(resource_type):
            raise ValueError(f"{path}: attachments are found by it; leave it out, or take attachments out")
    return check_noise({resource_type: paths})[resource_type]


def check_codes(practices: Mapping[str, PracticeConfig], sinks: Mapping[str, SinkConfig]) -> None:
    """Raises ValueError where a feed drops what a sink chooses its resources by: none of them would pass."""
    choosing = {name: sink.only for name, sink in sinks.items() if sink.only.codes}
    for code, practice in practices.items():
        for resource_type, paths in practice.drop.items():
            path = next((path for path in paths if _parsed(resource_type, path)[0][0] in CODE_ELEMENTS), None)
            for name, only in choosing.items() if path is not None else ():
                if code in (only.practices or (code,)) and resource_type in (only.types or (resource_type,)):
                    raise ValueError(
                        f"{code}.feeds.{resource_type}.drop: {path}: sinks.{name}.only.codes chooses by it, and would let"
                        " nothing of that type pass; leave it out, or take codes out there"
                    )


def _parsed(resource_type: str, path: str) -> tuple[tuple[str, str | None], ...]:
    try:
        return parse(path)
    except ValueError as error:
        raise ValueError(f"{resource_type}: {path!r}: {error}") from None


def is_withheld(practice: PracticeConfig, resource_type: str, resource: Mapping[str, Any]) -> bool:
    """Whether its feed skips resources that carry one of its labels."""
    feed = practice.feeds.get(resource_type)
    return feed is not None and bool(feed.skip_security) and has(labels(resource), feed.skip_security)
