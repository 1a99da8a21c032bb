"""Calls to a practice's FHIR server: each through the gate, under a token, tried again where that may help."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import structlog

from poller import __name__ as product
from poller.clock import Clock
from poller.core import budget, faults, quota
from poller.core.faults import Remedy, Shape, Verdict
from poller.core.model import Failure, FailureKind, Purpose
from poller.core.quota import Quota
from poller.source import address
from poller.source.address import Address
from poller.source.auth import Authorization, Token
from poller.source.gate import Gate
from poller.source.wire import Broken, Exchange, Streamed, Wire
from poller.spans import span

log = structlog.get_logger(__name__)

DOWNLOADS = 2
"""Streamed answers of a practice at a time. They take no place in flight while their bodies come, since that may take minutes."""

SURVEYING = f"{product} (survey)"
"""User-Agent of calls that find out what a server allows."""

_ACCEPT = "application/fhir+json"
_NONE: Mapping[str, str] = MappingProxyType({})

_Came = Exchange | Streamed | Broken
_Send = Callable[[str, dict[str, str]], Awaitable[_Came]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came to, after all tries. With a ``failure`` the rest tells of the last try."""

    failure: Failure | None
    began: dt.datetime
    """When the request was sent, by the shared clock."""
    ended: dt.datetime
    calls: int = 0
    """Requests sent, token calls left out."""
    status: int | None = None
    shape: Shape = Shape.EMPTY
    body: Any = field(default=None, repr=False)
    date: dt.datetime | None = None
    """The server's ``Date``."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Those of :data:`poller.source.wire.KEPT` that came, by their names in lower case."""


@dataclass(frozen=True, slots=True)
class _Call:
    """What stays the same from try to try."""

    address: Address
    headers: Mapping[str, str]
    purpose: Purpose
    expected: frozenset[int]
    accepted: frozenset[int]


