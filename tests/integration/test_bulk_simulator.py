"""Exports of simulated practices over real HTTP: what the simulator holds is what the store has, whatever its manners."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from poller import keys
from poller.clock import SystemClock
from poller.config.feed import FeedConfig
from poller.config.model import BudgetConfig, BulkConfig, PracticeConfig
from poller.config.secret import Secret
from poller.core import canonical, jsontext
from poller.core.export import State, Use
from poller.core.model import Coverage
from poller.export import Exporter, ExportReport
from poller.simulator.server import SimulatorServer
from poller.simulator.spec import PracticeSpec
from poller.simulator.world import World
from poller.source.bulk import Bulk
from poller.source.connection import open_source
from poller.store.exports import ExportStore
from poller.store.repository import Repository
from poller.store.state import LeaseKeeper, StateStore
from tests.export_bench import KEY, opened
from tests.source_bench import Freely

TYPES = ("Patient", "Observation", "Encounter", "Practitioner")
ECW, OPEN = "ECWECW", "OPENOP"
USUAL: dict[str, Any] = {"bulk": True, "bulk_seconds": 0.2, "limit": 1_000_000}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SimulatorServer, Secret]]:
    specs = [
        PracticeSpec(ECW, "ecw", patients=2, name_initials="ABCD", **USUAL),
        PracticeSpec(OPEN, "open", patients=2, bulk_deleted=True, **USUAL),
    ]
    world = World(specs)
    pair = keys.new_key(tmp_path_factory.mktemp("keys"))
    world.register(keys.jwks([(pair.kid, pair.private_key.public_key())]))
    with SimulatorServer(world) as running:
        yield running, Secret(file=pair.private_path, env=None)


@pytest.fixture(scope="module")
def engine(postgres_server: str, template_database: str) -> Iterator[Engine]:
    yield from opened(postgres_server, template_database)


class Clock(SystemClock):
    """May be behind."""

    behind = dt.timedelta(0)

    def now(self) -> dt.datetime:
        return super().now() - self.behind


class Bench:
    """One simulated practice, exported into a store where it has a code of its own."""

    def __init__(self, server: SimulatorServer, key: Secret, engine: Engine, code: str) -> None:
        self.world, self.engine, self.simulated = server.world, engine, code
        self.code = uuid.uuid4().hex[:12]
        self.clock = Clock()
        self.keeper = LeaseKeeper(engine)
        self.lease = self.keeper.take(self.code)
        state = StateStore(engine)
        state.register_practice(self.lease)
        for name in TYPES:
            state.register_feed(self.lease, name, self.clock.now())
        state.register_bulk(self.lease, TYPES, self.clock.now())
        [group] = self.world.written(code, "Group")
        self.config = PracticeConfig.model_validate(
            {
                "code": self.code,
                "base_url": server.base_url(code),
                "token_url": server.token_url,
                "client_id": f"poller-{code.lower()}",
                "key": key,
                "scopes": ("system/Group.read", *(f"system/{name}.read" for name in TYPES)),
                "feeds": {name: FeedConfig.model_validate({}) for name in TYPES},
                "budget": BudgetConfig(calls_per_minute=250, share=1.0, max_in_flight=6),
                "timeout": dt.timedelta(seconds=20),
                "bulk": BulkConfig(group=group, timeout=dt.timedelta(seconds=2)),
            }
        )

    def run(self, use: Use = Use.FIRST_LOAD, *, incremental: bool = False) -> ExportReport:
        async def main() -> ExportReport:
            async with open_source(self.config, Freely(), self.clock) as source:
                exporter = Exporter(
                    self.config,
                    self.lease,
                    Bulk(source.client, self.clock),
                    Repository(self.engine, KEY),
                    ExportStore(self.engine),
                    self.clock,
                    KEY,
                    lambda: None,
                    sleep=lambda seconds: asyncio.sleep(min(seconds, 0.05)),
                )
                since = await exporter.next_since(TYPES) if incremental else None
                assert (since is not None) is incremental
                return await exporter.run(use, TYPES, since)

        return asyncio.run(main())

    def select(self, statement: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(statement), {"practice": self.code}).all())

    def stored(self) -> dict[str, Any]:
        rows = self.select("SELECT id, codec, body FROM poller.snapshot WHERE practice = :practice AND NOT deleted")
        return {
            row.id: jsontext.dumps(canonical.decode_body(row.codec, bytes(row.body)), sort_keys=True) for row in rows
        }

    def truth(self) -> dict[str, Any]:
        written = [item for name in TYPES for item in self.world.written(self.simulated, name).items()]
        return {name: jsontext.dumps(dict(resource), sort_keys=True) for name, resource in written}

    def missing(self) -> list[str]:
        return [row.id for row in self.select("SELECT id FROM poller.absence WHERE practice = :practice ORDER BY id")]


@pytest.fixture(params=[ECW, OPEN])
def bench(
    server: tuple[SimulatorServer, Secret],
    engine: Engine,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    monkeypatch.setattr("poller.core.faults.backoff", lambda _retry, _jitter: 0.0)
    made = Bench(*server, engine, request.param)
    usual = made.world.practices[request.param].spec
    yield made
    made.world.practices[request.param].spec = usual
    made.keeper.close()


ODD: dict[str, Any] = {
    "bulk_file_rows": 25,
    "bulk_notes": True,
    "bulk_gone_mid_file": True,
    "bulk_links_elsewhere": True,
}


def test_what_is_exported_is_what_is_there(bench: Bench) -> None:
    bench.world.set_manners(bench.simulated, **ODD, bulk_retry_after="nonsense")
    report = bench.run()
    assert report.job.is_whole
    assert bench.stored() == bench.truth()
    assert set(report.tally.coverage.values()) == {Coverage.COMPLETE}


def test_what_changes_and_goes_is_found_by_the_next(bench: Bench) -> None:
    bench.clock.behind = dt.timedelta(seconds=10)  # stamps of whole seconds leave two in doubt
    bench.run()
    bench.clock.behind = dt.timedelta(0)
    changed, gone, *_ = sorted(bench.world.written(bench.simulated, "Observation"))
    resource = dict(bench.world.written(bench.simulated, "Observation")[changed])
    now = bench.clock.now()
    bench.world.put(bench.simulated, resource | {"valueString": uuid.uuid4().hex}, now)
    bench.world.delete(bench.simulated, "Observation", gone, now)
    incremental = bench.simulated == OPEN
    report = bench.run(Use.RECONCILE, incremental=incremental)
    assert report.job.is_whole
    assert report.tally.changes == 1
    assert bench.missing() == [gone]
    stored = bench.stored()
    stored.pop(gone)
    assert stored == bench.truth()


@pytest.mark.parametrize(
    ("bench", "manners", "state", "failure"),
    [
        (OPEN, {"bulk_errors": ("Observation",)}, State.DONE, "incomplete"),
        (ECW, {"bulk_stuck": True}, State.CANCELLED, "stuck"),
        (ECW, {"bulk": False}, State.FAILED, "unauthorized"),
    ],
    indirect=["bench"],
)
def test_what_fails_is_said_and_proves_nothing(
    bench: Bench, manners: dict[str, Any], state: State, failure: str
) -> None:
    bench.world.set_manners(bench.simulated, **manners)
    report = bench.run()
    assert (report.job.state, report.job.failure, report.job.poll_url) == (state, failure, None)
    assert bench.missing() == []
    assert Coverage.COMPLETE not in report.tally.coverage.values()
    if state is State.CANCELLED:
        bench.world.set_manners(bench.simulated, bulk_stuck=False)
        assert bench.run().job.is_whole, "the group is free again"
