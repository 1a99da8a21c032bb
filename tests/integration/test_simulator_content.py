"""What a simulated practice holds beyond the demo's: every readable row of the vendor's matrix, attachments, merges."""

from __future__ import annotations

import base64
import datetime as dt
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import pytest

from poller.core import jsontext
from poller.simulator.binary import attachments, binary
from poller.simulator.spec import ALL_TYPES, CLINICAL_TYPES, FURTHER_TYPES, PracticeSpec
from poller.simulator.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from tests.simulator_bench import Clock, Reader

    Reading = Callable[[World, Clock], AbstractAsyncContextManager[Reader]]

pytest_plugins = ["tests.simulator_bench"]
pytestmark = pytest.mark.anyio

ECW, OPEN = "AAAAAA", "BBBBBB"
CATEGORIES = ("laboratory", "vital-signs", "social-history", "survey", "exam", "imaging", "sdoh")


@pytest.fixture
def world(clock: Clock) -> World:
    specs = [
        PracticeSpec(ECW, "ecw", patients=3, name_initials="ABCD", types=ALL_TYPES, page_size=50),
        PracticeSpec(OPEN, "open", patients=3, types=ALL_TYPES, page_size=100, tempo=1e-5),
    ]
    return World(specs, now=clock())


@pytest.fixture
async def reader(world: World, clock: Clock, reading: Reading) -> AsyncIterator[Reader]:
    async with reading(world, clock) as found:
        yield found


def a_binary(reader: Reader, code: str, kind: str = "DocumentReference") -> tuple[str, str]:
    """An attachment's id and content type."""
    written = reader.world.written(code, kind).values()
    attachment = next(found for resource in written for found in attachments(resource))
    return str(attachment["url"]).removeprefix("Binary/"), str(attachment["contentType"])


# --- rows of the matrix


@pytest.mark.parametrize(
    ("kind", "query"),
    [
        ("Coverage", ""),
        ("CarePlan", "&category=assess-plan"),
        ("CareTeam", "&status=active"),
        ("Goal", ""),
        ("Device", ""),
        ("ServiceRequest", ""),
        *(("Observation", f"&category={category}") for category in CATEGORIES),
        *(("Condition", f"&category={one}") for one in ("encounter-diagnosis", "problem-list-item", "health-concern")),
        ("DocumentReference", "&category=clinical-note"),
        ("DiagnosticReport", "&category=LAB"),
        ("DiagnosticReport", "&category=LP29684-5"),
    ],
)
async def test_every_row_of_the_matrix_is_found_by_patient(reader: Reader, kind: str, query: str) -> None:
    for code in (ECW, OPEN):
        patient = reader.a_patient(code)
        answer = await reader.get(code, f"{kind}?patient={patient}{query}")
        assert answer.status_code == 200, answer.text
        assert reader.ids(answer.json()), f"no {kind}"
        assert patient in str(answer.json()["entry"][0]["resource"])


async def test_one_observation_in_two_categories_is_one_resource(reader: Reader) -> None:
    patient = reader.a_patient(ECW)
    surveys, needs = [
        set(reader.ids((await reader.get(ECW, f"Observation?patient={patient}&category={category}")).json()))
        for category in ("survey", "sdoh")
    ]
    (both,) = surveys & needs
    assert surveys - needs
    assert needs - surveys
    categories = reader.world.written(ECW, "Observation")[both]["category"]
    assert [one["coding"][0]["code"] for one in categories] == ["survey", "sdoh"]


async def test_what_is_wanted_may_be_required(reader: Reader) -> None:
    reader.world.set_manners(ECW, wants_narrowed=True)
    patient = reader.a_patient(ECW)
    for query, status in [("CarePlan", 400), ("CareTeam", 400), ("Goal", 200)]:
        assert (await reader.get(ECW, f"{query}?patient={patient}")).status_code == status
    assert (await reader.get(ECW, f"CarePlan?patient={patient}&category=assess-plan")).status_code == 200


async def test_clinicians_are_found_by_name(reader: Reader) -> None:
    found = reader.ids((await reader.get(ECW, "Practitioner?name=mock")).json())
    assert set(found) == set(reader.world.written(ECW, "Practitioner"))


def test_the_demos_content_is_as_it_was_for_who_asks_for_nothing_more(clock: Clock) -> None:
    def content(*types: str) -> dict[tuple[str, str], bytes]:
        world = World([PracticeSpec(OPEN, "open", patients=3, types=types)], now=clock())
        return {
            key: jsontext.dumps({**version.resource, "presentedForm": None})
            for key, (version,) in world.truth(OPEN).items()
            if version.resource is not None
        }

    before, after = content(*CLINICAL_TYPES), content(*ALL_TYPES)
    assert all(after[key] == body for key, body in before.items())
    more = Counter(kind for kind, _ in after.keys() - before.keys())
    assert more.keys() == {*FURTHER_TYPES, "Observation", "Condition", "DocumentReference", "DiagnosticReport"}


