"""Which scopes an app has: of a token request that names one that it has not, everything may be refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from poller.core.model import Failure
from poller.core.refusals import Said, Why, why_no_token, words_of
from poller.source.auth import Authorization, Token

log = structlog.get_logger(__name__)

_ABOUT_SCOPES = frozenset({"invalid_grant", "invalid_scope"})
"""OAuth's errors that may mean one scope of many. eClinicalWorks says the first."""


_GROUP = "system/Group.read"
"""An app that is registered with eClinicalWorks for bulk export must ask for it, and any other must not."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What can be had in the way of tokens."""

    failure: Failure | None = None
    """None: there is a token."""
    why: Why = Why.READABLE
    refused: tuple[str, ...] = ()
    """Scopes without which there is one."""


async def take_stock(authorization: Authorization, practice: str, scopes: Sequence[str]) -> Stock:
    """A fresh token for as many of the scopes as one is given out for; from now on only these are asked for.

    One call where all are granted. Where the request is refused and it may be for a scope, halves are asked for: about two calls for each
    halving and scope refused.
    """
    before = authorization.scopes
    wanted = tuple(scopes)
    found = await authorization.renew(wanted)
    if isinstance(found, Token):
        return Stock()
    why = _why(authorization)
    if not _may_be_a_scope(authorization) or len(wanted) < 2:  # noqa: PLR2004 - one half each
        return Stock(found, why)
    if set(before) < set(wanted) and isinstance(await authorization.renew(before), Token):
        return Stock(refused=_without(wanted, before))  # as it was found the time before
    if _GROUP not in wanted and isinstance(await authorization.renew((*wanted, _GROUP), keep=False), Token):
        return Stock(replace(found, detail=f"the app is registered for bulk export: add {_GROUP} to scopes"), why)
    good = await _granted_of_halves(authorization, wanted)
    if not good or isinstance(await authorization.renew(good), Failure):
        return Stock(found, why)
    refused = _without(wanted, good)
    log.warning(
        "No token is given out for some scopes; the others are asked for without them",
        action="token.narrow",
        practice=practice,
        refused=list(refused),
    )
    return Stock(refused=refused)


async def _granted(authorization: Authorization, scopes: tuple[str, ...]) -> tuple[str, ...] | None:
    """Those of the scopes for which a token is given out; None if that did not become clear."""
    if isinstance(await authorization.renew(scopes, keep=False), Token):
        return scopes
    if not _may_be_a_scope(authorization):
        return None
    return () if len(scopes) == 1 else await _granted_of_halves(authorization, scopes)


async def _granted_of_halves(authorization: Authorization, scopes: tuple[str, ...]) -> tuple[str, ...] | None:
    half = len(scopes) // 2
    first = await _granted(authorization, scopes[:half])
    second = await _granted(authorization, scopes[half:]) if first is not None else None
    return None if first is None or second is None else first + second


def _without(wanted: Sequence[str], good: Sequence[str]) -> tuple[str, ...]:
    return tuple(scope for scope in wanted if scope not in good)


def _may_be_a_scope(authorization: Authorization) -> bool:
    return authorization.refusal is not None and authorization.refusal.error in _ABOUT_SCOPES


def _why(authorization: Authorization) -> Why:
    refusal = authorization.refusal
    if refusal is None:
        return Why.NO_TOKEN
    said = {"error": refusal.error, "error_description": refusal.description}
    return why_no_token(Said(refusal.status, is_own=True, words=words_of(said)))
