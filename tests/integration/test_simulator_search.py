"""The simulator's search rules in both modes, as eCW is known to have them and as FHIR has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from poller.core import jsontext
from poller.simulator.spec import PracticeSpec
from poller.simulator.world import World

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from tests.simulator_bench import Clock, Reader

    Reading = Callable[[World, Clock], AbstractAsyncContextManager[Reader]]

pytest_plugins = ["tests.simulator_bench"]
pytestmark = pytest.mark.anyio

ECW, OPEN = "AAAAAA", "BBBBBB"
ROOT = "http://simulator"
TOKEN = "/oauth/oauth2/token"

# --- the ecw mode


@pytest.mark.parametrize(
    "query",
    ["Patient?name=a&_count=10", "Condition?patient={p}&_lastUpdated=ge2026-01-01", "Condition?patient={p}&_sort=date"],
)
async def test_an_undeclared_parameter_is_refused(reader: Reader, query: str) -> None:
    answer = await reader.get(ECW, query.format(p=reader.a_patient(ECW)))
    assert answer.status_code == 400
    name = query.rpartition("&")[2].partition("=")[0]
    assert reader.diagnostics(answer) == f"Unsupported query parameter(s): {name}. These parameters are not allowed."


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("Condition", 400),
        ("Observation?patient={p}", 400),
        ("Observation?category=laboratory", 400),
        ("Patient", 400),
        ("MedicationRequest?patient={p}&status=active", 400),
        ("Binary", 404),
        ("Nonsense", 404),
        ("Observation?patient={p}&category=laboratory", 200),
        ("Condition?patient={p}", 200),
        ("Condition?patient=Patient/{p}", 200),
        ("MedicationRequest?patient={p}", 200),
        ("Encounter?practitioner={d}&date=ge2020-01-01&date=lt2030-01-01", 200),
    ],
)
async def test_searches_are_whitelisted(reader: Reader, query: str, status: int) -> None:
    clinician = next(iter(reader.world.written(ECW, "Practitioner")))
    answer = await reader.get(ECW, query.format(p=reader.a_patient(ECW), d=clinician))
    assert answer.status_code == status, answer.text


async def test_a_category_by_code_or_by_system_and_code(reader: Reader) -> None:
    patient = reader.a_patient(ECW)
    system = "http://terminology.hl7.org/CodeSystem/observation-category"
    plain = await reader.get(ECW, f"Observation?patient={patient}&category=laboratory")
    full = await reader.get(ECW, "Observation", params={"patient": patient, "category": f"{system}|laboratory"})
    assert reader.ids(plain.json()) == reader.ids(full.json()) != []
    for entry in plain.json()["entry"]:
        assert entry["resource"]["category"][0]["coding"][0]["code"] == "laboratory"


async def test_patients_are_found_by_prefix(reader: Reader) -> None:
    found = {name for letter in "ABCD" for name in reader.ids((await reader.get(ECW, f"Patient?name={letter}")).json())}
    assert found == set(reader.world.written(ECW, "Patient"))


async def test_pages_are_followed_by_number_and_links_name_another_host(reader: Reader) -> None:
    patient = reader.a_patient(ECW)
    pages = await reader.follow(ECW, f"Observation?patient={patient}&category=laboratory")
    assert len(pages) == 2
    assert {page["total"] for page in pages} == {8}
    assert len(set(reader.ids(*pages))) == 8
    following = urlsplit(str(reader.link(pages[0], "next")))
    assert (following.scheme, following.hostname) == ("http", "fhir-internal.example.org")
    assert parse_qs(following.query)["page"] == ["2"]
    assert pages[0]["entry"][0]["fullUrl"].startswith("http://fhir-internal.example.org/fhir/r4/AAAAAA/Observation/")
    assert pages[0]["entry"][0]["search"] == {"mode": "match"}


async def test_reads_have_no_version_and_fail_for_dotted_practitioners(reader: Reader) -> None:
    condition = next(iter(reader.world.written(ECW, "Condition")))
    answer = await reader.get(ECW, f"Condition/{condition}")
    assert answer.status_code == 200
    assert "etag" not in answer.headers
    assert "versionId" not in answer.json()["meta"]
    assert answer.headers["date"] == "Sun, 22 Nov 2026 15:00:00 GMT"
    clinician = next(iter(reader.world.written(ECW, "Practitioner")))
    assert (await reader.get(ECW, f"Practitioner/{clinician}")).status_code == 500
    assert reader.ids((await reader.get(ECW, f"Practitioner?_id={clinician}")).json()) == [clinician]


@pytest.mark.parametrize(("code", "status"), [(ECW, 404), (OPEN, 410)])
async def test_what_is_deleted_is_gone(reader: Reader, code: str, status: int) -> None:
    name = next(iter(reader.world.written(code, "Condition")))
    reader.world.delete(code, "Condition", name, reader.clock())
    assert (await reader.get(code, f"Condition/{name}")).status_code == status
    assert (await reader.get(code, "Condition/unheard-of")).status_code == 404
    assert (await reader.get(code, f"Condition?_id={name}")).json()["total"] == 0


async def test_content_types_vary(reader: Reader) -> None:
    patient = reader.a_patient(ECW)
    assert (await reader.get(ECW, "Patient?name=a")).headers["content-type"] == "application/json+fhir;charset=UTF-8"
    one = await reader.get(ECW, f"Condition?patient={patient}")
    assert one.headers["content-type"] == "application/fhir+json;charset=UTF-8"


async def test_decimals_travel_as_written(reader: Reader) -> None:
    name, resource = next(
        (name, one) for name, one in reader.world.written(OPEN, "Observation").items() if "valueQuantity" in one
    )
    quantity = {**resource["valueQuantity"], "value": jsontext.Literal("13.20")}
    reader.world.put(OPEN, {**resource, "valueQuantity": quantity}, reader.clock())
    assert b'"value":13.20' in (await reader.get(OPEN, f"Observation/{name}")).content


@pytest.mark.parametrize("code", [ECW, OPEN])
async def test_what_a_practice_says_of_itself_needs_no_token(reader: Reader, code: str) -> None:
    metadata = (await reader.http.get(f"/fhir/r4/{code}/metadata")).json()
    declared = {
        entry["type"]: {parameter["name"] for parameter in entry.get("searchParam", [])}
        for entry in metadata["rest"][0]["resource"]
    }
    assert len(declared) == 36
    assert ("_lastUpdated" in declared["Observation"]) == (code == OPEN)
    assert ("page" in declared["Observation"]) == (code == ECW)
    settings = (await reader.http.get(f"/fhir/r4/{code}/.well-known/smart-configuration")).json()
    assert settings["token_endpoint"] == ROOT + TOKEN
    assert (await reader.http.get("/fhir/r4/NOSUCH/metadata")).status_code == 400


# --- the open mode


async def test_open_searches_practice_wide_in_pages_by_an_opaque_link(reader: Reader) -> None:
    pages = await reader.follow(OPEN, "Patient?_count=3")
    assert [len(page["entry"]) for page in pages] == [3, 3, 2]
    assert set(reader.ids(*pages)) == set(reader.world.written(OPEN, "Patient"))
    assert reader.link(pages[0], "self") == f"{ROOT}/fhir/r4/{OPEN}/Patient?_count=3"
    assert (await reader.get(OPEN, "Patient?_cursor=unknown.2")).status_code == 410


async def test_windows_find_what_was_stamped_in_them(reader: Reader) -> None:
    name, resource = next(iter(reader.world.written(OPEN, "Condition").items()))
    reader.clock.forward(10)
    reader.world.put(OPEN, {**resource, "note": [{"text": "x"}]}, reader.clock())
    stamp = "2026-11-22T15:00:10.250Z"
    for query, found in (
        (f"ge{stamp}", [name]),
        (f"gt{stamp}", []),
        ("ge2030-01-01", []),
        ("ge2026-11-22T10:00:10-05:00", [name]),
    ):
        answer = (await reader.get(OPEN, "Condition", params={"_lastUpdated": query})).json()
        assert reader.ids(answer) == found, query
        assert "_lastUpdated" in str(reader.link(answer, "self"))
    both = await reader.get(OPEN, f"Condition?_lastUpdated=ge{stamp}&_lastUpdated=lt2026-11-22T15:00:10.251Z")
    assert reader.ids(both.json()) == [name]
    assert (await reader.get(OPEN, "Condition?_lastUpdated=geyesterday")).status_code == 400


async def test_a_parameter_that_is_not_known_is_dropped_from_the_self_link(reader: Reader) -> None:
    answer = (await reader.get(OPEN, "Condition?nonsense=1&_count=2")).json()
    assert reader.link(answer, "self") == f"{ROOT}/fhir/r4/{OPEN}/Condition?_count=2"


async def test_open_reads_carry_their_version(reader: Reader) -> None:
    name, resource = next(iter(reader.world.written(OPEN, "Condition").items()))
    reader.world.put(OPEN, {**resource, "note": [{"text": "x"}]}, reader.clock())
    answer = await reader.get(OPEN, f"Condition/{name}")
    assert answer.headers["etag"] == 'W/"2"'
    assert answer.json()["meta"] == {
        **resource["meta"],
        "versionId": "2",
        "lastUpdated": "2026-11-22T15:00:00.250Z",
    }


@pytest.mark.parametrize(
    ("manner", "status", "rows", "named"),
    [("honoured", 200, 0, True), ("ignored", 200, 8, False), ("refused", 400, 0, False), ("unmoved", 200, 0, True)],
)
async def test_last_updated_has_four_manners(
    clock: Clock, reading: Reading, manner: Any, status: int, rows: int, *, named: bool
) -> None:
    world = World([PracticeSpec(OPEN, "open", patients=8, last_updated=manner)], now=clock())
    async with reading(world, clock) as reader:
        answer = await reader.get(OPEN, "Patient?_lastUpdated=ge2030-01-01")
        assert answer.status_code == status
        if status == 200:
            assert len(reader.ids(answer.json())) == rows
            assert ("_lastUpdated" in str(reader.link(answer.json(), "self"))) is named


async def test_unmoved_stamps_do_not_move(clock: Clock) -> None:
    world = World([PracticeSpec(OPEN, "open", patients=2, last_updated="unmoved")], now=clock())
    name, before = next(iter(world.written(OPEN, "Patient").items()))
    clock.forward(60)
    world.put(OPEN, {**before, "active": False}, clock())
    assert world.written(OPEN, "Patient")[name]["meta"]["lastUpdated"] == before["meta"]["lastUpdated"]
