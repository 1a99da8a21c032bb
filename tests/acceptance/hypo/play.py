"""Plays a case: the real source and the real store against the random server, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text

from poller.config import PracticeConfig
from poller.config.feed import FeedConfig
from poller.config.model import BudgetConfig, DeletesConfig, PatientsConfig
from poller.core.budget import Grant
from poller.core.capability import PracticeReport
from poller.core.ladder import Footing
from poller.core.model import Event, Strategy
from poller.service import Service, Stores
from poller.source.connection import open_source
from poller.source.sameness import Comparison, same_both_ways
from poller.source.strategies import Source
from poller.source.survey import survey
from poller.store.deletes import DeleteStore
from poller.store.engine import sql
from poller.store.log import EventLog
from poller.store.probes import ProbeStore
from poller.store.repository import Lease, Repository
from poller.store.state import LeaseKeeper, StateStore
from tests.acceptance.hypo.script import Case, Round, possible
from tests.acceptance.hypo.server import BASE, TIMEOUT, Server
from tests.acceptance.hypo.truth import CATEGORIES, NAMES, Content, Key, Truth
from tests.acceptance.hypo.virtual import VirtualClock, VirtualLoop

KEY = b"k" * 32
MOST_QUIET_ROUNDS = 12
"""After so many readings of everything without a fault or a change, what has not been found never will be."""
_EVERY, _SWEEP_EVERY = dt.timedelta(minutes=10), dt.timedelta(hours=1)
_QUIET = Round(wait=4000)
_CODES = (f"R{number:06d}" for number in itertools.count(1))


class Freely:
    """A ledger that grants everything at once."""

    def grant(self, _practice: str, want: int, _per_minute: float, *_: float) -> Grant:
        return Grant(0.0, want, 0.0)

    def block(self, _practice: str, _seconds: float, _left_ago: float | None = None) -> float:
        return 1.0


class Surveyed(Source):
    """A source as the engine has it."""

    async def survey(
        self, feeds: Sequence[str], sample: Sequence[str], now: dt.datetime, *, thorough: bool
    ) -> PracticeReport:
        return await survey(self, feeds, sample, now, thorough=thorough)

    async def same(self, feed: str, a: Strategy, b: Strategy, sample: Sequence[str]) -> Comparison:
        return await same_both_ways(self, feed, a, b, sample)


@dataclass(frozen=True)
class Played:
    """What a case came to."""

    truth: Truth
    events: list[Event]
    reads: dict[tuple[str, str, int], tuple[dt.datetime, dt.datetime]]
    """Type, id and version → when the request that showed it began and ended."""
    quiet: bool
    """Whether a reading of everything came that found nothing more, and left nothing missing."""


def state(events: Iterable[Event]) -> dict[Key, Content]:
    """What there is, as the events tell."""
    told = {(event.resource_type, event.id): event.body for event in events}
    return {key: essence(body) for key, body in told.items() if body is not None}


def essence(body: Mapping[str, Any]) -> Content:
    """A body without what may change without a change of meaning."""
    return {name: value for name, value in body.items() if name not in {"meta", "text"}}


def configured(code: str, case: Case) -> PracticeConfig:
    feed = FeedConfig(categories=(), every=_EVERY, sweep_every=_SWEEP_EVERY)
    feeds = {"Patient": feed, "Observation": feed.model_copy(update={"categories": CATEGORIES}), "Condition": feed}
    return PracticeConfig(
        code=code,
        base_url=BASE,
        auth="none",
        timeout=TIMEOUT,
        budget=BudgetConfig(calls_per_minute=1_000_000, max_in_flight=case.ways.in_flight),
        patients=PatientsConfig(names=NAMES),
        patients_per_call=2,
        deletes=DeletesConfig(max_fraction=1.0, min_count=1_000_000),
        feeds={name: feed for name, feed in feeds.items() if case.ways.conditions or name != "Condition"},
    )


class Poller:
    """What polls one practice; its parts are made anew when it has died."""

    def __init__(self, engine: Engine, case: Case, server: Server, loop: VirtualLoop) -> None:
        self._engine = engine
        self._server = server
        self._clock = VirtualClock(loop)
        self._case = case
        self._is_known = False
        self.config = configured(next(_CODES), case)
        self.stores = Stores(
            LeaseKeeper(engine), StateStore(engine), Repository(engine, KEY), DeleteStore(engine), ProbeStore(engine)
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take the practice and read it."""
        with self._engine.begin() as connection:
            epoch = connection.execute(sql("take_lease"), {"practice": self.config.code}).scalar_one()
        self._lease = Lease(self.config.code, epoch)
        if not self._is_known:
            self._begin()
        async with open_source(self.config, Freely(), self._clock, transport=self._server) as source:
            surveyed = Surveyed(source.practice, source.client, self._clock)
            self._service = Service(
                self.config, self.stores, self._lease, surveyed, self._clock, KEY, on_commit=lambda: None
            )
            try:
                await self.read_what_is_owed()  # nothing, but what is known is recalled
                yield
            finally:
                await self._service.stop()

    def _begin(self) -> None:
        """Stand each feed on its rung, as if a survey had found it and some below it."""
        self._is_known = True
        self.stores.states.register_practice(self._lease)
        for feed in self.config.feeds:
            rung, now = self._case.patients if feed == "Patient" else self._case.strategy, self._clock.now()
            if rung is not None:
                self.stores.states.register_feed(self._lease, feed, now)
                footing = Footing(rung, possible(self._case.ways, rung))
                self.stores.states.save_rung(self._lease, feed, footing, "by the script", {}, now)

    async def switch(self, rung: Strategy) -> None:
        """Read all but patients by this rung from now on, whatever was said of it."""
        ladder = self._service._ladder
        for feed in self.config.feeds:
            if feed != "Patient" and feed in ladder._footing:
                async with ladder._moving:
                    await ladder._stand(feed, ladder._footing[feed], rung, "by the script", {})

    async def read_what_is_owed(self) -> bool:
        """Passes and what follows from them, until nothing is under way. False if the poller dies of it."""
        service, cycle = self._service, self._service._cycle
        died = asyncio.ensure_future(self._server.died.wait())
        try:
            await service.tick()
            while under_way := [*cycle._running.values(), *service._work]:
                await asyncio.wait([*under_way, died], return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0)
                if cycle.failed.done():
                    cycle.failed.result()
                if died.done():
                    return False
        finally:
            died.cancel()
        return True

    @property
    def misses_something(self) -> bool:
        """Whether an absence is not settled yet."""
        return bool(self.stores.deletes.listed(self.config.code, ["missing", "held", "released"]))


