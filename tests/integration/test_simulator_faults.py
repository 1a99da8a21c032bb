"""The simulator's faults, and its control from another process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from poller.core import jsontext
from poller.simulator.server import create_app
from poller.simulator.truth import load_truth
from poller.simulator.world import World

if TYPE_CHECKING:
    from tests.simulator_bench import Clock, Reader

pytest_plugins = ["tests.simulator_bench"]
pytestmark = pytest.mark.anyio

ECW, OPEN = "AAAAAA", "BBBBBB"
ROOT = "http://simulator"
TOKEN = "/oauth/oauth2/token"

# --- faults


@pytest.mark.parametrize(
    ("fault", "status"),
    [("error_500", 500), ("error_503", 503), ("spurious_429", 429), ("html", 200), ("cut_json", 200)],
)
async def test_faults_spoil_answers_and_count_as_calls(reader: Reader, fault: str, status: int) -> None:
    await reader.get(OPEN, "Patient")
    reader.world.set_faults(OPEN, **{fault: 1, "first": 1})
    answer = await reader.get(OPEN, "Patient")
    assert answer.status_code == status
    if status == 200:
        with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
            answer.json()
        assert not reader.world.calls(OPEN)[-1].intact
    assert (await reader.get(OPEN, "Patient")).json()["total"] == 8
    assert len(reader.world.calls(OPEN)) == 4


async def test_a_shift_skips_or_repeats_a_row_between_pages(reader: Reader) -> None:
    reader.world.set_faults(OPEN, shift=1)
    seen = set()
    for _ in range(10):
        first, *later = await reader.follow(OPEN, "Patient?_count=5")
        found = reader.ids(first, *later)
        seen.add((len(found), len(set(found)), later[-1]["total"]))
    assert seen == {(7, 7, 7), (9, 8, 9)}
    assert not all(call.intact for call in reader.world.calls(OPEN))


async def test_a_duplicate_repeats_the_last_row_and_a_lie_is_in_the_total(reader: Reader) -> None:
    reader.world.set_faults(OPEN, duplicate=1, total_lie=1)
    pages = await reader.follow(OPEN, "Patient?_count=5")
    assert len(reader.ids(*pages)) == 9
    assert reader.ids(pages[0])[-1] == reader.ids(pages[1])[0]
    assert all(page["total"] != 8 for page in pages)


async def test_a_skewed_clock_shows_in_the_date_and_in_stamps(reader: Reader) -> None:
    reader.world.set_faults(OPEN, skew_seconds=-90)
    name, resource = next(iter(reader.world.written(OPEN, "Condition").items()))
    reader.world.put(OPEN, resource, reader.clock())
    answer = await reader.get(OPEN, f"Condition/{name}")
    assert answer.headers["date"] == "Sun, 22 Nov 2026 14:58:30 GMT"
    assert answer.json()["meta"]["lastUpdated"] == "2026-11-22T14:58:30.250Z"


async def test_the_call_log_shows_complete_passes(reader: Reader) -> None:
    await reader.follow(OPEN, "Patient?_count=5")
    calls = [call for call in reader.world.calls(OPEN) if call.kind == "search"]
    assert [(call.page, call.last, len(call.rows)) for call in calls] == [(1, False, 5), (2, True, 3)]
    assert calls[0].read == calls[1].read
    assert all(call.finished is not None for call in calls)


# --- another process


async def test_control_reads_the_truth_and_steers_the_world(reader: Reader) -> None:
    http = reader.http
    name, resource = next(iter(reader.world.written(OPEN, "Condition").items()))
    changed = {**resource, "note": [{"text": "by hand"}]}
    order = jsontext.dumps({"practice": OPEN, "put": changed})
    assert (await http.post("/_mutate", content=order)).status_code == 200
    assert (await http.post("/_mutate", json={"practice": OPEN, "delete": f"Condition/{name}"})).status_code == 200
    assert (await http.post("/_mutate", json={"practice": OPEN, "delete": f"Condition/{name}"})).status_code == 400
    assert (await http.post("/_faults", json={"practice": OPEN, "html": 0.5})).status_code == 200
    assert reader.world.faults(OPEN).html == 0.5
    assert reader.world.faults(ECW).html == 0
    assert (await http.post("/_faults", json={"clear": True})).status_code == 200
    assert reader.world.faults(OPEN).html == 0
    assert (await http.post("/_faults", json={"nonsense": 1})).status_code == 400
    assert (await http.post("/_quiet")).status_code == 200
    assert (await http.post("/_revoke")).status_code == 200
    truth = load_truth((await http.get("/_truth")).content)
    assert truth == reader.world.evidence()
    assert [version.resource is None for version in truth[OPEN].versions["Condition", name]] == [False, False, True]


async def test_control_is_for_loopback_only(world: World, clock: Clock) -> None:
    transport = httpx.ASGITransport(create_app(world, clock), client=("192.0.2.1", 5))
    async with httpx.AsyncClient(transport=transport, base_url=ROOT) as http:
        assert (await http.get("/_truth")).status_code == 403
