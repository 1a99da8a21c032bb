"""What is done about an answer that is not what was asked for: one table from status, outcome code and exception to the remedy.

Nothing here quotes the server: its words may name a patient. A :class:`Failure` holds our own words only.
"""

from __future__ import annotations

import datetime as dt
import email.utils
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from poller.core.model import Failure, FailureKind

RETRIES = 2
"""How often a call is made again after a passing failure. Each is again a call through the gate."""

LONGEST_WAIT = 30.0
"""Seconds. A server that asks for longer before a retry is left alone until the next pass."""

_FIRST_BACKOFF = 0.5
_LAST_BACKOFF = 8.0


class Remedy(StrEnum):
    """What to do next."""

    NONE = "none"
    """It succeeded."""
    RETRY = "retry"
    """Make the call again, after a wait that grows, a bounded number of times."""
    FRESH_TOKEN = "fresh-token"  # noqa: S105 - a remedy, not a secret
    """Get a new token and make the call again, once."""
    LOCK_OUT = "lock-out"
    """Let nothing leave until the server's minute has turned; then make the call again, once."""
    GIVE_UP = "give-up"
    """Asking again will not mend it."""


class Mishap(StrEnum):
    """How a call ended without a usable answer; adapters map their exceptions to these."""

    TIMEOUT = "no answer in time"
    CONNECT = "no connection"
    CUT_OFF = "the connection broke"
    PROTOCOL = "not HTTP as it should be"
    TOO_LARGE = "the answer is too large"


class Shape(StrEnum):
    """What a body is, at a first look."""

    EMPTY = "empty"
    FHIR = "fhir"
    """A JSON object with a ``resourceType``."""
    JSON = "json"
    """Other JSON."""
    OTHER = "other"
    """Anything else: a web page, JSON cut off."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What went wrong and what is done about it; no failure for :attr:`Remedy.NONE`."""

    remedy: Remedy
    failure: Failure | None = None


OK = Verdict(Remedy.NONE)

_Row = tuple[FailureKind, Remedy, str]

_BY_CODE: dict[str, _Row] = {
    "throttled": (FailureKind.LOCKED_OUT, Remedy.LOCK_OUT, "too many calls"),
    "transient": (FailureKind.SERVER, Remedy.RETRY, "a passing fault"),
    "timeout": (FailureKind.SERVER, Remedy.RETRY, "the server ran out of time"),
    "lock-error": (FailureKind.SERVER, Remedy.RETRY, "a passing fault"),
    "exception": (FailureKind.SERVER, Remedy.RETRY, "an internal fault"),
    "no-store": (FailureKind.SERVER, Remedy.RETRY, "an internal fault"),
    "incomplete": (FailureKind.SERVER, Remedy.RETRY, "the server knows its answer to be incomplete"),
    "too-costly": (FailureKind.REFUSED, Remedy.GIVE_UP, "too costly for the server"),
}
"""Issue types (FHIR R4 ``issue-type``) that say more than the status they come with. ``processing`` and the like say nothing."""

_PLAIN = frozenset({401, 404, 410, 429})
"""Statuses that need no code."""

_BLUNT = frozenset({"exception", "no-store", "incomplete"})
"""Codes that some servers put on any 4xx: they do not make a refusal a passing fault."""

_BY_STATUS: dict[int, _Row] = {
    400: (FailureKind.REFUSED, Remedy.GIVE_UP, "the request is not accepted"),
    401: (FailureKind.UNAUTHORIZED, Remedy.FRESH_TOKEN, "the token is not accepted"),
    403: (FailureKind.REFUSED, Remedy.GIVE_UP, "forbidden; are the scope and the app enabled"),
    404: (FailureKind.REFUSED, Remedy.GIVE_UP, "not found"),
    408: (FailureKind.TRANSPORT, Remedy.RETRY, Mishap.TIMEOUT.value),
    410: (FailureKind.REFUSED, Remedy.GIVE_UP, "gone"),
    421: (FailureKind.TRANSPORT, Remedy.RETRY, Mishap.CONNECT.value),
    425: (FailureKind.TRANSPORT, Remedy.RETRY, "too early"),
    429: (FailureKind.LOCKED_OUT, Remedy.LOCK_OUT, "too many calls"),
    501: (FailureKind.SERVER, Remedy.GIVE_UP, "not implemented"),
    505: (FailureKind.SERVER, Remedy.GIVE_UP, "not implemented"),
}

_BY_CLASS: dict[int, _Row] = {
    1: (FailureKind.MALFORMED, Remedy.GIVE_UP, "an interim answer"),
    2: (FailureKind.MALFORMED, Remedy.RETRY, "an answer without the content that was asked for"),
    3: (FailureKind.MALFORMED, Remedy.GIVE_UP, "a redirect, which is never followed; is base_url right"),
    4: (FailureKind.REFUSED, Remedy.GIVE_UP, "the request is not accepted"),
    5: (FailureKind.SERVER, Remedy.RETRY, "an internal fault"),
}

