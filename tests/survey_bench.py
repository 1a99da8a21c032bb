"""A scripted server that has resources of a few patients, for surveys: what it says can be replaced, search by search."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import httpx

from poller.core.capability import TypeReport, to_json
from tests.source_bench import Server, ok, refusal

Reply = httpx.Response | None
Say = Callable[[str, dict[str, str]], Reply]
Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]

NAMED = "Condition?_lastUpdated=x"
SOME = [{"resourceType": "Condition", "id": "c1", "subject": {"reference": "Patient/p1"}}]


@dataclass
class Ehr:
    """Conditions and the like of a few patients, served as by a plain server that takes one patient at a time; and what is said instead."""

    held: dict[str, int] = field(default_factory=lambda: {"p1": 3, "p2": 2})
    """Patient → how many resources of any type it has."""
    instead: list[Say] = field(default_factory=list)
    """Asked first, in turn, with path and query; the first reply counts."""
    asked: list[str] = field(default_factory=list)

    def resources(self, kind: str, *patients: str, edition: int = 1) -> list[dict[str, Any]]:
        """What these patients have of a type."""
        if kind == "Patient":
            return [{"resourceType": kind, "id": name, "edition": edition} for name in patients if name in self.held]
        return [
            {
                "resourceType": kind,
                "id": f"{kind}-{patient}-{number}",
                "subject": {"reference": f"Patient/{patient}"},
                "category": [{"coding": [{"code": "laboratory"}]}],
                "meta": {"lastUpdated": "2026-11-01T00:00:00Z"},
                "edition": edition,
            }
            for patient in patients
            for number in range(self.held.get(patient, 0))
        ]

    def __call__(self, where: str, _request: httpx.Request) -> httpx.Response:
        self.asked.append(where)
        path, _, text = where.partition("?")
        query = dict(parse_qsl(text))
        for say in self.instead:
            if (reply := say(path, query)) is not None:
                return reply
        if set(query) == {"patient"} and "," not in query["patient"]:
            return page(where, self.resources(path, query["patient"]))
        if path == "Patient" and set(query) <= {"_id"} and "," not in query.get("_id", ","):
            return page(where, self.resources("Patient", query["_id"]))
        return refusal(400)


def page(where: str, resources: list[dict[str, Any]], **more: Any) -> httpx.Response:
    link = [{"relation": "self", "url": f"http://inside/fhir/r4/FAMLYMED/{where}"}]
    entries = [{"resource": one, "search": {"mode": "match"}} for one in resources]
    return ok({"resourceType": "Bundle", "type": "searchset", "link": link, "entry": entries, **more})


def when(path: str, reply: Callable[[str, dict[str, str]], Reply], **needs: str | None) -> Say:
    """Reply to this path where the query has these parameters (None: whatever the value)."""

    def say(asked: str, query: dict[str, str]) -> Reply:
        fits = all(name in query and value in {None, query[name]} for name, value in needs.items())
        return reply(asked, query) if asked == path and fits else None

    return say


def written(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{'&'.join(f'{name}={value}' for name, value in query.items())}"


def survey(ehr: Ehr, feed: str = "Condition", *, sample: tuple[str, ...] = ("p1", "p2"), **config: Any) -> TypeReport:
    """What is found of one feed; proves on the way that the report holds no id and nothing that the server said."""
    server = Server(ehr)
    report = server.survey(feed, sample=sample, feeds={feed: {}}, **config)
    for shown in (repr(report), str(to_json(report))):
        assert "Jane" not in shown
        assert not re.search(r"\bp[1-9]\b", shown)
    assert report.calls == len(server.asked)
    return report.types[feed]


def windows(future: httpx.Response, past: Reply = None, bare: Reply = None) -> Ehr:
    def whole(_path: str, query: dict[str, str]) -> Reply:
        stamp = query.get("_lastUpdated")
        if "patient" in query or set(query) - {"_lastUpdated"}:
            return None
        answer = bare if stamp is None else past if stamp.startswith("ge1970") else future
        assert answer is not None, "this was not to be asked"
        return answer

    return Ehr(instead=[when("Condition", whole)])


def with_everything(change: Change = lambda all_: all_, *, since: bool | str = False, kind: str = "Condition") -> Ehr:
    """``since``: whether ``_since`` is honoured; ``ignored``, ``unnamed`` and ``forgetful`` are ways of doing it badly."""
    ehr = Ehr()

    def record(path: str, query: dict[str, str]) -> Reply:
        match = re.fullmatch(r"Patient/(\w+)/\$everything", path)
        if match is None:
            return None
        if query and not since:
            return refusal(400)
        shown = [*change(ehr.resources(kind, match[1])), {"resourceType": "Location", "id": "l1"}]
        future = "_since" in query and not query["_since"].startswith("1970")
        if since != "ignored" and (future or (since == "forgetful" and query)):
            shown = []
        return page("" if since == "unnamed" else written(path, query), shown)

    ehr.instead.append(record)
    return ehr
