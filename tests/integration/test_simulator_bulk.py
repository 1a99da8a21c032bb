"""The simulator's bulk export, as the Bulk Data IG has it and as eCW is known to do it."""

from __future__ import annotations

import datetime as dt
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from poller.core import jsontext
from poller.simulator.server import SimulatorServer
from poller.simulator.spec import PracticeSpec
from poller.simulator.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from tests.simulator_bench import Clock, Reader

    Reading = Callable[[World, Clock], AbstractAsyncContextManager[Reader]]

pytest_plugins = ["tests.simulator_bench"]
pytestmark = pytest.mark.anyio

ECW, OPEN = "AAAAAA", "BBBBBB"
ASYNC = {"prefer": "respond-async", "accept": "application/fhir+json"}


class Exporter:
    """A client that asks for exports."""

    def __init__(self, reader: Reader, code: str) -> None:
        self.reader, self.code, self.clock, self.world = reader, code, reader.clock, reader.world

    @property
    def group(self) -> str:
        return next(iter(self.world.written(self.code, "Group")))

    async def ask(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        """``path`` below the base, or a whole URL."""
        if self.code not in self.reader.bearer:
            scopes = "system/Group.read system/*.r"
            answer = await self.reader.ask_token(self.code, scope=scopes)
            assert answer.status_code == 200, answer.text
            self.reader.bearer[self.code] = answer.json()["access_token"]
        headers = {"authorization": f"Bearer {self.reader.bearer[self.code]}", **headers}
        url = path if path.startswith("http") else f"/fhir/r4/{self.code}/{path}"
        return await self.reader.http.request(method, url, headers=headers)

    async def kick_off(self, query: str = "", **headers: str) -> httpx.Response:
        return await self.ask(f"Group/{self.group}/$export{query}", **(headers or ASYNC))

    async def manifest(self, query: str = "") -> dict[str, Any]:
        """Of an export that takes as long as it takes."""
        begun = await self.kick_off(query)
        assert begun.status_code == 202, begun.text
        self.clock.forward(self.world.practices[self.code].spec.bulk_seconds)
        answer = await self.ask(begun.headers["content-location"])
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def rows(self, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of files, each parsed line."""
        found = []
        for file in files:
            answer = await self.ask(file["url"])
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == "application/fhir+ndjson"
            assert answer.content.endswith(b"\n")
            lines = [jsontext.loads(line) for line in answer.content.splitlines()]
            assert {line["resourceType"] for line in lines} == {file["type"]}
            found.extend(lines)
        return found

    async def keys(self, manifest: dict[str, Any]) -> set[tuple[str, str]]:
        return {(row["resourceType"], row["id"]) for row in await self.rows(manifest["output"])}

    def written(self, *types: str) -> set[tuple[str, str]]:
        return {(kind, name) for kind in types for name in self.world.written(self.code, kind)}


@pytest.fixture
def world(clock: Clock) -> World:
    specs = [
        PracticeSpec(ECW, "ecw", patients=3, name_initials="ABCD", bulk=True, bulk_seconds=100),
        PracticeSpec(OPEN, "open", patients=4, bulk=True, bulk_seconds=10, bulk_retry_seconds=2, bulk_deleted=True),
    ]
    return World(specs, now=clock())


@pytest.fixture(params=[ECW, OPEN])
def either(reader: Reader, request: pytest.FixtureRequest) -> Exporter:
    return Exporter(reader, request.param)


@pytest.fixture
def ecw(reader: Reader) -> Exporter:
    return Exporter(reader, ECW)


@pytest.fixture
def opened(reader: Reader) -> Exporter:
    return Exporter(reader, OPEN)


# --- the way of an export


async def test_an_export_is_begun_polled_and_brings_all_that_a_search_would(either: Exporter) -> None:
    begun = await either.kick_off()
    assert begun.status_code == 202
    where = urlsplit(begun.headers["content-location"])
    assert where.path == f"/fhir/r4/{either.code}/$export-poll-location"
    assert where.query.startswith("job_id=")
    assert begun.headers["retry-after"] == ("120" if either.code == ECW else "2")
    waiting = await either.ask(begun.headers["content-location"])
    assert (waiting.status_code, waiting.headers["x-progress"]) == (202, "in progress, 0%")
    either.clock.forward(100)
    manifest = (await either.ask(begun.headers["content-location"])).json()
    assert manifest["requiresAccessToken"] is True
    assert manifest["request"].endswith(f"Group/{either.group}/$export")
    assert manifest["error"] == []
    types = {file["type"] for file in manifest["output"]}
    assert await either.keys(manifest) == either.written(*types)
    assert {"Patient", "Observation", "Condition", "Encounter", "Practitioner"} <= types


async def test_every_call_of_an_export_counts_against_the_limit(ecw: Exporter) -> None:
    manifest = await ecw.manifest("?_type=Patient")
    await ecw.rows(manifest["output"])
    assert [call.kind for call in ecw.world.calls(ECW)] == ["token", "bulk", "bulk", "file"]
    ecw.world.set_manners(ECW, limit=0)
    assert (await ecw.ask(manifest["output"][0]["url"])).status_code == 429


async def test_the_files_are_behind_the_bearer(ecw: Exporter) -> None:
    manifest = await ecw.manifest("?_type=Patient")
    assert (await ecw.reader.http.get(manifest["output"][0]["url"])).status_code == 401


async def test_an_export_shows_the_practice_as_it_was_at_its_transaction_time(opened: Exporter) -> None:
    before = opened.written("Condition")
    begun = await opened.kick_off("?_type=Condition")
    opened.clock.forward(10)
    name, resource = next(iter(opened.world.written(OPEN, "Condition").items()))
    opened.world.put(OPEN, {**resource, "note": [{"text": "later"}]}, opened.clock())
    opened.world.put(OPEN, {**resource, "id": "new"}, opened.clock())
    manifest = (await opened.ask(begun.headers["content-location"])).json()
    assert manifest["transactionTime"] == "2026-11-22T15:00:00.250Z"
    rows = await opened.rows(manifest["output"])
    assert {("Condition", row["id"]) for row in rows} == before
    assert "note" not in next(row for row in rows if row["id"] == name)


async def test_ecws_transaction_time_is_in_whole_seconds_of_new_york(ecw: Exporter) -> None:
    assert (await ecw.manifest())["transactionTime"] == "2026-11-22T10:00:00.000-05:00"


async def test_a_group_is_named_by_its_id_or_by_its_identifier(either: Exporter) -> None:
    assert (await either.ask(f"Group/{either.code}-ALL/$export", **ASYNC)).status_code == 202


async def test_an_export_is_cancelled(either: Exporter) -> None:
    begun = await either.kick_off()
    where = begun.headers["content-location"]
    assert (await either.ask(where, "DELETE")).status_code == 202
    assert (await either.ask(where)).status_code == 404
    assert (await either.ask(where, "DELETE")).status_code == 404
    assert (await either.kick_off()).status_code == 202


async def test_the_same_export_again_is_a_duplicate_while_it_runs(either: Exporter) -> None:
    await either.kick_off("?_type=Patient")
    again = await either.kick_off("?_type=Patient")
    assert again.status_code == 200
    assert again.json()["issue"][0]["code"] == "duplicate"
    assert "content-location" not in again.headers
    assert (await either.kick_off("?_type=Condition")).status_code == 202
    either.clock.forward(100)
    assert (await either.kick_off("?_type=Patient")).status_code == 202


async def test_a_stuck_export_blocks_its_group_until_it_is_cancelled(either: Exporter) -> None:
    either.world.set_manners(either.code, bulk_stuck=True)
    begun = await either.kick_off("?_type=Patient")
    either.world.set_manners(either.code, bulk_stuck=False)
    either.clock.forward(250)
    waiting = await either.ask(begun.headers["content-location"])
    assert waiting.status_code == 202
    assert (await either.kick_off()).json()["issue"][0]["code"] == "duplicate"
    await either.ask(begun.headers["content-location"], "DELETE")
    assert (await either.kick_off()).status_code == 202


# --- refusals


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {"accept": "application/fhir+json"}, 400),
        ("?_type=Patient,Nonsense", ASYNC, 400),
        ("?_since=yesterday", ASYNC, 400),
        ("?_outputFormat=csv", ASYNC, 400),
        ("?_elements=id", ASYNC, 400),
        ("?_outputFormat=application%2Ffhir%2Bndjson&_type=Patient&_type=Condition", ASYNC, 202),
    ],
)
async def test_a_kick_off_has_rules(either: Exporter, query: str, headers: dict[str, str], status: int) -> None:
    assert (await either.kick_off(query, **headers)).status_code == status


@pytest.mark.parametrize(("code", "bad_group", "no_bulk"), [(ECW, 401, 403), (OPEN, 404, 404)])
async def test_what_is_not_there_is_refused(reader: Reader, code: str, bad_group: int, no_bulk: int) -> None:
    exporter = Exporter(reader, code)
    assert (await exporter.ask("Group/unheard-of/$export", **ASYNC)).status_code == bad_group
    assert (await exporter.ask("$export-poll-location?job_id=unheard-of")).status_code == 404
    assert (await exporter.ask("$export-file/unheard-of/0.ndjson")).status_code in {404, 410}
    reader.world.set_manners(code, bulk=False)
    assert (await exporter.kick_off()).status_code == no_bulk


async def test_nothing_is_exported_that_the_token_does_not_cover(opened: Exporter) -> None:
    answer = await opened.reader.ask_token(OPEN, scope="system/Group.read system/Patient.read system/Condition.read")
    opened.reader.bearer[OPEN] = answer.json()["access_token"]
    assert (await opened.kick_off("?_type=Observation")).status_code == 403
    manifest = await opened.manifest()
    assert {file["type"] for file in manifest["output"]} == {"Patient", "Condition"}
    answer = await opened.reader.ask_token(OPEN, scope="system/Patient.read")
    opened.reader.bearer[OPEN] = answer.json()["access_token"]
    assert (await opened.kick_off()).status_code == 403


async def test_a_practice_may_turn_bulk_on_later(clock: Clock, reading: Reading) -> None:
    world = World([PracticeSpec(OPEN, "open", patients=3)], now=clock())
    async with reading(world, clock) as reader:
        exporter = Exporter(reader, OPEN)
        assert (await exporter.ask(f"Group/{OPEN}-ALL/$export", **ASYNC)).status_code == 404
        world.set_manners(OPEN, bulk=True)
        assert (await exporter.ask(f"Group/{OPEN}-ALL/$export", **ASYNC)).status_code == 202


# --- since


async def _later(exporter: Exporter) -> tuple[str, str]:
    """One condition edited and one deleted, a minute after everything else."""
    edited, deleted, *_ = list(exporter.world.written(exporter.code, "Condition"))
    exporter.clock.forward(60)
    resource = exporter.world.written(exporter.code, "Condition")[edited]
    exporter.world.put(exporter.code, {**resource, "note": [{"text": "later"}]}, exporter.clock())
    exporter.world.delete(exporter.code, "Condition", deleted, exporter.clock())
    return edited, deleted


async def test_since_narrows_to_what_changed_and_tells_what_vanished(opened: Exporter) -> None:
    edited, deleted = await _later(opened)
    manifest = await opened.manifest("?_since=2026-11-22T15:00:30Z")
    assert await opened.keys(manifest) == {("Condition", edited)}
    (bundle,) = await opened.rows(manifest["deleted"])
    assert bundle["type"] == "transaction"
    assert [entry["request"] for entry in bundle["entry"]] == [{"method": "DELETE", "url": f"Condition/{deleted}"}]


async def test_without_since_nothing_is_told_of_what_vanished(opened: Exporter) -> None:
    await _later(opened)
    assert (await opened.manifest())["deleted"] == []
    opened.world.set_manners(OPEN, bulk_deleted=False)
    assert "deleted" not in await opened.manifest("?_since=2026-11-22T15:00:30Z")


async def test_since_may_be_ignored_or_refused(ecw: Exporter) -> None:
    await _later(ecw)
    ecw.world.set_manners(ECW, bulk_since="ignored")
    manifest = await ecw.manifest("?_since=2026-11-22T15:00:30Z")
    assert await ecw.keys(manifest) >= ecw.written("Condition", "Patient")
    ecw.world.set_manners(ECW, bulk_since="refused")
    assert (await ecw.kick_off("?_since=2026-11-22T15:00:30Z")).status_code == 400


# --- manners


async def test_retry_after_has_forms(opened: Exporter) -> None:
    opened.world.set_manners(OPEN, bulk_retry_after="date")
    when = (await opened.kick_off()).headers["retry-after"]
    assert parsedate_to_datetime(when) == dt.datetime(2026, 11, 22, 15, 0, 2, tzinfo=dt.UTC)
    opened.world.set_manners(OPEN, bulk_retry_after="nonsense")
    assert (await opened.kick_off("?_type=Patient")).headers["retry-after"] == "soon, please"
    opened.world.set_manners(OPEN, bulk_retry_after="none")
    assert "retry-after" not in (await opened.kick_off("?_type=Condition")).headers


async def test_links_may_name_another_host(ecw: Exporter) -> None:
    ecw.world.set_manners(ECW, bulk_links_elsewhere=True)
    where = urlsplit((await ecw.kick_off("?_type=Patient")).headers["content-location"])
    assert (where.hostname, where.path) == ("fhir-internal.example.org", "/fhir/r4/AAAAAA/$export-poll-location")
    ecw.clock.forward(100)
    (file,) = (await ecw.ask(f"$export-poll-location?{where.query}")).json()["output"]
    assert file["url"].startswith("http://fhir-internal.example.org/fhir/r4/AAAAAA/$export-file/")


async def test_polls_that_come_too_fast_are_refused(opened: Exporter) -> None:
    opened.world.set_manners(OPEN, bulk_poll_gap=2)
    where = (await opened.kick_off()).headers["content-location"]
    statuses = []
    for seconds in (0, 1, 2, 2):
        opened.clock.forward(seconds)
        statuses.append((await opened.ask(where)).status_code)
    assert statuses == [202, 429, 202, 202]


async def test_files_are_split_and_expire(either: Exporter) -> None:
    either.world.set_manners(either.code, bulk_file_rows=5, bulk_expires=60)
    manifest = await either.manifest("?_type=Observation")
    assert len(manifest["output"]) == -(-len(either.written("Observation")) // 5)
    assert await either.keys(manifest) == either.written("Observation")
    either.clock.forward(60)
    assert (await either.ask(manifest["output"][0]["url"])).status_code == (404 if either.code == ECW else 410)


async def test_an_export_can_fail_whole_or_for_a_type(opened: Exporter) -> None:
    opened.world.set_manners(OPEN, bulk_errors=("Condition",), bulk_notes=True)
    manifest = await opened.manifest("?_type=Condition,Patient")
    found = await opened.keys(manifest)
    assert found >= opened.written("Patient")
    assert not found >= opened.written("Condition")
    issues = [row["issue"][0] for row in await opened.rows(manifest["error"])]
    assert [issue["severity"] for issue in issues] == ["error", "warning"]
    assert "Condition" in issues[0]["diagnostics"]
    opened.world.set_manners(OPEN, bulk_fails=True)
    where = (await opened.kick_off()).headers["content-location"]
    opened.clock.forward(10)
    assert (await opened.ask(where)).status_code == 500


async def test_a_group_may_hold_some_patients_only_and_follows_who_comes_and_goes(
    clock: Clock, reading: Reading
) -> None:
    world = World(
        [PracticeSpec(OPEN, "open", patients=30, bulk=True, group_share=0.5, types=("Condition",))], now=clock()
    )
    async with reading(world, clock) as reader:
        exporter = Exporter(reader, OPEN)
        members = exporter.written("Patient") & await exporter.keys(await exporter.manifest("?_type=Patient"))
        assert 5 < len(members) < 25
        exported = await exporter.rows((await exporter.manifest("?_type=Condition"))["output"])
        patients = {row["subject"]["reference"].removeprefix("Patient/") for row in exported}
        assert patients <= {name for _, name in members}
        gone = min(members)[1]
        world.delete(OPEN, "Patient", gone, clock())
        left = await exporter.keys(await exporter.manifest("?_type=Patient"))
        assert left == members - {("Patient", gone)}


# --- on the wire


@pytest.fixture
async def wire(clock: Clock, reading: Reading) -> AsyncIterator[tuple[SimulatorServer, httpx.AsyncClient]]:
    """A server on a port, and a client with a token."""
    clock.time = dt.datetime.now(dt.UTC)
    spec = PracticeSpec(OPEN, "open", patients=10, bulk=True, bulk_seconds=0, bulk_gone_mid_file=True, limit=10_000)
    world = World([spec], now=clock())
    async with reading(world, clock) as reader:
        token = (await reader.ask_token(OPEN)).json()["access_token"]
    headers = {"authorization": f"Bearer {token}", **ASYNC}
    with SimulatorServer(world) as server:
        async with httpx.AsyncClient(headers=headers, base_url=server.base_url(OPEN)) as http:
            yield server, http


async def test_a_files_first_download_can_break_off_and_a_fault_can_cut_or_end_it(
    wire: tuple[SimulatorServer, httpx.AsyncClient],
) -> None:
    server, http = wire
    begun = await http.get(f"/Group/{OPEN}-ALL/$export?_type=Observation")
    (file,) = (await http.get(begun.headers["content-location"])).json()["output"]
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get(file["url"])
    whole = await http.get(file["url"], headers={"range": "bytes=100-"})
    assert (whole.status_code, whole.content.count(b"\n")) == (200, file["count"])
    assert "content-length" not in whole.headers
    server.world.set_faults(OPEN, kinds=["file"], cut_connection=1, first=1)
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get(file["url"])
    server.world.set_faults(OPEN, kinds=["file"], cut_connection=0, cut_json=1, first=1)
    short = await http.get(file["url"])
    assert short.status_code == 200
    assert len(short.content) == len(whole.content) * 2 // 3
