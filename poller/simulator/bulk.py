"""Bulk export of a group as the FHIR Bulk Data IG (2.0) has it, and as eCW is known to do it: kick-off, polls, manifest, files, cancel."""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import orjson

from poller.simulator.capability import DECLARED
from poller.simulator.exchange import FHIR_ROOT, Answer, Request, Stream, outcome
from poller.simulator.matching import BadValue, instant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from poller.simulator.chart import Row
    from poller.simulator.practice import Practice
    from poller.simulator.truth import CallKind

Covers = Callable[[str], bool]

POLL = "$export-poll-location"
FILE = "$export-file"
_EXPORT = "$export"
_FORMATS = frozenset({"application/fhir+ndjson", "application/ndjson", "ndjson"})
_TAKEN = frozenset({"_type", "_since", "_outputFormat"})
_NOT_EXPORTED = frozenset({"Group", "Binary"})
_CHUNK = 65_536
_DELETES_A_BUNDLE = 50
_EASTERN = ZoneInfo("America/New_York")


def kind_of(rest: str) -> CallKind | None:
    """Which part of an export a path below the base asks for; None for none."""
    first, _, more = rest.partition("/")
    if first == POLL or (first == "Group" and more.endswith("/" + _EXPORT)):
        return "bulk"
    return "file" if first == FILE else None


class _Wrong(Exception):  # noqa: N818 - an answer of the protocol, not a failure of ours
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__(answer.status)


@dataclass(slots=True)
class _File:
    """Lines of NDJSON; those of resources are theirs already, so that a file costs no memory of its own."""

    resource_type: str
    lines: Sequence[bytes]
    downloads: int = 0

    @property
    def size(self) -> int:
        return sum(len(line) + 1 for line in self.lines)

    def chunks(self) -> Iterator[bytes]:
        """The file in pieces of about 64 KB."""
        piece = bytearray()
        for line in self.lines:
            piece += line
            piece += b"\n"
            if len(piece) >= _CHUNK:
                yield bytes(piece)
                piece.clear()
        yield bytes(piece)


@dataclass(slots=True)
class _Job:
    """One export."""

    name: str
    group: str
    query: tuple[tuple[str, str], ...]
    request: str
    began: dt.datetime
    ready: dt.datetime | None
    """None for never."""
    transaction_time: dt.datetime
    fails: bool
    output: list[_File] = field(default_factory=list)
    deleted: list[_File] = field(default_factory=list)
    error: list[_File] = field(default_factory=list)
    asked: dt.datetime | None = None

    @property
    def files(self) -> list[_File]:
        return [*self.output, *self.deleted, *self.error]

    def running(self, now: dt.datetime) -> bool:
        return self.ready is None or now < self.ready


@dataclass(frozen=True, slots=True)
class _Order:
    """What a kick-off asks for, found allowed."""

    group: Row
    types: frozenset[str]
    since: dt.datetime | None


