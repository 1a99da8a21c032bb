"""What the simulator remembers of a run: every version as it truly was, and every call as it arrived.

Plain values with a JSON form, so that a run can be judged in another process than the one it happened in.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from poller.core import jsontext

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Key = tuple[str, str]
"""Resource type and logical id."""

CallKind = Literal["token", "search", "read", "metadata", "bulk", "file", "other"]
"""``bulk`` is all of an export but its files."""

_MINUTE = 60.0


@dataclass(slots=True)
class TrueVersion:
    """One state of a resource, or its absence after a delete."""

    resource: Mapping[str, Any] | None
    """As served; None for a tombstone."""
    changed_at: dt.datetime
    """When the practice made the change, which is what its stamp claims (the server's clock may be skewed beside it)."""
    visible_from: dt.datetime
    """From when on requests saw it: later than ``changed_at`` for a late commit."""
    visible_until: dt.datetime | None = None
    """When the next version replaced it; None while it is current."""


@dataclass(frozen=True, slots=True)
class SearchScope:
    """What a search asked for, without its paging."""

    resource_type: str
    patient: str | None = None
    category: str | None = None
    windowed: bool = False
    """Whether ``_lastUpdated`` narrowed it, so that it is no complete pass."""
    narrowed: str = ""
    """Other parameters that narrowed it, as in ``name=a``; empty for none."""
    patients: tuple[str, ...] = ()
    """Of a search for several patients: those that were answered. Its rows are named ``patient/id``."""
    types: tuple[str, ...] = ()
    """Of a patient's ``$everything``: the types that were answered. Its rows are named ``Type/id``."""


@dataclass(slots=True)
class Call:
    """One request as it arrived; the answer's members are filled in when it has been given."""

    arrived: float
    """Seconds of the monotonic clock."""
    arrived_at: dt.datetime
    path: str
    query: tuple[tuple[str, str], ...]
    kind: CallKind
    status: int = 0
    """0 until answered, and for a connection that was cut."""
    finished: float | None = None
    finished_at: dt.datetime | None = None
    scope: SearchScope | None = None
    """For a search that was answered with a page."""
    read: int = 0
    """Number of the reading that this page belongs to."""
    page: int = 0
    """1 for the first."""
    last: bool = False
    """Whether no page follows."""
    intact: bool = True
    """False where a fault spoilt the answer, or made it skip a row."""
    rows: tuple[str, ...] = ()
    """Logical ids on the page, with what :class:`SearchScope` says before them."""
    surveying: bool = False
    """Whether the caller said that it only finds out what is allowed: its reading is no pass of a schedule."""


@dataclass(frozen=True, slots=True)
class PracticeTruth:
    """All that judging one practice needs."""

    mode: str
    limit: int
    versions: Mapping[Key, Sequence[TrueVersion]]
    calls: Sequence[Call]


def max_calls_in_60s(calls: Iterable[Call]) -> int:
    """The most calls that arrived within any 60 seconds, however aligned (half open: a call exactly 60 s later is outside)."""
    arrivals = sorted(call.arrived for call in calls)
    most = first = 0
    for index, arrival in enumerate(arrivals):
        while arrival - arrivals[first] >= _MINUTE:
            first += 1
        most = max(most, index - first + 1)
    return most


def _when(text: str | None) -> dt.datetime | None:
    return dt.datetime.fromisoformat(text) if text else None


def _instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def _export_call(call: Call) -> dict[str, Any]:
    scope = call.scope
    return {
        "arrived": str(call.arrived),
        "arrived_at": call.arrived_at.isoformat(),
        "path": call.path,
        "query": [list(pair) for pair in call.query],
        "kind": call.kind,
        "status": call.status,
        "finished": None if call.finished is None else str(call.finished),
        "finished_at": call.finished_at.isoformat() if call.finished_at else None,
        "scope": None if scope is None else list(dataclasses.astuple(scope)),
        "read": call.read,
        "page": call.page,
        "last": call.last,
        "intact": call.intact,
        "rows": list(call.rows),
        "surveying": call.surveying,
    }


def _import_scope(row: Sequence[Any]) -> SearchScope:
    kind, patient, category, windowed, narrowed, patients, types = row
    return SearchScope(kind, patient, category, windowed, narrowed, tuple(patients), tuple(types))


def _import_call(row: Mapping[str, Any]) -> Call:
    return Call(
        arrived=float(row["arrived"]),
        arrived_at=_instant(row["arrived_at"]),
        path=row["path"],
        query=tuple((name, value) for name, value in row["query"]),
        kind=row["kind"],
        status=row["status"],
        finished=None if row["finished"] is None else float(row["finished"]),
        finished_at=_when(row["finished_at"]),
        scope=None if row["scope"] is None else _import_scope(row["scope"]),
        read=row["read"],
        page=row["page"],
        last=row["last"],
        intact=row["intact"],
        rows=tuple(row["rows"]),
        surveying=row.get("surveying", False),
    )


def _export_version(version: TrueVersion) -> dict[str, Any]:
    return {
        "resource": version.resource,
        "changed_at": version.changed_at.isoformat(),
        "visible_from": version.visible_from.isoformat(),
        "visible_until": version.visible_until.isoformat() if version.visible_until else None,
    }


def _import_version(row: Mapping[str, Any]) -> TrueVersion:
    return TrueVersion(
        row["resource"], _instant(row["changed_at"]), _instant(row["visible_from"]), _when(row["visible_until"])
    )


def export_truth(practices: Mapping[str, PracticeTruth]) -> dict[str, Any]:
    """A JSON object (write it with :func:`jsontext.dumps`, which keeps decimals); :func:`import_truth` is the inverse."""
    return {
        "practices": {
            code: {
                "mode": truth.mode,
                "limit": truth.limit,
                "resources": [
                    {"type": kind, "id": name, "versions": [_export_version(version) for version in versions]}
                    for (kind, name), versions in truth.versions.items()
                ],
                "calls": [_export_call(call) for call in truth.calls],
            }
            for code, truth in practices.items()
        }
    }


def import_truth(exported: Mapping[str, Any]) -> dict[str, PracticeTruth]:
    """Read back what :func:`export_truth` wrote, parsed with :func:`jsontext.loads`."""
    return {
        code: PracticeTruth(
            mode=row["mode"],
            limit=row["limit"],
            versions={
                (entry["type"], entry["id"]): [_import_version(version) for version in entry["versions"]]
                for entry in row["resources"]
            },
            calls=[_import_call(call) for call in row["calls"]],
        )
        for code, row in exported["practices"].items()
    }


def load_truth(text: bytes) -> dict[str, PracticeTruth]:
    """The truth from the bytes of ``GET /_truth`` or of a file. Raises ValueError when they are not JSON."""
    return import_truth(jsontext.loads(text))
