"""Bulk export's calls before servers that answer as they please: nothing raises, nothing is repeated that must not be, nothing leaks."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from poller.clock import SystemClock
from poller.core import export
from poller.core.export import Accepted, Duplicate, Finished, Lost, Trouble, Use, Working
from poller.core.manifest import File, FileKind
from poller.core.model import FailureKind, Sighting
from poller.core.pages import Problem
from poller.source.bulk import BATCH_BYTES, Bulk, FileReading
from poller.source.reading import BATCH
from tests.source_bench import BASE, Server, cut, html, refusal

POLL = f"{BASE}/$export-poll-location?job_id=1"
AT = dt.datetime(2026, 11, 22, 15, tzinfo=dt.UTC)
MANIFEST = {"transactionTime": "2026-11-22T10:00:00-05:00", "output": [{"type": "Patient", "url": f"{BASE}/f/1"}]}
OURS = f"{BASE}/f/1"
ELSEWHERE = "https://files.example.net/signed/1?signature=s"


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.core.faults.backoff", lambda _retry, _jitter: 0.0)


def ask(server: Server, question: Callable[[Bulk], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with server.source() as source:
            return await question(Bulk(source.client, SystemClock()))

    return asyncio.run(main())


def always(status: int = 200, body: Any = None, **headers: str) -> Server:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Server(lambda _where, _request: httpx.Response(status, json=body, headers=named))


# --- kick-off, poll, cancel


def kick_off(server: Server, since: dt.datetime | None = None) -> Any:
    job = export.begin(uuid.uuid4(), "gr/1", ["Patient", "Observation"], since, Use.FIRST_LOAD, AT)
    return ask(server, lambda bulk: bulk.kick_off(job))


def test_a_kick_off_asks_for_types_and_since_and_keeps_where_the_job_answers() -> None:
    server = always(202, content_location=POLL.replace("https://ehr.example.org", "http://inside"), retry_after="120")
    before = SystemClock().now()
    found = kick_off(server, AT)
    assert isinstance(found, Accepted)
    assert before <= found.began <= SystemClock().now()
    assert found.asked == 120
    assert "job_id" not in repr(found)
    [request] = server.requests
    assert request.url.raw_path.decode().endswith(
        "/Group/gr%2F1/$export?_type=Observation,Patient&_since=2026-11-22T15:00:00Z"
    )
    assert request.headers["prefer"] == "respond-async"
    assert request.headers["authorization"] == "Bearer secret-token"


@pytest.mark.parametrize(
    ("server", "kind"),
    [
        (always(202), FailureKind.MALFORMED),
        (always(202, content_location="https://elsewhere.example.net/job/1"), FailureKind.REFUSED),
        (always(202, content_location=f"{BASE}/../other/job"), FailureKind.REFUSED),
        (always(202, content_location=" "), FailureKind.REFUSED),
        (always(200, {"resourceType": "OperationOutcome", "issue": []}), FailureKind.MALFORMED),
        (Server(lambda *_: refusal(400)), FailureKind.REFUSED),
        (Server(lambda *_: refusal(401)), FailureKind.UNAUTHORIZED),
        (Server(lambda *_: refusal(500)), FailureKind.SERVER),
        (Server(lambda *_: html()), FailureKind.MALFORMED),
    ],
)
def test_a_kick_off_that_fails_is_never_repeated_by_itself(server: Server, kind: FailureKind) -> None:
    found = kick_off(server)
    assert isinstance(found, Trouble)
    assert found.failure.kind is kind
    assert "Jane" not in found.failure.detail
    assert len(server.asked) == (2 if kind is FailureKind.UNAUTHORIZED else 1), "only a refused token is replaced"


@pytest.mark.parametrize("status", [200, 202, 409, 500])
def test_a_duplicate_is_known_by_its_code_whatever_the_status(status: int) -> None:
    outcome = {"severity": "information", "code": "duplicate", "diagnostics": "Jane Doe"}
    body = {"resourceType": "OperationOutcome", "issue": [outcome]}
    assert isinstance(kick_off(always(status, body)), Duplicate)


def poll(server: Server) -> Any:
    return ask(server, lambda bulk: bulk.poll(POLL.replace("https://ehr.example.org", "http://inside:8080")))


@pytest.mark.parametrize(
    ("said", "asked"),
    [("120", 120), ("0", 0), ("soon, please", None), ("-5", None), ("", None), (None, None)],
)
def test_the_pace_is_what_the_server_says_if_it_makes_sense(said: str | None, asked: float | None) -> None:
    found = poll(always(202, **({} if said is None else {"retry_after": said})))
    assert found == Working(asked)


@pytest.mark.parametrize("said", ["Fri, 01 Jan 2100 00:00:00 GMT", "999999999"])
def test_a_pace_that_is_far_off_is_bounded_by_the_job(said: str) -> None:
    found = poll(always(202, retry_after=said))
    assert export.pace(found.asked, 0) == dt.timedelta(minutes=5)


@pytest.mark.parametrize(
    ("said", "percent"),
    [("45%", 45.0), ("in progress, 7%", 7.0), ("12.5 % complete", 12.5), ("Jane Doe 50%", None), ("9" * 200, None)],
)
def test_progress_is_a_number_or_nothing(said: str, percent: float | None) -> None:
    assert poll(always(202, x_progress=said)).progress == percent


def test_a_finished_job_gives_its_manifest_and_how_far_the_servers_clock_is_ahead() -> None:
    server = always(200, MANIFEST, date="Sun, 22 Nov 2099 15:00:05 GMT")
    found = poll(server)
    assert isinstance(found, Finished)
    assert [file.resource_type for file in found.manifest.files] == ["Patient"]
    assert found.skew is not None
    assert abs(SystemClock().now() + found.skew - dt.datetime(2099, 11, 22, 15, 0, 6, tzinfo=dt.UTC)) < dt.timedelta(
        seconds=60
    )
    assert str(server.requests[0].url) == POLL, "at our own scheme and host"


@pytest.mark.parametrize("status", [404, 410])
def test_a_job_that_is_not_known_is_lost(status: int) -> None:
    assert isinstance(poll(Server(lambda *_: refusal(status))), Lost)


@pytest.mark.parametrize(
    "server",
    [
        always(200, {}),
        always(200, MANIFEST | {"transactionTime": "then"}),
        Server(lambda *_: html()),
        Server(lambda *_: cut()),
        Server(lambda *_: refusal(500)),
        Server(lambda *_: refusal(403)),
    ],
)
def test_anything_else_is_trouble(server: Server) -> None:
    found = poll(server)
    assert isinstance(found, Trouble)
    assert "Jane" not in found.failure.detail


@pytest.mark.parametrize(("status", "gone"), [(202, True), (204, True), (404, True), (405, False), (500, False)])
def test_a_job_is_cancelled_by_delete(status: int, gone: bool) -> None:
    server = Server(lambda *_: httpx.Response(status))
    assert ask(server, lambda bulk: bulk.cancel(POLL)) is gone
    assert server.requests[0].method == "DELETE"


# --- files


class Broken(httpx.AsyncByteStream):
    """A body that breaks off."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece
        raise httpx.ReadError("Patient/Jane")

    async def aclose(self) -> None:
        self.closed = True


