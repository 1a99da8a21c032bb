"""Newline-delimited JSON, read as it comes: one object at a time, however large the file is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from poller.core import jsontext

LONGEST = 16 * 1024 * 1024
"""Bytes of a line. What is longer is no resource that could be stored; it is skipped without being held."""

_BOM = b"\xef\xbb\xbf"


class Ndjson:
    """The objects of a stream of bytes; to be iterated once. What the stream was worth stands in its attributes afterwards.

    Lines end with LF or CR LF, the last one with or without. Blank lines do not count. A stream that ends within a line was cut off: the
    rest is never taken for an object. Whatever the stream raises is passed on.
    """

    def __init__(self, chunks: AsyncIterator[bytes], longest: int = LONGEST) -> None:
        self._chunks = chunks
        self._longest = longest
        self._held = bytearray()
        self._too_long = False
        self.lines = 0
        """Lines that are not blank, bad ones included."""
        self.bad = 0
        """Lines that are no JSON object, or too long."""
        self.cut_off = False
        """Whether the stream ended within a line."""

    async def __aiter__(self) -> AsyncGenerator[tuple[dict[str, Any], int], None]:
        """Each object, and how many bytes its line has."""
        async for chunk in self._chunks:
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                self._hold(end)
                if (found := self._take(is_ended=True)) is not None:
                    yield found
            self._hold(rest)
        if (found := self._take(is_ended=False)) is not None:
            yield found

    def _hold(self, piece: bytes) -> None:
        """Keep a piece of the line under way, unless that has become too long."""
        if self._too_long or len(self._held) + len(piece) > self._longest:
            self._too_long = True
            self._held = bytearray()
        else:
            self._held += piece

    def _take(self, *, is_ended: bool) -> tuple[dict[str, Any], int] | None:
        """The object of the line held; None if it is blank, bad or cut off."""
        line, too_long = bytes(self._held).removeprefix(_BOM), self._too_long
        self._held, self._too_long = bytearray(), False
        if not too_long and not line.strip():
            return None
        found = None if too_long else _parse(line)
        if found is None and not too_long and not is_ended:
            self.cut_off = True
            return None
        self.lines += 1
        if found is None:
            self.bad += 1
            return None
        return found, len(line)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = jsontext.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
