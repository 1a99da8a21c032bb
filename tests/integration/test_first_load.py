"""The benchmark of first loads runs, and says what it is asked for. What it says of 200,000 resources stands in the README."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import first_load
from tests.benchmarks.big_server import Big

RESOURCES = 700


@pytest.mark.soak
def test_a_practice_is_loaded_whole(postgres_server: str) -> None:
    asked = ["--resources", str(RESOURCES), "--by", "search", "--json", "--store", postgres_server]
    done = subprocess.run(
        [sys.executable, str(Path(first_load.__file__)), *asked], check=False, stdout=subprocess.PIPE, timeout=90
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["passed"], list(report["ways"])) == (0, True, ["search"])
    found = report["ways"]["search"]
    assert (found["rows"], found["proven"]) == (RESOURCES, True)
    assert 0 < found["MB before"] < found["peak MB"] < first_load.MOST
    assert found["seconds"] > 0 < found["of raw COPY"]


def test_what_is_not_whole_or_takes_too_much_does_not_pass() -> None:
    big = Big(RESOURCES)
    good = {"peak MB": 299.9, "proven": True}
    assert first_load.passed(good, big, big.counts, RESOURCES)
    assert not first_load.passed(good | {"peak MB": 300.0}, big, big.counts, RESOURCES)
    assert not first_load.passed(good | {"proven": False}, big, big.counts, RESOURCES)
    assert not first_load.passed(good, big, big.counts | {"Patient": 6}, RESOURCES)
    assert not first_load.passed(good, big, big.counts, RESOURCES - 1)
