"""Practices as there are, by name: what each takes, refuses and lacks, to try by hand and to hold every way of reading against."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from poller.simulator.spec import PracticeSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HOUR = 3600.0

MODES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ecw": {"mode": "ecw"},
        "open": {"mode": "open"},
        "patient-only": {"mode": "ecw", "last_updated": "patient-only"},
        "ignored": {"mode": "open", "last_updated": "ignored"},
        "ecw-ignored": {"mode": "ecw", "last_updated": "ignored"},
        "withdrawn": {"mode": "open", "last_updated_until": _HOUR},
        "unmoved": {"mode": "open", "last_updated": "unmoved"},
        "everything": {"mode": "ecw", "everything": "on"},
        "everything-since": {"mode": "ecw", "everything": "since"},
        "everything-omits": {"mode": "ecw", "everything": "on", "everything_omits": ("Observation",)},
        "everything-cuts": {"mode": "ecw", "everything": "on", "everything_cuts": True},
        "several": {"mode": "ecw", "several_patients": "honoured"},
        "several-first": {"mode": "ecw", "several_patients": "first", "several_ids": "first"},
        "by-patient": {"mode": "open", "practice_wide": False, "last_updated": "refused"},
        "bulk": {"mode": "ecw", "bulk": True},
        "old-build": {"mode": "ecw", "build": "v1", "coverage": False},
        "not-activated": {"mode": "ecw", "not_activated": "403"},
        "scope-missing": {"mode": "ecw", "missing_scopes": ("ServiceRequest", "Coverage")},
        "no-authorization": {"mode": "open", "open_access": True},
    }
)
"""Name → members of :class:`PracticeSpec`, ``mode`` first."""


def practice(name: str, code: str, **more: Any) -> PracticeSpec:
    """A practice of a named mode. Raises ValueError for a name that there is not."""
    return PracticeSpec(code, **{**_mode(name), **more})


def among(practices: Iterable[PracticeSpec], name: str) -> tuple[PracticeSpec, ...]:
    """The practices, those of the same kind of server (ecw or open) with the manners of a named mode. Raises ValueError."""
    manners = _mode(name)
    return tuple(dataclasses.replace(one, **manners) if one.mode == manners["mode"] else one for one in practices)


def _mode(name: str) -> Mapping[str, Any]:
    if name not in MODES:
        raise ValueError(f"no such mode: {name}; there are {', '.join(MODES)}")
    return MODES[name]