class Game:
    """One case with one poller."""

    def __init__(self, engine: Engine, case: Case, loop: VirtualLoop) -> None:
        self._case, self._engine = case, engine
        self._server = Server(case.ways, VirtualClock(loop).now)
        self._poller = Poller(engine, case, self._server, loop)
        self._code = self._poller.config.code
        self._log = EventLog(engine)

    async def play(self) -> Played:
        todo = list(self._case.rounds)
        while True:
            async with self._poller.running():
                lives = True
                while lives and todo:
                    lives = await self._round(todo.pop(0))
                if lives:
                    return await self._until_quiet()

    async def _round(self, round_: Round) -> bool:
        """False if the poller dies of it."""
        self._server.begin(round_)
        if round_.adopt is not None:
            await self._poller.switch(round_.adopt)
        await asyncio.sleep(round_.wait)
        try:
            return await self._poller.read_what_is_owed()
        finally:
            self._server.end()

    async def _until_quiet(self) -> Played:
        """Nothing changes and nothing goes wrong any more: everything is found in a while, and then nothing more."""
        events, quiet = self._events_after(None), False
        for _ in range(MOST_QUIET_ROUNDS):
            await self._round(_QUIET)
            more = self._events_after(events[-1] if events else None)
            events += more
            quiet = not (more and self._case.lingers) and not self._poller.misses_something
            if quiet and state(events) == self._server.truth.state():
                break
        return Played(self._server.truth, events, self._reads(), quiet)

    def _events_after(self, last: Event | None) -> list[Event]:
        epoch, sequence = (last.epoch, last.sequence) if last is not None else (0, 0)
        return self._log.after(self._code, epoch, sequence, 10_000, bodies=True)

    def _reads(self) -> dict[tuple[str, str, int], tuple[dt.datetime, dt.datetime]]:
        statement = text(
            "SELECT resource_type, id, version, read_began, read_ended FROM poller.history WHERE practice = :practice"
        )
        with self._engine.connect() as connection:
            rows = connection.execute(statement, {"practice": self._code}).all()
        return {(row.resource_type, row.id, row.version): (row.read_began, row.read_ended) for row in rows}


def play(engine: Engine, case: Case) -> Played:
    """Play a case from its beginning until all is quiet."""
    loop = VirtualLoop(case.ways.commit)

    async def main() -> Played:
        return await Game(engine, case, loop).play()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main())
