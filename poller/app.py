"""The composition root: the only place that knows every adapter."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Self

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine as Database
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from poller import metrics
from poller.broker.pgmq import PgmqBroker
from poller.broker.port import Broker
from poller.broker.rabbit import RabbitBroker
from poller.clock import AnchoredClock, Clock
from poller.config import Config, PracticeConfig
from poller.core.model import Purpose
from poller.core.sink import Only, Sink
from poller.errors import NotFound, StoreError
from poller.relay import Outlet, Relay
from poller.source.connection import open_source
from poller.source.probe import Verdict, probe
from poller.source.strategies import Source
from poller.store import engine as postgres
from poller.store.deletes import DeleteStore
from poller.store.embedded import EmbeddedPostgres, digest_key_file
from poller.store.ledger import PostgresLedger
from poller.store.log import EventLog
from poller.store.repository import Repository
from poller.store.state import LeaseKeeper, StateStore
from poller.supervise import Stores, Supervisor
from poller.web.status import StatusServer

log = structlog.get_logger(__name__)

_PARTITIONS_EVERY = dt.timedelta(hours=6)
_CLOCK_EVERY = dt.timedelta(minutes=1)
_CLOCK_STEP = dt.timedelta(seconds=1)
_DIGEST_KEY_BYTES = 16
_THREADS = 24


def sinks_of(config: Config) -> list[Sink]:
    """The sinks that the configuration names."""
    return [
        Sink(
            name=name,
            exchange=sink.exchange,
            queues=sink.queues,
            payload=sink.payload,
            baseline=sink.baseline == "publish",
            only=Only(sink.only.practices, sink.only.types, sink.only.actions),
        )
        for name, sink in config.sinks.items()
    ]


class Installation:
    """Store and broker of one configuration; a context manager."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def _embedded(self) -> EmbeddedPostgres:
        server = EmbeddedPostgres(self.config.data_dir)
        self._stack.callback(server.close)
        return server

    @cached_property
    def store_conninfo(self) -> str:
        """The libpq URI of our database."""
        if self.config.is_embedded_store:
            return self._embedded.store_conninfo
        password = self.config.store.password
        return make_conninfo(
            self.config.store.url, **({"password": password.read().strip()} if password is not None else {})
        )

    @cached_property
    def queue_conninfo(self) -> str:
        """The libpq URI of the embedded queue's database, which is all that its consumers need."""
        return self._embedded.queue_conninfo

    def broker(self) -> Broker:
        """The broker that the configuration names."""
        if self.config.is_embedded_broker:
            return PgmqBroker(self.queue_conninfo)
        password = self.config.broker.password
        return RabbitBroker(self.config.broker.url, password.read().strip() if password is not None else None)

    @cached_property
    def digest_key(self) -> bytes:
        """The installation's key. Raises StoreError if it is too short to be one."""
        if self.config.store.digest_key is not None:
            key = self.config.store.digest_key.read().strip().encode()
        else:
            key = digest_key_file(self.config.data_dir).read_text(encoding="ascii").strip().encode()
        if len(key) < _DIGEST_KEY_BYTES:
            raise StoreError(
                f"store.digest_key is too short; give it {_DIGEST_KEY_BYTES} characters or more, e.g. `openssl rand -hex 32`"
            )
        return key

    def prepare(self) -> None:
        """Bring the schema to this release and tie it to the digest key. Raises StoreError."""
        postgres.migrate(self.store_conninfo)
        postgres.prove_digest_key(self.engine(postgres.ENGINE), self.digest_key)

    def engine(self, role: str, pool_size: int = 5) -> Database:
        """An engine that acts as ``role``, closed with the installation."""
        engine = postgres.open_engine(self.store_conninfo, role, pool_size=pool_size)
        self._stack.callback(engine.dispose)
        return engine

    def _require_schema(self) -> None:
        postgres.require_current(self.store_conninfo)

    @cached_property
    def reading_log(self) -> EventLog:
        """The log as a person reads it. Raises StoreError on a database that was not migrated."""
        self._require_schema()
        return EventLog(self.engine(postgres.READER, 2))

    @cached_property
    def deletes(self) -> DeleteStore:
        """The absences, for the operator's word on them. Raises StoreError as above."""
        self._require_schema()
        return DeleteStore(self.engine(postgres.ENGINE, 1))

    def start_epoch(self, practice: str) -> int:
        """Begin a new epoch of a practice's log; returns its number. Raises NotFound, and StoreError as above."""
        self._require_schema()
        return EventLog(self.engine(postgres.ENGINE, 1)).start_epoch(practice)

    def practice(self, code: str) -> PracticeConfig:
        """A practice by its code. Raises NotFound with the codes there are."""
        if code not in self.config.practices:
            raise NotFound(
                f"no practice {code} in the configuration; there are: {', '.join(sorted(self.config.practices))}"
            )
        return self.config.practices[code]


