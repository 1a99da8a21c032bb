"""What the random server makes of a search: which rows, which page of them, and what it refuses."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx

from poller.core import jsontext
from tests.acceptance.hypo.script import Everything, Filter, Paging, Ways
from tests.acceptance.hypo.truth import Key, Life, Truth, patient_of

Kept = dict[str, list[Key]]
"""Ids found by the first page of a search, for the pages after it."""

_DECLARED = {
    "Patient": {"_id", "name"},
    "Observation": {"_id", "patient", "category"},
    "Condition": {"_id", "patient"},
}


class Refused(Exception):  # noqa: N818 - it says what becomes of the search
    """The search is not answered."""

    def __init__(self, status: int, code: str = "processing") -> None:
        super().__init__(status)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Asked:
    """A request, read."""

    path: str
    resource_type: str
    id: str | None
    operation: str | None
    query: dict[str, str]

    @staticmethod
    def read(where: str) -> Asked:
        path, _, text = where.partition("?")
        segments = [*path.split("/"), None, None]
        pairs = (pair.partition("=") for pair in text.split("&") if pair)
        return Asked(path, segments[0] or "", segments[1], segments[2], {name: value for name, _, value in pairs})


@dataclass(frozen=True)
class Found:
    """One page of a search, as it should be."""

    rows: list[Life]
    all_rows: list[Life]
    start: int
    end: int
    total: int
    query: dict[str, str]
    """What the server took account of."""
    following: str | None = None
    paging: Paging = Paging.OFFSET
    token: str = ""
    lies: bool = False
    """Whether a total is told that is not so."""

    def position(self, at: int) -> str:
        """What a next link holds that is to go on from this row."""
        if self.paging is Paging.AFTER:
            return "/".join(self.all_rows[at - 1].key) if 0 < at <= len(self.all_rows) else ""
        return f"{self.token}{at}"


def search(truth: Truth, ways: Ways, filter_: Filter, kept: Kept, asked: Asked) -> Found:
    """The page that is asked for. Raises Refused."""
    is_operation = asked.operation is not None
    query = _everything(truth, ways, asked) if is_operation else _refuse(truth, ways, filter_, asked)
    rows = sorted((life for life in truth.lives.values() if _is_match(life, asked, query)), key=lambda life: life.key)
    if ways.newest_first and ways.paging is not Paging.AFTER:
        rows.sort(key=lambda life: life.stamp or dt.datetime.min.replace(tzinfo=dt.UTC), reverse=True)
    return _page(truth, ways, kept, asked, query, rows)


def _page(truth: Truth, ways: Ways, kept: Kept, asked: Asked, query: dict[str, str], rows: list[Life]) -> Found:
    page = asked.query.get("_page")
    start, token = 0, ""
    match ways.paging:
        case Paging.OFFSET:
            start = int(page) if page is not None else 0
        case Paging.AFTER if page is not None:
            after = tuple(page.split("/"))
            start = next((n for n, life in enumerate(rows) if life.key > after), len(rows))
        case Paging.KEPT:
            if page is None:
                token = f"{len(kept)}."
                kept[token] = [life.key for life in rows]
            else:
                token = page.partition(".")[0] + "."
                start = int(page.partition(".")[2])
            ids = kept[token]
            end = start + ways.page
            shown = [life for key in ids[start:end] if (life := truth.lives[key]).now is not None]
            every = [truth.lives[key] for key in ids]
            found = Found(shown, every, start, end, len(ids), query, None, ways.paging, token)
            return _going_on(found)
        case _:
            pass
    end = start + ways.page
    return _going_on(Found(rows[start:end], rows, start, end, len(rows), query, None, ways.paging))


def _going_on(found: Found) -> Found:
    """With a next link, if there is more."""
    more = found.end < len(found.all_rows)
    return replace(found, following=found.position(found.end)) if more else found


def _everything(truth: Truth, ways: Ways, asked: Asked) -> dict[str, str]:
    if ways.everything is Everything.OFF or asked.operation != "$everything" or asked.resource_type != "Patient":
        raise Refused(400, "not-supported")
    life = truth.lives.get(("Patient", asked.id or ""))
    if life is None or life.now is None:
        raise Refused(404 if life is None else ways.gone, "not-found")
    unknown = set(asked.query) - {"_since", "_type", "_page"}
    if unknown:
        raise Refused(400)
    ignored = {"_since"} if ways.everything is Everything.WHOLE else set()
    return {name: value for name, value in asked.query.items() if name not in ignored}


def _refuse(truth: Truth, ways: Ways, filter_: Filter, asked: Asked) -> dict[str, str]:
    """What of the query is taken account of. Raises Refused."""
    query = {name: value for name, value in asked.query.items() if name != "_page"}
    declared = _DECLARED.get(asked.resource_type)
    if declared is None:
        raise Refused(404, "not-supported")
    by = {"_id", "patient", "name"} & set(query)
    if set(query) - declared - {"_lastUpdated"}:
        raise Refused(400)
    if "_lastUpdated" in query:
        if filter_ is Filter.REFUSED or (filter_ is Filter.WITH_PATIENT and "patient" not in query):
            raise Refused(400)
        if filter_ in {Filter.IGNORED, Filter.ECHOED}:
            del query["_lastUpdated"]
    if not by and not ways.bare:
        raise Refused(400)
    patients = query.get("patient", "").split(",")
    if len(patients) > 1 and not ways.several:
        raise Refused(400)
    if "patient" in query and ways.gone_patient != httpx.codes.OK and not any(_is_there(truth, p) for p in patients):
        raise Refused(ways.gone_patient, "not-found")
    return query


def _is_there(truth: Truth, patient: str) -> bool:
    life = truth.lives.get(("Patient", patient))
    return life is not None and life.now is not None


def _is_match(life: Life, asked: Asked, query: Mapping[str, str]) -> bool:
    content = life.now
    if content is None:
        return False
    resource_type, id_ = life.key
    since = query.get("_lastUpdated", query.get("_since", "")).removeprefix("ge")
    if since and (life.stamp is None or life.stamp < dt.datetime.fromisoformat(since)):
        return False
    if asked.operation is not None:
        types = query.get("_type", "").split(",") if "_type" in query else None
        return asked.id in {patient_of(content), id_ if resource_type == "Patient" else None} and (
            types is None or resource_type in types
        )
    return resource_type == asked.resource_type and all(
        _has(content, id_, name, value) for name, value in query.items()
    )


def _has(content: Mapping[str, Any], id_: str, name: str, value: str) -> bool:
    match name:
        case "_id":
            return id_ in value.split(",")
        case "patient":
            return patient_of(content) in value.split(",")
        case "category":
            codes = {coding["code"] for concept in content["category"] for coding in concept["coding"]}
            return bool(codes & set(value.split(",")))
        case "name":
            return any(str(one["family"]).lower().startswith(value.lower()) for one in content["name"])
        case _:
            return True


def show(life: Life) -> dict[str, Any]:
    """A resource as the server writes it: its content, with what may change without a change of meaning."""
    assert life.now is not None
    stamp = (life.stamp or dt.datetime.min.replace(tzinfo=dt.UTC)).isoformat()
    body = {
        **life.now,
        "meta": {"lastUpdated": stamp, "versionId": str(life.edits)},
        "text": {"status": "generated", "div": f"<div>{life.edits}</div>"},
    }
    return dict(reversed(body.items())) if life.edits % 2 else body


def refusal(status: int, code: str = "processing", **headers: str) -> httpx.Response:
    """An OperationOutcome."""
    issue = {"severity": "error", "code": code, "diagnostics": "Jane Doe"}
    content = jsontext.dumps({"resourceType": "OperationOutcome", "issue": [issue]})
    return httpx.Response(status, content=content, headers=headers)
