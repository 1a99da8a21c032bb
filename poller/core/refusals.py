"""Why a server refuses a type, recognised by its status, codes and fixed phrases, and what an operator can do about it. Pure.

What a server says serves to be recognised here. It is told in our own words only: its own may name a patient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Why(StrEnum):
    """Why a type can be read, or cannot."""

    READABLE = "readable"
    NOT_ACTIVATED = "not activated"
    NO_SCOPE = "scope not granted"
    OLD_BUILD = "build too old"
    NOT_HERE = "not on this API"
    NEEDS_CATEGORY = "a category is required"
    REFUSED = "refused"
    NO_TOKEN = "no token"  # noqa: S105 - a reason, not a secret
    NO_PATIENT = "no patient to ask with"
    UNCLEAR = "no clear answer"

    @property
    def is_verdict(self) -> bool:
        """Whether it says that this type cannot be read, so that it need not be asked again soon."""
        return self in _VERDICTS

    @property
    def is_of_practice(self) -> bool:
        """Whether it holds for the whole practice, whatever the type."""
        return self in {Why.NOT_ACTIVATED, Why.NO_TOKEN}


_VERDICTS = frozenset({Why.NO_SCOPE, Why.OLD_BUILD, Why.NOT_HERE, Why.NEEDS_CATEGORY, Why.REFUSED})

NEW_IN_V3 = frozenset(
    {"Media", "MedicationDispense", "QuestionnaireResponse", "RelatedPerson", "ServiceRequest", "Specimen"}
)
"""Types that came to eClinicalWorks with USCDI v3."""


@dataclass(frozen=True, slots=True)
class Said:
    """A refusal, as far as it tells why."""

    status: int | None
    is_own: bool
    """Whether the FHIR or token server itself said it, and not a proxy before it."""
    words: str = field(default="", repr=False)
    """Its own words in lower case, to be recognised here and kept nowhere."""


def words_of(body: object) -> str:
    """What an error body says, in lower case: texts of an OperationOutcome, or OAuth's error and its description."""
    if not isinstance(body, dict):
        return ""
    issues = body.get("issue")
    said = [body.get("error"), body.get("error_description")]
    for issue in issues if isinstance(issues, list) else []:
        if isinstance(issue, dict):
            details = issue.get("details")
            said += [issue.get("diagnostics"), details.get("text") if isinstance(details, dict) else None]
    return " ".join(text for text in said if isinstance(text, str)).lower()


_NOT_ENABLED = (
    "authentication is not enabled",
    "app is not enabled",
    "not activated",
    "access_denied",
    "403 invalid_request",
)
"""The last is how eClinicalWorks refuses a token: its code is a status, and its description OAuth's code."""

_PHRASES: tuple[tuple[Why, tuple[str, ...]], ...] = (
    (Why.OLD_BUILD, ("not supported for the scope", "not supported for this scope", "not supported for scope")),
    (Why.NO_SCOPE, ("insufficient_scope", "insufficient scope", "invalid_scope")),
    (Why.NOT_HERE, ("unknown resource", "resource type is not supported")),
    (Why.NEEDS_CATEGORY, ("category is required", "category parameter is required", "category must be")),
)

_REFUSING = {
    400: Why.REFUSED,
    403: Why.NO_SCOPE,
    404: Why.NOT_HERE,
    405: Why.NOT_HERE,
    422: Why.REFUSED,
    501: Why.NOT_HERE,
}
"""What a status says by itself. All others may pass."""


def why_refused(said: Said, resource_type: str, granted: Collection[str] | None) -> Why:
    """Why a plain search of a type was refused; ``granted`` are the token's scopes, None where the server does not tell."""
    if _has(said, _NOT_ENABLED):
        return Why.NOT_ACTIVATED
    if not said.is_own or said.status not in _REFUSING:
        return Why.UNCLEAR
    if granted is not None and not covers(granted, resource_type):
        return Why.NO_SCOPE
    by_words = next((why for why, phrases in _PHRASES if _has(said, phrases)), None)
    return by_words or _REFUSING[said.status]


def why_no_token(said: Said) -> Why:
    """Why no token was given out."""
    return Why.NOT_ACTIVATED if _has(said, _NOT_ENABLED) else Why.NO_TOKEN


def _has(said: Said, phrases: Iterable[str]) -> bool:
    return any(phrase in said.words for phrase in phrases)


def covers(scopes: Collection[str], resource_type: str) -> bool:
    """Whether one of these scopes (SMART v1 or v2) lets a type be read. eClinicalWorks knows ``.r`` alone, and searches by it."""
    return any(
        kind in {resource_type, "*"} and _reads(access.partition("?")[0])
        for kind, _, access in (scope.partition("/")[2].partition(".") for scope in scopes)
    )


def _reads(access: str) -> bool:
    return access in {"read", "*"} or ("r" in access and set(access) <= set("cruds"))


_ADVICE = {
    Why.OLD_BUILD: "ask the vendor which build has it",
    Why.NO_SCOPE: "register the app for it, or take it out of feeds",
    Why.NOT_HERE: "take it out of feeds",
    Why.NEEDS_CATEGORY: "name its categories in the feed",
    Why.NOT_ACTIVATED: "the practice must activate the app",
    Why.NO_TOKEN: "see the line about the token",
    Why.NO_PATIENT: "name patients: a roster, a Group, or beginnings of names",
}


def advice(why: Why, resource_type: str) -> str | None:
    """What an operator can do about it; None if nothing."""
    if why is Why.OLD_BUILD and resource_type == "Coverage":
        return "needs build 12.0.2 or later"
    if why is Why.OLD_BUILD and resource_type in NEW_IN_V3:
        return "needs a USCDI v3 build"
    return _ADVICE.get(why)
