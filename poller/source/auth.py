"""Authorization by SMART Backend Services (SMART App Launch 2.2): a signed assertion for an access token that lives minutes."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from poller import keys
from poller.config.model import PracticeConfig
from poller.config.values import is_loopback
from poller.core import budget, faults
from poller.core.faults import Remedy, Shape, Verdict
from poller.core.model import Failure, FailureKind, Purpose
from poller.errors import ConfigError
from poller.source.gate import Gate
from poller.source.wire import Broken, Exchange, Wire

log = structlog.get_logger(__name__)

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_LIFE = 240
"""Seconds. At most 300 are allowed; clocks of servers differ."""

_MARGIN = 30.0
"""Seconds before a token's end (or a tenth of its life, if that is less) from which a new one is fetched beside it."""
_LAST_USE = 5.0
"""Seconds before a token's end (or a fiftieth of its life) from which it is not sent any more."""
_USUAL_LIFE = 60.0
"""Seconds, for a server that does not say how long a token lives."""
_NEVER = 1e9
"""Seconds. A token that is said to live longer is not believed."""
_HOLD_OFF = (5.0, 300.0)
"""Seconds, first and longest, for which nothing is asked after a refusal; it doubles. Each try is a call of the budget."""
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")


@dataclass(frozen=True, slots=True)
class Token:
    """An access token; its text shows in no representation. Instants are of the monotonic clock."""

    text: str = field(repr=False)
    renew_at: float
    unusable_at: float


