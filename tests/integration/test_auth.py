"""Authorization against a token endpoint of the test's own, which checks what a real one would."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import jwt
import pytest
import structlog

from poller import keys
from poller.clock import SystemClock
from poller.config.feed import FeedConfig
from poller.config.model import PracticeConfig
from poller.config.secret import Secret
from poller.core import faults
from poller.core.faults import Consequence
from poller.core.model import Failure, FailureKind, Purpose
from poller.source import auth
from poller.source.auth import Authorization, Token
from poller.source.client import Client
from poller.source.gate import Gate
from poller.source.wire import Wire
from tests.source_bench import BASE, Freely, at_once

TOKEN_URL = "https://login.example.org/oauth2/token"


@dataclass
class Ehr:
    """A token endpoint, a smart-configuration and a resource server."""

    public_key: Any
    answers: list[httpx.Response | Callable[[], httpx.Response]] = field(default_factory=list)
    """What token calls are answered with, in order; a token when there are none left."""
    issued: list[str] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)
    forms: list[dict[str, str]] = field(default_factory=list)
    assertions: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    life: object = 300
    settings: Any = field(default_factory=lambda: {"token_endpoint": TOKEN_URL})
    refuse_all: bool = False
    discovery: httpx.Response | None = None

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.005)
        self.paths.append(request.url.path)
        if request.url.path.endswith("smart-configuration"):
            return self.discovery or httpx.Response(200, json=self.settings)
        if request.method == "POST":
            return self.token(request)
        token = request.headers["Authorization"].removeprefix("Bearer ")
        if self.refuse_all or token in self.revoked or token not in self.issued:
            return httpx.Response(401)
        return httpx.Response(200, json={"resourceType": "Bundle", "type": "searchset"})

    def token(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url) == TOKEN_URL
        self.forms.append({name: value[0] for name, value in parse_qs(request.content.decode()).items()})
        self.assertions.append(
            jwt.decode(self.forms[-1]["client_assertion"], self.public_key, algorithms=["RS384"], audience=TOKEN_URL)
        )
        if self.answers:
            answer = self.answers.pop(0)
            return answer if isinstance(answer, httpx.Response) else answer()
        self.issued.append(f"secret-token-{len(self.issued)}")
        return httpx.Response(
            200, json={"access_token": self.issued[-1], "token_type": "Bearer", "expires_in": self.life}
        )

    @property
    def token_calls(self) -> int:
        return len(self.forms)


@dataclass
class Scene:
    """One practice's authorization and client before an Ehr."""

    ehr: Ehr
    config: PracticeConfig
    ledger: Freely = field(default_factory=Freely)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.gate = Gate("FAMLYMED", self.config.budget, self.ledger, in_thread=at_once)
        clock = SystemClock()
        self.wire = Wire(BASE, dt.timedelta(seconds=5), 12, clock, httpx.MockTransport(self.ehr))
        self.authorization = Authorization(self.config, self.gate, self.wire)
        self.client = Client("FAMLYMED", BASE, self.gate, self.authorization, self.wire, clock)

    async def token(self) -> str:
        found = await self.authorization.token()
        assert isinstance(found, Token)
        return found.text

    async def refusal(self) -> Failure:
        found = await self.authorization.token()
        assert isinstance(found, Failure)
        return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> keys.KeyPair:
    return keys.new_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.core.faults.backoff", lambda _retry, _jitter: 0.0)


@pytest.fixture
def ehr(pair: keys.KeyPair) -> Ehr:
    return Ehr(pair.private_key.public_key())


def config_of(pair: keys.KeyPair, **changes: Any) -> PracticeConfig:
    given: dict[str, Any] = {
        "code": "FAMLYMED",
        "base_url": BASE,
        "token_url": TOKEN_URL,
        "client_id": "poller-1",
        "key": Secret(file=pair.private_path, env=None),
        "feeds": {"Patient": FeedConfig.model_validate({}), "Observation": FeedConfig.model_validate({})},
    }
    return PracticeConfig.model_validate(given | changes)


@pytest.fixture
def open_scene(ehr: Ehr, pair: keys.KeyPair, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scene]]:
    """Makes a scene whose token clock stands at ``scene.now``."""

    def make(**changes: Any) -> Scene:
        scene = Scene(ehr, config_of(pair, **changes))
        monkeypatch.setattr(scene.authorization, "_now", lambda: scene.now)
        return scene

    yield make  # noqa: PT022 - the type says what is yielded


def test_the_assertion_and_the_form_are_as_smart_says(open_scene: Callable[..., Scene], pair: keys.KeyPair) -> None:
    scene = open_scene()
    asyncio.run(scene.token())
    form, claims = scene.ehr.forms[0], scene.ehr.assertions[0]
    assert form["grant_type"] == "client_credentials"
    assert form["scope"] == "system/Patient.read system/Observation.read"
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assert set(form) == {"grant_type", "scope", "client_assertion_type", "client_assertion"}
    assert claims["iss"] == claims["sub"] == "poller-1"
    assert 0 < claims["exp"] - dt.datetime.now(dt.UTC).timestamp() <= 300
    header = jwt.get_unverified_header(form["client_assertion"])
    assert header == {"alg": "RS384", "typ": "JWT", "kid": pair.kid}


