"""What RateLimit headers say, read only to slow down: they are a server's own account of itself, and often wrong. Pure.

Understood are ``RateLimit-Remaining`` and ``RateLimit-Reset`` (draft-ietf-httpapi-ratelimit-headers up to 07), the same with ``X-``, and
the one field ``RateLimit: "name";r=0;t=30`` of later drafts. A reset is seconds from now, or seconds since 1970.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass

HEADERS = ("RateLimit", "RateLimit-Remaining", "RateLimit-Reset", "X-RateLimit-Remaining", "X-RateLimit-Reset")
LONGEST = 60.0
"""Seconds. Limits that we know of turn with the minute; one that lasts longer is told by 429."""

_NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)
_SIGNED = re.compile(r"-?[0-9]{1,12}", re.ASCII)
_PARAMETER = re.compile(r";\s*([rt])=([0-9]{1,12})(?=[;,\s]|$)", re.ASCII)
_EPOCH = 1_000_000_000.0
"""Seconds since 1970 from 2001 on; as a wait it would be thirty years."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How many calls are left, and seconds until there are more; None where that is not said, or makes no sense."""

    left: int | None = None
    reset: float | None = None


def read(headers: Mapping[str, str], now: dt.datetime) -> Quota:
    """The tightest of what the headers say; ``headers`` by their names in lower case."""
    lefts, resets = [], []
    for prefix in ("", "x-"):
        lefts += [int(word) for word in _words(headers.get(f"{prefix}ratelimit-remaining")) if _SIGNED.fullmatch(word)]
        resets += [int(word) for word in _words(headers.get(f"{prefix}ratelimit-reset")) if _NUMBER.fullmatch(word)]
    for name, value in _PARAMETER.findall(headers.get("ratelimit", "")[:1000]):
        (lefts if name == "r" else resets).append(int(value))
    seconds = [reset - now.timestamp() if reset >= _EPOCH else float(reset) for reset in resets]
    return Quota(
        max(0, min(lefts)) if lefts else None,
        min(max(0.0, *seconds), LONGEST) if seconds else None,
    )


def hold(before: Quota, said: Quota) -> float:
    """Seconds for which nothing more should leave, 0 to :data:`LONGEST`.

    Only where calls are said to have run out while there were some ``before``: who says nought all the time does not count at all.
    """
    ran_out = said.left == 0 and before.left is not None and before.left > 0
    return said.reset if ran_out and said.reset is not None else 0.0


def _words(header: str | None) -> list[str]:
    """The members of a list; ``5;w=60`` is 5."""
    return [part.partition(";")[0].strip() for part in (header or "")[:1000].split(",")]
