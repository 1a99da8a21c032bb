"""What a simulated practice is like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from poller.simulator.capability import NEW_IN_V3, Mode
from poller.simulator.manners import Manners

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
FURTHER_TYPES = ("Coverage", "CarePlan", "CareTeam", "Goal", "Device", "Provenance")
ALL_TYPES = (*CLINICAL_TYPES, *FURTHER_TYPES)
"""Every type of the vendor's capability matrix that has content of its own here."""

LastUpdated = Literal["honoured", "ignored", "refused", "unmoved", "patient-only"]
"""What becomes of ``_lastUpdated``: searched by; dropped, and everything answered; 400; searched by, but edits do not move stamps; or
searched by only together with ``patient`` (for Patient: ``_id``), else 400."""

Taken = Literal["honoured", "ignored", "refused"]
"""What becomes of a parameter: it does what it is for; dropped, and everything answered; or 400."""

Several = Literal["refused", "honoured", "first"]
"""What becomes of a value with commas: 400; each is answered; or only the first is, without a word about the others."""

Everything = Literal["off", "on", "since"]
"""What becomes of ``Patient/{id}/$everything``: refused; answered, but ``_since`` is refused; or answered, and ``_since`` honoured."""


@dataclass(frozen=True, slots=True)
class PracticeSpec(Manners):
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
    last_updated_until: float | None = None
    """Seconds after the world began; from then on ``_lastUpdated`` is refused."""
    practice_wide: bool | None = None
    """Whether a type can be searched without a patient; None for what the mode does: open can. Where windows are honoured, they can."""
    everything: Everything = "off"
    everything_omits: tuple[str, ...] = ()
    """Types that ``$everything`` leaves out without a word."""
    everything_cuts: bool = False
    """``$everything`` shows resources with elements missing, and does not tag them."""
    several_patients: Several | None = None
    """``patient=a,b,c``; None for what the mode does: ecw refuses, open honours."""
    several_ids: Several = "honoured"
    """``_id=a,b,c``."""
    since_on_observation: Taken = "refused"
    """``Observation?_since=``, which ecw declares and nobody has explained."""
    count: Taken | None = None
    """``_count``; None for what the mode does: ecw refuses, open honours."""
    conditional: bool = False
    """A read with ``If-None-Match`` or ``If-Modified-Since`` may be answered 304."""
    day_windows: bool = True
    """``Encounter?practitioner=&date=ge…&date=lt…`` is answered where nothing else is without a patient."""
    build: Literal["v1", "v3"] = "v3"
    """The USCDI version of the practice's build; v1 has no ServiceRequest and others, and ``/metadata`` does not tell."""
    coverage: bool = True
    """Whether the build is new enough for Coverage (12.0.2)."""
    not_activated: Literal["400", "403", "500"] | None = None
    """The practice has not activated the app (any more), and the token call is answered so; None: it has."""
    missing_scopes: tuple[str, ...] = ()
    """Types that the app was not registered for, or is no longer: ecw refuses a token request that names one, whole."""
    open_access: bool = False
    """No token is needed, and there is no smart configuration."""
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
    def wide(self) -> bool:
        """:attr:`practice_wide` with the mode's default."""
        return self.mode == "open" if self.practice_wide is None else self.practice_wide

    @property
    def several(self) -> Several:
        """:attr:`several_patients` with the mode's default."""
        return self.several_patients or ("refused" if self.mode == "ecw" else "honoured")

    @property
    def counts(self) -> Taken:
        """:attr:`count` with the mode's default."""
        return self.count or ("refused" if self.mode == "ecw" else "honoured")

    @property
    def too_old_for(self) -> frozenset[str]:
        """Types that the practice's build does not have."""
        return (NEW_IN_V3 if self.build == "v1" else frozenset()) | (frozenset() if self.coverage else {"Coverage"})

    @property
    def reads_groups(self) -> bool:
        """:attr:`group_read` with the mode's default."""
        return self.mode == "open" if self.group_read is None else self.group_read

    @property
    def full(self) -> bool:
        """:attr:`rich` with its default."""
        return not set(CLINICAL_TYPES).issuperset(self.types) if self.rich is None else self.rich

    @property
    def client(self) -> str:
        """:attr:`client_id` with its default."""
        return self.client_id or f"poller-{self.code.lower()}"
