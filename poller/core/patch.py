"""What changed between two versions, as JSON Patch (RFC 6902), numbers as they were written.

Items of a list are matched by what they are, not by where they stand: equal ones first, then by the key that FHIR gives items of their
kind (an extension's ``url``, a coding's ``system`` and ``code``, an identifier's ``system`` and ``value``, a component's ``code``, …), as
most lists of FHIR have no order that means anything (R4, ElementDefinition.orderMeaning). So a coding put in front is one ``add`` and not a
replacement of all behind it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jsonpatch

from poller.core import jsontext

Operation = dict[str, Any]

_KEYS = (
    ("resourceType", "id"),
    ("id",),
    ("url",),
    ("system", "code"),
    ("system", "value"),
    ("reference",),
    ("linkId",),
    ("code",),
)
"""What tells items of a list apart, the first of these that an item has all of."""


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Operation]:
    """Operations that turn ``old`` into ``new``; both as :func:`poller.core.jsontext.loads` gave them.

    Only add, remove and replace: moves save bytes where a large element changes place, which FHIR resources rarely do, and cost
    every reader a more careful implementation. Takes time in proportion to the text and its depth; lists, n log n of their length.
    """
    return list(_of_objects("", old, new))


def applied(old: Mapping[str, Any], patch: list[Operation]) -> Any:
    """``old`` with ``patch`` applied; ``old`` stays as it was. Raises :class:`jsonpatch.JsonPatchException` where it does not fit."""
    return jsonpatch.JsonPatch(patch).apply(dict(old))  # which it changes a copy of; and it takes no other mapping


def _of_values(path: str, old: Any, new: Any) -> Iterator[Operation]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _of_objects(path, old, new)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _of_lists(path, old, new)
    elif type(old) is not type(new) or old != new:  # 1 is not true, 13.20 is not 13.2
        yield {"op": "replace", "path": path, "value": new}


def _of_objects(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Operation]:
    for name in old:
        if name not in new:
            yield {"op": "remove", "path": f"{path}/{_escaped(name)}"}
    for name, value in new.items():
        if name not in old:
            yield {"op": "add", "path": f"{path}/{_escaped(name)}", "value": value}
        elif not _same(old[name], value):
            yield from _of_values(f"{path}/{_escaped(name)}", old[name], value)


def _same(old: Any, new: Any) -> bool:
    """Whether two values are the same to the letter, told fast, as most are; where it says no, they may still be."""
    if type(old) is str or type(new) is str:
        return type(old) is type(new) and bool(old == new)
    return jsontext.dumps(old) == jsontext.dumps(new)  # told faster than by ==, for which 1 is True besides


def _escaped(name: str) -> str:
    """As RFC 6901 §3 has it."""
    return name.replace("~", "~0").replace("/", "~1")


def _of_lists(path: str, old: Sequence[Any], new: Sequence[Any]) -> Iterator[Operation]:
    """First what goes, from the end; then, from the front, what comes and what stays and has changed: by then it stands where it will.

    The same at both ends stands where it stood, and is not looked at.
    """
    shorter = min(len(old), len(new))
    front = next((n for n in range(shorter) if not _same(old[n], new[n])), shorter)
    left = shorter - front
    back = next((n for n in range(left) if not _same(old[-1 - n], new[-1 - n])), left)
    old, new = old[front : len(old) - back], new[front : len(new) - back]
    stays = _matches(old, new)
    kept = set(stays.values())
    for position in range(len(old) - 1, -1, -1):
        if position not in kept:
            yield {"op": "remove", "path": f"{path}/{front + position}"}
    for position, value in enumerate(new):
        where = f"{path}/{front + position}"
        if position in stays:
            yield from _shorter(where, old[stays[position]], value)
        else:
            yield {"op": "add", "path": where, "value": value}


def _shorter(path: str, old: Any, new: Any) -> list[Operation]:
    """What turns one item into another, or its replacement, if that says less."""
    operations = list(_of_values(path, old, new))
    whole = {"op": "replace", "path": path, "value": new}
    if len(operations) > 1 and len(jsontext.dumps(operations)) > len(jsontext.dumps([whole])):
        return [whole]
    return operations


def _matches(old: Sequence[Any], new: Sequence[Any]) -> dict[int, int]:
    """Position in the new list → position in the old one, of the items that stay; both in the same order."""
    pairs = _paired([_text(item) for item in old], [_text(item) for item in new], {})
    pairs = _paired([_key(item) for item in old], [_key(item) for item in new], pairs)
    stays = _ascending(pairs)
    return stays | dict(_in_the_gaps(stays, len(old), len(new)))


def _text(value: Any) -> str:
    return jsontext.dumps(value, sort_keys=True).decode()


def _key(item: Any) -> str | None:
    if isinstance(item, Mapping):
        for names in _KEYS:
            if all(name in item for name in names):
                return _text([*names, *(item[name] for name in names)])
    return None


def _paired(olds: Sequence[str | None], news: Sequence[str | None], pairs: Mapping[int, int]) -> dict[int, int]:
    """More pairs, of those that have none, by equal marks: the first with the first, the second with the second."""
    taken = set(pairs.values())
    waiting: dict[str, list[int]] = defaultdict(list)
    for position in range(len(olds) - 1, -1, -1):
        mark = olds[position]
        if mark is not None and position not in taken:
            waiting[mark].append(position)
    more = dict(pairs)
    for position, mark in enumerate(news):
        if position not in pairs and mark is not None and waiting.get(mark):
            more[position] = waiting[mark].pop()
    return more


def _ascending(pairs: Mapping[int, int]) -> dict[int, int]:
    """As many of the pairs as there can be without two that cross: the longest increasing subsequence."""
    ends: list[int] = []
    """The least old position at which an ascending run of each length ends, and below the new positions of these ends."""
    tops: list[int] = []
    before: dict[int, int | None] = {}
    for position in sorted(pairs):
        length = bisect_left(ends, pairs[position])
        before[position] = tops[length - 1] if length else None
        ends[length : length + 1] = [pairs[position]]
        tops[length : length + 1] = [position]
    kept: dict[int, int] = {}
    position_or_none = tops[-1] if tops else None
    while position_or_none is not None:
        kept[position_or_none] = pairs[position_or_none]
        position_or_none = before[position_or_none]
    return kept


def _in_the_gaps(stays: Mapping[int, int], olds: int, news: int) -> Iterator[tuple[int, int]]:
    """Pairs of what is left between two that stay, by position: there the one has become the other."""
    last_new = last_old = -1
    for position in [*sorted(stays), news]:
        old = stays.get(position, olds)
        yield from zip(range(last_new + 1, position), range(last_old + 1, old), strict=False)
        last_new, last_old = position, old
