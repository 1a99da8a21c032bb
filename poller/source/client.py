"""Reads from a practice's FHIR server: each call through the gate, under a token, tried again where that may help."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from dataclasses import dataclass, field
from typing import Any

import structlog

from poller.clock import Clock
from poller.core import budget, faults
from poller.core.faults import Remedy, Shape, Verdict
from poller.core.model import Failure, FailureKind, Purpose
from poller.source.auth import Authorization, Token
from poller.source.gate import Gate
from poller.source.wire import Broken, Exchange, Wire

log = structlog.get_logger(__name__)

_ACCEPT = "application/fhir+json"


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


class Client:
    """GETs of one practice."""

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
        self._authorization = authorization
        self._wire = wire
        self._clock = clock
        self.last_server_error: dt.datetime | None = None
        """When the server last showed that it is not well, also if the next try succeeded; absences from before prove nothing."""

    async def get(
        self, where: str, purpose: Purpose, *, retries: int = faults.RETRIES, expected: frozenset[int] = frozenset()
    ) -> Answer:
        """GET ``where``, a path with query below the base URL. Failures are answers too; only our own store raises.

        A passing failure is tried again ``retries`` times, a token that is refused is replaced once, a lock-out is waited for once.
        Statuses in ``expected`` are no sign of a sick server here.
        """
        answer = Answer(None, self._clock.now(), self._clock.now())
        left = {Remedy.RETRY: retries, Remedy.FRESH_TOKEN: 1, Remedy.LOCK_OUT: 1 if retries else 0}
        calls = 0
        while True:
            token = await self._authorization.token()
            if isinstance(token, Failure):
                now = self._clock.now()
                return Answer(token, answer.began if calls else now, now, calls, token.status)
            sent = await self._send(where, purpose)
            if sent is None:
                continue
            verdict, came, token = sent
            calls += 1
            answer = _answer(verdict, came, calls)
            self._note(verdict, came, purpose, expected)
            if left.get(verdict.remedy, 0) <= 0:
                return answer
            left[verdict.remedy] -= 1
            if verdict.remedy is Remedy.FRESH_TOKEN:
                self._authorization.discard(token)
            elif verdict.remedy is Remedy.RETRY:
                wait = _wait(came, retries - left[Remedy.RETRY])
                if wait is None:
                    return answer
                await asyncio.sleep(wait)

    async def _send(self, where: str, purpose: Purpose) -> tuple[Verdict, Exchange | Broken, Token] | None:
        """One try. None, with the permit burnt, if the token ended while the call waited for its turn."""
        async with self._gate.permit(purpose):
            token = self._authorization.usable
            if token is None:
                return None
            headers = {"Accept": _ACCEPT, "Authorization": f"Bearer {token.text}"}
            url = f"{self._base_url}{'' if where.startswith('?') else '/'}{where}"
            came = await self._wire.exchange(purpose, "GET", url, headers)
            verdict = _judge(came)
            if verdict.remedy is Remedy.LOCK_OUT and isinstance(came, Exchange):
                await self._gate.lock_out(budget.lock_out(came.date, came.retry_after))
            return verdict, came, token

    def _note(self, verdict: Verdict, came: Exchange | Broken, purpose: Purpose, expected: frozenset[int]) -> None:
        status = came.status if isinstance(came, Exchange) else None
        failure = verdict.failure
        if failure is None:
            return
        if failure.is_server_error and status not in expected:
            self.last_server_error = came.ended
        log.debug(
            "A call failed",
            action="call.failed",
            practice=self._practice,
            purpose=purpose.value,
            kind=failure.kind.value,
            status=status,
            detail=failure.detail,
        )


def _judge(came: Exchange | Broken) -> Verdict:
    if isinstance(came, Broken):
        return faults.judge_mishap(came.mishap)
    return faults.judge(came.status, came.shape, faults.outcome_codes(came.body))


def _answer(verdict: Verdict, came: Exchange | Broken, calls: int) -> Answer:
    if isinstance(came, Broken):
        return Answer(verdict.failure, came.began, came.ended, calls)
    return Answer(verdict.failure, came.began, came.ended, calls, came.status, came.shape, came.body, came.date)


def _wait(came: Exchange | Broken, retry: int) -> float | None:
    """Seconds before the retry; None if the server asks for more than a pass may wait."""
    asked = came.retry_after if isinstance(came, Exchange) and came.retry_after is not None else 0.0
    if asked > faults.LONGEST_WAIT:
        return None
    return max(asked, faults.backoff(retry, random.random()))  # noqa: S311 - jitter is no secret


def malformed(detail: str) -> Failure:
    """A failure of an answer that came with 200 and is not what it should be."""
    return Failure(FailureKind.MALFORMED, 200, detail)
