"""Keys for SMART Backend Services: an RSA pair for RS384, and the JWKS that the EHR fetches."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from poller.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

BITS: Final = 3072
LEAST_BITS: Final = 2048


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key that was made, and where it stands."""

    private_path: Path
    """PEM, PKCS 8, readable by its owner alone."""
    jwks_path: Path
    """Public; what the EHR must be able to fetch."""
    kid: str
    private_key: rsa.RSAPrivateKey = field(repr=False)


def new_key(out: Path, kid: str | None = None, *, force: bool = False) -> KeyPair:
    """Make a key and write ``out`` (PEM) and, beside it, ``<name>.jwks.json``.

    A directory as ``out`` means ``private.pem`` in it. ``kid`` is the RFC 7638 thumbprint unless given.
    ConfigError if one of the files is there already and ``force`` is not set, or cannot be written.
    """
    private_path = out / "private.pem" if out.is_dir() else out
    jwks_path = private_path.with_suffix(".jwks.json")
    for path in (private_path, jwks_path):
        if path.exists() and not force:
            raise ConfigError([f"{path} is there already; name another with --out, or replace it with --force"])
    key = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
    name = kid or thumbprint(key.public_key())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        private_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(private_path, pem, 0o600)
        _write(jwks_path, json.dumps(jwks([(name, key.public_key())]), indent=2).encode() + b"\n", 0o644)
    except OSError as error:
        raise ConfigError(
            [f"{private_path} cannot be written ({type(error).__name__}); name another place with --out"]
        ) from None
    return KeyPair(private_path, jwks_path, name, key)


def load_private_key(pem: str | bytes) -> rsa.RSAPrivateKey:
    """The key of a PEM text without a passphrase. ConfigError, which never shows the text, if it is no such key.

    A text is checked once in a process: that takes a sixth of a second, and the key is asked for at every reload and for every token.
    """
    return _checked(pem.encode() if isinstance(pem, str) else pem)


@functools.lru_cache(maxsize=64)
def _checked(pem: bytes) -> rsa.RSAPrivateKey:
    hint = "make one with `poller keys new --out FILE`"
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError([f"not a private key in PEM without a passphrase; {hint}"]) from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < LEAST_BITS:
        raise ConfigError([f"not an RSA key of at least {LEAST_BITS} bits, which RS384 needs; {hint}"])
    return key


def jwk(public_key: rsa.RSAPublicKey) -> dict[str, str]:
    """The members of the key that make it what it is: ``e``, ``kty``, ``n``."""
    numbers = public_key.public_numbers()
    return {"e": _base64url(_octets(numbers.e)), "kty": "RSA", "n": _base64url(_octets(numbers.n))}


def thumbprint(public_key: rsa.RSAPublicKey) -> str:
    """RFC 7638: SHA-256 over the required members, sorted, without white space."""
    canonical = json.dumps(jwk(public_key), sort_keys=True, separators=(",", ":"))
    return _base64url(hashlib.sha256(canonical.encode()).digest())


def jwks(public_keys: Iterable[tuple[str, rsa.RSAPublicKey]]) -> Mapping[str, Any]:
    """A JSON Web Key Set of ``(kid, key)``; for a change of keys publish the old and the new together."""
    return {"keys": [{**jwk(key), "kid": kid, "alg": "RS384", "use": "sig"} for kid, key in public_keys]}


def _octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write whole and never readable by more than ``mode`` says, not even for a moment."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)
