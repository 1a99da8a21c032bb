"""Store and broker behind TLS, as a configuration names them: believed by our CA's word for the name that was asked for, else not."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from kombu.connection import Connection

from poller import config
from poller.broker.port import Outcome
from poller.config import Config
from poller.core.envelope import Message
from poller.errors import BrokerError, StoreError
from poller.installation import Installation
from poller.store.engine import ENGINE
from tests.authority import Authority
from tests.own_postgres import OwnPostgres

if TYPE_CHECKING:
    from poller.broker.port import Publisher
    from tests.broker_bench import Rabbit

pytest_plugins = ["tests.broker_bench"]

SECRET = "hunter2Hunter2"


@dataclass(frozen=True)
class Authorities:
    """Whom the configuration trusts, and another."""

    ours: Authority
    other: Authority


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    directory = tmp_path_factory.mktemp("ca")
    return Authorities(Authority(directory, "ours"), Authority(directory, "other"))


class TlsPostgres(OwnPostgres):
    """With a certificate for ``localhost``; wants a password of whoever comes by TCP."""

    def __init__(self, authority: Authority) -> None:
        certificate = authority.certificate("localhost").read_bytes()
        settings = {"ssl": "on", "ssl_cert_file": "../server.pem", "ssl_key_file": "../server.pem"}
        super().__init__(settings, {"server.pem": certificate}, password=SECRET)

    @contextlib.contextmanager
    def without_tls(self) -> Iterator[None]:
        """Speak in the clear for a while."""
        self._set("off")
        yield
        self._set("on")

    def _set(self, wanted: str) -> None:
        with psycopg.connect(self.local, autocommit=True) as admin:
            admin.execute(f"ALTER SYSTEM SET ssl = {wanted}")
            admin.execute("SELECT pg_reload_conf()")
        for _ in range(500):
            with psycopg.connect(self.local) as admin:
                if admin.execute("SHOW ssl").fetchone() == (wanted,):
                    return
        raise AssertionError("the setting was not taken")


@pytest.fixture(scope="module")
def postgres(authorities: Authorities) -> Iterator[TlsPostgres]:
    server = TlsPostgres(authorities.ours)
    yield server
    server.close()


@dataclass(frozen=True)
class Place:
    """A directory for a configuration, and the secrets that it names."""

    directory: Path

    def write(self, *, store: str = "embedded", broker: str = "{url: embedded}") -> Path:
        (self.directory / "password").write_text(SECRET)
        (self.directory / "password").chmod(0o600)
        (self.directory / "digest.key").write_text("k" * 32)
        (self.directory / "digest.key").chmod(0o600)
        password = "" if store == "embedded" else ", password: {file: password}, digest_key: {file: digest.key}"
        file = self.directory / "poller.yaml"
        file.write_text(
            f'data_dir: {self.directory}/state\nstore: {{url: "{store}"{password}}}\nbroker: {broker}\n'
            "sinks: {changes: {exchange: fhir.changes, queues: [fhir.changes.all]}}\n"
            "practices: {AB: {base_url: 'https://fhir.example.org/r4/AB', auth: none, feeds: {Observation: {every: 5m}}}}\n"
        )
        return file

    def store(self, server: TlsPostgres, ca: Path | None, host: str = "localhost") -> Path:
        return self.write(store=url_of(server, ca, host))


def url_of(server: TlsPostgres, ca: Path | None, host: str = "localhost") -> str:
    rootcert = f"&sslrootcert={ca}" if ca is not None else ""
    return f"postgresql://postgres@{host}:{server.port}/postgres?sslmode=verify-full{rootcert}"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_store_with_a_certificate_of_ours_is_reached_encrypted(
    place: Place, postgres: TlsPostgres, authorities: Authorities
) -> None:
    with Installation(config.load(place.store(postgres, authorities.ours.pem))) as installation:
        installation.prepare()
        with installation.engine(ENGINE).connect(), psycopg.connect(postgres.local) as admin:
            seen = admin.execute(
                "SELECT bool_and(s.ssl), count(*) > 0 FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a USING (pid)"
                " WHERE a.application_name LIKE 'poller:%'"
            )
            assert seen.fetchone() == (True, True)


def poller(command: str, file: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "poller", command, "--config", str(file)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def refused(file: Path) -> str:
    """What the store's refusal says; a command says the same, in one line and with the exit code."""
    with Installation(config.load(file)) as installation, pytest.raises(StoreError) as caught:
        installation.prepare()
    told = str(caught.value)
    done = poller("migrate", file)
    assert (done.returncode, done.stdout, done.stderr) == (4, "", f"poller: {told} [store-unreachable]\n")
    assert "\n" not in told
    assert SECRET not in told
    return told


