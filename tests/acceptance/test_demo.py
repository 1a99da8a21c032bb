"""The demo shows what it promises, in time, and says so when it does not.

Shown to fail, and shown again at every run: a demo whose consumer loses every seventh event finds itself out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.acceptance.parts import ROOT

FIGURES = {
    "mode",
    "changes",
    "events",
    "missed",
    "false",
    "out_of_order",
    "duplicates",
    "deletes",
    "found_only_by_sweep",
    "max_calls_in_60s",
    "calls",
    "delay_seconds",
}
NOTHING = ("missed", "false", "out_of_order", "duplicates")


def start(*program: str, seconds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *program, "demo", "--seconds", str(seconds), "--json"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def verdict(demo: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, last line, and standard error."""
    output, errors = demo.communicate(timeout=250)
    return demo.returncode, json.loads(output.splitlines()[-1]), errors


def test_the_demo_keeps_its_promises_and_a_forgetful_one_finds_itself_out() -> None:
    honest, forgetful = start("poller", seconds=20), start("tests.acceptance.broken", "forgetful-consumer", seconds=8)
    code, found, errors = verdict(honest)
    assert code == 0, (found, errors)
    assert "Traceback" not in errors
    assert "UserWarning" not in errors
    assert set(found) == {"practices", "ok"}
    assert found["ok"] is True
    assert sorted(row["mode"] for row in found["practices"].values()) == ["ecw", "open"]
    for row in found["practices"].values():
        assert set(row) == FIGURES
        assert set(row["delay_seconds"]) == {"p50", "p95", "p99"}
        assert all(row[what] == 0 for what in NOTHING)
        assert row["changes"] >= 20
        assert row["deletes"] >= 1
        assert 0 < row["max_calls_in_60s"] <= 250
    code, found, errors = verdict(forgetful)
    assert code == 1
    assert found["ok"] is False
    assert any(" missed " in breach for breach in found["breaches"])
    assert "poller: " in errors
