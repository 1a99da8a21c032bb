"""Bodies sealed at rest: AES-256-GCM (NIST SP 800-38D) by a data key of the practice, which a master key of the installation wraps.

A sealed body is the number of its key (2 bytes), a nonce (12, random), and the sealed bytes with their tag (16). Which practice, type and
id it belongs to is authenticated with it, so that a body that was moved to another row does not open. Digests are made before: what has
not changed is never sealed again.

No key appears in a text, a log or a ``repr``: ciphers are kept, the bytes that they were made of are not.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from poller.core import jsontext
from poller.core.canonical import CODEC_SEALED, CODEC_ZLIB, body_text, resource_of
from poller.errors import ConfigError, KeyMissing
from poller.store.engine import reading, sql

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

Key = tuple[str, str]
"""Type and id."""

Seal = Callable[[Key, int, bytes], tuple[int, bytes]]
"""From a body with its codec to what is stored of it, with the codec of that."""

_NUMBER = struct.Struct(">H")
_NONCE = 12
_TAG = 16
_BITS = 256
_FIRST = 1
LAST = 32_767
"""The highest number that a key can have."""


class Master:
    """A master key, and what the configuration calls it. Read when it is first wanted: many commands can do without."""

    def __init__(self, name: str, cipher: AESGCM | Callable[[], AESGCM]) -> None:
        self.name = name
        self._cipher = cipher

    @property
    def cipher(self) -> AESGCM:
        """Raises ConfigError if the key cannot be had, and then looks again at the next time."""
        if not isinstance(self._cipher, AESGCM):
            self._cipher = self._cipher()
        return self._cipher


class Masters:
    """The master keys in force. The first wraps, all unwrap; none: nothing is sealed."""

    def __init__(self, masters: Sequence[Master] = ()) -> None:
        self._masters = tuple(masters)

    def __bool__(self) -> bool:
        return bool(self._masters)

    def require(self) -> None:
        """Raises ConfigError if there are none."""
        if not self._masters:
            raise ConfigError(
                [
                    "encryption.keys names no master key; name one, as in {keys: [{name: k2026, file: /etc/poller/k2026}]}"
                ]
            )

    def load(self) -> None:
        """Read those that were not yet. Raises ConfigError for the first that cannot be had."""
        for one in self._masters:
            _ = one.cipher

    @property
    def current(self) -> str:
        """The name of the one that wraps."""
        return self._masters[0].name

    def follow(self, other: Masters) -> None:
        """Use these from now on; whoever holds this object does, too."""
        self._masters = other._masters

    def wrap(self, practice: str, number: int, key: bytes) -> dict[str, Any]:
        """A data key as it is stored: the columns ``wrapped`` and ``master``."""
        first = self._masters[0]
        nonce = os.urandom(_NONCE)
        return {
            "wrapped": nonce + first.cipher.encrypt(nonce, key, _whose(practice, number)),
            "master": first.name,
        }

    def unwrap(self, practice: str, number: int, wrapped: bytes, master: str) -> bytes:
        """The data key. Raises KeyMissing where none of these has wrapped it."""
        nonce, sealed = wrapped[:_NONCE], wrapped[_NONCE:]
        for one in sorted(self._masters, key=lambda one: one.name != master):
            try:
                return one.cipher.decrypt(nonce, sealed, _whose(practice, number))
            except InvalidTag:
                continue
        raise KeyMissing(self._lacks(practice, number, master))

    def wraps(self, practice: str, number: int, wrapped: bytes) -> bool:
        """Whether the current one has wrapped this data key, whatever the table calls its master key."""
        try:
            self._masters[0].cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _whose(practice, number))
        except InvalidTag:
            return False
        return True

    def prove(self, practice: str, number: int, wrapped: bytes, master: str) -> None:
        """Raises KeyMissing if none opens this data key, or if the one of its master's name does not: that name now means two keys."""
        named = [one for one in self._masters if one.name == master]
        (Masters(named) if named else self).unwrap(practice, number, wrapped, master)

    def _lacks(self, practice: str, number: int, master: str) -> str:
        where = f"practice {practice}: its key {number} was wrapped by the master key {master}"
        if not self._masters:
            return f"{where}, and encryption.keys names none; name it there again"
        if any(one.name == master for one in self._masters):
            return f"{where}, and what encryption.keys has by that name is another key; put the former one back"
        return f"{where}, and encryption.keys does not have that one; name it there again, behind the current one"


def _whose(practice: str, number: int) -> bytes:
    return f"data key|{practice}|{number}".encode()


def _of(practice: str, key: Key) -> bytes:
    return f"{practice}|{key[0]}|{key[1]}".encode()  # the id comes last, and neither of the others can hold a bar


