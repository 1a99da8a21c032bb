"""Keys: made safely, and exactly what RFC 7638 and SMART Backend Services ask for."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from poller import keys
from poller.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def test_a_new_key_is_private_and_its_jwks_verifies_what_it_signs(tmp_path: Path) -> None:
    pair = keys.new_key(tmp_path / "made" / "ehr.pem")
    assert pair.private_path.stat().st_mode & 0o777 == 0o600
    assert pair.jwks_path == tmp_path / "made" / "ehr.jwks.json"
    published = json.loads(pair.jwks_path.read_text())
    (public,) = published["keys"]
    assert public == public | {"kty": "RSA", "alg": "RS384", "use": "sig", "kid": pair.kid}
    assert set(public) == {"kty", "n", "e", "alg", "use", "kid"}
    loaded = keys.load_private_key(pair.private_path.read_text())
    assert loaded.key_size == 3072
    signed = jwt.encode({"iss": "poller"}, loaded, algorithm="RS384", headers={"kid": pair.kid})
    assert jwt.decode(signed, jwt.PyJWK(public).key, algorithms=["RS384"]) == {"iss": "poller"}


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    """The example of RFC 7638, section 3.1."""
    modulus = number(
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn6"
        "4tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n9"
        "1CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    public = rsa.RSAPublicNumbers(65537, modulus).public_key()
    assert keys.thumbprint(public) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_a_given_kid_is_kept_and_a_directory_gets_a_name(tmp_path: Path) -> None:
    pair = keys.new_key(tmp_path, kid="poller-2025")
    assert pair.private_path == tmp_path / "private.pem"
    assert json.loads(pair.jwks_path.read_text())["keys"][0]["kid"] == "poller-2025"


def test_a_key_is_checked_once_and_another_is_another(tmp_path: Path) -> None:
    pem = keys.new_key(tmp_path / "a.pem").private_path.read_text()
    loaded = keys.load_private_key(pem)
    assert keys.load_private_key(pem.encode()) is loaded
    other = keys.new_key(tmp_path / "a.pem", force=True)
    found = keys.load_private_key(other.private_path.read_text())
    assert found.private_numbers() == other.private_key.private_numbers() != loaded.private_numbers()


def test_a_key_is_replaced_only_if_told(tmp_path: Path) -> None:
    first = keys.new_key(tmp_path / "a.pem").private_path.read_bytes()
    with pytest.raises(ConfigError, match="--force"):
        keys.new_key(tmp_path / "a.pem")
    assert (tmp_path / "a.pem").read_bytes() == first
    keys.new_key(tmp_path / "a.pem", force=True)
    assert (tmp_path / "a.pem").read_bytes() != first
    assert (tmp_path / "a.pem").stat().st_mode & 0o777 == 0o600


def test_a_place_that_cannot_be_written_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        keys.new_key(tmp_path / "file" / "a.pem")


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> str:
    kind: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        kind = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, kind).decode()


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "hunter2",
        "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----",
        pem_of(ec.generate_private_key(ec.SECP384R1())),
        pem_of(rsa.generate_private_key(65537, 1024)),  # noqa: S505 - too short is the point
        pem_of(rsa.generate_private_key(65537, 2048), b"hunter2"),
    ],
)
def test_what_is_no_usable_key_is_refused_without_showing_it(pem: str) -> None:
    with pytest.raises(ConfigError, match="poller keys new") as refused:
        keys.load_private_key(pem)
    assert "hunter2" not in str(refused.value)


def test_old_and_new_keys_are_published_together() -> None:
    pair = [
        ("old", rsa.generate_private_key(65537, 2048).public_key()),
        ("new", rsa.generate_private_key(65537, 2048).public_key()),
    ]
    assert [key["kid"] for key in keys.jwks(pair)["keys"]] == ["old", "new"]
