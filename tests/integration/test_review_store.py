"""What the store does at sizes and with content that no ordinary test has."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from poller.core.model import Kind, Target
from poller.store.engine import ensure_partitions, sql

if TYPE_CHECKING:
    from tests.integration.conftest import Practice


@pytest.mark.parametrize("name", ["note_missing", "note_missing_members"])
def test_the_end_of_a_sweep_never_compares_each_id_with_all_others(practice: Practice, name: str) -> None:
    """200,000 resources are one busy practice. Broken on purpose: with ``NOT IN`` it takes minutes, with every writer waiting."""
    seen = [f"o{n}" for n in range(200_000)]
    binds = {"practice": "p1", "resource_type": "Observation", "target": "t", "seen": seen}
    binds |= {"types": ["Observation"], "seen_types": ["Observation"] * len(seen)}
    with practice.engine.begin() as connection:
        explained = connection.execute(
            text(f"EXPLAIN (FORMAT JSON) {sql(name).text}"), binds | {"began": practice.at(0), "now": practice.at(0)}
        ).scalar_one()
    plan = json.dumps(explained)
    assert "NOT (SubPlan" not in plan
    assert "o199999" not in plan, "no filter over all that was seen"
    assert "SetOp" in plan, "one pass over each side"


def test_a_reference_of_any_length_holds_up_nothing(practice: Practice) -> None:
    """An index takes no more than 2,700 bytes: what is no id is not taken for a patient's."""
    nonsense = random.Random(1).randbytes(5_000).hex()  # noqa: S311 - only to be incompressible
    odd: list[dict[str, Any]] = [
        practice.observation("o1", subject={"reference": f"Patient/{nonsense}"}),
        practice.observation("o2", subject={"reference": "Patient/a"}),
    ]
    practice.whole(*odd)
    keys = practice.rows("SELECT id, partition_key FROM poller.snapshot ORDER BY id")
    assert keys == [("o1", "Observation/o1"), ("o2", "Patient/a")]


def test_partitions_do_not_wait_behind_a_backup(practice: Practice) -> None:
    """Else every writer would wait behind them. Broken on purpose: without the lock timeout this hangs until the reader ends."""
    with practice.engine.connect() as backup, practice.engine.connect() as writing:
        backup.execute(text("SELECT FROM poller.event LIMIT 1"))
        with pytest.raises(OperationalError):
            ensure_partitions(writing, practice.at(40 * 86_400))
        writing.rollback()
        backup.rollback()
        ensure_partitions(writing, practice.at(40 * 86_400))


def test_targets_of_another_strategy_are_live_once_the_one_before_has_read_the_whole(practice: Practice) -> None:
    sweep, window = Target("p1", "Condition", Kind.SWEEP), Target("p1", "Condition", Kind.WINDOW)
    of = [Target("p1", "Condition", Kind.PATIENT, patient=name) for name in ("a", "b")]

    def live() -> dict[str, bool]:
        found = practice.state.targets("p1", ())
        return {s.target.patient or s.target.kind: s.live for s in found if s.target.resource_type == "Condition"}

    practice.register(*of)
    practice.whole(target=of[0])
    practice.register(sweep, window)
    assert not live()["sweep"], "one patient was never read"
    practice.register(*of)
    practice.whole(target=of[1])
    practice.register(sweep, window)
    assert live()["sweep"]
    practice.whole(target=sweep)
    practice.register(*of, Target("p1", "Condition", Kind.PATIENT, patient="c"))
    assert live() == {"a": True, "b": True, "c": True}
