"""The loop: message by message, effect and memory in one transaction, acknowledged only after it."""

# mypy: disable-error-code="no-untyped-call"
# kombu says it is typed and is not.

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer as KombuConsumer
from sqlalchemy import Connection as Transaction
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from poller.consumer.change import Change, Gap, Malformed, Reprocess, Verdict, read_change
from poller.consumer.memory import Memory

log = logging.getLogger("poller.consumer")

CONTENT_TYPE = "application/cloudevents+json"
_SLICE = 0.5
"""Seconds between two looks at whether to stop."""
_LONGEST_PAUSE = 30.0

Apply = Callable[[Change, Transaction], None]
"""Does what a change is for, by the connection it is given: that transaction commits with the memory of it."""


class TryAgain(Exception):  # noqa: N818 - what it asks for
    """Raised by ``apply``: it is not the message's fault, so try it again until it goes."""


class TooManyAside(Exception):  # noqa: N818 - what has happened
    """So many messages could not be applied that it can hardly be their fault. The last one was not acknowledged; nothing is lost."""


def pgmq_options(conninfo: str, *, visibility_timeout: int = 30) -> dict[str, Any]:
    """``transport_options`` for the embedded queue; ``conninfo`` is what ``poller queue-url`` names QUEUE_DATABASE.

    ``visibility_timeout``: seconds after which what a killed consumer had read comes again.
    """
    return {
        "conn_string": conninfo,
        "init_extension": False,
        "fifo_mode": "round_robin",  # strict order; without it there is none
        "visibility_timeout": visibility_timeout,
        "polling_interval": 0.2,
    }