def test_each_assertion_has_a_jti_of_its_own_and_the_kid_that_was_set(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene(kid="mine")

    async def main() -> None:
        for _ in range(3):
            await scene.token()
            scene.now += 1000

    asyncio.run(main())
    assert len({claims["jti"] for claims in scene.ehr.assertions}) == 3
    assert jwt.get_unverified_header(scene.ehr.forms[0]["client_assertion"])["kid"] == "mine"


def test_however_many_wait_there_is_one_token_call(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene()

    async def main() -> list[str]:
        return await asyncio.gather(*(scene.token() for _ in range(50)))

    assert set(asyncio.run(main())) == {"secret-token-0"}
    assert scene.ehr.token_calls == 1


def test_a_waiter_that_is_cancelled_does_not_take_the_token_from_the_others(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene()

    async def main() -> str:
        first, second = asyncio.create_task(scene.token()), asyncio.create_task(scene.token())
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(main()) == "secret-token-0"
    assert scene.ehr.token_calls == 1


def test_near_its_end_a_token_serves_on_while_the_next_is_fetched_beside_it(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene()

    async def main() -> None:
        assert await scene.token() == "secret-token-0"
        scene.now = 269
        assert await scene.token() == "secret-token-0"
        first = scene.authorization._renewing
        assert first is not None
        assert first.done()
        scene.now = 271
        assert [await scene.token() for _ in range(5)] == ["secret-token-0"] * 5
        second = scene.authorization._renewing
        assert second is not None
        await second
        assert scene.ehr.token_calls == 2
        assert await scene.token() == "secret-token-1"

    asyncio.run(main())


def test_a_token_at_its_end_is_not_sent(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene()

    async def main() -> None:
        await scene.token()
        scene.now = 296
        assert scene.authorization.usable is None
        assert await scene.token() == "secret-token-1"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("life", "renewed_after"), [(20, 18), ("300", 270), (None, 54), (-5, 54), ("x", 54), (9.5, 8.6)]
)
def test_the_life_of_a_token_is_read_however_it_is_written(
    open_scene: Callable[..., Scene], life: object, renewed_after: float
) -> None:
    scene = open_scene()
    scene.ehr.life = life
    asyncio.run(scene.token())
    token = scene.authorization.usable
    assert token is not None
    assert token.renew_at == pytest.approx(renewed_after, abs=0.2)


def get(scene: Scene) -> Any:
    return scene.client.get("Observation", Purpose.DETECT)


def test_a_refused_token_is_replaced_once_for_all_who_were_refused(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene()

    async def main() -> None:
        await scene.token()
        scene.ehr.revoked.add("secret-token-0")
        answers = await asyncio.gather(*(get(scene) for _ in range(10)))
        assert [answer.failure for answer in answers] == [None] * 10
        assert scene.ehr.token_calls == 2

    asyncio.run(main())


def test_a_fresh_token_that_is_refused_as_well_is_the_end_of_it(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene()
    scene.ehr.refuse_all = True
    answer = asyncio.run(get(scene))
    assert answer.failure == Failure(FailureKind.UNAUTHORIZED, 401, "the token is not accepted")
    assert (answer.calls, scene.ehr.token_calls) == (2, 2)
    assert scene.client.last_server_error is None


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"error": "invalid_client"}, FailureKind.UNAUTHORIZED),
        (400, {"error": "invalid_grant"}, FailureKind.UNAUTHORIZED),
        (500, {"error": "access_denied", "error_description": "not enabled"}, FailureKind.UNAUTHORIZED),
        (403, {"error": "403"}, FailureKind.UNAUTHORIZED),
    ],
)
def test_a_refusal_is_asked_for_once_and_then_left_alone_for_a_while(
    open_scene: Callable[..., Scene], status: int, body: Any, kind: FailureKind
) -> None:
    """Each try is a call of the budget; a thousand targets must not each make one."""
    scene = open_scene()
    scene.ehr.answers = [httpx.Response(status, json=body) for _ in range(2)]

    async def main() -> None:
        for _ in range(20):
            assert (await scene.refusal()).kind is kind
        answer = await get(scene)
        assert answer.failure is not None
        assert answer.failure.kind is kind
        assert answer.calls == 0
        assert scene.ehr.token_calls == 1
        scene.now += 5
        await scene.refusal()
        scene.now += 5
        await scene.refusal()
        assert scene.ehr.token_calls == 2
        scene.now += 5
        assert await scene.token() == "secret-token-0"

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"token_type": "Bearer"}),
        httpx.Response(200, json={"access_token": "a\r\nX-Evil: 1", "token_type": "Bearer"}),
        httpx.Response(200, json={"access_token": "", "token_type": "Bearer"}),
        httpx.Response(200, json={"access_token": "mac", "token_type": "mac"}),
        httpx.Response(200, json=[]),
        httpx.Response(503),
    ],
)
def test_a_passing_fault_of_the_token_server_is_tried_again(
    open_scene: Callable[..., Scene], answer: httpx.Response
) -> None:
    scene = open_scene()
    scene.ehr.answers = [answer]
    assert asyncio.run(scene.token()) == "secret-token-0"
    assert scene.ehr.token_calls == 2


