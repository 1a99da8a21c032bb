"""Files that are not as they should be, and content that is older than what is stored."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from sqlalchemy import Engine

from poller.config.feed import FeedConfig
from poller.core.canonical import decode_body, reduce
from poller.core.export import State, Use
from poller.core.model import Coverage, Origin, Sighting
from poller.core.pages import Problem
from poller.store.repository import PassContext, Repository
from tests.export_bench import ALL, HOUR, KEY, MINUTE, START, Bench, loaded, opened, prepared


@pytest.fixture(scope="module")
def engine(postgres_server: str, template_database: str) -> Iterator[Engine]:
    yield from opened(postgres_server, template_database)


@pytest.fixture
def bench(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield from prepared(engine, monkeypatch)


class Cut(httpx.AsyncByteStream):
    """A body that breaks off."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.content
        raise httpx.ReadError("cut")


def content(bench: Bench, name: str) -> bytes:
    [job] = bench.station.jobs.values()
    found: bytes = job["files"][name]
    return found


def test_a_file_that_breaks_off_is_read_again_after_the_others_and_each_row_makes_one_event(bench: Bench) -> None:
    def cut(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Cut(content(bench, "output/0")[:-10]))

    bench.station.oddly("output/0", cut, cut)
    report = bench.run()
    assert report.job.is_whole
    assert sorted(id_ for _, _, id_ in bench.events()) == ALL
    assert bench.station.asked[3:9] == ["output/0", "output/1", "output/2", "output/3", "output/0", "output/0"]
    assert [round(seconds) for seconds in bench.clock.slept] == [40, 40, 30, 45]


def test_a_file_that_cannot_be_read_leaves_a_gap_and_the_rest_is_taken_over(bench: Bench) -> None:
    loaded(bench)
    del bench.station.rows["Patient"]["b"]
    del bench.station.rows["Observation"]["o4"]
    bench.station.oddly("output/0", *[500] * 100)
    report = bench.run(Use.RECONCILE)
    assert (report.job.state, report.job.failure) == (State.DONE, "incomplete")
    assert report.tally.coverage == {"Observation": Coverage.INCOMPLETE, "Patient": Coverage.COMPLETE}
    assert bench.missing() == ["b"]
    assert bench.clock.time - START < 2 * HOUR
    assert bench.since() is not None
    assert bench.since() == bench.store.next_since(bench.code, "g1", ["Patient"], bench.config.overlap)
    assert bench.since() < START + MINUTE, "the next begins where the last whole one did"  # type: ignore[operator]


def test_a_refused_file_is_not_asked_for_again(bench: Bench) -> None:
    bench.station.oddly("output/0", *[403] * 100)
    assert bench.run().job.failure == "incomplete"
    assert bench.station.asked.count("output/0") == 1


@pytest.mark.parametrize(("severity", "coverage"), [("error", Coverage.INCOMPLETE), ("warning", Coverage.COMPLETE)])
def test_an_error_that_the_server_tells_of_takes_all_proof_away(
    bench: Bench, severity: str, coverage: Coverage
) -> None:
    loaded(bench)
    del bench.station.rows["Observation"]["o4"]
    issue = {"severity": severity, "code": "exception", "diagnostics": "Jane Doe"}
    bench.station.errors = [{"resourceType": "OperationOutcome", "issue": [issue]}]
    report = bench.run(Use.RECONCILE)
    assert set(report.tally.coverage.values()) == {coverage}
    assert report.tally.issues == {(severity, "exception"): 1}
    assert bench.missing() == ([] if severity == "error" else ["o4"])
    assert report.job.is_whole is (severity == "warning")


