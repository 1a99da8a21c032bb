"""The server of the benchmarks: it holds nothing, and brings the same by every way."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from poller.core import jsontext
from tests.benchmarks import big_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_it_brings_the_same_by_search_and_by_export() -> None:
    transport = httpx.ASGITransport(big_server.create_app(2_000))
    base = f"http://big/fhir/r4/{big_server.CODE}"
    async with httpx.AsyncClient(transport=transport, base_url=base) as http:
        await http.post("http://big/_edit?every=100")
        begun = await http.get("Group/all/$export", headers={"prefer": "respond-async"})
        manifest = (await http.get(begun.headers["content-location"])).json()
        exported = [line for file in manifest["output"] for line in (await http.get(file["url"])).content.splitlines()]
        found: list[dict[str, Any]] = []
        for kind in {file["type"] for file in manifest["output"]}:
            following: str | None = f"{kind}?_count=300"
            while following is not None:
                page = jsontext.loads((await http.get(following)).content)
                found.extend(entry["resource"] for entry in page["entry"])
                following = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
        assert len(exported) == 2_000
        assert {line["id"]: line for line in map(jsontext.loads, exported)} == {row["id"]: row for row in found}
        assert 1_900 < sum(map(len, exported)) / 2_000 < 2_200
        third = big_server.Big.name("Patient", 3)
        changed = (await http.get("Observation?_lastUpdated=ge2026-05-01")).json()
        assert changed["total"] == 12
        assert (await http.get(f"Observation?patient={third}&category=laboratory")).json()["total"] == 60
        everything = (await http.get(f"Patient/{third}/$everything")).json()
        whose = [row for row in found if third in (row["id"], row.get("subject", {}).get("reference", "")[8:])]
        ids = sorted((entry["resource"]["resourceType"], entry["resource"]["id"]) for entry in everything["entry"])
        assert ids == sorted((row["resourceType"], row["id"]) for row in whose)
        assert len(ids) == everything["total"] == 100
