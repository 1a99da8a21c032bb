"""The reading API: what an event names, from the store alone.

``GET /v1/{practice}/{type}/{id}`` with ``?version=N`` or ``?at=TIME``, and ``…/history``. FHIR R4 in form; bodies are the bytes that were
received. Every read is noted in the audit before it is answered, in the transaction that reads: what cannot be noted is not given out.
"""

from __future__ import annotations

import datetime as dt
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import structlog
from orjson import Fragment
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from poller import metrics
from poller.core import jsontext
from poller.core.audit import Action, Entry, scope_of
from poller.core.envelope import history_entry
from poller.core.failures import Failures
from poller.store.audit import append
from poller.store.reading import Missing, ReadingStore, StoredVersion
from poller.store.tokens import Token, digest_of, token_of
from poller.store.vault import PLAIN, Vault

log = structlog.get_logger(__name__)

FHIR_JSON = "application/fhir+json"
_SLASHES = 4
"""In the path of a resource; its history's has one more. The last word tells nothing: an id may be "history"."""
_COUNT = 20
_MOST = 100
_PRACTICE = re.compile(r"[A-Za-z0-9]{1,32}")
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_OUTCOME: Mapping[int, tuple[str, str]] = {
    400: ("value", "a parameter is not as it must be: version=N, at=TIME with a zone, count=1 to 100, before=N"),
    401: ("login", "a valid token is needed: Authorization: Bearer …"),
    403: ("forbidden", "the token has no right to read in this practice"),
    404: ("not-found", "there is no such version here"),
    410: ("deleted", "deleted: no longer visible at the source, and confirmed by reading it"),
    429: ("throttled", "too many requests without a valid token; come back later"),
    503: ("transient", "the store cannot answer now; come back later"),
}
_PAST = "this version was here, and is past retention"
_QUIET = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class _Refused(Exception):  # noqa: N818 - what it says
    """An answer other than 200; noted in the audit where a token is known."""

    def __init__(self, status: int, diagnostics: str | None = None, **headers: str) -> None:
        self.status, self.diagnostics, self.headers = status, diagnostics, headers
        super().__init__(str(status))