def test_a_store_whose_certificate_another_ca_has_signed_is_refused(
    place: Place, postgres: TlsPostgres, authorities: Authorities
) -> None:
    assert "certificate" in (told := refused(place.store(postgres, authorities.other.pem)))
    assert "sslrootcert" in told


def test_a_store_whose_certificate_is_for_another_host_is_refused(
    place: Place, postgres: TlsPostgres, authorities: Authorities
) -> None:
    assert "another host" in refused(place.store(postgres, authorities.ours.pem, host="127.0.0.1"))


def test_a_store_that_does_not_encrypt_is_refused(
    place: Place, postgres: TlsPostgres, authorities: Authorities
) -> None:
    with postgres.without_tls():
        assert "no TLS" in refused(place.store(postgres, authorities.ours.pem))


def test_a_ca_that_is_not_there_is_named_as_what_is_wrong(
    place: Place, postgres: TlsPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place.directory))  # where libpq looks for one if the URL names none
    for ca in (None, place.directory / "none.pem"):
        assert "sslrootcert names no file" in refused(place.store(postgres, ca))


def test_a_wrong_password_is_not_taken_for_a_matter_of_certificates(
    place: Place, postgres: TlsPostgres, authorities: Authorities
) -> None:
    file = place.store(postgres, authorities.ours.pem)
    (place.directory / "password").write_text(f"{SECRET}-not")
    assert "refuses the login" in refused(file)