def test_an_export_skips_and_drops_as_a_poll_does(bench: Bench) -> None:
    feed = FeedConfig(drop=("note",), skip_security=("R",))
    bench.config = bench.config.model_copy(update={"feeds": bench.config.feeds | {"Observation": feed}})
    rows = bench.station.rows["Observation"]
    rows["o1"] |= {"meta": {"security": [{"code": "R"}]}}
    rows["o2"] |= {"note": [{"text": "Marker-1743"}]}
    assert bench.run().job.is_whole
    assert "o1" not in bench.live()
    bodies = bench.select("SELECT codec, body FROM poller.history WHERE practice = :practice AND id = 'o2'")
    assert [sorted(decode_body(*row)) for row in bodies] == [["id", "resourceType", "valueString"]]
    del rows["o1"]["meta"]
    bench.clock.time += HOUR
    bench.run(Use.RECONCILE)
    assert bench.live() == ALL
    rows["o1"] |= {"meta": {"security": [{"code": "R"}]}}
    bench.clock.time += HOUR
    bench.run(Use.RECONCILE)
    assert bench.missing() == ["o1"], "a read of it must tell"


def test_bad_lines_are_counted_and_prove_nothing_but_the_type_counts_as_read(bench: Bench) -> None:
    bench.station.rows["Observation"]["o1"] = {"resourceType": "Observation"}
    report = bench.run()
    assert report.job.failure == "incomplete"
    assert report.tally.flaws == {Problem.NO_ID: 1}
    assert report.tally.coverage["Observation"] is Coverage.UNPROVEN
    done = (
        "SELECT baseline_at IS NOT NULL FROM poller.target WHERE practice = :practice AND resource_type = 'Observation'"
    )
    assert bench.select(done) == [(True,)]
    assert bench.since() is None


def test_a_file_shorter_than_announced_is_read_once_more_and_then_believed_for_what_it_shows(bench: Bench) -> None:
    def short(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=content(bench, "output/0").partition(b"\n")[0] + b"\n")

    bench.station.oddly("output/0", short)
    assert bench.run().job.is_whole
    bench.clock.time += HOUR
    bench.station.oddly("output/0", short, short)
    report = bench.run(Use.RECONCILE)
    assert report.tally.coverage["Observation"] is Coverage.UNPROVEN
    assert bench.missing() == []


# --- older content


def seen(bench: Bench, value: str) -> None:
    """A poll reads o0, at this moment."""
    began = bench.clock.now()
    row = {"resourceType": "Observation", "id": "o0", "valueString": value}
    sighting = Sighting("Observation", "o0", row, began, bench.clock.now())
    context = PassContext(bench.lease, bench.target("Observation"), Origin.LIVE, keep_absences=True)
    Repository(bench.engine, KEY).record(context, [reduce(sighting, KEY)], bench.clock.now())


def test_what_a_poll_read_since_the_kick_off_stays(bench: Bench) -> None:
    loaded(bench)
    kick_off = bench.station._kick_off

    def meanwhile(request: httpx.Request) -> httpx.Response:
        answer = kick_off(dict(request.url.params))
        seen(bench, "newer")
        return answer

    bench.station.oddly("kick-off", meanwhile)
    report = bench.run(Use.RECONCILE)
    assert [event for event in bench.events() if event[2] == "o0"][1:] == [("updated", "live", "o0")]
    assert (report.tally.outdated, report.job.failure) == (1, "outdated")
    assert bench.since() < START + MINUTE, "so that the next shows it again"  # type: ignore[operator]
    [(reread,)] = bench.select(
        "SELECT reread FROM poller.target WHERE practice = :practice AND resource_type = 'Observation'"
    )
    assert reread


@pytest.mark.parametrize("skew", [dt.timedelta(0), 3 * HOUR, -3 * HOUR])
def test_content_gathered_long_before_the_kick_off_puts_nothing_older_over_the_newer(
    bench: Bench, skew: dt.timedelta
) -> None:
    loaded(bench)
    bench.station.skew = skew
    bench.station.stale = 30 * MINUTE
    bench.clock.time += 5 * HOUR
    bench.clock.time -= 20 * MINUTE
    seen(bench, "newer")
    bench.clock.time += 20 * MINUTE
    report = bench.run(Use.RECONCILE)
    assert [event for event in bench.events() if event[2] == "o0"][1:] == [("updated", "live", "o0")]
    assert report.job.failure == "outdated"
