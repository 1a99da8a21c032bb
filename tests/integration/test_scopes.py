"""A token for as many scopes as there is one for: what a server refuses as a whole is found out in few calls, and nothing is lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from poller import keys
from poller.clock import SystemClock
from poller.config.model import PracticeConfig
from poller.config.secret import Secret
from poller.core.refusals import Why
from poller.source.auth import Authorization, Token
from poller.source.gate import Gate
from poller.source.scopes import Stock, take_stock
from poller.source.wire import Wire
from tests.source_bench import BASE, Freely, at_once

TOKEN_URL = "https://login.example.org/token"
SCOPES = tuple(f"system/{kind}.read" for kind in "ABCDEFGH")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> keys.KeyPair:
    return keys.new_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def key(pair: keys.KeyPair) -> Any:
    return keys.load_private_key(pair.private_path.read_text())


@pytest.fixture
def usable() -> list[Token | None]:
    """The token in use at each token call, and at the end."""
    return []


Scene = Callable[..., tuple[list[Stock], Authorization, list[set[str]]]]


@pytest.fixture
def stock(pair: keys.KeyPair, key: Any, usable: list[Token | None], monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Takes stock once for each set of scopes that the server knows then; returns what came of it, and what was asked for."""
    monkeypatch.setattr(keys, "load_private_key", lambda _pem: key)
    monkeypatch.setattr("poller.core.faults.backoff", lambda *_: 0.0)

    def run(
        *known: set[str] | Callable[[set[str]], httpx.Response],
    ) -> tuple[list[Stock], Authorization, list[set[str]]]:
        usable.clear()
        asked: list[set[str]] = []
        now: list[set[str] | Callable[[set[str]], httpx.Response]] = []

        def issue(request: httpx.Request) -> httpx.Response:
            scopes = set(dict(httpx.QueryParams(request.content.decode()))["scope"].split())
            asked.append(scopes)
            usable.append(authorization.usable)
            rule = now[-1]
            if callable(rule):
                return rule(scopes)
            if scopes <= rule:
                return httpx.Response(200, json={"access_token": f"t{len(asked)}", "scope": " ".join(sorted(scopes))})
            return httpx.Response(400, json={"error": "invalid_grant", "error_description": "Jane Doe"})

        practice = PracticeConfig.model_validate(
            {
                "code": "FAMLYMED",
                "base_url": BASE,
                "token_url": TOKEN_URL,
                "client_id": "c",
                "key": Secret(file=pair.private_path, env=None),
                "scopes": SCOPES,
                "feeds": {"Patient": {}},
            }
        )

        authorization: Authorization

        async def main() -> list[Stock]:
            gate = Gate("FAMLYMED", practice.budget, Freely(), in_thread=at_once)
            wire = Wire(BASE, practice.timeout, 3, SystemClock(), httpx.MockTransport(issue))
            nonlocal authorization
            authorization = Authorization(practice, gate, wire)
            taken = []
            for rule in known:
                now.append(rule)
                taken.append(await take_stock(authorization, practice.code, practice.scopes))
            assert authorization.calls == len(asked)
            usable.append(authorization.usable)
            await authorization.aclose()
            await gate.aclose()
            await wire.aclose()
            return taken

        taken = asyncio.run(main())
        assert "Jane" not in repr((taken, authorization.refusal))
        return taken, authorization, asked

    return run


def test_where_all_scopes_are_granted_one_call_says_so(stock: Scene) -> None:
    (taken,), authorization, asked = stock(set(SCOPES))
    assert taken == Stock()
    assert asked == [set(SCOPES)]
    assert authorization.granted == frozenset(SCOPES)


