"""Pages and headers as hostile as real ones, and what the call log makes of them."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import pytest

from poller.simulator.passes import complete_passes

if TYPE_CHECKING:
    import httpx

    from tests.simulator_bench import Reader

pytest_plugins = ["tests.simulator_bench"]
pytestmark = pytest.mark.anyio

ECW, OPEN = "AAAAAA", "BBBBBB"
ROOT = f"http://simulator/fhir/r4/{OPEN}"
FIVE = "Patient?_count=5"
"""Two pages, of five and three."""


def shown(page: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in page["entry"]]


async def first_page(reader: Reader, **faults: object) -> dict[str, Any]:
    reader.world.set_faults(OPEN, **faults)
    page: dict[str, Any] = (await reader.get(OPEN, FIVE)).json()
    return page


def held(reader: Reader) -> int:
    """How many passes a judge would hold a poller to."""
    return len(complete_passes(reader.world.calls(OPEN)))


async def test_a_page_repeated_hides_its_own_rows(reader: Reader) -> None:
    reader.world.set_faults(OPEN, repeat=1)
    first, second = await reader.follow(OPEN, FIVE)
    assert reader.ids(first) == reader.ids(second)
    assert (first["total"], second["total"], held(reader)) == (8, 8, 0)


async def test_pages_may_end_early(reader: Reader) -> None:
    page = await first_page(reader, end_early=1)
    assert (reader.link(page, "next"), page["total"], len(page["entry"]), held(reader)) == (None, 8, 5, 0)


async def test_a_page_may_name_itself_as_the_next(reader: Reader) -> None:
    page = await first_page(reader, next_self=1)
    for _ in range(3):
        following = reader.link(page, "next")
        assert following is not None
        again = (await reader.get(OPEN, following.removeprefix(ROOT + "/"))).json()
        assert (reader.ids(again), reader.link(again, "next")) == (reader.ids(page), following)
    assert held(reader) == 0


async def test_a_link_may_lead_to_another_host_and_practice(reader: Reader) -> None:
    page = await first_page(reader, next_elsewhere=1)
    assert reader.link(page, "next") == "https://fhir.elsewhere.example.org/fhir/r4/ZZZZZZ/Patient?page=2"


@pytest.mark.parametrize(("severity", "passes"), [("error", 0), ("warning", 1)])
async def test_an_outcome_may_stand_among_the_matches(reader: Reader, severity: str, passes: int) -> None:
    reader.world.set_faults(OPEN, **{f"outcome_{severity}": 1})
    page = (await reader.get(OPEN, "Patient?_count=50")).json()
    *matches, last = page["entry"]
    assert len(matches) == page["total"] == 8
    assert (last["resource"]["resourceType"], last["search"]["mode"]) == ("OperationOutcome", "outcome")
    assert last["resource"]["issue"][0]["severity"] == severity
    assert held(reader) == passes


@pytest.mark.parametrize(("fault", "total"), [("total_high", 58), ("total_low", 3)])
async def test_the_total_may_lie(reader: Reader, fault: str, total: int) -> None:
    assert (await first_page(reader, **{fault: 1}))["total"] == total


async def test_a_resource_may_come_without_its_id_or_in_part(reader: Reader) -> None:
    first, *others = shown(await first_page(reader, no_id=1))
    assert "id" not in first
    assert all("id" in other for other in others)
    reader.world.clear_faults()
    first, *_ = shown(await first_page(reader, subsetted=1))
    true = reader.world.written(OPEN, "Patient")[first["id"]]
    assert [tag["code"] for tag in first["meta"]["tag"]] == ["SUBSETTED"]
    assert len(true.keys() - first.keys()) == 1
    assert held(reader) == 0


# --- around the body


async def raw(reader: Reader, path: str, **headers: str) -> tuple[httpx.Response, bytes]:
    """The answer and its body as it travelled."""
    await reader.get(OPEN, "Patient?_count=1")
    sent = {"authorization": f"Bearer {reader.bearer[OPEN]}", **headers}
    async with reader.http.stream("GET", f"/fhir/r4/{OPEN}/{path}", headers=sent) as answer:
        return answer, b"".join([part async for part in answer.aiter_raw()])


async def test_answers_are_compressed_for_those_who_take_it(reader: Reader) -> None:
    _, plain = await raw(reader, "Patient?_id=x")
    reader.world.set_faults(OPEN, gzip=1)
    answer, body = await raw(reader, "Patient?_id=x")
    assert answer.headers["content-encoding"] == "gzip"
    assert len(gzip.decompress(body)) == len(plain)
    assert int(answer.headers["content-length"]) == len(body) != len(plain)
    answer, body = await raw(reader, "Patient?_id=x", **{"accept-encoding": "identity"})
    assert "content-encoding" not in answer.headers
    assert len(body) == len(plain)


@pytest.mark.parametrize("text", ["-5", "Wed, 21 Oct 2015 07:28:00 GMT", "1000000000", "soon"])
async def test_retry_after_may_say_anything(reader: Reader, text: str) -> None:
    reader.world.set_faults(OPEN, retry_after=text, error_503=1, first=1, kinds=["search"])
    assert (await reader.get(OPEN, "Patient")).headers["retry-after"] == text
    assert "retry-after" not in (await reader.get(OPEN, "Patient")).headers
    reader.world.set_manners(OPEN, limit=1)
    answer = await reader.get(OPEN, "Patient")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, text)


async def test_any_header_may_be_added(reader: Reader) -> None:
    lines = ["RateLimit-Remaining: 0", "RateLimit-Reset: -1"]
    reader.world.set_faults(OPEN, headers=lines)
    answer = await reader.get(OPEN, "Patient")
    assert (answer.headers["ratelimit-remaining"], answer.headers["ratelimit-reset"]) == ("0", "-1")
    reader.world.clear_faults()
    assert "ratelimit-reset" not in (await reader.get(OPEN, "Patient")).headers


async def test_a_proxys_page_with_404_is_not_the_servers_word(reader: Reader) -> None:
    await reader.get(OPEN, "Patient")
    reader.world.set_faults(OPEN, html_404=1, first=1)
    answer = await reader.get(OPEN, f"Patient/{reader.a_patient(OPEN)}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html;charset=UTF-8")
    assert (await reader.get(OPEN, f"Patient/{reader.a_patient(OPEN)}")).status_code == 200