class TlsFront:
    """Ends TLS before a RabbitMQ that has none; without a context it takes connections as they come."""

    def __init__(self, target: tuple[str, int], context: ssl.SSLContext | None) -> None:
        self._target, self._context = target, context
        self.ciphers: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._each, "127.0.0.1", 0, ssl=self._context)

    async def _each(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._context is not None:
            self.ciphers.append(writer.get_extra_info("cipher")[0])
        away, back = await asyncio.open_connection(*self._target)
        with contextlib.suppress(OSError, ssl.SSLError):
            await asyncio.gather(_pump(reader, back), _pump(away, writer))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while octets := await reader.read(65536):
            writer.write(octets)
            await writer.drain()
    finally:
        writer.close()


@contextlib.contextmanager
def front(rabbit: Rabbit, context: ssl.SSLContext | None) -> Iterator[TlsFront]:
    parts = urlsplit(rabbit.url)
    running = TlsFront((parts.hostname or "127.0.0.1", parts.port or 5672), context)
    try:
        yield running
    finally:
        running.close()


def a_message(name: str) -> Message:
    return Message(
        id=name,
        resource=name,
        routing_key="fhir.AB.Observation.updated",
        body=f'{{"specversion":"1.0","id":"{name}"}}'.encode(),
        attributes={"id": name, "specversion": "1.0"},
    )


def of_broker(place: Place, rabbit: Rabbit, port: int, ca: Path, store: str = "embedded") -> Path:
    parts = urlsplit(rabbit.url)
    password = place.directory / "broker.password"
    password.write_text(parts.password or "")
    password.chmod(0o600)
    url = urlunsplit(parts._replace(scheme="amqps", netloc=f"{parts.username}@localhost:{port}"))
    return place.write(store=store, broker=f'{{url: "{url}", password: {{file: broker.password}}, ca: {ca}}}')


@contextlib.contextmanager
def publishing(said: Config, rabbit: Rabbit) -> Iterator[Publisher]:
    with Installation(said) as installation, contextlib.closing(installation.broker().publisher(rabbit.sink)) as one:
        yield one


def test_a_broker_with_a_certificate_of_ours_takes_what_is_published(
    place: Place, rabbit: Rabbit, authorities: Authorities
) -> None:
    messages = [a_message(f"Observation/{n}") for n in range(300)]
    with front(rabbit, authorities.ours.server("localhost")) as secured:
        with publishing(config.load(of_broker(place, rabbit, secured.port, authorities.ours.pem)), rabbit) as publisher:
            assert publisher.publish(messages) == Outcome(300)
        assert secured.ciphers
    assert rabbit.received(300) == [message.body for message in messages]


def test_a_broker_whose_certificate_another_ca_has_signed_is_refused(
    place: Place, rabbit: Rabbit, authorities: Authorities
) -> None:
    with front(rabbit, authorities.other.server("localhost")) as secured:
        assert "broker.ca" in shut_out(place, rabbit, secured, authorities)


def test_a_broker_whose_certificate_is_for_another_host_is_refused(
    place: Place, rabbit: Rabbit, authorities: Authorities
) -> None:
    with front(rabbit, authorities.ours.server("elsewhere.invalid")) as secured:
        assert "another host" in shut_out(place, rabbit, secured, authorities)


def test_a_broker_that_does_not_encrypt_is_refused(place: Place, rabbit: Rabbit, authorities: Authorities) -> None:
    with front(rabbit, None) as plain:
        assert "no TLS" in shut_out(place, rabbit, plain, authorities)


def test_without_a_ca_of_its_own_the_broker_is_held_against_the_systems(
    place: Place, rabbit: Rabbit, authorities: Authorities
) -> None:
    with front(rabbit, authorities.ours.server("localhost")) as secured:
        said = config.load(of_broker(place, rabbit, secured.port, authorities.ours.pem))
        trusting_the_system = said.model_copy(update={"broker": said.broker.model_copy(update={"ca": None})})
        with (
            publishing(trusting_the_system, rabbit) as publisher,
            pytest.raises(BrokerError, match="not to be trusted"),
        ):
            publisher.open()
        assert secured.ciphers == []


def shut_out(place: Place, rabbit: Rabbit, secured: TlsFront, authorities: Authorities) -> str:
    """What the refusal says, in one line."""
    said = config.load(of_broker(place, rabbit, secured.port, authorities.ours.pem))
    with publishing(said, rabbit) as publisher, pytest.raises(BrokerError) as caught:
        publisher.open()
    assert caught.value.exit_code == 5
    assert secured.ciphers == [], "no word was said, so no password"
    told = str(caught.value)
    assert "\n" not in told
    return told


def test_a_command_ends_with_the_documented_code_where_the_broker_is_not_to_be_trusted(
    place: Place, postgres: TlsPostgres, rabbit: Rabbit, authorities: Authorities
) -> None:
    store = url_of(postgres, authorities.ours.pem)
    with front(rabbit, authorities.other.server("localhost")) as secured:
        file = of_broker(place, rabbit, secured.port, authorities.ours.pem, store)
        assert poller("migrate", file).returncode == 0
        done = poller("tail", file)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (5, "", 1)
    assert done.stderr.startswith("poller: the broker's certificate is not to be trusted")
    assert SECRET not in done.stderr


def test_a_consumer_verifies_as_the_readme_has_it(rabbit: Rabbit, authorities: Authorities) -> None:
    for host, taken in (("localhost", True), ("elsewhere.invalid", False)):
        with front(rabbit, authorities.ours.server(host)) as secured:
            parts = urlsplit(rabbit.url)
            url = urlunsplit(
                parts._replace(scheme="amqps", netloc=f"{parts.username}:{parts.password}@localhost:{secured.port}")
            )
            trust = {"ca_certs": str(authorities.ours.pem), "server_hostname": "localhost"}
            with Connection(url, ssl=trust, connect_timeout=5) as connection:  # type: ignore[no-untyped-call] # kombu says it is typed and is not
                if taken:
                    connection.connect()
                else:
                    with pytest.raises(ssl.SSLCertVerificationError):
                        connection.connect()
            assert bool(secured.ciphers) is taken
