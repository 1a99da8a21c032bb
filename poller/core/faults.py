"""What is done about an answer that is not what was asked for: one table from status, outcome code and exception to the remedy.

Nothing here quotes the server: its words may name a patient. A :class:`Failure` holds our own words only.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from poller.core.model import Failure, FailureKind

RETRIES = 2
"""How often a call is made again after a passing failure. Each is again a call through the gate."""

LONGEST_WAIT = 30.0
"""Seconds. A server that asks for longer before a retry is left alone until the next pass."""

LONGEST_ASKED = 900.0
"""Seconds. A header that asks for a longer wait is not believed beyond it."""

_LONGEST_HEADER = 256
_DATE = re.compile(r"[A-Za-z]{3,9},? +[0-9]{1,2}[ -][A-Za-z]{3}[ -][0-9]{2,4} +[0-9:]{5,8} +[A-Z]{3,4}")
_SECONDS = re.compile(r"(?:^|,)\s*([0-9]{1,64}(?:\.[0-9]{1,9})?)\s*(?=,|$)", re.ASCII)

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


class Consequence(StrEnum):
    """What comes of it when the call has finally failed, and its pass with it."""

    RETRY_PASS = "repeat the pass"  # noqa: S105 - a pass over a target, not a password
    """The pass is made again, after a wait that grows; the feed stays as it is."""
    STEP_DOWN = "step down"
    """The feed can't be read this way: it is read by the next rung. On the last rung it is paused."""
    PAUSE_FEED = "pause the feed"
    """Several in a row: the type can't be read by any way; it is left alone and probed gently."""
    PAUSE_PRACTICE = "pause the practice"
    """Several in a row over all feeds: nothing can be read; the practice is left alone and probed gently."""


class Alert(StrEnum):
    """Whether a person must know."""

    NONE = ""
    LASTING = "if it lasts"
    AT_ONCE = "yes"


class Mishap(StrEnum):
    """How a call ended without a usable answer; adapters map their exceptions to these."""

    TIMEOUT = "no answer in time"
    CONNECT = "no connection"
    NO_ADDRESS = "the host's name is not known"
    UNTRUSTED = "TLS certificate is not trusted"
    OTHER_HOST = "TLS certificate is for another host"
    EXPIRED = "TLS certificate has expired or is not valid yet"
    NO_TLS = "no TLS connection"
    PROXY = "the proxy does not let it through"
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


class Hint(StrEnum):
    """What the words of a refusal say beyond its status and code."""

    NOT_ENABLED = "the app is not enabled for this practice"
    """eCW: ``FHIR app authentication is not enabled``, or ``{"error":"403","error_description":"invalid_request"}``; any status."""
    NOT_IN_SCOPE = "not supported for the scope; is the scope granted, is the build new enough"
    """eCW: ``… not supported for the scope``, also said by builds that do not have the type; OAuth: ``insufficient_scope``."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What went wrong and what is done about it; no failure for :attr:`Remedy.NONE`."""

    remedy: Remedy
    failure: Failure | None = None


