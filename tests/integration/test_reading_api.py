"""The reading API over real Postgres, acting as its role: the exact version, to whom it may, noted before it is answered."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
import structlog
from sqlalchemy import Engine, text

from poller.core import jsontext
from poller.core.failures import Failures
from poller.errors import NotFound, PollerError
from poller.store.engine import API, open_engine
from poller.store.reading import ReadingStore
from poller.store.tokens import TokenStore
from poller.web.api import ReadingApi
from poller.web.serving import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.conftest import Practice

pytestmark = pytest.mark.usefixtures("bodies")

BASE = "https://ehr.example/p1"
GET = Any
"""Asks for a path, with a token."""


@pytest.fixture
def api_engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url, API)
    yield made
    made.dispose()


@pytest.fixture
def tokens(practice: Practice) -> TokenStore:
    return TokenStore(practice.engine)


@pytest.fixture
def get(api_engine: Engine, tokens: TokenStore) -> Iterator[Callable[..., httpx.Response]]:
    api = ReadingApi(api_engine, {"p1": BASE, "p2": "https://ehr.example/p2"}, Failures(per_caller=3))
    server = Server(api.app(), "127.0.0.1", 0, setting="api.listen")
    token = tokens.new("billing", ["p1"], "me")
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:

        def ask(path: str, shown: str | None = token, **headers: str) -> httpx.Response:
            bearer = {"Authorization": f"Bearer {shown}"} if shown is not None else {}
            return client.get(path, headers=bearer | headers)

        yield ask
    server.close()


def owner(database_url: str, statement: str) -> list[Any]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(statement).fetchall()


@pytest.fixture
def told(practice: Practice) -> list[dt.datetime]:
    """Three versions, a delete and a restoration of one observation; when each was recorded."""
    practice.read(practice.observation(value="1", valueQuantity={"value": 13.2}))
    practice.read(practice.observation(value="2"))
    practice.delete("o1")
    practice.read(practice.observation(value="4"))
    return [row.recorded_at for row in practice.rows("SELECT recorded_at FROM poller.history ORDER BY version")]


def test_the_version_that_an_event_names_is_served_as_it_was(get: GET, told: list[dt.datetime]) -> None:
    assert len(told) == 4
    answer = get("/v1/p1/Observation/o1?version=2")
    assert (answer.status_code, answer.headers["etag"]) == (200, 'W/"2"')
    assert answer.headers["content-type"] == "application/fhir+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["valueString"] == "2"
    latest = get("/v1/p1/Observation/o1")
    assert (latest.json()["valueString"], latest.headers["etag"]) == ("4", 'W/"4"')
    assert get("/v1/p1/Observation/o1", **{"If-None-Match": 'W/"4"'}).status_code == 304
    deleted = get("/v1/p1/Observation/o1?version=3")
    assert (deleted.status_code, deleted.headers["etag"]) == (410, 'W/"3"')
    for answer in (deleted, get("/v1/p1/Observation/o1?version=5"), get("/v1/p1/Observation/o2")):
        assert answer.json()["resourceType"] == "OperationOutcome"
        assert "o1" not in answer.text
    assert get("/v1/p1/Observation/o1?version=5").status_code == get("/v1/p1/Observation/o2").status_code == 404


def test_decimals_are_served_as_they_were_received(get: GET, practice: Practice) -> None:
    practice.read(practice.observation(valueQuantity=jsontext.loads('{"value": 13.20}')))
    assert b'"value":13.20' in get("/v1/p1/Observation/o1").content
    assert b'"value":13.20' in get("/v1/p1/Observation/o1/history").content


def test_a_resource_is_served_as_it_stood_at_a_time(get: GET, told: list[dt.datetime]) -> None:
    def at(moment: dt.datetime) -> tuple[int, Any]:
        answer = get(f"/v1/p1/Observation/o1?at={moment.astimezone(dt.UTC).isoformat().replace('+00:00', 'Z')}")
        return answer.status_code, answer.json().get("valueString")

    just = dt.timedelta(microseconds=1)
    assert [at(moment) for moment in told] == [(200, "1"), (200, "2"), (410, None), (200, "4")]
    assert at(told[0] - just) == (404, None)
    assert at(told[1] - just) == (200, "1")
    assert at(told[3] + dt.timedelta(days=400)) == (200, "4")


def test_the_history_is_a_bundle_in_pages(get: GET, told: list[dt.datetime]) -> None:
    assert told
    bundle = get("/v1/p1/Observation/o1/history?count=3").json()
    assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "history")
    assert [entry["response"]["etag"] for entry in bundle["entry"]] == ['W/"4"', 'W/"3"', 'W/"2"']
    assert [entry["request"]["method"] for entry in bundle["entry"]] == ["POST", "DELETE", "PUT"]
    assert [entry.get("resource", {}).get("valueString") for entry in bundle["entry"]] == ["4", None, "2"]
    assert bundle["entry"][0]["fullUrl"] == f"{BASE}/Observation/o1"
    (follows,) = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
    last = get(follows).json()
    assert [entry["resource"]["valueString"] for entry in last["entry"]] == ["1"]
    assert [link["relation"] for link in last["link"]] == ["self"]
    assert get("/v1/p1/Observation/o9/history").status_code == 404


def test_what_retention_took_is_said_to_be_past_unless_it_still_stands(
    get: GET, practice: Practice, told: list[dt.datetime], database_url: str
) -> None:
    practice.read(practice.observation("still", value="x"))
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM poller.history WHERE version < 4")
    gone = get("/v1/p1/Observation/o1?version=2")
    assert (gone.status_code, "past retention" in gone.text) == (404, True)
    moment = told[1].astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    assert "past retention" in get(f"/v1/p1/Observation/o1?at={moment}").text
    assert get("/v1/p1/Observation/still?version=1").json()["valueString"] == "x"
    pages = list(ReadingStore(practice.engine).as_of("p1", told[1]))
    assert [str(one) for page in pages for one in page] == ["Missing.PAST"]


@pytest.mark.parametrize(
    "query",
    ["version=x", "version=1&at=2026-01-01T00:00Z", "at=yesterday", "at=2026-01-01T00:00", f"version={'9' * 40}"],
)
def test_wrong_parameters_are_told(get: GET, told: list[dt.datetime], query: str) -> None:
    assert told
    answer = get(f"/v1/p1/Observation/o1?{query}")
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (400, "value")


def test_a_token_reads_its_practices_until_it_is_revoked_or_ends(
    get: GET, tokens: TokenStore, practice: Practice, told: list[dt.datetime]
) -> None:
    assert told
    path = "/v1/p1/Observation/o1"
    everywhere, other = tokens.new("all", ["*"], "me"), tokens.new("other", ["p2"], "me")
    ended = tokens.new("ended", ["*"], "me", dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1))
    assert get(path, everywhere).status_code == 200
    assert get(path, other).status_code == get("/v1/p1/Observation/unknown", other).status_code == 403
    refused = get(path, ended)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    tokens.revoke("all")
    assert get(path, everywhere).status_code == 401
    with pytest.raises(NotFound):
        tokens.revoke("all")
    with pytest.raises(PollerError, match="another name"):
        tokens.new("all", ["*"], "me")
    kept = practice.rows("SELECT * FROM poller.token")
    assert not any(secret in str(kept) for secret in (everywhere, other, everywhere.removeprefix("ehrp_")))
    assert [(token.name, token.practices, token.revoked_at is None) for token in tokens.listed()] == [
        ("all", ("*",), False),
        ("billing", ("p1",), True),
        ("ended", ("*",), True),
        ("other", ("p2",), True),
    ]


def test_every_read_is_in_the_audit_and_none_in_a_log_or_a_metric(
    get: GET, tokens: TokenStore, database_url: str, told: list[dt.datetime]
) -> None:
    assert told
    other = tokens.new("other", ["p2"], "me")
    with structlog.testing.capture_logs() as lines:
        get("/v1/p1/Observation/o1")
        get("/v1/p1/Observation/o1?version=3")
        get("/v1/p1/Observation/o1?version=7")
        get("/v1/p1/Observation/o1?at=2020-01-01T00:00Z")
        get("/v1/p1/Observation/o1/history")
        get("/v1/p1/Observation/o1", other)
        get("/v1/p1/Observation/o1", None)
        get("/v1/nowhere/Observation/o1", "nonsense")
    rows = owner(
        database_url,
        "SELECT practice, actor, scope->>'asked', scope->>'resource', (scope->'version')::int, (scope->'status')::int"
        " FROM poller.audit WHERE action = 'api read' ORDER BY number",
    )
    assert rows == [
        ("p1", "token:billing", "current", "Observation/o1", 4, 200),
        ("p1", "token:billing", "version", "Observation/o1", 3, 410),
        ("p1", "token:billing", "version", "Observation/o1", 7, 404),
        ("p1", "token:billing", "at", "Observation/o1", None, 404),
        ("p1", "token:billing", "history", "Observation/o1", None, 200),
        ("p1", "token:other", "current", "Observation/o1", None, 403),
        ("p1", "token:?", "current", "Observation/o1", None, 401),
        ("", "token:?", "current", "Observation/o1", None, 401),
    ]
    assert lines == []


def test_an_id_may_be_a_word_of_a_path(get: GET, practice: Practice) -> None:
    practice.read(practice.observation("history", value="1"))
    assert get("/v1/p1/Observation/history").json()["valueString"] == "1"
    assert get("/v1/p1/Observation/history/history").json()["type"] == "history"
    assert get("/v1/p1/Observation/history", Host="a/history?").json()["resourceType"] == "Observation"


def test_a_read_in_a_practice_that_is_not_configured_any_more_is_noted_with_its_name(
    api_engine: Engine, tokens: TokenStore, told: list[dt.datetime], database_url: str
) -> None:
    assert told
    server = Server(ReadingApi(api_engine, {}).app(), "127.0.0.1", 0, setting="api.listen")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
            for name, practices, status in (("auditor", ["*"], 200), ("other", ["p2"], 403)):
                bearer = {"Authorization": f"Bearer {tokens.new(name, practices, 'me')}"}
                assert client.get("/v1/p1/Observation/o1", headers=bearer).status_code == status
            assert client.get("/v1/p1/Observation/o1", headers={"Authorization": "Bearer x"}).status_code == 401
    finally:
        server.close()
    assert owner(database_url, "SELECT practice, actor, (scope->'status')::int FROM poller.audit ORDER BY number") == [
        ("p1", "token:auditor", 200),
        ("p1", "token:other", 403),
        ("", "token:?", 401),
    ]


def test_what_cannot_be_noted_is_not_given_out(get: GET, told: list[dt.datetime], database_url: str) -> None:
    assert told
    with psycopg.connect(database_url) as connection:
        connection.execute("REVOKE INSERT (practice) ON poller.audit FROM poller_api")
    with structlog.testing.capture_logs() as lines:
        answer = get("/v1/p1/Observation/o1")
    assert (answer.status_code, "valueString" in answer.text) == (503, False)
    assert [line["action"] for line in lines] == ["api.fail"]
    assert "o1" not in str(lines)


def test_guessing_is_bounded_and_locks_out_nobody_who_is_known(
    get: GET, told: list[dt.datetime], database_url: str
) -> None:
    assert told
    path = "/v1/p1/Observation/o1"
    assert get(path).status_code == 200
    assert [get(path, f"guess-{n}").status_code for n in range(5)] == [401, 401, 401, 429, 429]
    assert int(get(path, "guess").headers["retry-after"]) > 1
    assert get(path).status_code == 200
    assert owner(database_url, "SELECT count(*) FROM poller.audit WHERE scope->'status' = '401'") == [(3,)]


@pytest.mark.parametrize(
    "path",
    ["/v1/p1/Observation", "/v1/p1/observation/o1", "/v1/p1/Observation/o%201", "/v1/p1/Observation/o1%27--", "/"],
)
def test_what_is_no_path_of_a_resource_is_not_there(get: GET, path: str) -> None:
    assert get(path).status_code == 404


def test_the_api_s_role_cannot_make_tokens_nor_touch_the_audit(api_engine: Engine) -> None:
    for statement in (
        "UPDATE poller.audit SET reason = ''",
        "DELETE FROM poller.audit",
        "SELECT * FROM poller.audit",
        "INSERT INTO poller.token (name, digest, practices, made_by) VALUES ('x', 'x', '{*}', 'x')",
    ):
        with pytest.raises(Exception, match="permission denied"), api_engine.begin() as connection:
            connection.execute(text(statement))
