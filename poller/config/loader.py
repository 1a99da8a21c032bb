"""From a YAML file to a :class:`Config`, or to every problem in it at once."""

from __future__ import annotations

import os
import re
import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from poller.config import defaults, document, refusals
from poller.config.model import Config, PracticeConfig
from poller.config.secret import Surroundings
from poller.config.values import nearest, parse_directory, shown
from poller.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

    from poller.config.document import Node, Problem

_LACKS: Final = {
    "int_type": "not a whole number",
    "int_from_float": "not a whole number",
    "float_type": "not a number",
    "bool_type": "neither true nor false",
    "tuple_type": "not a list",
    "dict_type": "not a mapping of keys",
    "model_type": "not a mapping of keys",
    "model_attributes_type": "not a mapping of keys",
    "too_short": "empty",
    "string_too_short": "empty",
    "string_too_long": "too long",
    "string_pattern_mismatch": "not one word",
    "path_type": "not a path",
}


def load(path: Path) -> Config:
    """The configuration in ``path``. ConfigError with all problems, each ``file:line: what is wrong; what would be right``."""
    return load_text(text_of(path), path)


def text_of(path: Path) -> str:
    """What is written in ``path``. ConfigError if it cannot be read."""
    try:
        return document.text_of(path)
    except document.Unreadable as error:
        raise ConfigError([error.problem.at(path)]) from None


def load_text(text: str, path: Path, *, master_keys: bool = True) -> Config:
    """The configuration that ``text`` holds, as if it stood in ``path``. ConfigError as above.

    ``master_keys``: whether they must be at hand, which is for who opens no body to waive.
    """
    try:
        root, found = document.parse(text)
    except document.Unreadable as error:
        raise ConfigError([error.problem.at(path)]) from None
    config, more = _check(root, path, master_keys=master_keys)
    found = sorted(
        {(problem.line, problem.text): problem for problem in (*found, *more)}.values(), key=lambda p: p.line
    )
    if config is None or found:
        raise ConfigError([problem.at(path) for problem in found])
    return config


def problems(path: Path) -> list[str]:
    """All that is wrong with ``path``; empty if nothing is."""
    try:
        load(path)
    except ConfigError as error:
        return error.problems
    return []


def problem_at(path: Path, keys: Sequence[str], text: str) -> str:
    """A problem found later, told like the others: where what is in force at ``keys`` stands, in ``defaults`` if it comes from there.

    Raises ConfigError if the file cannot be read any more.
    """
    try:
        root, _ = document.read(path)
    except document.Unreadable as error:
        raise ConfigError([error.problem.at(path)]) from None
    node = _locate(defaults.merge(root)[0], tuple(keys))
    return document.Problem(node.line, f"{'.'.join(map(shown, node.path))}: {text}").at(path)


def data_directory(path: Path) -> Path:
    """The data directory that ``path`` names, looked up before the rest can be right: a key may have to be made there first.

    The default where the file says none, or cannot be read.
    """
    try:
        root, _ = document.read(path)
    except document.Unreadable:
        return Path.cwd() / ".poller"
    return _data_dir(root)


def _data_dir(root: Node) -> Path:
    written = root.get("data_dir")
    try:
        said = parse_directory(written.value if written is not None else None)
    except ValueError:
        said = None
    return said if isinstance(said, Path) else Path.cwd() / ".poller"


def _check(root: Node, path: Path, *, master_keys: bool) -> tuple[Config | None, list[Problem]]:
    around: Surroundings = {
        "beside": Path.cwd() / path.parent,
        "data_dir": _data_dir(root),
        "environment": os.environ,
        "master_keys": master_keys,
        "usable": {},
    }
    merged, found = defaults.merge(root)
    clear = list(refusals.in_the_clear(root))
    found += [problem for _, problem in clear]
    found += refusals.contradictions(merged)
    hidden = {(node.line, node.path) for node, _ in clear}
    usual = root.get("defaults")
    if usual is not None and usual.value is not None:
        alone = defaults.alone(usual)
        found += [p for p, kind in _validate(PracticeConfig, alone, around, hidden)[1] if kind != "missing"]
    given = merged.plain()
    if given.get("data_dir") is None:
        given["data_dir"] = str(around["data_dir"])
    config, refused = _validate(Config, merged, around, hidden, given)
    found += [problem for problem, _ in refused]
    return (config if isinstance(config, Config) else None), found


