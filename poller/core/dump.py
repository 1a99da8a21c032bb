"""What a line of an outside dump holds, and how what it holds stands to what is stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from poller.core import canonical, jsontext
from poller.core.model import Rules
from poller.core.pages import is_usable_id

LONGEST = 16 * 1024 * 1024
"""Bytes of a line. What is longer is no resource that could be stored."""

_BOM = b"\xef\xbb\xbf"
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")


class Flaw(StrEnum):
    """Why a line cannot be read. Says nothing of what stands in it."""

    TOO_LONG = "longer than 16 MB"
    NOT_JSON = "not JSON"
    NO_OBJECT = "JSON, but no object"
    NO_TYPE = "no resourceType"
    NO_ID = "no id that FHIR allows"


class Outcome(StrEnum):
    """How a resource stands."""

    EQUAL = "equal"
    DIFFERENT = "different"
    MISSING = "missing"
    """In the dump, and not in the store, or deleted there."""
    EXTRA = "extra"
    """In the store, and not in the dump."""


@dataclass(frozen=True, slots=True)
class Dumped:
    """A resource of a dump."""

    resource_type: str
    id: str
    resource: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        """Type and id."""
        return self.resource_type, self.id


@dataclass(frozen=True, slots=True)
class Held:
    """What is stored of a resource."""

    digest: bytes
    rules: Rules | None
    """Under which it was digested; None for some that are not known any more."""
    deleted: bool
    body: Mapping[str, Any] | None
    """Where the rules are others than those asked for."""


def read_line(line: bytes) -> Dumped | Flaw | None:
    """The resource of a line; None for a blank one."""
    line = line.removeprefix(_BOM)
    if not line.strip():
        return None
    try:
        found = jsontext.loads(line)
    except ValueError:
        return Flaw.NOT_JSON
    if not isinstance(found, dict):
        return Flaw.NO_OBJECT
    resource_type, id_ = found.get("resourceType"), found.get("id")
    if not isinstance(resource_type, str) or _TYPE.fullmatch(resource_type) is None:
        return Flaw.NO_TYPE
    if not isinstance(id_, str) or not is_usable_id(id_):
        return Flaw.NO_ID
    return Dumped(resource_type, id_, found)


def compare(dumped: Dumped, held: Held | None, key: bytes, noise: tuple[str, ...]) -> Outcome:
    """Whether a resource is as it is stored, as the diff would judge it that reads it under these rules (see ``store.rules``).

    ``key`` is the digest key of the installation, ``noise`` the paths that do not count of its type.
    """
    if held is None or held.deleted:
        return Outcome.MISSING
    rules = Rules(canonical.RULES_VERSION, noise)
    same_form = held.rules is not None and held.rules.form == canonical.RULES_VERSION
    if held.rules is not None and same_form and canonical.digest(dumped.resource, key, held.rules.noise) == held.digest:
        return Outcome.EQUAL  # also where the rules are others: what those hid is no news when it is hidden no longer
    if held.rules == rules or held.body is None:
        return Outcome.DIFFERENT
    again = canonical.digest(held.body, key, noise) == canonical.digest(dumped.resource, key, noise)
    return Outcome.EQUAL if again else Outcome.DIFFERENT
