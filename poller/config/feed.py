"""What a configuration says of one feed: what is read of it, how, and when.

When: exactly as written (``every``, ``cron``), or as the planner finds worth its calls (``aim``, ``weight``, or nothing at all).
``max_staleness`` bounds what the planner may put off.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from poller.config.active import ActiveHours
from poller.config.section import Section
from poller.config.sinks import Token
from poller.config.values import Category, Cron, Duration, nearest, show_duration, show_hours
from poller.config.worth import parse_weight, usual_staleness, usual_weight

_PLANNED: Final = "an exact schedule leaves the planner no choice, keep one of them"
EXCLUSIVE: Final = {
    ("every", "cron"): "keep one of them",
    ("every", "aim"): _PLANNED,
    ("every", "weight"): _PLANNED,
    ("cron", "aim"): _PLANNED,
    ("cron", "weight"): _PLANNED,
    ("cron", "max_staleness"): "cron says itself how long a pause may be, keep one of them",
    ("aim", "weight"): "an aim finds its weight by itself, keep one of them",
    ("sweep_every", "sweep_cron"): "keep one of them",
}
"""Keys of a feed that cannot stand together, and why. Said nearer, the one drives out the other that was said further away."""

Weight = Annotated[float | dict[str, float], BeforeValidator(parse_weight)]
Reading = Literal["auto", "window", "sweep", "everything-window", "patient-window", "everything", "patients", "patient"]
Rung = Literal["window", "sweep", "everything-window", "patient-window", "everything", "patients", "patient"]


class AttachmentsConfig(Section):
    """Which attachments are fetched along with the notes that name them."""

    max_bytes: int = Field(default=5_000_000, gt=0, le=50_000_000, examples=["5000000"])
    """Larger ones are left where they are."""


class FeedConfig(Section):
    """One resource type of a practice, and when it is read."""

    categories: tuple[Category, ...] = Field(default=(), examples=["[laboratory, vital-signs]"])
    every: Duration | None = Field(default=None, examples=["5m"])
    cron: Cron | None = Field(default=None, examples=['"*/15 7-19 * * mon-fri"'])
    aim: Duration | None = Field(default=None, examples=["2m"])
    """The median delay of a change that the planner aims at; no promise, max_staleness is one."""
    weight: Weight | None = Field(default=None, examples=["3"])
    """What a change is worth against changes of other feeds; for all categories, or by category."""
    max_staleness: Duration | None = Field(default=None, examples=["72h"])
    """No target goes without a whole reading for longer; refused at load if the limit cannot carry it."""
    active: ActiveHours | None = Field(default=None, examples=['{hours: "07:00-19:00", days: mon-fri}'])
    sweep_cron: Cron | None = Field(default=None, examples=['"0 3 * * *"'])
    sweep_every: Duration | None = Field(default=dt.timedelta(hours=1), validate_default=True, examples=["1h"])
    """How often everything is read by content, beside windows, which never show a delete."""
    page_size: int | None = Field(default=None, gt=0, le=1_000, examples=["100"])
    """Asked for only where the server is proven to take it."""
    parameters: dict[
        Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,63}$")], Annotated[str, Field(min_length=1, max_length=200)]
    ] = Field(default={}, examples=["{status: active}"])
    """Sent with every search of the feed, for servers that want them."""
    strategy: Reading | None = Field(default=None, examples=["patient"])
    """Of this feed, where it is not to be the practice's."""
    forbid: tuple[Rung, ...] = Field(default=(), examples=["[everything]"])
    """Rungs that are not to be used for this feed, besides those that the practice forbids."""
    drop: tuple[str, ...] = Field(default=(), examples=["[note, contact.telecom]"])
    """Paths, as noise rules have them, that are taken out of resources before anything is stored, compared or published."""
    skip_security: tuple[Token, ...] = Field(default=(), examples=["[R, V]"])
    """Labels of ``meta.security``: a resource that carries one is neither stored nor published."""
    attachments: AttachmentsConfig | None = Field(default=None, examples=["{max_bytes: 5000000}"])
    """Given: attachments that are Binary resources of the same server are fetched and become resources of their own."""

    @model_validator(mode="before")
    @classmethod
    def _one_of_those_that_exclude_each_other(cls, said: Any) -> Any:
        if not isinstance(said, dict):
            return said
        present = {key for key, value in said.items() if value is not None}
        for (first, second), why in EXCLUSIVE.items():
            if {first, second} <= present:
                raise ValueError(f"both {first} and {second}; {why}")
        return said

    @field_validator("sweep_every")
    @classmethod
    def _gives_way_to_sweep_cron(cls, said: dt.timedelta | None, info: ValidationInfo) -> dt.timedelta | None:
        return said if info.data.get("sweep_cron") is None else None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if isinstance(self.weight, Mapping):
            for category in self.weight:
                if category not in self.categories:
                    raise ValueError(f"weight: no such category here: {category}; {nearest(category, self.categories)}")
        if self.max_staleness is None:
            return self
        pause = self._closed + (self.every or dt.timedelta())
        if pause > self.max_staleness:
            raise ValueError(
                f"max_staleness: {show_hours(self.max_staleness)} cannot be kept, since every and active leave up to {show_hours(pause)} "
                f"between two readings; write at least max_staleness: {show_hours(pause)}"
            )
        return self

    @property
    def planned(self) -> bool:
        """Whether the planner decides when it is read; else ``every`` or ``cron`` does, exactly as written."""
        return self.every is None and self.cron is None

    @property
    def _closed(self) -> dt.timedelta:
        return self.active.longest_closed if self.active is not None else dt.timedelta()

    def weight_of(self, resource_type: str, category: str | None = None) -> float:
        """What a change is worth: as ``weight`` says, else as usual for the type (:mod:`poller.config.worth`).

        Args:
            resource_type: The type that this feed is of.
            category: Of a target that reads one; None where one search shows all.

        """
        if isinstance(self.weight, Mapping):
            told = [self.weight.get(each, usual_weight(resource_type, each)) for each in self._shown_by(category)]
            return max(told)
        return self.weight if self.weight is not None else usual_weight(resource_type, category)

    def max_staleness_of(self, resource_type: str, category: str | None = None) -> dt.timedelta | None:
        """How long a target may go without a whole reading, as configured or, for a planned feed, as usual for the type.

        None for a feed that follows its schedule and says nothing. What is usual is longer by as long as the feed's hours are closed. Where
        that does not fit the limit it is relaxed; what the file says (``max_staleness`` is not None) is refused.
        """
        if self.max_staleness is not None:
            return self.max_staleness
        return usual_staleness(resource_type, category) + self._closed if self.planned else None

    def _shown_by(self, category: str | None) -> tuple[str, ...]:
        return (category,) if category is not None else self.categories

    def describe(self, resource_type: str) -> str:
        """The schedule in a few words, e.g. ``every 5m mon-fri 07:00-19:00, whole every 1h``, or ``planned, aim 2m …``."""
        first = self._planned(resource_type) if self.planned else self._scheduled()
        if self.active:
            first += f" {self.active.days} {self.active.hours}"
        if self.max_staleness is not None and not self.planned:
            first += f", at most {show_hours(self.max_staleness)} old"
        whole = f"every {show_duration(self.sweep_every)}" if self.sweep_every else f"cron {self.sweep_cron}"
        return f"{first}, whole {whole}"

    def _scheduled(self) -> str:
        return f"every {show_duration(self.every)}" if self.every else f"cron {self.cron}"

    def _planned(self, resource_type: str) -> str:
        each = self.categories or (None,)
        old = {self.max_staleness_of(resource_type, category) for category in each}
        weights = {self.weight_of(resource_type, category) for category in each}
        if self.aim:
            worth = f"aim {show_duration(self.aim)} (a median, no promise)"
        else:
            worth = f"weight {' to '.join(f'{weight:g}' for weight in _ends(weights))}"
        bound = " or ".join(show_hours(each) for each in _ends(each for each in old if each is not None))
        usual = "" if self.max_staleness else " if the limit allows"
        return f"planned, {worth}, at most {bound} old{usual}"


T = TypeVar("T", float, dt.timedelta)


def _ends(values: Iterable[T]) -> list[T]:
    """The smallest and the largest; one if they are the same."""
    ordered = sorted(values)
    return ordered if len(ordered) == 1 else [ordered[0], ordered[-1]]
