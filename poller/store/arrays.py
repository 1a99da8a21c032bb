"""Arrays to Postgres in binary: the same bytes as psycopg's, without a call for each item. A batch is a dozen arrays of a thousand."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from itertools import chain
from operator import attrgetter
from typing import Any, Final

from psycopg.abc import Buffer
from psycopg.types.array import ListBinaryDumper

_HEAD = struct.Struct("!IIIII").pack
"""Dimensions, whether there are nulls, type of the items, length, lower bound: PostgreSQL, ``array_recv``."""
_LENGTH = struct.Struct("!i").pack
_NULL = _LENGTH(-1)
_PLAIN: Final[dict[type, Callable[[Any], bytes]]] = {bytes: bytes, str: str.encode, uuid.UUID: attrgetter("bytes")}
"""Kinds that are mostly different in each row, and how Postgres receives them; connections speak UTF-8."""


class FlatListDumper(ListBinaryDumper):
    """Lists of plain values, and lists of others of one kind, each dumped once however often it stands there; the rest as psycopg does."""

    def dump(self, obj: list[Any]) -> Buffer | None:
        """The array as Postgres receives it."""
        kinds = set(map(type, obj))
        has_null = type(None) in kinds
        kinds.discard(type(None))
        kind = kinds.pop() if len(kinds) == 1 else list
        if self.sub_dumper is None or issubclass(kind, list | dict):
            return super().dump(obj)
        head = _HEAD(1, has_null, self.sub_dumper.oid, len(obj), 1)
        if kind in _PLAIN:
            plain = _PLAIN[kind]
            if not has_null:
                sent = list(map(plain, obj))
                return head + b"".join(chain.from_iterable(zip(map(_LENGTH, map(len, sent)), sent, strict=True)))
            items = [_NULL if item is None else _LENGTH(len(one := plain(item))) + one for item in obj]
        else:
            known: dict[Any, bytes] = {item: self._item(item) for item in set(obj)}
            items = [known[item] for item in obj]
        return head + b"".join(items)

    def _item(self, item: Any) -> bytes:
        dumped = None if item is None or self.sub_dumper is None else self.sub_dumper.dump(item)
        return _NULL if dumped is None else _LENGTH(len(dumped)) + bytes(dumped)
