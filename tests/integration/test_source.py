"""Reading targets from servers by script."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import structlog

from poller.core.jsontext import Literal
from poller.core.model import Coverage, FailureKind, Kind, Purpose, Target
from poller.source import links
from poller.source.wire import LARGEST
from tests.source_bench import (
    BASE,
    BY_PATIENT,
    DATE,
    NOW,
    SWEEP,
    WINDOW,
    Server,
    always,
    broken,
    bundle,
    cut,
    html,
    ok,
    refusal,
)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.core.faults.backoff", lambda _retry, _jitter: 0.0)


def test_targets_become_the_searches_they_mean() -> None:
    server = always(lambda: ok(bundle(own="x?_lastUpdated=1")))
    server.read(WINDOW, NOW + dt.timedelta(microseconds=5))
    server.read(WINDOW)
    server.read(SWEEP)
    server.read(SWEEP, page_size=50)
    server.read(BY_PATIENT)
    server.read(Target("FAMLYMED", "Patient", Kind.PATIENT, patient="p.1"))
    server.read(Target("FAMLYMED", "Patient", Kind.NAMES, names=("a", "é")))
    assert server.asked == [
        "Observation?_lastUpdated=ge2026-11-22T15:00:05Z",
        "Observation?_lastUpdated=ge1970-01-01T00:00:00Z",
        "Observation",
        "Observation?_count=50",
        "Observation?patient=p1&category=laboratory",
        "Patient?_id=p.1",
        "Patient?name=a",
        "Patient?name=é",
    ]
    request = server.requests[0]
    assert request.headers["Accept"] == "application/fhir+json"
    assert request.headers["Authorization"] == "Bearer secret-token"


def test_pages_are_followed_by_path_and_query_and_the_first_date_counts() -> None:
    """Links name another scheme, host and prefix; the call goes to our own base."""
    pages = {
        "Observation": bundle("a", "b", total=3, following="http://inside:8080/x/FAMLYMED/Observation?page=2&k=%7C"),
        "Observation?page=2&k=|": bundle("c", total=3),
    }
    server = Server(lambda where, _request: ok(pages[where]))
    found = server.read(SWEEP)
    assert found.ids == ["a", "b", "c"]
    assert found.coverage is Coverage.COMPLETE
    assert found.reading.failure is None
    assert found.reading.calls == 2
    assert found.reading.server_date == NOW
    assert found.reading.began <= found.reading.ended
    assert server.ledger.granted >= 2
    assert all(str(request.url).startswith(BASE) for request in server.requests)


@pytest.mark.parametrize(
    "link",
    [
        "http://inside/fhir/r4/OTHERS/Observation?page=2",
        "http://inside/fhir/r4/FAMLYMED/Patient?page=2",
        "http://inside/fhir/r4/FAMLYMED/Observation/o1?page=2",
        "http://inside/fhir/r4/FAMLYMED/Observation/../../OTHERS/Patient?page=2",
        "http://[",
        "http://inside/fhir/r4/FAMLYMED/Observation",
        "http://inside/fhir/r4/FAMLYMED",
    ],
)
def test_a_link_astray_or_in_a_circle_ends_the_pass_as_malformed(link: str) -> None:
    server = always(lambda: ok(bundle("a", following=link)))
    found = server.read(SWEEP)
    assert (found.coverage, found.failure) == (Coverage.INCOMPLETE, FailureKind.MALFORMED)
    assert found.ids == ["a"]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("link", "base", "expected"),
    [
        ("https://h/fhir/r4/P/Observation?page=2", "/fhir/r4/P", "Observation?page=2"),
        ("/fhir/r4/P/Observation?page=2", "/fhir/r4/P", "Observation?page=2"),
        ("Observation?page=2", "/fhir/r4/P", "Observation?page=2"),
        ("?page=2", "/fhir/r4/P", "Observation?page=2"),
        ("https://h/fhir?_getpages=abc&_getpagesoffset=20", "/fhir", "?_getpages=abc&_getpagesoffset=20"),
        ("https://h/?_getpages=abc", "", "?_getpages=abc"),
        ("https://h/?_getpages=abc", "/fhir", None),
        ("https://h/r4/Observation?p=2", "", None),
        ("https://h/Observation?p=2", "", "Observation?p=2"),
        ("https://h/fhir/Observation?p=2#frag", "/fhir/", "Observation?p=2"),
    ],
)
def test_where_links_lead(link: str, base: str, expected: str | None) -> None:
    assert links.follow(link, base, "Observation") == expected


def test_paging_on_the_base_itself_is_asked_for_there() -> None:
    def script(where: str, _request: httpx.Request) -> httpx.Response:
        following = "http://inside/fhir/r4/FAMLYMED?_getpages=1" if where == "Observation" else None
        return ok(bundle("b" if where.startswith("?") else "a", following=following))

    server = Server(script)
    assert server.read(SWEEP).coverage is Coverage.COMPLETE
    assert str(server.requests[1].url) == f"{BASE}?_getpages=1"


def test_a_count_in_the_servers_own_link_that_it_then_refuses_is_left_out() -> None:
    def script(where: str, _request: httpx.Request) -> httpx.Response:
        if "_count" in where:
            return refusal(400)
        return ok(bundle("a", following="Observation?_count=20&page=2") if where == "Observation" else bundle("b"))

    server = Server(script)
    found = server.read(SWEEP)
    assert (found.ids, found.coverage) == (["a", "b"], Coverage.COMPLETE)
    assert server.asked == ["Observation", "Observation?_count=20&page=2", "Observation?page=2"]


def test_a_window_whose_filter_is_ignored_proves_nothing_and_shows_nothing() -> None:
    server = always(lambda: ok(bundle("a", own="Observation?_count=5")))
    found = server.read(WINDOW, NOW)
    assert (found.coverage, found.failure, found.ids) == (Coverage.INCOMPLETE, FailureKind.REFUSED, [])
    assert found.reading.failure is not None
    assert found.reading.failure.detail.startswith("filter ignored")


def test_names_are_one_pass_and_who_is_found_twice_is_shown_once() -> None:
    answers = {"a": ["p1", "p2"], "b": ["p2", "p3"], "c": []}
    server = Server(lambda where, _request: ok(bundle(*answers[where[-1]], kind="Patient")))
    found = server.read(Target("FAMLYMED", "Patient", Kind.NAMES, names=("a", "b", "c")))
    assert (found.ids, found.coverage, found.reading.calls) == (["p1", "p2", "p3"], Coverage.COMPLETE, 3)


def test_a_name_that_is_refused_makes_the_pass_incomplete_and_the_others_are_read() -> None:
    def script(where: str, _request: httpx.Request) -> httpx.Response:
        return refusal(400) if where.endswith("b") else ok(bundle(f"p{where[-1]}", kind="Patient"))

    found = Server(script).read(Target("FAMLYMED", "Patient", Kind.NAMES, names=("a", "b", "c")))
    assert (found.ids, found.coverage, found.failure) == (["pa", "pc"], Coverage.INCOMPLETE, FailureKind.REFUSED)


def test_a_server_that_is_down_is_not_asked_for_every_name() -> None:
    server = always(lambda: httpx.Response(500))
    found = server.read(Target("FAMLYMED", "Patient", Kind.NAMES, names=tuple("abcdef")))
    assert found.failure is FailureKind.SERVER
    assert len(server.asked) == 6  # two names, three tries each


def test_batches_hold_at_most_a_thousand() -> None:
    server = always(lambda: ok(bundle(*(f"o{number}" for number in range(2500)))))

    async def main() -> list[int]:
        async with server.source() as source:
            return [len(batch.sightings) async for batch in source.read(SWEEP, None, Purpose.BACKFILL)]

    assert asyncio.run(main()) == [1000, 1000, 500]


def test_a_pass_that_is_left_early_has_proven_nothing() -> None:
    server = always(lambda: ok(bundle("a", following="Observation?page=2")))

    async def main() -> Coverage:
        async with server.source() as source:
            reading = source.read(SWEEP, None, Purpose.DETECT)
            async for _ in reading:
                break
            return reading.coverage

    assert asyncio.run(main()) is Coverage.INCOMPLETE


PASSING = [
    (lambda: httpx.Response(500), FailureKind.SERVER),
    (lambda: httpx.Response(503, text="busy"), FailureKind.SERVER),
    (lambda: refusal(503), FailureKind.SERVER),
    (lambda: ok({"resourceType": "OperationOutcome", "issue": [{"severity": "error"}]}), FailureKind.MALFORMED),
    (html, FailureKind.MALFORMED),
    (cut, FailureKind.MALFORMED),
    (lambda: httpx.Response(200), FailureKind.MALFORMED),
    (broken, FailureKind.TRANSPORT),
]


@pytest.mark.parametrize(("fault", "kind"), PASSING)
def test_a_passing_fault_is_tried_again_through_the_gate_and_remembered(
    fault: Callable[[], httpx.Response], kind: FailureKind
) -> None:
    """A fault that a retry hid still makes absences from before worthless."""
    server = Server(lambda _where, _request: fault() if len(server.asked) < 3 else ok(bundle("a")))
    found = server.read(SWEEP)
    assert (found.ids, found.coverage, found.reading.calls) == (["a"], Coverage.COMPLETE, 3)
    assert found.server_error is not None
    assert found.server_error >= found.reading.began - dt.timedelta(seconds=5)
    lasting = always(fault).read(SWEEP)
    assert (lasting.failure, lasting.coverage, lasting.reading.calls) == (kind, Coverage.INCOMPLETE, 3)


@pytest.mark.parametrize("status", [400, 403, 404, 410, 422])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    server = always(lambda: refusal(status))
    found = server.read(SWEEP)
    assert (found.failure, len(server.asked), found.server_error) == (FailureKind.REFUSED, 1, None)


def test_redirects_are_not_followed() -> None:
    server = always(lambda: httpx.Response(302, headers={"Location": "https://elsewhere.example.org/"}))
    assert server.read(SWEEP).failure is FailureKind.MALFORMED
    assert len(server.asked) == 1


def test_an_answer_that_does_not_come_in_time_is_a_transport_failure() -> None:
    async def slow(_where: str, _request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        return ok(bundle())

    async def main() -> Any:
        async with Server(slow).source(timeout=dt.timedelta(milliseconds=20)) as source:
            return await source.client.get("Observation", Purpose.PROBE, retries=0)

    answer = asyncio.run(main())
    assert (answer.failure.kind, answer.failure.detail) == (FailureKind.TRANSPORT, "no answer in time")


def test_a_body_without_end_is_given_up() -> None:
    async def flood() -> AsyncIterator[bytes]:
        for _ in range(LARGEST // 2**20 + 2):
            yield b" " * 2**20

    found = always(lambda: httpx.Response(200, content=flood())).read(SWEEP)
    assert found.failure is FailureKind.MALFORMED
    assert found.reading.calls == 1


def test_a_429_locks_out_till_the_servers_minute_has_turned() -> None:
    server = always(lambda: httpx.Response(429, headers={"Date": DATE}))

    async def main() -> None:
        async with server.source() as source:
            answer = await source.client.get("Observation", Purpose.DETECT, retries=0)
            assert answer.failure is not None
            assert answer.failure.kind is FailureKind.LOCKED_OUT
            waiting = asyncio.create_task(source.client.get("Observation", Purpose.TOKEN))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(main())
    assert server.ledger.blocks == [57.0]
    assert len(server.asked) == 1


def test_calls_that_ran_out_by_the_servers_own_count_wait_till_there_are_more() -> None:
    counts = iter(["2", "0", "0"])

    def script(_where: str, _request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, json=bundle("a"), headers={"RateLimit-Remaining": next(counts), "RateLimit-Reset": "9"}
        )

    server = Server(script)

    async def main() -> None:
        async with server.source() as source:
            for expected in ([], [9.0]):
                await source.client.get("Observation", Purpose.DETECT)
                assert server.ledger.blocks == expected
            source.client._gate._blocked_until = 0.0  # the nine seconds are over
            await source.client.get("Observation", Purpose.DETECT)
            assert server.ledger.blocks == [9.0], "nought all the time does not count"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "90"}, 92.0), ({"RateLimit-Reset": "60"}, 62.0), ({"Retry-After": "1" + "0" * 12}, 902.0)],
)
def test_a_429_that_asks_for_longer_gets_it_within_bounds(headers: dict[str, str], seconds: float) -> None:
    server = always(lambda: httpx.Response(429, headers={"Date": DATE} | headers))

    async def main() -> None:
        async with server.source() as source:
            await source.client.get("Observation", Purpose.DETECT, retries=0)

    asyncio.run(main())
    assert server.ledger.blocks == [seconds]


@pytest.mark.parametrize("status", [200, 403, 500])
def test_a_practice_that_has_not_enabled_the_app_is_known_by_its_words(status: int) -> None:
    words = {"error": "403", "error_description": "invalid_request"}
    server = always(lambda: httpx.Response(status, json=words))
    found = server.read(SWEEP)
    assert (found.failure, len(server.asked)) == (FailureKind.UNAUTHORIZED, 1)


def test_a_server_that_asks_for_a_long_wait_is_left_alone() -> None:
    server = always(lambda: httpx.Response(503, headers={"Retry-After": "3600"}))
    assert server.read(SWEEP).failure is FailureKind.SERVER
    assert len(server.asked) == 1


def test_decimals_stay_as_written() -> None:
    body = json.dumps(bundle("a")).replace('"id": "a"', '"id": "a", "value": 13.20').encode()
    found = always(lambda: httpx.Response(200, content=body)).read(SWEEP)
    assert found.found == [("a", Literal("13.20"))]


def test_no_patients_data_shows_in_logs_or_failures(caplog: pytest.LogCaptureFixture) -> None:
    faults = [lambda: refusal(400), lambda: refusal(500), html, cut, broken, lambda: httpx.Response(429)]
    caplog.set_level(logging.DEBUG, logger="poller")
    with structlog.testing.capture_logs() as logs:
        for fault in faults:

            async def main(answer: Callable[[], httpx.Response] = fault) -> str:
                async with always(answer).source() as source:
                    target = "Observation?patient=jane-doe-1"
                    came = await source.client.get(target, Purpose.DETECT, retries=0)
                    return repr(came)

            shown = asyncio.run(main())
            assert "jane" not in shown.lower()
            assert "secret-token" not in shown
    text = (repr(logs) + caplog.text).lower()
    assert "call.failed" in text
    assert "jane" not in text
    assert "secret-token" not in text
