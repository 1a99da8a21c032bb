"""Codings in resources, and tokens that name them: ``code``, or ``system|code`` (FHIR R4 §3.1.1.4.10)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Coding = tuple[str, str]
"""System and code, each empty where it is not said."""


def codings(value: object) -> list[Coding]:
    """The codings of a list of them."""
    return [
        (str(coding.get("system") or ""), str(coding.get("code") or ""))
        for coding in (value if isinstance(value, list) else [])
        if isinstance(coding, dict)
    ]


def labels(resource: Mapping[str, Any]) -> list[Coding]:
    """The security labels of a resource (``meta.security``, FHIR R4 §6.1.1)."""
    meta = resource.get("meta")
    return codings(meta.get("security")) if isinstance(meta, dict) else []


def has(found: Collection[Coding], wanted: Sequence[str]) -> bool:
    """Whether one of the tokens is among the codings."""
    for token in wanted:
        system, bar, code = token.rpartition("|")
        if any(code == known and (not bar or system == of) for of, known in found):
            return True
    return False