def _validate(
    model: type[BaseModel],
    root: Node,
    around: Surroundings,
    hidden: set[tuple[int, tuple[str, ...]]],
    given: Any = None,
) -> tuple[BaseModel | None, list[tuple[Problem, str]]]:
    """The model, or what pydantic refused, in our words. Nothing is said twice of a value that was refused as a secret."""
    try:
        return model.model_validate(root.plain() if given is None else given, context=around), []
    except ValidationError as error:
        refused = []
        for detail in error.errors(include_url=False):
            loc = tuple(part for part in detail["loc"] if part != "[key]")
            node = _locate(root, loc)
            if (node.line, node.path) not in hidden or detail["type"] == "extra_forbidden":
                refused.append((_explain(model, detail, loc, node), detail["type"]))
        return None, refused


def _locate(root: Node, loc: tuple[str | int, ...]) -> Node:
    """The node at ``loc``, or the nearest one above it that is written in the file."""
    node = root
    for part in loc:
        below = node.get(part) if isinstance(part, str) else node.items[part]
        if below is None:
            break
        node = below
    return node


def _explain(model: type[BaseModel], detail: ErrorDetails, loc: tuple[str | int, ...], node: Node) -> Problem:
    key = next((part for part in reversed(loc) if isinstance(part, str)), "")
    words = [part for part in loc if isinstance(part, str)]
    parent = _model_at(model, words[:-1])
    example = _example(parent, key)
    where = ".".join(map(shown, node.path))
    kind, context = detail["type"], detail.get("ctx", {})
    match kind:
        case "missing":
            text = f"{where + ': ' if where else ''}{key} is missing; add {key}: {example}"
        case "extra_forbidden":
            text = f"{where}: unknown key {shown(key)}; {nearest(key, _keys_of(parent))}"
        case "literal_error":
            valid = re.findall(r"'([^']*)'", str(context.get("expected", "")))
            text = f"{where}: not valid: {shown(str(detail['input']))}; {nearest(str(detail['input']), valid)}"
        case "value_error":
            text = f"{where}: {context['error']}"
        case "string_type":
            quoted = isinstance(detail["input"], int | float)
            text = f"{where}: not text; " + ("put it in quotes" if quoted else f"write {key}: {example}")
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" | "finite_number":
            limit = f"it must be {kind.replace('_', ' ')} " + str(next(iter(context.values()), "infinite"))
            text = f"{where}: out of range, {limit.replace('equal', 'or equal to')}; write for example {key}: {example}"
        case _:
            text = f"{where}: {_LACKS.get(kind, 'not valid')}; write for example {key}: {example}"
    return document.Problem(node.line, text)


def _model_at(model: type[BaseModel], words: list[str]) -> type[BaseModel] | None:
    """The section that stands at ``words``; None below anything that is no section."""
    current: Any = model
    for word in words:
        if get_origin(current) is dict:
            current = _bare(get_args(current)[1])
        elif isinstance(current, type) and issubclass(current, BaseModel) and word in current.model_fields:
            current = _bare(current.model_fields[word].annotation)
        else:
            return None
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _bare(annotation: Any) -> Any:
    """The type without ``Annotated`` and ``| None``."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        return _bare(next(arg for arg in get_args(annotation) if arg is not type(None)))
    return annotation


def _example(parent: type[BaseModel] | None, key: str) -> str:
    known = parent.model_fields.get(key) if parent is not None else None
    return str(known.examples[0]) if known is not None and known.examples else "{…}"


def _keys_of(parent: type[BaseModel] | None) -> set[str]:
    """The keys a person may write in a section."""
    known = set(parent.model_fields) if parent is not None else set()
    if parent is Config:
        known.add("defaults")
    if parent is PracticeConfig:
        known = known - {"code"} | {defaults.EVERY_FEED}
    return known
