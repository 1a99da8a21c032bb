"""Bulk export (FHIR Bulk Data Access IG 2.0): a job is kicked off, polled and cancelled, its files are streamed."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote, urlencode

from poller.clock import Clock
from poller.core import faults, pages
from poller.core.export import Accepted, Duplicate, Finished, Job, Lost, Trouble, Working
from poller.core.manifest import File, is_usable_url, parse_manifest
from poller.core.model import Batch, Failure, FailureKind, Purpose, Sighting
from poller.core.pages import Problem
from poller.core.window import instant
from poller.source.client import Answer, Client, malformed
from poller.source.ndjson import Ndjson
from poller.source.reading import BATCH
from poller.source.wire import Interrupted

BATCH_BYTES = 4 * 1024 * 1024
"""Of the lines of a batch, which may have fewer rows then: parsed they take some ten times as much."""

_GONE = frozenset({404, 410})
_EXPIRED = _GONE | {400, 401, 403}
"""How a store of files answers for an address whose signature has run out."""

_NDJSON = "application/fhir+ndjson"
_PROGRESS = re.compile(r"(?:in[ -]progress[:,]?\s*)?(\d{1,3}(?:\.\d{1,6})?)\s*%?(?:\s*complete)?", re.IGNORECASE)
_SECOND = dt.timedelta(seconds=1)

_ASTRAY = Failure(FailureKind.REFUSED, None, "an address that is not below base_url, and that we may not ask")

_CODES = frozenset(
    {"invalid", "structure", "required", "value", "invariant", "security", "login", "unknown", "expired", "forbidden"}
    | {"suppressed", "processing", "not-supported", "duplicate", "multiple-matches", "not-found", "deleted", "too-long"}
    | {"code-invalid", "extension", "too-costly", "business-rule", "conflict", "transient", "lock-error", "no-store"}
    | {"exception", "timeout", "incomplete", "throttled", "informational"}
)
"""FHIR R4 ``issue-type``. Any other text in its place may be somebody's name."""


