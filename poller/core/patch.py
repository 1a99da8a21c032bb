"""What changed between two versions, as JSON Patch (RFC 6902), numbers as they were written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonpatch

from poller.core import jsontext

if TYPE_CHECKING:
    from collections.abc import Mapping


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Operations that turn ``old`` into ``new``; both as :func:`poller.core.jsontext.loads` gave them.

    Only add, remove and replace: moves save bytes where a large element changes place, which FHIR resources rarely do, and cost
    every reader a more careful implementation.
    """
    return jsonpatch.JsonPatch.from_diff(old, new, optimization=False, dumps=_text).patch


def applied(old: Mapping[str, Any], patch: list[dict[str, Any]]) -> Any:
    """``old`` with ``patch`` applied; ``old`` stays as it was. Raises :class:`jsonpatch.JsonPatchException` where it does not fit."""
    return jsonpatch.JsonPatch(patch).apply(old)


def _text(value: Any) -> str:
    """Two values are the same where their JSON is: 13.20 is not 13.2, 1 is not true."""
    return jsontext.dumps(value).decode()
