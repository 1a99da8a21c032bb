"""The simulator's tokens and its limit, as eCW is known to have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from poller.simulator.truth import max_calls_in_60s

if TYPE_CHECKING:
    from tests.simulator_bench import Reader

pytest_plugins = ["tests.simulator_bench"]
pytestmark = pytest.mark.anyio

ECW, OPEN = "AAAAAA", "BBBBBB"
ROOT = "http://simulator"
TOKEN = "/oauth/oauth2/token"

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
    assert reader.diagnostics(answer)


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
