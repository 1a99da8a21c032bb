"""A practice whose readings are given by the test, recorded in a real database of the test's own."""

from __future__ import annotations

import datetime as dt
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Engine, event, text

from poller.core import canonical
from poller.core.canonical import CODEC_SEALED, CODEC_ZLIB
from poller.core.model import Coverage, Kind, Origin, Sighting, Target, Version
from poller.store.deletes import Absence, Breaker, DeleteStore, Settled
from poller.store.engine import ENGINE, open_engine, prove_digest_key
from poller.store.log import EventLog
from poller.store.repository import Lease, PassContext, PassEnd, Recorded, Repository
from poller.store.state import LeaseKeeper, StateStore
from poller.store.vault import PLAIN, Master, Masters

T0 = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
KEY = b"k" * 32
UNLIMITED = Breaker(1.0, 1_000_000, dt.timedelta(hours=1))
TABLES = ("snapshot", "history", "event", "member", "absence", "patient", "target", "practice_log")


@dataclass
class Practice:
    """One practice, its lease held, with everything of the store that acts on it."""

    engine: Engine
    code: str = "p1"
    kind: Kind = Kind.SWEEP
    lease: Lease = field(init=False)
    keeper: LeaseKeeper = field(init=False)
    seconds: Iterator[int] = field(init=False)

    def __post_init__(self) -> None:
        self.repository = Repository(self.engine, KEY)
        self.state = StateStore(self.engine)
        self.deletes = DeleteStore(self.engine)
        self.log = EventLog(self.engine)
        self.keeper = LeaseKeeper(self.engine)
        self.lease = self.keeper.take(self.code)
        self.seconds = itertools.count(10, 10)
        self.state.register_practice(self.lease)
        self.register(Target(self.code, "Observation", self.kind))

    @staticmethod
    def observation(id_: str = "o1", value: str = "13.2", **more: Any) -> dict[str, Any]:
        """A small Observation, with a value that decides whether it changed."""
        return {
            "resourceType": "Observation",
            "id": id_,
            "meta": {"versionId": "1", "lastUpdated": "2026-11-22T11:00:00Z"},
            "status": "final",
            "category": [{"coding": [{"code": "laboratory"}]}],
            "subject": {"reference": "Patient/a"},
            "valueString": value,
        } | more

    @staticmethod
    def patient(id_: str = "a", **more: Any) -> dict[str, Any]:
        """A small Patient."""
        return {"resourceType": "Patient", "id": id_, "name": [{"family": "Aho"}]} | more

    def at(self, second: float) -> dt.datetime:
        return T0 + dt.timedelta(seconds=second)

    def tick(self) -> float:
        """The next free second; reads that do not say when they began follow one another."""
        return next(self.seconds)

    def register(self, *targets: Target, second: float = 0) -> None:
        for resource_type in sorted({target.resource_type for target in targets}):
            self.state.register_feed(self.lease, resource_type, self.at(0))
            of_type = [target for target in targets if target.resource_type == resource_type]
            self.state.register_targets(self.lease, resource_type, of_type, self.at(second))

    @property
    def target(self) -> Target:
        return Target(self.code, "Observation", self.kind)

    def context(self, target: Target | None = None, **changes: Any) -> PassContext:
        return replace(PassContext(self.lease, target or self.target, Origin.LIVE), **changes)

    def version(self, resource: Mapping[str, Any], second: float, took: float = 1) -> Version:
        began = self.at(second)
        return canonical.reduce(
            Sighting(resource["resourceType"], resource["id"], resource, began, began + dt.timedelta(seconds=took)),
            KEY,
        )

    def read(
        self, *resources: Mapping[str, Any], second: float | None = None, took: float = 1, **context: Any
    ) -> Recorded:
        """One batch that began at ``second`` and is no pass's last."""
        began = self.tick() if second is None else second
        versions = [self.version(resource, began, took) for resource in resources]
        return self.repository.record(self.context(**context), versions, self.at(began + took))

    def whole(
        self,
        *resources: Mapping[str, Any],
        second: float | None = None,
        coverage: Coverage = Coverage.COMPLETE,
        target: Target | None = None,
        **end: Any,
    ) -> Recorded:
        """One pass of one batch."""
        began = self.tick() if second is None else second
        seen = [resource["id"] for resource in resources]
        counts = coverage is Coverage.COMPLETE
        pass_end = PassEnd(self.at(began), self.at(began + 2), coverage, seen=seen, counts=counts)
        versions = [self.version(resource, began + 0.5) for resource in resources]
        return self.repository.record(self.context(target), versions, self.at(began + 2), replace(pass_end, **end))

    def confirm(
        self, absence: Absence, second: float | None = None, breaker: Breaker = UNLIMITED, took: float = 1
    ) -> Settled:
        """A read that answered 404."""
        began = self.tick() if second is None else second
        read = self.at(began), self.at(began + took)
        return self.deletes.settle(self.lease, absence, *read, breaker, self.at(began + took))

    def delete(self, *ids: str, breaker: Breaker = UNLIMITED) -> list[Settled]:
        """A complete pass without these, then 404 for each."""
        kept = [row for row in self.live() if row not in ids]
        began = self.tick()
        end = PassEnd(self.at(began), self.at(began + 1), Coverage.COMPLETE, seen=kept, counts=True)
        self.repository.record(self.context(), [], self.at(began + 1), end)
        return [self.confirm(absence, breaker=breaker) for absence in self.deletes.due(self.code) if absence.id in ids]

    def actions(self) -> list[tuple[str, str, int]]:
        """What the log says, in its order: action, id, version."""
        return [(e.action.value, e.id, e.version) for e in self.log.after(self.code, 0, 0, 10_000, bodies=False)]

    def live(self) -> list[str]:
        return [row.id for row in self.rows("SELECT id FROM poller.snapshot WHERE NOT deleted ORDER BY id")]

    def rows(self, statement: str, **binds: Any) -> Sequence[Any]:
        with self.engine.connect() as connection:
            return connection.execute(text(statement), binds).all()

    def someone_waits(self) -> bool:
        """Whether a session of this database waits for a lock."""
        waiting = (
            "SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE datname = current_database() AND NOT granted"
        )
        return bool(self.rows(waiting))

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that a commit can write."""
        with self.engine.connect() as connection:
            return {
                table: sorted(map(tuple, connection.execute(text(f"SELECT * FROM poller.{table}"))), key=repr)  # noqa: S608
                for table in TABLES
            }

    @contextmanager
    def at_next_commit(self, act: Callable[[Any], None]) -> Iterator[None]:
        """Calls ``act`` with the connection when the next transaction is about to commit, and for no other."""
        once = threading.Semaphore()

        def before(connection: Any) -> None:
            if once.acquire(blocking=False):
                act(connection)

        event.listen(self.engine, "commit", before)
        try:
            yield
        finally:
            event.remove(self.engine, "commit", before)

    @contextmanager
    def failing_before(self, statement: int, break_it: Callable[[Any], None]) -> Iterator[list[str]]:
        """Calls ``break_it`` with the driver's connection before the k-th statement from now on; gives all statements."""
        sent: list[str] = []

        def before(connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
            sent.append(sql)
            if len(sent) == statement:
                break_it(connection.connection.driver_connection)

        event.listen(self.engine, "before_cursor_execute", before)
        try:
            yield sent
        finally:
            event.remove(self.engine, "before_cursor_execute", before)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Connections that act as the engine, to a database whose digest key is proven."""
    made = open_engine(database_url, ENGINE, pool_size=12)
    prove_digest_key(made, KEY)
    yield made
    made.dispose()


@pytest.fixture
def masters() -> Masters:
    """One master key."""
    return Masters([Master("k1", AESGCM(b"m" * 32))])


@pytest.fixture(params=["plain", "sealed"])
def bodies(
    request: pytest.FixtureRequest, database_url: str, masters: Masters, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Has whatever a test makes of the store without a word on encryption store bodies as they are, and then sealed."""
    keys = open_engine(database_url, ENGINE, pool_size=1)
    if request.param == "sealed":
        monkeypatch.setattr(PLAIN, "_engine", keys)
        monkeypatch.setattr(PLAIN, "_masters", masters)
        monkeypatch.setattr(PLAIN, "_known", {})
    yield request.param
    with keys.connect() as connection:
        codecs = set(
            connection.execute(text("SELECT DISTINCT codec FROM poller.snapshot WHERE body IS NOT NULL")).scalars()
        )
    keys.dispose()
    assert codecs <= {CODEC_SEALED if request.param == "sealed" else CODEC_ZLIB}


@pytest.fixture
def practice(engine: Engine) -> Iterator[Practice]:
    """A practice swept by content."""
    made = Practice(engine)
    yield made
    made.keeper.close()


@pytest.fixture
def by_patient(engine: Engine) -> Iterator[Practice]:
    """A practice read patient by patient; the test registers targets."""
    made = Practice(engine, kind=Kind.PATIENT)
    yield made
    made.keeper.close()
