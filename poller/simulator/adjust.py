"""Manners of a practice that may change while it is served: what it takes, refuses and leaves out."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from poller.simulator.spec import PracticeSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

FIXED = frozenset(
    {"code", "mode", "patients", "max_patients", "name_initials", "types", "labs_per_patient", "tempo", "client_id"}
)
"""Members of a spec that make the practice what it is, and stay."""

_SPECS = TypeAdapter(PracticeSpec)


def changed(spec: PracticeSpec, changes: Mapping[str, Any]) -> PracticeSpec:
    """The spec with other manners. Raises ValueError for one that there is not, or with a value that it does not take."""
    members = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    for name in changes:
        if name not in members or name in FIXED:
            near = difflib.get_close_matches(name, members.keys() - FIXED, 1)
            raise ValueError(f"no such manner: {name}{f'; did you mean {near[0]}' if near else ''}")
    try:
        return _SPECS.validate_python(members | dict(changes))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"manner {where}: {first['msg']}") from None