class Bulk:
    """Exports of one practice's server. Every call goes through the gate, behind all polls."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    async def kick_off(self, job: Job) -> Accepted | Duplicate | Trouble:
        """Ask for an export. Never repeated by itself: a kick-off whose answer is lost may have begun a job."""
        asked = {"_type": ",".join(job.types)}
        if job.since is not None:
            asked["_since"] = instant(job.since)
        where = f"Group/{quote(job.group, safe='')}/$export?{urlencode(asked, quote_via=quote, safe=':,')}"
        answer = await self._client.request(
            "GET",
            where,
            Purpose.BACKFILL,
            headers={"Prefer": "respond-async"},
            retries=0,
            accepted=frozenset({200, 202}),
        )
        poll_url = answer.headers.get("content-location")
        if "duplicate" in _codes(answer.body):
            return Duplicate()
        if answer.failure is not None:
            return Trouble(answer.failure, self._asked(answer))
        if poll_url is None:
            return Trouble(malformed("a kick-off that is accepted without saying where the job answers"))
        if not is_usable_url(poll_url) or self._client.locate(poll_url) is None:
            return Trouble(_ASTRAY)
        return Accepted(poll_url, answer.began, self._asked(answer))

    async def poll(self, poll_url: str) -> Working | Finished | Lost | Trouble:
        """Ask how far a job is."""
        where = self._client.locate(poll_url)
        if where is None:
            return Trouble(_ASTRAY)
        answer = await self._client.request(
            "GET",
            where,
            Purpose.BACKFILL,
            headers={"Accept": "application/json, application/fhir+json"},
            accepted=frozenset({200, 202}),
        )
        if answer.status in _GONE:
            return Lost()
        if answer.failure is not None:
            return Trouble(answer.failure, self._asked(answer))
        if answer.status == 202:  # noqa: PLR2004 - Accepted
            return Working(self._asked(answer), _progress(answer.headers.get("x-progress")))
        manifest = parse_manifest(answer.body)
        if isinstance(manifest, Failure):
            return Trouble(manifest)
        # The Date is cut down to the second, and was written between the request and its answer.
        skew = answer.date + _SECOND - answer.began if answer.date is not None else None
        return Finished(manifest, skew)

    async def cancel(self, poll_url: str) -> bool:
        """Have the server let a job go, with its files. Whether it has."""
        where = self._client.locate(poll_url)
        if where is None:
            return False
        answer = await self._client.request(
            "DELETE", where, Purpose.BACKFILL, accepted=frozenset({200, 202, 204}), expected=frozenset({501})
        )
        return answer.failure is None or answer.status in _GONE

    def open(self, file: File, *, needs_token: bool) -> FileReading:
        """One reading of a file."""
        return FileReading(file, self._client, self._clock, needs_token=needs_token)

    def _asked(self, answer: Answer) -> float | None:
        """Seconds until the next call, if the server names them in a way that makes sense."""
        return faults.retry_after(answer.headers.get("retry-after"), self._clock.now())


class FileReading:
    """A file, streamed once. What it was worth stands in its attributes afterwards."""

    def __init__(self, file: File, client: Client, clock: Clock, *, needs_token: bool) -> None:
        self._file = file
        self._client = client
        self._clock = clock
        self._needs_token = needs_token
        self.failure: Failure | None = None
        """Why it could not be read to its end."""
        self.is_lost = False
        """Whether the server has it no longer, at this address."""
        self.lines = 0
        """Lines that are not blank."""
        self.flaws: Counter[Problem] = Counter()
        """Lines that are not what the file should hold, by why."""

    @property
    def is_short(self) -> bool:
        """Whether the manifest announced more lines."""
        return self._file.count is not None and self.lines < self._file.count

    async def batches(self, content_at: dt.datetime) -> AsyncGenerator[Batch, None]:
        """The resources of an output file. Each may be as old as ``content_at``, by our clock."""
        found: list[tuple[str, dict[str, Any]]] = []
        held = 0
        async with aclosing(self._objects()) as objects:
            async for resource, size in objects:
                id_ = self._look(resource)
                if isinstance(id_, Problem):
                    self.flaws[id_] += 1
                    continue
                found.append((id_, resource))
                held += size
                if len(found) >= BATCH or held >= BATCH_BYTES:
                    yield self._batch(found, content_at)
                    found, held = [], 0
        if found:
            yield self._batch(found, content_at)

    async def deletions(self, types: Collection[str]) -> AsyncGenerator[list[tuple[str, str]], None]:
        """Type and id of what a file of deletions lists, as far as it is of these types."""
        found: list[tuple[str, str]] = []
        async with aclosing(self._objects()) as objects:
            async for bundle, _ in objects:
                entries = bundle.get("entry", [])
                if bundle.get("resourceType") != "Bundle" or not isinstance(entries, list):
                    self.flaws[Problem.WRONG_TYPE] += 1
                    continue
                for key in _deleted(entries):
                    if key is None:
                        self.flaws[Problem.NO_ID] += 1
                    elif key[0] in types:
                        found.append(key)
                    if len(found) >= BATCH:
                        yield found
                        found = []
        if found:
            yield found

    async def issues(self) -> Counter[tuple[str, str]]:
        """How many issues a file of errors tells of, by severity and code, in FHIR's words and never the server's."""
        counted: Counter[tuple[str, str]] = Counter()
        async with aclosing(self._objects()) as objects:
            async for outcome, _ in objects:
                issues = outcome.get("issue", [])
                if outcome.get("resourceType") != "OperationOutcome" or not isinstance(issues, list):
                    self.flaws[Problem.WRONG_TYPE] += 1
                    continue
                counted.update(_issue(issue) for issue in issues)
        return counted

    async def _objects(self) -> AsyncGenerator[tuple[dict[str, Any], int], None]:
        """The lines. A failure ends them and is kept."""
        where = self._client.locate(self._file.url, needs_token=self._needs_token)
        if where is None:
            self.failure = _ASTRAY
            return
        async with self._client.stream(where, Purpose.BACKFILL, headers={"Accept": _NDJSON}) as download:
            answer = download.answer
            if answer.failure is not None:
                self.failure = answer.failure
                self.is_lost = answer.status in (_GONE if where.is_ours else _EXPIRED)
                return
            async with aclosing(download.chunks()) as chunks:
                lines = Ndjson(chunks)
                try:
                    async with aclosing(aiter(lines)) as objects:
                        async for found in objects:
                            yield found
                except Interrupted as broken:
                    self.failure = broken.failure
                else:
                    if lines.cut_off:
                        self.failure = Failure(FailureKind.TRANSPORT, 200, "the file ends within a line")
                finally:
                    self.lines += lines.lines
                    self.flaws += Counter({Problem.NO_RESOURCE: lines.bad})

    def _look(self, resource: dict[str, Any]) -> str | Problem:
        """The id of a whole resource of the file's type, or what else the line holds."""
        id_ = resource.get("id")
        if resource.get("resourceType") != self._file.resource_type:
            return Problem.OUTCOME if faults.outcome_codes(resource) else Problem.WRONG_TYPE
        if not pages.is_usable_id(id_):
            return Problem.NO_ID
        return Problem.SUBSETTED if pages.is_subsetted(resource) else str(id_)

    def _batch(self, found: list[tuple[str, dict[str, Any]]], content_at: dt.datetime) -> Batch:
        now = self._clock.now()
        kind = self._file.resource_type
        return Batch(tuple(Sighting(kind, id_, resource, content_at, now) for id_, resource in found))


def _codes(body: object) -> set[str]:
    """Codes of all issues of an OperationOutcome, whatever their severity."""
    issues = body.get("issue") if isinstance(body, dict) and body.get("resourceType") == "OperationOutcome" else None
    return {_issue(issue)[1] for issue in issues} if isinstance(issues, list) else set()


def _issue(issue: object) -> tuple[str, str]:
    """Severity and code; what FHIR does not know counts as an error, and as ``unknown``."""
    said = issue if isinstance(issue, dict) else {}
    severity, code = said.get("severity"), said.get("code")
    is_mild = severity in ("warning", "information")
    return str(severity) if is_mild else "error", str(code) if isinstance(code, str) and code in _CODES else "unknown"


def _deleted(entries: list[object]) -> Iterator[tuple[str, str] | None]:
    """What a transaction of deletes names; None for an entry that names nothing."""
    for entry in entries:
        request = entry.get("request") if isinstance(entry, dict) else None
        url = request.get("url") if isinstance(request, dict) and request.get("method") == "DELETE" else None
        *_, kind, id_ = ["", "", *(url if isinstance(url, str) else "").partition("?")[0].split("/")]
        yield (kind, id_) if kind and pages.is_usable_id(id_) else None


def _progress(said: str | None) -> float | None:
    """``X-Progress`` as percent, where it is a number; it may say anything."""
    found = _PROGRESS.fullmatch(said.strip()) if said is not None and len(said) <= 100 else None  # noqa: PLR2004 - the IG's limit
    return float(found.group(1)) if found else None
