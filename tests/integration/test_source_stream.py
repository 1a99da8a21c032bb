"""Calls other than searches: kick-off, poll, delete, and files that are read as they come."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import hashlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import pytest

from poller.core.model import FailureKind, Purpose
from poller.source import unpack
from poller.source.client import DOWNLOADS
from poller.source.strategies import Source
from poller.source.wire import Interrupted
from tests.source_bench import BASE, Script, Server, always, refusal

NDJSON = {"Content-Type": "application/fhir+ndjson"}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.core.faults.backoff", lambda _retry, _jitter: 0.0)


def file(content: Any, **headers: str) -> httpx.Response:
    return httpx.Response(200, content=content, headers=NDJSON | {k.replace("_", "-"): v for k, v in headers.items()})


async def piecewise(whole: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(whole), 65_537):
        yield whole[start : start + 65_537]


async def fetch(source: Source, where: str = "Binary/1", **more: Any) -> tuple[Any, bytes]:
    async with source.client.stream(where, Purpose.BACKFILL, **more) as download:
        return download.answer, b"".join([chunk async for chunk in download.chunks()])


def download(server: Server, where: str = "Binary/1", **more: Any) -> tuple[Any, bytes]:
    async def main() -> tuple[Any, bytes]:
        async with server.source() as source:
            return await fetch(source, where, **more)

    return asyncio.run(main())


def test_a_kick_off_gives_the_headers_that_a_job_is_followed_by() -> None:
    given = {"Content-Location": f"{BASE}/$export-poll-location?job_id=7", "Retry-After": "120", "X-Secret": "x"}
    server = Server(lambda _where, _request: httpx.Response(202, headers=given))

    async def main() -> Any:
        async with server.source() as source:
            answer = await source.client.request(
                "GET",
                "Group/1/$export",
                Purpose.BACKFILL,
                headers={"Prefer": "respond-async"},
                retries=0,
                accepted=frozenset({202}),
            )
            poll = source.client.locate(answer.headers["content-location"])
            assert poll is not None
            deleted = await source.client.request("DELETE", poll, Purpose.BACKFILL, accepted=frozenset({202}))
            return answer, deleted

    answer, deleted = asyncio.run(main())
    assert (answer.failure, answer.status, answer.date is not None) == (None, 202, True)
    assert dict(answer.headers) == {"content-location": given["Content-Location"], "retry-after": "120"}
    assert "job_id" not in repr(answer)
    assert deleted.failure is None
    assert [(request.method, str(request.url)) for request in server.requests] == [
        ("GET", f"{BASE}/Group/1/$export"),
        ("DELETE", given["Content-Location"]),
    ]
    assert server.requests[0].headers["Prefer"] == "respond-async"
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer secret-token"}


def test_an_accepted_status_succeeds_whatever_the_body_is_and_another_fails_as_ever() -> None:
    answers = {"manifest": httpx.Response(200, json={"transactionTime": "x", "output": []}), "no": refusal(404)}

    async def main() -> list[Any]:
        async with Server(lambda where, _request: answers[where]).source() as source:
            return [
                await source.client.request("GET", where, Purpose.BACKFILL, accepted=frozenset({200}))
                for where in answers
            ]

    manifest, no = asyncio.run(main())
    assert (manifest.failure, manifest.body) == (None, {"transactionTime": "x", "output": []})
    assert no.failure.kind is FailureKind.REFUSED


def test_a_file_is_read_as_it_comes_and_never_held() -> None:
    sent = asyncio.Queue[int]()

    async def body() -> AsyncIterator[bytes]:
        for number in range(200):
            await sent.put(number)
            yield b"x" * 2**20

    async def main() -> tuple[int, int]:
        async with (
            always(lambda: file(body())).source() as source,
            source.client.stream("Binary/1", Purpose.BACKFILL) as got,
        ):
            first = await anext(aiter(got.chunks()))
            return len(first), sent.qsize()

    first, read = asyncio.run(main())
    assert first == unpack.PIECE
    assert read == 1


def test_a_packed_file_is_unpacked_and_a_small_one_that_unpacks_hugely_comes_in_small_pieces() -> None:
    text = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(3 * unpack.PIECE // 32))
    for packed in (gzip.compress(text), gzip.compress(text[:1000]) + gzip.compress(text[1000:]) + b"\0" * 9):
        answer = partial(file, piecewise(packed), Content_Encoding="gzip")
        assert download(always(answer))[1] == text
    bomb = gzip.compress(bytes(8 * 2**20))

    async def main() -> list[int]:
        server = always(lambda: file(piecewise(bomb), Content_Encoding="gzip"))
        async with server.source() as source, source.client.stream("Binary/1", Purpose.BACKFILL) as got:
            return [len(chunk) async for chunk in got.chunks()]

    pieces = asyncio.run(main())
    assert sum(pieces) == 8 * 2**20
    assert max(pieces) <= unpack.PIECE


async def stalled() -> AsyncIterator[bytes]:
    yield b'{"resourceType":'
    await asyncio.sleep(30)


async def torn() -> AsyncIterator[bytes]:
    yield b'{"resourceType":'
    raise httpx.RemoteProtocolError("Patient/jane")


BROKEN = [
    (lambda: file(stalled()), "no answer in time"),
    (lambda: file(torn()), "the connection broke"),
    (lambda: file(piecewise(gzip.compress(b"x" * 99)[:-9]), Content_Encoding="gzip"), "the connection broke"),
    (lambda: file(piecewise(b"no gzip at all"), Content_Encoding="gzip"), "not HTTP as it should be"),
    (lambda: file(piecewise(b"x"), Content_Encoding="br"), "not HTTP as it should be"),
]


@pytest.mark.parametrize(("answer", "detail"), BROKEN)
def test_a_file_that_breaks_off_is_never_taken_for_whole(answer: Any, detail: str) -> None:
    async def main() -> None:
        async with always(answer).source(timeout=dt.timedelta(milliseconds=50)) as source:
            await fetch(source)

    with pytest.raises(Interrupted) as raised:
        asyncio.run(main())
    assert (raised.value.failure.kind, raised.value.failure.detail) == (FailureKind.TRANSPORT, detail)
    assert "jane" not in str(raised.value)


def test_a_slow_file_may_take_longer_than_a_call() -> None:
    """Each read has a call's timeout, and what the reader takes does not count."""

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(8):
            await asyncio.sleep(0.1)
            yield b"x"

    async def main() -> int:
        server = always(lambda: file(slow()))
        async with (
            server.source(timeout=dt.timedelta(seconds=0.5)) as source,
            source.client.stream("Binary/1", Purpose.BACKFILL) as got,
        ):
            read = 0
            async for chunk in got.chunks():
                await asyncio.sleep(0.6 if not read else 0)
                read += len(chunk)
            return read

    assert asyncio.run(main()) == 8


