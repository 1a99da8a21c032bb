"""Whether two ways of reading show the same: equal ids, equal canonical content. Else one must not take the other's place."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from poller.core.model import EVERY_TYPE, Failure, Kind, Purpose, Strategy, Target, Version
from poller.core.window import BEGINNING
from poller.source.asking import Asker, Shown
from poller.source.strategies import Source

PATIENTS = 4
"""So many patients are read both ways."""

SEEN = 200
"""So many resources of the whole practice are read to compare a way that reads it by another that does not."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What reading the same resources both ways came to."""

    equal: bool | None
    """None: nothing could be compared."""
    compared: int
    """Resources."""
    reason: str


@dataclass(frozen=True, slots=True)
class Way:
    """What one way of reading showed of a type."""

    found: Mapping[str, Version]
    patients: frozenset[str] | None
    """Whose resources it was to show; None for the whole practice."""
    whole: bool
    """Whether all of these were read."""
    failure: Failure | None = None
    categories: frozenset[str] = frozenset()
    """Those that it asked for; empty for all."""

    def should_show(self, version: Version, other: Way) -> bool:
        """Whether this way must have shown what ``other`` did.

        A read of the whole practice may show categories that are not asked for by patient. Of a patient's ``$everything`` that is not
        taken: what it shows besides would pass for news.
        """
        is_asked = (
            not self.categories
            or other.patients is not None
            or not self.categories.isdisjoint(version.detail.categories)
        )
        return self.whole and is_asked and (self.patients is None or version.detail.patient in self.patients)

    def is_foreign(self, version: Version) -> bool:
        """Whether it shows what it was not asked for: the resource of a patient whom it does not name."""
        return (
            self.patients is not None
            and version.detail.patient is not None
            and version.detail.patient not in self.patients
        )


def differing(one: Way, other: Way) -> set[str]:
    """Ids that one way shows and the other does not, though it should, or that both show with different content."""
    changed = {name for name in one.found.keys() & other.found.keys() if not _same(one, other, name)}
    return changed | _lacking(one, other) | _lacking(other, one)


def _same(one: Way, other: Way, name: str) -> bool:
    return one.found[name].digest == other.found[name].digest


def _lacking(one: Way, other: Way) -> set[str]:
    """What ``one`` shows and ``other`` should, or that ``one`` itself should not."""
    return {
        name
        for name, version in one.found.items()
        if one.is_foreign(version) or (name not in other.found and other.should_show(version, one))
    }


def judged(one: Way, other: Way) -> int:
    """How many resources can be judged by the two."""
    return len((one.found.keys() & other.found.keys()) | differing(one, other))


async def same_both_ways(
    source: Source, feed: str, a: Strategy, b: Strategy, sample: Sequence[str], purpose: Purpose = Purpose.PROBE
) -> Comparison:
    """Read the same resources of a feed by both strategies, a second time if they differ: they may have changed in between.

    ``sample`` are known patients, of whom the first few are read. Where one strategy reads the whole practice, a part of that is read, and
    the patients whom it shows stand in for a sample that it does not. Calls: about one for each patient and category, each way.
    """
    asker = Asker(source, purpose)
    first = await _both(asker, feed, a, b, sample)
    if first is None:
        return Comparison(None, 0, "it could not be read in both ways")
    compared = judged(*first)
    if not compared:
        return Comparison(None, 0, "there was nothing to compare")
    if not (apart := differing(*first)):
        return Comparison(True, compared, f"{compared} resources are the same in both ways")
    second = await _both(asker, feed, a, b, sample)
    if second is None:
        return Comparison(None, compared, "they differed, and could not be read again in both ways")
    if lasting := apart & differing(*second):
        return Comparison(False, compared, f"{len(lasting)} of {compared} resources differ between the two ways")
    return Comparison(True, compared, f"{compared} resources are the same in both ways, at a second reading")


async def _both(asker: Asker, feed: str, a: Strategy, b: Strategy, sample: Sequence[str]) -> tuple[Way, Way] | None:
    """The two ways, a practice-wide one first; None if one of them failed."""
    wide_first = sorted((a, b), key=lambda strategy: strategy not in _WIDE)
    patients = tuple(sample[:PATIENTS])
    one = await read_by(asker, feed, wide_first[0], patients)
    if one.failure is not None:
        return None
    if wide_first[0] in _WIDE and not one.whole:
        seen = dict.fromkeys(version.detail.patient for version in one.found.values() if version.detail.patient)
        patients = tuple(sorted(seen, key=lambda patient: patient not in patients)[:PATIENTS])
    other = await read_by(asker, feed, wide_first[1], patients)
    return (one, other) if other.failure is None else None


_WIDE = frozenset({Strategy.WINDOW, Strategy.SWEEP})


async def read_by(asker: Asker, feed: str, strategy: Strategy, patients: Sequence[str]) -> Way:
    """Read a feed by a strategy: of these patients or, where it reads the whole practice, the first part of that.

    Windows are read over all time. A Patient is read by its id, whatever enumerates patients.
    """
    shown = [
        await asker.read(target, BEGINNING if target.kind.is_window else None, most=SEEN if strategy in _WIDE else None)
        for target in targets_of(asker, feed, strategy, patients)
    ]
    config = asker.practice.feeds.get(feed)
    by_category = config is not None and strategy in {Strategy.PATIENTS, Strategy.PATIENT, Strategy.PATIENT_WINDOW}
    way = way_of(feed, shown, None if strategy in _WIDE else patients)
    return replace(way, categories=frozenset(config.categories if config is not None and by_category else ()))


def targets_of(asker: Asker, feed: str, strategy: Strategy, patients: Sequence[str]) -> list[Target]:
    """The targets by which the feed's resources of these patients are read."""
    practice, config = asker.practice.code, asker.practice.feeds.get(feed)
    each = (config.categories if config is not None else ()) or (None,)
    match strategy:
        case Strategy.WINDOW | Strategy.SWEEP:
            return [Target(practice, feed, Kind(strategy.value))]
        case Strategy.EVERYTHING | Strategy.EVERYTHING_WINDOW:
            kind = Kind(strategy.value)
            return [Target(practice, EVERY_TYPE, kind, patient=patient, types=(feed,)) for patient in patients]
        case Strategy.PATIENTS:
            group = tuple(patients)
            return [Target(practice, feed, Kind.PATIENTS, category, "0.0", patients=group) for category in each]
        case Strategy.PATIENT | Strategy.PATIENT_WINDOW:
            kind = Kind(strategy.value)
            return [
                Target(practice, feed, kind, category, patient)
                for patient, category in itertools.product(patients, each)
            ]


def way_of(feed: str, shown: Sequence[Shown], patients: Collection[str] | None) -> Way:
    """What readings of several targets showed of one type together."""
    found: dict[str, Version] = {}
    for one in shown:
        found.update(one.of(feed))
    return Way(
        found,
        None if patients is None else frozenset(patients),
        all(one.whole for one in shown),
        next((one.failure for one in shown if one.failure is not None), None),
    )
