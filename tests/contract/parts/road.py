"""The way to a simulated practice in virtual time: no socket, no sleep, and every call's arrival by the test's own clock."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qsl

import httpx

from poller.core.budget import Grant, spacing
from poller.simulator.answers import Front
from poller.simulator.exchange import FHIR_ROOT, TOKEN_PATH, Answer, Request
from poller.simulator.truth import Call
from poller.simulator.world import World

ROOT = "https://ehr.example.org"
TOKEN_URL = ROOT + TOKEN_PATH
_STAMPED = frozenset({"_lastUpdated", "_since"})


def base_url(code: str) -> str:
    """FHIR base of a practice."""
    return f"{ROOT}{FHIR_ROOT}{code}"


class Road(httpx.AsyncBaseTransport):
    """Brings requests to the simulator and answers back; each way takes up to half a second."""

    def __init__(self, world: World, now: Callable[[], dt.datetime], seed: int) -> None:
        self._world = world
        self._front = Front(world)
        self._now = now
        self._rng = random.Random(seed)  # noqa: S311 - a test's, to be repeated

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._go()
        now = self._now()
        self._world.advance(now)
        answer = self._front.answer(self._read(request, now))
        try:
            await asyncio.sleep(answer.delay)
        finally:
            for call in answer.calls:
                call.finished, call.finished_at = _seconds(), self._now()
                call.intact &= not _filter_was_dropped(call)
        await self._go()
        headers = [("content-type", answer.content_type), *answer.headers]
        return httpx.Response(answer.status, headers=headers, stream=_Body(answer))

    async def _go(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.01, 0.5))

    @staticmethod
    def _read(request: httpx.Request, now: dt.datetime) -> Request:
        return Request(
            path=request.url.path,
            query=tuple(request.url.params.multi_items()),
            authorization=request.headers.get("authorization", ""),
            root=ROOT,
            arrived=_seconds(),
            now=now,
            form=dict(parse_qsl(request.content.decode())) if request.method == "POST" else {},
            method=request.method,
            headers=dict(request.headers),
        )


def _filter_was_dropped(call: Call) -> bool:
    """Whether a window was asked for and everything shown: a reader that notices it takes no account of the rows."""
    return call.scope is not None and not call.scope.windowed and any(name in _STAMPED for name, _ in call.query)


def _seconds() -> float:
    return asyncio.get_running_loop().time()


class _Body(httpx.AsyncByteStream):
    """An answer's body, as far as it comes."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        stream = self._answer.stream
        if stream is None:
            yield self._answer.body
            if self._answer.announced is not None:
                raise httpx.RemoteProtocolError("the connection is gone in the middle of an answer")
            return
        left = stream.size if stream.until is None else stream.until
        for chunk in stream.chunks():
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                break
        if stream.until is not None and not stream.silent:
            raise httpx.RemoteProtocolError("the connection is gone in the middle of a file")


class Ledger:
    """A practice's budget by the loop's clock, for one process: the database's own cannot go by virtual time."""

    def __init__(self) -> None:
        self._free_at = float("-inf")
        self._blocked_until = float("-inf")

    def grant(self, _practice: str, want: int, per_minute: float, *_: float) -> Grant:
        """As Postgres grants: after all that were granted before, none while the practice is locked out."""
        gap, now = spacing(per_minute), _seconds()
        if now < self._blocked_until:
            return Grant(self._blocked_until - now, 0, gap)
        start = max(now, self._free_at)
        self._free_at = start + gap * want
        return Grant(start - now, want, gap)

    def block(self, _practice: str, seconds: float, _left_ago: float | None = None) -> float:
        """Grant nothing for so long from now."""
        self._blocked_until = max(self._blocked_until, _seconds() + seconds)
        return 1.0
