"""What a practice's server allows, as a survey proved it, and which ways of reading follow from that. Pure; round trip as JSON.

Nothing here holds an id, a body or a server's words.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from poller.core.model import FailureKind, Strategy
from poller.core.refusals import Why, advice

Evidence = Mapping[str, Mapping[str, object]]
"""Search, by a name of ours → status and findings."""


class Finding(StrEnum):
    """What was found of one ability."""

    YES = "yes"
    NO = "no"
    """Refused, or not there."""
    IGNORED = "ignored"
    """Accepted, and no notice taken of it."""
    FIRST = "first only"
    """Of several values only the first is answered."""
    DIFFERS = "differs"
    """Answered, but with other content than plain searches have."""
    UNPROVEN = "unproven"
    """Answered, but no sample patient had anything to compare by."""
    UNCLEAR = "unclear"
    """No answer that says either."""
    UNTESTED = "-"
    """Not asked: nothing hangs on it here, or the configuration leaves no choice."""


class LastUpdated(StrEnum):
    """What a server makes of ``_lastUpdated``, all in all."""

    PRACTICE = "practice-wide"
    PATIENT = "with patient"
    NO = "refused"
    IGNORED = "ignored"
    DIFFERS = "differs"
    """Filters, but a window over all time does not show what a plain search does."""
    UNPROVEN = "unproven"
    UNCLEAR = "unclear"
    UNTESTED = "-"


@dataclass(frozen=True, slots=True)
class TypeReport:
    """What was found of one resource type."""

    resource_type: str
    probed_at: dt.datetime
    readable: bool | None
    """None: not clear, ask again."""
    why: Why
    advice: str | None = None
    last_updated: LastUpdated = LastUpdated.UNTESTED
    """What the next two come to."""
    practice_window: Finding = Finding.UNTESTED
    """``_lastUpdated`` over the whole practice."""
    patient_window: Finding = Finding.UNTESTED
    """``_lastUpdated`` with a patient."""
    since: Finding = Finding.UNTESTED
    """``_since`` in a search, which eClinicalWorks declares for Observation."""
    everything: Finding = Finding.UNTESTED
    everything_since: Finding = Finding.UNTESTED
    several_patients: Finding = Finding.UNTESTED
    """Several patients in one search; for Patient, several ids."""
    whole: Finding = Finding.UNTESTED
    """A search without any parameter."""
    by_patient: Finding = Finding.UNTESTED
    """A plain search for one patient; for Patient, for one id."""
    by_name: Finding = Finding.UNTESTED
    """A search by the beginning of a name."""
    count: Finding = Finding.UNTESTED
    conditional: Finding = Finding.UNTESTED
    day_windows: Finding = Finding.UNTESTED
    declared: tuple[str, ...] = ()
    """Search parameters that the CapabilityStatement names for it."""
    offers: tuple[Strategy, ...] = ()
    """The proven ways of reading it, in the order of the ladder."""
    reason: str = ""
    """A sentence for people and logs."""
    evidence: Evidence = field(default_factory=dict)
    thorough: bool = True
    """Whether all ways of reading were asked for, or only a first one."""

    @property
    def settled(self) -> bool:
        """Whether there was a clear answer to everything that a way of reading hangs on; else asking again soon may offer another."""
        return self.readable is False or (self.readable is True and Finding.UNCLEAR not in self._grounds)

    @property
    def unproven(self) -> bool:
        """Whether a way was answered, but no sample patient had a resource to compare by; others may."""
        return Finding.UNPROVEN in self._grounds

    @property
    def _grounds(self) -> tuple[Finding, ...]:
        windows = (self.practice_window, self.patient_window)
        everything = (self.everything, self.everything_since)
        return (self.whole, self.by_patient, *windows, *everything, self.several_patients)


@dataclass(frozen=True, slots=True)
class TokenReport:
    """How a token was had."""

    granted: bool
    needed: bool = True
    """Whether the configuration says that the server wants one."""
    scopes: tuple[str, ...] | None = None
    """Those granted, sorted; None where the server does not tell."""
    refused: tuple[str, ...] = ()
    """Scopes for which no token is given out; the others were asked for without them."""
    status: int | None = None
    why: str = ""
    """Our words, if there was none."""
    kind: FailureKind | None = None
    """A sick token server is not one that does not know us."""


@dataclass(frozen=True, slots=True)
class SmartReport:
    """The smart-configuration, as far as a backend service needs it."""

    found: bool
    token_endpoint: bool = False
    private_key_jwt: bool = False
    rs384: bool = False


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Whether bulk export may work. No job was started to find out, so nothing is said of its ``_since``."""

    declared: tuple[str, ...] = ()
    """Where the CapabilityStatement names it: system, Patient, Group."""
    scope: bool | None = None
    """Whether the token may read Group; None where the server does not tell."""


