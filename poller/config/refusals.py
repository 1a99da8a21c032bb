"""What is refused whatever the types say: secrets in the clear, and parts that contradict each other."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from poller.config import secret
from poller.config.document import Node, Problem
from poller.config.values import EMBEDDED, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECRET_KEY = re.compile(r"(?:^|[_-])(password|passwd|passphrase|secret|token|key|credential)s?$", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"://[^\s/?#@:]*:\S*@|(?:^|[?&;\s])\w*password=", re.IGNORECASE)
_PEM = re.compile(r"-----BEGIN")
_TOKEN = re.compile(r"\beyJ[\w-]{10,}\.[\w-]+\.|\b(?:bearer|basic)\s+\S{12,}", re.IGNORECASE)
_LONGEST_EMBEDDED_QUEUE: Final = 47
"""pgmq makes a table of each queue and refuses longer names."""


def in_the_clear(root: Node) -> Iterator[tuple[Node, Problem]]:
    """Every secret in the file, with what to write instead. Never the secret."""
    for node in root.walk():
        if node.value is None or isinstance(node.value, dict | list):
            continue
        text, key = str(node.value), node.path[-1] if node.path else ""
        if _PEM.search(text):
            yield node, Problem(node.line, f"a key stands here in the clear; take it out and {secret.HINT}")
        elif _URL_PASSWORD.search(text):
            instead = "set HTTPS_PROXY instead" if key == "proxy" else "beside the url write password: {env: NAME}"
            yield node, Problem(node.line, f"a password stands in this URL; take it out and {instead}")
        elif _TOKEN.search(text) or _SECRET_KEY.search(key):
            yield node, Problem(node.line, f"{shown(key)} holds a secret in the clear; take it out and {secret.HINT}")


def contradictions(root: Node) -> Iterator[Problem]:
    """Parts that are right each, and wrong together. ``root`` has its defaults merged."""
    sinks = (root.get("sinks") or Node({}, 1, ())).mapping
    if not sinks:
        yield Problem(1, "no sinks, so changes would go nowhere; add sinks: {changes: {exchange: …, queues: […]}}")
    yield from _shared_exchanges(sinks)
    yield from _shared_queues(sinks)
    yield from _long_queues(root, sinks)
    yield from _unknown_practices(root, sinks)
    yield from _shared_base_urls(root)


def _shared_exchanges(sinks: dict[str, Node]) -> Iterator[Problem]:
    taken: dict[object, str] = {}
    for name, sink in sinks.items():
        exchange = sink.get("exchange")
        if exchange is None or not isinstance(exchange.value, str):
            continue
        if (other := taken.setdefault(exchange.value, name)) != name:
            yield Problem(
                exchange.line,
                f"sinks {shown(other)} and {shown(name)} share the exchange {shown(exchange.value)}; give each sink its own",
            )


def _shared_queues(sinks: dict[str, Node]) -> Iterator[Problem]:
    """By the name the embedded queue would give them: there ``fhir.a`` and ``fhir_a`` are the same."""
    taken: dict[str, str] = {}
    for name, sink in sinks.items():
        for queue in (sink.get("queues") or sink).items:
            if not isinstance(queue.value, str):
                continue
            same = re.sub(r"[^a-z0-9]", "_", queue.value.lower())
            if same in taken:
                yield Problem(
                    queue.line,
                    f"queue {shown(queue.value)} of sink {shown(name)} is already a queue of sink {shown(taken[same])}"
                    " (dots and underscores count as the same); name another",
                )
            taken.setdefault(same, name)


def _long_queues(root: Node, sinks: dict[str, Node]) -> Iterator[Problem]:
    broker = root.get("broker")
    url = broker.get("url") if broker is not None else None
    if url is not None and url.value not in {None, EMBEDDED}:
        return
    for sink in sinks.values():
        for queue in (sink.get("queues") or sink).items:
            if isinstance(queue.value, str) and len(queue.value) > _LONGEST_EMBEDDED_QUEUE:
                yield Problem(
                    queue.line,
                    f"the embedded broker takes queue names of at most {_LONGEST_EMBEDDED_QUEUE} characters; shorten it",
                )


def _unknown_practices(root: Node, sinks: dict[str, Node]) -> Iterator[Problem]:
    known = (root.get("practices") or Node({}, 1, ())).mapping
    for sink in sinks.values():
        only = sink.get("only") or Node({}, 1, ())
        for named in (only.get("practices") or only).items:
            if isinstance(named.value, str) and named.value not in known:
                yield Problem(named.line, f"no such practice: {shown(named.value)}; {nearest(named.value, known)}")


def _shared_base_urls(root: Node) -> Iterator[Problem]:
    """The limit on calls is one per base URL, so two practices behind one would spend it twice."""
    users: dict[str, list[tuple[str, Node]]] = defaultdict(list)
    for code, practice in (root.get("practices") or Node({}, 1, ())).mapping.items():
        url = practice.get("base_url")
        if url is not None and isinstance(url.value, str):
            users[url.value.rstrip("/").lower()].append((code, url))
    for (first, _), *others in users.values():
        for code, url in others:
            yield Problem(
                url.line,
                f"practices {shown(first)} and {shown(code)} have one base_url, whose limit they would spend twice; "
                "give each its own, or list all feeds under one",
            )
