"""Fourteen types read practice-wide: the planner against a fixed five-minute schedule, in virtual time. Delays in seconds."""

from __future__ import annotations

import numpy as np

from poller.core.planner import Planner, Row
from tests.benchmarks.schedule_world import BACKGROUND, BEGAN, DAY, TYPES, ZONE, Floats

CALLS = 200.0
LATENCY = 0.8
FIXED = 300.0
WIDE = (*TYPES, "ServiceRequest", "CarePlan")


def practice_wide(seed: int, days: float) -> dict[str, dict[str, float] | float]:
    """Delays from a change to the answer that shows it; and the limit of that budget: targets / rate + latency."""
    rng = np.random.default_rng(seed)
    daily = np.append(BACKGROUND, [0.0008, 0.0003]) * 30_000 * 500  # many, so that the quantiles are sharp
    begin = BEGAN + 10 * 3600
    changes = [np.sort(begin + rng.random(rng.poisson(rate * days)) * days * DAY) for rate in daily]
    planner = Planner(zone=ZONE, calls_per_minute=CALLS, population=30_000, signal=True)
    planner.add([Row(name, (name,), None, last=begin - 5) for name in WIDE], begin)
    reads: dict[str, list[float]] = {name: [] for name in WIDE}
    under_way: list[tuple[float, float, str]] = []
    now, end = begin, begin + days * DAY
    while now < end:
        while under_way and under_way[0][0] <= now:
            _, began, key = under_way.pop(0)
            planner.note_pass(key, began, {})
        for choice in planner.choose(now, 1, [key for _, _, key in under_way]):
            reads[choice.key].append(now)
            under_way.append((now + LATENCY, now, choice.key))
        now += 60 / CALLS
    mine = [_delays(changed, np.array(reads[name])) for changed, name in zip(changes, WIDE, strict=True)]
    fixed = [_delays(changed, np.arange(begin + rng.random() * FIXED, end + FIXED, FIXED)) for changed in changes]
    return {
        "planner": _quantiles(np.concatenate(mine)),
        "every 5m": _quantiles(np.concatenate(fixed)),
        "limit": len(WIDE) * 60 / CALLS + LATENCY,
    }


def _delays(changed: Floats, reads: Floats) -> Floats:
    place = np.searchsorted(reads, changed)
    found = place < len(reads)
    return reads[place[found]] + LATENCY - changed[found]


def _quantiles(delay: Floats) -> dict[str, float]:
    p50, p95, p99 = np.quantile(delay, [0.5, 0.95, 0.99])
    return {"changes": len(delay), "mean": float(delay.mean()), "p50": float(p50), "p95": float(p95), "p99": float(p99)}
