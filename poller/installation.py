"""The store and the broker of one configuration: what commands and the engine open.

Adapters are loaded by whoever opens them: one of the two brokers is never wanted, and with a store and a broker of its own an
installation needs nothing of what the embedded server takes to start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine as Database

from poller.broker.port import Broker, Eraser
from poller.config import Config, PracticeConfig
from poller.config.encryption import MasterKey
from poller.config.sinks import start_of
from poller.core.sink import Only, Sink
from poller.errors import Code, NotFound, StoreError
from poller.store import engine as postgres
from poller.store.audit import AuditStore
from poller.store.configurations import ConfigurationStore
from poller.store.control import ControlStore
from poller.store.coverage import CoverageStore
from poller.store.deletes import DeleteStore
from poller.store.forget import ForgetStore
from poller.store.keys import KeyStore
from poller.store.log import EventLog
from poller.store.outlook import OutlookStore, Standing
from poller.store.probes import ProbeStore
from poller.store.reading import ReadingStore
from poller.store.replays import ReplayStore
from poller.store.sealing import Sealing
from poller.store.sinks import SinkLog
from poller.store.state import StateStore
from poller.store.status import StatusStore
from poller.store.tokens import TokenStore
from poller.store.vault import Master, Masters, Vault
from poller.store.verify import VerifyStore
from poller.store.why import WhyStore

if TYPE_CHECKING:
    from poller.store.embedded import EmbeddedPostgres

_DIGEST_KEY_BYTES = 16


def sinks_of(config: Config) -> list[Sink]:
    """The sinks that the configuration names."""
    return [
        Sink(
            name=name,
            exchange=sink.exchange,
            queues=sink.queues,
            payload=sink.payload,
            baseline=sink.baseline == "publish",
            only=Only(**dict(sink.only)),
            start=start_of(sink.start),
            pace=sink.pace,
        )
        for name, sink in config.sinks.items()
    ]


def sources_of(config: Config) -> dict[str, str]:
    """Base URL by practice."""
    return {code: practice.base_url for code, practice in config.practices.items()}


def masters_of(config: Config) -> Masters:
    """The master keys that the configuration names, each read when it is first wanted."""

    def reading(key: MasterKey) -> Callable[[], AESGCM]:
        return lambda: AESGCM(key.key())

    return Masters([Master(one.name, reading(one)) for one in config.encryption.keys])


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
        from poller.store.embedded import EmbeddedPostgres  # noqa: PLC0415

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
        """The broker that the configuration names. Raises ConfigError where its library is not installed."""
        if self.config.is_embedded_broker:
            from poller.broker.pgmq import PgmqBroker  # noqa: PLC0415

            return PgmqBroker(self.queue_conninfo)
        url, secret = self.config.broker.url, self.config.broker.password
        password = secret.read().strip() if secret is not None else None
        if self.config.untested_transport is not None:
            from poller.broker.plain import PlainBroker  # noqa: PLC0415

            return PlainBroker(url, password)
        from poller.broker.rabbit import RabbitBroker  # noqa: PLC0415

        return RabbitBroker(url, password, self.config.broker.ca)

    @cached_property
    def digest_key(self) -> bytes:
        """The installation's key. Raises StoreError if it is too short to be one."""
        if self.config.store.digest_key is not None:
            key = self.config.store.digest_key.read().strip().encode()
        else:
            from poller.store.embedded import digest_key_file  # noqa: PLC0415

            key = digest_key_file(self.config.data_dir).read_text(encoding="ascii").strip().encode()
        if len(key) < _DIGEST_KEY_BYTES:
            raise StoreError(
                f"store.digest_key is too short; give it {_DIGEST_KEY_BYTES} characters or more, e.g. `openssl rand -hex 32`",
                Code.STORE_KEY,
            )
        return key

    @cached_property
    def masters(self) -> Masters:
        """The master keys in force: read once, and again by whoever takes up another configuration."""
        return masters_of(self.config)

    def vault(self, role: str) -> Vault:
        """Where bodies are sealed and opened by who acts as ``role``. What needs a master key raises ConfigError if it cannot be had."""
        return Vault(self.engine(role, 1), self.masters)

    @cached_property
    def keys(self) -> KeyStore:
        """The practices' keys. Raises StoreError on a database that was not migrated."""
        self._require_schema()
        return KeyStore(self.engine(postgres.ENGINE, 1), self.masters)

    def sealing(self, practice: str) -> Sealing:
        """Seals what stands unsealed, as the owner of the tables. Raises StoreError as above."""
        self._require_schema()
        return Sealing(self.engine(postgres.OWNER, 1), Vault(self.engine(postgres.ENGINE, 1), self.masters), practice)

    def prepare(self) -> None:
        """Bring the schema to this release; tie it to the digest key, and prove that the master keys open what they must.

        Raises StoreError, and ConfigError for a master key that cannot be had.
        """
        self.masters.load()
        postgres.migrate(self.store_conninfo)
        postgres.prove_digest_key(self.engine(postgres.ENGINE), self.digest_key)
        if refused := self.keys.refusals(self.masters, list(self.config.practices)):
            raise StoreError("\n".join(refused))

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
        return EventLog(self.engine(postgres.READER, 2), self.vault(postgres.READER))

    @cached_property
    def coverage(self) -> CoverageStore:
        """What was read and what never was. Raises StoreError as above."""
        self._require_schema()
        return CoverageStore(self.engine(postgres.READER, 1))

    @cached_property
    def status(self) -> StatusStore:
        """How practices stand. Raises StoreError as above."""
        self._require_schema()
        return StatusStore(self.engine(postgres.READER, 1))

    @cached_property
    def why(self) -> WhyStore:
        """One resource's, or one patient's, way. Raises StoreError as above."""
        self._require_schema()
        return WhyStore(self.engine(postgres.READER, 1))

    @cached_property
    def verify(self) -> VerifyStore:
        """Where outside dumps are compared with. Raises StoreError as above."""
        self._require_schema()
        return VerifyStore(self.engine(postgres.READER, 1), self.vault(postgres.READER))

    @property
    def has_store(self) -> bool:
        """Whether there may be anything in the store: an embedded one that was never started is not made for a look."""
        return not self.config.is_embedded_store or (self.config.data_dir / "postgres").exists()

    @cached_property
    def _outlook(self) -> OutlookStore:
        self._require_schema()
        return OutlookStore(self.engine(postgres.READER, 1))

    def standing(self, practice: str) -> Standing:
        """How a practice stands, to weigh its schedules by; empty where there is no store yet. Raises StoreError as above."""
        return self._outlook.look(practice) if self.has_store else Standing()

    @cached_property
    def probes(self) -> ProbeStore:
        """What practices were found to allow. Raises StoreError as above."""
        self._require_schema()
        return ProbeStore(self.engine(postgres.ENGINE, 1))

    @cached_property
    def replays(self) -> ReplayStore:
        """Replays and holds. Raises StoreError as above."""
        self._require_schema()
        return ReplayStore(self.engine(postgres.RELAY, 1))

    @cached_property
    def reading(self) -> ReadingStore:
        """Versions, and the state at a time. Raises StoreError as above."""
        self._require_schema()
        return ReadingStore(self.engine(postgres.READER, 2), self.vault(postgres.READER))

    @cached_property
    def tokens(self) -> TokenStore:
        """Tokens of the reading API. Raises StoreError as above."""
        self._require_schema()
        return TokenStore(self.engine(postgres.ENGINE, 1))

    @cached_property
    def audit(self) -> AuditStore:
        """The audit, to append to and to read. Raises StoreError as above."""
        self._require_schema()
        return AuditStore(self.engine(postgres.READER, 1))

    @cached_property
    def forgetting(self) -> ForgetStore:
        """Where practices and patients are forgotten. Raises StoreError as above, also for a login that may not."""
        self._require_schema()
        return ForgetStore(self.engine(postgres.OWNER, 1))

    def eraser(self) -> Eraser | None:
        """The broker, where something can be taken away from it."""
        broker = self.broker()
        return broker if isinstance(broker, Eraser) else None

    @cached_property
    def deletes(self) -> DeleteStore:
        """The absences, for the operator's word on them. Raises StoreError as above."""
        self._require_schema()
        return DeleteStore(self.engine(postgres.ENGINE, 1))

    @cached_property
    def sinks(self) -> SinkLog:
        """The cursors and what is parked, for the operator's word on it. Raises StoreError as above."""
        self._require_schema()
        return SinkLog(self.engine(postgres.RELAY, 1), self.vault(postgres.RELAY))

    @cached_property
    def control(self) -> ControlStore:
        """What operators ask of running engines. Raises StoreError as above."""
        self._require_schema()
        return ControlStore(self.engine(postgres.ENGINE, 2))

    @cached_property
    def configurations(self) -> ConfigurationStore:
        """The configurations that were accepted. Raises StoreError as above."""
        self._require_schema()
        return ConfigurationStore(self.engine(postgres.ENGINE, 1))

    @cached_property
    def states(self) -> StateStore:
        """What is known of feeds, targets and patients. Raises StoreError as above."""
        self._require_schema()
        return StateStore(self.engine(postgres.ENGINE, 1))

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
