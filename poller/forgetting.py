"""Forgetting a practice or a patient: the store first, then the queues, then a certificate of what went and what is out of reach."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poller.config.document import Node, Unreadable, parse
from poller.core.forget import Beyond, Forgotten, Gone, certificate
from poller.errors import BrokerError, ConfigError, PollerError, StoreError
from poller.store.forget import ForgetStore, Found

if TYPE_CHECKING:
    from poller.broker.port import Eraser

CERTIFICATE = "certificate.json"
AUDIT = "audit.ndjson"


@dataclass(frozen=True, slots=True)
class Live:
    """What pollers send to: by the present file, and by what each accepted last."""

    sinks: frozenset[str]
    queues: frozenset[str]


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


def live_of(accepted: Sequence[tuple[int, str, str]], here: Live) -> Live:
    """``here`` and what the latest configuration of each poller has; ``accepted`` has the oldest first."""
    roots = [_tree(written) for written in {name: written for _, name, written in accepted}.values()]
    found = [(sink, node) for root in roots if root is not None for sink, node in _sinks(root)]
    queues = {queue for _, node in found for queue in _words(node.get("queues"))}
    return Live(here.sinks | {sink for sink, _ in found}, here.queues | queues)


def own_of(practice: str, found: Found, live: Live, although: Collection[str] = ()) -> Own:
    """Sort out what is whose; pollers named in ``although`` do not run any more."""
    revisions, sinks, own, shared, files = set[int](), set[str](), set[str](), set(live.queues), dict[str, None]()
    latest: dict[str, bool] = {}
    for revision, name, written in found.configurations:
        root = _tree(written)
        named = root is None or _names(root, practice)
        latest[name] = named and root is not None
        if not named:
            continue
        revisions.add(revision)
        for sink, node in _sinks(root) if root is not None else ():
            only = node.get("only")
            if only is not None and set(_words(only.get("practices"))) == {practice}:
                sinks.add(sink)
                own.update(_words(node.get("queues")))
            else:
                shared.update(_words(node.get("queues")))
        files |= dict.fromkeys(_files(root, practice) if root is not None else ())
    files |= dict.fromkeys(found.replay_files)
    own |= set(found.replay_queues) - live.queues
    own -= live.queues
    still = tuple(sorted(name for name, is_named in latest.items() if is_named and name not in although))
    return Own(
        frozenset(revisions),
        frozenset(sinks - live.sinks),
        frozenset(own),
        frozenset(shared - own),
        tuple(files),
        still,
    )


def forget_practice(
    store: ForgetStore,
    broker: Eraser | None,
    who: Forgotten,
    here: Live,
    into: Path,
    *,
    vacuum: bool,
    although: Collection[str] = (),
) -> dict[str, Any]:
    """Forget a practice; ``here`` is of the present configuration, ``broker`` is None where nothing can be taken away from it.

    The audit's entries, and a first certificate, are written to ``into`` before anything is committed. Returns the certificate. Raises
    PollerError; then nothing was deleted, unless it says so.
    """
    with store.open(who.practice) as forgetting:
        found = forgetting.found()
        live = live_of(found.configurations, here)
        own = own_of(who.practice, found, live, although)
        if own.still:
            where = f"practice {who.practice} is in the configuration in force of {', '.join(own.still)}"
            then = "take it out and `poller reload`, else it would be read again; --although NAME for a poller that is no more"
            raise ConfigError([f"{where}: {then}"])
        forgetting.require_delivered(live.sinks)
        _make(into)
        audit = _write(into / AUDIT, _lines(found.audit)), len(found.audit)
        forgetting.forget(who, found, own.revisions, own.sinks)
        queues = sorted(own.queues | own.shared)
        _certify(into, certificate(who, Gone(found.rows), Beyond(queues, own.files), audit))
    deleted, swept, away = _clear(broker, own, who.practice)
    failure = (_vacuum(store) if vacuum else None) or away
    left = sorted(set(queues) - deleted.keys() - swept.keys())
    is_vacuumed = vacuum and not isinstance(failure, StoreError)
    said = certificate(who, Gone(found.rows, deleted, swept), Beyond(left, own.files, is_vacuumed), audit)
    _certify(into, said)
    if failure is not None:
        words = (
            f"the store has forgotten the practice, and something is left to do: {failure}. See {into / CERTIFICATE}"
        )
        raise type(failure)(words, failure.code)
    return said


def forget_patient(store: ForgetStore, who: Forgotten, here: Live, into: Path, *, vacuum: bool) -> dict[str, Any]:
    """Forget a patient; as :func:`forget_practice`."""
    with store.open(who.practice) as forgetting:
        live = live_of(forgetting.accepted(), here)
        rows = forgetting.forget_patient(who, live.sinks)
        _make(into)
        _certify(into, certificate(who, Gone(rows), Beyond(sorted(live.queues)), None))
    failure = _vacuum(store) if vacuum else None
    said = certificate(who, Gone(rows), Beyond(sorted(live.queues), (), vacuum and failure is None), None)
    _certify(into, said)
    if failure is not None:
        raise type(failure)(f"the patient is forgotten, and the tables are not written anew: {failure}", failure.code)
    return said


def _clear(
    broker: Eraser | None, own: Own, practice: str
) -> tuple[dict[str, int | None], dict[str, int], BrokerError | None]:
    """Delete the practice's queues, take its messages out of others as far as that can be; what of that was done."""
    deleted, swept = dict[str, int | None](), dict[str, int]()
    if broker is None:
        return deleted, swept, None
    try:
        for queue in sorted(own.queues):
            deleted[queue] = broker.delete_queue(queue)
        for queue in sorted(own.shared):
            if (count := broker.sweep(queue, practice)) is not None:
                swept[queue] = count
    except BrokerError as error:
        return deleted, swept, error
    return deleted, swept, None


def _vacuum(store: ForgetStore) -> StoreError | None:
    try:
        store.vacuum()
    except StoreError as error:
        return error
    return None


def _sinks(root: Node) -> list[tuple[str, Node]]:
    sinks = root.get("sinks")
    return list(sinks.mapping.items()) if sinks is not None else []


def _words(node: Node | None) -> list[str]:
    """The items as text: a code may look like a number."""
    return [str(one.value) for one in node.items] if node is not None else []


def _tree(written: str) -> Node | None:
    try:
        return parse(written)[0]
    except Unreadable:
        return None


def _names(root: Node, practice: str) -> bool:
    """Whether it is one of the practices, or one that a sink is of."""
    practices = root.get("practices")
    if practices is not None and practice in practices.mapping:
        return True
    filters = (node.get("only") for _, node in _sinks(root))
    return any(practice in _words(only.get("practices")) for only in filters if only is not None)


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


def _certify(into: Path, said: dict[str, Any]) -> None:
    """Write the certificate, in the place of an earlier one. Raises PollerError."""
    fresh = into / f"{CERTIFICATE}.new"
    _write(fresh, [json.dumps(said, indent=2).encode()])
    fresh.replace(into / CERTIFICATE)


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