@dataclass(frozen=True, slots=True)
class PracticeReport:
    """What was found of a practice."""

    probed_at: dt.datetime
    token: TokenReport
    smart: SmartReport = field(default_factory=lambda: SmartReport(found=False))
    software: str | None = None
    """Name and version of the server's software."""
    fhir_version: str | None = None
    export: ExportReport = field(default_factory=ExportReport)
    clock_offset_seconds: float | None = None
    """How far the server's clock is ahead of ours, to about a second."""
    latency_seconds: float | None = None
    """Of the median call."""
    page_size: int | None = None
    """Rows of the largest page that was followed by another."""
    patients: int = 0
    """How many patients the proofs were made with."""
    types: Mapping[str, TypeReport] = field(default_factory=dict)
    calls: int = 0
    """All that it cost, token calls included."""
    by: str = "poller"
    """Who asked: the poller itself, or a person (``operator``)."""

    @property
    def scopes_granted(self) -> tuple[str, ...] | None:
        """The token's scopes; None where the server does not tell."""
        return self.token.scopes

    @property
    def trouble(self) -> Why | None:
        """What keeps the whole practice from being read, so that nothing was learned of its types."""
        found = {report.why for report in self.types.values()}
        return next(iter(found)) if len(found) == 1 and all(why.is_of_practice for why in found) else None

    @property
    def all_readable(self) -> bool:
        """Whether every type can be read."""
        return all(report.readable for report in self.types.values())

    def after(self, before: PracticeReport | None) -> PracticeReport:
        """With the types that this survey did not ask about, as they were known before."""
        if before is None:
            return self
        hasty = {
            name
            for name, found in self.types.items()
            if not found.thorough and _says_no_less(before.types.get(name), found)
        }
        return replace(
            self, types={**before.types, **{name: self.types[name] for name in self.types if name not in hasty}}
        )


def _says_no_less(before: TypeReport | None, now: TypeReport) -> bool:
    """Whether what was found before, with more questions, holds still."""
    return before is not None and before.thorough and before.readable == now.readable


def offers(found: TypeReport) -> tuple[Strategy, ...]:
    """The ways of reading a type that are proven, in the order of the ladder.

    A patient's ``$everything``, its windows and groups are no ways of their own for Patient: its feed must find those who are new.
    """
    clinical = found.resource_type != "Patient"
    whole = found.whole is Finding.YES
    everything = clinical and found.everything is Finding.YES
    by_patient = found.by_patient is Finding.YES or (not clinical and found.by_name is Finding.YES)
    proven = {
        Strategy.WINDOW: whole and found.practice_window is Finding.YES,
        Strategy.SWEEP: whole,
        Strategy.EVERYTHING_WINDOW: everything and found.everything_since is Finding.YES,
        Strategy.PATIENT_WINDOW: clinical and by_patient and found.patient_window is Finding.YES,
        Strategy.EVERYTHING: everything,
        Strategy.PATIENTS: clinical and found.several_patients is Finding.YES,
        Strategy.PATIENT: by_patient,
    }
    return tuple(strategy for strategy in Strategy if proven[strategy])


_STAMPS = {
    LastUpdated.PRACTICE: "_lastUpdated is honoured",
    LastUpdated.PATIENT: "_lastUpdated is honoured with a patient",
    LastUpdated.NO: "_lastUpdated is refused",
    LastUpdated.IGNORED: "_lastUpdated is ignored",
    LastUpdated.DIFFERS: "_lastUpdated loses what plain searches show",
    LastUpdated.UNPROVEN: "_lastUpdated with a patient is answered, but nothing was there to compare",
    LastUpdated.UNCLEAR: "no clear answer to _lastUpdated",
    LastUpdated.UNTESTED: "_lastUpdated was not asked for",
}

