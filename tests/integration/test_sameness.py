"""Two ways of reading are interchangeable only if they show the same ids with the same content."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from poller.core.model import Strategy
from poller.source import sameness
from poller.source.sameness import Comparison, same_both_ways
from tests.source_bench import Server, refusal
from tests.survey_bench import Ehr, Reply, page, when, written

EVERYTHING, SWEEP, WINDOW, PATIENT, PATIENTS = (
    Strategy.EVERYTHING,
    Strategy.SWEEP,
    Strategy.WINDOW,
    Strategy.PATIENT,
    Strategy.PATIENTS,
)
Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def same(all_: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return all_


def compare(
    ehr: Ehr,
    a: Strategy,
    b: Strategy,
    *sample: str,
    feed: str = "Condition",
    noise: dict[str, tuple[str, ...]] | None = None,
    **config: Any,
) -> tuple[Comparison, int]:
    """The comparison and its calls."""

    async def main() -> Comparison:
        async with Server(ehr).source(feeds={feed: config}, noise=noise or {}) as source:
            return await same_both_ways(source, feed, a, b, sample or ("p1", "p2"))

    before = len(ehr.asked)
    found = asyncio.run(main())
    calls = len(ehr.asked) - before
    assert not any(patient in found.reason for patient in ehr.held)
    return found, calls


def serving(
    wide: Change = same, record: Change = same, group: Change = same, feed: str = "Condition", size: int = 1000
) -> Ehr:
    """A server that takes every way, with what each makes of the resources. Practice-wide pages have ``size`` rows."""
    ehr = Ehr()

    def whole(path: str, query: dict[str, str]) -> Reply:
        if set(query) - {"_lastUpdated", "page"}:
            return None
        rows = wide(ehr.resources(path, *ehr.held))
        number = int(query.pop("page", "1"))
        shown, rest = rows[(number - 1) * size : number * size], rows[number * size :]
        answer = page(written(path, query), shown)
        if rest:
            link = {"relation": "next", "url": f"http://inside/fhir/r4/FAMLYMED/{path}?page={number + 1}"}
            body = answer.json()
            answer = page("", shown, link=[*body["link"], link])
        return answer

    def several(path: str, query: dict[str, str]) -> Reply:
        patients = query["patient"].split(",")
        return page("", group(ehr.resources(path, *patients))) if len(patients) > 1 else None

    ehr.instead = [when(feed, whole), when(feed, several, patient=None)]
    for patient in ("p1", "p2", "p3"):
        ehr.instead.append(
            when(
                f"Patient/{patient}/$everything",
                lambda path, query: page(written(path, query), record(ehr.resources(feed, path.split("/")[1]))),
            )
        )
    return ehr


@pytest.mark.parametrize(
    ("a", "b", "compared", "calls"),
    [
        (PATIENT, EVERYTHING, 5, 4),
        (EVERYTHING, PATIENT, 5, 4),
        (PATIENT, PATIENTS, 5, 3),
        (PATIENT, SWEEP, 5, 3),
        (SWEEP, WINDOW, 5, 2),
        (EVERYTHING, WINDOW, 5, 3),
        (EVERYTHING, Strategy.EVERYTHING_WINDOW, 5, 4),
    ],
)
def test_ways_that_show_the_same_are_interchangeable(a: Strategy, b: Strategy, compared: int, calls: int) -> None:
    found, asked = compare(serving(), a, b)
    assert (found.equal, found.compared, asked) == (True, compared, calls)


def less(all_: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return all_[1:]


def cut(all_: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: one[key] for key in one if key != "edition"} for one in all_]


def more(all_: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*all_, {**all_[0], "id": "more"}]


def test_what_is_noise_by_the_configuration_is_no_difference() -> None:
    """A server that tags what it shows by one way only would else keep its feeds down for ever."""

    def tagged(all_: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one | {"meta": {"tag": [{"system": "urn:way", "code": "record"}]}} for one in all_]

    ehr = serving(record=tagged)
    assert compare(ehr, PATIENT, EVERYTHING)[0].equal is False
    assert compare(ehr, PATIENT, EVERYTHING, noise={"Condition": ("meta.tag",)})[0].equal is True
    assert compare(serving(record=cut), PATIENT, EVERYTHING, noise={"Condition": ("meta.tag",)})[0].equal is False


@pytest.mark.parametrize("change", [less, cut, more])
@pytest.mark.parametrize(
    ("a", "b"), [(PATIENT, EVERYTHING), (PATIENT, SWEEP), (PATIENT, PATIENTS), (EVERYTHING, SWEEP)]
)
def test_ways_that_omit_cut_or_add_are_not(a: Strategy, b: Strategy, change: Change) -> None:
    altered: dict[str, Any] = {{EVERYTHING: "record", SWEEP: "wide", PATIENTS: "group"}[b]: change}
    found, _ = compare(serving(**altered), a, b)
    assert found.equal is False
    assert "differ" in found.reason


def test_a_change_between_the_two_readings_is_no_difference() -> None:
    editions = iter([1, 2])

    def record(all_: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**one, "edition": 2} for one in all_]

    ehr = serving(record=record)
    ehr.held = {"p1": 3}
    ehr.instead.insert(
        0,
        when("Condition", lambda *_: page("", ehr.resources("Condition", "p1", edition=next(editions))), patient="p1"),
    )
    found, _ = compare(ehr, PATIENT, EVERYTHING, "p1")
    assert (found.equal, found.compared) == (True, 3)
    assert "second reading" in found.reason


def test_other_differences_at_each_reading_are_changes_too() -> None:
    gone = iter([0, 1])

    def record(all_: list[dict[str, Any]]) -> list[dict[str, Any]]:
        without = next(gone)
        return [one for number, one in enumerate(all_) if number != without]

    ehr = serving(record=record)
    assert compare(ehr, PATIENT, EVERYTHING, "p1")[0].equal is True


def test_nothing_is_said_where_nothing_can_be_compared() -> None:
    ehr = serving()
    ehr.held = {"p1": 0}
    assert compare(ehr, PATIENT, EVERYTHING, "p1")[0] == Comparison(None, 0, "there was nothing to compare")
    refused = serving()
    refused.instead.insert(0, when("Patient/p1/$everything", lambda *_: refusal(400)))
    found, _ = compare(refused, PATIENT, EVERYTHING)
    assert (found.equal, found.compared) == (None, 0)
    assert compare(Ehr(), PATIENT, SWEEP)[0].equal is None
    assert compare(serving(), PATIENT, EVERYTHING, "nobody")[0].equal is None


def test_of_a_large_practice_a_part_is_compared_by_the_patients_whom_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sameness, "SEEN", 3)
    ehr = serving(size=3)
    ehr.held = {"p1": 3, "p2": 2, "p3": 9}
    found, calls = compare(ehr, PATIENT, SWEEP, "p3")
    assert (found.equal, found.compared, calls) == (True, 3, 2), "the first page shows p1 alone"
    ehr = serving(wide=lambda all_: [{**all_[0], "edition": 7}, *all_[1:]], size=3)
    assert compare(ehr, PATIENT, SWEEP, "p2")[0].equal is False
    ehr = serving(wide=lambda all_: all_[1:], size=3)
    assert compare(ehr, PATIENT, SWEEP, "p2")[0].equal is True, "what is not on the first pages may be on others"


def labelled(category: str) -> Change:
    def change(all_: list[dict[str, Any]]) -> list[dict[str, Any]]:
        other = {**all_[0], "id": "other", "category": [{"coding": [{"code": category}]}]}
        return [*all_, other]

    return change


def test_a_category_that_is_not_asked_for_is_news_to_everything_and_not_to_a_sweep() -> None:
    def by_category(path: str, query: dict[str, str]) -> Reply:
        return page("", ehr.resources(path, query["patient"]))

    for category, of_sweep in (("exam", True), ("laboratory", False)):
        ehr = serving(labelled(category), labelled(category), feed="Observation")
        ehr.instead.insert(0, when("Observation", by_category, patient=None, category="laboratory"))
        config: dict[str, Any] = {"feed": "Observation", "categories": ("laboratory",)}
        assert compare(ehr, PATIENT, SWEEP, **config)[0].equal is of_sweep
        assert compare(ehr, PATIENT, EVERYTHING, **config)[0].equal is False


def test_patients_are_compared_by_their_ids() -> None:
    ehr = serving(feed="Patient")
    found, _ = compare(ehr, PATIENT, SWEEP, feed="Patient")
    assert (found.equal, found.compared) == (True, 2)
    ehr = serving(cut, feed="Patient")
    assert compare(ehr, PATIENT, SWEEP, feed="Patient")[0].equal is False
