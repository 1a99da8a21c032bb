"""The wire against real sockets: certificates, proxies, keep-alive and gzip."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import json
import logging
import ssl
import tracemalloc
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from poller.clock import SystemClock
from poller.config.feed import FeedConfig
from poller.config.model import PracticeConfig
from poller.core.faults import Mishap
from poller.core.model import Failure, FailureKind, Purpose
from poller.source import trust, wire
from poller.source.connection import open_source
from poller.source.wire import Broken, Exchange, Wire
from tests.authority import DAY, NOW, Authority
from tests.source_bench import Freely

PATIENT = b'{"resourceType":"Patient","id":"p1"}'


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@dataclass
class Peer:
    """An HTTP server, or a proxy before one, that counts who comes."""

    port: int = 0
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)

    @property
    def asked(self) -> list[bytes]:
        """The request lines."""
        return [head.partition(b"\r\n")[0] for head in self.heads]


Talk = Callable[[Peer, asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def listening(talk: Talk, context: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    peer = Peer()
    talks: set[asyncio.Task[Any]] = set()

    async def each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.current_task())  # type: ignore[arg-type]
        peer.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await talk(peer, reader, writer)
        writer.close()

    server = await asyncio.start_server(each, "127.0.0.1", 0, ssl=context)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


def answering(body: bytes = PATIENT, *headers: str) -> Talk:
    """A server that keeps its connections."""

    async def talk(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", "Content-Type: application/fhir+json", *headers]
        while True:
            peer.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()

    return talk


def forwarding(to: Peer, password: str | None = None) -> Talk:
    """An HTTP proxy whose every way leads to one server."""

    async def talk(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        peer.heads.append(head)
        if password is not None and f"Basic {b64encode(password.encode()).decode()}".encode() not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", to.port)
        if head.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            there_writer.write(head)
        try:
            await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))
        finally:
            there_writer.close()

    return talk


async def plainly(_peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a TLS greeting as a server without TLS does."""
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def closed_port() -> int:
    async with listening(answering()) as peer:
        return peer.port


async def ask(url: str, times: int = 1, **how: Any) -> Exchange | Broken:
    """The last answer of so many calls over one wire."""
    asker = Wire(url, dt.timedelta(seconds=10), 2, SystemClock(), **how)
    try:
        for _ in range(times):
            came = await asker.exchange(Purpose.DETECT, "GET", url, {})
        return came
    finally:
        await asker.aclose()


def mishap(came: Exchange | Broken) -> Mishap:
    assert isinstance(came, Broken)
    return came.mishap


def test_a_private_ca_is_trusted_where_it_is_named_and_nowhere_else(ours: Authority) -> None:
    theirs = Authority(ours.directory, "theirs")

    async def main() -> list[Exchange | Broken]:
        async with listening(answering(), ours.server("localhost")) as peer:
            url = f"https://localhost:{peer.port}/"
            return [await ask(url, ca=ca) for ca in (ours.pem, None, theirs.pem)]

    right, none, wrong = asyncio.run(main())
    assert isinstance(right, Exchange)
    assert right.body == {"resourceType": "Patient", "id": "p1"}
    assert mishap(none) is mishap(wrong) is Mishap.UNTRUSTED


def test_a_private_ca_stands_beside_the_systems_and_nothing_switches_verification_off(ours: Authority) -> None:
    alone, beside = trust.context(None), trust.context(ours.pem)
    assert beside.cert_store_stats()["x509_ca"] == alone.cert_store_stats()["x509_ca"] + 1
    assert {each.verify_mode for each in (alone, beside)} == {ssl.CERT_REQUIRED}
    assert alone.check_hostname
    assert beside.check_hostname


@pytest.mark.parametrize(
    ("host", "until", "found"),
    [("elsewhere.example.org", NOW + DAY, Mishap.OTHER_HOST), ("localhost", NOW - DAY, Mishap.EXPIRED)],
)
def test_a_certificate_must_be_of_this_host_and_of_today(
    ours: Authority, host: str, until: dt.datetime, found: Mishap
) -> None:
    async def main() -> Exchange | Broken:
        async with listening(answering(), ours.server(host, until)) as peer:
            return await ask(f"https://localhost:{peer.port}/", ca=ours.pem)

    assert mishap(asyncio.run(main())) is found


def practice(base_url: str, **changes: Any) -> PracticeConfig:
    given = {"code": "AB", "base_url": base_url, "auth": "none", "feeds": {"Patient": FeedConfig.model_validate({})}}
    return PracticeConfig.model_validate(given | changes)


def test_a_certificate_that_is_not_trusted_is_told_as_that_and_not_tried_again(ours: Authority) -> None:
    async def main() -> tuple[list[Any], int]:
        async with listening(answering(), ours.server("localhost")) as peer:
            answers = []
            for tls in ({}, {"ca": ours.pem}):
                told = practice(f"https://localhost:{peer.port}/r4/AB", tls=tls)
                async with open_source(told, Freely(), SystemClock()) as source:
                    answers.append(await source.client.get("Patient/p1", Purpose.DETECT))
            return answers, len(peer.heads)

    (refused, came), requests = asyncio.run(main())
    assert refused.failure == Failure(FailureKind.TRANSPORT, None, "TLS certificate is not trusted")
    assert refused.calls == 1
    assert came.failure is None
    assert requests == 1


