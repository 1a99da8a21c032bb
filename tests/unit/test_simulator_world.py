from __future__ import annotations

import datetime as dt
import itertools
import re
from collections import Counter

import pytest

from poller.core import jsontext
from poller.simulator.alignment import content_of, states_of
from poller.simulator.faults import Fault, Faults
from poller.simulator.moves import erroneous
from poller.simulator.spec import CLINICAL_TYPES, PracticeSpec
from poller.simulator.truth import Call, import_truth, load_truth, max_calls_in_60s
from poller.simulator.world import World

START = dt.datetime(2026, 11, 22, 15, 0, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
ECW = PracticeSpec("AAAAAA", "ecw", patients=4, name_initials="ABCD", tempo=1e-5)
OPEN = PracticeSpec("BBBBBB", "open", patients=4, tempo=1e-5)


def lived(
    seconds: int = 60, rate: float = 4.0, *, seed: int = 1, specs: tuple[PracticeSpec, ...] = (ECW, OPEN)
) -> World:
    world = World(specs, seed=seed, now=START)
    world.begin(START, rate)
    for second in range(seconds + 1):
        world.advance(START + second * SECOND)
    return world


def test_the_same_seed_and_calls_make_the_same_world() -> None:
    first, second, other = lived(), lived(), lived(seed=2)
    assert first.export() == second.export()
    assert first.truth("BBBBBB").keys() != other.truth("BBBBBB").keys()


def test_life_goes_on_at_about_the_rate_asked_for() -> None:
    world = lived(120, 4.0)
    for code in ("AAAAAA", "BBBBBB"):
        versions = sum(version.changed_at > START for found in world.truth(code).values() for version in found)
        assert 0.6 * 480 < versions < 1.5 * 480


def test_results_come_after_their_visit_first_preliminary_then_final() -> None:
    world = lived(240, 4.0, specs=(PracticeSpec("CCCCCC", "open", patients=4, tempo=1e-5, max_per_patient=1000),))
    truth = world.truth("CCCCCC")
    seen = 0
    for (kind, _), versions in truth.items():
        statuses = [version.resource.get("status") for version in versions if version.resource is not None]
        if kind == "DiagnosticReport" and statuses[0] == "preliminary" and statuses[1:2] == ["final"]:
            seen += 1
            assert versions[0].resource is not None
            visit = versions[0].resource["encounter"]["reference"].removeprefix("Encounter/")
            assert versions[0].visible_from > truth["Encounter", visit][0].visible_from
    assert seen >= 3


def test_everything_happens_that_can_happen_to_a_record() -> None:
    world = lived(600, 4.0, specs=(PracticeSpec("CCCCCC", "open", patients=6, tempo=1e-5),))
    kinds: Counter[str] = Counter()
    for (kind, _), versions in world.truth("CCCCCC").items():
        states = states_of(versions)
        kinds["touched"] += len(states) < len(versions)
        kinds["deleted"] += any(version.resource is None for version in versions)
        kinds["restored"] += any(a.resource is None and b.resource for a, b in itertools.pairwise(versions))
        kinds["patient"] += kind == "Patient" and versions[0].changed_at > START
        kinds["error"] += any("entered-in-error" in str(version.resource) for version in versions)
        kinds["decimal"] += any(b".20" in (content_of(version.resource) or b"") for version in versions)
    assert all(kinds[name] for name in ("touched", "deleted", "restored", "patient", "error", "decimal")), kinds


def test_deletes_stay_within_their_share_so_that_a_careful_poller_need_not_hold_them() -> None:
    world = lived(900, 6.0)
    for code in ("AAAAAA", "BBBBBB"):
        deletes: Counter[str] = Counter()
        for (kind, _), versions in world.truth(code).items():
            deletes[kind] += sum(version.resource is None for version in versions)
        assert deletes["Observation"] >= 1
        assert all(deletes[kind] <= 3 or deletes[kind] <= 0.03 * len(world.written(code, kind)) + 1 for kind in deletes)


def test_ids_of_an_ecw_practice_are_long_and_opaque_and_names_begin_as_asked() -> None:
    world = lived(30)
    names = [name for (_, name) in world.truth("AAAAAA")]
    assert all(re.fullmatch(r"[A-Za-z0-9.-]{43,64}", name) for name in names)
    assert all("." in name and "-" in name for name in names)
    families = [resource["name"][0]["family"][0] for resource in world.written("AAAAAA", "Patient").values()]
    assert set(families) <= set("ABCD")


def test_stamps_are_each_modes_own() -> None:
    world = lived(30)
    for resource in world.written("AAAAAA", "Observation").values():
        assert re.fullmatch(r"2026-\d\d-\d\dT\d\d:\d\d:\d\d\.000-05:00", resource["meta"]["lastUpdated"])
        assert "versionId" not in resource["meta"]
    for resource in world.written("BBBBBB", "Observation").values():
        assert resource["meta"]["lastUpdated"].endswith("Z")
        assert int(resource["meta"]["versionId"]) >= 1


def test_an_edit_of_a_prescription_does_not_move_its_stamp_in_ecw() -> None:
    world = World([ECW], now=START)
    name, order = next(iter(world.written("AAAAAA", "MedicationRequest").items()))
    world.put("AAAAAA", {**order, "status": "stopped"}, START + 60 * SECOND)
    edited = world.written("AAAAAA", "MedicationRequest")[name]
    assert edited["meta"]["lastUpdated"] == order["meta"]["lastUpdated"]


def test_a_late_commit_carries_its_stamp_and_is_seen_later() -> None:
    world = World([OPEN], now=START)
    world.set_faults("BBBBBB", late=1, late_seconds=5)
    name, before = next(iter(world.written("BBBBBB", "Condition").items()))
    world.put("BBBBBB", {**before, "note": [{"text": "later"}]}, START + SECOND)
    chart = world.practices["BBBBBB"].chart
    row = chart.row("Condition", name)
    assert row is not None
    assert "note" not in row.resource
    world.advance(START + 6 * SECOND)
    row = chart.row("Condition", name)
    assert row is not None
    assert row.resource["meta"]["lastUpdated"] == "2026-11-22T15:00:01.000Z"
    first, second = world.truth("BBBBBB")["Condition", name]
    assert first.visible_until == second.visible_from == START + 6 * SECOND
    assert second.changed_at == START + SECOND


def test_a_late_commit_never_overtakes_the_next_one() -> None:
    world = World([OPEN], now=START)
    name, before = next(iter(world.written("BBBBBB", "Condition").items()))
    world.set_faults("BBBBBB", late=1, late_seconds=5)
    world.put("BBBBBB", {**before, "note": [{"text": "one"}]}, START + SECOND)
    world.set_faults("BBBBBB", late=0)
    world.put("BBBBBB", {**before, "note": [{"text": "two"}]}, START + 2 * SECOND)
    world.advance(START + 10 * SECOND)
    row = world.practices["BBBBBB"].chart.row("Condition", name)
    assert row is not None
    assert row.resource["note"][0]["text"] == "two"


def test_quiet_is_quiet() -> None:
    world = lived(20)
    world.quiet()
    before = world.export()
    world.advance(START + dt.timedelta(days=30))
    assert world.export() == before


def test_the_truth_survives_its_way_through_a_file_decimals_included() -> None:
    world = lived(20)
    world.practices["BBBBBB"].calls.append(Call(1.25, START, "/x", (("a", "b"),), "search"))
    read = load_truth(jsontext.dumps(world.export()))
    assert read == import_truth(world.export()) == world.evidence()


def test_only_the_types_asked_for_exist() -> None:
    types = ("Encounter", "Observation")
    world = lived(60, specs=(PracticeSpec("CCCCCC", "open", patients=3, types=types, tempo=1e-5),))
    assert {kind for kind, _ in world.truth("CCCCCC")} == {"Patient", "Practitioner", *types}
    assert {kind for kind, _ in lived(0).truth("BBBBBB")} >= set(CLINICAL_TYPES)


def test_each_type_is_entered_in_error_in_its_own_way() -> None:
    assert erroneous({"resourceType": "Observation", "status": "final"})["status"] == "entered-in-error"
    condition = erroneous({"resourceType": "Condition", "clinicalStatus": {}})
    assert condition["verificationStatus"]["coding"][0]["code"] == "entered-in-error"
    assert "clinicalStatus" not in condition


@pytest.mark.parametrize(
    ("arrivals", "most"),
    [([], 0), ([0.0], 1), ([0.0, 59.999], 2), ([0.0, 60.0], 1), ([0, 30, 59, 61, 89, 91], 4), ([5, 1, 3], 3)],
)
def test_calls_are_counted_over_any_alignment(arrivals: list[float], most: int) -> None:
    assert max_calls_in_60s(Call(at, START, "/", (), "other") for at in arrivals) == most


def test_faults_are_named_and_bounded() -> None:
    faults = Faults()
    with pytest.raises(ValueError, match="no such fault"):
        faults.set({"error_501": 1})
    with pytest.raises(ValueError, match="takes a number"):
        faults.set({"slow": "often"})
    faults.set({"html": 1, "first": 2, "types": ["Condition"]})
    rng = World([OPEN], now=START).practices["BBBBBB"].fault_rng
    assert faults.draw(rng, "search", "Patient") is None
    assert [faults.draw(rng, "search", "Condition") for _ in range(3)] == [Fault.HTML, Fault.HTML, None]
    faults.clear()
    assert faults == Faults()
