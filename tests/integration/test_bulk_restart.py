"""Exports that are killed, left alone, cancelled or taken away, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import structlog
from sqlalchemy import Engine, text

from poller.config.model import BulkConfig
from poller.core.export import State, Use
from poller.errors import LeaseLost
from tests.export_bench import ALL, HOUR, Bench, Fuse, Killed, fill, opened, prepared


@pytest.fixture(scope="module")
def engine(postgres_server: str, template_database: str) -> Iterator[Engine]:
    yield from opened(postgres_server, template_database)


@pytest.fixture
def bench(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield from prepared(engine, monkeypatch)


def scene(engine: Engine, code: str) -> Bench:
    """A practice with everything that an export can bring, before it is exported."""
    made = Bench(engine, code)
    fill(made)
    made.station.file_rows, made.station.seconds = 10, 30
    made.station.errors = [
        {"resourceType": "OperationOutcome", "issue": [{"severity": "warning", "code": "processing"}]}
    ]
    made.station.deleted, made.station.always_deleted = ["Patient/b"], True
    return made


def go_on(bench: Bench) -> None:
    """What happens until the next export."""
    bench.clock.time += HOUR
    bench.station.put("Observation", "o1", valueString="2")
    bench.station.put("Observation", "o9")
    bench.station.put("Patient", "c")
    del bench.station.rows["Observation"]["o3"]


def test_killed_anywhere_and_started_again_it_comes_to_the_same(engine: Engine) -> None:
    begun = scene(engine, "begun")
    begun.run()

    def second(code: str, at: int | None) -> tuple[Bench, Fuse]:
        bench, fuse = scene(engine, code), Fuse(at)
        bench.take_over(begun)
        go_on(bench)
        if at is None:
            bench.run(Use.RECONCILE, fuse=fuse)
        else:
            with pytest.raises(Killed):
                bench.run(Use.RECONCILE, fuse=fuse)
            assert bench.run(Use.RECONCILE).job.is_whole
        bench.keeper.close()
        return bench, fuse

    undisturbed, steps = second("undisturbed", None)
    expected = undisturbed.outcome()
    assert undisturbed.missing() == ["b", "o3"]
    assert steps.count > 20
    for at in range(1, steps.count + 1):
        bench, _ = second(f"killed{at}", at)
        assert bench.outcome() == expected, f"killed at step {at}"
        left = "SELECT FROM poller.export WHERE practice = :practice AND (poll_url IS NOT NULL OR manifest ? 'output')"
        assert bench.select(left) == [], f"killed at step {at}"
    begun.keeper.close()


def test_a_job_goes_on_where_its_files_were_left(bench: Bench) -> None:
    bench.station.oddly("output/2", lambda _request: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        bench.run()
    bench.station.asked.clear()
    assert bench.run().job.is_whole
    assert bench.station.asked == ["output/2", "output/3", "delete"]
    assert bench.live() == ALL


def test_a_job_under_way_that_shows_less_than_is_asked_for_is_finished_first(bench: Bench) -> None:
    bench.station.oddly("poll", lambda _request: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        bench.run(types=("Patient",))
    assert bench.run().job.types == ("Observation", "Patient")
    assert [state for (state,) in bench.select("SELECT state FROM poller.export WHERE practice = :practice")] == [
        "done",
        "done",
    ]
    assert bench.live() == ALL


def test_a_job_that_expired_while_nobody_ran_is_asked_for_anew(bench: Bench) -> None:
    bench.station.oddly("output/0", lambda _request: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        bench.run()
    bench.station.jobs.clear()
    bench.clock.time += 100 * HOUR
    assert bench.run().job.is_whole
    states = bench.select("SELECT state FROM poller.export WHERE practice = :practice ORDER BY started_at")
    assert [state for (state,) in states] == ["expired", "done"]


def test_a_job_is_cancelled_by_the_operator_or_by_another_group(bench: Bench) -> None:
    def leave_one() -> None:
        bench.station.oddly("poll", lambda _request: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            bench.run()

    assert not bench.cancel()
    leave_one()
    assert bench.cancel()
    assert bench.station.jobs == {}
    leave_one()
    bench.config = bench.config.model_copy(update={"bulk": BulkConfig(group="g2")})
    assert bench.run().job.group == "g2"
    ends = bench.select("SELECT state, failure FROM poller.export WHERE practice = :practice ORDER BY started_at")
    assert ends == [("cancelled", "stopped"), ("cancelled", "stopped"), ("done", None)]


def test_whoever_has_lost_the_lease_writes_nothing(bench: Bench) -> None:
    def taken(_request: httpx.Request) -> httpx.Response:
        with bench.engine.begin() as connection:
            connection.execute(
                text("UPDATE poller.lease SET epoch = epoch + 1 WHERE practice = :practice"), {"practice": bench.code}
            )
        [job] = bench.station.jobs.values()
        return httpx.Response(200, content=job["files"]["output/1"])

    bench.station.oddly("output/1", taken)
    with pytest.raises(LeaseLost):
        bench.run()
    assert bench.live() == ["o0", "o1"]
    assert bench.last().state is State.READY


def test_nothing_that_is_said_names_a_resource_a_job_or_an_address(bench: Bench) -> None:
    bench.station.put("Patient", "jane-doe")
    bench.station.oddly("output/0", 500, 500, 500)
    bench.station.oddly("poll", 500, 500, 500, lambda _request: httpx.Response(202, headers={"X-Progress": "jane"}))
    bench.station.oddly("delete", 500, 500, 500)
    with structlog.testing.capture_logs() as said:
        bench.run()
    shown = repr(said)
    assert len(said) > 4
    for secret in ("jane", "ehr.example.org", "job=", "output/", "$poll", "g1"):
        assert secret not in shown
