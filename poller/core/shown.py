"""What a search has shown so far: remembered in some forty bytes a resource, however long its id, since a sweep may show millions."""

from __future__ import annotations

import hashlib
from array import array
from enum import Enum, auto

Key = tuple[str, str]
"""Type and id."""

_WORD = 8
"""Bytes of a digest that are kept. With a million ids, one in 30 million searches would take two for one, and look unproven."""

_LEAST = 64
_FULL = 2 / 3
"""The part of the places that may be taken: fuller, and what is looked for stands ever farther from where it should."""


class Before(Enum):
    """What was shown of a resource before."""

    NOTHING = auto()
    THE_SAME = auto()
    OTHERWISE = auto()
    """With another content."""


class Shown:
    """Resources and the contents they were last shown with.

    An open hash table in two flat arrays: as dictionary entries the same would take six times as much.
    """

    def __init__(self) -> None:
        self._keys = array("Q", bytes(_WORD * _LEAST))
        """The key's digest, at the first free place from where its last bits point; 0 is free."""
        self._contents = array("Q", bytes(_WORD * _LEAST))
        self._count = 0

    def __len__(self) -> int:
        """How many resources."""
        return self._count

    def add(self, key: Key, content: bytes) -> Before:
        """Remember a showing; ``content`` is a digest of at least eight bytes. What was shown of the resource before."""
        name = int.from_bytes(hashlib.blake2b("/".join(key).encode(), digest_size=_WORD).digest()) or 1
        told = int.from_bytes(content[:_WORD])
        at = self._place(name)
        if self._keys[at]:
            before = self._contents[at]
            self._contents[at] = told
            return Before.THE_SAME if before == told else Before.OTHERWISE
        self._keys[at], self._contents[at] = name, told
        self._count += 1
        if self._count > len(self._keys) * _FULL:
            self._grow()
        return Before.NOTHING

    def _place(self, name: int) -> int:
        """Where a key stands, or would."""
        keys, last = self._keys, len(self._keys) - 1
        at = name & last
        while keys[at] not in (name, 0):
            at = (at + 1) & last
        return at

    def _grow(self) -> None:
        keys, contents = self._keys, self._contents
        self._keys = array("Q", bytes(2 * _WORD * len(keys)))
        self._contents = array("Q", bytes(2 * _WORD * len(keys)))
        for name, told in zip(keys, contents, strict=True):
            if name:
                at = self._place(name)
                self._keys[at], self._contents[at] = name, told
