"""The benchmark of the store runs, and its gates can be missed. What it says of 100,000 resources stands in the README."""

from __future__ import annotations

import copy
from typing import Any

from tests.benchmarks import diff


def test_it_measures_every_round_in_an_empty_database_and_among_many(postgres_server: str) -> None:
    report = diff.measure(postgres_server, count=300, rows=500, peer=None)
    for where in ("rounds", "among many"):
        found = {name: taken["events"] for name, taken in report[where].items()}
        assert found == {"first load": 300, "unchanged": 0, "1 % changed": 3, "all changed": 297}
    assert all(taken["seconds"] >= 0 < taken["peak MB"] for taken in report["rounds"].values())
    assert report["raw COPY"]["resources a second"] > 0


def test_it_measures_what_encryption_costs(postgres_server: str) -> None:
    report = diff.measure_encryption(postgres_server, count=1500)
    assert set(report["encrypted"]) == {*diff.ROUNDS, "in all"}
    assert all(taken["ratio"] > 0 for taken in report["encrypted"].values())


def test_a_gate_that_is_missed_is_told() -> None:
    taken = {"of raw COPY": 1.0, "seconds": 1.0}
    good: dict[str, Any] = {"rows": 9, "rounds": {}, "among many": {}}
    for name in diff.ROUNDS:
        good["rounds"][name], good["among many"][name] = dict(taken), dict(taken)
    assert diff.misses(good) == []
    for where, name, value in (
        ("rounds", "unchanged", {"of raw COPY": 5.1}),
        ("rounds", "all changed", {"of raw COPY": 12.1}),
        ("among many", "unchanged", {"seconds": 1.3}),
    ):
        bad = copy.deepcopy(good)
        bad[where][name] |= value
        [miss] = diff.misses(bad)
        assert miss.startswith(name)
