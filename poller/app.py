"""The composition root: the only place that knows every adapter."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from poller import logs, metrics
from poller.clock import AnchoredClock, Clock
from poller.config import Config, PracticeConfig
from poller.config.difference import Difference
from poller.config.document import Unreadable
from poller.config.values import split_listen
from poller.control import Control, whoami
from poller.core.capability import PracticeReport
from poller.core.model import Purpose, Strategy
from poller.errands import errands_of
from poller.errors import StoreError
from poller.heartbeat import KEEP_EVERY, Heartbeat
from poller.installation import Installation, masters_of, sinks_of, sources_of
from poller.neighbours import needs
from poller.outlet import Outlet
from poller.promises import refusals, tell
from poller.relay import Relay
from poller.reloading import Reloading, Written
from poller.rounds import Rounds
from poller.service import Stores
from poller.source.connection import open_source
from poller.source.grants import Grants
from poller.source.sameness import Comparison, same_both_ways
from poller.source.strategies import Source
from poller.source.survey import survey
from poller.store import engine as postgres
from poller.store.audit import AuditRetention
from poller.store.configurations import ConfigurationStore
from poller.store.control import ALL, Ask, ControlStore, Post
from poller.store.deletes import DeleteStore
from poller.store.heartbeat import HeartbeatStore
from poller.store.ledger import PostgresLedger
from poller.store.planning import PlanningStore
from poller.store.probes import ProbeStore
from poller.store.repository import Repository
from poller.store.retention import Expired, Retention
from poller.store.sinks import SinkLog
from poller.store.state import LeaseKeeper, StateStore
from poller.supervise import Supervision, Supervisor
from poller.web.api import ReadingApi
from poller.web.serving import Server
from poller.web.status import StatusServer

__all__ = ["Engine", "Installation", "sinks_of"]

log = structlog.get_logger(__name__)

_PARTITIONS_EVERY = dt.timedelta(hours=6)
_WEIGH_EVERY = dt.timedelta(hours=1)
_CLOCK_EVERY = dt.timedelta(minutes=1)
_OTHERS_EVERY = dt.timedelta(minutes=1)
_CLOCK_STEP = dt.timedelta(seconds=1)
_THREADS = 24
_COLLECT = (10_000, 20, 50)
"""When Python looks for cycles: each 10,000 new objects instead of each 700. Parsed pages are thousands of objects without any, and looking
through them took a fifth of the time of reading one."""


def collect_seldom() -> None:
    """Make this process one that reads pages all day."""
    gc.set_threshold(*_COLLECT)


class _SurveyedSource(Source):
    """A practice's server, with surveys at hand."""

    async def survey(
        self, feeds: Sequence[str], sample: Sequence[str], now: dt.datetime, *, thorough: bool
    ) -> PracticeReport:
        """Find out, by evidence, how these feeds can be read."""
        return await survey(self, feeds, sample, now, thorough=thorough)

    async def same(self, feed: str, a: Strategy, b: Strategy, sample: Sequence[str]) -> Comparison:
        """Whether two rungs show the same resources with the same content."""
        return await same_both_ways(self, feed, a, b, sample)