_OAUTH: dict[str, str] = {
    "invalid_client": "the client or its key is not known; are client_id, kid and the published keys right",
    "invalid_grant": "the grant is refused; is each scope one that the app was registered with",
    "invalid_scope": "a scope is refused",
    "invalid_request": "the token request is not accepted; is the app enabled for this practice",
    "unauthorized_client": "the client may not use this grant",
    "unsupported_grant_type": "the client may not use this grant",
    "access_denied": "access denied; is the app enabled for this practice",
}
"""OAuth 2.0 error codes (RFC 6749 §5.2 and §4.1.2.1). eCW sends ``access_denied`` with status 500."""


def judge(status: int, shape: Shape, codes: Collection[str] = ()) -> Verdict:
    """The verdict on an answer: its status, what its body is, and the codes of its error and fatal issues if it is an OperationOutcome."""
    if status == 200 and shape is Shape.FHIR and not codes:  # noqa: PLR2004 - OK
        return OK
    for code in codes:
        is_4xx = status // 100 == 4  # noqa: PLR2004 - the class of client errors, RFC 9110 §15.5
        if code in _BY_CODE and status not in _PLAIN and not (code in _BLUNT and is_4xx):
            return _verdict(_BY_CODE[code], status)
    if status == 200:  # noqa: PLR2004 - OK
        detail = "an outcome instead of the content" if codes else f"the body is {shape.value}, not FHIR"
        return _verdict((FailureKind.MALFORMED, Remedy.RETRY, detail), status)
    fallback = (FailureKind.MALFORMED, Remedy.GIVE_UP, "a status that HTTP does not know")
    return _verdict(_BY_STATUS.get(status) or _BY_CLASS.get(status // 100, fallback), status)


def judge_token(status: int, error: str | None) -> Verdict:
    """The verdict on a refused token call: its status and the OAuth ``error``."""
    if error in _OAUTH:
        return _verdict((FailureKind.UNAUTHORIZED, Remedy.GIVE_UP, _OAUTH[error]), status)
    if status == 429:  # noqa: PLR2004 - Too Many Requests
        return _verdict(_BY_STATUS[status], status)
    if status in {408, 425} or status >= 500:  # noqa: PLR2004 - server errors
        return judge(status, Shape.EMPTY)
    if status == 200:  # noqa: PLR2004 - OK
        return _verdict((FailureKind.MALFORMED, Remedy.RETRY, "the token answer holds no usable token"), status)
    return _verdict((FailureKind.UNAUTHORIZED, Remedy.GIVE_UP, "the token call is refused"), status)


def judge_mishap(mishap: Mishap) -> Verdict:
    """The verdict on a call without a usable answer."""
    match mishap:
        case Mishap.TIMEOUT | Mishap.CONNECT | Mishap.CUT_OFF | Mishap.PROTOCOL:
            return Verdict(Remedy.RETRY, Failure(FailureKind.TRANSPORT, None, mishap.value))
        case Mishap.TOO_LARGE:
            return Verdict(Remedy.GIVE_UP, Failure(FailureKind.MALFORMED, None, mishap.value))


def backoff(retry: int, jitter: float) -> float:
    """Seconds before the ``retry``-th retry, from 1: doubling, and by ``jitter`` (0 to 1) spread over half to all of it."""
    whole = min(_LAST_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(retry - 1, 10))
    return whole * (0.5 + jitter / 2)


def retry_after(header: str | None, now: dt.datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, never negative; None if there is none that makes sense."""
    if header is None or len(header) > 64:  # noqa: PLR2004 - longer than any date
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return float(header) if len(header.strip()) <= 9 else None  # noqa: PLR2004 - thirty years
    moment = http_date(header)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def http_date(header: str | None) -> dt.datetime | None:
    """The time in a ``Date`` header, aware UTC; None if there is none that can be read."""
    if header is None:
        return None
    try:
        moment = email.utils.parsedate_to_datetime(header)
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def outcome_codes(body: object) -> tuple[str, ...]:
    """Codes of the error and fatal issues of an OperationOutcome; empty for anything else. No code counts as ``unknown``."""
    if not isinstance(body, dict) or body.get("resourceType") != "OperationOutcome":
        return ()
    issues = body.get("issue")
    if not isinstance(issues, list):
        return ("unknown",)
    return tuple(
        code if isinstance(code := issue.get("code"), str) else "unknown"
        for issue in issues
        if isinstance(issue, dict) and issue.get("severity") not in ("warning", "information")
    )


def _verdict(row: _Row, status: int) -> Verdict:
    kind, remedy, detail = row
    return Verdict(remedy, Failure(kind, status, detail))
