"""Reading single resources by their id: what proves that one is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from poller.core.model import Gone, Present, Unclear
from tests.source_bench import (
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


def observation(name: str = "o1", **more: Any) -> Any:
    return {"resourceType": "Observation", "id": name, **more}


def test_a_path_read_shows_the_resource() -> None:
    server = always(lambda: ok(observation(status="final")))
    confirmation, _ = server.confirm("Observation", "o1")
    assert isinstance(confirmation, Present)
    assert confirmation.sighting.resource["status"] == "final"
    assert server.asked == ["Observation/o1"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda: refusal(404, "not-found"),
        lambda: refusal(404, "processing"),
        lambda: refusal(410, "deleted"),
        lambda: httpx.Response(404),
        lambda: httpx.Response(410),
    ],
)
def test_gone_is_what_the_fhir_server_says_is_gone(answer: Callable[[], httpx.Response]) -> None:
    confirmation, error = always(answer).confirm("Observation", "o1")
    assert isinstance(confirmation, Gone)
    assert confirmation.began <= confirmation.ended
    assert error is None


@pytest.mark.parametrize(
    "answer",
    [
        lambda: httpx.Response(404, html="<h1>404 Not Found</h1>"),
        lambda: httpx.Response(404, json={"message": "no Route matched with those values"}),
        lambda: refusal(404, "not-supported"),
        lambda: refusal(404, "forbidden"),
        lambda: refusal(403),
        lambda: httpx.Response(401),
        lambda: httpx.Response(500),
        lambda: httpx.Response(503),
        html,
        cut,
        lambda: ok(observation("other")),
        lambda: ok({"resourceType": "Patient", "id": "o1"}),
        lambda: ok(observation(meta={"tag": [{"code": "SUBSETTED"}]})),
        broken,
    ],
)
def test_anything_else_is_unclear(answer: Callable[[], httpx.Response]) -> None:
    confirmation, _ = always(answer).confirm("Observation", "o1")
    assert isinstance(confirmation, Unclear)


def by_id_only(read: httpx.Response, search: Any) -> Server:
    return Server(lambda where, _request: ok(search) if "?" in where else read)


@pytest.mark.parametrize(("id_", "status"), [("o.1", 500), ("o.1", 400), ("o1", 400), ("o1", 405)])
def test_where_a_path_read_cannot_serve_a_search_for_the_id_does(id_: str, status: int) -> None:
    gone = by_id_only(refusal(status), bundle(total=0))
    confirmation, error = gone.confirm("Observation", id_)
    assert isinstance(confirmation, Gone)
    assert error is None, "a 500 that every dotted id gets is no sign of a sick server"
    assert gone.asked == [f"Observation/{id_}", f"Observation?_id={id_}"]
    there, _ = by_id_only(refusal(status), bundle(id_)).confirm("Observation", id_)
    assert isinstance(there, Present)


@pytest.mark.parametrize(
    "search",
    [
        bundle("another"),
        bundle(total=3),
        bundle(following="Observation?page=2"),
        {"resourceType": "Patient"},
        bundle(entry=[{"resource": {"resourceType": "Patient", "id": "x"}}]),
    ],
)
def test_a_search_for_the_id_that_is_not_plainly_empty_is_unclear(search: Any) -> None:
    confirmation, _ = by_id_only(refusal(400), search).confirm("Observation", "o1")
    assert isinstance(confirmation, Unclear)


def test_an_id_stays_one_segment_of_the_path() -> None:
    server = always(lambda: ok(observation()))
    server.confirm("Observation", "a/../b?c")
    assert server.requests[0].url.raw_path == b"/fhir/r4/FAMLYMED/Observation/a%2F..%2Fb%3Fc"
