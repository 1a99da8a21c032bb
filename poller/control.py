"""Does what operators ask of a running engine: to read its configuration again, to leave something alone, to read something now.

Commands are other processes, often of another machine. They write to the store what they ask, and read there what came of it; see
:mod:`poller.store.control`.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import socket
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

import structlog
from sqlalchemy.exc import DBAPIError

from poller.asking import Tell
from poller.errors import ConfigError, NotFound, PollerError
from poller.service import Service
from poller.store.control import ALL, Ask, OperatorPause, Order, Post, State
from poller.supervise import Supervision

log = structlog.get_logger(__name__)

LOOK_EVERY = 0.5
"""Seconds between two looks at what is asked."""


def whoami() -> str:
    """The user of the operating system who runs this, at which host: who asks, where nobody says otherwise."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


class Reloader(Protocol):
    """Takes up the configuration as it stands in its file."""

    async def reload(self, actor: str, reason: str) -> Mapping[str, Any]:
        """What is in force now and what has changed, for a person. Raises ConfigError, and then nothing has."""
        ...


class Control:
    """One engine's ear."""

    def __init__(self, post: Post, supervision: Supervision, reloader: Reloader) -> None:
        self._post = post
        self._supervision = supervision
        self._reloader = reloader
        self._paused: Mapping[str, frozenset[str]] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._is_deaf = False

    async def begin(self) -> None:
        """Become known, and heed the pauses before anything is polled. Raises DBAPIError."""
        pauses, _ = await asyncio.to_thread(self._post.look)
        await self._hold(pauses)

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until ``stop``."""
        try:
            while not stop.is_set():
                await self._listen()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_EVERY)
        finally:
            for task in self._work:
                task.cancel()
            await asyncio.gather(*self._work, return_exceptions=True)
            await asyncio.to_thread(self._post.close)

    async def _listen(self) -> None:
        try:
            pauses, orders = await asyncio.to_thread(self._post.look)
            await self._hold(pauses)
            for order in orders:
                await self._take(order)
        except DBAPIError as error:
            if not self._is_deaf:
                log.warning("operators are not heard for now", action="control.fail", error=type(error).__name__)
            self._is_deaf = True
        # What an operator asks must not end what runs, and neither must a defect of ours in doing it.
        except Exception:  # said with its traceback; one request that fails must not leave the engine deaf to the next
            log.exception("what an operator asks could not be done", action="control.fail")
        else:
            self._is_deaf = False

    async def _hold(self, pauses: Sequence[OperatorPause]) -> None:
        paused: dict[str, set[str]] = {}
        for one in pauses:
            paused.setdefault(one.practice, set()).add(one.feed)
        found = {practice: frozenset(feeds) for practice, feeds in paused.items()}
        if found != self._paused:
            await self._supervision.hold(found)
            self._paused = found

    async def _take(self, order: Order) -> None:
        """Do it, or begin to: a reading takes its time, and others may ask meanwhile."""
        log.info("an operator asks", action=f"control.{order.ask.value}", practice=order.practice, actor=order.actor)
        match order.ask:
            case Ask.RELOAD:
                await self._obey(order, self._reload(order))
            case Ask.PAUSE | Ask.RESUME:  # done with the look that brought this
                known = self._supervision.of(order.practice) is not None
                await self._answer(order, State.DONE if known else State.DECLINED, {})
            case Ask.READ_NOW:
                await self._begin(order, self._read_now(order))
            case Ask.RECONCILE:
                await self._begin(order, self._reconcile(order))

    async def _begin(self, order: Order, work: Coroutine[Any, Any, tuple[State, Mapping[str, Any]]]) -> None:
        """Do what takes its time."""
        await self._answer(order, State.UNDER_WAY, {})
        task = asyncio.create_task(self._obey(order, work))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _obey(self, order: Order, work: Any) -> None:
        """Answer with what the work comes to. Words of our own errors may be told; of others only the kind."""
        try:
            state, said = await work
        except ConfigError as error:
            state, said = State.REFUSED, {"why": "config", "problems": error.problems}
        except NotFound as error:
            state, said = State.REFUSED, {"why": "unknown", "problems": [str(error)]}
        except PollerError as error:
            state, said = State.REFUSED, {"why": "failed", "problems": [str(error)]}
        except DBAPIError as error:
            state, said = State.REFUSED, {"why": "store", "problems": [f"the store failed ({type(error).__name__})"]}
        # The one who waits for an answer gets one, whatever it was.
        except Exception as error:
            log.exception("what an operator asks could not be done", action="control.fail")
            state, said = (
                State.REFUSED,
                {"why": "failed", "problems": [f"an unexpected error ({type(error).__name__})"]},
            )
        await self._answer(order, state, said)

    async def _answer(self, order: Order, state: State, said: Mapping[str, Any]) -> None:
        await asyncio.to_thread(self._post.answer, order, state, said)

    async def _reload(self, order: Order) -> tuple[State, Mapping[str, Any]]:
        if order.practice != ALL:
            return State.DECLINED, {}
        return State.DONE, await self._reloader.reload(order.actor, order.reason)

    async def _read_now(self, order: Order) -> tuple[State, Mapping[str, Any]]:
        service = self._service(order.practice)
        if service is None or order.patient is None:
            return State.DECLINED, {}
        return State.DONE, await service.read_now(order.patient, self._teller(order))

    async def _reconcile(self, order: Order) -> tuple[State, Mapping[str, Any]]:
        service = self._service(order.practice)
        if service is None:
            return State.DECLINED, {}
        return State.DONE, await service.reconcile(order.feed, self._teller(order))

    def _service(self, practice: str) -> Service | None:
        """The practice as this engine reads it; None if it does not. Raises PollerError while an operator has it paused."""
        supervisor = self._supervision.of(practice)
        if supervisor is None:
            return None
        if supervisor.is_paused:
            raise PollerError("an operator has paused the practice; `poller resume` ends that")
        return supervisor.service

    def _teller(self, order: Order) -> Tell:
        async def tell(said: Mapping[str, Any]) -> None:
            await self._answer(order, State.UNDER_WAY, said)

        return tell
