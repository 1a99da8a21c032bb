"""One practice of a mode and one poller of it, in virtual time: the real engine on a real store, from a first survey until all is quiet."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from sqlalchemy import Engine

from poller.app import _SurveyedSource
from poller.config.model import PracticeConfig
from poller.config.secret import Secret
from poller.core import envelope, jsontext
from poller.core.model import Event, Kind
from poller.core.plan import TargetState
from poller.errands import errands_of
from poller.service import Service, Stores
from poller.simulator import modes
from poller.simulator.alignment import content_of
from poller.simulator.judge import FeedSchedule, Finding, Received, Rules, examine
from poller.simulator.passes import Way
from poller.simulator.truth import PracticeTruth, max_calls_in_60s
from poller.simulator.world import World
from poller.source.connection import open_source
from poller.source.strategies import Source
from poller.store.deletes import DeleteStore
from poller.store.log import EventLog
from poller.store.probes import ProbeStore
from poller.store.repository import Lease, Repository
from poller.store.state import LeaseKeeper, StateStore
from tests.acceptance.hypo.virtual import T0, VirtualClock, VirtualLoop
from tests.contract.parts.road import TOKEN_URL, Ledger, Road, base_url

KEY = b"k" * 32
CATEGORIES = ("laboratory", "vital-signs")
NAMES = ("A", "B")
EVERY, SWEEP_EVERY = 40, 80
"""Seconds."""
LIMIT = 100
"""Calls a minute; little, so that the budget is what holds the poller back."""
_TICK, _OBSERVE = 0.5, 5.0
"""As a supervisor has them."""
_played: Counter[str] = Counter()
"""How often each scene was played by this process."""


@dataclass(frozen=True)
class Bench:
    """What all plays share."""

    engine: Engine
    keeper: LeaseKeeper
    key_file: Path
    public_keys: Mapping[str, Any]


@dataclass(frozen=True)
class Scene:
    """A mode, and how a poller is told to read it."""

    mode: str
    strategy: str = "auto"
    seed: int = 1
    feeds: tuple[str, ...] = ("Patient", "Observation", "Condition")
    rate: float = 0.15
    """Changes a second."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """More of the practice's manners."""
    bulk: tuple[str, ...] = ()
    """What bulk exports are used for."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """More of the practice's configuration."""
    source: type[Source] = _SurveyedSource
    """A test puts a broken one here, and below."""
    ledger: type[Ledger] = Ledger