class ReadingApi:
    """The application's parts. ``engine`` acts as ``poller_api``; ``sources``: base URL by practice."""

    def __init__(
        self, engine: Engine, sources: Mapping[str, str], failures: Failures | None = None, vault: Vault = PLAIN
    ) -> None:
        self._engine = engine
        self._store = ReadingStore(engine, vault)
        self._sources = sources
        self._failures = failures or Failures()
        self._lock = threading.Lock()

    def app(self) -> Starlette:
        """The application; each request is answered on a thread."""
        path = "/v1/{practice}/{resource_type}/{id}"
        return Starlette(routes=[Route(path, self._answer), Route(f"{path}/history", self._answer)])

    def _answer(self, request: Request) -> Response:
        try:
            return self._read(request)
        except _Refused as refused:
            return _outcome(refused)
        except (SQLAlchemyError, ValueError) as error:  # its text may quote a row
            log.warning("a read could not be answered", action="api.fail", reason=type(error).__name__)
            return _outcome(_Refused(503, **{"Retry-After": "5"}))

    def _read(self, request: Request) -> Response:
        practice, resource_type, id_ = (str(request.path_params[name]) for name in ("practice", "resource_type", "id"))
        is_sound = _PRACTICE.fullmatch(practice) and _TYPE.fullmatch(resource_type) and _ID.fullmatch(id_)
        digest = self._hear(request)
        with self._engine.begin() as connection:
            token = token_of(connection, digest) if digest is not None else None
            self._judge(request, digest, is_known=token is not None)
            known = practice if practice in self._sources else ""  # of what others may make up, no metric gets a label
            asked = _asked(request)
            try:
                _check_rights(token, practice, is_sound=bool(is_sound))
                version, response = self._serve(connection, request, practice, resource_type, id_)
                status = response.status_code
            except _Refused as refused:
                version, status, response = None, refused.status, _outcome(refused)
            if status in {404, 410} and asked == "version":
                version = _number(request, "version")
            if is_sound:
                actor, whose = (f"token:{token.name}", practice) if token is not None else ("token:?", known)
                scope = scope_of(resource=f"{resource_type}/{id_}", asked=asked, version=version, status=status)
                append(connection, Entry(whose, actor, Action.API_READ, scope))
        metrics.API_READS.labels(known, str(status)).inc()
        return response

    def _hear(self, request: Request) -> bytes | None:
        """The digest of the token that is shown, None without one. Raises _Refused where failures were too many."""
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        digest = digest_of(shown.strip()) if scheme.lower() == "bearer" and shown.strip() else None
        with self._lock:
            wait = self._failures.wait(_caller(request), digest or b"", time.monotonic())
        if wait:
            metrics.API_READS.labels("", "429").inc()
            raise _Refused(429, **{"Retry-After": str(int(wait) + 1)})
        return digest

    def _judge(self, request: Request, digest: bytes | None, *, is_known: bool) -> None:
        with self._lock:
            if is_known and digest is not None:
                self._failures.succeeded(digest)
            else:
                self._failures.forget(digest or b"")
                self._failures.failed(_caller(request), time.monotonic())

    def _serve(
        self, connection: Connection, request: Request, practice: str, resource_type: str, id_: str
    ) -> tuple[int | None, Response]:
        """The version that was read, and the answer."""
        if _asked(request) == "history":
            return None, self._history(connection, request, practice, resource_type, id_)
        version, at = _number(request, "version"), _time(request)
        if version is not None and at is not None:
            raise _Refused(400, "version and at exclude each other; leave one out")
        found = self._store.version(connection, practice, resource_type, id_, version=version, at=at)
        if found is Missing.PAST:
            raise _Refused(404, _PAST)
        if not isinstance(found, StoredVersion):
            raise _Refused(404)
        headers = _QUIET | {"ETag": f'W/"{found.version}"'}
        if found.is_deleted or found.text is None:
            return found.version, _outcome(_Refused(410, ETag=headers["ETag"]))
        if request.headers.get("if-none-match") == headers["ETag"]:
            return found.version, Response(status_code=304, headers=headers)
        return found.version, Response(found.text, media_type=FHIR_JSON, headers=headers)

    def _history(
        self, connection: Connection, request: Request, practice: str, resource_type: str, id_: str
    ) -> Response:
        count = _number(request, "count")
        if count is not None and not 1 <= count <= _MOST:
            raise _Refused(400)
        before = _number(request, "before")
        found, more = self._store.versions(
            connection, practice, resource_type, id_, before=before, limit=count or _COUNT
        )
        if not found and before is None:
            raise _Refused(404)
        links = [{"relation": "self", "url": _relative(request)}]
        if more:
            query = urlencode({"count": count or _COUNT, "before": found[-1].version})
            links.append({"relation": "next", "url": f"{_path(request)}?{query}"})
        base = self._sources.get(practice, "")
        bundle = {"resourceType": "Bundle", "type": "history", "link": links, "entry": _entries(found, base)}
        return Response(jsontext.dumps(bundle), media_type=FHIR_JSON, headers=_QUIET)


def _check_rights(token: Token | None, practice: str, *, is_sound: bool) -> None:
    if token is None:
        raise _Refused(401, **{"WWW-Authenticate": "Bearer"})
    if not is_sound:
        raise _Refused(404)
    if not token.may_read(practice):
        raise _Refused(403)


def _entries(found: Sequence[StoredVersion], base: str) -> list[dict[str, Any]]:
    entries = []
    for one in found:
        assert one.action is not None  # noqa: S101 - what history keeps has one
        entry = history_entry(
            one.resource_type, one.id, one.version, one.action, f"{base}/{one.resource_type}/{one.id}", None
        )
        entries.append(entry | ({"resource": Fragment(one.text)} if one.text is not None else {}))
    return entries


def _outcome(refused: _Refused) -> Response:
    code, text = _OUTCOME[refused.status]
    issue = {"severity": "error", "code": code, "diagnostics": refused.diagnostics or text}
    body = jsontext.dumps({"resourceType": "OperationOutcome", "issue": [issue]})
    return Response(body, refused.status, headers=_QUIET | refused.headers, media_type=FHIR_JSON)


def _asked(request: Request) -> str:
    if _path(request).count("/") > _SLASHES:
        return "history"
    return next((name for name in ("version", "at") if name in request.query_params), "current")


def _number(request: Request, name: str) -> int | None:
    written = request.query_params.get(name)
    if written is None:
        return None
    if not _NUMBER.fullmatch(written):
        raise _Refused(400)
    return int(written)


def _time(request: Request) -> dt.datetime | None:
    written = request.query_params.get("at")
    if written is None:
        return None
    try:
        at = dt.datetime.fromisoformat(written)
    except ValueError:
        raise _Refused(400) from None
    if at.tzinfo is None:
        raise _Refused(400)
    return at


def _caller(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _path(request: Request) -> str:
    """Not of the request's URL, which is made from the Host that the caller names."""
    return str(request.scope["path"])


def _relative(request: Request) -> str:
    query = request.scope["query_string"].decode("latin-1")
    return f"{_path(request)}?{query}" if query else _path(request)
