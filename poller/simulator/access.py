"""Who may read: the practice's activation, the token, and its scopes."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from poller.simulator.exchange import Answer, Request, outcome
from poller.simulator.tokens import Grant, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poller.simulator.practice import Practice
    from poller.simulator.tokens import TokenDesk

_NOT_ENABLED = "FHIR app authentication is not enabled"


def granted(practice: Practice, tokens: TokenDesk, request: Request) -> Grant | Answer:
    """What the request may read of the practice, or the refusal."""
    spec = practice.spec
    if spec.open_access:
        return Grant(request.now + dt.timedelta(days=1), frozenset({spec.code}), ("system/*.r", "system/Group.read"))
    if spec.not_activated is not None:
        return outcome(403, "forbidden", _NOT_ENABLED)
    grant = tokens.grant(request.authorization, request.now)
    if grant is None or spec.code not in grant.practices:
        return outcome(401, "login", "Access token is missing, unknown or has expired")
    return grant


def covers(practice: Practice, grant: Grant, resource_type: str) -> bool:
    """Whether a token is good for a type now: a scope that was taken from the app is gone from its tokens too."""
    return grant.covers(resource_type) and resource_type not in practice.spec.missing_scopes


def check_activated(practices: Iterable[Practice]) -> None:
    """Refuse a token while none of the app's practices has activated it. Raises Refusal."""
    said = [practice.spec.not_activated for practice in practices]
    if all(said) and said:
        if said[0] == "500":
            raise Refusal(500, "access_denied", _NOT_ENABLED)
        raise Refusal(int(said[0] or "403"), "403", "invalid_request")