OK = Verdict(Remedy.NONE)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what came, what it means, and what is done."""

    kind: FailureKind
    remedy: Remedy
    detail: str
    consequence: Consequence = Consequence.RETRY_PASS
    alert: Alert = Alert.NONE


_REFUSED, _SERVER, _TRANSPORT = FailureKind.REFUSED, FailureKind.SERVER, FailureKind.TRANSPORT
_UNAUTHORIZED, _MALFORMED = FailureKind.UNAUTHORIZED, FailureKind.MALFORMED
_RETRY, _GIVE_UP = Remedy.RETRY, Remedy.GIVE_UP
_DOWN, _FEED, _PRACTICE = Consequence.STEP_DOWN, Consequence.PAUSE_FEED, Consequence.PAUSE_PRACTICE
_AGAIN, _YES, _LASTING = Consequence.RETRY_PASS, Alert.AT_ONCE, Alert.LASTING

_BY_HINT: dict[Hint, Row] = {
    Hint.NOT_ENABLED: Row(_UNAUTHORIZED, _GIVE_UP, Hint.NOT_ENABLED.value, _PRACTICE, _YES),
    Hint.NOT_IN_SCOPE: Row(_REFUSED, _GIVE_UP, Hint.NOT_IN_SCOPE.value, _FEED, _YES),
}

_BY_CODE: dict[str, Row] = {
    "throttled": Row(FailureKind.LOCKED_OUT, Remedy.LOCK_OUT, "too many calls", _AGAIN, _LASTING),
    "transient": Row(_SERVER, _RETRY, "a passing fault"),
    "timeout": Row(_SERVER, _RETRY, "the server ran out of time"),
    "lock-error": Row(_SERVER, _RETRY, "a passing fault"),
    "exception": Row(_SERVER, _RETRY, "an internal fault", _AGAIN, _LASTING),
    "no-store": Row(_SERVER, _RETRY, "an internal fault", _AGAIN, _LASTING),
    "incomplete": Row(_SERVER, _RETRY, "the server knows its answer to be incomplete", _AGAIN, _LASTING),
    "too-costly": Row(_REFUSED, _GIVE_UP, "too costly for the server", _DOWN),
}
"""Issue types (FHIR R4 ``issue-type``) that say more than the status they come with. ``processing`` and the like say nothing."""

_PLAIN = frozenset({401, 404, 410, 429})
"""Statuses that need no code."""

_BLUNT = frozenset({"exception", "no-store", "incomplete"})
"""Codes that some servers put on any 4xx: they do not make a refusal a passing fault."""

_BY_STATUS: dict[int, Row] = {
    400: Row(_REFUSED, _GIVE_UP, "the request is not accepted", _DOWN),
    401: Row(_UNAUTHORIZED, Remedy.FRESH_TOKEN, "the token is not accepted", _PRACTICE, _YES),
    403: Row(_REFUSED, _GIVE_UP, "forbidden; are the scope and the app enabled", _FEED, _YES),
    404: Row(_REFUSED, _GIVE_UP, "not found", _FEED, _YES),
    407: Row(_TRANSPORT, _GIVE_UP, Mishap.PROXY.value, _PRACTICE, _YES),
    408: Row(_TRANSPORT, _RETRY, Mishap.TIMEOUT.value),
    410: Row(_REFUSED, _GIVE_UP, "gone", _FEED, _YES),
    421: Row(_TRANSPORT, _RETRY, "the wrong server was reached"),
    425: Row(_TRANSPORT, _RETRY, "too early"),
    429: _BY_CODE["throttled"],
    501: Row(_SERVER, _GIVE_UP, "not implemented", _DOWN),
    505: Row(_SERVER, _GIVE_UP, "not implemented", _DOWN),
}

TOKEN_NOT_ACCEPTED = _BY_STATUS[401].detail
"""Said of a call, and not by the token endpoint: it may be one type's own affair."""

_BY_CLASS: dict[int, Row] = {
    1: Row(_MALFORMED, _GIVE_UP, "an interim answer"),
    2: Row(_MALFORMED, _RETRY, "an answer without the content that was asked for"),
    3: Row(_MALFORMED, _GIVE_UP, "a redirect, which is never followed; is base_url right", _FEED, _YES),
    4: _BY_STATUS[400],
    5: _BY_CODE["exception"],
}
_NO_STATUS = Row(_MALFORMED, _GIVE_UP, "a status that HTTP does not know")
_OUTCOME = Row(_MALFORMED, _RETRY, "an outcome instead of the content", _AGAIN, _LASTING)
_NOT_FHIR = {
    shape: Row(_MALFORMED, _RETRY, f"the body is {shape.value}, not FHIR", _AGAIN, _LASTING)
    for shape in Shape
    if shape is not Shape.FHIR
}

_WHAT_OAUTH_SAYS: dict[str, str] = {
    "invalid_client": "the client or its key is not known; are client_id, kid and the published keys right",
    "invalid_grant": "the grant is refused; is each scope one that the app was registered with",
    "invalid_scope": "a scope is refused",
    "invalid_request": "the token request is not accepted; is the app enabled for this practice",
    "unauthorized_client": "the client may not use this grant",
    "unsupported_grant_type": "the client may not use this grant",
    "access_denied": "access denied; is the app enabled for this practice",
    "403": Hint.NOT_ENABLED.value,
}
"""OAuth 2.0 error codes (RFC 6749 §5.2 and §4.1.2.1). eCW sends ``access_denied`` with status 500."""

