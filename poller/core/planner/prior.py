"""What is taken to be so of a practice of which nothing is known yet. Pure.

Nobody has published how often the resources of an ambulatory EHR change. These numbers are an estimate: of a practice of 30,000 patients
with some 540 encounters a weekday, where a visit makes a note, vital signs and a bill within hours, and results within days. They only have
to be right within a factor of a few: twenty visits of a practice's own weigh as much as they do (:data:`poller.core.planner.learning.N0`).

A type is a resource type, with a category where it is asked for by category: ``Observation/laboratory``. What is said of a resource type
holds for its categories unless they have an entry of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

HOUR = 3600.0
DAY = 86400.0

CLASSES = ("ambulatory", "virtual")
"""Kinds of visits that are told apart: in person, and by phone or video."""

EDGES = np.array([-1, 0, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 20, 24, 30, 36, 48, 60, 72, 96, 108]) * HOUR
"""Borders of the bins of a visit's kernel: seconds after its start. Past the last one it counts no more: 4.5 days."""


@dataclass(frozen=True, slots=True)
class TypePrior:
    """Changes of a type."""

    background: float
    """A day and patient, without a visit."""
    visit: Mapping[str, Sequence[tuple[float, float, float]]]
    """By class of visit: changes per visit, and from and to when, in hours after its start."""


def _type(background: float, *spans: tuple[float, float, float], virtual: float = 0.4) -> TypePrior:
    return TypePrior(
        background,
        {"ambulatory": spans, "virtual": [(changes * virtual, since, until) for changes, since, until in spans]},
    )


_TYPES: Mapping[str, TypePrior] = {
    "Patient": _type(0.0010, (0.15, -1, 1)),
    "Encounter": _type(0.0030, (1.0, -1, 0.5), (1.0, 0.25, 4), (0.5, 4, 48), virtual=0.8),
    "Observation": _type(0.0010, (0.2, 0, 4)),
    "Observation/laboratory": _type(0.0060, (0.3, 0, 4), (1.2, 12, 72), virtual=0.2),
    "Observation/vital-signs": _type(0.0005, (1.5, 0, 1), virtual=0.05),
    "DiagnosticReport": _type(0.0030, (0.1, 0, 4), (0.4, 12, 72), virtual=0.2),
    "DocumentReference": _type(0.0050, (0.8, 0.25, 6), (0.4, 6, 48), virtual=0.8),
    "MedicationRequest": _type(0.0040, (0.6, 0, 2), (0.1, 2, 48), virtual=0.8),
    "ServiceRequest": _type(0.0010, (0.4, 0, 2)),
    "Condition": _type(0.0007, (0.3, 0, 4)),
    "Procedure": _type(0.0005, (0.1, 0, 4), virtual=0.1),
    "Immunization": _type(0.0005, (0.08, 0, 2), virtual=0.02),
    "AllergyIntolerance": _type(0.0002, (0.04, 0, 1)),
    "Coverage": _type(0.0006, (0.08, -1, 1)),
    "CarePlan": _type(0.0003, (0.1, 0, 4)),
    "CareTeam": _type(0.0002, (0.02, 0, 4)),
    "Goal": _type(0.0002, (0.04, 0, 4)),
    "Device": _type(0.0001, (0.01, 0, 4)),
}
_OTHER = _type(0.0005, (0.1, 0, 4))

VISITS = {"ambulatory": 0.0105, "virtual": 0.0024}
"""Visits a day and patient, over the whole week."""


def of_type(name: str) -> TypePrior:
    """What is taken to be so of a type, e.g. ``Observation/laboratory``."""
    return _TYPES.get(name) or _TYPES.get(name.partition("/")[0]) or _OTHER


def kernel(name: str, visit_class: str) -> Floats:
    """Expected changes of a type in each bin between :data:`EDGES`, for one visit."""
    expected = np.zeros(len(EDGES) - 1)
    for changes, since, until in of_type(name).visit[visit_class]:
        share = np.clip((EDGES - since * HOUR) / ((until - since) * HOUR), 0, 1)
        expected += changes * np.diff(share)
    return expected


def week() -> Floats:
    """The profile of the 168 hours from Monday 0:00, practice's time; 1 in the mean. A weekday is busy from 8 to 18."""
    day = np.full(24, 0.1)
    day[6:8] = 0.6
    day[8:18] = 3.0
    day[18:22] = 0.6
    weekend = np.full(24, 0.08)
    weekend[8:18] = 0.5
    profile = np.concatenate([np.tile(day, 5), np.tile(weekend, 2)])
    scaled: Floats = profile / profile.mean()
    return scaled


def class_of(name: str | None) -> int:
    """The index in :data:`CLASSES` of an ``Encounter.class`` code: virtual ones are VR, phone and the like."""
    word = (name or "").casefold()
    return 1 if word in {"vr", "virtual", "phone", "telephone", "telehealth", "video"} else 0
