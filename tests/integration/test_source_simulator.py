"""The source before the simulator, over real HTTP: both modes, with and without faults."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from poller import keys
from poller.clock import SystemClock
from poller.config.feed import FeedConfig
from poller.config.model import BudgetConfig, PracticeConfig
from poller.config.secret import Secret
from poller.core.model import Coverage, FailureKind, Gone, Kind, Present, Purpose, Target
from poller.simulator.server import SimulatorServer
from poller.simulator.spec import PracticeSpec
from poller.simulator.world import World
from poller.source.connection import open_source
from poller.source.reading import Reading
from poller.source.strategies import Source
from tests.source_bench import Freely

ECW, OPEN = "ECWECW", "OPENOP"
MANY = 1_000_000


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> keys.KeyPair:
    return keys.new_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def server(pair: keys.KeyPair) -> Iterator[SimulatorServer]:
    specs = [
        PracticeSpec(ECW, "ecw", patients=4, name_initials="ABCD", limit=MANY),
        PracticeSpec(OPEN, "open", patients=4, limit=MANY, page_size=7),
    ]
    world = World(specs)
    world.register(keys.jwks([(pair.kid, pair.private_key.public_key())]))
    with SimulatorServer(world) as running:
        yield running


class Bench:
    """Sources of the simulated practices."""

    def __init__(self, server: SimulatorServer, key: Path) -> None:
        self.server = server
        self.world = server.world
        self._key = key

    @asynccontextmanager
    async def source(self, code: str, **changes: Any) -> AsyncIterator[Source]:
        types = ("Patient", "Observation", "Encounter", "Practitioner")
        given: dict[str, Any] = {
            "code": code,
            "base_url": self.server.base_url(code),
            "token_url": self.server.token_url,
            "client_id": f"poller-{code.lower()}",
            "key": Secret(file=self._key, env=None),
            "feeds": {name: FeedConfig.model_validate({}) for name in types},
            "budget": BudgetConfig(calls_per_minute=250, share=1.0, max_in_flight=6),
            "timeout": dt.timedelta(seconds=20),
        }
        config = PracticeConfig.model_validate(given | changes)
        async with open_source(config, Freely(), SystemClock()) as source:
            yield source

    def run(self, code: str, main: Callable[[Source], Coroutine[Any, Any, Any]], **changes: Any) -> Any:
        async def whole() -> Any:
            async with self.source(code, **changes) as source:
                return await main(source)

        return asyncio.run(whole())

    def ids(self, code: str, resource_type: str) -> list[str]:
        return sorted(self.world.written(code, resource_type))


@pytest.fixture
def bench(server: SimulatorServer, pair: keys.KeyPair, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("poller.core.faults.backoff", lambda _retry, _jitter: 0.0)
    return Bench(server, pair.private_path)


async def ids_of(reading: Reading) -> list[str]:
    return [sighting.id async for batch in reading for sighting in batch.sightings]


def test_a_sweep_of_many_pages_shows_everything(bench: Bench) -> None:
    async def main(source: Source) -> None:
        reading = source.read(Target(OPEN, "Observation", Kind.SWEEP), None, Purpose.BACKFILL)
        assert sorted(await ids_of(reading)) == bench.ids(OPEN, "Observation")
        assert (reading.coverage, reading.failure) == (Coverage.COMPLETE, None)
        assert reading.calls > 3
        assert reading.server_date is not None

    bench.run(OPEN, main)


def test_a_window_shows_what_changed_since(bench: Bench) -> None:
    async def main(source: Source) -> None:
        now = bench.server.clock()
        target = Target(OPEN, "Observation", Kind.WINDOW)
        assert await ids_of(source.read(target, now + dt.timedelta(seconds=5), Purpose.DETECT)) == []
        name = bench.ids(OPEN, "Observation")[0]
        edited = {**bench.world.written(OPEN, "Observation")[name], "status": "amended"}
        bench.world.put(OPEN, edited, now + dt.timedelta(seconds=8))
        reading = source.read(target, now + dt.timedelta(seconds=5), Purpose.DETECT)
        await ids_of(reading)
        assert reading.coverage is Coverage.COMPLETE
        everything = source.read(target, None, Purpose.DETECT)
        assert name in await ids_of(everything)

    bench.run(OPEN, main)


def test_an_ecw_practice_is_read_by_names_then_patient_by_patient(bench: Bench) -> None:
    async def main(source: Source) -> None:
        names = source.read(Target(ECW, "Patient", Kind.NAMES, names=tuple("abcd")), None, Purpose.DETECT)
        patients = await ids_of(names)
        assert sorted(patients) == bench.ids(ECW, "Patient")
        assert names.coverage is Coverage.COMPLETE
        shown: set[str] = set()
        for patient in patients:
            target = Target(ECW, "Encounter", Kind.PATIENT, patient=patient)
            reading = source.read(target, None, Purpose.DETECT)
            shown.update(await ids_of(reading))
            assert reading.coverage is Coverage.COMPLETE
        assert sorted(shown) == bench.ids(ECW, "Encounter")
        one = source.read(Target(ECW, "Patient", Kind.PATIENT, patient=patients[0]), None, Purpose.DETECT)
        assert await ids_of(one) == patients[:1]
        bare = source.read(Target(ECW, "Observation", Kind.SWEEP), None, Purpose.DETECT)
        assert await ids_of(bare) == []
        assert bare.failure is not None
        assert bare.failure.kind is FailureKind.REFUSED

    bench.run(ECW, main)


@pytest.mark.parametrize("code", [ECW, OPEN])
def test_one_resource_is_there_until_it_is_gone(bench: Bench, code: str) -> None:
    async def main(source: Source) -> None:
        name = bench.ids(code, "Observation")[0]
        assert isinstance(await source.confirm("Observation", name), Present)
        bench.world.delete(code, "Observation", name, bench.server.clock())
        assert isinstance(await source.confirm("Observation", name), Gone)
        assert source.last_server_error is None

    bench.run(code, main)


def test_a_dotted_id_that_a_path_read_cannot_serve_is_found_by_search(bench: Bench) -> None:
    async def main(source: Source) -> None:
        dotted = [name for name in bench.ids(ECW, "Practitioner") if "." in name]
        assert dotted
        assert isinstance(await source.confirm("Practitioner", dotted[0]), Present)
        assert isinstance(await source.confirm("Practitioner", "no.such.one"), Gone)

    bench.run(ECW, main)


@pytest.mark.parametrize("fault", ["error_500", "error_503", "html", "cut_json", "cut_connection"])
@pytest.mark.parametrize("code", [ECW, OPEN])
def test_two_faults_in_a_row_are_got_over_and_a_lasting_one_is_told(bench: Bench, code: str, fault: str) -> None:
    patient = bench.ids(code, "Patient")[0]
    target = Target(code, "Encounter", Kind.PATIENT, patient=patient)

    async def main(source: Source) -> None:
        bench.world.set_faults(code, **{fault: 1.0, "first": 2, "kinds": ["search"]})
        reading = source.read(target, None, Purpose.DETECT)
        await ids_of(reading)
        assert (reading.coverage, reading.failure, reading.calls) == (Coverage.COMPLETE, None, 3)
        assert source.last_server_error is not None
        bench.world.set_faults(code, first=None)
        lasting = source.read(target, None, Purpose.DETECT)
        assert await ids_of(lasting) == []
        assert lasting.coverage is Coverage.INCOMPLETE
        assert lasting.failure is not None
        assert lasting.failure.is_server_error

    bench.run(code, main)


@pytest.mark.parametrize("settings", [{"shift": 1.0}, {"duplicate": 1.0}, {"total_lie": 1.0}])
def test_a_pass_over_pages_that_move_is_complete_only_if_nothing_is_missing(
    bench: Bench, settings: dict[str, float]
) -> None:
    everything = bench.ids(OPEN, "Observation")

    async def main(source: Source) -> list[bool]:
        bench.world.set_faults(OPEN, **settings)
        proven = []
        for _ in range(10):
            reading = source.read(Target(OPEN, "Observation", Kind.SWEEP), None, Purpose.DETECT)
            missing = set(everything) - set(await ids_of(reading))
            assert reading.coverage is not Coverage.INCOMPLETE
            if missing:
                assert reading.coverage is Coverage.UNPROVEN
            proven.append(reading.coverage is Coverage.COMPLETE)
        return proven

    proven = bench.run(OPEN, main)
    assert any(proven) == ("duplicate" in settings)


def test_a_revoked_token_is_replaced_in_the_middle_of_a_pass(bench: Bench) -> None:
    async def main(source: Source) -> None:
        reading = source.read(Target(OPEN, "Observation", Kind.SWEEP), None, Purpose.DETECT)
        found: list[str] = []
        async for batch in reading:
            found += [sighting.id for sighting in batch.sightings]
            if len(found) < 30:
                bench.world.revoke_tokens()
        assert sorted(found) == bench.ids(OPEN, "Observation")
        assert reading.coverage is Coverage.COMPLETE

    bench.run(OPEN, main)


def test_the_token_url_is_found_by_discovery(bench: Bench) -> None:
    async def main(source: Source) -> None:
        reading = source.read(Target(OPEN, "Patient", Kind.SWEEP), None, Purpose.DETECT)
        await ids_of(reading)
        assert reading.failure is None

    bench.run(OPEN, main, token_url=None)


def test_an_app_that_is_not_enabled_is_told_so_and_not_asked_for_again(bench: Bench) -> None:
    async def main(source: Source) -> None:
        bench.world.set_faults(ECW, access_denied=1.0)
        for _ in range(5):
            reading = source.read(Target(ECW, "Patient", Kind.NAMES, names=("a", "b")), None, Purpose.DETECT)
            assert await ids_of(reading) == []
            assert reading.failure is not None
            assert reading.failure.kind is FailureKind.UNAUTHORIZED
        assert [call.kind for call in bench.world.calls(ECW)] == ["token"]

    bench.run(ECW, main)
