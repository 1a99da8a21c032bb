"""Whether a feed can be read at all, and why not: one refusal, or one sick answer, condemns nothing for good."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from poller.core.capability import Finding
from poller.core.model import Strategy
from poller.core.refusals import Why
from tests.source_bench import Server, html, ok, refusal
from tests.survey_bench import NAMED, SOME, Ehr, Reply, page, survey, when, windows, with_everything


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.core.faults.backoff", lambda _retry, _jitter: 0.0)


def refusing(reply: Callable[[], httpx.Response]) -> Ehr:
    return Ehr(instead=[lambda path, _query: reply() if path == "Condition" else None])


@pytest.mark.parametrize(
    ("reply", "why", "readable"),
    [
        (lambda: refusal(400), Why.REFUSED, False),
        (lambda: refusal(403), Why.NO_SCOPE, False),
        (lambda: refusal(404), Why.NOT_HERE, False),
        (lambda: refusal(501), Why.NOT_HERE, False),
        (lambda: httpx.Response(404, html="<h1>Jane</h1>"), Why.UNCLEAR, None),
        (lambda: httpx.Response(403, html="<h1>Jane</h1>"), Why.UNCLEAR, None),
        (lambda: refusal(503), Why.UNCLEAR, None),
        (html, Why.UNCLEAR, None),
        (lambda: httpx.Response(401), Why.UNCLEAR, None),
        (lambda: httpx.Response(302, headers={"Location": "https://elsewhere"}), Why.UNCLEAR, None),
        (lambda: ok([]), Why.UNCLEAR, None),
        (lambda: ok({"resourceType": "Patient", "id": "p1"}), Why.UNCLEAR, None),
    ],
)
def test_why_a_feed_cannot_be_read(reply: Callable[[], httpx.Response], why: Why, readable: bool | None) -> None:
    found = survey(refusing(reply))
    assert (found.why, found.readable, found.offers) == (why, readable, ())
    assert found.settled is (readable is False)
    assert len(found.reason) > 5


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_one_patient_who_is_refused_does_not_condemn_the_feed(status: int) -> None:
    ehr = Ehr(instead=[when("Condition", lambda *_: refusal(status), patient="p1")])
    found = survey(ehr)
    assert (found.readable, found.offers) == (True, (Strategy.PATIENT,))


def test_a_category_that_is_refused_is_told_and_spoils_no_proof() -> None:
    ehr = with_everything(kind="Observation")

    def by_category(path: str, query: dict[str, str]) -> Reply:
        if "," in query["patient"] or "_lastUpdated" in query:
            return None
        shown = {"laboratory": page("", ehr.resources(path, query["patient"])), "sdoh": refusal(400)}
        return shown[query["category"]]

    ehr.instead.append(when("Observation", by_category, patient=None, category=None))
    server = Server(ehr)
    report = server.survey("Observation", feeds={"Observation": {"categories": ("laboratory", "sdoh")}})
    found = report.types["Observation"]
    assert found.offers == (Strategy.EVERYTHING, Strategy.PATIENT)
    assert found.evidence["refused categories"] == {"names": ["sdoh"]}
    assert found.advice == "refused categories: sdoh"


def test_the_first_category_that_is_answered_makes_a_feed_readable() -> None:
    ehr = Ehr()

    def by_category(path: str, query: dict[str, str]) -> Reply:
        return page("", ehr.resources(path, query["patient"])) if query["category"] == "exam" else refusal(400)

    ehr.instead.append(when("Observation", by_category, patient=None, category=None))
    report = Server(ehr).survey("Observation", feeds={"Observation": {"categories": ("odd", "exam")}})
    assert report.types["Observation"].offers == (Strategy.PATIENT,)


def test_an_answer_that_says_itself_that_it_is_not_whole_is_unclear() -> None:
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing"}]}
    found = survey(windows(page(NAMED, []), bare=page("", [*SOME, outcome])))
    assert (found.whole, found.offers, found.settled) == (Finding.UNCLEAR, (Strategy.PATIENT,), False)


@pytest.mark.parametrize("status", [403, 404])
def test_what_is_refused_alike_with_a_patient_and_without_is_not_asked_again(status: int) -> None:
    ehr = refusing(lambda: refusal(status))
    survey(ehr)
    assert sum(where.startswith("Condition") for where in ehr.asked) == 2


def test_without_any_patient_little_is_asked_and_the_question_stays_open() -> None:
    found = survey(Ehr(held={}), sample=())
    assert (found.why, found.readable, found.offers) == (Why.NO_PATIENT, None, (Strategy.PATIENT,))
    assert not found.settled


def test_patients_are_looked_for_by_a_few_names() -> None:
    ehr = Ehr()
    ehr.instead.append(when("Patient", lambda *_: page("", ehr.resources("Patient", "p1")), name="c"))
    ehr.instead.append(when("Patient", lambda *_: page("", []), name=None))
    server = Server(ehr)
    report = server.survey("Condition", sample=(), feeds={"Condition": {}}, patients={"names": tuple("abcdefg")})
    assert report.types["Condition"].readable
    assert report.patients == 1
    assert sum("name=" in where for where in ehr.asked) <= 4


def test_patients_whom_the_first_page_of_all_shows_serve_where_the_known_ones_have_nothing() -> None:
    ehr = with_everything()
    ehr.held = {"p1": 0, "p5": 2}
    ehr.instead.append(
        lambda path, query: page(path, ehr.resources(path, "p5")) if path == "Condition" and not query else None
    )
    assert survey(ehr, sample=("p1",)).everything is Finding.YES


def test_a_practitioners_day_that_shows_other_days_is_no_filter() -> None:
    def visit(name: str, day: str) -> dict[str, Any]:
        return {
            "resourceType": "Encounter",
            "id": name,
            "subject": {"reference": "Patient/p1"},
            "period": {"start": f"{day}T09:00:00-05:00"},
            "participant": [{}, {"individual": {"reference": "http://x/Practitioner/doc.1"}}],
        }

    def found(*shown: dict[str, Any]) -> Finding:
        ehr = Ehr()
        mine = visit("e1", "2026-11-20")
        ehr.instead.append(when("Encounter", lambda *_: page("", [mine]), patient="p1"))
        ehr.instead.append(
            when("Encounter", lambda *_: page("", list(shown)), practitioner="Practitioner/doc.1", date=None)
        )
        return survey(ehr, "Encounter").day_windows

    assert found(visit("e1", "2026-11-20"), visit("e2", "2026-11-20")) is Finding.YES
    assert found(visit("e1", "2026-11-20"), visit("e2", "2026-10-20")) is Finding.IGNORED
    assert found() is Finding.DIFFERS


def test_a_server_that_describes_itself_in_nonsense_is_surveyed_all_the_same() -> None:
    nonsense: list[Any] = [
        [],
        {"resourceType": "CapabilityStatement", "rest": [{"resource": [7, {"type": ["x"], "searchParam": 3}]}, "odd"]},
        {
            "resourceType": "CapabilityStatement",
            "rest": {},
            "software": {"name": "a\nb", "version": 7},
            "fhirVersion": {},
        },
        {"resourceType": "Patient"},
    ]
    for said in nonsense:
        say = functools.partial(lambda said, *_: ok(said), said)
        ehr = Ehr(instead=[when("metadata", say), when(".well-known/smart-configuration", say)])
        assert survey(ehr).offers == (Strategy.PATIENT,)


def test_what_a_statement_says_of_export_is_told_and_no_job_is_started() -> None:
    group = {"type": "Group", "operation": [{"name": "group-export"}]}
    rest = {"resource": [group], "operation": [{"name": "export"}]}
    statement = {"resourceType": "CapabilityStatement", "rest": [rest]}
    ehr = Ehr(instead=[when("metadata", lambda *_: ok(statement))])
    server = Server(ehr)
    assert server.survey("Condition", feeds={"Condition": {}}).export.declared == ("system", "Group")
    assert not [where for where in server.asked if "$export" in where]
    assert {request.method for request in server.requests} == {"GET"}


def test_a_plain_server_costs_few_calls() -> None:
    feeds = ("Condition", "Procedure", "Goal", "Immunization")
    report = Server(Ehr()).survey(*feeds, feeds={feed: {} for feed in feeds})
    assert report.calls <= 4 + 5 * len(feeds)
