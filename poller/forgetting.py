"""Forgetting a practice or a patient: the store first, then the queues, then a certificate of what went and what is out of reach."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poller.config.document import Node, Unreadable, parse
from poller.core.forget import Beyond, Forgotten, Gone, certificate
from poller.errors import BrokerError, ConfigError, PollerError
from poller.store.forget import ForgetStore, Found

if TYPE_CHECKING:
    from poller.broker.port import Eraser

CERTIFICATE = "certificate.json"
AUDIT = "audit.ndjson"


@dataclass(frozen=True, slots=True)
class Own:
    """What was the practice's alone, by the configurations that were accepted, and what was not."""

    revisions: frozenset[int]
    """That name the practice."""
    sinks: frozenset[str]
    queues: frozenset[str]
    shared: frozenset[str]
    files: tuple[str, ...]
    still: tuple[str, ...]
    """Pollers whose configuration in force names it."""


def own_of(practice: str, found: Found, queues: Collection[str]) -> Own:
    """Sort out what is whose; ``queues`` are those that the present configuration has."""
    revisions, sinks, own, shared, files = set[int](), set[str](), set[str](), set(queues), dict[str, None]()
    latest: dict[str, bool] = {}
    for revision, name, written in found.configurations:
        root = _tree(written)
        named = root is None or practice in (root.get("practices") or root).mapping or _mentions(root, practice)
        latest[name] = named and root is not None
        if not named:
            continue
        revisions.add(revision)
        if root is None:
            continue
        for sink, node in (root.get("sinks") or Node({}, 0, ())).mapping.items():
            only = node.get("only")
            practices = only.get("practices") if only is not None else None
            theirs = {str(one.value) for one in practices.items} == {practice} if practices is not None else False
            chosen = {str(one.value) for one in (node.get("queues") or Node([], 0, ())).items}
            if theirs:
                sinks.add(sink)
                own |= chosen
            else:
                shared |= chosen
        files |= dict.fromkeys(_files(root, practice))
    own -= set(queues)
    still = tuple(sorted(name for name, is_named in latest.items() if is_named))
    return Own(frozenset(revisions), frozenset(sinks), frozenset(own), frozenset(shared - own), tuple(files), still)


def forget_practice(
    store: ForgetStore, broker: Eraser | None, who: Forgotten, queues: Collection[str], into: Path, *, vacuum: bool
) -> dict[str, Any]:
    """Forget a practice; ``queues`` are those that the present configuration has, ``broker`` is None where it cannot be reached for that.

    The audit's entries are written to ``into`` first. Returns the certificate, which is written there as well. Raises PollerError; then
    nothing was deleted, unless it says so.
    """
    with store.open(who.practice) as forgetting:
        found = forgetting.found()
        own = own_of(who.practice, found, queues)
        if own.still:
            where = f"practice {who.practice} is in the configuration in force of {', '.join(own.still)}"
            raise ConfigError([f"{where}: take it out and `poller reload`, else it would be read again"])
        _make(into)
        kept = _write(into / AUDIT, _lines(found.audit))
        forgetting.forget(who, found, own.revisions, own.sinks)
    gone = Gone(found.rows)
    deleted, swept, left = dict[str, int | None](), dict[str, int](), set[str]()
    try:
        for queue in sorted(own.queues | set(found.replay_queues)):
            deleted[queue] = broker.delete_queue(queue) if broker is not None else None
        for queue in sorted(own.shared):
            count = broker.sweep(queue, who.practice) if broker is not None else None
            if count is None:
                left.add(queue)
            else:
                swept[queue] = count
    except BrokerError as error:
        undone = (own.queues | set(found.replay_queues) | own.shared) - deleted.keys() - swept.keys()
        left |= undone
        failure: BrokerError | None = error
    else:
        failure = None
    if vacuum:
        store.vacuum()
    gone = Gone(found.rows, deleted, swept)
    said = certificate(who, gone, Beyond(sorted(left), own.files, vacuum), (kept, len(found.audit)))
    _write(into / CERTIFICATE, [json.dumps(said, indent=2).encode()])
    if failure is not None:
        raise BrokerError(
            f"the store has forgotten the practice, its queues are there still: {failure}. See {into / CERTIFICATE}"
        )
    return said


def forget_patient(
    store: ForgetStore, who: Forgotten, queues: Collection[str], into: Path, *, vacuum: bool
) -> dict[str, Any]:
    """Forget a patient; as :func:`forget_practice`."""
    with store.open(who.practice) as forgetting:
        rows = forgetting.forget_patient(who)
        _make(into)
    if vacuum:
        store.vacuum()
    said = certificate(who, Gone(rows), Beyond(sorted(queues), (), vacuum), None)
    _write(into / CERTIFICATE, [json.dumps(said, indent=2).encode()])
    return said


def _tree(written: str) -> Node | None:
    try:
        return parse(written)[0]
    except Unreadable:
        return None


def _mentions(root: Node, practice: str) -> bool:
    """Whether it stands anywhere as a value, as in a sink's filter."""
    return any(node.value == practice for node in root.walk())


def _files(root: Node, practice: str) -> Iterator[str]:
    """Paths that stand in the practice's own section."""
    section = (root.get("practices") or root).get(practice)
    for node in section.walk() if section is not None else ():
        if isinstance(node.value, str) and node.value.startswith(("/", "$data_dir/")):
            yield node.value


def _make(into: Path) -> None:
    """A new directory, for its owner alone: the audit names resources. Raises PollerError."""
    try:
        into.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise PollerError(
            f"{into} is there already; name a directory that is not, for what this has been is kept there"
        ) from None
    except OSError as error:
        raise PollerError(f"{into} cannot be made ({error.strerror})") from None


def _lines(entries: Collection[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(entry | {"at": entry["at"].isoformat()}).encode() for entry in entries]


def _write(path: Path, lines: list[bytes]) -> str:
    """The SHA-256 of what is on the disk when this returns, in hex. Raises PollerError."""
    content = b"\n".join([*lines, b""])
    try:
        with path.open("xb") as file:
            path.chmod(0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise PollerError(f"{path} cannot be written ({error.strerror})") from None
    return hashlib.sha256(content).hexdigest()
