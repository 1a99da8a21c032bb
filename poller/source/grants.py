"""Asks the ledger for the permits of many practices together.

A transaction of its own for each practice waits for the disk by itself. With some hundred practices in a process more was asked for than
was answered within a permit's life; what came was burnt and asked for again, and so nothing left at all. Together one wait serves whoever
has come meanwhile, however many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from poller.core.budget import Ask, Grant
from poller.source.gate import Ledger, in_thread

_GATHER = 0.02
"""Seconds from one transaction to the next, in which those who ask come together. Whoever asks when nobody has does not wait."""
_AT_ONCE = 500
"""Practices in one transaction at most."""


class JointLedger(Ledger, Protocol):
    """A ledger that grants to several practices in one transaction."""

    def grant_together(self, asks: Sequence[Ask]) -> Mapping[str, Grant]:
        """By practice, as ``grant``, each practice named once. Left out is who would keep the others waiting."""
        ...


class Grants:
    """The asks of all gates of a process. All methods belong to one event loop. ``in_thread`` runs a blocking call off it."""

    def __init__(self, ledger: JointLedger, *, in_thread: Callable[..., Awaitable[Any]] = in_thread) -> None:
        self._ledger = ledger
        self._in_thread = in_thread
        self._asked: list[tuple[Ask, asyncio.Future[Grant | None]]] = []
        self._answering: asyncio.Task[None] | None = None

    async def grant(self, ask: Ask) -> Grant:
        """What the ledger grants. Raises what it raises."""
        answer: asyncio.Future[Grant | None] = asyncio.get_running_loop().create_future()
        self._asked.append((ask, answer))
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer())
        granted = await answer
        if granted is not None:
            return granted
        alone: Grant = await self._in_thread(
            self._ledger.grant, ask.practice, ask.want, ask.per_minute, ask.lead, ask.horizon
        )
        return alone

    async def _answer(self) -> None:
        """Pass on what was asked, a transaction after the other, until nobody asks."""
        loop = asyncio.get_running_loop()
        while self._asked:
            began = loop.time()
            asks = self._next()
            try:
                granted = await self._in_thread(self._ledger.grant_together, [ask for ask, _ in asks.values()])
            except Exception as error:  # noqa: BLE001 - each asker raises it
                for _, answer in asks.values():
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for practice, (_, answer) in asks.items():
                    if not answer.done():
                        answer.set_result(granted.get(practice))
            await asyncio.sleep(max(0.0, began + _GATHER - loop.time()))

    def _next(self) -> dict[str, tuple[Ask, asyncio.Future[Grant | None]]]:
        """Who is answered next, by practice: the first of each that still waits. The others stay."""
        chosen: dict[str, tuple[Ask, asyncio.Future[Grant | None]]] = {}
        later = []
        for ask, answer in self._asked:
            if answer.done():
                continue  # cancelled
            if ask.practice in chosen or len(chosen) >= _AT_ONCE:
                later.append((ask, answer))
            else:
                chosen[ask.practice] = ask, answer
        self._asked = later
        return chosen
