"""A broker behind TLS is believed only with a certificate that we trust, for the name that we asked for."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from poller.broker.rabbit import RabbitBroker
from poller.core.sink import Sink
from poller.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def certificate(directory: Path, host: str) -> Path:
    """A self-signed certificate with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = directory / f"{host}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return pem


class TlsServer:
    """Takes TLS connections and says nothing; counts the handshakes that the client finished."""

    def __init__(self, pem: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.greeted: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), self._context.wrap_socket(client, server_side=True) as secured:
                self.greeted.append(secured.recv(8))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TlsServer]:
    with closing(TlsServer(certificate(tmp_path, "localhost"))) as running:
        yield running


def attempt(url: str, ca: Path | None) -> None:
    broker = RabbitBroker(url, ca=ca)
    with closing(broker.publisher(Sink("s", "x", ()))) as publisher, pytest.raises(BrokerError):
        publisher.open()


def test_a_certificate_that_nobody_signed_is_refused(server: TlsServer) -> None:
    attempt(f"amqps://guest@localhost:{server.port}//", None)
    assert not any(server.greeted)


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    other = certificate(tmp_path, "elsewhere")
    with closing(TlsServer(other)) as imposter:
        attempt(f"amqps://guest@localhost:{imposter.port}//", other)
        assert not any(imposter.greeted)


def test_a_trusted_certificate_is_accepted_also_behind_a_host_that_is_down(server: TlsServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        down = closed.getsockname()[1]
    attempt(f"amqps://guest@localhost:{down}//;amqps://guest@localhost:{server.port}//", tmp_path / "localhost.pem")
    assert server.greeted == [b"AMQP\x00\x00\x09\x01"]
