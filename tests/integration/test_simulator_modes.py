"""The ways in which practices differ: what each takes, refuses, leaves out and lacks, at first and later."""

from __future__ import annotations

import datetime as dt
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from poller.simulator import modes
from poller.simulator.passes import complete_passes
from poller.simulator.spec import PracticeSpec
from poller.simulator.truth import import_truth
from poller.simulator.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    from tests.simulator_bench import Clock, Reader

    Reading = Callable[[World, Clock], AbstractAsyncContextManager[Reader]]
    With = Callable[..., AbstractAsyncContextManager[Reader]]

pytest_plugins = ["tests.simulator_bench"]
pytestmark = pytest.mark.anyio

CODE = "AAAAAA"
FUTURE, PAST = "ge2030-01-01", "ge1970-01-01"


@pytest.fixture
def practice(clock: Clock, reading: Reading) -> With:
    """Opens a reader of one practice with these manners."""

    @asynccontextmanager
    async def opened(mode: Any = "ecw", **manners: Any) -> AsyncIterator[Reader]:
        usual: dict[str, Any] = {"patients": 3, "name_initials": "ABCD", "page_size": 5}
        world = World([PracticeSpec(CODE, mode, **(usual | manners))], now=clock())
        async with reading(world, clock) as reader:
            yield reader

    return opened


async def asked(reader: Reader, query: str) -> tuple[int, list[str]]:
    """Status and ids."""
    answer = await reader.get(CODE, query)
    return answer.status_code, reader.ids(answer.json()) if answer.status_code == 200 else []


async def conditional(reader: Reader, path: str, **headers: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {reader.bearer[CODE]}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await reader.http.get(f"/fhir/r4/{CODE}/{path}", headers=sent)


# --- _lastUpdated


@pytest.mark.parametrize("mode", ["ecw", "open"])
async def test_last_updated_may_be_taken_only_with_a_patient(practice: With, mode: str) -> None:
    async with practice(mode, last_updated="patient-only") as reader:
        patient = reader.a_patient(CODE)
        everything = (await asked(reader, f"Condition?patient={patient}&_lastUpdated={PAST}"))[1]
        assert everything == (await asked(reader, f"Condition?patient={patient}"))[1] != []
        assert await asked(reader, f"Condition?patient={patient}&_lastUpdated={FUTURE}") == (200, [])
        assert await asked(reader, f"Patient?_id={patient}&_lastUpdated={FUTURE}") == (200, [])
        answer = await reader.get(CODE, f"Condition?_lastUpdated={PAST}")
        assert answer.status_code == 400
        assert "_lastUpdated" in reader.diagnostics(answer)


@pytest.mark.parametrize(
    ("manner", "alone", "with_patient"),
    [
        ("honoured", (200, False), (200, False)),
        ("ignored", (400, False), (200, True)),
        ("refused", (400, False), (400, False)),
    ],
)
async def test_last_updated_of_an_ecw_practice(
    practice: With, manner: str, alone: tuple[int, bool], with_patient: tuple[int, bool]
) -> None:
    async with practice(last_updated=manner) as reader:
        for query, expected in (("", alone), (f"&patient={reader.a_patient(CODE)}", with_patient)):
            status, ids = await asked(reader, f"Condition?_lastUpdated={FUTURE}{query}")
            assert (status, bool(ids)) == expected, query


async def test_last_updated_is_refused_after_an_hour(practice: With, clock: Clock) -> None:
    async with practice("open", last_updated_until=3600) as reader:
        assert (await asked(reader, f"Condition?_lastUpdated={PAST}"))[0] == 200
        clock.forward(3600)
        reader.bearer.clear()
        assert (await asked(reader, f"Condition?_lastUpdated={PAST}"))[0] == 400
        assert (await asked(reader, "Condition"))[0] == 200


# --- $everything


@pytest.mark.parametrize(("mode", "status"), [("ecw", 400), ("open", 404)])
async def test_everything_is_off_unless_it_is_on(practice: With, mode: str, status: int) -> None:
    async with practice(mode) as reader:
        answer = await reader.get(CODE, f"Patient/{reader.a_patient(CODE)}/$everything")
        assert (answer.status_code, answer.json()["issue"][0]["code"]) == (status, "not-supported")


def record(reader: Reader, patient: str) -> set[tuple[str, str]]:
    """A patient's record in truth."""
    world, found = reader.world, {("Patient", patient)}
    for kind, name in world.truth(CODE):
        resource = world.written(CODE, kind)[name]
        owner = resource.get("subject", resource.get("patient", {})).get("reference")
        if owner == f"Patient/{patient}":
            found.add((kind, name))
    return found


def shown(*pages: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["resource"]["resourceType"], one["resource"]["id"]) for page in pages for one in page["entry"]]


