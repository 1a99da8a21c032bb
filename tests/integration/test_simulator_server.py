"""The simulator on a real port."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from poller import keys
from poller.simulator.judge import FeedSchedule, Rules, judge
from poller.simulator.server import SimulatorServer
from poller.simulator.spec import PracticeSpec
from poller.simulator.tokens import ASSERTION_TYPE
from poller.simulator.world import World

OPEN = "BBBBBB"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KID = keys.thumbprint(KEY.public_key())
JWKS = dict(keys.jwks([(KID, KEY.public_key())]))


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
    form = {"grant_type": "client_credentials", "scope": "system/*.r", "client_assertion_type": ASSERTION_TYPE}
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