_BY_OAUTH: dict[str, Row] = {
    error: Row(_UNAUTHORIZED, _GIVE_UP, detail, _PRACTICE, _YES) for error, detail in _WHAT_OAUTH_SAYS.items()
}
_NO_TOKEN = Row(_MALFORMED, _RETRY, "the token answer holds no usable token", _AGAIN, _LASTING)
_TOKEN_REFUSED = Row(_UNAUTHORIZED, _GIVE_UP, "the token call is refused; is token_url right", _PRACTICE, _YES)

_BY_MISHAP: dict[Mishap, Row] = {
    Mishap.TIMEOUT: Row(_TRANSPORT, _RETRY, Mishap.TIMEOUT.value),
    Mishap.CONNECT: Row(_TRANSPORT, _RETRY, Mishap.CONNECT.value, _PRACTICE, _LASTING),
    Mishap.NO_ADDRESS: Row(_TRANSPORT, _RETRY, Mishap.NO_ADDRESS.value, _PRACTICE, _LASTING),
    Mishap.UNTRUSTED: Row(_TRANSPORT, _GIVE_UP, Mishap.UNTRUSTED.value, _PRACTICE, _YES),
    Mishap.OTHER_HOST: Row(_TRANSPORT, _GIVE_UP, Mishap.OTHER_HOST.value, _PRACTICE, _YES),
    Mishap.EXPIRED: Row(_TRANSPORT, _GIVE_UP, Mishap.EXPIRED.value, _PRACTICE, _YES),
    Mishap.NO_TLS: Row(_TRANSPORT, _RETRY, Mishap.NO_TLS.value, _PRACTICE, _LASTING),
    Mishap.PROXY: Row(_TRANSPORT, _RETRY, Mishap.PROXY.value, _PRACTICE, _YES),
    Mishap.CUT_OFF: Row(_TRANSPORT, _RETRY, Mishap.CUT_OFF.value),
    Mishap.PROTOCOL: Row(_TRANSPORT, _RETRY, Mishap.PROTOCOL.value),
    Mishap.TOO_LARGE: Row(_MALFORMED, _GIVE_UP, Mishap.TOO_LARGE.value, _DOWN),
}

_OTHERWISE: dict[FailureKind, tuple[Consequence, Alert]] = {
    FailureKind.REFUSED: (_DOWN, Alert.NONE),
    FailureKind.UNAUTHORIZED: (_PRACTICE, _YES),
    FailureKind.LOCKED_OUT: (_AGAIN, _LASTING),
    FailureKind.SERVER: (_AGAIN, _LASTING),
    FailureKind.TRANSPORT: (_AGAIN, Alert.NONE),
    FailureKind.MALFORMED: (_AGAIN, _LASTING),
}
"""For failures that other modules find in answers that came with 200, as an ignored filter or pages in a circle."""


def table() -> Iterator[tuple[str, Row]]:
    """What may come, as a person would say it, and its row. The table in ARCHITECTURE.md is made of it."""
    yield from ((f"{status}", row) for status, row in _BY_STATUS.items())
    yield from ((f"another {first}xx", row) for first, row in _BY_CLASS.items())
    yield "any other status", _NO_STATUS
    yield from ((f"words: {hint.name.lower().replace('_', ' ')}", row) for hint, row in _BY_HINT.items())
    yield from ((f"outcome `{code}`", row) for code, row in _BY_CODE.items())
    yield "200 and an outcome", _OUTCOME
    yield from ((f"200 and {shape.value}", row) for shape, row in _NOT_FHIR.items())
    yield from ((f"token: `{error}`", row) for error, row in _BY_OAUTH.items())
    yield "token: another 3xx or 4xx", _TOKEN_REFUSED
    yield "token: 200 without one", _NO_TOKEN
    yield from ((mishap.value, row) for mishap, row in _BY_MISHAP.items())


_SETTLED: dict[tuple[FailureKind, str], tuple[Consequence, Alert]] = {
    (row.kind, row.detail): (row.consequence, row.alert) for _, row in table()
}


def consequence(failure: Failure) -> Consequence:
    """What comes of a failure that no remedy has mended."""
    return _SETTLED.get((failure.kind, failure.detail), _OTHERWISE[failure.kind])[0]


def alert(failure: Failure) -> Alert:
    """Whether a person must know of it."""
    return _SETTLED.get((failure.kind, failure.detail), _OTHERWISE[failure.kind])[1]


