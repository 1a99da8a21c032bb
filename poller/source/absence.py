"""What an answer says of a resource that is not there."""

from __future__ import annotations

from poller.core import faults
from poller.core.faults import Shape
from poller.core.model import Failure, FailureKind, Gone, Unclear
from poller.source.client import Answer

NOT_THERE = frozenset({404, 410})

_NOT_ABOUT_IT = frozenset({"not-supported", "login", "unknown-user", "expired", "forbidden", "security", "suppressed"})
"""Codes of a 404 that do not say that the resource is gone."""


_SAID_BY_ANOTHER = Failure(FailureKind.MALFORMED, 404, "not found, but not said by the resource's server")


def absent(answer: Answer) -> Gone | Unclear:
    """What a 404 or 410 says: gone, if it is the FHIR server that says it, and not a proxy's page or a missing endpoint."""
    if answer.failure is None or not faults.says_absent(answer.failure):
        return Unclear(answer.failure or _SAID_BY_ANOTHER)
    codes = faults.outcome_codes(answer.body)
    is_outcome = answer.shape is Shape.FHIR and answer.body.get("resourceType") == "OperationOutcome"
    if answer.shape is not Shape.EMPTY and (not is_outcome or _NOT_ABOUT_IT & set(codes)):
        return Unclear(_SAID_BY_ANOTHER)
    return Gone(answer.began, answer.ended)
