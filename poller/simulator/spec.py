"""What a simulated practice is like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from poller.simulator.capability import Mode

CLINICAL_TYPES = (
    "Encounter",
    "Observation",
    "DiagnosticReport",
    "DocumentReference",
    "ServiceRequest",
    "MedicationRequest",
    "Condition",
    "AllergyIntolerance",
    "Immunization",
    "Procedure",
)

LastUpdated = Literal["honoured", "ignored", "refused", "unmoved"]
"""What becomes of ``_lastUpdated``: searched by; dropped, and everything answered; 400; or searched by, but edits do not move stamps."""


@dataclass(frozen=True, slots=True)
class PracticeSpec:
    """Size and manners of one practice."""

    code: str
    mode: Mode = "ecw"
    patients: int = 20
    max_patients: int | None = None
    """New patients appear until there are so many; None for half as many more as at first."""
    name_initials: str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    """Family names begin with one of these."""
    types: tuple[str, ...] = CLINICAL_TYPES
    """Clinical types that exist here (Patient and Practitioner always do)."""
    labs_per_patient: int = 8
    """Laboratory results in a patient's history."""
    tempo: float = 1.0
    """Factor on clinical intervals: at 1 a result comes days after its visit, at 0.00001 about two seconds."""
    limit: int = 250
    """Calls in a calendar minute."""
    max_per_patient: int = 100
    """Clinical resources for each patient, on average, past which nothing is added any more, only changed."""
    page_size: int = 25
    token_life: float = 300.0
    """Seconds."""
    last_updated: LastUpdated | None = None
    """None for what the mode does: ecw refuses, open honours."""
    client_id: str | None = None
    """Of the app that may read here; None for ``poller-<code>`` in lower case."""
    bulk: bool = False
    """Whether the app was registered for bulk export, and so must have ``system/Group.read``."""
    wording: Literal["2024", "2026"] = "2026"
    """Which recorded text answers an undeclared parameter."""
    link_host: str = "fhir-internal.example.org"
    """Host that ecw links name, always with http."""
    delete_fraction: float = 0.03
    """Of a type's resources at most this share (but always three) is deleted within an hour."""

    @property
    def stamps(self) -> LastUpdated:
        """:attr:`last_updated` with the mode's default."""
        return self.last_updated or ("refused" if self.mode == "ecw" else "honoured")

    @property
    def client(self) -> str:
        """:attr:`client_id` with its default."""
        return self.client_id or f"poller-{self.code.lower()}"