class Consumer:
    """Consumes one queue. Run one per queue: two would break the order, and the queue lets one at a time."""

    def __init__(
        self,
        url: str,
        queue: str,
        memory: Memory,
        apply: Apply,
        *,
        transport_options: Mapping[str, Any] | None = None,
        ssl: Mapping[str, Any] | bool = False,
        reprocess: Reprocess = "none",
        on_gap: Callable[[Gap], None] | None = None,
        attempts: int = 5,
        most_aside: int = 100,
        prefetch: int = 100,
    ) -> None:
        """``url``, ``transport_options``, ``ssl``: as kombu's ``Connection`` takes them; ``poller queue-url`` says the first two.

        ``reprocess``: replays whose events are applied though they were before. ``on_gap``: told of what has not arrived, after the commit.
        ``attempts``: how often a message that fails is tried before it is put aside, in place, so that none overtakes it.
        ``most_aside``: how many may stand aside before the consumer stops with TooManyAside.
        """
        self._connect = lambda: Connection(
            url, heartbeat=10, ssl=ssl, connect_timeout=5, transport_options=dict(transport_options or {})
        )
        self._queue, self._memory, self._apply = queue, memory, apply
        self._reprocess, self._on_gap = reprocess, on_gap
        self._attempts, self._most_aside, self._prefetch = attempts, most_aside, prefetch
        self._stopping = threading.Event()
        self.counts: Counter[str] = Counter()
        """Since the start: ``apply``, ``known``, ``older``, ``aside``, ``gap``, ``retry``; for a metric of yours."""

    def stop(self) -> None:
        """End after the message in hand. Safe from any thread and from a signal."""
        self._stopping.set()

    def run(self, *, signals: bool = True, until_idle: float | None = None) -> None:
        """Consume until :meth:`stop` or, with ``signals``, SIGTERM or SIGINT; then the message in hand is finished and acknowledged.

        ``until_idle``: end when nothing has come for so many seconds. A broker that goes away is tried again, ever less often, for good.
        Raises TooManyAside.
        """
        with _stopped_by_signals(self.stop) if signals else contextlib.nullcontext():
            self._whenever_possible("the database", self._memory.prepare)
            failures = 0
            while not self._stopping.is_set():
                connection, before = self._connect(), self.counts.total()
                try:
                    if self._consume(connection, until_idle):
                        return
                except (*connection.connection_errors, *connection.channel_errors) as error:
                    log.warning("the broker is away, trying again (%s)", type(error).__name__)
                    failures = 1 if self.counts.total() != before else failures + 1
                    self._pause(failures)
                finally:
                    with contextlib.suppress(*connection.connection_errors, *connection.channel_errors):
                        connection.release()

    def _consume(self, connection: Any, until_idle: float | None) -> bool:
        """Read until stopped; True if that was the wish. Errors of the broker pass."""
        queue = Queue(self._queue, no_declare=True)  # the poller has declared it
        channel = connection.channel()
        heard = time.monotonic()
        with KombuConsumer(
            channel, [queue], on_message=self._on_message, accept=[CONTENT_TYPE], prefetch_count=self._prefetch
        ):
            while not self._stopping.is_set():
                before = self.counts.total()
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=_SLICE)
                connection.heartbeat_check()
                if self.counts.total() != before:
                    heard = time.monotonic()
                elif until_idle is not None and time.monotonic() - heard > until_idle:
                    return True
        return True

    def _on_message(self, message: Any) -> None:
        if self._stopping.is_set():
            return  # not acknowledged: it comes again
        body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
        gap: list[Gap] = []
        if self._settle(body, gap):
            message.ack()  # only now: killed before this line, it comes again and is known
            for one in gap:
                self.counts["gap"] += 1
                log.warning("events have not arrived; ask for them with poller replay")
                if self._on_gap is not None:
                    self._on_gap(one)

    def _settle(self, body: bytes, gap: list[Gap]) -> bool:
        """Apply a message or put it aside. False if stopped before it was either."""
        try:
            change = read_change(body)
        except Malformed as error:
            return self._put_aside(body, None, f"malformed: {error}")
        failures = 0
        for tries in itertools.count(1):
            try:
                with self._memory.engine.begin() as transaction:
                    verdict, found = self._memory.take(transaction, change, self._reprocess)
                    if verdict is Verdict.APPLY:
                        self._apply(change, transaction)
            except Exception as error:  # noqa: BLE001 - whatever an application raises is its message's fault or the database's
                if not _is_outside(error):
                    failures += 1
                if failures >= self._attempts:
                    return self._put_aside(body, change, type(error).__name__)
                self.counts["retry"] += 1
                log.warning("a change could not be applied, trying again (%s)", type(error).__name__)
                if self._pause(tries):
                    return False
            else:
                self.counts[verdict.value] += 1
                gap.extend([found] if found is not None else [])
                return True
        raise AssertionError("counting does not end")

    def _put_aside(self, body: bytes, change: Change | None, reason: str) -> bool:
        def put() -> None:
            with self._memory.engine.begin() as transaction:
                if self._memory.count_aside(transaction) >= self._most_aside:
                    raise TooManyAside(
                        f"{self._most_aside} messages stand aside; look at Memory.aside(), mend, and start again"
                    )
                self._memory.put_aside(transaction, body, change, reason)
                if change is not None:  # it has arrived, though it was not applied
                    self._memory.arrive(transaction, change)

        if not self._whenever_possible("the database", put):
            return False
        self.counts["aside"] += 1
        log.error("a message was put aside (%s)", reason)
        return True

    def _whenever_possible(self, what: str, act: Callable[[], None]) -> bool:
        """Act, waiting while the database is away. False if stopped before."""
        for failures in itertools.count(1):
            try:
                act()
            except DBAPIError as error:
                if not _is_outside(error):
                    raise
                log.warning("%s is away, trying again (%s)", what, type(error).__name__)
                if self._pause(failures):
                    return False
            else:
                return True
        raise AssertionError("counting does not end")

    def _pause(self, failures: int) -> bool:
        """Wait, longer each time; whether it was told to stop."""
        longest = min(_LONGEST_PAUSE, 0.1 * 2 ** min(failures, 12))
        return self._stopping.wait(longest * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, guards nothing


def _is_outside(error: Exception) -> bool:
    """Whether an error says nothing of the message: the database is away, or the application says so."""
    return isinstance(error, (TryAgain, OperationalError, InterfaceError)) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


@contextlib.contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