class Engine:
    """Everything that runs: a supervisor for each practice, the relay, the status server, and the ear for operators."""

    def __init__(self, installation: Installation, written: Written | None = None) -> None:
        """``written``: the file that the configuration was read from; without, there is none to be read again."""
        self._installation = installation
        self._config = installation.config
        engine = installation.engine(postgres.ENGINE, pool_size=10)
        self._database = engine
        self._ledger = PostgresLedger(
            installation.engine(postgres.ENGINE, 2)
        )  # a permit must not wait for a long write
        self._grants = Grants(self._ledger)
        self._masters = installation.masters
        """Those of the configuration that was looked at last."""
        self._vault = installation.vault(postgres.ENGINE)
        self._stores = Stores(
            LeaseKeeper(installation.engine(postgres.ENGINE, 1)),
            StateStore(engine),
            Repository(engine, installation.digest_key, self._vault),
            DeleteStore(engine),
            ProbeStore(engine),
            PlanningStore(engine),
        )
        self._sources = sources_of(self._config)
        self._broker = installation.broker()
        self._relay = Relay(
            SinkLog(
                installation.engine(postgres.RELAY, max(2, len(self._config.sinks))),  # each has a thread
                installation.vault(postgres.RELAY),
            ),
            self._outlets(self._config),
            self._sources,
        )
        self._orders = ControlStore(engine)
        self._reloading = Reloading(written, ConfigurationStore(engine), self._refusals, self._follow)
        self._post = Post(installation.engine(postgres.ENGINE, 1), socket.gethostname(), os.getpid())
        self._heartbeat = Heartbeat(HeartbeatStore(engine), lambda: self._post.engine)
        self._supervision: Supervision | None = None
        self.http_port: int | None = None
        self.api_port: int | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Poll, record and publish until ``stop``. Raises PollerError when it cannot begin."""
        clock = await asyncio.to_thread(postgres.open_clock, self._database)
        # The default, 6 threads on 2 cores, would let the slow writes of one practice keep all others from the store.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "store"))
        await self._keep_partitions(clock)
        scheduler = AsyncIOScheduler(timezone=dt.UTC)
        rounds = Rounds(scheduler)
        host, _, port = self._config.http.listen.rpartition(":")
        status = StatusServer(host.strip("[]"), int(port), self._readiness)
        self.http_port = status.port
        api = self._open_api()
        supervision = Supervision(
            lambda practice, paused: self._supervisor(practice, paused, rounds, clock), self._stores.keeper
        )
        self._supervision = supervision
        control = Control(self._post, supervision, self._reloading)
        listening: list[asyncio.Task[None]] = []
        if self._config.untested_transport is not None:
            log.warning(
                "untested transport: at-least-once as far as that transport keeps what it has accepted; nothing shuts a second relay out",
                action="broker.untested",
                transport=self._config.untested_transport,
            )
        await self._leave_out()
        self._relay.start()
        scheduler.start()
        try:
            scheduler.add_job(self._catch_up, "interval", args=[clock], seconds=_CLOCK_EVERY.total_seconds())
            scheduler.add_job(
                self._keep_partitions, "interval", args=[clock], seconds=_PARTITIONS_EVERY.total_seconds()
            )
            scheduler.add_job(self._leave_out, "interval", seconds=_OTHERS_EVERY.total_seconds())
            scheduler.add_job(self._heartbeat.keep, "interval", seconds=KEEP_EVERY.total_seconds())
            scheduler.add_job(self._weigh, "interval", seconds=_WEIGH_EVERY.total_seconds())
            await control.begin()
            await self._keep_configuration()
            await supervision.follow(self._config.practices)
            listening = [
                asyncio.create_task(self._heartbeat.run()),
                asyncio.create_task(control.run(stop)),
                asyncio.create_task(self._reloading.watch(lambda: self.ask_reload("the file has changed"), stop)),
            ]
            log.info("polling", action="engine.start", practices=len(supervision), http=f"{host}:{status.port}")
            await stop.wait()
        finally:
            await supervision.end()
            if listening:
                listening[0].cancel()  # it has no end of its own
            await asyncio.gather(*listening, return_exceptions=True)
            scheduler.shutdown(wait=False)
            await asyncio.to_thread(self._relay.stop)
            self._stores.keeper.close()
            self._post.close()
            status.close()
            if api is not None:
                api.close()
            log.info("stopped", action="engine.stop")

    def _open_api(self) -> Server | None:
        """The reading API, where it is told to listen."""
        config = self._config.api
        if config.listen is None:
            return None
        host, port = split_listen(config.listen)
        api = ReadingApi(
            self._installation.engine(postgres.API, 10), self._sources, vault=self._installation.vault(postgres.API)
        )
        key = config.key.file if config.key is not None else None
        tls = (config.certificate, key) if config.certificate is not None and key is not None else None
        server = Server(api.app(), host, port, setting="api.listen", tls=tls)
        self.api_port = server.port
        log.info("versions can be read", action="api.start", http=f"{host}:{server.port}")
        return server

    async def ask_reload(self, reason: str) -> None:
        """Have this engine read its configuration again, as `poller reload` does for all engines."""
        if self._post.engine is not None:
            await asyncio.to_thread(
                self._orders.ask, Ask.RELOAD, ALL, actor=whoami(), reason=reason, engine=self._post.engine
            )

    async def _keep_configuration(self) -> None:
        await asyncio.to_thread(self._reloading.keep, whoami(), "start", self._post.runs)

    def _refusals(self, following: Written, before: Config | None) -> list[str]:
        """What the practices and their budgets say against a configuration: promises that cannot be kept."""
        found = list(refusals(following.config, self._installation.standing, before, dt.datetime.now(dt.UTC)))
        for code in following.config.practices:
            tell(code, found)
        self._masters = masters_of(following.config)
        self._masters.load()
        locked = self._installation.keys.refusals(self._masters, list(following.config.practices))
        return [*(f"{following.path}: encryption.keys: {one}" for one in locked)] + [
            one.at(following.path) for one in found if not one.outgrown
        ]

    async def _weigh(self) -> None:
        """Look whether practices have outgrown what was accepted of them. They go on: to stop them would make their feeds later still."""
        config = self._config
        try:
            found = await asyncio.to_thread(
                lambda: list(refusals(config, self._installation.standing, config, dt.datetime.now(dt.UTC)))
            )
        except (DBAPIError, StoreError) as error:
            log.warning("promises will be weighed later", action="config.weigh", error=type(error).__name__)
            return
        for code in config.practices:
            tell(code, found)

    async def _follow(self, config: Config, found: Difference) -> None:
        """Bring what runs in line with a configuration that was accepted."""
        if self._supervision is None:
            return
        self._config = config
        self._installation.masters.follow(self._masters)
        logs.configure(config.logging.format, config.logging.level)
        self._sources.update(sources_of(config))
        await self._supervision.follow(config.practices)
        await self._leave_out()
        if found.touches_relay:
            await asyncio.to_thread(self._relay.follow, self._outlets(config), self._sources)

    def _outlets(self, config: Config) -> list[Outlet]:
        return [Outlet(sink, self._broker.publisher(sink)) for sink in sinks_of(config)]

    def _supervisor(
        self, practice: PracticeConfig, paused: frozenset[str], rounds: Rounds, clock: Clock
    ) -> Supervisor[_SurveyedSource]:
        return Supervisor(
            practice,
            self._stores,
            lambda config: self._open_source(config, clock),
            rounds,
            clock,
            self._installation.digest_key,
            self._relay.notify,
            lambda config, lease, source: errands_of(
                config,
                lease,
                source,
                self._database,
                self._stores.repository,
                clock,
                self._installation.digest_key,
                self._relay.notify,
                self._vault,
            ),
            paused,
            self._heartbeat.beat,
            self._heartbeat.fare,
        )

    @contextlib.asynccontextmanager
    async def _open_source(self, practice: PracticeConfig, clock: Clock) -> AsyncIterator[_SurveyedSource]:
        async with open_source(
            practice, self._ledger, clock, grants=self._grants, observer=_observer(practice.code)
        ) as source:
            yield _SurveyedSource(source.practice, source.client, clock)

    def _make_partitions(self, clock: Clock) -> None:
        with self._database.begin() as connection:
            postgres.ensure_partitions(connection, clock.now())

    async def _keep_partitions(self, clock: Clock) -> None:
        try:
            await asyncio.to_thread(self._make_partitions, clock)
        except DBAPIError as error:
            log.warning("partitions will be made later", action="partitions.fail", error=type(error).__name__)
        if self._config.store.retention is not None:
            await self._drop_old(self._config.store.retention)
        await self._expire_audit(self._config.audit.retention)

    async def _expire_audit(self, keep: dt.timedelta) -> None:
        try:
            removed = await asyncio.to_thread(AuditRetention(self._database).expire, keep)
        except DBAPIError as error:
            log.warning("old audit will be removed later", action="audit.fail", error=type(error).__name__)
            return
        if removed:
            log.info("audit past its retention was removed", action="audit.expire", entries=removed)

    async def _drop_old(self, keep: dt.timedelta) -> None:
        """Drop what is older than is to be kept, as far as every sink of every poller on this store has passed it."""
        try:
            held = 0.0
            for one in await asyncio.to_thread(self._expire, keep):
                month = f"{one.month:%Y-%m}"
                if one.held_by is None:
                    log.info("a month of history was dropped", action="retention.drop", month=month)
                else:
                    held = dt.datetime.combine(one.month, dt.time(), dt.UTC).timestamp()
                    log.warning("old history is still needed", action="retention.hold", month=month, by=one.held_by)
            metrics.HELD_HISTORY.set(held)
        except (DBAPIError, Unreadable) as error:
            log.warning("old history will be dropped later", action="retention.fail", error=type(error).__name__)

    def _expire(self, keep: dt.timedelta) -> list[Expired]:
        config = self._config
        return Retention(self._database).expire(keep, needs(config, ConfigurationStore(self._database).latest()))

    async def _leave_out(self) -> None:
        """Have the relay leave other pollers' practices to them."""
        try:
            theirs = await asyncio.to_thread(ConfigurationStore(self._database).practices_of_others, self._config.name)
        except (DBAPIError, Unreadable) as error:
            log.warning("other pollers will be looked at later", action="relay.others", error=type(error).__name__)
            return
        self._relay.leave_out(theirs)

    async def _catch_up(self, clock: AnchoredClock) -> None:
        try:
            ahead = clock.catch_up(*await asyncio.to_thread(postgres.read_clock, self._database))
        except DBAPIError as error:
            log.warning("the database's clock will be read later", action="clock.fail", error=type(error).__name__)
            return
        if ahead > _CLOCK_STEP:
            log.warning(
                "the clock has caught up with the database's", action="clock.catch-up", seconds=ahead.total_seconds()
            )

    def _readiness(self) -> Mapping[str, str]:
        parts = {"store": "ok"} | {f"sink {name}": reason for name, reason in self._relay.troubles().items()}
        try:
            with self._database.connect() as connection:
                connection.execute(text("SELECT 1"))
        except DBAPIError as error:
            parts["store"] = type(error).__name__
        return parts


def _observer(practice: str) -> Callable[[Purpose, int | None, dt.timedelta], None]:
    def observe(purpose: Purpose, status: int | None, took: dt.timedelta) -> None:
        metrics.CALLS.labels(practice, purpose.value, str(status) if status is not None else "none").inc()
        metrics.CALL_SECONDS.labels(practice).observe(took.total_seconds())

    return observe
