"""JSON that keeps numbers as written.

FHIR R4 §2.24.0.1: the precision of a decimal is part of its meaning, 13.20 is not 13.2. The usual parsers turn both into the same
float; here a number with a fraction or exponent stays the text it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import orjson


class Literal:
    """A JSON number that Python would not write back as it was (a fraction, an exponent, a huge integer). Equal only to the same text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and other.text == self.text

    def __hash__(self) -> int:
        return hash((Literal, self.text))

    def __repr__(self) -> str:
        return self.text

    def __float__(self) -> float:
        return float(self.text)


_SAFE_DIGITS = 18
"""An integer of so many characters fits 64 bits, which is all that orjson writes."""


def _integer(text: str) -> int | Literal:
    return int(text) if len(text) <= _SAFE_DIGITS and text != "-0" else Literal(text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE_BYTES = re.compile(_SURROGATE.pattern.encode())
"""The escape of half a pair. Pairs are the rule; only a text with such an escape can hold a half without its other."""


def _whole_characters(value: Any) -> Any:
    """The value with halves of surrogate pairs replaced by U+FFFD, as the Unicode standard (§3.9) has a decoder do.

    JSON lets a server send them (RFC 8259 §8.2), UTF-8 cannot hold them; refusing the page would hold up everything else on it for good.
    """
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(item) for name, item in value.items()}
    return value


_DEEPEST = 200
"""Levels of nesting; FHIR content has some twenty, and what is much deeper could be parsed but not written again."""

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def _is_too_deep(text: bytes | str, value: Any) -> bool:
    """Whether ``value`` is nested deeper than may be. Counting brackets is quick; strings may hold some, so then it is looked."""
    brackets = (text.encode("utf-8", "replace") if isinstance(text, str) else text).translate(None, _NOT_BRACKETS)
    if len(brackets) <= _DEEPEST or max(accumulate(_STEP[bracket] for bracket in brackets)) <= _DEEPEST:
        return False
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def loads(text: bytes | str) -> Any:
    """Parse JSON (RFC 8259, UTF-8), numbers that must keep their text as :class:`Literal`.

    Raises ValueError (also for NaN, infinities and bytes that are not UTF-8) whose text never quotes the input.
    """
    try:
        value = json.loads(text, parse_float=Literal, parse_int=_integer, parse_constant=_refuse_constant)
        if _is_too_deep(text, value):
            raise ValueError(f"not JSON that can be read: nested deeper than {_DEEPEST} levels")
        halves = _SURROGATE.search(text) if isinstance(text, str) else _SURROGATE_BYTES.search(text)
        return _whole_characters(value) if halves else value
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None


class Written(Mapping[str, Any]):
    """An object as it stands in JSON text that :func:`dumps` wrote: parsed when it is looked into, and written again as it stands.

    What is only passed on is never parsed, which takes far longer than all else that is done with it.
    """

    __slots__ = ("_parsed", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._parsed: dict[str, Any] | None = None

    def _value(self) -> dict[str, Any]:
        if self._parsed is None:
            value = loads(self.text)
            if not isinstance(value, dict):
                raise ValueError("not a JSON object")
            self._parsed = value
        return self._parsed

    def __getitem__(self, name: str) -> Any:
        return self._value()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._value())

    def __len__(self) -> int:
        return len(self._value())

    def __repr__(self) -> str:
        return f"Written({len(self.text)} bytes)"


def _default(value: object) -> orjson.Fragment:
    if isinstance(value, Literal | Written):
        return orjson.Fragment(value.text)
    raise TypeError(f"{type(value).__name__} is not JSON")


def dumps(value: Any, *, sort_keys: bool = False) -> bytes:
    """Write compact UTF-8 JSON; a :class:`Literal` is written as its text. The inverse of :func:`loads`."""
    return orjson.dumps(value, default=_default, option=orjson.OPT_SORT_KEYS if sort_keys else None)
