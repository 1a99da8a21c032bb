"""YAML as a tree that remembers its lines.

Scalars are read as YAML 1.2 reads them (``no`` is a word, ``07:30`` is a word); keys are always words. Refused are duplicate keys,
tags, and aliases: the configuration has ``defaults`` for what repeats, and an alias can grow without end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml
from yaml.composer import Composer

from poller.config.values import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DEEPEST: Final = 12
_LARGEST: Final = 4_000_000
_COMMENT = re.compile(r"[ \t]*#[^\r\n]*")
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?([0-9]{1,18}\.[0-9]{0,18}|\.[0-9]{1,18})([eE][-+]?[0-9]{1,3})?")
_WORDS: Final = {"": None, "~": None, "null": None, "true": True, "false": False}
_PLAIN_TAGS: Final = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


@dataclass(frozen=True, slots=True)
class Node:
    """A value as written, and where."""

    value: dict[str, Node] | list[Node] | str | int | float | bool | None
    line: int
    """From 1; of the key, for a value in a mapping."""
    path: tuple[str, ...]
    """Keys from the top of the file to here."""

    def get(self, key: str) -> Node | None:
        """The value under a key, if this is a mapping that has it."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    @property
    def mapping(self) -> dict[str, Node]:
        """The keys and values; none if this is no mapping."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """The items; none if this is no list."""
        return self.value if isinstance(self.value, list) else []

    def walk(self) -> Iterator[Node]:
        """This node and all below."""
        yield self
        for below in (*self.mapping.values(), *self.items):
            yield from below.walk()

    def plain(self) -> Any:
        """Without lines; lists as tuples."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return tuple(node.plain() for node in self.value)
        return self.value


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    line: int
    text: str
    """What is wrong; what would be right."""

    def at(self, path: Path) -> str:
        """As it is shown: ``file:line: text``."""
        return f"{path}:{self.line}: {self.text}"


class Unreadable(Exception):  # noqa: N818 - what it is
    """The file could not be read far enough to look at its keys."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.text)


def read(path: Path) -> tuple[Node, list[Problem]]:
    """The file as a tree and what was wrong with its keys. :class:`Unreadable` if it is no YAML mapping."""
    return parse(text_of(path))


def parse(text: str) -> tuple[Node, list[Problem]]:
    """The same of a text."""
    found: list[Problem] = []
    root = _compose(text)
    if not isinstance(root, yaml.MappingNode):
        raise Unreadable(
            Problem(1, "the file holds no mapping; write at least practices: and sinks:, see config/examples")
        )
    return _node(root, 1, (), found), found


def line_of(text: str, key: str) -> int:
    """The line of a dotted key in a text that can be read, or of the nearest one above it; 1 if there is none."""
    node = parse(text)[0]
    line = 1
    for word in key.split("."):
        below = node.get(word)
        if below is None:
            break
        node, line = below, below.line
    return line


def keys_of(text: str, key: str) -> set[str]:
    """The keys below a key at the top of a text that can be read."""
    below = parse(text)[0].get(key)
    return set(below.mapping) if below is not None else set()


def names_in(text: str, *keys: str) -> set[str]:
    """The names of what a list holds, below these keys of a text that can be read; none of an empty one."""
    node = parse(text)[0] if text else None
    for key in keys:
        node = node.get(key) if node is not None else None
    named = (one.get("name") for one in node.items) if node is not None else ()
    return {one.value for one in named if one is not None and isinstance(one.value, str)}


def without_comments(text: str) -> str:
    """The text of a file that can be read, without its comments: a secret may stand in one, out of sight of every check.

    Comments stand between tokens; what stands between quotes, or in a block of text, is within one. Lines keep their numbers.
    """
    kept, end = [], 0
    for token in yaml.scan(text, Loader=yaml.BaseLoader):
        start = token.start_mark.index
        if start > end:
            kept.append(_COMMENT.sub("", text[end:start]))
        inside = text[max(start, end) : token.end_mark.index]
        if isinstance(token, yaml.ScalarToken) and token.style in {
            "|",
            ">",
        }:  # a comment may stand behind the sign itself
            head, line_end, rest = inside.partition("\n")
            inside = _COMMENT.sub("", head) + line_end + rest
        kept.append(inside)
        end = max(end, token.end_mark.index)
    return "".join([*kept, _COMMENT.sub("", text[end:])])


def text_of(path: Path) -> str:
    """What is written in a file. :class:`Unreadable` if it can't be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise Unreadable(
            Problem(1, f"the file cannot be read ({type(error).__name__}); name a configuration with --config")
        ) from None
    if len(raw) > _LARGEST:
        raise Unreadable(Problem(1, "the file is larger than 4 MB; split the practices over several pollers"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Unreadable(Problem(line, "not UTF-8; save the file in UTF-8")) from None


class _Composer(yaml.BaseLoader):
    """Composes nodes; refuses aliases, and depths that would exhaust the stack."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call] # its stubs leave it untyped
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise Unreadable(Problem(line, "aliases are not read here; write what repeats under defaults:"))
        if self._depth >= _DEEPEST:
            raise Unreadable(Problem(line, "nested too deeply; no key of a configuration lies that deep"))
        self._depth += 1
        try:
            return Composer.compose_node(self, parent, index)
        finally:
            self._depth -= 1


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _Composer(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise Unreadable(
            Problem(line, "not YAML from here on; look at indents, quotes and colons of this line and the one before")
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError):
        raise Unreadable(
            Problem(1, "not YAML: it holds characters that YAML does not allow; save it as plain text in UTF-8")
        ) from None


def _node(node: yaml.Node, line: int, path: tuple[str, ...], found: list[Problem]) -> Node:
    if node.tag not in _PLAIN_TAGS:
        found.append(Problem(line, "tags (!…) are not read here; write the value alone"))
    if isinstance(node, yaml.MappingNode):
        return Node(_mapping(node, path, found), line, path)
    if isinstance(node, yaml.SequenceNode):
        items = [_node(item, item.start_mark.line + 1, path, found) for item in node.value]
        return Node(items, line, path)
    return Node(_scalar(node, line, found), line, path)


def _mapping(node: yaml.MappingNode, path: tuple[str, ...], found: list[Problem]) -> dict[str, Node]:
    entries: dict[str, Node] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or not _is_text(key_node.value):
            found.append(Problem(line, "a key must be a word; look for a missing colon or quote"))
            continue
        key = key_node.value
        if key in entries:
            found.append(
                Problem(
                    line, f"key {shown(key)} stands here a second time, first in line {entries[key].line}; keep one"
                )
            )
            continue
        entries[key] = _node(value_node, line, (*path, key), found)
    return entries


def _scalar(node: yaml.Node, line: int, found: list[Problem]) -> str | int | float | bool | None:
    text = str(node.value)
    if not _is_text(text):
        found.append(Problem(line, "holds a character that is no text; write plain text"))
        return ""
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _is_text(text: str) -> bool:
    return not re.search("[\ud800-\udfff\x00]", text)