async def followed(reader: Reader, path: str) -> list[dict[str, Any]]:
    """All pages, by the links' own paths."""
    pages, base = [(await reader.get(CODE, path)).json()], f"/fhir/r4/{CODE}/"
    while (following := reader.link(pages[-1], "next")) is not None:
        pages.append((await reader.get(CODE, following.partition(base)[2])).json())
    return pages


@pytest.mark.parametrize("mode", ["ecw", "open"])
async def test_everything_is_the_whole_record_in_pages_and_is_noted_type_by_type(practice: With, mode: str) -> None:
    async with practice(mode, everything="on") as reader:
        patient = reader.a_patient(CODE)
        pages = await followed(reader, f"Patient/{patient}/$everything")
        of_patient = {key for key in shown(*pages) if key[0] != "Practitioner"}
        assert len(pages) > 3
        assert len(set(shown(*pages))) == len(shown(*pages)) == pages[0]["total"]
        assert of_patient == record(reader, patient)
        assert "Practitioner" in {kind for kind, _ in shown(*pages)}
        whole = {one.scope.resource_type: one for one in complete_passes(reader.world.calls(CODE))}
        assert {(kind, name) for kind, one in whole.items() for name in one.rows} == set(shown(*pages))
        assert {one.scope.patient for one in whole.values()} == {patient}
        assert whole["Goal"].rows == frozenset(), "that there is none was shown too"
        assert import_truth(reader.world.export()) == reader.world.evidence()


