"""Exports before servers that behave as they please: what is taken over, what blocks, what is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from sqlalchemy import Engine

from poller.core.export import State, Use
from poller.core.model import Coverage
from tests.export_bench import ALL, HOUR, MINUTE, SECOND, START, Bench, loaded, opened, prepared


@pytest.fixture(scope="module")
def engine(postgres_server: str, template_database: str) -> Iterator[Engine]:
    yield from opened(postgres_server, template_database)


@pytest.fixture
def bench(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield from prepared(engine, monkeypatch)


# --- the way of a job


def test_a_first_load_takes_everything_over_at_the_servers_pace_and_lets_the_job_go(bench: Bench) -> None:
    report = bench.run()
    assert bench.live() == ALL
    assert {(action, origin) for action, origin, _ in bench.events()} == {("created", "baseline")}
    assert (report.job.state, report.job.failure, report.job.rows) == (State.DONE, None, 7)
    assert report.tally.coverage == {"Patient": Coverage.COMPLETE, "Observation": Coverage.COMPLETE}
    assert (report.tally.changes, report.tally.new_patients, bench.commits) == (7, 2, 4)
    assert bench.station.asked == ["kick-off", "poll", "poll", *(f"output/{n}" for n in range(4)), "delete"]
    assert [round(seconds) for seconds in bench.clock.slept] == [40, 40]
    assert bench.station.jobs == {}
    [(poll_url, manifest)] = bench.select("SELECT poll_url, manifest FROM poller.export WHERE practice = :practice")
    assert (poll_url, list(manifest)) == (None, ["contentAt"]), "no address is kept"
    whole = "SELECT baseline_at IS NOT NULL, failures FROM poller.target WHERE practice = :practice"
    assert bench.select(whole) == [(True, 0), (True, 0)]


def test_the_next_finds_what_differs_and_what_is_missing(bench: Bench) -> None:
    first = loaded(bench)
    bench.station.put("Observation", "o1", valueString="2")
    bench.station.put("Observation", "o9")
    bench.station.put("Patient", "c")
    del bench.station.rows["Observation"]["o3"]
    before = len(bench.events())
    report = bench.run(Use.RECONCILE)
    assert bench.events()[before:] == [
        ("updated", "reconcile", "o1"),
        ("created", "reconcile", "o9"),
        ("created", "reconcile", "c"),
    ]
    assert bench.missing() == ["o3"]
    assert (report.tally.changes, report.tally.new_patients) == (3, 1)
    since = "SELECT DISTINCT previous_read FROM poller.event WHERE practice = :practice AND origin = 'reconcile'"
    assert bench.select(since) == [(first.content_at,)], "what changed did so after the last whole one"
    live = "SELECT id, live FROM poller.patient WHERE practice = :practice ORDER BY id"
    assert bench.select(live) == [("a", False), ("b", False), ("c", True)]
    bench.clock.time += HOUR
    bench.station.put("Observation", "o3", valueString="1")
    bench.run(Use.RECONCILE)
    assert bench.missing() == [], "shown again"
    assert len(bench.events()) == before + 3


def test_a_type_that_no_file_shows_proves_nothing(bench: Bench) -> None:
    loaded(bench)
    bench.station.rows["Observation"].clear()
    report = bench.run(Use.RECONCILE)
    assert report.tally.coverage == {"Patient": Coverage.COMPLETE, "Observation": Coverage.UNPROVEN}
    assert bench.missing() == []


def test_an_incremental_one_notes_deletions_and_concludes_nothing_from_what_it_does_not_show(bench: Bench) -> None:
    loaded(bench)
    since = bench.since()
    assert since is not None
    assert START - bench.config.overlap <= since <= START
    bench.station.rows["Observation"] = {"o1": bench.station.rows["Observation"]["o1"]}
    bench.station.deleted = ["Observation/o3", "Observation/unknown", "Goal/o4", "Patient/a", "Patient/a"]
    report = bench.run(Use.RECONCILE, since)
    assert bench.missing() == ["a", "o3"], "a is shown as well: the read of its id will tell"
    assert (report.tally.deleted, report.tally.coverage) == (2, {})
    assert bench.live() == ALL, "nothing is deleted by a word"
    [began] = {at for (at,) in bench.select("SELECT pass_began FROM poller.absence WHERE practice = :practice")}
    assert began == report.job.content_at
    later = bench.since()
    assert later is not None
    assert later > since


def test_types_that_were_not_asked_for_are_not_read(bench: Bench) -> None:
    bench.station.oddly("kick-off", lambda _request: bench.station._kick_off({"_type": "Observation,Patient"}))
    bench.run(types=("Patient",))
    assert bench.live() == ["a", "b"]
    assert sum(what.startswith("output") for what in bench.station.asked) == 1


# --- blocked, stuck, gone


def test_a_job_that_another_blocks_is_kicked_off_when_the_group_is_free(bench: Bench) -> None:
    bench.station._kick_off({"_type": "Patient"})
    with structlog.testing.capture_logs() as said:
        report = bench.run()
    assert report.job.is_whole
    assert [round(seconds) for seconds in bench.clock.slept] == [300, 40, 40]
    assert [entry["log_level"] for entry in said if entry["action"] == "export.blocked"] == ["error"]
    assert report.job.started_at > START + 5 * MINUTE, "its content is no older than its own kick-off"


def test_a_job_that_never_ends_is_cancelled_and_said_so(bench: Bench) -> None:
    bench.station.seconds, bench.station.pace = 1e9, "300"
    with structlog.testing.capture_logs() as said:
        report = bench.run()
    assert (report.job.state, report.job.failure) == (State.CANCELLED, "stuck")
    assert bench.station.jobs == {}
    assert 6 * HOUR <= bench.clock.time - START < 6 * HOUR + 6 * MINUTE
    assert [entry["log_level"] for entry in said if entry["action"] == "export.end"] == ["error"]
    assert bench.live() == []


def test_a_stuck_job_that_the_server_would_not_let_go_is_cancelled_before_the_next(bench: Bench) -> None:
    bench.station.seconds, bench.station.pace = 1e9, "300"
    bench.station.oddly("delete", 500, 500, 500)
    assert bench.run().job.poll_url is not None
    bench.station.seconds = 60
    bench.station.asked.clear()
    assert bench.run().job.is_whole
    assert bench.station.asked[:2] == ["delete", "kick-off"]
    assert bench.select("SELECT count(*) FROM poller.export WHERE practice = :practice AND poll_url IS NOT NULL") == [
        (0,)
    ]


def test_a_job_that_cannot_be_cancelled_and_blocks_the_group_is_polled_on(bench: Bench) -> None:
    bench.station.seconds, bench.station.pace = 7 * 3600, "300"
    bench.station.oddly("delete", *[405] * 3)
    stuck = bench.run().job
    assert stuck.state is State.CANCELLED
    bench.clock.time += 2 * HOUR
    bench.station.oddly("kick-off", lambda _request: duplicate())
    report = bench.run()
    assert report.job.is_whole
    assert report.job.started_at == stuck.started_at, "its content may be as old as its own kick-off"
    assert bench.live() == ALL


def test_a_job_that_was_read_and_cannot_be_let_go_is_not_read_again_for_a_new_one(bench: Bench) -> None:
    bench.station.oddly("delete", *[405] * 3)
    first = bench.run().job
    assert first.poll_url is not None
    bench.clock.time += HOUR
    bench.station.put("Patient", "c")
    bench.station.oddly("kick-off", lambda _request: duplicate())
    second = bench.run().job
    assert second.started_at > first.started_at + HOUR, "it waited for one of its own"
    assert "c" in bench.live()


def duplicate() -> httpx.Response:
    return httpx.Response(200, json={"resourceType": "OperationOutcome", "issue": [{"code": "duplicate"}]})


def test_files_that_are_gone_with_their_job_end_it_without_any_conclusion(bench: Bench) -> None:
    loaded(bench)
    del bench.station.rows["Observation"]["o0"]
    bench.station.put("Patient", "a", active=False)

    def forget(_request: httpx.Request) -> httpx.Response:
        bench.station.jobs.clear()
        return httpx.Response(404)

    bench.station.oddly("output/2", forget)
    report = bench.run(Use.RECONCILE)
    assert (report.job.state, report.job.failure) == (State.EXPIRED, "expired")
    assert bench.missing() == []
    assert bench.events()[7:] == [], "the patients' file was never read"
    assert bench.select("SELECT count(*) FROM poller.export WHERE practice = :practice AND poll_url IS NOT NULL") == [
        (0,)
    ]
    assert bench.run(Use.RECONCILE).job.is_whole
    assert bench.events()[7:] == [("updated", "reconcile", "a")]
    assert bench.missing() == ["o0"]


def test_files_that_moved_are_asked_for_where_the_manifest_says_now(bench: Bench) -> None:
    bench.station.oddly("output/1", 404)
    bench.station.oddly("output/1?signed=anew", lambda _request: own("output/1"))

    def own(name: str) -> httpx.Response:
        [job] = bench.station.jobs.values()
        return httpx.Response(200, content=job["files"][name])

    def signed(_request: httpx.Request) -> httpx.Response:
        [job] = bench.station.jobs.values()
        manifest = bench.station.manifest(job)
        for file in manifest["output"]:
            file["url"] += "?signed=anew" if file["url"].endswith("output/1") else ""
        return httpx.Response(200, json=manifest)

    bench.station.oddly("poll", lambda _r: httpx.Response(202), usual(bench), signed)
    report = bench.run()
    assert report.job.is_whole
    assert bench.live() == ALL
    assert bench.station.asked.count("output/0") == 1, "what was read stays read"


def usual(bench: Bench) -> Any:
    def poll(_request: httpx.Request) -> httpx.Response:
        bench.clock.time += 100 * SECOND
        [job] = bench.station.jobs.values()
        return bench.station._poll(job)

    return poll


@pytest.mark.parametrize(
    ("what", "answers", "state", "failure"),
    [
        ("kick-off", [403], State.FAILED, "refused"),
        ("kick-off", [401] * 6, State.FAILED, "unauthorized"),
        ("kick-off", [500, 500], State.DONE, None),
        ("poll", [404], State.DONE, None),
        ("poll", [404, 404], State.EXPIRED, "expired"),
        ("poll", [500] * 29, State.DONE, None),
        ("poll", [500] * 30, State.FAILED, "server"),
        ("poll", [403] * 5, State.FAILED, "refused"),
    ],
)
def test_what_the_calls_of_a_job_come_to(
    bench: Bench, what: str, answers: list[int], state: State, failure: str | None
) -> None:
    bench.station.oddly(what, *answers)
    report = bench.run()
    assert (report.job.state, report.job.failure) == (state, failure)
    assert bench.live() == (ALL if state is State.DONE else [])
    held = [] if state is not State.EXPIRED else [1]  # the server said that it does not know it
    assert len(bench.station.jobs) == len(held)


def test_a_manifest_that_cannot_be_used_fails_the_job_and_frees_the_group(bench: Bench) -> None:
    for _ in range(5):
        bench.station.oddly("poll", lambda _request: httpx.Response(200, json={"output": [{"type": "Jane"}]}))
    with structlog.testing.capture_logs() as said:
        report = bench.run()
    assert (report.job.state, report.job.failure) == (State.FAILED, "malformed")
    assert bench.station.jobs == {}
    [detail, *_] = [entry["detail"] for entry in said if entry["action"] == "export.fail"]
    assert detail == "the manifest cannot be used: transactionTime is no instant with a time zone"