def test_further_records_live_too(clock: Clock) -> None:
    world = World([PracticeSpec(OPEN, "open", patients=4, types=ALL_TYPES, tempo=1e-5)], now=clock())
    world.begin(clock(), 4.0)
    for _ in range(600):
        clock.forward(1)
        world.advance(clock())
    edited: Counter[str] = Counter()
    born: Counter[str] = Counter()
    for (kind, _), versions in world.truth(OPEN).items():
        born[kind] += versions[0].changed_at > world.began
        states = {(v.resource.get("status"), v.resource.get("lifecycleStatus")) for v in versions if v.resource}
        edited[kind] += len(states) > 1
    assert all(edited[kind] for kind in ("Coverage", "CarePlan", "CareTeam", "Goal", "Device")), edited
    assert sum(born[kind] for kind in FURTHER_TYPES) > 0


# --- provenance


async def test_provenance_comes_beside_what_it_tells_of_where_it_is_asked_for(reader: Reader) -> None:
    query = f"Goal?patient={reader.a_patient(ECW)}"
    plain = (await reader.get(ECW, query)).json()
    assert {entry["search"]["mode"] for entry in plain["entry"]} == {"match"}
    answer = (await reader.get(ECW, f"{query}&_revinclude=Provenance:target")).json()
    assert answer["total"] == plain["total"]
    goal, provenance = (entry["resource"] for entry in answer["entry"])
    assert answer["entry"][1]["search"] == {"mode": "include"}
    assert {"reference": f"Goal/{goal['id']}"} in provenance["target"]
    assert answer["link"][0]["url"].endswith("_revinclude=Provenance%3Atarget")
    assert (await reader.get(ECW, f"Provenance/{provenance['id']}")).json() == provenance


# --- attachments


@pytest.mark.parametrize("kind", ["DocumentReference", "DiagnosticReport"])
async def test_attachments_are_read_as_binary(reader: Reader, kind: str) -> None:
    for code in (ECW, OPEN):
        name, content_type = a_binary(reader, code, kind)
        answer = await reader.get(code, f"Binary/{name}")
        assert answer.headers["content-type"].startswith("application/fhir+json")
        found = answer.json()
        assert (found["resourceType"], found["id"], found["contentType"]) == ("Binary", name, content_type)
        assert len(base64.b64decode(found["data"])) >= 200
        assert (await reader.get(code, f"Binary/{name}")).json() == found
        assert (await reader.get(code, "Binary/unheard-of")).status_code == 404


async def test_attachments_have_many_sizes_and_go_with_their_note(reader: Reader) -> None:
    written = dict(reader.world.written(ECW, "DocumentReference"))
    sizes = set()
    for resource in written.values():
        for attachment in attachments(resource):
            sizes.add(len((await reader.get(ECW, str(attachment["url"]))).json()["data"]))
    assert len(sizes) > 5
    assert max(sizes) > 5 * min(sizes)
    name, resource = next(iter(written.items()))
    reader.world.delete(ECW, "DocumentReference", name, reader.clock())
    assert (await reader.get(ECW, str(next(attachments(resource))["url"]))).status_code == 404


async def test_a_practice_may_answer_the_bytes_themselves(reader: Reader) -> None:
    name, content_type = a_binary(reader, ECW, "DiagnosticReport")
    wrapped = (await reader.get(ECW, f"Binary/{name}")).json()
    reader.world.set_manners(ECW, binary_raw=True)
    answer = await reader.get(ECW, f"Binary/{name}")
    assert answer.headers["content-type"] == content_type == "application/pdf"
    assert answer.content == base64.b64decode(wrapped["data"])