def patient(name: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": name, **more}


def ndjson(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def served(content: bytes | httpx.AsyncByteStream, **headers: str) -> Server:
    if isinstance(content, bytes):
        return Server(lambda *_: httpx.Response(200, content=content, headers=headers))
    return Server(lambda *_: httpx.Response(200, stream=content, headers=headers))


def read(
    server: Server, url: str = OURS, *, count: int | None = None, needs_token: bool = True
) -> tuple[list[list[Sighting]], FileReading]:
    async def main(bulk: Bulk) -> tuple[list[list[Sighting]], FileReading]:
        reading = bulk.open(File(FileKind.OUTPUT, 0, "Patient", url, count), needs_token=needs_token)
        return [list(batch.sightings) async for batch in reading.batches(AT)], reading

    found: tuple[list[list[Sighting]], FileReading] = ask(server, main)
    return found


def ids(batches: list[list[Sighting]]) -> list[str]:
    return [sighting.id for batch in batches for sighting in batch]


def test_a_file_comes_in_batches_and_each_row_may_be_as_old_as_the_content() -> None:
    before = SystemClock().now()
    batches, reading = read(served(ndjson(*(patient(f"p{n}") for n in range(2 * BATCH + 1)))), count=2 * BATCH + 1)
    assert [len(batch) for batch in batches] == [BATCH, BATCH, 1]
    assert ids(batches) == [f"p{n}" for n in range(2 * BATCH + 1)]
    assert {sighting.began for sighting in batches[0]} == {AT}
    assert all(before <= sighting.ended <= SystemClock().now() for sighting in batches[2])
    assert (reading.failure, reading.lines, reading.flaws.total(), reading.is_short) == (None, 2 * BATCH + 1, 0, False)


def test_large_rows_make_small_batches() -> None:
    big = "x" * (BATCH_BYTES // 3)
    batches, _ = read(served(ndjson(*(patient(f"p{n}", text=big) for n in range(7)))))
    assert [len(batch) for batch in batches] == [3, 3, 1]


def test_gzip_and_decimals_come_as_they_are() -> None:
    packed = gzip.compress(b'{"resourceType":"Patient","id":"p","value":13.20}\n')
    [[sighting]], _ = read(served(packed, **{"content-encoding": "gzip"}))
    assert repr(sighting.resource["value"]) == "13.20"


def test_what_is_no_resource_of_the_file_is_counted_and_the_rest_is_read() -> None:
    cut_down = patient("p4", meta={"tag": [{"code": "SUBSETTED"}]})
    warning = {"resourceType": "OperationOutcome", "issue": [{"severity": "warning", "code": "processing"}]}
    error = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "exception"}]}
    rows = [patient("p1"), {"resourceType": "Observation", "id": "o"}, patient("../x"), cut_down, warning, error, [1]]
    batches, reading = read(served(ndjson(*rows, patient("p9"))))
    assert ids(batches) == ["p1", "p9"]
    assert dict(reading.flaws) == {
        Problem.WRONG_TYPE: 2,
        Problem.NO_ID: 1,
        Problem.SUBSETTED: 1,
        Problem.OUTCOME: 1,
        Problem.NO_RESOURCE: 1,
    }
    assert (reading.failure, reading.lines) == (None, 8)


