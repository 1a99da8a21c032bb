"""Digests under the rules they were made under: numbers of the rules, what changes when they do, and what they hide."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine

from poller.core import canonical, jsontext
from poller.core.decide import is_outdated
from poller.core.model import Rules, Stored, Version
from poller.core.noise import hidden, without
from poller.store import columns
from poller.store.engine import sql
from poller.store.vault import Seal, Vault

Key = tuple[str, str]


class RuleBook:
    """The number of each set of rules. Safe to use from several threads: at worst two look the same up."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._numbers: dict[Rules, int] = {}

    def numbers(self, wanted: Iterable[Rules]) -> Mapping[Rules, int]:
        """The numbers of all rules there are, the wanted ones among them."""
        wanted = set(wanted)
        if wanted - self._numbers.keys():
            with self._engine.connect() as connection:
                self._load(connection)
        for rules in sorted(wanted - self._numbers.keys(), key=lambda one: (one.form, one.noise)):
            with self._engine.begin() as connection:
                connection.execute(sql("add_rules"), {"form": rules.form, "noise": list(rules.noise)})
                self._load(connection)
        return self._numbers

    def rules(self, connection: Connection, number: int) -> Rules | None:
        """The rules of a number, also of one that another process has given since we looked."""
        if number not in self._numbers.values():
            self._load(connection)
        return next((rules for rules, known in self._numbers.items() if known == number), None)

    def _load(self, connection: Connection) -> None:
        found = {Rules(row.form, tuple(row.noise)): row.version for row in connection.execute(sql("load_rules"))}
        self._numbers = found


@dataclass(frozen=True, slots=True)
class Bodies:
    """The bodies of a practice's snapshot, within one transaction."""

    connection: Connection
    practice: str
    vault: Vault
    seal: Seal


def under_the_same(
    bodies: Bodies,
    book: RuleBook,
    key: bytes,
    stored: Mapping[Key, Stored],
    seen: Mapping[Key, Version],
) -> dict[Key, Stored]:
    """What is stored, each as under the rules of the version seen, so that a change of rules is not taken for a change of content.

    A row whose rules are others has its body digested again. But where what is seen was the same under the rules before, it takes the
    place of the stored one, unless it is older: what those rules hid is no news when they hide it no longer. What is dropped now goes from
    the stored body, too.
    """
    numbers = book.numbers(version.rules for version in seen.values())
    other = {k: row for k, row in stored.items() if row.rules_version != numbers[seen[k].rules] and not row.deleted}
    if not other:
        return dict(stored)
    connection, practice = bodies.connection, bodies.practice
    whose = {"practice": practice} | columns.keys(list(other))
    again: dict[Key, tuple[Stored, bytes | None, int | None, bytes | None]] = {}
    for row in connection.execute(sql("stored_bodies"), whose):
        k = (row.resource_type, row.id)
        known, version = other[k], seen[k]
        number, before = numbers[version.rules], book.rules(connection, known.rules_version)
        if before is not None and _was_the_same(version, known, before, key):
            under = replace(known, digest=version.digest, elements=version.detail.elements, rules_version=number)
            again[k] = under, version.unfiltered, *bodies.seal(k, version.detail.codec, version.detail.body)
        else:
            whole, noise = bodies.vault.resource(practice, k, row.codec, bytes(row.body)), version.rules.noise
            body = without(whole, version.dropped)
            digest, elements = canonical.digest(body, key, noise), canonical.element_digests(body, key, noise)
            under = replace(known, digest=digest, elements=elements, rules_version=number)
            unfiltered = canonical.digest(body, key) if version.unfiltered is not None else None
            lean = bodies.seal(k, canonical.CODEC_ZLIB, canonical.encode_body(body)) if body != whole else (None, None)
            again[k] = under, unfiltered, *lean
    connection.execute(
        sql("rewrite_digests"),
        {"practice": practice}
        | columns.keys(list(again))
        | {
            "digests": [under.digest for under, *_ in again.values()],
            "elements": [jsontext.dumps(dict(under.elements)).decode() for under, *_ in again.values()],
            "rules": [under.rules_version for under, *_ in again.values()],
            "unfiltered": [unfiltered for _, unfiltered, _, _ in again.values()],
            "codecs": [codec for *_, codec, _ in again.values()],
            "bodies": [body for *_, body in again.values()],
        },
    )
    return {**stored, **{k: under for k, (under, *_) in again.items()}}


def _was_the_same(version: Version, known: Stored, before: Rules, key: bytes) -> bool:
    return (
        before.form == version.rules.form
        and not is_outdated(known, version.began)
        and canonical.digest(version.resource, key, before.noise) == known.digest
    )


def note_hidden(
    connection: Connection, practice: str, vault: Vault, versions: Sequence[Version], now: dt.datetime
) -> None:
    """Note at which paths versions differ from what is stored that are the same under the rules: ``poller history`` tells."""
    seen = {version.key: version for version in versions}
    rows = connection.execute(sql("stored_bodies"), {"practice": practice} | columns.keys(list(seen))).all()
    if not rows:
        return
    found: dict[str, list[Any]] = {"types": [], "ids": [], "versions": [], "paths": [], "unfiltered": []}
    for row in rows:
        k = row.resource_type, row.id
        version = seen[k]
        body = vault.resource(practice, k, row.codec, bytes(row.body))
        found["types"].append(row.resource_type)
        found["ids"].append(row.id)
        found["versions"].append(row.version)
        found["paths"].append(columns.names(hidden(body, version.resource, version.rules.noise)))
        found["unfiltered"].append(version.unfiltered)
    connection.execute(sql("note_hidden"), {"practice": practice, "now": now} | found)