class Exports:
    """The exports of one practice."""

    def __init__(self, practice: Practice) -> None:
        self._practice = practice
        self._jobs: dict[str, _Job] = {}

    def answer(self, request: Request, rest: str, base_url: str, covers: Covers) -> Answer:
        """The answer to any call that :func:`kind_of` knows. ``covers``: whether the token is good for a type."""
        self._forget(request.now)
        spec = self._practice.spec
        if spec.bulk_links_elsewhere:
            base_url = f"http://{spec.link_host}{FHIR_ROOT}{spec.code}"
        try:
            first, _, more = rest.partition("/")
            if first == FILE:
                return self._file(request, more)
            if first != POLL:
                return self._kick_off(request, more.removesuffix("/" + _EXPORT), base_url, covers)
            job = self._jobs.get(dict(request.query).get("job_id", ""))
            if job is None:
                return outcome(404, "not-found", "The export is not known")
            if request.method == "DELETE":
                del self._jobs[job.name]
                return Answer(202, b"")
            return self._poll(job, request.now, base_url)
        except _Wrong as wrong:
            return wrong.answer

    def _forget(self, now: dt.datetime) -> None:
        kept = dt.timedelta(seconds=self._practice.spec.bulk_expires)
        ended = [job.name for job in self._jobs.values() if job.ready is not None and job.ready + kept <= now]
        for name in ended:
            del self._jobs[name]

    # --- kick-off

    def _kick_off(self, request: Request, group: str, base_url: str, covers: Covers) -> Answer:
        order = self._order(request, group, covers)
        spec, now = self._practice.spec, request.now
        query = tuple(sorted(request.query))
        for job in self._jobs.values():
            if job.group == order.group.id and (job.ready is None or (job.running(now) and job.query == query)):
                told = "An export of this group is in progress already"
                return Answer(200, outcome(200, "duplicate", told).body)
        job = _Job(
            name=f"{self._practice.job_rng.getrandbits(96):024x}",
            group=order.group.id,
            query=query,
            request=f"{base_url}/Group/{group}/{_EXPORT}" + _query(request.query),
            began=now,
            ready=None if spec.bulk_stuck else now + dt.timedelta(seconds=spec.bulk_seconds),
            transaction_time=self._practice.served_at(now),
            fails=spec.bulk_fails,
        )
        self._take(job, order, now)
        self._jobs[job.name] = job
        headers = (("content-location", f"{base_url}/{POLL}?job_id={job.name}"), *self._retry_after(now))
        return Answer(202, b"", headers=headers)

    def _order(self, request: Request, name: str, covers: Covers) -> _Order:
        """The kick-off's rules."""
        ecw = self._practice.spec.mode == "ecw"
        if not self._practice.spec.bulk:
            raise _Wrong(outcome(403 if ecw else 404, "not-supported", "The operation is not supported"))
        if not covers("Group"):
            raise _Wrong(outcome(403, "forbidden", "The operation is not supported for the scope"))
        group = self._group(name)
        if group is None:
            raise _Wrong(outcome(401 if ecw else 404, "not-found", "The group is not known"))
        if "respond-async" not in request.headers.get("prefer", ""):
            raise _Wrong(outcome(400, "required", "Prefer: respond-async is required"))
        unknown = [item for item, _ in request.query if item not in _TAKEN]
        values = dict(request.query)
        if unknown or values.get("_outputFormat", "ndjson") not in _FORMATS:
            raise _Wrong(outcome(400, "processing", "Invalid request: a parameter is not supported"))
        return _Order(group, self._types(request, covers), self._since(values.get("_since")))

    def _types(self, request: Request, covers: Covers) -> frozenset[str]:
        asked = {kind for item, value in request.query if item == "_type" for kind in value.split(",")}
        if not asked <= DECLARED.keys() - _NOT_EXPORTED:
            raise _Wrong(outcome(400, "processing", "Invalid request: _type names a type that cannot be exported"))
        if not all(map(covers, asked)):
            raise _Wrong(outcome(403, "forbidden", "The operation is not supported for the scope"))
        too_old = self._practice.spec.too_old_for
        if asked & too_old:
            raise _Wrong(outcome(400, "processing", "Invalid request: _type names a type that cannot be exported"))
        present = asked or self._practice.chart.kinds() - _NOT_EXPORTED - too_old
        return frozenset(filter(covers, present))

    def _since(self, text: str | None) -> dt.datetime | None:
        manner = self._practice.spec.bulk_since
        if text is None or manner == "ignored":
            return None
        if manner == "refused":
            raise _Wrong(outcome(400, "processing", "Unsupported query parameter(s): _since."))
        try:
            return instant(text)
        except BadValue:
            raise _Wrong(outcome(400, "value", "Invalid request: _since is no instant")) from None

    def _group(self, name: str) -> Row | None:
        """By id or by the value of an identifier."""
        for row in self._practice.chart.rows("Group"):
            if name in {row.id, *(item.get("value") for item in row.resource.get("identifier", ()))}:
                return row
        return None

    # --- what is in it

    def _take(self, job: _Job, order: _Order, now: dt.datetime) -> None:
        """Fix what the files will say: the practice as requests see it now."""
        spec, chart = self._practice.spec, self._practice.chart
        members = {str(item["entity"]["reference"]).rpartition("/")[2] for item in order.group.resource["member"]}
        told = []
        for kind in sorted(order.types):
            rows = [row for row in chart.rows(kind) if row.patient is None or row.patient in members]
            if order.since is not None:
                rows = [row for row in rows if row.stamp >= order.since]
            if kind in spec.bulk_errors:
                rows = rows[: len(rows) // 2]
                told.append(_issue("error", f"The export of {kind} is not complete"))
            lines = [row.body for row in rows]
            job.output.extend(self._split(kind, lines))
        if order.since is not None and spec.bulk_deleted:
            gone = [
                url
                for url, patient in chart.gone(order.types, order.since, now, self._practice.served_at)
                if patient is None or patient in members or is_member(patient, spec.group_share)
            ]
            job.deleted.extend(self._split("Bundle", list(_deletes(gone))))
        if spec.bulk_notes:
            told.append(_issue("warning", "An export was made"))
        job.error.extend(self._split("OperationOutcome", told))

    def _split(self, kind: str, lines: Sequence[bytes]) -> Iterator[_File]:
        size = self._practice.spec.bulk_file_rows
        for first in range(0, len(lines), size):
            yield _File(kind, lines[first : first + size])

    # --- polls and files

    def _poll(self, job: _Job, now: dt.datetime, base_url: str) -> Answer:
        spec = self._practice.spec
        before, job.asked = job.asked, now
        if before is not None and (now - before).total_seconds() < spec.bulk_poll_gap:
            return Answer(429, b"Too Many Requests", "text/plain", self._retry_after(now))
        if job.running(now):
            share = (now - job.began).total_seconds() / spec.bulk_seconds if job.ready is not None else 0.5
            progress = ("x-progress", f"in progress, {min(int(share * 100), 99)}%")
            return Answer(202, b"", headers=(progress, *self._retry_after(now)))
        if job.fails:
            return outcome(500, "exception", "The export failed")
        ends = (job.ready or now) + dt.timedelta(seconds=spec.bulk_expires)
        expires = (("expires", format_datetime(self._practice.served_at(ends).astimezone(dt.UTC), usegmt=True)),)
        headers = () if spec.mode == "ecw" else expires
        return Answer(200, orjson.dumps(self._manifest(job, base_url)), "application/json;charset=UTF-8", headers)

    def _manifest(self, job: _Job, base_url: str) -> dict[str, Any]:
        numbered = iter(range(len(job.files)))
        ecw = self._practice.spec.mode == "ecw"

        def listed(files: Iterable[_File]) -> list[dict[str, Any]]:
            found = []
            for file in files:
                entry: dict[str, Any] = {
                    "type": file.resource_type,
                    "url": f"{base_url}/{FILE}/{job.name}/{next(numbered)}.ndjson",
                }
                found.append(entry if ecw else {**entry, "count": len(file.lines)})
            return found

        manifest: dict[str, Any] = {
            "transactionTime": _moment(job.transaction_time, ecw=ecw),
            "request": job.request,
            "requiresAccessToken": True,
            "output": listed(job.output),
        }
        if self._practice.spec.bulk_deleted:
            manifest["deleted"] = listed(job.deleted)
        manifest["error"] = listed(job.error)
        return manifest

    def _file(self, request: Request, path: str) -> Answer:
        name, _, number = path.removesuffix(".ndjson").partition("/")
        job = self._jobs.get(name)
        if job is None or job.running(request.now) or not number.isdigit() or int(number) >= len(job.files):
            gone = self._practice.spec.mode == "open" and job is None
            return outcome(410 if gone else 404, "not-found", "The file is not known")
        file = job.files[int(number)]
        file.downloads += 1
        broken = self._practice.spec.bulk_gone_mid_file and file.downloads == 1
        stream = Stream(file.chunks, file.size, until=file.size // 2 if broken else None)
        return Answer(200, b"", "application/fhir+ndjson", stream=stream)

    def _retry_after(self, now: dt.datetime) -> tuple[tuple[str, str], ...]:
        spec = self._practice.spec
        if spec.bulk_retry_after == "none":
            return ()
        later = (self._practice.served_at(now) + dt.timedelta(seconds=spec.bulk_retry_seconds)).astimezone(dt.UTC)
        value = {
            "seconds": str(spec.bulk_retry_seconds),
            "date": format_datetime(later, usegmt=True),
            "nonsense": "soon, please",
        }
        return (("retry-after", value[spec.bulk_retry_after]),)


def is_member(patient: str, share: float) -> bool:
    """Whether a patient is one of the ``share`` that the practice put into its group; the same for ever."""
    return zlib.crc32(patient.encode()) % 10_000 < share * 10_000


def group(name: str, identifier: str, patients: Iterable[str]) -> dict[str, Any]:
    """A Group of patients as a practice's registry makes it."""
    members = [{"entity": {"reference": f"Patient/{patient}"}} for patient in patients]
    return {
        "resourceType": "Group",
        "id": name,
        "identifier": [{"system": "urn:ecw:registry", "value": identifier}],
        "active": True,
        "type": "person",
        "actual": True,
        "name": "All patients",
        "quantity": len(members),
        "member": members,
    }


def _query(pairs: Sequence[tuple[str, str]]) -> str:
    return "?" + "&".join(f"{name}={value}" for name, value in pairs) if pairs else ""


def _moment(when: dt.datetime, *, ecw: bool) -> str:
    """An instant as the mode's stamps are: eCW's know whole seconds only, by New York's clock."""
    if ecw:
        return when.astimezone(_EASTERN).replace(microsecond=0).isoformat(timespec="milliseconds")
    return when.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _issue(severity: str, diagnostics: str) -> bytes:
    issue = {"severity": severity, "code": "incomplete", "diagnostics": diagnostics}
    return orjson.dumps({"resourceType": "OperationOutcome", "issue": [issue]})


def _deletes(urls: Sequence[str]) -> Iterator[bytes]:
    for first in range(0, len(urls), _DELETES_A_BUNDLE):
        entries = [{"request": {"method": "DELETE", "url": url}} for url in urls[first : first + _DELETES_A_BUNDLE]]
        yield orjson.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries})