def as_it_is(_key: Key, codec: int, body: bytes) -> tuple[int, bytes]:
    """Seals nothing."""
    return codec, body


def new_key(connection: Connection, masters: Masters, practice: str, number: int) -> None:
    """Make the practice's key of this number, unless there is one."""
    key = AESGCM.generate_key(_BITS)
    row = {"practice": practice, "key_id": number} | masters.wrap(practice, number, key)
    connection.execute(sql("add_key"), row)


class Vault:
    """Seals and opens bodies. Safe to use from several threads."""

    def __init__(self, engine: Engine | None, masters: Masters) -> None:
        """``engine`` reads keys, and nothing else waits for its connections: a body may be opened inside of a transaction."""
        self._engine = engine
        self._masters = masters
        self._known: dict[tuple[str, int], tuple[bytes, AESGCM]] = {}
        """By practice and number: a key as it is wrapped, and the cipher."""

    def sealing(self, connection: Connection, practice: str) -> Seal:
        """How bodies are sealed that this transaction writes. Asked for in each, before it locks rows; makes the practice's first key.

        What the table says now is what holds: a key that was rotated or destroyed by another process is not used again.
        Raises KeyMissing.
        """
        if not self._masters:
            return as_it_is
        row = connection.execute(sql("newest_key"), {"practice": practice}).first()
        if row is None:
            new_key(connection, self._masters, practice, _FIRST)
            row = connection.execute(sql("newest_key"), {"practice": practice}).one()
        cipher = self._cipher(practice, row)
        number = _NUMBER.pack(row.key_id)

        def seal(key: Key, codec: int, body: bytes) -> tuple[int, bytes]:
            if codec != CODEC_ZLIB:
                raise ValueError(f"codec {codec} is not to be sealed")
            nonce = os.urandom(_NONCE)
            return CODEC_SEALED, number + nonce + cipher.encrypt(nonce, body, _of(practice, key))

        return seal

    @property
    def seals(self) -> bool:
        """Whether what is written is sealed."""
        return bool(self._masters)

    def text(self, practice: str, key: Key, codec: int, body: bytes) -> bytes:
        """A stored body as JSON text, as :func:`poller.core.canonical.body_text`. Raises ValueError, as which KeyMissing counts."""
        if codec != CODEC_SEALED:
            return body_text(codec, body)
        return body_text(CODEC_ZLIB, self._open(practice, key, body))

    def resource(self, practice: str, key: Key, codec: int, body: bytes) -> dict[str, Any]:
        """The same, parsed."""
        return resource_of(self.text(practice, key, codec, body))

    def written(self, practice: str, key: Key, codec: int, body: bytes) -> jsontext.Written:
        """The same, parsed only when someone looks into it."""
        return jsontext.Written(self.text(practice, key, codec, body))

    def _open(self, practice: str, key: Key, body: bytes) -> bytes:
        if len(body) < _NUMBER.size + _NONCE + _TAG:
            raise ValueError("a stored body is damaged")
        (number,) = _NUMBER.unpack_from(body)
        nonce, sealed = body[_NUMBER.size : _NUMBER.size + _NONCE], body[_NUMBER.size + _NONCE :]
        known = self._known.get((practice, number))
        if known is not None:
            try:
                return known[1].decrypt(nonce, sealed, _of(practice, key))
            except (
                InvalidTag
            ):  # damaged; or the practice was forgotten and has begun anew, with another key of this number
                pass
        try:
            return self._look_up(practice, number).decrypt(nonce, sealed, _of(practice, key))
        except InvalidTag:
            raise ValueError("a stored body is damaged, or not of this resource") from None

    def _look_up(self, practice: str, number: int) -> AESGCM:
        """A key that another process may have made since we looked."""
        if self._engine is None:
            raise KeyMissing(f"practice {practice}: bodies are encrypted, and encryption.keys names no master key")
        with reading(self._engine) as connection:
            rows = connection.execute(sql("practice_keys"), {"practices": [practice]}).all()
        row = next((row for row in rows if row.key_id == number), None)
        if row is None:
            raise KeyMissing(
                f"practice {practice}: key {number} is not in this database; it was destroyed, or never here"
            )
        return self._cipher(practice, row)

    def _cipher(self, practice: str, row: Any) -> AESGCM:
        wrapped = bytes(row.wrapped)
        known = self._known.get((practice, row.key_id))
        if known is not None and known[0] == wrapped:
            return known[1]
        cipher = AESGCM(self._masters.unwrap(practice, row.key_id, wrapped, row.master))
        self._known[practice, row.key_id] = wrapped, cipher
        return cipher


PLAIN = Vault(None, Masters())
"""Seals nothing, and opens nothing that was sealed."""
