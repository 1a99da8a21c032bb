"""One HTTP exchange: a request sent once, its answer read whole or as it comes, both in our own terms. No retries, redirects, cookies."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from poller import __name__ as product
from poller.clock import Clock
from poller.core import faults, jsontext, quota
from poller.core.faults import Mishap, Shape
from poller.core.model import Failure, FailureKind, Purpose
from poller.source import trust
from poller.source.unpack import Damaged, unpacker

LARGEST = 64 * 1024 * 1024
"""Bytes of a body, unpacked. No page of search results is so large; something else that is would fill the memory."""

STREAMS = 4
"""Connections for streams, which go on when their calls' places in flight are free again."""

KEPT = (
    *("Content-Location", "Content-Type", "ETag", "Expires", "Last-Modified", "Retry-After", "X-Progress"),
    *quota.HEADERS,
)
"""Headers of an answer that are kept, by their names in lower case. They may name jobs and patients: never log a value."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What came back."""

    status: int
    shape: Shape
    body: Any = field(repr=False)
    """Parsed JSON; None for any other shape."""
    date: dt.datetime | None
    """The server's ``Date``."""
    retry_after: float | None
    """Seconds."""
    began: dt.datetime
    ended: dt.datetime
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Those of :data:`KEPT` that came."""


@dataclass(frozen=True, slots=True)
class Broken:
    """Nothing usable came back."""

    mishap: Mishap
    began: dt.datetime
    ended: dt.datetime


class Interrupted(Exception):  # noqa: N818 - it says what happened, as our errors do
    """A stream ended before its end."""

    def __init__(self, mishap: Mishap) -> None:
        super().__init__(mishap.value)
        self.failure = faults.judge_mishap(mishap).failure or Failure(FailureKind.TRANSPORT, None, mishap.value)


class Streamed:
    """An answer with 200 whose body is still to come. Good until the block of :meth:`Wire.stream` ends."""

    def __init__(self, response: httpx.Response, timeout: float, began: dt.datetime, ended: dt.datetime) -> None:
        self._response = response
        self._timeout = timeout
        self.status = response.status_code
        self.headers = _kept(response)
        self.date = faults.http_date(response.headers.get("Date"))
        self.began = began
        """When the request was sent."""
        self.ended = ended
        """When the headers had come."""

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body unpacked, in pieces of at most :data:`poller.source.unpack.PIECE` bytes, cut anywhere; to be iterated once.

        Raises :class:`Interrupted` when the body breaks off, is no sound gzip, or nothing comes for the length of a call's timeout;
        the time that the caller takes does not count.
        """
        unpack = unpacker(self._response.headers.get("Content-Encoding"))
        try:
            async with contextlib.aclosing(_raw(self._response)) as raw:
                while (packed := await self._next(raw)) is not None:
                    for piece in unpack.feed(packed):
                        yield piece
            unpack.end()
        except TimeoutError:
            raise Interrupted(Mishap.TIMEOUT) from None
        except (httpx.HTTPError, ssl.SSLError, OSError, Damaged) as error:
            raise Interrupted(_mishap(error)) from None

    async def _next(self, raw: AsyncGenerator[bytes, None]) -> bytes | None:
        async with asyncio.timeout(self._timeout):
            return await anext(raw, None)


Observer = Callable[[Purpose, int | None, dt.timedelta], None]
"""Told of each request: what it was for, its status (None for no answer) and how long it took."""


def unobserved(_purpose: Purpose, _status: int | None, _took: dt.timedelta) -> None:
    """Tell nobody."""


