"""What the pollers on one store, each by its name, want of what they share: months of the log hold the events of all of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping

from poller.config import Config, document
from poller.config.values import parse_retention
from poller.store.retention import Need


def needs(config: Config, accepted: Mapping[str, str]) -> list[Need]:
    """What must not be dropped: for ``config``, which is ours, and for what pollers of each name ``accepted`` last, stopped ones as well.

    Raises Unreadable for what is no configuration: then nobody knows what that poller needs.
    """
    found = dict.fromkeys(_needs(config.name, config.practices, config.sinks, config.store.retention))
    for name, written in accepted.items():
        root = document.parse(written)[0]
        practices, sinks = ((root.get(key) or _NOTHING).mapping for key in ("practices", "sinks"))
        found.update(dict.fromkeys(_needs(name, practices, sinks, _retention(root))))
    return list(found)


_NOTHING = document.Node(None, 1, ())


def _needs(poller: str, practices: Iterable[str], sinks: Iterable[str], keep: dt.timedelta | None) -> Iterator[Need]:
    sinks = list(sinks)
    for practice in practices:
        yield Need(poller, practice, keep=keep)
        for sink in sinks:
            yield Need(poller, practice, sink)


def _retention(root: document.Node) -> dt.timedelta | None:
    """How long a poller keeps what it has; what cannot be read counts as for ever."""
    written = ((root.get("store") or _NOTHING).get("retention") or _NOTHING).value
    try:
        keep = parse_retention(written)
    except ValueError:
        return None
    return keep if isinstance(keep, dt.timedelta) else None
