"""What on-call is given says what is so: alerts, their tests, the runbook, and the dashboard, each held against the code and the others."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from poller import errors, metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RUNBOOK = (DEPLOY / "RUNBOOK.md").read_text("utf-8")
RULES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text("utf-8"))["groups"][0]["rules"]
TESTS = ("alerts_test.yaml", "alerts_days_test.yaml")
TRIED: list[dict[str, Any]] = [
    one for name in TESTS for one in yaml.safe_load((PROMETHEUS / name).read_text("utf-8"))["tests"]
]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/poller.json").read_text("utf-8"))


def shown() -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Every metric as Prometheus knows it: name, labels, and what it means."""
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            (family,) = metric.describe()
            name = f"{family.name}_total" if isinstance(metric, Counter) else family.name
            yield name, tuple(metric._labelnames), family.documentation


LABELS = {name: set(labels) for name, labels, _ in shown()}


def asked() -> list[str]:
    """Every expression of an alert or a panel."""
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [rule["expr"] for rule in RULES] + panels


def test_what_is_asked_for_is_shown_with_these_labels() -> None:
    assert len(asked()) > 30
    for expression in asked():
        names = re.findall(r"\bpoller_[a-z_]+", expression)
        assert names, expression
        known: set[str] = set()
        for name in names:
            plain = name.removesuffix("_bucket")
            assert plain in LABELS, expression
            known |= LABELS[plain] | ({"le"} if plain != name else set())
        matched = re.findall(r"([a-z_]+) ?(?:=~|!=|=)\"", expression)
        grouped = [word for group in re.findall(r"by \(([a-z, ]+)\)", expression) for word in group.split(", ")]
        assert {*matched, *grouped} <= known, expression


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    sections = re.findall(
        r"^## (\w+)\n\n\*\*Means\*\* .*?\n\*\*Look\*\* .*?\n\*\*Do\*\* ", RUNBOOK, re.MULTILINE | re.DOTALL
    )
    names = [rule["alert"] for rule in RULES]
    assert sections == names
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["runbook"] == f"deploy/RUNBOOK.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]


def test_every_alert_is_tried_both_ways() -> None:
    tried = {(check["alertname"], bool(check["exp_alerts"])) for one in TRIED for check in one["alert_rule_test"]}
    assert tried == {(rule["alert"], fires) for rule in RULES for fires in (True, False)}


@pytest.mark.parametrize("command", [["check", "rules", "alerts.yaml"], ["test", "rules", *TESTS]])
def test_prometheus_takes_the_alerts_and_they_fire_when_they_should(command: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool; Debian has it in the package prometheus")
    done = subprocess.run([promtool, *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_runbook_lists_every_metric() -> None:
    listed = re.findall(r"^\| `(poller_\w+)` \| (.*?) \| (.*) \|$", RUNBOOK, re.MULTILINE)
    assert listed == sorted((name, ", ".join(labels), means) for name, labels, means in shown())


def test_the_runbook_lists_every_exit_code() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d) \|", RUNBOOK, re.MULTILINE)}
    given = {
        one.exit_code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.PollerError)
    }
    assert listed == given | {0, errors.DEGRADED}


def test_the_runbook_has_a_row_for_every_error_code_with_what_to_do() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \| ([^|]+) \|$", RUNBOOK, re.MULTILINE)
    assert [code for code, _, _ in listed] == [code.value for code in errors.Code]
    assert all(means.endswith(".") and len(do) > 20 for _, means, do in listed)


def test_every_error_has_a_code_and_no_two_kinds_the_same() -> None:
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.PollerError)]
    assert len({one.code for one in kinds}) == len(kinds)


def test_every_error_code_is_given_somewhere() -> None:
    sources = "".join(path.read_text("utf-8") for path in (DEPLOY.parent / "poller").rglob("*.py"))
    assert [code.name for code in errors.Code if f"Code.{code.name}" not in sources] == []


def test_what_the_log_is_to_be_searched_for_is_logged() -> None:
    sources = "".join(path.read_text("utf-8") for path in (DEPLOY.parent / "poller").rglob("*.py"))
    named = set(re.findall(r"action=([a-z._-]+)", RUNBOOK))
    assert named
    assert all(f'"{action}"' in sources for action in named)


def test_panels_lie_beside_and_below_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