def test_what_is_no_file_is_an_answer_and_a_passing_fault_is_tried_again() -> None:
    def script(_where: str, _request: httpx.Request) -> httpx.Response:
        return [httpx.Response(503), httpx.Response(200, html="<h1>Busy</h1>"), file(b"{}\n")][len(server.asked) - 1]

    server = Server(script)
    answer, text = download(server)
    assert (answer.failure, answer.calls, text) == (None, 3, b"{}\n")
    answer, text = download(always(lambda: refusal(404)))
    assert (answer.failure.kind, answer.status, text) == (FailureKind.REFUSED, 404, b"")


@pytest.mark.parametrize("status", [401, 429])
def test_a_store_of_files_gets_no_token_and_has_no_say_in_ours(status: int) -> None:
    server = always(lambda: httpx.Response(status))

    async def main() -> Any:
        async with server.source() as source:
            there = source.client.locate("https://store.example.net/f.ndjson?sig=1", needs_token=False)
            async with source.client.stream(there, Purpose.BACKFILL) as got:  # type: ignore[arg-type]
                return got.answer, source.last_server_error

    answer, server_error = asyncio.run(main())
    assert answer.failure is not None
    assert (answer.calls, server_error, server.ledger.blocks) == (1, None, [])
    (request,) = server.requests
    assert str(request.url) == "https://store.example.net/f.ndjson?sig=1"
    assert "Authorization" not in request.headers


def test_files_take_no_place_in_flight_and_are_few_at_a_time() -> None:
    """Else long files would keep a small practice from being polled; and each is a call of the budget."""
    going, begun = asyncio.Event(), asyncio.Semaphore(0)

    async def body() -> AsyncIterator[bytes]:
        begun.release()
        yield b"a"
        await going.wait()

    def script(where: str, _request: httpx.Request) -> httpx.Response:
        return file(body()) if where.startswith("Binary") else httpx.Response(200, json={"resourceType": "Patient"})

    async def main(script: Script) -> None:
        server = Server(script)
        async with server.source() as source:
            files = [asyncio.create_task(fetch(source, f"Binary/{n}")) for n in range(3 * DOWNLOADS)]
            for _ in range(DOWNLOADS):
                await begun.acquire()
            answers = [await source.client.get("Patient/1", Purpose.DETECT) for _ in range(5)]
            assert all(answer.failure is None for answer in answers)
            assert len([where for where in server.asked if where.startswith("Binary")]) == DOWNLOADS
            going.set()
            assert [text for _, text in await asyncio.gather(*files)] == [b"a"] * (3 * DOWNLOADS)
        assert server.ledger.granted >= 3 * DOWNLOADS + 5

    asyncio.run(main(script))
