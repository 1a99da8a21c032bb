"""Unpacks a body piece by piece, so that a small answer that unpacks to a huge one never fills the memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

PIECE = 256 * 1024
"""Bytes. No piece that is given out is larger."""

_GZIP = 16 + zlib.MAX_WBITS


class Damaged(Exception):  # noqa: N818 - it says what the body is, as our errors do
    """The body is not what its ``Content-Encoding`` says. ``cut_off``: it is, as far as it goes, but it has no end."""

    def __init__(self, *, cut_off: bool) -> None:
        super().__init__("the packed body is cut off" if cut_off else "the packed body is damaged")
        self.cut_off = cut_off


class Unpacker(Protocol):
    """Takes the body as it comes."""

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """What this part unpacks to, in pieces of at most :data:`PIECE`; to be iterated to its end. Raises Damaged."""
        ...

    def end(self) -> None:
        """Nothing more comes. Raises Damaged if more should have."""
        ...


class Plain:
    """A body that is not packed."""

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """The same, in pieces."""
        for start in range(0, len(packed), PIECE):
            yield packed[start : start + PIECE]

    def end(self) -> None:
        """Nothing to say: HTTP itself says when a plain body is cut off."""


class Gzip:
    """A body in gzip, of one member or several."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._began = False

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """What this part unpacks to. Raises Damaged."""
        while packed:
            if self._member.eof:
                packed = packed.lstrip(b"\0") if not self._began else packed  # what pads a member is none itself
                if not packed:
                    return
                self._member = zlib.decompressobj(_GZIP)
            self._began = True
            yield from self._unpack(packed)
            packed = self._member.unused_data if self._member.eof else b""
            self._began = not self._member.eof

    def _unpack(self, packed: bytes) -> Iterator[bytes]:
        """As much of one member as this part holds."""
        while True:
            try:
                piece = self._member.decompress(packed, PIECE)
            except zlib.error:
                raise Damaged(cut_off=False) from None
            if piece:
                yield piece
            packed = self._member.unconsumed_tail
            if self._member.eof or (not packed and len(piece) < PIECE):
                return

    def end(self) -> None:
        """Raises Damaged if a member has begun and not ended."""
        if self._began:
            raise Damaged(cut_off=True)


class _Unknown:
    """A packing that was not asked for."""

    def feed(self, packed: bytes) -> Iterator[bytes]:
        if packed:
            raise Damaged(cut_off=False)
        yield from ()

    def end(self) -> None:
        """Nothing came, so nothing is wrong."""


def unpacker(encoding: str | None) -> Unpacker:
    """What unpacks a body with this ``Content-Encoding``; only gzip is asked for."""
    match (encoding or "identity").strip().lower():
        case "gzip" | "x-gzip":
            return Gzip()
        case "identity" | "":
            return Plain()
        case _:
            return _Unknown()