class Wire:
    """An HTTP client of one practice. ``timeout`` is for the whole of a call; ``transport`` is for tests.

    TLS is always verified, with the system's CAs and those of the file ``ca``. ``proxy``: see :func:`poller.source.trust.routes`.
    """

    def __init__(
        self,
        base_url: str,
        timeout: dt.timedelta,
        max_in_flight: int,
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None = None,
        observer: Observer = unobserved,
        *,
        ca: Path | None = None,
        proxy: str | None = None,
    ) -> None:
        self._observe = observer
        self._clock = clock
        self._timeout = timeout.total_seconds()
        places = max_in_flight + STREAMS
        self._http = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(self._timeout),
            limits=httpx.Limits(max_connections=places, max_keepalive_connections=places, keepalive_expiry=60),
            follow_redirects=False,
            verify=trust.context(ca),
            **trust.routes(base_url, proxy),
            headers={"User-Agent": product, "Accept-Encoding": "gzip"},
        )

    async def exchange(
        self, purpose: Purpose, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None = None
    ) -> Exchange | Broken:
        """Send one request and read its answer. Never raises for what the network or the server does."""
        came = await self._exchange(method, url, headers, form)
        self._observe(purpose, came.status if isinstance(came, Exchange) else None, came.ended - came.began)
        return came

    @contextlib.asynccontextmanager
    async def stream(
        self, purpose: Purpose, url: str, headers: dict[str, str]
    ) -> AsyncIterator[Streamed | Exchange | Broken]:
        """GET without holding the body. What is not 200, or is a web page, is read whole and comes as an Exchange.

        The headers must come within a call's timeout; then each read has that long. Closed when the block ends. Raises nothing itself.
        """
        began = self._clock.now()
        opened = await self._open("GET", url, headers, None, began)
        if isinstance(opened, Broken):
            self._observe(purpose, None, opened.ended - began)
            yield opened
            return
        try:
            self._observe(purpose, opened.status_code, self._clock.now() - began)
            if opened.status_code == 200 and not _is_web_page(opened):  # noqa: PLR2004 - OK
                yield Streamed(opened, self._timeout, began, self._clock.now())
            else:
                yield await self._finish(opened, began, self._timeout)
        finally:
            await opened.aclose()

    async def _exchange(
        self, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None
    ) -> Exchange | Broken:
        began, start = self._clock.now(), asyncio.get_running_loop().time()
        opened = await self._open(method, url, headers, form, began)
        if isinstance(opened, Broken):
            return opened
        try:
            left = self._timeout - (asyncio.get_running_loop().time() - start)
            return await self._finish(opened, began, left)
        finally:
            await opened.aclose()

    async def _open(
        self, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None, began: dt.datetime
    ) -> httpx.Response | Broken:
        """Send, and wait for the headers of the answer."""
        try:
            async with asyncio.timeout(self._timeout):
                request = self._http.build_request(method, url, headers=headers, data=form)
                return await self._http.send(request, stream=True)
        except TimeoutError:
            return Broken(Mishap.TIMEOUT, began, self._clock.now())
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            return Broken(_mishap(error), began, self._clock.now())
        finally:
            self._http.cookies.clear()

    async def _finish(self, response: httpx.Response, began: dt.datetime, seconds: float) -> Exchange | Broken:
        """Read the body, within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                text = await _read(response)
        except TimeoutError:
            return Broken(Mishap.TIMEOUT, began, self._clock.now())
        except (httpx.HTTPError, ssl.SSLError, OSError, Damaged) as error:
            return Broken(_mishap(error), began, self._clock.now())
        ended = self._clock.now()
        if text is None:
            return Broken(Mishap.TOO_LARGE, began, ended)
        shape, body = _look(text)
        return Exchange(
            status=response.status_code,
            shape=shape,
            body=body,
            date=faults.http_date(response.headers.get("Date")),
            retry_after=faults.retry_after(response.headers.get("Retry-After"), ended),
            began=began,
            ended=ended,
            headers=_kept(response),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


async def _raw(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body as it comes over the wire. Not by ``aiter_raw``: it has nothing to give of an answer that a test wrote."""
    stream = response.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        raise httpx.StreamError("not a stream to be awaited")
    async for packed in stream:
        yield packed


async def _read(response: httpx.Response) -> bytes | None:
    """The whole body, unpacked; None when it is too large."""
    unpack = unpacker(response.headers.get("Content-Encoding"))
    pieces = bytearray()
    async with contextlib.aclosing(_raw(response)) as raw:
        async for packed in raw:
            for piece in unpack.feed(packed):
                pieces += piece
                if len(pieces) > LARGEST:
                    return None
    unpack.end()
    return bytes(pieces)


def _kept(response: httpx.Response) -> Mapping[str, str]:
    return MappingProxyType({name.lower(): response.headers[name] for name in KEPT if name in response.headers})


def _is_web_page(response: httpx.Response) -> bool:
    return str(response.headers.get("Content-Type", "")).lower().lstrip().startswith("text/html")


def _mishap(error: Exception) -> Mishap:
    match error:
        case httpx.TimeoutException():
            return Mishap.TIMEOUT
        case httpx.ConnectError() | httpx.ProxyError() | ssl.SSLError():
            return trust.mishap_of_connecting(error)
        case httpx.NetworkError() | httpx.RemoteProtocolError() | OSError() | Damaged(cut_off=True):
            return Mishap.CUT_OFF
        case _:
            return Mishap.PROTOCOL


def _look(text: bytes) -> tuple[Shape, Any]:
    if not text.strip():
        return Shape.EMPTY, None
    try:
        body = jsontext.loads(text)
    except ValueError:
        return Shape.OTHER, None
    is_fhir = isinstance(body, dict) and isinstance(body.get("resourceType"), str)
    return (Shape.FHIR if is_fhir else Shape.JSON), body