@dataclass(frozen=True, slots=True)
class Download:
    """A GET whose body is read as it comes."""

    answer: Answer
    """Its status and headers; never a body unless it failed."""
    came: Streamed | None = None

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, unpacked, in pieces cut anywhere; nothing after a failure. Raises :class:`poller.source.wire.Interrupted`."""
        if self.came is not None:
            async with contextlib.aclosing(self.came.chunks()) as chunks:
                async for chunk in chunks:
                    yield chunk


class Client:
    """Calls to one practice. Failures are answers too; only our own store raises.

    A passing failure is tried again ``retries`` times, a token that is refused is replaced once, a lock-out is waited for once.
    """

    def __init__(
        self,
        practice: str,
        base_url: str,
        gate: Gate,
        authorization: Authorization,
        wire: Wire,
        clock: Clock,
    ) -> None:
        self._practice = practice
        self._base_url = base_url
        self._gate = gate
        self.authorization = authorization
        self._wire = wire
        self._clock = clock
        self._downloads = asyncio.Semaphore(DOWNLOADS)
        self._quota = Quota()
        self.last_server_error: dt.datetime | None = None
        """When the server last showed that it is not well, also if the next try succeeded; absences from before prove nothing."""

    async def get(
        self, where: str, purpose: Purpose, *, retries: int = faults.RETRIES, expected: frozenset[int] = frozenset()
    ) -> Answer:
        """GET ``where``, a path with query below the base URL. Statuses in ``expected`` are no sign of a sick server here."""
        return await self.request("GET", where, purpose, retries=retries, expected=expected)

    def locate(self, url: str, *, needs_token: bool = True) -> Address | None:
        """Where a URL that the server gave may be asked for; None if it may not: see :func:`poller.source.address.locate`."""
        return address.locate(url, self._base_url, needs_token=needs_token)

    async def request(
        self,
        method: str,
        where: str | Address,
        purpose: Purpose,
        *,
        headers: Mapping[str, str] = _NONE,
        retries: int = faults.RETRIES,
        expected: frozenset[int] = frozenset(),
        accepted: frozenset[int] = frozenset(),
    ) -> Answer:
        """Any call without a body. ``where`` is a path with query below the base URL, or what :meth:`locate` gave.

        Statuses in ``accepted`` succeed whatever the body is; those in ``expected`` fail, but are no sign of a sick server. ``headers``
        add to ours, or stand in their place (not the token's). A call that must not be made twice says ``retries=0``.
        """
        call = _Call(self._address(where), headers, purpose, expected, accepted)

        async def send(url: str, fields: dict[str, str]) -> Exchange | Broken:
            return await self._wire.exchange(purpose, method, url, fields)

        answer, _ = await self._attempt(call, send, retries)
        return answer

    @contextlib.asynccontextmanager
    async def stream(
        self,
        where: str | Address,
        purpose: Purpose,
        *,
        headers: Mapping[str, str] = _NONE,
        retries: int = faults.RETRIES,
        expected: frozenset[int] = frozenset(),
    ) -> AsyncIterator[Download]:
        """GET without holding the body. The call's place in flight is given back when the headers have come.

        At most :data:`DOWNLOADS` at once; more wait. It is tried again until the headers have come; a body that breaks off later raises
        in ``chunks``.
        """
        call = _Call(self._address(where), headers, purpose, expected, frozenset())
        async with self._downloads, contextlib.AsyncExitStack() as stack:

            async def send(url: str, fields: dict[str, str]) -> Streamed | Exchange | Broken:
                return await stack.enter_async_context(self._wire.stream(purpose, url, fields))

            answer, came = await self._attempt(call, send, retries)
            yield Download(answer, came if isinstance(came, Streamed) else None)

    def _address(self, where: str | Address) -> Address:
        if isinstance(where, Address):
            return where
        return Address(f"{self._base_url}{'' if where.startswith('?') else '/'}{where}", is_ours=True)

    async def _attempt(self, call: _Call, send: _Send, retries: int) -> tuple[Answer, _Came | None]:
        """The call, till it succeeds or no remedy is left. None if it was never sent."""
        answer = Answer(None, self._clock.now(), self._clock.now())
        left = {Remedy.RETRY: retries, Remedy.FRESH_TOKEN: 1, Remedy.LOCK_OUT: 1 if retries else 0}
        calls = 0
        came: _Came | None = None
        while True:
            if call.address.is_ours and isinstance(refused := await self.authorization.token(), Failure):
                now = self._clock.now()
                return Answer(refused, answer.began if calls else now, now, calls, refused.status), came
            sent = await self._send(call, send)
            if sent is None:
                continue
            verdict, came, token = sent
            calls += 1
            answer = _answer(verdict, came, calls)
            if call.address.is_ours:
                self._note(verdict, came, call)
            if left.get(verdict.remedy, 0) <= 0:
                return answer, came
            left[verdict.remedy] -= 1
            if verdict.remedy is Remedy.FRESH_TOKEN and token is not None:
                self.authorization.discard(token)
            elif verdict.remedy is Remedy.RETRY:
                wait = _wait(came, retries - left[Remedy.RETRY])
                if wait is None:
                    return answer, came
                await asyncio.sleep(wait)

    async def _send(self, call: _Call, send: _Send) -> tuple[Verdict, _Came, Token | None] | None:
        """One try. None, with the permit burnt, if the token ended while the call waited for its turn."""
        async with self._gate.permit(call.purpose):
            fields = {"Accept": _ACCEPT, **call.headers}
            if call.purpose is Purpose.PROBE:
                fields["User-Agent"] = SURVEYING  # who reads the server's log sees what such calls are for
            token = None
            if call.address.is_ours:
                token = self.authorization.usable
                if token is None:
                    return None
                if token.text:
                    fields["Authorization"] = f"Bearer {token.text}"
            with span("call", practice=self._practice, purpose=call.purpose) as told:
                came = await send(call.address.url, fields)
                verdict = _judge(came, call)
                told.add(
                    status=None if isinstance(came, Broken) else came.status,
                    failure=verdict.failure.kind if verdict.failure is not None else None,
                )
            if call.address.is_ours and not isinstance(came, Broken):
                await self._slow_down(verdict, came)
            return verdict, came, token

    async def _slow_down(self, verdict: Verdict, came: Exchange | Streamed) -> None:
        """Let nothing leave for as long as a 429 means, or while calls are credibly said to have run out."""
        said = quota.read(came.headers, came.ended)
        hold, left_ago = quota.hold(self._quota, said), None
        if said.left is not None:
            self._quota = said
        if verdict.remedy is Remedy.LOCK_OUT and isinstance(came, Exchange):
            hold = budget.lock_out(came.date, max(came.retry_after or 0.0, said.reset or 0.0))
            left_ago = (came.ended - came.began).total_seconds()
        if hold:
            await self._gate.lock_out(hold, left_ago)

    def _note(self, verdict: Verdict, came: _Came, call: _Call) -> None:
        status = None if isinstance(came, Broken) else came.status
        failure = verdict.failure
        if failure is None:
            return
        if failure.is_server_error and status not in call.expected:
            self.last_server_error = came.ended
        log.debug(
            "A call failed",
            action="call.failed",
            practice=self._practice,
            purpose=call.purpose.value,
            kind=failure.kind.value,
            status=status,
            detail=failure.detail,
        )


def _judge(came: _Came, call: _Call) -> Verdict:
    match came:
        case Broken():
            return faults.judge_mishap(came.mishap)
        case Streamed():
            return faults.OK
        case Exchange():
            if came.status in call.accepted:
                return faults.OK
            hint = faults.hint_of(came.body)
            verdict = faults.judge(came.status, came.shape, faults.outcome_codes(came.body), hint)
            if verdict.remedy in {Remedy.FRESH_TOKEN, Remedy.LOCK_OUT} and not call.address.is_ours:
                return Verdict(
                    Remedy.GIVE_UP, verdict.failure
                )  # a store of files has no say in our token and our budget
            return verdict


def _answer(verdict: Verdict, came: _Came, calls: int) -> Answer:
    match came:
        case Broken():
            return Answer(verdict.failure, came.began, came.ended, calls)
        case Streamed():
            return Answer(
                verdict.failure, came.began, came.ended, calls, came.status, date=came.date, headers=came.headers
            )
        case Exchange():
            return Answer(
                verdict.failure,
                came.began,
                came.ended,
                calls,
                came.status,
                came.shape,
                came.body,
                came.date,
                came.headers,
            )


def _wait(came: _Came, retry: int) -> float | None:
    """Seconds before the retry; None if the server asks for more than a pass may wait."""
    asked = came.retry_after if isinstance(came, Exchange) and came.retry_after is not None else 0.0
    if asked > faults.LONGEST_WAIT:
        return None
    return max(asked, faults.backoff(retry, random.random()))  # noqa: S311 - jitter is no secret


def malformed(detail: str) -> Failure:
    """A failure of an answer that came with 200 and is not what it should be."""
    return Failure(FailureKind.MALFORMED, 200, detail)