@pytest.mark.parametrize("missing", ["A", "D", "H", "AB", "AH", "DE"])
def test_the_scopes_that_are_refused_are_found_and_the_others_asked_for_without_them(
    stock: Scene, missing: str
) -> None:
    refused = tuple(f"system/{kind}.read" for kind in missing)
    (taken,), authorization, asked = stock(set(SCOPES) - set(refused))
    assert taken.failure is None
    assert taken.refused == refused
    assert asked[-1] == set(authorization.scopes) == set(SCOPES) - set(refused)
    assert authorization.granted == frozenset(authorization.scopes)
    assert len(asked) <= 3 + 2 * 3 * len(missing) + 1


def test_what_was_found_the_time_before_is_tried_first_and_all_when_it_is_granted_again(stock: Scene) -> None:
    few = set(SCOPES) - {"system/C.read"}
    (_, again, healed), authorization, asked = stock(few, few, set(SCOPES))
    assert again.refused == ("system/C.read",)
    assert (healed, authorization.scopes) == (Stock(), SCOPES)
    assert asked[-3:] == [set(SCOPES), few, set(SCOPES)]


def test_an_app_that_must_ask_for_group_is_told_so_and_does_not_use_what_is_not_configured(
    stock: Scene, usable: list[Token | None]
) -> None:
    def bulk(scopes: set[str]) -> httpx.Response:
        if "system/Group.read" in scopes:
            return httpx.Response(200, json={"access_token": "t"})
        return httpx.Response(400, json={"error": "invalid_grant"})

    (taken,), authorization, asked = stock(bulk)
    assert taken.failure is not None
    assert "add system/Group.read" in taken.failure.detail
    assert (authorization.scopes, usable, len(asked)) == (SCOPES, [None] * 3, 2)


@pytest.mark.parametrize(
    ("status", "error", "why", "most"),
    [
        (401, {"error": "invalid_client"}, Why.NO_TOKEN, 1),
        (403, {"error": "403", "error_description": "invalid_request"}, Why.NOT_ACTIVATED, 1),
        (500, {"error": "access_denied"}, Why.NOT_ACTIVATED, 3),
        (400, {"error": "invalid_grant"}, Why.NO_TOKEN, 17),
        (503, {}, Why.NO_TOKEN, 3),
    ],
)
def test_what_is_no_matter_of_scopes_changes_nothing(
    stock: Scene, status: int, error: dict[str, str], why: Why, most: int
) -> None:
    (taken,), authorization, asked = stock(lambda _scopes: httpx.Response(status, json=error))
    assert taken.failure is not None
    assert taken.why is why
    assert authorization.scopes == SCOPES
    assert len(asked) <= most


def test_a_server_that_falls_ill_in_the_middle_leaves_the_scopes_as_they_are(stock: Scene) -> None:
    calls = iter(range(100))

    def ill_for_a_while(scopes: set[str]) -> httpx.Response:
        if 4 <= next(calls) < 7:
            return httpx.Response(503)
        if "system/A.read" in scopes:
            return httpx.Response(400, json={"error": "invalid_grant"})
        return httpx.Response(200, json={"access_token": "t"})

    (taken,), authorization, _ = stock(ill_for_a_while)
    assert taken.failure is not None
    assert authorization.scopes == SCOPES


def test_while_scopes_are_tried_the_token_in_use_stays(stock: Scene, usable: list[Token | None]) -> None:
    few = set(SCOPES) - {"system/C.read"}
    _, _, asked = stock(set(SCOPES), few)
    assert [token.text for token in usable[1 : len(asked)] if token is not None] == ["t1"] * (len(asked) - 1)


def test_a_refused_renewal_leaves_the_token_in_use(stock: Scene, usable: list[Token | None]) -> None:
    def once(_scopes: set[str]) -> httpx.Response:
        return httpx.Response(200, json={"access_token": "first"}) if next(calls) == 0 else httpx.Response(503)

    calls = iter(range(100))
    (first, second), _, _ = stock(once, once)
    assert first == Stock()
    assert second.failure is not None
    assert usable[-1] is not None
    assert usable[-1].text == "first"