class Play:
    """One scene."""

    def __init__(self, bench: Bench, scene: Scene, loop: VirtualLoop) -> None:
        self.bench, self.scene, self.loop = bench, scene, loop
        self.code = _code(scene)
        self.clock = VirtualClock(loop)
        spec = modes.practice(scene.mode, self.code, **{**_SIZE, "types": _types(scene.feeds), **scene.spec})
        self.spec = spec
        self.world = World([spec], seed=scene.seed, now=T0)
        self.world.register(bench.public_keys)
        self.config = self._configured()
        self.rng = random.Random(scene.seed)  # noqa: S311 - a test's, to be repeated
        self.states, self.deletes = StateStore(bench.engine), DeleteStore(bench.engine)
        self._log = EventLog(bench.engine)
        self._heard: list[Event] = []
        self._has_news = False
        self._observed = 0.0
        self._open = contextlib.AsyncExitStack()
        self.ledger = scene.ledger()
        self.road = Road(self.world, self.clock.now, scene.seed)
        self.service: Service

    def _configured(self) -> PracticeConfig:
        scene, spec = self.scene, self.spec
        every = {"every": dt.timedelta(seconds=EVERY), "sweep_every": dt.timedelta(seconds=SWEEP_EVERY)}
        feeds: dict[str, Any] = {feed: dict(every) for feed in scene.feeds}
        feeds["Observation"]["categories"] = CATEGORIES
        feeds.setdefault("Condition", {})["categories"] = ()
        smart = {"token_url": TOKEN_URL, "client_id": spec.client, "key": Secret(file=self.bench.key_file, env=None)}
        said: dict[str, Any] = {
            "code": self.code,
            "base_url": base_url(self.code),
            "feeds": feeds,
            "strategy": scene.strategy,
            "budget": {"calls_per_minute": spec.limit, "max_in_flight": 4},
            "patients": {"names": NAMES},
            "patients_per_call": 2,
            "deletes": {"max_fraction": 1.0, "min_count": 1_000_000},
            "overlap": dt.timedelta(seconds=40),
            **({"auth": "none"} if spec.open_access else smart),
        }
        if spec.bulk:
            said["scopes"] = tuple(f"system/{feed}.read" for feed in (*scene.feeds, "Group"))
        if scene.bulk:
            said["bulk"] = {"group": f"{self.code}-ALL", "use": scene.bulk, "every": dt.timedelta(minutes=2)}
        return PracticeConfig.model_validate(said | dict(scene.config))

    # --- the engine

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The poller, as a supervisor runs it."""
        await self._start()
        try:
            yield
        finally:
            await self._stop()

    async def restart(self) -> None:
        """End the poller in the middle of what it does, and begin another that knows only what is stored."""
        await self._stop()
        await self._start()

    async def _start(self) -> None:
        lease = self.bench.keeper.take(self.code)
        self.states.register_practice(lease)
        opened = open_source(self.config, self.ledger, self.clock, transport=self.road)
        plain = await self._open.enter_async_context(opened)
        source = self.scene.source(self.config, plain.client, self.clock)
        self.service = self._served(lease, source)

    async def _stop(self) -> None:
        failed = self.service._cycle.failed
        await self.service.stop()
        await self._open.aclose()
        if failed.done() and not failed.cancelled():
            failed.result()

    def _served(self, lease: Lease, source: Any) -> Service:
        bench, repository = self.bench, Repository(self.bench.engine, KEY)
        stores = Stores(bench.keeper, self.states, repository, self.deletes, ProbeStore(bench.engine))
        errands = None
        if self.config.bulk is not None:
            errands = errands_of(self.config, lease, source, bench.engine, repository, self.clock, KEY, self._told)
        return Service(self.config, stores, lease, source, self.clock, KEY, self._told, errands)

    def _told(self) -> None:
        """There is something new in the log."""
        self._has_news = True

    async def live(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.loop.time() + seconds
        while self.loop.time() < end:
            await self._tick()

    async def until(self, reached: Callable[[], bool], most: float) -> bool:
        """Let time pass until this is so, at most so many seconds; whether it is."""
        end = self.loop.time() + most
        while self.loop.time() < end:
            await self._tick()
            if reached():
                return True
        return False

    async def _tick(self) -> None:
        await self.service.tick()
        if self.loop.time() >= self._observed + _OBSERVE:
            self._observed = self.loop.time()
            await self.service.observe()
        await asyncio.sleep(_TICK)
        failed = self.service._cycle.failed
        if failed.done():
            failed.result()

    # --- what it has come to

    @property
    def rungs(self) -> dict[str, str]:
        """How each feed is read."""
        return {feed: rung.value for feed, rung in self.service._cycle.targets.strategies.items()}

    @property
    def paused(self) -> set[str]:
        """Feeds that are left alone; ``*`` for the practice."""
        return set(self.service._standing.pauses)

    @property
    def late(self) -> set[str]:
        """Feeds that are said to be late."""
        return {feed for feed, late in self.service._cycle.lateness._late.items() if late}

    def is_whole(self, feeds: Sequence[str], since: dt.datetime) -> bool:
        """Whether all targets of these feeds have been read whole by a pass begun since, and nothing is open."""
        targets = self.service._cycle.targets
        if not set(feeds) <= set(targets.strategies):
            return False
        states = [state for feed in feeds for state in targets.of_feed(feed) if _is_read_again(state)]
        is_read = all(state.complete_began is not None and state.complete_began > since for state in states)
        return bool(states) and is_read and not any(state.reread or state.failures for state in states)

    def events(self) -> list[Event]:
        """All that was said so far."""
        if not self._has_news:
            return self._heard
        self._has_news = False
        last = (self._heard[-1].epoch, self._heard[-1].sequence) if self._heard else (0, 0)
        self._heard += self._log.after(self.code, *last, 100_000, bodies=True)
        return self._heard

    def told(self) -> dict[str, bytes]:
        """Reference → content of what is there, as the events tell."""
        state = {f"{event.resource_type}/{event.id}": event.body for event in self.events()}
        return {name: content for name, body in state.items() if (content := content_of(body)) is not None}

    def true(self, feeds: Sequence[str]) -> dict[str, bytes]:
        """Reference → content of all that these feeds cover, as it truly is."""
        return {
            f"{feed}/{name}": content
            for feed in feeds
            for name, resource in self.world.written(self.code, feed).items()
            if (feed != "Observation" or _has_category(resource)) and (content := content_of(resource)) is not None
        }

    def findings(self, feeds: Sequence[str], *, wide: bool) -> list[Finding]:
        """What the judge has against it: by the passes that it made, not by its schedule, for the server was not well."""
        received = [Received(jsontext.loads(_message(event)), event.detected_at) for event in self.events()]
        schedules = [self._schedule(feed, wide=wide) for feed in feeds]
        return examine(self.evidence, received, schedules, Rules(by_schedule=False)).findings

    @property
    def evidence(self) -> PracticeTruth:
        """As the simulator remembers it."""
        return self.world.evidence()[self.code]

    @property
    def most_calls(self) -> int:
        """That arrived within any 60 seconds."""
        return max_calls_in_60s(self.world.calls(self.code))

    @staticmethod
    def _schedule(feed: str, *, wide: bool) -> FeedSchedule:
        return FeedSchedule(
            feed,
            every=EVERY,
            categories=CATEGORIES if feed == "Observation" else (),
            names=NAMES if feed == "Patient" and not wide else (),
            ways=("search",) if feed == "Patient" else _WAYS,
            by_patient=not wide,
        )


_WAYS: tuple[Way, ...] = ("search", "patients", "everything")

_SIZE: Mapping[str, Any] = {
    "patients": 3,
    "max_patients": 4,
    "name_initials": "".join(NAMES),
    "labs_per_patient": 3,
    "tempo": 2.0 / 86_400,
    "page_size": 6,
    "limit": LIMIT,
    "max_per_patient": 12,
    "bulk_retry_seconds": 10,
}


def _code(scene: Scene) -> str:
    """Always the same for a scene, since a practice's life follows from it; another when it is played again."""
    name = f"{scene.mode}/{scene.strategy}/{scene.seed}/{scene.feeds}/{scene.bulk}/{sorted(scene.spec)}"
    _played[name] += 1
    return f"C{zlib.crc32(name.encode()):010d}" + (f"X{_played[name]}" if _played[name] > 1 else "")


def _is_read_again(state: TargetState) -> bool:
    """Whether a pass of the target is owed: not of an export, nor of a patient who is gone."""
    return not state.orphan and state.target.kind is not Kind.BULK


def _types(feeds: Sequence[str]) -> tuple[str, ...]:
    return tuple(feed for feed in feeds if feed != "Patient")


def _has_category(resource: Mapping[str, Any]) -> bool:
    codes = {coding.get("code") for concept in resource.get("category", ()) for coding in concept.get("coding", ())}
    return not codes.isdisjoint(CATEGORIES)


def _message(event: Event) -> bytes:
    url = base_url(event.practice)
    return envelope.message(event, base_url=url, payload="full-resource", previous_sequence=None).body


def play(bench: Bench, scene: Scene, course: Callable[[Play], Any]) -> Any:
    """Play a scene by the course that a test gives it."""
    loop = VirtualLoop()
    random.seed(scene.seed)  # the engine's own jitter

    async def main() -> Any:
        acting = Play(bench, scene, loop)
        now = SimpleNamespace(time=lambda: acting.clock.now().timestamp())
        with mock.patch("poller.source.auth.time", now):  # assertions are dated by it
            async with acting.running():
                return await course(acting)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main())
