from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.model import Coverage, Failure, FailureKind
from poller.core.pages import Page, Problem, Tally, is_usable_id, read_page, worst

BEGAN = dt.datetime(2026, 11, 22, 15, 0, tzinfo=dt.UTC)
ENDED = BEGAN + dt.timedelta(seconds=2)

Json = dict[str, Any]


def obs(name: object, **elements: object) -> Json:
    return {"resourceType": "Observation", "id": name, **elements}


def bundle(*entries: Any, following: str | None = None, **members: Any) -> Json:
    links = [{"relation": "self", "url": "http://h/fhir/Observation?x=1"}]
    if following:
        links.append({"relation": "next", "url": following})
    return {"resourceType": "Bundle", "type": "searchset", "link": links, "entry": list(entries), **members}


def rows(*names: str, **elements: object) -> list[Json]:
    return [{"resource": obs(name, **elements), "search": {"mode": "match"}} for name in names]


def read(body: object) -> Page:
    page = read_page(body, "Observation", BEGAN, ENDED)
    assert isinstance(page, Page)
    return page


def ids(page: Page) -> list[str]:
    return [showing.sighting.id for showing in page.showings]


def test_matches_become_sightings_with_the_times_of_their_request() -> None:
    page = read(bundle(*rows("a", "b"), total=2, following="http://h/fhir/Observation?page=2"))
    assert ids(page) == ["a", "b"]
    assert (page.total, page.next, page.self_link, page.problems) == (
        2, "http://h/fhir/Observation?page=2", "http://h/fhir/Observation?x=1", (),
    )  # fmt: skip
    assert (page.showings[0].sighting.began, page.showings[0].sighting.ended) == (BEGAN, ENDED)


def test_includes_and_good_outcomes_are_no_matches() -> None:
    included = {"resource": {"resourceType": "Provenance", "id": "p"}, "search": {"mode": "include"}}
    advice = {"resourceType": "OperationOutcome", "issue": [{"severity": "information", "code": "informational"}]}
    page = read(bundle(*rows("a"), included, {"resource": advice, "search": {"mode": "outcome"}}, {"resource": advice}))
    assert ids(page) == ["a"]
    assert not page.problems


SUBSETTED = {"tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}]}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"fullUrl": "x"}, Problem.NO_RESOURCE),
        ("?", Problem.NO_RESOURCE),
        ({"resource": {"resourceType": "Patient", "id": "p"}}, Problem.WRONG_TYPE),
        ({"resource": {"resourceType": "Provenance", "id": "p"}}, Problem.WRONG_TYPE),
        ({"resource": obs(None)}, Problem.NO_ID),
        ({"resource": obs("a/b")}, Problem.NO_ID),
        ({"resource": obs("a\x00")}, Problem.NO_ID),
        ({"resource": obs("a", meta=SUBSETTED)}, Problem.SUBSETTED),
        ({"resource": obs("a", note="\ud800")}, Problem.UNWRITABLE),
        (
            {"resource": {"resourceType": "OperationOutcome", "issue": [{"severity": "fatal", "code": "x"}]}},
            Problem.OUTCOME,
        ),
    ],
)
def test_what_cannot_be_read_makes_the_pass_incomplete_and_the_rest_is_kept(entry: Any, problem: Problem) -> None:
    page = read(bundle(*rows("a0"), entry))
    tally = Tally()
    assert [sighting.id for sighting in tally.add(page)] == ["a0"]
    assert page.problems == (problem,)
    if problem is Problem.OUTCOME:
        assert tally.problem is problem
        assert tally.coverage() is Coverage.INCOMPLETE
    else:
        assert tally.flaws == {problem: 1}
        assert tally.coverage() is Coverage.UNPROVEN, "evidence of no absence; and yet it ends, if it is so every time"
    assert problem.failure.detail == problem.value


@pytest.mark.parametrize(
    "body",
    [
        {"resourceType": "Observation", "id": "a"},
        {"resourceType": "Bundle", "type": "batch-response", "entry": []},
        {"resourceType": "Bundle", "type": "searchset", "entry": {}},
        {"resourceType": "Bundle", "type": "searchset", "link": "x"},
        {"resourceType": "Bundle", "type": "searchset", "link": [{"relation": "next", "url": 5}]},
        {"resourceType": "Bundle", "type": "searchset", "link": [{"relation": "next", "url": ""}]},
        [], None, "text",
    ],
)  # fmt: skip
def test_what_is_no_bundle_of_results_is_malformed(body: object) -> None:
    failure = read_page(body, "Observation", BEGAN, ENDED)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.MALFORMED


def coverage(*bundles: Json) -> Coverage:
    tally = Tally()
    for body in bundles:
        tally.add(read(body))
    return tally.coverage()


