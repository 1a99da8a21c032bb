"""Active hours: when a feed is read at all, in its practice's own time."""

from __future__ import annotations

import datetime as dt
import re
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")
_MIDNIGHT: Final = 24 * 60
_WEEK: Final = 7 * _MIDNIGHT


def parse_hours(written: str) -> tuple[int, int]:
    """Minutes after midnight at which ``07:00-19:00`` begins and ends; the end may lie on the next day (``22:00-06:00``)."""
    match = _HOURS.fullmatch(written)
    begin, end = (int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])) if match else (0, 0)
    if match is None or begin == end or begin >= _MIDNIGHT or end > _MIDNIGHT:
        raise ValueError('not hours of a day; write begin and end in quotes, as in "07:00-19:00"')
    return begin, end


def parse_days(written: str) -> frozenset[int]:
    """Weekdays, Monday 0, of ``mon-fri`` or ``mon,wed,sat-sun``."""
    chosen: set[int] = set()
    for part in written.lower().replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError("not days of the week; write them as in mon-fri or mon,wed,sat")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        chosen.update(day % 7 for day in range(begin, end + (8 if end < begin else 1)))
    return frozenset(chosen)


class ActiveHours(BaseModel):
    """Hours of the day and days of the week; outside them nothing is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    hours: str = Field(examples=['"07:00-19:00"'])
    days: str = Field(default="mon-sun", examples=["mon-fri"])

    @model_validator(mode="after")
    def _parses(self) -> Self:
        parse_hours(self.hours)
        parse_days(self.days)
        return self

    @property
    def longest_closed(self) -> dt.timedelta:
        """The longest time between two spells of hours, in a week without a change of clocks."""
        length, starts = self._spells()
        following = [*starts[1:], starts[0] + _WEEK]
        return dt.timedelta(minutes=max(after - start - length for start, after in zip(starts, following, strict=True)))

    @property
    def spell(self) -> float:
        """Seconds from opening to closing."""
        return self._spells()[0] * 60.0

    @property
    def part_open(self) -> float:
        """The part of a week in which it is open."""
        length, starts = self._spells()
        return length * len(starts) / _WEEK

    def least_open(self, seconds: float) -> float:
        """Seconds for which it is open in any span of so many, at the least."""
        length, starts = self._spells()
        span = seconds / 60.0
        # The least open span begins as a spell ends, or ends as one begins.
        begins = [start + length for start in starts] + [(start - span) % _WEEK for start in starts]
        return 60.0 * min(self._open_until(begin + span) - self._open_until(begin) for begin in begins)

    def _open_until(self, minute: float) -> float:
        """Open minutes from the beginning of a week."""
        length, starts = self._spells()
        weeks, rest = divmod(minute, _WEEK)
        carried = max(starts[-1] + length - _WEEK, 0)  # of the spell that began last week
        within = min(rest, carried) + sum(min(max(rest - start, 0), length) for start in starts)
        return weeks * length * len(starts) + within

    def _spells(self) -> tuple[int, list[int]]:
        """Minutes of a spell, and the minutes of a week at which each begins."""
        begin, end = parse_hours(self.hours)
        return (end - begin) % _MIDNIGHT or _MIDNIGHT, sorted(day * _MIDNIGHT + begin for day in parse_days(self.days))

    def includes(self, local: dt.datetime) -> bool:
        """Whether ``local``, in the practice's time zone, lies within. Hours past midnight belong to the day they began on."""
        begin, end = parse_hours(self.hours)
        days = parse_days(self.days)
        minute, today = local.hour * 60 + local.minute, local.weekday()
        if begin < end:
            return today in days and begin <= minute < end
        return (today in days and minute >= begin) or ((today - 1) % 7 in days and minute < end)