def test_a_server_that_asks_for_no_token_gets_none() -> None:
    async def main() -> tuple[Any, Peer]:
        async with listening(answering()) as peer:
            told = practice(f"http://127.0.0.1:{peer.port}/r4/AB")
            async with open_source(told, Freely(), SystemClock()) as source:
                return await source.client.get("Patient/p1", Purpose.DETECT), peer

    answer, peer = asyncio.run(main())
    assert answer.failure is None
    assert peer.asked == [b"GET /r4/AB/Patient/p1 HTTP/1.1"]
    assert b"authorization" not in peer.heads[0].lower()


def test_why_there_is_no_connection_is_told_apart(ours: Authority) -> None:
    async def main() -> list[Mishap]:
        async with listening(plainly) as plain:
            urls = [
                f"https://127.0.0.1:{plain.port}/",
                f"https://127.0.0.1:{await closed_port()}/",
                "https://nowhere.invalid/",
            ]
            return [mishap(await ask(url, ca=ours.pem, proxy="none")) for url in urls]

    assert asyncio.run(main()) == [Mishap.NO_TLS, Mishap.CONNECT, Mishap.NO_ADDRESS]


@dataclass
class Office:
    """A server ``ehr.invalid`` that only a proxy can reach."""

    server: Peer
    proxy: Peer
    ca: Path
    url: str = "https://ehr.invalid/Patient/p1"

    async def ask(self, **how: Any) -> Exchange | Broken:
        return await ask(self.url, ca=self.ca, **how)


@asynccontextmanager
async def office(ours: Authority, password: str | None = None) -> AsyncIterator[Office]:
    async with (
        listening(answering(), ours.server("ehr.invalid")) as server,
        listening(forwarding(server, password)) as proxy,
    ):
        yield Office(server, proxy, ours.pem)


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_a_proxy_of_the_environment_is_used_unless_it_or_the_configuration_says_no(
    ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with office(ours) as there:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{there.proxy.port}")
            assert isinstance(await there.ask(), Exchange)
            assert there.proxy.asked == [b"CONNECT ehr.invalid:443 HTTP/1.1"]
            assert there.server.asked == [b"GET /Patient/p1 HTTP/1.1"]
            assert mishap(await there.ask(proxy="none")) is Mishap.NO_ADDRESS
            monkeypatch.setenv("NO_PROXY", "ehr.invalid")
            assert mishap(await there.ask()) is Mishap.NO_ADDRESS
            assert there.proxy.connections == 1

    asyncio.run(main())


def test_a_proxy_of_the_configuration_goes_before_the_environments(
    ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with office(ours) as there:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{await closed_port()}")
            monkeypatch.setenv("NO_PROXY", "*")
            named = f"http://127.0.0.1:{there.proxy.port}"
            assert isinstance(await there.ask(proxy=named), Exchange)

    asyncio.run(main())


def test_a_server_on_this_machine_is_reached_directly_unless_a_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with listening(answering()) as server, listening(forwarding(server)) as proxy:
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
            url = f"http://127.0.0.1:{server.port}/Patient/p1"
            assert isinstance(await ask(url), Exchange)
            assert proxy.connections == 0
            assert isinstance(await ask(url, proxy=f"http://127.0.0.1:{proxy.port}"), Exchange)
            assert proxy.asked == [f"GET {url} HTTP/1.1".encode()]

    asyncio.run(main())


def test_a_proxys_password_is_given_to_the_proxy_and_shown_nowhere(
    ours: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> str:
        async with office(ours, "app:s3cret-word") as there:
            shown = ""
            for password, right in (("s3cret-word", True), ("s3cret-other", False)):
                monkeypatch.setenv("HTTPS_PROXY", f"http://app:{password}@127.0.0.1:{there.proxy.port}")
                came = await there.ask()
                assert isinstance(came, Exchange) if right else mishap(came) is Mishap.PROXY
                shown += repr(came)
            assert b"proxy-authorization" not in there.server.heads[0].lower()
            return shown

    shown = asyncio.run(main()) + caplog.text
    encoded = [b64encode(f"app:s3cret-{word}".encode()).decode() for word in ("word", "other")]
    assert not any(secret in shown for secret in ["s3cret", *encoded])


def test_many_calls_go_over_one_connection_and_are_unpacked() -> None:
    packed = gzip.compress(json.dumps({"resourceType": "Bundle", "id": "x" * 10_000}).encode())

    async def main() -> None:
        async with listening(answering(packed, "Content-Encoding: gzip")) as peer:
            came = await ask(f"http://127.0.0.1:{peer.port}/", times=30)
            assert isinstance(came, Exchange)
            assert came.body["id"] == "x" * 10_000
            assert (peer.connections, len(peer.heads)) == (1, 30)
            assert b"accept-encoding: gzip\r\n" in peer.heads[0].lower()

    asyncio.run(main())


def test_a_small_answer_that_unpacks_to_a_huge_one_is_given_up_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "LARGEST", 2**20)
    bomb = gzip.compress(bytes(64 * 2**20), 1)

    async def main() -> tuple[Exchange | Broken, int]:
        async with listening(answering(bomb, "Content-Encoding: gzip")) as peer:
            tracemalloc.start()
            came = await ask(f"http://127.0.0.1:{peer.port}/")
            return came, tracemalloc.get_traced_memory()[1]

    try:
        came, peak = asyncio.run(main())
    finally:
        tracemalloc.stop()
    assert mishap(came) is Mishap.TOO_LARGE
    assert peak < 8 * 2**20
