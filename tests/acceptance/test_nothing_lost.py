"""Guarantee 2, nothing lost: the poller is killed at random moments, its source errs, and a consumer still builds what is true.

The poller runs as a process and gets SIGKILL, whatever it is doing; it is started again until the simulator is quiet. Then a plain
consumer of the full-resource queue, which drops what the README says it must drop, holds what the simulator holds.

Shown to fail, and shown again at every run: two pollers broken on purpose (:mod:`tests.acceptance.broken`) are run and judged the same way.
One commits the snapshot and the events in two transactions, the other moves a sink's cursor before the broker has confirmed. Each is killed
once, between those two steps. Both lose events, and both verdicts say so.
"""

from __future__ import annotations

import datetime as dt
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from poller.simulator.judge import Rules, judge
from tests.acceptance.parts import Collector, Poller, Services, state_of, wait_until
from tests.acceptance.rig import ECW, OPEN, Rig, spec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FAULTS: dict[str, Any] = {
    "error_500": 0.02,
    "error_503": 0.02,
    "cut_json": 0.02,
    "cut_connection": 0.02,
    "html": 0.02,
    "slow": 0.05,
    "slow_seconds": 0.4,
    "duplicate": 0.1,
    "shift": 0.1,
    "total_lie": 0.02,
    "late": 0.1,
    "late_seconds": 1.0,
}


@dataclass
class Run:
    """What a run with kills came to."""

    verdict: dict[str, Any]
    truth: dict[str, dict[str, bytes]]
    built: dict[str, dict[str, bytes]]


def killed_run(
    rig: Rig,
    *,
    kills: int,
    variant: str | None = None,
    faults: dict[str, Any] | None = None,
    life: tuple[float, float] = (0.5, 4.5),
    round_seconds: float = 120,
) -> Run:
    """Run, kill, start again; then let the simulator be quiet and all come round."""
    chance = random.Random(rig.seed)  # noqa: S311 - a test
    now = rig.server.clock
    lives: list[tuple[dt.datetime, Poller]] = []
    with rig, rig.collector() as consumer:
        poller = rig.poller(variant)
        poller.wait_started()
        wait_until("a first event arrives", lambda: consumer.received, 120)
        if variant is not None:
            wait_until("there are baselines", rig.has_baselines, 120)  # what is lost of those is no change
        rig.world.set_faults(**(FAULTS if faults is None else faults))
        for _ in range(kills):
            if variant is None:
                time.sleep(chance.uniform(*life))  # the moment is what chance decides
            else:
                poller.wait_between_steps()
            poller.kill()
            gone = now()
            poller = rig.poller(variant)
            lives.append((gone, poller))
        poller.wait_started()
        if variant is None:
            delete_one_each(rig, consumer)
        rig.world.quiet()
        rig.world.clear_faults()
        time.sleep(0.0 if faults == {} else FAULTS["late_seconds"])  # until what was written late can be seen
        rig.come_round(lambda: len(consumer.received), round_seconds)
        assert poller.stop() == 0
        rules = Rules(by_schedule=False, outages=outages_of(lives), allow_duplicates=True)
        verdict = judge(rig.world.evidence(), consumer.received, rig.schedules(), rules)
        codes = [one.code for one in rig.specs]
        return Run(
            verdict,
            {code: rig.truth(code) for code in codes},
            {code: state_of(consumer.of(code)) for code in codes},
        )


def delete_one_each(rig: Rig, consumer: Collector) -> None:
    """Something that consumers know of, so that every run has a delete."""
    for one in rig.specs:
        found: list[str] = []

        def is_known(code: str = one.code, found: list[str] = found) -> bool:
            known = state_of(consumer.of(code)).keys() & rig.truth(code).keys()
            found[:] = sorted(subject for subject in known if subject.startswith("Observation/"))
            return bool(found)

        wait_until("consumers know of a result", is_known, 120)
        rig.world.delete(one.code, "Observation", found[0].partition("/")[2], rig.server.clock())


def outages_of(lives: list[tuple[dt.datetime, Poller]]) -> tuple[tuple[dt.datetime, dt.datetime], ...]:
    """From each kill until the next poller polled, or was killed before it did."""
    ends = [gone for gone, _ in lives[1:]] + [None]
    found = []
    for (gone, poller), end in zip(lives, ends, strict=True):
        line = poller.started()
        back = dt.datetime.fromisoformat(line["timestamp"]) if line is not None else end
        assert back is not None
        found.append((gone, back))
    return tuple(found)


def a_rig(home: Path, services: Services, seed: int, rate: float = 4.0) -> Rig:
    return Rig(home, services, [spec(ECW), spec(OPEN)], rate=rate, seed=seed)


def test_killed_at_random_moments_nothing_is_lost(services: Services, tmp_path: Path) -> None:
    run = killed_run(a_rig(tmp_path, services, seed=11), kills=5)
    assert run.verdict["ok"], run.verdict
    assert run.built == run.truth


def test_a_poller_that_loses_events_is_found_out(new_services: Callable[[], Services], tmp_path: Path) -> None:
    def broken(variant: str) -> Run:
        rig = a_rig(tmp_path / variant, services[variant], seed=5)
        return killed_run(rig, kills=1, variant=variant, faults={})

    services = {variant: new_services() for variant in ("split-commit", "hasty-cursor")}
    with ThreadPoolExecutor() as threads:
        runs = list(threads.map(broken, services))
    for run in runs:
        assert not run.verdict["ok"]
        assert any(" missed " in breach or " final state " in breach for breach in run.verdict["breaches"]), run.verdict
        assert run.built != run.truth


@pytest.mark.soak
@pytest.mark.parametrize("broker", ["rabbit", "embedded"])
def test_killed_for_minutes_nothing_is_lost(
    broker: str, request: pytest.FixtureRequest, new_services: Callable[[], Services], tmp_path: Path
) -> None:
    if broker == "rabbit":
        request.getfixturevalue("rabbit_url")
    rig = a_rig(tmp_path, new_services() if broker == "rabbit" else Services(), seed=23, rate=3.0)
    lock_outs = {"spurious_429": 0.001, "access_denied": 0.05, "skew_seconds": -2.5}
    run = killed_run(rig, kills=30, faults=FAULTS | lock_outs, life=(0.3, 9.0), round_seconds=150)
    assert run.verdict["ok"], run.verdict
    assert run.built == run.truth
