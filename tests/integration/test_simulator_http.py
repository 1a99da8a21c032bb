"""The simulator's rules over HTTP, as ECW's API is known to have them."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from poller import keys
from poller.core import jsontext
from poller.simulator.judge import FeedSchedule, Rules, judge
from poller.simulator.server import SimulatorServer, create_app
from poller.simulator.spec import PracticeSpec
from poller.simulator.tokens import ASSERTION_TYPE
from poller.simulator.truth import load_truth, max_calls_in_60s
from poller.simulator.world import World

ECW, OPEN = "AAAAAA", "BBBBBB"
ROOT = "http://simulator"
TOKEN = "/oauth/oauth2/token"
SCOPES = "system/Patient.read system/Observation.read system/Condition.read system/Encounter.read system/*.r"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KID = keys.thumbprint(KEY.public_key())
JWKS = dict(keys.jwks([(KID, KEY.public_key())]))


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.time = dt.datetime(2026, 11, 22, 15, 0, 0, 250_000, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time += dt.timedelta(seconds=seconds)


class Reader:
    """A client of one simulated practice."""

    def __init__(self, http: httpx.AsyncClient, clock: Clock, world: World) -> None:
        self.http, self.clock, self.world = http, clock, world
        self.bearer: dict[str, str] = {}

    def claims(self, code: str, **changed: Any) -> dict[str, Any]:
        client = f"poller-{code.lower()}"
        ends = int(self.clock().timestamp()) + 240
        standard = {"iss": client, "sub": client, "aud": ROOT + TOKEN, "exp": ends, "jti": uuid.uuid4().hex}
        return {name: value for name, value in {**standard, **changed}.items() if value is not None}

    async def ask_token(self, code: str, **changed: Any) -> httpx.Response:
        kid, algorithm = changed.pop("kid", KID), changed.pop("alg", "RS384")
        form = {"grant_type": "client_credentials", "client_assertion_type": ASSERTION_TYPE}
        form["scope"] = changed.pop("scope", SCOPES)
        key = changed.pop("key", KEY)
        form |= changed.pop("form", {})
        signed = jwt.encode(self.claims(code, **changed), key, algorithm, headers={"kid": kid})
        return await self.http.post(TOKEN, data={"client_assertion": signed, **form})

    async def get(self, code: str, path: str, **more: Any) -> httpx.Response:
        if code not in self.bearer:
            answer = await self.ask_token(code)
            assert answer.status_code == 200, answer.text
            self.bearer[code] = answer.json()["access_token"]
        headers = {"authorization": f"Bearer {self.bearer[code]}"}
        return await self.http.get(f"/fhir/r4/{code}/{path}", headers=headers, **more)

    async def follow(self, code: str, path: str) -> list[dict[str, Any]]:
        """All pages, by the path and query of their links."""
        pages = []
        answer = await self.get(code, path)
        while True:
            pages.append(answer.json())
            following = link(pages[-1], "next")
            if following is None:
                return pages
            parts = urlsplit(following)
            answer = await self.get(code, f"{parts.path.rpartition('/')[2]}?{parts.query}")


def link(bundle: dict[str, Any], relation: str) -> str | None:
    return next((str(item["url"]) for item in bundle["link"] if item["relation"] == relation), None)


def ids(*bundles: dict[str, Any]) -> list[str]:
    return [entry["resource"]["id"] for bundle in bundles for entry in bundle.get("entry", [])]


def diagnostics(answer: httpx.Response) -> str:
    body = answer.json()
    assert body["resourceType"] == "OperationOutcome"
    return cast("str", body["issue"][0]["diagnostics"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world(clock: Clock) -> World:
    specs = [
        PracticeSpec(ECW, "ecw", patients=3, name_initials="ABCD", page_size=5),
        PracticeSpec(OPEN, "open", patients=8, page_size=10),
    ]
    world = World(specs, now=clock())
    world.register(JWKS)
    return world


@pytest.fixture
async def reader(world: World, clock: Clock) -> AsyncIterator[Reader]:
    transport = httpx.ASGITransport(create_app(world, clock))
    async with httpx.AsyncClient(transport=transport, base_url=ROOT) as http:
        yield Reader(http, clock, world)


pytestmark = pytest.mark.anyio


def a_patient(world: World, code: str) -> str:
    return next(iter(world.written(code, "Patient")))


# --- tokens


async def test_a_token_lives_five_minutes(reader: Reader) -> None:
    answer = await reader.ask_token(ECW)
    assert (answer.json()["token_type"], answer.json()["expires_in"]) == ("Bearer", 300)
    assert (await reader.get(ECW, "Patient?name=a")).status_code == 200
    reader.clock.forward(299)
    assert (await reader.get(ECW, "Patient?name=a")).status_code == 200
    reader.clock.forward(1)
    assert (await reader.get(ECW, "Patient?name=a")).status_code == 401


async def test_without_a_token_and_after_a_revocation_the_answer_is_401(reader: Reader) -> None:
    assert (await reader.http.get(f"/fhir/r4/{ECW}/Patient?name=a")).status_code == 401
    await reader.get(ECW, "Patient?name=a")
    reader.world.revoke_tokens()
    answer = await reader.get(ECW, "Patient?name=a")
    assert answer.status_code == 401
    assert diagnostics(answer)


@pytest.mark.parametrize(
    "wrong",
    [
        {"aud": "http://elsewhere/token"},
        {"sub": "somebody"},
        {"iss": "somebody"},
        {"exp": 1},
        {"jti": None},
        {"kid": "another"},
        {"key": rsa.generate_private_key(public_exponent=65537, key_size=2048)},
        {"key": ec.generate_private_key(ec.SECP384R1()), "alg": "ES384"},
        {"alg": "RS256"},
    ],
)
async def test_a_wrong_assertion_is_an_invalid_client(reader: Reader, wrong: dict[str, Any]) -> None:
    answer = await reader.ask_token(ECW, **wrong)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_an_assertion_may_not_live_longer_than_five_minutes_nor_be_used_twice(reader: Reader) -> None:
    far = int(reader.clock().timestamp()) + 600
    assert (await reader.ask_token(ECW, exp=far)).status_code == 401
    assert (await reader.ask_token(ECW, jti="once")).status_code == 200
    assert (await reader.ask_token(ECW, jti="once")).status_code == 401


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"client_assertion_type": "none"}, "invalid_request"),
        ({"scope": "system/Nonsense.read"}, "invalid_grant"),
        ({"scope": "system/Patient.read system/ServiceRequest.read"}, "invalid_grant"),
        ({"scope": "system/Group.read"}, "invalid_grant"),
        ({"scope": ""}, "invalid_grant"),
    ],
)
async def test_a_wrong_request_is_refused_by_name(reader: Reader, form: dict[str, str], error: str) -> None:
    answer = await reader.ask_token(ECW, form=form)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


async def test_an_app_that_is_not_enabled_is_answered_500(reader: Reader) -> None:
    reader.world.set_faults(ECW, access_denied=1)
    answer = await reader.ask_token(ECW)
    assert (answer.status_code, answer.json()["error"]) == (500, "access_denied")


async def test_open_grants_the_scopes_that_it_can_and_refuses_types_outside(reader: Reader) -> None:
    answer = await reader.ask_token(OPEN, scope="system/Patient.read system/Nonsense.read")
    assert answer.json()["scope"] == "system/Patient.read"
    reader.bearer[OPEN] = answer.json()["access_token"]
    assert (await reader.get(OPEN, "Patient")).status_code == 200
    assert (await reader.get(OPEN, "Condition")).status_code == 403


async def test_a_token_of_one_practice_is_none_of_another(reader: Reader) -> None:
    await reader.get(ECW, "Patient?name=a")
    reader.bearer[OPEN] = reader.bearer[ECW]
    assert (await reader.get(OPEN, "Patient")).status_code == 401


# --- the limit


async def test_past_250_calls_the_minute_is_lost_and_the_next_is_not(reader: Reader) -> None:
    for _ in range(249):
        assert (await reader.get(ECW, "Patient?name=a")).status_code == 200
    refused = await reader.get(ECW, "Patient?name=a")
    assert refused.status_code == 429
    assert "retry-after" not in refused.headers
    assert (await reader.ask_token(ECW)).status_code == 429
    assert (await reader.get(OPEN, "Patient")).status_code == 200, "each practice has its own"
    reader.clock.forward(59)
    assert (await reader.get(ECW, "Patient?name=a")).status_code == 429
    reader.clock.forward(1)
    assert (await reader.get(ECW, "Patient?name=a")).status_code == 200
    calls = reader.world.calls(ECW)
    assert [call.kind for call in calls].count("token") == 2
    assert [call.status for call in calls].count(429) == 3
    assert max_calls_in_60s(calls) == len(calls) == 254


# --- the ecw mode


@pytest.mark.parametrize(
    "query",
    ["Patient?name=a&_count=10", "Condition?patient={p}&_lastUpdated=ge2026-01-01", "Condition?patient={p}&_sort=date"],
)
async def test_an_undeclared_parameter_is_refused(reader: Reader, query: str) -> None:
    answer = await reader.get(ECW, query.format(p=a_patient(reader.world, ECW)))
    assert answer.status_code == 400
    name = query.rpartition("&")[2].partition("=")[0]
    assert diagnostics(answer) == f"Unsupported query parameter(s): {name}. These parameters are not allowed."


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
    answer = await reader.get(ECW, query.format(p=a_patient(reader.world, ECW), d=clinician))
    assert answer.status_code == status, answer.text


async def test_a_category_by_code_or_by_system_and_code(reader: Reader) -> None:
    patient = a_patient(reader.world, ECW)
    system = "http://terminology.hl7.org/CodeSystem/observation-category"
    plain = await reader.get(ECW, f"Observation?patient={patient}&category=laboratory")
    full = await reader.get(ECW, "Observation", params={"patient": patient, "category": f"{system}|laboratory"})
    assert ids(plain.json()) == ids(full.json()) != []
    for entry in plain.json()["entry"]:
        assert entry["resource"]["category"][0]["coding"][0]["code"] == "laboratory"


async def test_patients_are_found_by_prefix(reader: Reader) -> None:
    found = {name for letter in "ABCD" for name in ids((await reader.get(ECW, f"Patient?name={letter}")).json())}
    assert found == set(reader.world.written(ECW, "Patient"))


async def test_pages_are_followed_by_number_and_links_name_another_host(reader: Reader) -> None:
    patient = a_patient(reader.world, ECW)
    pages = await reader.follow(ECW, f"Observation?patient={patient}&category=laboratory")
    assert len(pages) == 2
    assert {page["total"] for page in pages} == {8}
    assert len(set(ids(*pages))) == 8
    following = urlsplit(str(link(pages[0], "next")))
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
    assert ids((await reader.get(ECW, f"Practitioner?_id={clinician}")).json()) == [clinician]


@pytest.mark.parametrize(("code", "status"), [(ECW, 404), (OPEN, 410)])
async def test_what_is_deleted_is_gone(reader: Reader, code: str, status: int) -> None:
    name = next(iter(reader.world.written(code, "Condition")))
    reader.world.delete(code, "Condition", name, reader.clock())
    assert (await reader.get(code, f"Condition/{name}")).status_code == status
    assert (await reader.get(code, "Condition/unheard-of")).status_code == 404
    assert (await reader.get(code, f"Condition?_id={name}")).json()["total"] == 0


async def test_content_types_vary(reader: Reader) -> None:
    patient = a_patient(reader.world, ECW)
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
    assert set(ids(*pages)) == set(reader.world.written(OPEN, "Patient"))
    assert link(pages[0], "self") == f"{ROOT}/fhir/r4/{OPEN}/Patient?_count=3"
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
        assert ids(answer) == found, query
        assert "_lastUpdated" in str(link(answer, "self"))
    both = await reader.get(OPEN, f"Condition?_lastUpdated=ge{stamp}&_lastUpdated=lt2026-11-22T15:00:10.251Z")
    assert ids(both.json()) == [name]
    assert (await reader.get(OPEN, "Condition?_lastUpdated=geyesterday")).status_code == 400


async def test_a_parameter_that_is_not_known_is_dropped_from_the_self_link(reader: Reader) -> None:
    answer = (await reader.get(OPEN, "Condition?nonsense=1&_count=2")).json()
    assert link(answer, "self") == f"{ROOT}/fhir/r4/{OPEN}/Condition?_count=2"


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
async def test_last_updated_has_four_manners(clock: Clock, manner: Any, status: int, rows: int, *, named: bool) -> None:
    world = World([PracticeSpec(OPEN, "open", patients=8, last_updated=manner)], now=clock())
    world.register(JWKS)
    transport = httpx.ASGITransport(create_app(world, clock))
    async with httpx.AsyncClient(transport=transport, base_url=ROOT) as http:
        answer = await Reader(http, clock, world).get(OPEN, "Patient?_lastUpdated=ge2030-01-01")
    assert answer.status_code == status
    if status == 200:
        assert len(ids(answer.json())) == rows
        assert ("_lastUpdated" in str(link(answer.json(), "self"))) is named


async def test_unmoved_stamps_do_not_move(clock: Clock) -> None:
    world = World([PracticeSpec(OPEN, "open", patients=2, last_updated="unmoved")], now=clock())
    name, before = next(iter(world.written(OPEN, "Patient").items()))
    clock.forward(60)
    world.put(OPEN, {**before, "active": False}, clock())
    assert world.written(OPEN, "Patient")[name]["meta"]["lastUpdated"] == before["meta"]["lastUpdated"]


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
        found = ids(first, *later)
        seen.add((len(found), len(set(found)), later[-1]["total"]))
    assert seen == {(7, 7, 7), (9, 8, 9)}
    assert not all(call.intact for call in reader.world.calls(OPEN))


async def test_a_duplicate_repeats_the_last_row_and_a_lie_is_in_the_total(reader: Reader) -> None:
    reader.world.set_faults(OPEN, duplicate=1, total_lie=1)
    pages = await reader.follow(OPEN, "Patient?_count=5")
    assert len(ids(*pages)) == 9
    assert ids(pages[0])[-1] == ids(pages[1])[0]
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


# --- a real port


@pytest.fixture
def server() -> Iterator[SimulatorServer]:
    world = World([PracticeSpec(OPEN, "open", patients=20, tempo=1e-5, limit=10_000)])
    world.register(JWKS)
    with SimulatorServer(world, changes_per_second=50) as server:
        yield server


@pytest.fixture
def real(server: SimulatorServer) -> Iterator[httpx.Client]:
    client = "poller-bbbbbb"
    claims = {"iss": client, "sub": client, "aud": server.token_url, "exp": int(time.time()) + 60, "jti": "1"}
    form = {"grant_type": "client_credentials", "scope": SCOPES, "client_assertion_type": ASSERTION_TYPE}
    form["client_assertion"] = jwt.encode(claims, KEY, "RS384", headers={"kid": KID})
    token = httpx.post(server.token_url, data=form).json()["access_token"]
    with httpx.Client(headers={"authorization": f"Bearer {token}"}, base_url=server.base_url(OPEN)) as http:
        yield http


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline


def test_a_cut_connection_is_an_error_of_the_transport(server: SimulatorServer, real: httpx.Client) -> None:
    server.world.set_faults(OPEN, cut_connection=1, first=1)
    with pytest.raises(httpx.RemoteProtocolError):
        real.get("/Patient")
    assert real.get("/Patient").status_code == 200
    eventually(lambda: [call.status for call in server.world.calls(OPEN)][-2:] == [0, 200])


def test_a_slow_answer_is_as_old_as_its_question(server: SimulatorServer, real: httpx.Client) -> None:
    server.world.set_faults(OPEN, slow=1, slow_seconds=0.3, first=1)
    began = time.monotonic()
    assert real.get("/Patient").status_code == 200
    assert time.monotonic() - began >= 0.3


def test_a_search_is_answered_within_three_milliseconds(server: SimulatorServer, real: httpx.Client) -> None:
    server.quiet()
    real.get("/Observation?_count=25")
    times = []
    for _ in range(100):
        began = time.perf_counter()
        real.get("/Observation?_count=25")
        times.append(time.perf_counter() - began)
    times.sort()
    assert times[10] < 0.003, "client and server together, on a machine that does other things as well"


def test_a_practice_lives_in_real_time_until_it_is_quiet(server: SimulatorServer, real: httpx.Client) -> None:
    def versions() -> int:
        return sum(len(found) for found in server.world.truth(OPEN).values())

    before = versions()
    eventually(lambda: versions() > before + 5)
    server.quiet()
    still = versions()
    assert real.get("/Patient").status_code == 200
    assert versions() == still
    feeds = {OPEN: [FeedSchedule("Patient", every=5)]}
    assert not judge(server.world.evidence(), [], feeds, Rules())["ok"]