async def test_a_binary_of_any_size_can_be_put_by_hand(reader: Reader) -> None:
    name, _ = a_binary(reader, OPEN)
    for size in (0, 6_000_000):
        content = bytes(range(256)) * (size // 256)
        reader.world.put(OPEN, binary(name, content, "image/png"), reader.clock())
        answer = await reader.get(OPEN, f"Binary/{name}")
        assert base64.b64decode(answer.json()["data"]) == content
        reader.world.set_manners(OPEN, binary_raw=True)
        answer = await reader.get(OPEN, f"Binary/{name}")
        assert (answer.headers["content-type"], answer.content) == ("image/png", content)
        reader.world.set_manners(OPEN, binary_raw=False)


# --- groups


@pytest.mark.parametrize("code", [ECW, OPEN])
async def test_a_group_of_the_patients_is_found_and_read(clock: Clock, reading: Reading, code: str) -> None:
    mode: Literal["ecw", "open"] = "ecw" if code == ECW else "open"
    world = World([PracticeSpec(code, mode, patients=3, bulk=True)], now=clock())
    async with reading(world, clock) as reader:
        token = await reader.ask_token(code, scope="system/Group.read system/*.r")
        reader.bearer[code] = token.json()["access_token"]
        (entry,) = (await reader.get(code, "Group")).json()["entry"]
        found = entry["resource"]
        members = {item["entity"]["reference"] for item in found["member"]}
        assert members == {f"Patient/{name}" for name in world.written(code, "Patient")}
        assert found["identifier"][0]["value"] == f"{code}-ALL"
        assert (await reader.get(code, f"Group/{found['id']}")).status_code == (404 if code == ECW else 200)
        world.set_manners(code, group_read=True)
        assert (await reader.get(code, f"Group/{found['id']}")).json() == found


# --- patients who are merged, or go


@pytest.mark.parametrize("code", [ECW, OPEN])
async def test_a_patient_is_merged_into_another_by_hand(reader: Reader, code: str) -> None:
    old, new, gone = list(reader.world.written(code, "Patient"))
    owned = [reader.ids((await reader.get(code, f"Condition?patient={one}")).json()) for one in (old, new, gone)]
    reader.world.merge(code, old, new, reader.clock())
    record = (await reader.get(code, f"Patient/{old}")).json()
    assert record["active"] is False
    assert record["link"] == [{"other": {"reference": f"Patient/{new}"}, "type": "replaced-by"}]
    assert reader.ids((await reader.get(code, f"Condition?patient={old}")).json()) == []
    reader.world.merge(code, gone, new, reader.clock(), vanish=True)
    assert (await reader.get(code, f"Patient/{gone}")).status_code == (404 if code == ECW else 410)
    after = reader.ids((await reader.get(code, f"Condition?patient={new}")).json())
    assert sorted(after) == sorted(name for names in owned for name in names)
    with pytest.raises(KeyError):
        reader.world.merge(code, gone, new, reader.clock())


@pytest.mark.parametrize(("manner", "status"), [("empty", 200), ("404", 404), ("400", 400)])
async def test_a_search_for_a_patient_who_is_gone_has_three_answers(
    reader: Reader, manner: Literal["empty", "404", "400"], status: int
) -> None:
    patient = reader.a_patient(ECW)
    reader.world.set_manners(ECW, gone_patient=manner)
    assert (await reader.get(ECW, f"Condition?patient={patient}")).status_code == 200
    reader.world.remove_patient(ECW, patient, reader.clock())
    answer = await reader.get(ECW, f"Condition?patient={patient}")
    assert answer.status_code == status
    assert answer.json().get("entry", []) == []
    assert (await reader.get(ECW, f"Patient/{patient}")).status_code == 404
    assert not any(patient in str(one) for one in reader.world.written(ECW, "Condition").values())


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Goal", ["lifecycleStatus"]),
        ("Coverage", ["status"]),
        ("Condition", ["verificationStatus", "coding", 0, "code"]),
    ],
)
async def test_anything_can_be_entered_in_error_by_hand(reader: Reader, kind: str, path: list[Any]) -> None:
    name = next(iter(reader.world.written(OPEN, kind)))
    reader.world.enter_in_error(OPEN, kind, name, reader.clock())
    found = (await reader.get(OPEN, f"{kind}/{name}")).json()
    for step in path:
        found = found[step]
    assert found == "entered-in-error"


async def test_merges_can_be_ordered_from_another_process(reader: Reader) -> None:
    old, new, gone = list(reader.world.written(OPEN, "Patient"))
    orders: list[tuple[dict[str, Any], int]] = [
        ({"merge": [old, new]}, 200),
        ({"remove_patient": gone}, 200),
        ({"remove_patient": gone}, 400),
        ({"merge": [gone, new]}, 400),
    ]
    for order, status in orders:
        assert (await reader.http.post("/_mutate", json={"practice": OPEN, **order})).status_code == status
    assert set(reader.world.written(OPEN, "Patient")) == {old, new}


@pytest.mark.parametrize("manner", ["none", "inactivated", "vanished"])
def test_patients_are_merged_and_go_by_themselves_only_where_it_is_so_ordered(
    clock: Clock, manner: Literal["none", "inactivated", "vanished"]
) -> None:
    others = manner != "none"
    spec = PracticeSpec(OPEN, "open", patients=8, tempo=1e-5, merges=manner, patient_deletes=others)
    world = World([spec], now=clock())
    world.begin(clock(), 3.0)
    for _ in range(400):
        clock.forward(1)
        world.advance(clock())
    gone = {name for (kind, name), seen in world.truth(OPEN).items() if kind == "Patient" and seen[-1].resource is None}
    written = world.written(OPEN, "Patient")
    replaced = {name for name, one in written.items() if "link" in one}
    assert bool(gone) is others
    assert bool(replaced) is (manner == "inactivated")
    for kind in CLINICAL_TYPES:
        owners = {
            str(one.get("subject", one.get("patient"))["reference"]) for one in world.written(OPEN, kind).values()
        }
        assert not owners & {f"Patient/{name}" for name in gone | replaced}, kind


def test_a_seed_repeats_a_practice_with_all_that_it_may_hold(clock: Clock) -> None:
    def lived() -> dict[str, Any]:
        spec = PracticeSpec(ECW, patients=4, types=ALL_TYPES, tempo=1e-5, merges="inactivated", bulk=True)
        world = World([spec], now=clock())
        world.begin(clock(), 5.0)
        world.advance(clock() + dt.timedelta(seconds=30))
        return world.export()

    assert lived() == lived()
