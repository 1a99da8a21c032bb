"""Noise rules: paths whose content makes no event, as an operator writes them.

``meta.tag``, ``performer.display``, ``extension[http://example.org/device]``: names of elements from the resource down, through lists;
in brackets the ``url`` of an extension, the ``system`` of a coding, an identifier or a contact point, or a text, where only some of a
list are meant. The extensions of a primitive go with it: ``birthDate`` leaves out ``_birthDate`` (FHIR R4 §2.6.2.3).

What decides the kind of an event (:data:`DECISIVE`) is never noise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from poller.core import jsontext

DECISIVE: Final = frozenset({"resourceType", "id", "status", "verificationStatus"})
"""Elements that decide which resource it is and which action an event has; a Patient's ``link`` is one as well."""

_STEP = re.compile(r"([A-Za-z][A-Za-z0-9]*)(?:\[([^\[\]\s]{1,500})\])?(?:\.|$)")
_LONGEST = 1000

Step = tuple[str, str | None]
Tree = dict[Step, "Tree"]
"""Steps of all paths, those that begin alike together; an empty one ends a path."""


def parse(path: str) -> tuple[Step, ...]:
    """The steps of a path: element names, each with what stands in brackets after it. Raises ValueError where it is none."""
    steps: list[Step] = []
    position = 0
    while position < len(path) and len(path) <= _LONGEST:
        match = _STEP.match(path, position)
        if match is None:
            break
        steps.append((match[1], match[2]))
        position = match.end()
    if not steps or position < len(path) or path.endswith("."):
        raise ValueError("not a path; write element names with dots between, as in meta.tag or extension[http://…]")
    return tuple(steps)


@lru_cache(maxsize=256)
def _tree(noise: tuple[str, ...]) -> Tree:
    root: Tree = {}
    for path in sorted(noise, key=len):
        node = root
        for step in parse(path):
            if step in node and not node[step]:
                break  # a shorter path leaves out all of it
            node = node.setdefault(step, {})
    return root


def without(resource: Mapping[str, Any], noise: tuple[str, ...]) -> Mapping[str, Any]:
    """The resource without what is at these paths; it is not altered, and what nothing is taken from is not copied."""
    return _pruned(resource, _tree(noise)) if noise else resource


def _pruned(value: Mapping[str, Any], tree: Tree) -> Mapping[str, Any]:
    kept = dict(value)
    for (name, only), below in tree.items():
        for written in (name, f"_{name}"):
            if written in kept:
                left = _left(kept.pop(written), only, below)
                if left is not _GONE:
                    kept[written] = left
    return kept


_GONE: Final = object()


def _left(value: Any, only: str | None, below: Tree) -> Any:
    """What stays of an element. A list or a mapping that loses all it has is as if it had never been there."""
    if isinstance(value, list):
        items = [item for item in (_left(item, only, below) for item in value) if item is not _GONE]
        return items or _GONE
    if only is not None and not _is_of(value, only):
        return value
    if not below:
        return _GONE
    return (_pruned(value, below) or _GONE) if isinstance(value, Mapping) else value


def _is_of(value: Any, only: str) -> bool:
    return (
        value == only
        if isinstance(value, str)
        else isinstance(value, Mapping) and only in (value.get("url"), value.get("system"))
    )


def hidden(one: Mapping[str, Any], other: Mapping[str, Any], noise: Sequence[str]) -> tuple[str, ...]:
    """Of these paths, the ones at which two versions differ.

    Where none does by what lies there, those where it lies in another place of its list: what is left of the two lists may be the same.
    """
    by_content = tuple(path for path in noise if _at(one, path, places=False) != _at(other, path, places=False))
    return by_content or tuple(path for path in noise if _at(one, path, places=True) != _at(other, path, places=True))


def _at(resource: Mapping[str, Any], path: str, *, places: bool) -> bytes | None:
    """All that is at a path, written out; if asked for, with its place in each list on the way."""
    found = _within(resource, parse(path), places)
    return None if found is _GONE else jsontext.dumps(found, sort_keys=True)


def _within(value: Any, steps: Sequence[Step], places: bool) -> Any:
    if not isinstance(value, Mapping):
        return _GONE
    (name, only), below = steps[0], steps[1:]
    found = {
        written: chosen
        for written in (name, f"_{name}")
        if written in value and (chosen := _chosen(value[written], only, below, places)) is not _GONE
    }
    return found or _GONE


def _chosen(value: Any, only: str | None, below: Sequence[Step], places: bool) -> Any:
    if isinstance(value, list):
        items = [
            [place, chosen] if places else chosen
            for place, item in enumerate(value)
            if (chosen := _chosen(item, only, below, places)) is not _GONE
        ]
        return items or _GONE
    if only is not None and not _is_of(value, only):
        return _GONE
    return _within(value, below, places) if below else value
