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
    """Empty: there is nothing to send."""
    renew_at: float
    unusable_at: float
    scopes: frozenset[str] | None = None
    """What it is good for; None if the server did not say."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server said when it refused a token. Its words serve to be recognised, and are never shown."""

    status: int
    error: str = field(repr=False)
    description: str = field(repr=False)


class Authorization:
    """Access tokens for one practice: one is kept, renewed a little before its end, once for however many wait for it."""

    def __init__(self, practice: PracticeConfig, gate: Gate, wire: Wire) -> None:
        self.scopes = practice.scopes
        """What tokens are asked for; fewer than configured once :meth:`renew` was told so."""
        self.granted: frozenset[str] | None = None
        """The scopes of the token last kept; None if there was none yet, or the server did not say."""
        self.refusal: Refusal | None = None
        """How the last token call was refused; None if it was not."""
        self.calls = 0
        """Token calls sent."""
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

    async def renew(self, scopes: tuple[str, ...] | None = None, *, keep: bool = True) -> Token | Failure:
        """A new token at once, whatever was refused before; if it is given, for these scopes from now on (None: for those in force).

        If it is refused, or with ``keep`` false, all stays as it was; nobody is kept from asking again.
        """
        asked = self.scopes if scopes is None else scopes
        found = await self._try(asked)
        if keep and isinstance(found, Token):
            self.scopes = asked
            self._keep(found)
        return found

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

    def _keep(self, token: Token) -> None:
        self._token, self._refused, self._refusals, self.granted = token, None, 0, token.scopes

    async def _try(self, scopes: tuple[str, ...]) -> Token | Failure:
        """A token for these scopes; passing failures are tried again."""
        outcome: Token | Failure | None = None
        for retry in range(faults.RETRIES + 1):
            if retry:
                await asyncio.sleep(faults.backoff(retry, 1.0))
            verdict, outcome = await self._ask(scopes)
            if verdict.remedy not in {Remedy.RETRY, Remedy.LOCK_OUT}:
                break
        return outcome or Failure(FailureKind.UNAUTHORIZED)

    async def _fetch(self) -> Token | Failure:
        outcome = await self._try(self.scopes)
        if isinstance(outcome, Token):
            self._keep(outcome)
            return outcome
        failure = outcome
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

    async def _ask(self, scopes: tuple[str, ...]) -> tuple[Verdict, Token | Failure | None]:
        """One try: the token URL if it is not known yet, then the token."""
        if self._token_url is None:
            found = await self._discover()
            if isinstance(found, Verdict):
                return found, found.failure
            self._token_url = found
        url = self._token_url
        form = {
            "grant_type": "client_credentials",
            "scope": " ".join(scopes),
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
            form["client_assertion"] = assertion(key, self._practice.kid, self._practice.client_id or "", url)
            self.calls += 1
            answer = await self._wire.exchange(Purpose.TOKEN, "POST", url, {"Accept": "application/json"}, form)
            verdict, token = self._read(answer, scopes)
            await self._obey(verdict, answer)
        return verdict, token or verdict.failure

    def _load_key(self) -> RSAPrivateKey:
        """The key as it is now, since it may be replaced while we run. On a thread: checking it takes a tenth of a second."""
        if self._practice.key is None:
            raise ConfigError(["no key"])
        return keys.load_private_key(self._practice.key.read())

    def _read(self, answer: Exchange | Broken, scopes: tuple[str, ...]) -> tuple[Verdict, Token | None]:
        self.refusal = None
        if isinstance(answer, Broken):
            return faults.judge_mishap(answer.mishap), None
        body: Any = answer.body if isinstance(answer.body, dict) else {}
        text = body.get("access_token")
        kind = body.get("token_type", "bearer")
        if answer.status != 200 or not isinstance(text, str) or not isinstance(kind, str):  # noqa: PLR2004 - OK
            said = [
                value if isinstance(value := body.get(name), str) else "" for name in ("error", "error_description")
            ]
            self.refusal = Refusal(answer.status, *said)
            return faults.judge_token(answer.status, said[0] or None, faults.hint_of(body)), None
        if not _TOKEN.fullmatch(text) or kind.lower() != "bearer":
            return faults.judge_token(answer.status, None), None
        life, now = _life(body.get("expires_in")), self._now()
        granted = self._granted(body.get("scope"), scopes)
        ends = now + life - (answer.ended - answer.began).total_seconds()
        return faults.OK, Token(text, ends - min(_MARGIN, life / 10), ends - min(_LAST_USE, life / 50), granted)

    def _granted(self, said: object, scopes: tuple[str, ...]) -> frozenset[str] | None:
        """The scopes that a token answer names. Says so when less was granted than asked for: those feeds will be refused."""
        granted = frozenset(said.split()) if isinstance(said, str) and said.strip() else None
        if granted is not None and (missing := set(scopes) - granted):
            log.warning(
                "The token covers less than was asked for",
                action="token.narrowed",
                practice=self._practice.code,
                missing=sorted(missing),
            )
        return granted

    async def _discover(self) -> str | Verdict:
        """The token URL, from the server's smart-configuration."""
        where = f"{self._practice.base_url}/.well-known/smart-configuration"
        async with self._gate.permit(Purpose.TOKEN):
            answer = await self._wire.exchange(Purpose.TOKEN, "GET", where, {"Accept": "application/json"})
            if isinstance(answer, Broken):
                return faults.judge_mishap(answer.mishap)
            if answer.status != 200:  # noqa: PLR2004 - OK
                verdict = _judge_discovery(answer)
                await self._obey(verdict, answer)
                return verdict
        found = answer.body.get("token_endpoint") if isinstance(answer.body, dict) else None
        if isinstance(found, str) and _is_safe(found, self._practice.base_url):
            return found
        detail = "smart-configuration names no token_endpoint with https; set token_url"
        return Verdict(Remedy.GIVE_UP, Failure(FailureKind.UNAUTHORIZED, answer.status, detail))

    async def _obey(self, verdict: Verdict, answer: Exchange | Broken) -> None:
        if verdict.remedy is Remedy.LOCK_OUT and isinstance(answer, Exchange):
            left_ago = (answer.ended - answer.began).total_seconds()
            await self._gate.lock_out(budget.lock_out(answer.date, answer.retry_after), left_ago)


class Open(Authorization):
    """For a server that asks for no token: a token without a text is never sent, and never ends."""

    _FREE = Token("", float("inf"), float("inf"))

    @property
    def usable(self) -> Token | None:
        """Always."""
        return self._FREE

    async def _try(self, scopes: tuple[str, ...]) -> Token | Failure:  # noqa: ARG002 - there is nobody to ask for them
        return self._FREE


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


def _judge_discovery(answer: Exchange) -> Verdict:
    """What it means that there is no smart-configuration: what would be a type's affair elsewhere is the practice's here."""
    hint = faults.hint_of(answer.body)
    verdict = faults.judge(answer.status, Shape.EMPTY, (), hint)
    is_mendable = verdict.remedy in {Remedy.RETRY, Remedy.LOCK_OUT}
    if is_mendable or verdict.failure is None or verdict.failure.kind is FailureKind.TRANSPORT:
        return verdict
    detail = hint.value if hint is not None else "no smart-configuration is there; is base_url right, or set token_url"
    return Verdict(Remedy.GIVE_UP, Failure(FailureKind.UNAUTHORIZED, answer.status, detail))


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
