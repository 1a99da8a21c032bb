"""Ways of reading that lose, invent or overspend, to prove that the suite finds them out."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import replace

from poller.app import _SurveyedSource
from poller.core.budget import Grant
from poller.core.model import Batch, Confirmation, Gone, Kind, Purpose, Target
from poller.source.reading import Reading
from tests.contract.parts.road import Ledger


class FirstOfGroup(_SurveyedSource):
    """Asks for the first patient of a group only."""

    def read(self, target: Target, since: dt.datetime | None, purpose: Purpose) -> Reading:
        return super().read(replace(target, patients=target.patients[:1]), since, purpose)


class _ByStamp(Reading):
    """Takes the largest stamp that it has seen for the server's time."""

    async def __aiter__(self) -> AsyncIterator[Batch]:
        largest: dt.datetime | None = None
        async for batch in super().__aiter__():
            for sighting in batch.sightings:
                stamp = dt.datetime.fromisoformat(sighting.resource["meta"]["lastUpdated"])
                largest = stamp if largest is None else max(stamp, largest)
            yield batch
        self.server_date = largest


class LargestStamp(_SurveyedSource):
    """With :func:`cursor_at_stamp`, begins a window at the largest stamp of the one before: what is stamped behind it is never shown."""

    def read(self, target: Target, since: dt.datetime | None, purpose: Purpose) -> Reading:
        made = super().read(target, since, purpose)
        if target.kind is Kind.WINDOW:
            made.__class__ = _ByStamp
        return made


def cursor_at_stamp(
    previous: dt.datetime | None, stamp: dt.datetime | None, _began: dt.datetime, _overlap: dt.timedelta
) -> dt.datetime | None:
    """In the place of :func:`poller.core.window.next_cursor`."""
    return stamp or previous


class Hasty(_SurveyedSource):
    """Takes what one pass has not shown for deleted."""

    async def confirm(self, resource_type: str, id_: str, purpose: Purpose = Purpose.CONFIRM) -> Confirmation:
        del resource_type, id_, purpose
        return Gone(self._clock.now(), self._clock.now())


class Spendthrift(Ledger):
    """Has no budget."""

    def grant(self, _practice: str, want: int, _per_minute: float, *_: float) -> Grant:
        return Grant(0.0, want, 0.0)