def test_a_429_of_the_token_server_locks_the_practice_out(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene()
    date = dt.datetime(2026, 11, 22, 15, 0, 40, tzinfo=dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    scene.ehr.answers = [httpx.Response(429, headers={"Date": date})]

    async def main() -> None:
        waiting = asyncio.create_task(scene.token())
        async with asyncio.timeout(10):
            await scene.ledger.blocked.wait()
        assert scene.ledger.blocks == [22.0]
        assert scene.ehr.token_calls == 1
        waiting.cancel()
        await scene.authorization.aclose()
        await scene.gate.aclose()

    asyncio.run(main())


def test_the_token_url_is_found_once_in_the_smart_configuration(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene(token_url=None)

    async def main() -> None:
        await scene.token()
        scene.now += 1000
        await scene.token()

    asyncio.run(main())
    assert scene.ehr.paths.count("/fhir/r4/FAMLYMED/.well-known/smart-configuration") == 1


@pytest.mark.parametrize(
    "endpoint", ["http://login.example.org/token", "https://user:pass@login.example.org/t", "file:///etc/passwd", 5, None, "https://"]
)  # fmt: skip
def test_an_assertion_is_only_sent_over_tls(open_scene: Callable[..., Scene], endpoint: object) -> None:
    scene = open_scene(token_url=None)
    scene.ehr.settings = {"token_endpoint": endpoint}
    assert asyncio.run(scene.refusal()).kind is FailureKind.UNAUTHORIZED
    assert scene.ehr.token_calls == 0


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404])
def test_a_base_url_without_a_smart_configuration_is_told_as_that(
    open_scene: Callable[..., Scene], status: int
) -> None:
    scene = open_scene(token_url=None)
    scene.ehr.discovery = httpx.Response(status)
    refusal = asyncio.run(scene.refusal())
    assert (refusal.kind, refusal.status) == (FailureKind.UNAUTHORIZED, status)
    assert "is base_url right" in refusal.detail
    assert faults.consequence(refusal) is Consequence.PAUSE_PRACTICE


@pytest.mark.parametrize("status", [400, 403, 500])
def test_words_of_a_refused_token_call_are_understood(open_scene: Callable[..., Scene], status: int) -> None:
    scene = open_scene()
    scene.ehr.answers = [httpx.Response(status, json={"message": "FHIR app authentication is not enabled"})]
    refusal = asyncio.run(scene.refusal())
    assert refusal == Failure(FailureKind.UNAUTHORIZED, status, faults.Hint.NOT_ENABLED.value)


def test_a_key_that_is_gone_is_a_refusal_and_not_the_end(open_scene: Callable[..., Scene], tmp_path: Path) -> None:
    scene = open_scene(key=Secret(file=tmp_path / "gone.pem", env=None))
    assert asyncio.run(scene.refusal()).kind is FailureKind.UNAUTHORIZED


def test_neither_token_nor_assertion_nor_the_servers_words_show_anywhere(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene(kid="k")
    scene.ehr.revoked.add("secret-token-0")
    scene.ehr.answers = [httpx.Response(400, json={"error": "invalid_grant", "error_description": "Jane Doe said no"})]

    async def main() -> list[Any]:
        refusal = await scene.refusal()
        scene.now += 10
        answer = await get(scene)
        return [refusal, answer, scene.authorization.usable, scene.authorization, scene.client]

    with structlog.testing.capture_logs() as logs:
        shown = repr(asyncio.run(main())) + repr(logs)
    assert logs
    assert "secret-token" not in shown
    assert "Jane" not in shown
    assert all(form["client_assertion"] not in shown for form in scene.ehr.forms)


def test_a_narrower_scope_is_told(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene()
    scene.ehr.answers = [
        httpx.Response(200, json={"access_token": "t", "token_type": "bearer", "scope": "system/Patient.read"})
    ]
    with structlog.testing.capture_logs() as logs:
        asyncio.run(scene.token())
    assert [entry["missing"] for entry in logs if entry["action"] == "token.narrowed"] == [["system/Observation.read"]]


def test_the_assertion_lives_less_than_five_minutes() -> None:
    assert auth.ASSERTION_LIFE <= 300
    assert json.dumps(auth.ASSERTION_TYPE)
