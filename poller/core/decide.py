"""What a pair of states means: the only place where an action is chosen."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from poller.core.model import Action, Decision, Origin, Stored, Version


def changed_elements(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the top-level elements that were added, removed or altered, sorted."""
    return tuple(sorted({name for name, _ in before.items() ^ after.items()}))


def decide(stored: Stored | None, seen: Version, version_floor: int) -> Decision | None:
    """What a sighting means against the snapshot, or None for nothing.

    ``stored.digest`` must be under the same rules as ``seen.digest``. ``version_floor`` is the least version that the practice's log epoch
    may give: after a restore, versions lost with the newer database must not be given again to other content.
    """
    if stored is None:
        return Decision(Action.CREATED, max(1, version_floor), ())
    version = max(stored.version + 1, version_floor)
    if stored.deleted:
        return Decision(Action.RESTORED, version, ())
    if stored.digest == seen.digest:
        return None
    found = seen.detail
    changed = changed_elements(stored.elements, found.elements)
    if found.replaced_by is not None and stored.replaced_by is None:
        return Decision(Action.MERGED, version, changed)
    if found.entered_in_error and not stored.entered_in_error:
        return Decision(Action.ENTERED_IN_ERROR, version, changed)
    return Decision(Action.UPDATED, version, changed)


def decide_delete(stored: Stored, version_floor: int) -> Decision:
    """The delete of a resource whose absence is proven."""
    return Decision(Action.DELETED, max(stored.version + 1, version_floor), ())


def origin_of_change(origin: Origin, action: Action) -> Origin:
    """The origin of one change found by a pass whose finds are of ``origin``.

    A baseline shows what is there. What differs from a version that is known already (a first read that takes several tries goes over the
    same resources again) is news, and a sink without baselines must hear of it.
    """
    return Origin.LIVE if origin is Origin.BASELINE and action is not Action.CREATED else origin


def is_outdated(stored: Stored | None, began: dt.datetime) -> bool:
    """Whether a read that began at ``began`` may show less than the snapshot holds already.

    A read whose request began before the stored version's request had ended can carry older content, whichever answer arrived
    first; it decides nothing, and the resource is left for another read.
    """
    return stored is not None and began <= stored.read_ended


def deletes_allowed(live: int, deleted_lately: int, max_fraction: float, min_count: int) -> int:
    """How many more deletes of a feed may be published now.

    ``live`` resources are in the snapshot and ``deleted_lately`` were deleted within the window. The fraction is taken of what was there
    before those deletes; ``min_count`` lets small feeds delete at all.
    """
    ceiling = max(min_count, int(max_fraction * (live + deleted_lately)))
    return max(0, ceiling - deleted_lately)