class _ProbedSource(Source):
    """A practice's server, with the probe at hand."""

    async def probe(self, resource_type: str, now: dt.datetime) -> Verdict:
        """Find out, by evidence, how a resource type can be read."""
        return await probe(self, resource_type, now)


class Engine:
    """Everything that runs: a supervisor for each practice, the relay, the status server."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._config = installation.config
        engine = installation.engine(postgres.ENGINE, pool_size=10)
        self._database = engine
        self._ledger = PostgresLedger(
            installation.engine(postgres.ENGINE, 2)
        )  # a permit must not wait for a long write
        self._stores = Stores(
            LeaseKeeper(installation.engine(postgres.ENGINE, 1)),
            StateStore(engine),
            Repository(engine, installation.digest_key),
            DeleteStore(engine),
        )
        broker = installation.broker()
        self._relay = Relay(
            EventLog(installation.engine(postgres.RELAY, 2)),
            [Outlet(sink, broker.publisher(sink)) for sink in sinks_of(self._config)],
            {code: practice.base_url for code, practice in self._config.practices.items()},
        )
        self.http_port: int | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Poll, record and publish until ``stop``. Raises PollerError when it cannot begin."""
        clock = await asyncio.to_thread(postgres.open_clock, self._database)
        # The default, 6 threads on 2 cores, would let the slow writes of one practice keep all others from the store.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "store"))
        await self._keep_partitions(clock)
        scheduler = AsyncIOScheduler(timezone=dt.UTC)
        host, _, port = self._config.http.listen.rpartition(":")
        status = StatusServer(host.strip("[]"), int(port), self._readiness)
        self.http_port = status.port
        supervisors: list[asyncio.Task[None]] = []
        self._relay.start()
        scheduler.start()
        try:
            scheduler.add_job(self._catch_up, "interval", args=[clock], seconds=_CLOCK_EVERY.total_seconds())
            scheduler.add_job(
                self._keep_partitions, "interval", args=[clock], seconds=_PARTITIONS_EVERY.total_seconds()
            )
            supervisors = [
                asyncio.create_task(self._supervisor(practice, scheduler, clock).run(stop))
                for practice in self._config.practices.values()
            ]
            log.info("polling", action="engine.start", practices=len(supervisors), http=f"{host}:{status.port}")
            await stop.wait()
        finally:
            await asyncio.gather(*supervisors, return_exceptions=True)
            scheduler.shutdown(wait=False)
            await asyncio.to_thread(self._relay.stop)
            self._stores.keeper.close()
            status.close()
            log.info("stopped", action="engine.stop")

    def _supervisor(self, practice: PracticeConfig, scheduler: AsyncIOScheduler, clock: Clock) -> Supervisor:
        return Supervisor(
            practice,
            self._stores,
            lambda: self._open_source(practice, clock),
            scheduler,
            clock,
            self._installation.digest_key,
            self._relay.notify,
        )

    @contextlib.asynccontextmanager
    async def _open_source(self, practice: PracticeConfig, clock: Clock) -> AsyncIterator[_ProbedSource]:
        async with open_source(practice, self._ledger, clock, observer=_observer(practice.code)) as source:
            yield _ProbedSource(source.practice, source.client, clock)

    def _make_partitions(self, clock: Clock) -> None:
        with self._database.begin() as connection:
            postgres.ensure_partitions(connection, clock.now())

    async def _keep_partitions(self, clock: Clock) -> None:
        try:
            await asyncio.to_thread(self._make_partitions, clock)
        except DBAPIError as error:
            log.warning("partitions will be made later", action="partitions.fail", error=type(error).__name__)

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
