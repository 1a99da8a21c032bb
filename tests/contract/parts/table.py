"""Which strategies read which modes, what ``auto`` makes of each mode, and of each change of mode while it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.contract.parts.behaviour import Case, Turn
from tests.contract.parts.play import Scene

_CLINICAL = frozenset({"Observation", "Condition"})
_ALL = _CLINICAL | {"Patient"}
_MANY = ("Patient", "Observation", "Condition", "Coverage", "ServiceRequest")
_EXPORTS = ("first-load", "reconcile")


def _by(rung: str, patients: str = "patient") -> dict[str, str]:
    """All feeds by one rung; of patients only some rungs make sense."""
    return {"Patient": patients, "Observation": rung, "Condition": rung}


FOUND: Mapping[str, Mapping[str, str]] = {
    "ecw": _by("patient"),
    "open": _by("window", "window"),
    "patient-only": _by("patient-window"),
    "ignored": _by("sweep", "sweep"),
    "ecw-ignored": _by("patient"),
    "withdrawn": _by("window", "window"),
    "unmoved": _by("window", "window"),
    "everything": _by("everything"),
    "everything-since": _by("everything-window"),
    "everything-omits": _by("everything") | {"Observation": "patient"},
    "everything-cuts": _by("patient"),
    "several": _by("patients"),
    "several-first": _by("patient"),
    "by-patient": _by("patients", "sweep"),
    "bulk": _by("patient"),
    "old-build": _by("patient"),
    "not-activated": {},
    "scope-missing": _by("patient"),
    "no-authorization": _by("window", "window"),
}
"""Mode → by what ``auto`` reads each feed after a survey; a feed that is not here cannot be read."""

_SCENES: Mapping[str, Mapping[str, Any]] = {
    "bulk": {"bulk": _EXPORTS},
    "old-build": {"feeds": _MANY},
    "scope-missing": {"feeds": _MANY},
    "withdrawn": {"spec": {"last_updated_until": 90.0}},
}
"""What a mode's scene has besides."""

_TURNS: Mapping[str, tuple[Turn, ...]] = {
    "withdrawn": (Turn({}, _by("sweep", "sweep")),),
    "unmoved": (Turn({}, _by("sweep", "sweep")),),
    "not-activated": (Turn({}, paused=frozenset({"*"}), late=_ALL), Turn({"not_activated": None}, _by("patient"))),
}
"""What comes of a mode by itself, when there is more to see than a survey can."""

AUTO = [
    Case(Scene(mode, seed=seed, **_SCENES.get(mode, {})), rungs, _TURNS.get(mode, ()))
    for seed, (mode, rungs) in enumerate(FOUND.items(), 1)
]


def and_in_soak(cases: Sequence[Case], more: Sequence[Case]) -> list[Any]:
    """Cases for a test's parameters; ``more`` for those who have the time."""
    return [*cases, *(pytest.param(case, marks=pytest.mark.soak) for case in more)]


def forced(strategy: str, mode: str, seed: int = 1, **scene: Any) -> Case:
    """A strategy that the operator has set."""
    return Case(Scene(mode, strategy, seed, **scene), _by(strategy, strategy))


WORKS: Mapping[str, tuple[str, ...]] = {
    "window": ("open", "unmoved", "no-authorization"),
    "sweep": ("open", "ignored", "withdrawn", "unmoved", "no-authorization"),
    "everything-window": ("everything-since",),
    "patient-window": ("patient-only", "open", "unmoved", "no-authorization"),
    "everything": ("everything", "everything-since"),
    "patients": ("several", "open", "ignored", "by-patient", "withdrawn", "unmoved", "no-authorization"),
    "patient": tuple(mode for mode in FOUND if mode != "not-activated"),
}
"""Strategy → the modes in which all feeds can be read by it."""

STRATEGIES = tuple(WORKS)

SILENT = frozenset(
    {
        ("patients", "several-first"),
        ("everything", "everything-omits"),
        ("everything", "everything-cuts"),
        ("everything-window", "everything-cuts"),
    }
)
"""Strategy and mode that are a lie together: forced by an operator, nothing tells that something is left out."""

FORCED = [
    forced("window", "unmoved", 32),
    forced("everything", "everything", 36),
    forced("patients", "by-patient", 38),
    forced("patient", "ecw", 39, spec={"limit": 40}),
]

ALSO_FORCED = [
    forced("window", "open", 31),
    forced("sweep", "ignored", 33),
    forced("everything-window", "everything-since", 34),
    forced("patient-window", "patient-only", 35),
    forced("patients", "several", 37),
    forced("patient", "bulk", 40, bulk=("reconcile",)),
]
"""These ways are read in these modes by ``auto`` as well."""


def _refused(strategy: str, mode: str, late: frozenset[str], seed: int, **allow: Any) -> Case:
    """A strategy that the mode does not allow, until it does."""
    return Case(Scene(mode, strategy, seed), {}, (Turn({}, late=late), Turn(allow, _by(strategy, strategy))))


REFUSED = [
    _refused("window", "by-patient", _ALL, 51, last_updated="honoured", practice_wide=True),
    _refused("patients", "ecw", _CLINICAL, 53, several_patients="honoured"),
]

ALSO_REFUSED = [
    _refused("everything-window", "everything", _CLINICAL, 52, everything="since"),
    _refused("window", "ignored", _ALL, 61, last_updated="honoured"),
    _refused("sweep", "by-patient", _CLINICAL, 62, practice_wide=True),
    _refused("patient-window", "ecw", _CLINICAL, 63, last_updated="patient-only"),
    _refused("everything", "ecw", _CLINICAL, 64, everything="on"),
    _refused("patient", "not-activated", _ALL, 65, not_activated=None),
]
"""More of them, for those who have the time."""


def _turned(mode: str, seed: int, *turns: Turn, **scene: Any) -> Case:
    return Case(Scene(mode, seed=seed, **{**_SCENES.get(mode, {}), **scene}), FOUND[mode], turns)


_CONDITION = frozenset({"Condition"})

TURNED = [
    _turned("everything", 71, Turn({"everything_omits": ("Observation",)}, {"Observation": "patient"})),
    _turned("several", 73, Turn({"several_patients": "first"}, _by("patient"))),
    _turned(
        "ecw",
        74,
        Turn({"missing_scopes": ("Condition",)}, paused=_CONDITION, late=_CONDITION),
        Turn({"missing_scopes": ()}),
    ),
]
"""Practices that change while they are read; what a mode does by itself is in :data:`AUTO`."""

ALSO_TURNED = [
    _turned("everything", 72, Turn({"everything_cuts": True}, _by("patient"))),
    _turned("open", 81, Turn({"last_updated": "refused"}, _by("sweep", "sweep"))),
    _turned("open", 82, Turn({"last_updated": "ignored"}, _by("sweep", "sweep"))),
    _turned("open", 83, Turn({"last_updated": "refused", "practice_wide": False}, _by("patients", "sweep"))),
    _turned("patient-only", 84, Turn({"last_updated": "refused"}, _by("patient"))),
    _turned("everything-since", 85, Turn({"everything": "on"}, _by("everything"))),
    _turned("everything-since", 86, Turn({"everything_cuts": True}, _by("patient"))),
    _turned("everything", 87, Turn({"everything": "off"}, _by("patient"))),
    _turned("several", 88, Turn({"several_patients": "refused"}, _by("patient"))),
    _turned("bulk", 89, Turn({"bulk": False}), Turn({"bulk": True})),
    _turned("ecw", 90, Turn({"not_activated": "403"}, paused=frozenset({"*"})), Turn({"not_activated": None})),
]
