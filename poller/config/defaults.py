"""Defaults at the top, overridden per practice and per feed.

What is said of a type outweighs what is said of every feed, and what a practice says outweighs ``defaults``; lightest first:
``defaults.every_feed``, the practice's ``every_feed``, ``defaults.feeds.TYPE``, the practice's ``feeds.TYPE``. A practice that lists
feeds has those and no others; one that lists none has those of ``defaults``. A value left empty means the built-in default.
"""

from __future__ import annotations

from typing import Final

from poller.config.document import Node, Problem
from poller.config.feed import EXCLUSIVE
from poller.config.values import shown

EVERY_FEED: Final = "every_feed"
MERGED: Final = frozenset({"budget", "patients", "deletes", "active", "noise"})
"""Keys whose mappings are merged key by key; any other value replaces the one below it as a whole."""


def merge(root: Node) -> tuple[Node, list[Problem]]:
    """The tree with each practice complete, without ``defaults``, and each practice's code in it."""
    defaults = root.get("defaults") or Node({}, root.line, ("defaults",))
    practices = root.get("practices")
    problems = [problem for node in (defaults, *_below(practices)) for problem in _two_schedules(node)]
    top = {key: node for key, node in root.mapping.items() if key != "defaults"}
    if practices is not None and isinstance(practices.value, dict):
        merged = {code: _practice(code, defaults, node) for code, node in practices.mapping.items()}
        top["practices"] = Node(merged, practices.line, practices.path)
        problems += [
            Problem(node.mapping["code"].line, "a practice's code is the key it stands under; leave this line out")
            for node in practices.mapping.values()
            if "code" in node.mapping
        ]
    return Node(top, root.line, root.path), problems


def alone(defaults: Node) -> Node:
    """The defaults as if they were a practice, so that what no practice uses is looked at too."""
    if not isinstance(defaults.value, dict):
        return defaults
    feeds = defaults.get("feeds")
    every = defaults.get(EVERY_FEED)
    entries = {key: node for key, node in defaults.mapping.items() if key != EVERY_FEED}
    if feeds is not None and isinstance(feeds.value, dict):
        filled = {name: _feed([every, node], node) for name, node in feeds.mapping.items()}
        entries["feeds"] = Node(filled, feeds.line, feeds.path)
    elif feeds is not None and feeds.value is None:
        entries.pop("feeds")
    if every is not None and every.value is not None and "feeds" not in entries:
        entries["feeds"] = Node({"Patient": every}, every.line, every.path)
    return Node(entries, defaults.line, defaults.path)


def _practice(code: str, defaults: Node, practice: Node) -> Node:
    if practice.value is not None and not isinstance(practice.value, dict):
        return practice
    entries = _over(defaults, practice).mapping
    for key in (EVERY_FEED, "feeds"):
        entries.pop(key, None)
    feeds = _feeds(defaults, practice)
    if feeds is not None:
        entries["feeds"] = feeds
    entries["code"] = Node(code, practice.line, practice.path)
    return Node(entries, practice.line, practice.path)


def _feeds(defaults: Node, practice: Node) -> Node | None:
    """The practice's feeds, each with what the lighter layers say of it."""
    listed = practice.get("feeds")
    if listed is None or listed.value is None:
        listed = defaults.get("feeds")
    if listed is None or not isinstance(listed.value, dict):
        return listed
    usual = (defaults.get("feeds") or Node({}, 0, ())).mapping
    own = (practice.get("feeds") or Node({}, 0, ())).mapping
    filled = {
        name: _feed([defaults.get(EVERY_FEED), practice.get(EVERY_FEED), usual.get(name), own.get(name)], node)
        for name, node in listed.mapping.items()
    }
    return Node(filled, listed.line, listed.path)


def _feed(layers: list[Node | None], listed: Node | None = None) -> Node:
    """The layers, the later over the earlier, as one feed standing where it was listed."""
    present = [layer for layer in layers if layer is not None]
    where = listed or present[-1]
    wrong = [layer for layer in present if layer.value is not None and not isinstance(layer.value, dict)]
    if wrong:
        return wrong[-1]
    merged = Node({}, where.line, where.path)
    for layer in present:
        merged = _over(merged, layer)
    return Node(merged.value, where.line, where.path)


def _over(below: Node, above: Node) -> Node:
    """``above``'s keys over ``below``'s; an alternative named above drives out its counterpart below."""
    entries = dict(below.mapping)
    driven_out = {other for pair in EXCLUSIVE for key, other in (pair, pair[::-1]) if _says(above, key)}
    entries = {key: node for key, node in entries.items() if key not in driven_out}
    for key, node in above.mapping.items():
        under = entries.get(key)
        both = under is not None and isinstance(under.value, dict) and isinstance(node.value, dict)
        entries[key] = _over(under, node) if under is not None and both and key in MERGED else node
    for first, second in EXCLUSIVE:  # both on one level: reported once, by _two_schedules
        if _says(above, first) and _says(above, second):
            entries.pop(second, None)
    return Node(entries, above.line, above.path)


def _below(practices: Node | None) -> list[Node]:
    return list(practices.mapping.values()) if practices is not None else []


def _two_schedules(practice: Node) -> list[Problem]:
    feeds = (practice.get("feeds") or Node({}, 0, ())).mapping.values()
    every = practice.get(EVERY_FEED)
    return [
        Problem(feed.mapping[second].line, f"{'.'.join(map(shown, feed.path))}: both {first} and {second}; {why}")
        for feed in (*feeds, *([every] if every is not None else []))
        for (first, second), why in EXCLUSIVE.items()
        if _says(feed, first) and _says(feed, second)
    ]


def _says(feed: Node, key: str) -> bool:
    node = feed.get(key)
    return node is not None and node.value is not None
