"""One Binary, read from servers of every manner: what it holds, whether it is there, and how much of it is ever held."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import httpx
import pytest

from poller.clock import SystemClock
from poller.core.attachments import TooLarge
from poller.core.model import FailureKind, Gone, Present, Purpose, Unclear
from poller.source import binary
from tests.source_bench import Server, always, ok, refusal

CONTENT = b"%PDF-1.7 \x00\xff a synthetic note"
RESOURCE = {
    "resourceType": "Binary",
    "id": "b.-1",
    "contentType": "application/pdf",
    "data": base64.b64encode(CONTENT).decode(),
}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.core.faults.backoff", lambda _retry, _jitter: 0.0)


def bare(content: bytes = CONTENT, content_type: str = "application/pdf", **more: Any) -> httpx.Response:
    return httpx.Response(200, content=content, headers={"Content-Type": content_type}, **more)


def fetched(server: Server, max_bytes: int = 1000, id_: str = "b.-1") -> Any:
    return looked(server, max_bytes, id_)[0]


def looked(server: Server, max_bytes: int = 1000, id_: str = "b.-1", *, confirm: bool = False) -> tuple[Any, bool]:
    """What the read came to, and whether it showed a sick server."""

    async def main() -> tuple[Any, bool]:
        read = binary.confirm if confirm else binary.fetch
        async with server.source() as source:
            came = await read(source.client, SystemClock(), id_, max_bytes, Purpose.DETECT)
            return came, source.last_server_error is not None

    return asyncio.run(main())


def test_the_resource_is_asked_for_first_below_our_own_base() -> None:
    server = always(lambda: ok(RESOURCE))
    came = fetched(server)
    assert isinstance(came, Present)
    assert came.sighting.resource == RESOURCE
    assert server.asked == ["Binary/b.-1"]
    assert server.requests[0].headers["Accept"].startswith("application/fhir+json")


def test_an_id_is_one_segment_of_the_path_whatever_it_holds() -> None:
    server = always(lambda: ok({**RESOURCE, "id": "a|b:c"}))
    assert isinstance(fetched(server, id_="a|b:c"), Present)
    assert server.requests[0].url.raw_path.endswith(b"/Binary/a%7Cb%3Ac")


@pytest.mark.parametrize("content_type", ["application/fhir+json", "application/json+fhir;charset=UTF-8", "text/plain"])
def test_the_resource_is_known_whatever_the_server_calls_it(content_type: str) -> None:
    came = fetched(always(lambda: httpx.Response(200, json=RESOURCE, headers={"Content-Type": content_type})))
    assert isinstance(came, Present)
    assert came.sighting.resource == RESOURCE


@pytest.mark.parametrize("content_type", ["application/pdf", "text/plain;charset=UTF-8", "image/tiff"])
def test_bare_content_is_wrapped_with_the_type_that_it_came_with(content_type: str) -> None:
    came = fetched(always(lambda: bare(content_type=content_type)))
    assert isinstance(came, Present)
    assert came.sighting.resource == RESOURCE | {"contentType": content_type}


def test_bare_content_that_is_json_itself_is_content() -> None:
    came = fetched(always(lambda: bare(b'{"questions": []}', "application/json")))
    assert isinstance(came, Present)
    assert base64.b64decode(came.sighting.resource["data"]) == b'{"questions": []}'


@pytest.mark.parametrize(
    "answer",
    [
        lambda: ok({**RESOURCE, "id": "another"}),
        lambda: ok({"resourceType": "Patient", "id": "b.-1"}),
        lambda: bare(b'{"resourceType": "Binary", "id": "b.-1", "da', "application/fhir+json"),
        lambda: bare(b'{"resourceType": "Binary", "id": "b.-1", "da', "application/json"),
        lambda: bare(b"", "application/fhir+json"),
        lambda: bare(b"<Binary xmlns='http://hl7.org/fhir'/>", "application/fhir+xml"),
        lambda: ok({**RESOURCE, "meta": {"tag": [{"code": "SUBSETTED"}]}}),
        lambda: ok({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing"}]}),
        lambda: ok({"resourceType": "OperationOutcome", "issue": []}),
        lambda: bare(b"<html>Maintenance</html>", "text/html"),
    ],
)
def test_what_is_not_this_binary_proves_nothing_and_is_no_content(answer: Callable[[], httpx.Response]) -> None:
    came, is_sick = looked(always(answer))
    assert isinstance(came, Unclear)
    assert came.failure.kind in {FailureKind.MALFORMED, FailureKind.REFUSED}
    assert not is_sick, "else notes in HTML would void the evidence of every absence"


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_gone_only_if_its_server_says_so(status: int) -> None:
    assert isinstance(fetched(always(lambda: refusal(status, "not-found"))), Gone)
    assert isinstance(fetched(always(lambda: refusal(status, "not-supported"))), Unclear)
    assert isinstance(fetched(always(lambda: httpx.Response(status, html="<h1>no such page</h1>"))), Unclear)


def test_failures_are_told_by_the_common_table() -> None:
    kinds = {403: FailureKind.REFUSED, 429: FailureKind.LOCKED_OUT, 503: FailureKind.SERVER}
    for status, kind in kinds.items():
        server = always(partial(refusal, status))
        came = fetched(server)
        assert isinstance(came, Unclear)
        assert came.failure.kind is kind
        assert len(server.asked) == 1, "whoever wants it tries again later, with growing gaps"


@pytest.mark.parametrize("confirm", [True, False])
def test_500_for_an_id_with_dots_shows_no_sick_server(confirm: bool) -> None:
    assert looked(always(lambda: refusal(500)), confirm=confirm)[1] is False
    assert looked(always(lambda: refusal(500)), id_="b1", confirm=False)[1] is True


class Endless(httpx.AsyncByteStream):
    """A body that never ends; counts what was taken of it."""

    def __init__(self, first: bytes) -> None:
        self.first = first
        self.given = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.first
        while True:
            self.given += 1024
            yield b"A" * 1024

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("first", "most"), [(b"%PDF", 12 * 1024), (b'{"resourceType":"Binary","data":"', 82 * 1024)])
def test_no_more_is_read_than_shows_that_it_is_too_large(first: bytes, most: int) -> None:
    body = Endless(first)
    came = fetched(always(lambda: httpx.Response(200, stream=body)), max_bytes=10 * 1024)
    assert came == TooLarge(10 * 1024 + 1)
    assert body.given <= most
    assert body.closed


def test_a_small_answer_that_unpacks_to_a_huge_one_is_too_large() -> None:
    packed = gzip.compress(b"\0" * 5_000_000)
    came = fetched(always(lambda: bare(packed)), max_bytes=10 * len(packed))
    assert isinstance(came, Present)
    unpacking = httpx.Response(200, content=packed, headers={"Content-Type": "image/bmp", "Content-Encoding": "gzip"})
    assert isinstance(fetched(Server(lambda _where, _request: unpacking), max_bytes=10 * len(packed)), TooLarge)


def test_the_limit_is_of_the_content_not_of_its_base64() -> None:
    assert isinstance(fetched(always(lambda: ok(RESOURCE)), max_bytes=len(CONTENT)), Present)
    assert fetched(always(lambda: ok(RESOURCE)), max_bytes=len(CONTENT) - 1) == TooLarge(len(CONTENT))
    assert isinstance(fetched(always(bare), max_bytes=len(CONTENT)), Present)
    assert isinstance(fetched(always(bare), max_bytes=len(CONTENT) - 1), TooLarge)
    assert fetched(always(lambda: refusal(413))) == TooLarge(1001)


def test_a_body_that_breaks_off_is_no_content() -> None:
    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"%PDF"
            raise httpx.ReadError("Binary/b.-1")

    came = fetched(Server(lambda _where, _request: httpx.Response(200, stream=Broken())))
    assert isinstance(came, Unclear)
    assert came.failure.kind is FailureKind.TRANSPORT


def test_what_is_too_large_is_there() -> None:
    assert isinstance(looked(always(bare), 10, confirm=True)[0], Unclear)
    assert isinstance(looked(always(bare), confirm=True)[0], Present)
    assert isinstance(looked(always(lambda: refusal(404)), confirm=True)[0], Gone)
    server = always(lambda: refusal(503))
    assert isinstance(looked(server, confirm=True)[0], Unclear)
    assert len(server.asked) == 3