async def test_everything_by_since(practice: With, clock: Clock) -> None:
    async with practice(everything="since") as reader:
        patient = reader.a_patient(CODE)
        name = (await asked(reader, f"Condition?patient={patient}"))[1][0]
        clock.forward(60)
        reader.world.put(CODE, {**reader.world.written(CODE, "Condition")[name], "note": [{"text": "x"}]}, clock())
        since = (clock() - dt.timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
        answer = await reader.get(CODE, f"Patient/{patient}/$everything?_since={since}")
        assert shown(answer.json()) == [("Condition", name)]
        assert "_since" in str(reader.link(answer.json(), "self"))
        assert all(one.scope.windowed for one in complete_passes(reader.world.calls(CODE))[1:])
        reader.world.set_manners(CODE, everything="on")
        assert (await reader.get(CODE, f"Patient/{patient}/$everything?_since={since}")).status_code == 400
        assert (await reader.get(CODE, "Patient/unheard-of/$everything")).status_code == 404


async def test_everything_may_leave_out_types_and_cut_elements(practice: With) -> None:
    async with practice("open", everything="on", everything_omits=("Observation",)) as reader:
        patient = reader.a_patient(CODE)
        path = f"Patient/{patient}/$everything?_count=500"
        left = shown((await reader.get(CODE, path)).json())
        assert record(reader, patient) - set(left) == {
            key for key in record(reader, patient) if key[0] == "Observation"
        }
        assert "Observation" not in {one.scope.resource_type for one in complete_passes(reader.world.calls(CODE))}
        reader.world.set_manners(CODE, everything_omits=(), everything_cuts=True)
        passes = len(complete_passes(reader.world.calls(CODE)))
        for entry in (await reader.get(CODE, path)).json()["entry"]:
            resource = entry["resource"]
            true = reader.world.written(CODE, resource["resourceType"])[resource["id"]]
            assert len(true.keys() - resource.keys()) == 1
            assert "tag" not in resource["meta"]
        assert len(complete_passes(reader.world.calls(CODE))) == passes, "what was cut proves nothing"


async def test_everything_shows_what_the_token_covers(practice: With) -> None:
    async with practice("open", everything="on") as reader:
        granted = await reader.ask_token(CODE, scope="system/Patient.read system/Condition.read")
        reader.bearer[CODE] = granted.json()["access_token"]
        pages = await followed(reader, f"Patient/{reader.a_patient(CODE)}/$everything")
        assert {kind for kind, _ in shown(*pages)} == {"Patient", "Condition"}


# --- several in one search


@pytest.mark.parametrize("mode", ["ecw", "open"])
async def test_several_patients_in_one_search(practice: With, mode: str) -> None:
    async with practice(mode, several_patients="honoured", several_ids="honoured", page_size=500) as reader:
        two = list(reader.world.written(CODE, "Patient"))[:2]
        apart = {one: (await asked(reader, f"Condition?patient={one}"))[1] for one in two}
        before = len(reader.world.calls(CODE))
        assert await asked(reader, f"Condition?patient={','.join(two)}") == (200, apart[two[0]] + apart[two[1]])
        passes = complete_passes(reader.world.calls(CODE)[before:])
        assert [(one.scope.patient, sorted(one.rows)) for one in passes] == [(one, sorted(apart[one])) for one in two]
        assert await asked(reader, f"Patient?_id={','.join(two)}") == (200, two)

        reader.world.set_manners(CODE, several_patients="first", several_ids="first")
        before = len(reader.world.calls(CODE))
        assert await asked(reader, f"Condition?patient={','.join(two)}") == (200, apart[two[0]])
        assert [one.scope.patient for one in complete_passes(reader.world.calls(CODE)[before:])] == two[:1]
        assert await asked(reader, f"Patient?_id={','.join(two)}") == (200, two[:1])

        reader.world.set_manners(CODE, several_patients="refused", several_ids="refused")
        assert (await asked(reader, f"Condition?patient={','.join(two)}"))[0] == 400
        assert (await asked(reader, f"Patient?_id={','.join(two)}"))[0] == 400
        assert (await asked(reader, f"Condition?patient={two[0]}"))[0] == 200


# --- other parameters


@pytest.mark.parametrize(("manner", "found"), [("honoured", (200, 0)), ("ignored", (200, 5)), ("refused", (400, 0))])
async def test_since_on_observation(practice: With, manner: str, found: tuple[int, int]) -> None:
    async with practice(since_on_observation=manner) as reader:
        query = f"Observation?patient={reader.a_patient(CODE)}&category=laboratory&_since=2030-01-01T00:00:00Z"
        status, ids = await asked(reader, query)
        assert (status, len(ids)) == found
        assert (await asked(reader, query.replace("2030", "1970")))[0] == found[0]


@pytest.mark.parametrize("mode", ["ecw", "open"])
@pytest.mark.parametrize(("manner", "found"), [("honoured", (200, 2)), ("ignored", (200, 5)), ("refused", (400, 0))])
async def test_count(practice: With, mode: str, manner: str, found: tuple[int, int]) -> None:
    async with practice(mode, count=manner) as reader:
        query = f"Observation?patient={reader.a_patient(CODE)}&category=laboratory&_count=2"
        status, ids = await asked(reader, query)
        assert (status, len(ids)) == found


async def test_a_read_may_be_answered_by_its_not_having_changed(practice: With, clock: Clock) -> None:
    async with practice("open", conditional=True) as reader:
        path = f"Patient/{reader.a_patient(CODE)}"
        first = await reader.get(CODE, path)
        tag, modified = first.headers["etag"], first.headers["last-modified"]
        for asked_by in ({"If_None_Match": tag}, {"If_Modified_Since": modified}):
            same = await conditional(reader, path, **asked_by)
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        clock.forward(5)
        reader.world.put(CODE, {**first.json(), "active": False}, clock())
        for asked_by in ({"If_None_Match": tag, "If_Modified_Since": "Fri, 01 Jan 2038 00:00:00 GMT"}, {}):
            assert (await conditional(reader, path, **asked_by)).json()["active"] is False
        reader.world.set_manners(CODE, conditional=False)
        tag = (await reader.get(CODE, path)).headers["etag"]
        assert (await conditional(reader, path, If_None_Match=tag)).status_code == 200


async def test_day_windows_of_a_practitioner(practice: With) -> None:
    async with practice() as reader:
        encounter = next(iter(reader.world.written(CODE, "Encounter").values()))
        clinician, day = encounter["participant"][0]["individual"]["reference"], encounter["period"]["start"][:10]
        after = dt.date.fromisoformat(day) + dt.timedelta(days=1)
        query = f"Encounter?practitioner={clinician}&date=ge{day}&date=lt{after}"
        status, ids = await asked(reader, query)
        assert (status, encounter["id"] in ids) == (200, True)
        assert encounter["id"] not in (await asked(reader, query.replace(f"ge{day}", f"ge{after}")))[1]
        reader.world.set_manners(CODE, day_windows=False)
        assert (await asked(reader, query))[0] == 400


@pytest.mark.parametrize(("mode", "wide"), [("ecw", True), ("open", False)])
async def test_a_type_without_a_patient_is_a_manner_too(practice: With, mode: str, *, wide: bool) -> None:
    async with practice(mode, practice_wide=wide) as reader:
        assert (await asked(reader, "Condition"))[0] == (200 if wide else 400)
        assert (await asked(reader, f"Condition?patient={reader.a_patient(CODE)}"))[0] == 200
        assert (await asked(reader, "Patient"))[0] == 200


# --- who may read what


@pytest.mark.parametrize(("wording", "status"), [("2024", 400), ("2026", 403)])
async def test_an_old_build_lacks_types_and_does_not_say_so_beforehand(
    practice: With, wording: str, status: int
) -> None:
    async with practice(build="v1", coverage=False, wording=wording) as reader:
        patient = reader.a_patient(CODE)
        for query in ("ServiceRequest", "Coverage"):
            answer = await reader.get(CODE, f"{query}?patient={patient}")
            assert answer.status_code == status
            assert "not supported for the scope" in reader.diagnostics(answer)
            assert (await reader.get(CODE, f"{query}/x")).status_code == status
        assert (await asked(reader, f"Condition?patient={patient}"))[0] == 200
        metadata = (await reader.http.get(f"/fhir/r4/{CODE}/metadata")).json()
        assert "ServiceRequest" in {entry["type"] for entry in metadata["rest"][0]["resource"]}
        reader.world.set_manners(CODE, build="v3", coverage=True)
        assert (await asked(reader, f"ServiceRequest?patient={patient}"))[0] == 200


@pytest.mark.parametrize(
    ("manner", "status", "error"), [("400", 400, "403"), ("403", 403, "403"), ("500", 500, "access_denied")]
)
async def test_a_practice_that_has_not_activated_the_app(practice: With, manner: str, status: int, error: str) -> None:
    async with practice() as reader:
        assert (await asked(reader, "Patient?name=a"))[0] == 200
        reader.world.set_manners(CODE, not_activated=manner)
        answer = await reader.ask_token(CODE)
        assert (answer.status_code, answer.json()["error"]) == (status, error)
        assert (await asked(reader, "Patient?name=a"))[0] == 403, "and its tokens are worth nothing"
        reader.world.set_manners(CODE, not_activated=None)
        assert (await asked(reader, "Patient?name=a"))[0] == 200


@pytest.mark.parametrize(("mode", "status"), [("ecw", 400), ("open", 200)])
async def test_a_scope_that_the_app_was_not_registered_for(practice: With, mode: str, status: int) -> None:
    async with practice(mode, missing_scopes=("Condition",)) as reader:
        scopes = "system/Patient.read system/Condition.read"
        answer = await reader.ask_token(CODE, scope=scopes)
        assert answer.status_code == status
        assert answer.json().get("error") == ("invalid_grant" if mode == "ecw" else None)
        assert answer.json().get("scope") == (None if mode == "ecw" else "system/Patient.read")
        patient = reader.a_patient(CODE)
        reader.world.set_manners(CODE, missing_scopes=())
        assert (await asked(reader, f"Condition?patient={patient}"))[0] == 200
        reader.world.set_manners(CODE, missing_scopes=("Condition",))
        refused = await reader.get(CODE, f"Condition?patient={patient}")
        assert (refused.status_code, refused.json()["issue"][0]["code"]) == (403, "forbidden")
        assert (await asked(reader, f"Encounter?patient={patient}"))[0] == 200


async def test_a_server_without_authorization(practice: With) -> None:
    async with practice("open", open_access=True) as reader:
        answer = await reader.http.get(f"/fhir/r4/{CODE}/Patient")
        assert (answer.status_code, answer.json()["total"]) == (200, 3)
        assert (await reader.http.get(f"/fhir/r4/{CODE}/.well-known/smart-configuration")).status_code == 404


async def test_only_an_open_server_says_whether_it_has_everything(practice: With) -> None:
    def operations(metadata: dict[str, Any]) -> set[str]:
        entries = metadata["rest"][0]["resource"]
        return {f"{entry['type']}/${one['name']}" for entry in entries for one in entry.get("operation", ())}

    for mode, manner, expected in (("ecw", "off", True), ("open", "off", False), ("open", "on", True)):
        async with practice(mode, everything=manner) as reader:
            said = operations((await reader.http.get(f"/fhir/r4/{CODE}/metadata")).json())
            assert ("Patient/$everything" in said) is expected


# --- change


async def test_manners_are_changed_from_another_process(practice: With) -> None:
    async with practice("open") as reader:
        for manners, status in (
            ({"everything": "on", "everything_omits": ["Goal"], "page_size": 2}, 200),
            ({"everything": "sometimes"}, 400),
            ({"everythin": "on"}, 400),
            ({"mode": "ecw"}, 400),
        ):
            answer = await reader.http.post("/_manners", json={"practice": CODE, **manners})
            assert answer.status_code == status, answer.text
        assert (await reader.http.post("/_manners", json={"practice": "NOSUCH", "page_size": 2})).status_code == 400
        spec = reader.world.practices[CODE].spec
        assert (spec.everything, spec.everything_omits, spec.page_size) == ("on", ("Goal",), 2)
        assert len((await asked(reader, f"Patient/{reader.a_patient(CODE)}/$everything"))[1]) == 2
        with pytest.raises(ValueError, match="did you mean everything"):
            reader.world.set_manners(CODE, everythin="on")


@pytest.mark.parametrize("name", modes.MODES)
async def test_every_named_mode_is_a_practice(name: str, clock: Clock) -> None:
    spec = modes.practice(name, CODE, patients=1)
    assert World([spec], now=clock()).written(CODE, "Patient")
    manners = {member: getattr(spec, member) for member in modes.MODES[name]}
    assert manners == modes.MODES[name]
    ecw, opened = modes.among([PracticeSpec("ECWAAA", "ecw"), PracticeSpec("OPENAA", "open")], name)
    assert (ecw.code, opened.code) == ("ECWAAA", "OPENAA")
    assert (ecw if spec.mode == "ecw" else opened) == modes.practice(name, f"{spec.mode.upper()}AAA"[:6])


def test_a_mode_that_there_is_not_is_told() -> None:
    with pytest.raises(ValueError, match="patient-only"):
        modes.practice("nonsense", CODE)