def test_a_file_that_breaks_off_says_so_and_its_last_piece_is_no_row() -> None:
    whole, part = ndjson(patient("p1"), patient("p2")), b'{"resourceType":"Patient","id":"p3"}'
    batches, reading = read(served(Broken(whole, part)))
    assert ids(batches) == ["p1", "p2"]
    assert reading.failure is not None
    assert reading.failure.kind is FailureKind.TRANSPORT
    assert not reading.is_lost
    assert "Jane" not in repr(reading.failure)
    batches, reading = read(served(whole + part[:-1]))
    assert ids(batches) == ["p1", "p2"]
    assert reading.failure is not None, "though the server ended it as if it were whole"
    _, reading = read(served(gzip.compress(whole)[:-9], **{"content-encoding": "gzip"}))
    assert reading.failure is not None
    _, reading = read(served(whole), count=3)
    assert (reading.failure, reading.is_short) == (None, True), "cut between two lines: only the count tells"


def test_a_file_that_fails_once_is_asked_for_again_and_a_refused_token_is_replaced() -> None:
    answers = iter([refusal(503), refusal(401), httpx.Response(200, content=ndjson(patient("p1")))])
    batches, reading = read(Server(lambda *_: next(answers)))
    assert ids(batches) == ["p1"]
    assert reading.failure is None


