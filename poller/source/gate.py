"""The one gate that every call to a practice passes, token calls too (guarantee 1).

A call enters with ``async with gate.permit(purpose):``, leaves at once when it is let in, and holds one of the practice's places in flight
until the block ends. Permits come from the ledger, which all processes share; the arithmetic is :mod:`poller.core.budget`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import structlog

from poller.config.model import BudgetConfig
from poller.core import budget as arithmetic
from poller.core.budget import Grant, Permit
from poller.core.model import Purpose

log = structlog.get_logger(__name__)

_RANK = {purpose: rank for rank, purpose in enumerate(Purpose)}
_TICK = 1e-6
"""Seconds. Less than this before a permit's instant is not worth a sleep (and might not pass in one)."""
_LEAD = 0.5
"""Seconds before the last permit's instant at which more are asked for, so that the answer is there in time."""
_THREADS = ThreadPoolExecutor(4, "budget")
"""Apart from asyncio's own threads: a write that takes long must not make permits burn."""


class Ledger(Protocol):
    """Where the budget of a practice is kept for all processes. Synchronous; called from threads."""

    def grant(self, practice: str, want: int, per_minute: float) -> Grant:
        """At most ``want`` permits at a pace of ``per_minute``, after all that were granted before."""
        ...

    def block(self, practice: str, seconds: float) -> None:
        """Grant nothing for so long from now. Never shortens an earlier block."""
        ...


async def _in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call, *arguments)


class Gate:
    """Lets calls of one practice out at its pace: the most urgent purpose first, first come first served within it.

    ``in_thread`` runs a blocking call off the loop. All methods belong to one event loop.
    """

    def __init__(
        self,
        practice: str,
        budget: BudgetConfig,
        ledger: Ledger,
        *,
        in_thread: Callable[..., Awaitable[Any]] = _in_thread,
    ) -> None:
        self._practice = practice
        self._per_minute = arithmetic.pace(budget.calls_per_minute, budget.share)
        self._block = arithmetic.block(self._per_minute)
        self._max_in_flight = budget.max_in_flight
        self._ledger = ledger
        self._in_thread = in_thread
        self._numbers = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[Permit]]] = []
        self._permits: deque[Permit] = deque()
        self._in_flight = 0
        self._blocked_until = float("-inf")
        self._lock_outs = 0
        self._serving: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Calls that want to leave."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Calls that have left and not come back."""
        return self._in_flight

    @contextlib.asynccontextmanager
    async def permit(self, purpose: Purpose) -> AsyncIterator[None]:
        """Wait until one call may leave. Make it at once, and only one. Raises what the ledger raises."""
        await self._enter(_RANK[purpose], next(self._numbers))
        try:
            yield
        finally:
            self._leave()

    async def lock_out(self, seconds: float) -> None:
        """Let nothing leave for so long, in any process, whatever was granted already."""
        self._blocked_until = max(self._blocked_until, self._now() + seconds)
        self._lock_outs += 1
        self._permits.clear()
        log.warning("Locked out; nothing leaves", action="budget.locked_out", practice=self._practice, seconds=seconds)
        await asyncio.shield(asyncio.ensure_future(self._in_thread(self._ledger.block, self._practice, seconds)))

    async def aclose(self) -> None:
        """Let nobody in any more; whoever waits is cancelled."""
        tasks = [task for task in (self._serving, self._asking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, _, turn in self._waiting:
            turn.cancel()
        self._waiting.clear()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _enter(self, rank: int, number: int) -> None:
        while True:
            turn: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (rank, number, turn))
            self._serve()
            try:
                permit = await turn
            except asyncio.CancelledError:
                self._withdraw(turn)
                raise
            if self._blocked_until <= self._now() <= permit.not_after:
                return
            self._leave()  # woken too late, or locked out meanwhile: the permit is burnt, the place in the queue kept

    def _withdraw(self, turn: asyncio.Future[Permit]) -> None:
        """Undo what a cancelled caller had: its place in the queue, or the permit that it was just given."""
        if turn.done() and not turn.cancelled():
            if turn.exception() is None:
                self._leave()
            return
        self._waiting = [entry for entry in self._waiting if entry[2] is not turn]
        heapq.heapify(self._waiting)

    def _leave(self) -> None:
        self._in_flight -= 1
        self._serve()

    def _serve(self) -> None:
        """See to it that whoever can be served will be."""
        if self._waiting and self._in_flight < self._max_in_flight and (self._serving is None or self._serving.done()):
            self._serving = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        if self._asking is not None and self._asking.done() and self._asking.exception() is not None:
            self._asking = None  # it failed when nobody needed it any more; who waits now asks again
        try:
            await self._let_out()
        except Exception as error:  # noqa: BLE001 - each caller raises it
            waiting, self._waiting = self._waiting, []
            for _, _, turn in waiting:
                if not turn.done():
                    turn.set_exception(error)

    async def _let_out(self) -> None:
        """Hand permits over, each at its instant, until nobody waits or all places in flight are taken."""
        while self._waiting and self._in_flight < self._max_in_flight:
            now = self._now()
            while self._permits and self._permits[0].not_after < now:
                self._permits.popleft()
            if self._blocked_until > now:
                await asyncio.sleep(self._blocked_until - now + _TICK)
            elif not self._permits:
                await self._ask()
            elif (wait := self._permits[0].not_before - now) > _TICK:
                self._ask_ahead(now)
                await asyncio.sleep(wait)
            else:
                self._hand_over()
                self._ask_ahead(now)

    def _hand_over(self) -> None:
        permit = self._permits.popleft()
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._in_flight += 1
                turn.set_result(permit)
                return

    def _wanted(self) -> int:
        """How many permits more could be used: not more than wait, nor than there are places for (and one about to be free)."""
        usable = min(len(self._waiting), self._max_in_flight - self._in_flight + 1)
        return min(usable - len(self._permits), self._block)

    async def _ask(self) -> None:
        if self._asking is None:
            self._asking = asyncio.create_task(self._fetch(max(1, self._wanted())))
        asking = self._asking
        try:
            await asking
        finally:
            if asking.done():
                self._asking = None

    def _ask_ahead(self, now: float) -> None:
        """Ask for the next block while the last one is being used."""
        if self._asking is not None and self._asking.done():
            asked, self._asking = self._asking, None
            asked.result()
        is_late = not self._permits or self._permits[-1].not_before - now <= _LEAD
        if self._asking is None and is_late and (wanted := self._wanted()) > 0:
            self._asking = asyncio.create_task(self._fetch(wanted))

    async def _fetch(self, want: int) -> None:
        before, asked = self._lock_outs, self._now()
        grant: Grant = await self._in_thread(self._ledger.grant, self._practice, want, self._per_minute)
        answered = self._now()
        if before != self._lock_outs:
            return  # granted before the lock-out: burnt
        if grant.count:
            self._permits.extend(arithmetic.permits(grant, asked, answered))
        else:
            self._blocked_until = max(self._blocked_until, answered + grant.delay)
