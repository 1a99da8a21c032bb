"""One feed on trial: what plain searches show of it, and whether another way of reading shows the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from poller.core import canonical
from poller.core.capability import Finding
from poller.core.model import Kind, Target
from poller.source.asking import Asked, Asker, Shown
from poller.source.client import malformed
from poller.source.sameness import PATIENTS, Way, differing, judged, way_of

Pair = tuple[Way, Way]
"""What plain searches showed, and what another way did."""

_TRIED = 3
"""Patients of whom the first category is read to find one who has something."""


class Trial:
    """The questions about one feed. ``sample`` are known patients."""

    def __init__(self, asker: Asker, feed: str, sample: Sequence[str]) -> None:
        self.asker = asker
        self.feed = feed
        self.sample = tuple(sample)
        config = asker.practice.feeds.get(feed)
        self.config = config
        self.categories: tuple[str | None, ...] = (config.categories if config is not None else ()) or (None,)
        self.forbidden = asker.practice.forbidden(feed)
        self.evidence: dict[str, dict[str, object]] = {}
        """Search, by a name of ours → status and findings; no ids, no bodies, no server's words."""
        self.plain: dict[tuple[str, str | None], Shown] = {}
        """What plain searches showed, by patient and category."""
        self.last: Asked | None = None
        """How the last plain search was answered."""

    # --- evidence

    def note(self, name: str, asked: Asked, **findings: object) -> None:
        """Keep what an answer showed."""
        rows = {"rows": len(asked.page.showings)} if asked.page is not None else {}
        self.evidence[name] = {"status": asked.status, **rows, **findings}

    def say(self, name: str, finding: Finding, **findings: object) -> Finding:
        """Keep what a reading came to."""
        self.evidence[name] = {"finding": finding.value, **findings}
        return finding

    # --- targets and reads

    def target(self, kind: Kind, patient: str | None = None, category: str | None = None) -> Target:
        """A target of the feed."""
        return Target(self.asker.practice.code, self.feed, kind, category, patient)

    def group(self, patients: Sequence[str], category: str | None) -> Target:
        """Several patients in one search."""
        return Target(self.asker.practice.code, self.feed, Kind.PATIENTS, category, "0.0", patients=tuple(patients))

    def add_patients_of(self, bare: Asked) -> None:
        """Know more patients, by the first page of a search over the whole practice: these have something of the type."""
        shown = bare.page.showings if bare.page is not None else ()
        seen = [canonical.reduce(one.sighting, b"").detail.patient for one in shown]
        named = dict.fromkeys(patient for patient in seen if patient is not None)
        self.sample = tuple(dict.fromkeys((*self.sample[:1], *list(named)[:PATIENTS], *self.sample[1:])))

    async def read(self, patient: str, category: str | None, *, again: bool = False) -> Shown:
        """A plain search, once; or ``again``."""
        key = patient, category
        if again or key not in self.plain:
            asked, shown = await self.asker.look(self.target(Kind.PATIENT, patient, category))
            self.last = asked
            self.plain[key] = shown or Shown(
                {}, {}, asked.answer.failure or malformed("no page of a search"), whole=False
            )
        return self.plain[key]

    async def read_all(self, patient: str, *, again: bool = False) -> Way:
        """All that plain searches show of a patient; a category that is refused has nothing."""
        shown = [await self.read(patient, category, again=again) for category in self.categories]
        refused = [name for name, one in zip(self.categories, shown, strict=True) if one.finding is Finding.NO]
        if refused and len(refused) < len(shown):
            self.evidence["refused categories"] = {"names": [name for name in refused if name is not None]}
            shown = [one for one in shown if one.finding is not Finding.NO]
        return self.way(shown, [patient])

    def way(self, shown: Sequence[Shown], patients: Sequence[str]) -> Way:
        """What readings showed of the feed together."""
        return way_of(self.feed, shown, patients)

    async def holders(self, wanted: int) -> tuple[list[str], str | None]:
        """Up to so many patients who have something in one category, and that category. Reads little to find them."""
        first = await self._holder()
        if first is None:
            return [], None
        patient, category = first
        found = [patient]
        for other in self.sample[: _TRIED + 1]:
            if len(found) < wanted and other not in found and (await self.read(other, category)).found:
                found.append(other)
        return found, category

    async def _holder(self) -> tuple[str, str | None] | None:
        places = [(patient, self.categories[0]) for patient in self.sample[:_TRIED]]
        places += [(patient, category) for patient in self.sample[:1] for category in self.categories[1:]]
        for place in places:
            if (await self.read(*place)).found:
                return place
        return None

    # --- the proof

    async def equal(self, name: str, pair: Pair, again: Callable[[], Awaitable[Pair]]) -> Finding:
        """YES if both ways show the same, at the latest at a second reading: something may have changed in between."""
        plain, other = pair
        compared, apart = judged(plain, other), differing(plain, other)
        if apart and plain.failure is None and other.failure is None:
            plain, other = await again()
            apart &= differing(plain, other)
        if plain.failure is not None or other.failure is not None:
            return self.say(name, Finding.UNCLEAR)
        if not compared:
            return self.say(name, Finding.UNPROVEN, same=0)
        return self.say(
            name, Finding.DIFFERS if apart else Finding.YES, same=compared - len(apart), differing=len(apart)
        )