def judge(status: int, shape: Shape, codes: Collection[str] = (), hint: Hint | None = None) -> Verdict:
    """The verdict on an answer: its status, what its body is, the codes of its error and fatal issues if it is an OperationOutcome.

    ``hint`` is what its words say: see :func:`hint_of`.
    """
    if status == 200 and shape is Shape.FHIR and not codes:  # noqa: PLR2004 - OK
        return OK
    if hint is not None and status != 429:  # noqa: PLR2004 - Too Many Requests
        remedy = _BY_STATUS[401].remedy if status == 401 else _BY_HINT[hint].remedy  # noqa: PLR2004 - Unauthorized
        return Verdict(remedy, Failure(_BY_HINT[hint].kind, status, _BY_HINT[hint].detail))
    for code in codes:
        is_4xx = status // 100 == 4  # noqa: PLR2004 - the class of client errors, RFC 9110 §15.5
        if code in _BY_CODE and status not in _PLAIN and not (code in _BLUNT and is_4xx):
            return _verdict(_BY_CODE[code], status)
    if status == 200:  # noqa: PLR2004 - OK
        return _verdict(_OUTCOME if codes or shape is Shape.FHIR else _NOT_FHIR[shape], status)
    return _verdict(_BY_STATUS.get(status) or _BY_CLASS.get(status // 100, _NO_STATUS), status)


def judge_token(status: int, error: str | None, hint: Hint | None = None) -> Verdict:
    """The verdict on a refused token call: its status, the OAuth ``error``, and what its words say."""
    if error in _BY_OAUTH:
        return _verdict(_BY_OAUTH[error], status)
    if hint is not None:
        return Verdict(_GIVE_UP, Failure(_UNAUTHORIZED, status, hint.value))
    if status == 429:  # noqa: PLR2004 - Too Many Requests
        return _verdict(_BY_STATUS[status], status)
    if status in {407, 408, 421, 425} or status >= 500:  # noqa: PLR2004 - server errors
        return judge(status, Shape.EMPTY)
    return _verdict(_NO_TOKEN if status == 200 else _TOKEN_REFUSED, status)  # noqa: PLR2004 - OK


def judge_mishap(mishap: Mishap) -> Verdict:
    """The verdict on a call without a usable answer."""
    row = _BY_MISHAP[mishap]
    return Verdict(row.remedy, Failure(row.kind, None, row.detail))


def backoff(retry: int, jitter: float) -> float:
    """Seconds before the ``retry``-th retry, from 1: doubling, and by ``jitter`` (0 to 1) spread over half to all of it."""
    whole = min(_LAST_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(retry - 1, 10))
    return whole * (0.5 + jitter / 2)


def retry_after(header: str | None, now: dt.datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, 0 to :data:`LONGEST_ASKED`; None if there is none that makes sense.

    Of several the longest counts.
    """
    if header is None or len(header) > _LONGEST_HEADER:
        return None
    moments = [http_date(found[0]) for found in _DATE.finditer(header)] or [http_date(header)]
    asked = [(moment - now).total_seconds() for moment in moments if moment is not None]
    asked += [float(found[1]) for found in _SECONDS.finditer(header)]
    return min(max(0.0, *asked), LONGEST_ASKED) if asked else None


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


def hint_of(body: object) -> Hint | None:
    """What the words of a refusal say, of those that are known; its words themselves go nowhere."""
    if not isinstance(body, dict):
        return None
    said = [body.get("error"), body.get("error_description"), body.get("message")]
    issues = body.get("issue")
    for issue in issues if isinstance(issues, list) else []:
        if isinstance(issue, dict) and issue.get("severity") not in ("warning", "information"):
            details = issue.get("details")
            said += [issue.get("diagnostics"), details.get("text") if isinstance(details, dict) else None]
    words = " ".join(word for word in said if isinstance(word, str)).lower()
    if "authentication is not enabled" in words or (said[0], said[1]) == ("403", "invalid_request"):
        return Hint.NOT_ENABLED
    if "not supported for the scope" in words or "insufficient_scope" in words or "insufficient scope" in words:
        return Hint.NOT_IN_SCOPE
    return None


def says_absent(failure: Failure) -> bool:
    """Whether the server says that there is no such thing, and not that it may not be seen."""
    return failure.kind is FailureKind.REFUSED and failure.detail in {_BY_STATUS[404].detail, _BY_STATUS[410].detail}


def _verdict(row: Row, status: int) -> Verdict:
    return Verdict(row.remedy, Failure(row.kind, status, row.detail))
