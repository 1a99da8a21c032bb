"""What a pass shows and a feed skips for its security labels: counted, left out, and deleted where it is stored."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable

from poller import metrics
from poller.config import PracticeConfig
from poller.config.least import is_withheld
from poller.core.model import Sighting
from poller.store.repository import PassContext, Repository


def without_withheld(
    config: PracticeConfig, repository: Repository, context: PassContext, shown: Iterable[Sighting], now: dt.datetime
) -> list[Sighting]:
    """What of a batch may be recorded. What must not, and is stored, is noted first: the delete itself waits for a read of its id."""
    kept: list[Sighting] = []
    withheld: list[Sighting] = []
    for sighting in shown:
        (withheld if is_withheld(config, sighting.resource_type, sighting.resource) else kept).append(sighting)
    if withheld:
        keys = [(one.resource_type, one.id) for one in withheld]
        repository.note_withheld(context, keys, min(one.began for one in withheld), now)
        for feed, count in Counter(kind for kind, _ in keys).items():
            metrics.WITHHELD.labels(config.code, feed).inc(count)
    return kept
