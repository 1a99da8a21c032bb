"""Visits, as Encounters tell of them: what follows a visit is looked for soon after it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from poller.core.pages import is_usable_id

REMEMBERED = dt.timedelta(days=6)
"""How long after its start a visit is kept: changes follow for days, and the next night learns from them."""

_NEVER_TOOK_PLACE = frozenset({"cancelled", "entered-in-error", "noshow", "no-show"})
_LONGEST_CODE = 64
_A_DAY = len("2026-11-26")


@dataclass(frozen=True, slots=True)
class Visit:
    """One visit. It counts from its start: an encounter is made when it is booked, long before anything happens."""

    id: str
    """Of the Encounter."""
    patient: str
    """Logical id."""
    start: dt.datetime
    kind: str
    """Code of ``Encounter.class``, in capitals, e.g. AMB, VR, HH; empty if there is none."""
    status: str
    """``Encounter.status`` (FHIR R4, EncounterStatus); empty if there is none."""

    @property
    def takes_place(self) -> bool:
        """Whether anything is to be expected of it."""
        return self.status not in _NEVER_TOOK_PLACE


def visit_of(resource: Mapping[str, Any], patient: str | None) -> Visit | None:
    """The visit that an Encounter tells of; None for any other resource, and where its patient or its start is not known.

    A start that is only a day counts as its noon in UTC, which is within the working hours of few places and the day of most.
    """
    id_ = resource.get("id")
    if resource.get("resourceType") != "Encounter" or patient is None or not isinstance(id_, str):
        return None
    period = resource.get("period")
    start = _start(period.get("start")) if isinstance(period, dict) else None
    if start is None or not is_usable_id(id_):
        return None
    return Visit(id_, patient, start, _class(resource.get("class")), _code(resource.get("status")))


def is_remembered(visit: Visit, now: dt.datetime) -> bool:
    """Whether a visit is still ahead or not long ago."""
    return visit.start > now - REMEMBERED


def _start(value: object) -> dt.datetime | None:
    if not isinstance(value, str):
        return None
    try:
        parsed = dt.datetime.fromisoformat(value)
        if len(value) == _A_DAY:
            parsed = parsed.replace(hour=12, tzinfo=dt.UTC)
        return parsed.astimezone(dt.UTC) if parsed.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _class(value: object) -> str:
    """R4 has one Coding, R5 a list of CodeableConcepts."""
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, dict) and isinstance(codings := first.get("coding"), list) and codings:
        first = codings[0]
    return _code(first.get("code")).upper() if isinstance(first, dict) else ""


def _code(value: object) -> str:
    return value.replace("\x00", "")[:_LONGEST_CODE] if isinstance(value, str) else ""
