"""One behaviour that every way of reading a practice must show, in every mode that the simulator has.

A practice lives, fails in every way that it can, gets well again and falls quiet. Then the events must tell its truth, none of them false,
within the budget, and each feed must be on the rung that it belongs on. Virtual time; the engine, its store and the simulator are real.
"""

from __future__ import annotations

import dataclasses

import pytest

from poller.simulator import modes
from tests.contract.parts import broken
from tests.contract.parts.behaviour import Case, behaves, come_to, stays_honest
from tests.contract.parts.play import Bench, Scene
from tests.contract.parts.table import ALSO_FORCED, AUTO, FORCED, FOUND, SILENT, STRATEGIES, WORKS, and_in_soak, forced

pytestmark = pytest.mark.usefixtures("silent")


def test_the_table_has_every_mode() -> None:
    assert set(FOUND) == set(modes.MODES)


@pytest.mark.parametrize("case", AUTO, ids=str)
def test_the_right_way_is_found_and_loses_and_invents_nothing(stage: Bench, case: Case) -> None:
    behaves(stage, case)


@pytest.mark.parametrize("case", and_in_soak(FORCED, ALSO_FORCED), ids=str)
def test_every_way_loses_and_invents_nothing(stage: Bench, case: Case) -> None:
    behaves(stage, case)


SIX = {"patients": 6, "max_patients": 6}
FIRST_OF_GROUP = Scene("several", "patients", source=broken.FirstOfGroup, spec=SIX, config={"patients_per_call": 6})
LARGEST_STAMP = Scene("open", source=broken.LargestStamp)
HASTY = Scene("ecw", "patient", source=broken.Hasty)
SPENDTHRIFT = Scene("ecw", "patient", ledger=broken.Spendthrift, spec={"limit": 40})


@pytest.mark.parametrize(
    ("scene", "rung", "found"),
    [
        pytest.param(FIRST_OF_GROUP, "patients", r"lost=Counter\({'Observation'", id="first of a group only"),
        pytest.param(LARGEST_STAMP, "window", "is read by .*sweep", id="windows from the largest stamp"),
        pytest.param(HASTY, "patient", "false Observation", id="deletes without a confirming read"),
        pytest.param(SPENDTHRIFT, "patient", r"most_calls=([5-9]\d|\d{3})", id="no budget"),
    ],
)
def test_what_loses_or_invents_or_overspends_is_found_out(
    stage: Bench, monkeypatch: pytest.MonkeyPatch, scene: Scene, rung: str, found: str
) -> None:
    if scene is LARGEST_STAMP:
        monkeypatch.setattr("poller.cycle.next_cursor", broken.cursor_at_stamp)
    with pytest.raises(AssertionError, match=found):
        behaves(stage, Case(scene, dict.fromkeys(scene.feeds, rung), patience=120))


SEEDS = range(101, 104)
SPECS = {"withdrawn": {"last_updated_until": 60.0}}


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", [mode for mode in FOUND if mode != "not-activated"])
@pytest.mark.parametrize("strategy", ["auto", *STRATEGIES])
def test_every_strategy_in_every_mode_ill_from_the_beginning(stage: Bench, strategy: str, mode: str, seed: int) -> None:
    """Nothing is said of the rung: a server that is ill enough costs a feed its rung."""
    if strategy == "auto":
        case = next(case for case in AUTO if case.scene.mode == mode)
        case = Case(dataclasses.replace(case.scene, seed=seed), case.rungs)
    elif mode in WORKS[strategy]:
        case = forced(strategy, mode, seed)
    elif (strategy, mode) in SILENT:
        pytest.skip("what it leaves out cannot be known")
    else:
        stays_honest(stage, Scene(mode, strategy, seed, spec=SPECS.get(mode, {})))
        return
    outcome = come_to(stage, case, ill=True)
    assert outcome.is_true, outcome
    assert outcome.settled, outcome
