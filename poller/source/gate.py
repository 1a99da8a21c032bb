"""The one gate that every call to a practice passes, token calls too (guarantee 1).

A call enters with ``async with gate.permit(purpose):``, leaves at once when it is let in, and holds one of the practice's places in flight
until the block ends. Permits come from the ledger, which all processes share; the arithmetic is :mod:`poller.core.budget`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from poller import metrics
from poller.clock import suspended
from poller.config.model import BudgetConfig
from poller.core import budget as arithmetic
from poller.core.budget import Ask, Bearing, Grant, Permit, Waiting
from poller.core.model import Purpose

log = structlog.get_logger(__name__)

_RANK = {purpose: rank for rank, purpose in enumerate(Purpose)}
_URGENT = _RANK[Purpose.DEADLINE]
"""Calls of this rank, or of a lower number, do not stand back behind other processes."""
_LOOK = 0.25
"""Seconds after which a gate that was told to ask later looks whether an urgent call has come."""
_TICK = 1e-6
"""Seconds. Less than this before a permit's instant is not worth a sleep (and might not pass in one)."""
_LEAD = 0.5
"""Seconds before the last permit's instant at which more are asked for, so that the answer is there in time."""
_SLOW = arithmetic.LIFE / 2
"""Seconds. By what a ledger takes longer, permits are asked for that begin later; up to that they are still good when they come."""
_SLOWNESS_KEPT = 0.8
"""The part of a slow answer's time that the next answers are still reckoned with, each time anew."""
_STOOD_STILL = 0.05
"""Seconds for which this machine may have been suspended without our noticing."""
_THREADS = ThreadPoolExecutor(4, "budget")
"""Apart from asyncio's own threads: a write that takes long must not make permits burn."""


class Ledger(Protocol):
    """Where the budget of a practice is kept for all processes. Synchronous; called from threads."""

    def grant(
        self, practice: str, want: int, per_minute: float, lead: float = 0.0, horizon: float = arithmetic.HORIZON
    ) -> Grant:
        """At most ``want`` permits, after all that were granted before, none within ``lead`` seconds.

        None either while those before reach further than ``horizon`` seconds. ``per_minute`` is the full pace; the permits have what 429s
        have left of it.
        """
        ...

    def block(self, practice: str, seconds: float, left_ago: float | None = None) -> float:
        """Grant nothing for so long from now. Never shortens an earlier block. Returns the part of the pace that is left.

        ``left_ago``: seconds since the call left that was answered 429, for which the pace is cut; None if none was.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Turn:
    """A call that waits, and how it is told to leave."""

    waiting: Waiting
    come: asyncio.Future[Permit]


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """Run a blocking call to the ledger off the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call, *arguments)