NEXT = "http://h/fhir/Observation?page=n"


@pytest.mark.parametrize(
    ("bundles", "expected"),
    [
        ([bundle()], Coverage.COMPLETE),
        ([bundle(*rows("a"))], Coverage.COMPLETE),
        ([bundle(*rows("a"), total=1)], Coverage.COMPLETE),
        ([bundle(*rows("a", "b"), total=1)], Coverage.COMPLETE),
        ([bundle(total=50)], Coverage.UNPROVEN),
        ([bundle(*rows("a"), total=3, following=NEXT), bundle(*rows("b"), total=3)], Coverage.UNPROVEN),
        ([bundle(*rows("a"), total=2, following=NEXT), bundle(*rows("b"), total=1)], Coverage.UNPROVEN),
        ([bundle(*rows("a"), following=NEXT)], Coverage.INCOMPLETE),
        ([], Coverage.INCOMPLETE),
        # a repeat says that rows moved; only a total that stands still and is met says that none moved out of sight
        ([bundle(*rows("a"), following=NEXT), bundle(*rows("a", "b"))], Coverage.UNPROVEN),
        ([bundle(*rows("a"), total=2, following=NEXT), bundle(*rows("a", "b"), total=2)], Coverage.COMPLETE),
        ([bundle(*rows("a"), total=3, following=NEXT), bundle(*rows("a", "b"), total=3)], Coverage.UNPROVEN),
        ([bundle(*rows("a"), total=1, following=NEXT), bundle(*rows("a", value=2), total=1)], Coverage.UNPROVEN),
        ([bundle(*rows("a"), *rows("a", value=2), total=1)], Coverage.UNPROVEN),
        ([bundle(*rows("a"), *rows("a"), total=1)], Coverage.COMPLETE),
    ],
)
def test_coverage(bundles: list[Json], expected: Coverage) -> None:
    assert coverage(*bundles) is expected


def test_of_two_rows_with_one_id_the_later_is_kept_and_an_equal_repeat_is_left_out() -> None:
    page = read(bundle(*rows("a"), *rows("b"), *rows("a", value=2)))
    assert [(s.sighting.id, s.sighting.resource.get("value")) for s in page.showings] == [("b", None), ("a", 2)]
    tally = Tally()
    tally.add(read(bundle(*rows("a", "b"), following=NEXT)))
    assert [s.id for s in tally.add(read(bundle(*rows("a"), *rows("b", value=3), *rows("c"))))] == ["b", "c"]


@given(
    names=st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, max_size=30),
    size=st.integers(1, 7),
    says_total=st.booleans(),
    lost=st.sets(st.integers(0, 29), max_size=3),
    end_early=st.booleans(),
)
def test_complete_is_said_only_where_nothing_is_lost_that_the_total_would_show(
    names: list[str], size: int, says_total: bool, lost: set[int], end_early: bool
) -> None:
    shown = [name for index, name in enumerate(names) if index not in lost]
    chunks = [shown[start : start + size] for start in range(0, len(shown), size)] or [[]]
    bodies = [
        bundle(
            *rows(*chunk),
            following=NEXT if number < len(chunks) - 1 or end_early else None,
            **({"total": len(names)} if says_total else {}),
        )
        for number, chunk in enumerate(chunks)
    ]
    found = coverage(*bodies)
    if end_early:
        assert found is Coverage.INCOMPLETE
    elif says_total and len(shown) < len(names):
        assert found is Coverage.UNPROVEN
    else:
        assert found is Coverage.COMPLETE


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["resourceType", "type", "entry", "link", "relation", "url", "resource", "search", "mode", "id", "meta", "tag"]), x
)))  # fmt: skip
def test_no_body_whatever_makes_reading_fail(body: object) -> None:
    whole = {"resourceType": "Bundle", "type": "searchset", "entry": [body], "link": [body]}
    for candidate in (body, whole, {**whole, "entry": [{"resource": body, "search": body}]}):
        result = read_page(candidate, "Observation", BEGAN, ENDED)
        assert isinstance(result, (Page, Failure))


@given(st.lists(st.sampled_from(Coverage)))
def test_several_searches_prove_what_the_worst_of_them_proves(found: list[Coverage]) -> None:
    order = [Coverage.COMPLETE, Coverage.UNPROVEN, Coverage.INCOMPLETE]
    assert worst(found) is max(found, key=order.index, default=Coverage.INCOMPLETE)


def test_ids_that_would_change_a_url_are_not_usable() -> None:
    assert is_usable_id("Zk.-9_x")
    assert not any(
        is_usable_id(name) for name in ("", "a/b", "a?b", "a#b", "a%2f", "a b", "a\n", "é", 5, None, "x" * 256)
    )
