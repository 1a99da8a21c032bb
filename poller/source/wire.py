"""One HTTP exchange: a request sent once, its answer read whole, both in our own terms. No retries, no redirects, no cookies."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from poller import __name__ as product
from poller.clock import Clock
from poller.config.values import is_loopback
from poller.core import faults, jsontext
from poller.core.faults import Mishap, Shape
from poller.core.model import Purpose

LARGEST = 64 * 1024 * 1024
"""Bytes of a body, unpacked. No page of search results is so large; something else that is would fill the memory."""


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


@dataclass(frozen=True, slots=True)
class Broken:
    """Nothing usable came back."""

    mishap: Mishap
    began: dt.datetime
    ended: dt.datetime


Observer = Callable[[Purpose, int | None, dt.timedelta], None]
"""Told of each request: what it was for, its status (None for no answer) and how long it took."""


def unobserved(_purpose: Purpose, _status: int | None, _took: dt.timedelta) -> None:
    """Tell nobody."""


class Wire:
    """An HTTP client of one practice. ``timeout`` is for the whole of a call; ``transport`` is for tests.

    TLS is verified with the system's certificates. Proxies of the environment are used, except for a server on this machine.
    """

    def __init__(
        self,
        base_url: str,
        timeout: dt.timedelta,
        max_in_flight: int,
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None = None,
        observer: Observer = unobserved,
    ) -> None:
        self._observe = observer
        self._clock = clock
        self._timeout = timeout.total_seconds()
        places = max_in_flight + 1
        self._http = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(self._timeout),
            limits=httpx.Limits(max_connections=places, max_keepalive_connections=places, keepalive_expiry=60),
            follow_redirects=False,
            trust_env=not is_loopback(httpx.URL(base_url).host),
            headers={"User-Agent": product, "Accept-Encoding": "gzip, deflate"},
        )

    async def exchange(
        self, purpose: Purpose, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None = None
    ) -> Exchange | Broken:
        """Send one request and read its answer. Never raises for what the network or the server does."""
        came = await self._exchange(method, url, headers, form)
        self._observe(purpose, came.status if isinstance(came, Exchange) else None, came.ended - came.began)
        return came

    async def _exchange(
        self, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None
    ) -> Exchange | Broken:
        began = self._clock.now()
        try:
            async with asyncio.timeout(self._timeout):
                request = self._http.build_request(method, url, headers=headers, data=form)
                response = await self._http.send(request, stream=True)
                try:
                    text = await self._read(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            return Broken(Mishap.TIMEOUT, began, self._clock.now())
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            return Broken(_mishap(error), began, self._clock.now())
        finally:
            self._http.cookies.clear()
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
        )

    async def _read(self, response: httpx.Response) -> bytes | None:
        """The whole body; None when it is too large."""
        pieces = bytearray()
        async for piece in response.aiter_bytes():
            pieces += piece
            if len(pieces) > LARGEST:
                return None
        return bytes(pieces)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


def _mishap(error: Exception) -> Mishap:
    match error:
        case httpx.TimeoutException():
            return Mishap.TIMEOUT
        case httpx.ConnectError() | httpx.ProxyError() | ssl.SSLError():
            return Mishap.CONNECT
        case httpx.NetworkError() | httpx.RemoteProtocolError() | OSError():
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
