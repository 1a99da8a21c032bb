"""SMART Backend Services as eCW does it: a signed assertion for a token that lives five minutes, each rule with its own refusal."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt

from poller.simulator.capability import scope_allowed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poller.simulator.practice import Practice

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_LONGEST = dt.timedelta(minutes=5)
_LEEWAY = dt.timedelta(seconds=5)


class Refusal(Exception):  # noqa: N818 - an answer of the protocol, not a failure of ours
    """The token is refused, with the status and error code of the protocol."""

    def __init__(self, status: int, error: str, description: str) -> None:
        self.status = status
        self.error = error
        self.description = description
        super().__init__(error)


@dataclass(slots=True)
class App:
    """A registered client."""

    keys: dict[str, Any] = field(default_factory=dict)
    practices: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is good for."""

    ends: dt.datetime
    practices: frozenset[str]
    scopes: tuple[str, ...]

    def covers(self, resource_type: str) -> bool:
        """Whether a scope lets this type be read."""
        return any(scope.partition("/")[2].rpartition(".")[0] in {resource_type, "*"} for scope in self.scopes)


class TokenDesk:
    """Gives out access tokens and knows them again."""

    def __init__(self, seed: int) -> None:
        self._apps: dict[str, App] = {}
        self._grants: dict[str, Grant] = {}
        self._used: dict[str, dt.datetime] = {}
        self._rng = random.Random(f"{seed}/tokens")

    def register(self, client_id: str, public_keys: Mapping[str, Any], practice: str) -> None:
        """Let the holder of these keys (a JWKS) read a practice. Raises ValueError when there is no key in it."""
        keys = public_keys.get("keys", [])
        if not keys:
            raise ValueError("the key set holds no key")
        app = self._apps.setdefault(client_id, App())
        app.practices.add(practice)
        for key in keys:
            public = {name: value for name, value in key.items() if name not in {"d", "p", "q", "dp", "dq", "qi"}}
            app.keys[str(key.get("kid", ""))] = jwt.PyJWK(public, algorithm=public.get("alg") or "RS384")

    def revoke(self) -> None:
        """Forget all tokens."""
        self._grants.clear()

    def client_of(self, form: Mapping[str, str]) -> str | None:
        """Whom the assertion claims to be, unverified: whose budget the call counts against."""
        try:
            claims = jwt.decode(form.get("client_assertion", ""), options={"verify_signature": False})
        except jwt.PyJWTError:
            return None
        return str(claims.get("iss"))

    def practices_of(self, client_id: str | None) -> frozenset[str]:
        """Practices that an app may read."""
        app = self._apps.get(client_id or "")
        return frozenset(app.practices) if app else frozenset()

    def issue(
        self, form: Mapping[str, str], audiences: Sequence[str], practices: Mapping[str, Practice], now: dt.datetime
    ) -> dict[str, Any]:
        """The token answer. Raises Refusal."""
        if form.get("grant_type") != "client_credentials":
            raise Refusal(400, "unsupported_grant_type", "Unsupported grant type")
        if form.get("client_assertion_type") != ASSERTION_TYPE or not form.get("client_assertion"):
            raise Refusal(400, "invalid_request", "client_assertion is missing")
        client, app = self._identify(form["client_assertion"], audiences, practices, now)
        own = [practices[code] for code in sorted(app.practices)]
        scopes = self._scopes(form.get("scope", ""), own)
        life = min(practice.spec.token_life for practice in own)
        token = f"{self._rng.getrandbits(256):064x}"
        self._grants[token] = Grant(now + dt.timedelta(seconds=life), self.practices_of(client), scopes)
        return {"access_token": token, "token_type": "Bearer", "expires_in": int(life), "scope": " ".join(scopes)}

    def _identify(
        self, assertion: str, audiences: Sequence[str], practices: Mapping[str, Practice], now: dt.datetime
    ) -> tuple[str, App]:
        invalid = Refusal(401, "invalid_client", "Client authentication failed")
        try:
            header = jwt.get_unverified_header(assertion)
            client = str(jwt.decode(assertion, options={"verify_signature": False}).get("iss"))
        except jwt.PyJWTError:
            raise invalid from None
        app = self._apps.get(client)
        if app is None or header.get("kid") not in app.keys:
            raise invalid
        only_rs = any(practices[code].spec.mode == "ecw" for code in app.practices)
        allowed = ["RS384"] if only_rs else ["RS384", "ES384"]
        try:
            claims = jwt.decode(
                assertion,
                app.keys[header["kid"]],
                algorithms=allowed,
                options={
                    "require": ["iss", "sub", "aud", "exp", "jti"],
                    "verify_aud": False,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.PyJWTError:
            raise invalid from None
        self._check(claims, audiences, now)
        return client, app

    def _check(self, claims: Mapping[str, Any], audiences: Sequence[str], now: dt.datetime) -> None:
        """The claims' rules: who, for whom, how long, only once."""
        audience = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        ends = dt.datetime.fromtimestamp(int(claims["exp"]), dt.UTC)
        self._used = {jti: end for jti, end in self._used.items() if end + _LEEWAY > now}
        identity = (str(claims["iss"]), str(claims["jti"]))
        once = "/".join(identity)
        wrong = (
            claims["iss"] != claims["sub"]
            or not set(audience) & set(audiences)
            or ends <= now - _LEEWAY
            or ends > now + _LONGEST + _LEEWAY
            or once in self._used
        )
        if wrong:
            raise Refusal(401, "invalid_client", "Client authentication failed")
        self._used[once] = ends

    def _scopes(self, asked: str, own: Sequence[Practice]) -> tuple[str, ...]:
        scopes = tuple(dict.fromkeys(asked.split()))
        bulk = all(practice.spec.bulk for practice in own)
        missing = frozenset().union(*(practice.spec.missing_scopes for practice in own))
        allowed = tuple(scope for scope in scopes if scope_allowed(scope, bulk=bulk, missing=missing))
        if any(practice.spec.mode == "ecw" for practice in own):
            if not scopes or allowed != scopes or (bulk and "system/Group.read" not in scopes):
                raise Refusal(400, "invalid_grant", "One or more scopes are not allowed")
        elif not allowed:
            raise Refusal(400, "invalid_scope", "No scope that could be granted")
        return allowed

    def grant(self, authorization: str, now: dt.datetime) -> Grant | None:
        """What an ``Authorization`` header is good for now; None for nothing."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        grant = self._grants.get(token.strip())
        return grant if grant is not None and grant.ends > now else None
