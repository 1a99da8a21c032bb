"""What a change is worth by its type, and how old what is known of it may become: the defaults where a configuration says neither.

The planner needs weights only against each other: a change that weighs four times as much is looked for about twice as often. The usual
change weighs 1. The tables say what people wait for: results and reports before allergies, and social history last.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final

from poller.config.values import check_category

TYPE_WEIGHTS: Final = {
    "DiagnosticReport": 4.0,
    "DocumentReference": 2.0,
    "Encounter": 2.0,
    "MedicationRequest": 2.0,
    "Condition": 1.5,
    "ServiceRequest": 1.5,
    "Goal": 0.5,
    "CarePlan": 0.5,
    "CareTeam": 0.5,
    "Coverage": 0.5,
    "Device": 0.5,
    "Immunization": 0.5,
}
"""By resource type; every other type weighs 1."""

OBSERVATION_WEIGHTS: Final = {
    "laboratory": 4.0,
    "imaging": 2.0,
    "vital-signs": 1.0,
    "exam": 1.0,
    "survey": 0.5,
    "social-history": 0.25,
    "sdoh": 0.25,
}
"""By category; another weighs 1, and where one search shows all of them it weighs what the weightiest does."""

RESULTS_STALENESS: Final = dt.timedelta(hours=24)
"""``max_staleness`` of results: laboratory observations and diagnostic reports."""
USUAL_STALENESS: Final = dt.timedelta(hours=72)
"""``max_staleness`` of everything else."""

_HEAVIEST: Final = 1000.0


def usual_weight(resource_type: str, category: str | None) -> float:
    """The weight of a change of this type, if nobody says otherwise."""
    if resource_type != "Observation":
        return TYPE_WEIGHTS.get(resource_type, 1.0)
    return max(OBSERVATION_WEIGHTS.values()) if category is None else OBSERVATION_WEIGHTS.get(category, 1.0)


def usual_staleness(resource_type: str, category: str | None) -> dt.timedelta:
    """How old what is known may become, if nobody says otherwise."""
    shows_results = resource_type == "DiagnosticReport" or (
        resource_type == "Observation" and category in {None, "laboratory"}
    )
    return RESULTS_STALENESS if shows_results else USUAL_STALENESS


def parse_weight(written: object) -> object:
    """A number above 0 and at most 1,000, or one for each of some categories."""
    hint = "write a number, as in weight: 3, or one by category, as in weight: {laboratory: 6}"
    if isinstance(written, Mapping):
        if not written:
            raise ValueError(f"empty; {hint}")
        for category in written:
            check_category(category)
        return {category: _number(each, hint) for category, each in written.items()}
    return _number(written, hint)


def _number(written: object, hint: str) -> float:
    if isinstance(written, bool) or not isinstance(written, int | float):
        raise ValueError(f"not a number; {hint}")  # noqa: TRY004 - pydantic makes a refusal of a ValueError
    if not 0 < written <= _HEAVIEST:
        raise ValueError(f"a weight lies above 0 and at most at 1000; {hint}")
    return float(written)