class Gate:
    """Lets calls of one practice out at its pace: the most urgent purpose first, first come first served within it.

    ``together`` asks the same ledger, with what other gates ask in one transaction; without it each ask is one of its own. ``in_thread``
    runs a blocking call off the loop; ``suspended`` says for how long in all this machine has stood still, which the loop's clock does not
    count. All methods belong to one event loop.
    """

    def __init__(
        self,
        practice: str,
        budget: BudgetConfig,
        ledger: Ledger,
        *,
        together: Callable[[Ask], Awaitable[Grant]] | None = None,
        in_thread: Callable[..., Awaitable[Any]] = in_thread,
        suspended: Callable[[], float] = suspended,
    ) -> None:
        self._practice = practice
        self._per_minute = arithmetic.pace(budget.calls_per_minute, budget.share)
        self._max_in_flight = budget.max_in_flight
        self._ledger = ledger
        self._together = together
        self._in_thread = in_thread
        self._suspended = suspended
        self._numbers = itertools.count()
        self._waiting: list[_Turn] = []
        self._passed_by = 0
        """Permits handed out by urgency since the last one that went to who had waited longest."""
        self._permits: deque[Permit] = deque()
        self._stood_still = suspended()
        """What ``suspended`` said when the permits were asked for."""
        self._bearing: Bearing | None = None
        self._slowness = 0.0
        """Seconds that an answer of the ledger takes at the worst, lately."""
        self._part = 1.0
        self._in_flight = 0
        self._blocked_until = float("-inf")
        self._ask_at = {True: float("-inf"), False: float("-inf")}
        """When permits may be asked for again, for urgent calls and for others."""
        self._lock_outs = 0
        self._serving: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._waited = metrics.PERMIT_WAIT_SECONDS.labels(practice)
        self._pace = metrics.PACE.labels(practice)
        self._pace.set(self._per_minute)

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
        came = self._now()
        await self._enter(Waiting(_RANK[purpose], next(self._numbers), came))
        self._waited.observe(self._now() - came)
        try:
            yield
        finally:
            self._leave()

    async def lock_out(self, seconds: float, left_ago: float | None = None) -> None:
        """Let nothing leave for so long, in any process, whatever was granted already.

        ``left_ago``: seconds since the call left that was answered 429; the pace is cut for it, in all processes. None if none was.
        """
        self._stop(seconds)
        if left_ago is not None:
            metrics.LOCKED_OUT.labels(self._practice).inc()
        log.warning("Locked out; nothing leaves", action="budget.locked_out", practice=self._practice, seconds=seconds)
        await asyncio.shield(asyncio.ensure_future(self._block(seconds, left_ago)))

    async def aclose(self) -> None:
        """Let nobody in any more; whoever waits is cancelled."""
        tasks = [task for task in (self._serving, self._asking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for turn in self._waiting:
            turn.come.cancel()
        self._waiting.clear()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _stop(self, seconds: float) -> None:
        self._blocked_until = max(self._blocked_until, self._now() + seconds)
        self._lock_outs += 1
        self._permits.clear()

    async def _block(self, seconds: float, left_ago: float | None) -> None:
        self._note_part(await self._in_thread(self._ledger.block, self._practice, seconds, left_ago))

    def _note_part(self, part: float) -> None:
        """Show the pace that is in force, and say when 429s have cut it or it is whole again."""
        per_minute = round(self._per_minute * part, 1)
        if part < self._part:
            log.warning(
                "The pace is lowered: the limit is lower than configured, or others spend it as well",
                action="budget.lowered",
                practice=self._practice,
                per_minute=per_minute,
            )
        elif part == 1.0 > self._part:
            log.info(
                "The pace is whole again", action="budget.restored", practice=self._practice, per_minute=per_minute
            )
        self._part = part
        self._pace.set(per_minute)

    async def _enter(self, waiting: Waiting) -> None:
        while True:
            turn = _Turn(waiting, asyncio.get_running_loop().create_future())
            self._waiting.append(turn)
            self._serve()
            try:
                permit = await turn.come
            except asyncio.CancelledError:
                self._withdraw(turn)
                raise
            if self._blocked_until <= self._now() <= permit.not_after and not self._has_stood_still():
                return
            self._leave()  # woken too late, or locked out meanwhile: the permit is burnt, the place in the queue kept

    def _withdraw(self, turn: _Turn) -> None:
        """Undo what a cancelled caller had: its place in the queue, or the permit that it was just given."""
        if turn.come.done() and not turn.come.cancelled():
            if turn.come.exception() is None:
                self._leave()
            return
        self._waiting = [other for other in self._waiting if other is not turn]

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
            for turn in waiting:
                if not turn.come.done():
                    turn.come.set_exception(error)

    async def _let_out(self) -> None:
        """Hand permits over, each at its instant, until nobody waits or all places in flight are taken."""
        while self._waiting and self._in_flight < self._max_in_flight:
            now = self._now()
            while self._permits and (self._permits[0].not_after < now or self._has_stood_still()):
                self._permits.popleft()
            if self._blocked_until > now:
                await asyncio.sleep(self._blocked_until - now + _TICK)
            elif not self._permits and (wait := self._ask_at[self._is_urgent()] - now) > 0:
                await asyncio.sleep(min(wait + _TICK, _LOOK))
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
        self._waiting = [turn for turn in self._waiting if not turn.come.done()]
        if not self._waiting:
            return
        queue = [turn.waiting for turn in self._waiting]
        chosen = arithmetic.next_to_leave(queue, self._now(), self._passed_by)
        is_urgent = all(queue[chosen].rank <= other.rank for other in queue)
        self._passed_by = self._passed_by + 1 if is_urgent else 0
        self._in_flight += 1
        self._waiting.pop(chosen).come.set_result(permit)

    def _is_urgent(self) -> bool:
        """Whether an urgent call waits."""
        return any(turn.waiting.rank <= _URGENT for turn in self._waiting)

    def _wanted(self) -> int:
        """How many permits more could be used: not more than wait, nor than there are places for (and one about to be free)."""
        usable = min(len(self._waiting), self._max_in_flight - self._in_flight + 1)
        return min(usable - len(self._permits), arithmetic.block(self._per_minute * self._part))

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
        in_time = max(_LEAD, 2 * self._slowness)
        is_late = not self._permits or self._permits[-1].not_before - now <= in_time
        if (
            self._asking is None
            and is_late
            and self._ask_at[self._is_urgent()] <= now
            and (wanted := self._wanted()) > 0
        ):
            self._asking = asyncio.create_task(self._fetch(wanted))

    async def _fetch(self, want: int) -> None:
        before, asked, stood_still = self._lock_outs, self._now(), self._suspended()
        lead = min(max(0.0, self._slowness - _SLOW), arithmetic.HORIZON)
        is_urgent = self._is_urgent()
        horizon = arithmetic.URGENT_HORIZON if is_urgent else arithmetic.HORIZON
        grant = await self._grant(Ask(self._practice, want, self._per_minute, lead, horizon))
        answered = self._now()
        self._slowness = max(answered - asked, self._slowness * _SLOWNESS_KEPT)
        if before != self._lock_outs:
            return  # granted before the lock-out: burnt
        if self._suspended() - stood_still > _STOOD_STILL:
            self._bearing = None
            return
        told = grant.told if grant.told is not None else asked
        seen = Bearing.of(told, asked, answered)
        if grant.told is not None and await self._was_set_forward(seen):
            return
        self._note_part(grant.part)
        if not grant.count:
            self._pause(answered + grant.delay, is_urgent, locked=grant.locked)
            return
        if self._has_stood_still():
            self._permits.clear()
        self._stood_still = stood_still
        self._permits.extend(arithmetic.permits(grant, told, self._bearing or seen))

    async def _grant(self, ask: Ask) -> Grant:
        if self._together is not None:
            return await self._together(ask)
        granted: Grant = await self._in_thread(
            self._ledger.grant, ask.practice, ask.want, ask.per_minute, ask.lead, ask.horizon
        )
        return granted

    def _pause(self, until: float, is_urgent: bool, *, locked: bool) -> None:
        if locked:
            self._blocked_until = max(self._blocked_until, until)
        else:
            self._ask_at |= {False: until, is_urgent: until}

    async def _was_set_forward(self, seen: Bearing) -> bool:
        """Take a bearing of the ledger's clock. If that was set forward, wait until all permits from before are spent.

        What other processes hold of them would come on top of what is granted from the new time on.
        """
        ahead = self._bearing.ahead(seen) if self._bearing is not None else 0.0
        self._bearing = self._bearing.joined(seen) if self._bearing is not None and ahead == 0 else seen
        if ahead > 0:
            log.warning(
                "The database's clock was set forward; nothing leaves for a moment",
                action="budget.clock_set",
                practice=self._practice,
                seconds=round(ahead, 3),
            )
            self._stop(arithmetic.REACH)
            await self._block(arithmetic.REACH, None)
        return ahead > 0

    def _has_stood_still(self) -> bool:
        """Whether this machine was suspended since the permits were asked for: they are older than the loop's clock says."""
        return self._suspended() - self._stood_still > _STOOD_STILL
