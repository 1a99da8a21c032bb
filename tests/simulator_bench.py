"""A client of simulated practices, and the practices, for tests of the simulator itself."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from poller import keys
from poller.simulator.server import create_app
from poller.simulator.spec import PracticeSpec
from poller.simulator.tokens import ASSERTION_TYPE
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

    def a_patient(self, code: str) -> str:
        return next(iter(self.world.written(code, "Patient")))

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
            following = self.link(pages[-1], "next")
            if following is None:
                return pages
            parts = urlsplit(following)
            answer = await self.get(code, f"{parts.path.rpartition('/')[2]}?{parts.query}")

    @staticmethod
    def link(bundle: dict[str, Any], relation: str) -> str | None:
        return next((str(item["url"]) for item in bundle["link"] if item["relation"] == relation), None)

    @staticmethod
    def ids(*bundles: dict[str, Any]) -> list[str]:
        return [entry["resource"]["id"] for bundle in bundles for entry in bundle.get("entry", [])]

    @staticmethod
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
    return World(specs, now=clock())


@asynccontextmanager
async def _reading(world: World, clock: Clock) -> AsyncIterator[Reader]:
    world.register(JWKS)
    transport = httpx.ASGITransport(create_app(world, clock))
    async with httpx.AsyncClient(transport=transport, base_url=ROOT) as http:
        yield Reader(http, clock, world)


@pytest.fixture
def reading() -> Callable[[World, Clock], AbstractAsyncContextManager[Reader]]:
    """Opens a reader of any world."""
    return _reading


@pytest.fixture
async def reader(world: World, clock: Clock) -> AsyncIterator[Reader]:
    async with _reading(world, clock) as found:
        yield found