class Authorization:
    """Access tokens for one practice: one is kept, renewed a little before its end, once for however many wait for it."""

    def __init__(self, practice: PracticeConfig, gate: Gate, wire: Wire) -> None:
        self._practice = practice
        self._gate = gate
        self._wire = wire
        self._token_url = practice.token_url
        self._token: Token | None = None
        self._renewing: asyncio.Task[Token | Failure] | None = None
        self._refused: tuple[Failure, float] | None = None
        self._refusals = 0

    @property
    def usable(self) -> Token | None:
        """The token as it is, if it may still be sent; asks for nothing."""
        token = self._token
        return token if token is not None and self._now() < token.unusable_at else None

    async def token(self) -> Token | Failure:
        """A token that may be sent now. While one is being renewed the one before serves on, as long as it lives."""
        token = self.usable
        if token is not None:
            if self._now() >= token.renew_at and self._hold_off() is None:
                self._renew()
            return token
        refusal = self._hold_off()
        return refusal if refusal is not None else await asyncio.shield(self._renew())

    def discard(self, token: Token) -> None:
        """Never send this token again: the server refused it. A newer one stays."""
        if self._token is token:
            self._token = None

    async def aclose(self) -> None:
        """Stop renewing and forget the token."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        self._token = None

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _hold_off(self) -> Failure | None:
        """The last refusal, while it is too soon to ask again."""
        return self._refused[0] if self._refused is not None and self._now() < self._refused[1] else None

    def _renew(self) -> asyncio.Task[Token | Failure]:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.get_running_loop().create_task(self._fetch())
            self._renewing.add_done_callback(_retrieve)
        return self._renewing

    async def _fetch(self) -> Token | Failure:
        outcome: Token | Failure | None = None
        for retry in range(faults.RETRIES + 1):
            if retry:
                await asyncio.sleep(faults.backoff(retry, 1.0))
            verdict, outcome = await self._ask()
            if verdict.remedy not in {Remedy.RETRY, Remedy.LOCK_OUT}:
                break
        if isinstance(outcome, Token):
            self._token, self._refused, self._refusals = outcome, None, 0
            return outcome
        failure = outcome or Failure(FailureKind.UNAUTHORIZED)
        wait = min(_HOLD_OFF[0] * 2.0 ** min(self._refusals, 10), _HOLD_OFF[1])
        self._refused, self._refusals = (failure, self._now() + wait), self._refusals + 1
        log.warning(
            "No access token",
            action="token.refused",
            practice=self._practice.code,
            kind=failure.kind.value,
            status=failure.status,
            detail=failure.detail,
            hold_off=wait,
        )
        return failure

    async def _ask(self) -> tuple[Verdict, Token | Failure | None]:
        """One try: the token URL if it is not known yet, then the token."""
        if self._token_url is None:
            found = await self._discover()
            if isinstance(found, Verdict):
                return found, found.failure
            self._token_url = found
        url = self._token_url
        form = {
            "grant_type": "client_credentials",
            "scope": " ".join(self._practice.scopes),
            "client_assertion_type": ASSERTION_TYPE,
        }
        try:
            key = await asyncio.to_thread(self._load_key)
        except ConfigError:
            failure = Failure(
                FailureKind.UNAUTHORIZED, None, "the private key cannot be read, or is none that signs RS384"
            )
            return Verdict(Remedy.GIVE_UP, failure), failure
        async with self._gate.permit(Purpose.TOKEN):
            form["client_assertion"] = assertion(key, self._practice.kid, self._practice.client_id, url)
            answer = await self._wire.exchange(Purpose.TOKEN, "POST", url, {"Accept": "application/json"}, form)
            verdict, token = self._read(answer)
            await self._obey(verdict, answer)
        return verdict, token or verdict.failure

    def _load_key(self) -> RSAPrivateKey:
        """The key as it is now, since it may be replaced while we run. On a thread: checking it takes a tenth of a second."""
        return keys.load_private_key(self._practice.key.read())

    def _read(self, answer: Exchange | Broken) -> tuple[Verdict, Token | None]:
        if isinstance(answer, Broken):
            return faults.judge_mishap(answer.mishap), None
        body: Any = answer.body if isinstance(answer.body, dict) else {}
        text = body.get("access_token")
        kind = body.get("token_type", "bearer")
        if answer.status != 200 or not isinstance(text, str) or not isinstance(kind, str):  # noqa: PLR2004 - OK
            error = body.get("error")
            return faults.judge_token(answer.status, error if isinstance(error, str) else None), None
        if not _TOKEN.fullmatch(text) or kind.lower() != "bearer":
            return faults.judge_token(answer.status, None), None
        life, now = _life(body.get("expires_in")), self._now()
        self._compare_scopes(body.get("scope"))
        ends = now + life - (answer.ended - answer.began).total_seconds()
        return faults.OK, Token(text, ends - min(_MARGIN, life / 10), ends - min(_LAST_USE, life / 50))

    def _compare_scopes(self, granted: object) -> None:
        """Say so when less was granted than asked for: those feeds will be refused."""
        if isinstance(granted, str) and (missing := set(self._practice.scopes) - set(granted.split())):
            log.warning(
                "The token covers less than was asked for",
                action="token.narrowed",
                practice=self._practice.code,
                missing=sorted(missing),
            )

    async def _discover(self) -> str | Verdict:
        """The token URL, from the server's smart-configuration."""
        where = f"{self._practice.base_url}/.well-known/smart-configuration"
        async with self._gate.permit(Purpose.TOKEN):
            answer = await self._wire.exchange(Purpose.TOKEN, "GET", where, {"Accept": "application/json"})
            if isinstance(answer, Broken):
                return faults.judge_mishap(answer.mishap)
            if answer.status != 200:  # noqa: PLR2004 - OK
                verdict = faults.judge(answer.status, Shape.EMPTY)
                await self._obey(verdict, answer)
                return verdict
        found = answer.body.get("token_endpoint") if isinstance(answer.body, dict) else None
        if isinstance(found, str) and _is_safe(found, self._practice.base_url):
            return found
        detail = "smart-configuration names no token_endpoint with https; set token_url"
        return Verdict(Remedy.GIVE_UP, Failure(FailureKind.UNAUTHORIZED, answer.status, detail))

    async def _obey(self, verdict: Verdict, answer: Exchange | Broken) -> None:
        if verdict.remedy is Remedy.LOCK_OUT and isinstance(answer, Exchange):
            await self._gate.lock_out(budget.lock_out(answer.date, answer.retry_after))


def assertion(key: RSAPrivateKey, kid: str | None, client_id: str, token_url: str) -> str:
    """The signed client assertion (RFC 7523). ``kid`` None: the key's RFC 7638 thumbprint."""
    now = int(time.time())
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": token_url,
        "iat": now,
        "exp": now + ASSERTION_LIFE,
        "jti": str(uuid.uuid4()),
    }
    headers = {"kid": kid or keys.thumbprint(key.public_key()), "typ": "JWT"}
    return jwt.encode(claims, key, algorithm="RS384", headers=headers)


def _life(expires_in: object) -> float:
    """Seconds for which a token lives, from a number however it is written."""
    try:
        life = float(str(expires_in))
    except ValueError:
        return _USUAL_LIFE
    return life if 0 < life < _NEVER else _USUAL_LIFE  # which also leaves out what is not a number


def _is_safe(url: str, base_url: str) -> bool:
    """Whether an assertion may be sent there: over TLS, or from one loopback address to another."""
    try:
        found, base = httpx.URL(url), httpx.URL(base_url)
    except httpx.InvalidURL:
        return False
    if found.userinfo or found.fragment:
        return False
    return bool(found.host) and (
        found.scheme == "https" or (found.scheme == "http" and is_loopback(found.host) and is_loopback(base.host))
    )


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Mark an exception as seen; whoever awaits the task raises it."""
    if not task.cancelled():
        task.exception()