_WAYS = {
    Strategy.WINDOW: "a window in the future is empty, and the self links name it",
    Strategy.SWEEP: "the whole practice is read and compared by content",
    Strategy.EVERYTHING_WINDOW: "a patient's $everything shows what plain searches do, and honours _since",
    Strategy.PATIENT_WINDOW: "windows of one patient show what plain searches do",
    Strategy.EVERYTHING: "a patient's $everything shows what plain searches do",
    Strategy.PATIENTS: "several patients are answered in one search",
    Strategy.PATIENT: "read patient by patient and compared by content",
}


def conclude(found: TypeReport, forced: Strategy | None = None) -> TypeReport:
    """The report with what follows from its findings: whether it is readable, the offers, the advice, the reason.

    A ``forced`` strategy is taken as it is. Where no patient was known to ask with and searches want one, patients are read one by one as
    they become known: the way that cannot be wrong.
    """
    proven = offers(found)
    readable, why = found.readable, found.why
    if forced is not None:
        proven = (forced,)
    elif proven:
        readable, why = True, Why.READABLE
    elif why.is_verdict:
        readable = False
    elif why is Why.NO_PATIENT:
        proven = (Strategy.PATIENT,)
    done = replace(
        found,
        readable=readable,
        why=why,
        advice=found.advice or advice(why, found.resource_type),
        last_updated=_stamps(found.practice_window, found.patient_window),
        offers=proven,
    )
    return replace(done, reason="set in the configuration" if forced is not None else _reason(done))


def _stamps(wide: Finding, with_patient: Finding) -> LastUpdated:
    """What a server makes of ``_lastUpdated``, from what it makes of it alone and with a patient."""
    if wide is Finding.YES:
        return LastUpdated.PRACTICE
    if with_patient is Finding.YES:
        return LastUpdated.PATIENT
    said = {wide, with_patient}
    telling = (Finding.DIFFERS, Finding.IGNORED, Finding.UNPROVEN, Finding.UNCLEAR, Finding.NO)
    return next((LastUpdated[finding.name] for finding in telling if finding in said), LastUpdated.UNTESTED)


def _reason(found: TypeReport) -> str:
    if not found.offers or found.why is Why.NO_PATIENT:
        return f"{found.why.value}{f'; {found.advice}' if found.advice else ''}"
    first, stamps = found.offers[0], _STAMPS[found.last_updated]
    way = "patients are enumerated by name" if _is_by_name(found, first) else _WAYS[first]
    lone = found.last_updated is LastUpdated.PRACTICE and found.whole is Finding.NO
    between = " but a search without any parameter is refused; " if lone else ": " if first is Strategy.WINDOW else "; "
    return f"{stamps}{between}{way}{_doubts(found)}"


def _is_by_name(found: TypeReport, first: Strategy) -> bool:
    return first is Strategy.PATIENT and found.resource_type == "Patient" and found.by_name is Finding.YES


def _doubts(found: TypeReport) -> str:
    """What was answered and still is no way to read by."""
    doubts = [
        f"{name}: {finding.value}"
        for name, finding in (
            ("$everything", found.everything),
            ("_since of $everything", found.everything_since),
            ("several patients", found.several_patients),
        )
        if finding in {Finding.DIFFERS, Finding.FIRST, Finding.IGNORED, Finding.UNPROVEN, Finding.UNCLEAR}
    ]
    return f" ({', '.join(doubts)})" if doubts else ""


_REPORTS = TypeAdapter(PracticeReport)


def to_json(report: PracticeReport) -> dict[str, Any]:
    """The report in JSON's terms."""
    said: dict[str, Any] = _REPORTS.dump_python(report, mode="json")
    return said


def from_json(said: Mapping[str, Any]) -> PracticeReport | None:
    """The inverse of :func:`to_json`; None for what another release wrote and this one does not understand."""
    try:
        return _REPORTS.validate_python(said)
    except ValidationError:
        return None