@pytest.mark.parametrize(
    ("status", "url", "lost"),
    [
        *((404, OURS, True), (410, OURS, True), (403, OURS, False), (500, OURS, False)),
        *((403, ELSEWHERE, True), (400, ELSEWHERE, True), (404, ELSEWHERE, True), (500, ELSEWHERE, False)),
    ],
)
def test_a_file_may_be_gone(status: int, url: str, lost: bool) -> None:
    _, reading = read(Server(lambda *_: refusal(status)), url, needs_token=url != ELSEWHERE)
    assert reading.failure is not None
    assert reading.is_lost is lost


def test_a_web_page_is_no_file() -> None:
    batches, reading = read(Server(lambda *_: html()))
    assert batches == []
    assert reading.failure is not None


def test_our_token_goes_nowhere_else() -> None:
    server = served(ndjson(patient("p1")))
    assert ids(read(server, ELSEWHERE, needs_token=False)[0]) == ["p1"]
    [request] = server.requests
    assert "authorization" not in request.headers
    for url, needs in ((ELSEWHERE, True), ("http://files.example.net/1", False), ("file:///etc/passwd", False)):
        server = served(ndjson(patient("p1")))
        batches, reading = read(server, url, needs_token=needs)
        assert (batches, server.requests) == ([], [])
        assert reading.failure is not None
        assert reading.failure.kind is FailureKind.REFUSED
    server = served(ndjson(patient("p1")))
    assert ids(read(server, OURS, needs_token=False)[0]) == ["p1"]
    assert "authorization" in server.requests[0].headers, "our own server gets it all the same"


def test_a_reading_that_is_given_up_closes_its_connection() -> None:
    stream = Broken(*(ndjson(patient(f"p{n}")) for n in range(5 * BATCH)))

    async def main(bulk: Bulk) -> None:
        reading = bulk.open(File(FileKind.OUTPUT, 0, "Patient", OURS), needs_token=True)
        async with aclosing(reading.batches(AT)) as batches:
            await anext(batches)

    ask(served(stream), main)
    assert stream.closed


def deletion(url: object, method: str = "DELETE") -> dict[str, Any]:
    return {"request": {"method": method, "url": url}}


def test_deletions_are_what_transactions_of_deletes_name() -> None:
    named = [deletion(f"Patient/p{n}") for n in range(BATCH)]
    odd = [deletion("Goal/g1"), deletion(f"{BASE}/Observation/o1?x=1"), deletion("Patient"), deletion(7)]
    rows = [
        {"resourceType": "Bundle", "type": "transaction", "entry": [*named, *odd, deletion("Patient/x", "PUT"), None]},
        {"resourceType": "Bundle", "type": "transaction"},
        patient("p1"),
    ]

    async def main(bulk: Bulk) -> tuple[list[Any], FileReading]:
        reading = bulk.open(File(FileKind.DELETED, 0, "Bundle", OURS), needs_token=True)
        return [found async for found in reading.deletions(["Patient", "Observation"])], reading

    batches, reading = ask(served(ndjson(*rows)), main)
    assert [len(batch) for batch in batches] == [BATCH, 1]
    assert batches[1] == [("Observation", "o1")]
    assert dict(reading.flaws) == {Problem.NO_ID: 4, Problem.WRONG_TYPE: 1}


def test_errors_are_counted_in_fhirs_words_only() -> None:
    def outcome(*issues: tuple[str, Any]) -> dict[str, Any]:
        told = [{"severity": severity, "code": code, "diagnostics": "Jane Doe"} for severity, code in issues]
        return {"resourceType": "OperationOutcome", "issue": told}

    rows = [
        outcome(("error", "exception"), ("warning", "processing")),
        outcome(("error", "jane"), ("fatal", "exception")),
        outcome(("jane", 7)),
        patient("p1"),
    ]

    async def main(bulk: Bulk) -> tuple[Any, FileReading]:
        reading = bulk.open(File(FileKind.ERROR, 0, "OperationOutcome", OURS), needs_token=True)
        return await reading.issues(), reading

    issues, reading = ask(served(ndjson(*rows)), main)
    assert dict(issues) == {("error", "exception"): 2, ("warning", "processing"): 1, ("error", "unknown"): 2}
    assert reading.flaws[Problem.WRONG_TYPE] == 1
