"""How late changes are found, policy by policy, on one budget: the planner that ships against its controls, in virtual time.

``python tests/benchmarks/schedule.py [--patients 30000] [--seeds 1] [--json]``. Thirty thousand patients of twelve types at 250 calls a
minute (fewer patients have as many fewer calls: delays hardly depend on the size), new patients among them, three weeks in which the
planner learns and ten days that are scored. A change that has not been found at the end counts as found then. Delays are of the changes
that are not Encounters, in minutes, by type and by what they came of; visits can be seen from ten minutes before they begin, never earlier.

``--arms`` chooses among the policies, ``--world clinic`` takes the world that breaks the planner's assumptions (``schedule_world``),
``--stress`` adds arms in which something goes wrong, ``--wide`` alone reads fourteen types practice-wide at 200 calls a minute. ``--quick``
is small and short, for a smoke test: its figures mean nothing. Exit code 1 if a gate is missed by the median of the seeds: ``GATES``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script, this file has only its own directory to import from

from tests.benchmarks import schedule_arms as arms
from tests.benchmarks.schedule_arms import Outcome, Settings
from tests.benchmarks.schedule_bound import Bound
from tests.benchmarks.schedule_wide import practice_wide
from tests.benchmarks.schedule_world import BEGAN, DAY, ENCOUNTER, TYPES, World, make

CALLS = 250.0
PATIENTS = 30_000
LEARNS, SCORED = 21.0, 10.0
LIMIT = 72 * 3600.0

Arm = Callable[[World, float, int, float], Outcome]


def planned(name: str, **settings: Any) -> Arm:
    """An arm in which the planner chooses."""
    more = settings.pop("times", 1.0)

    def arm(world: World, calls: float, seed: int, warm: float) -> Outcome:
        return arms.ours(world, Settings(name, calls * more, **settings), seed, warm)

    return arm


ARMS: Mapping[str, tuple[str, Arm]] = {
    "uniform": ("uniform sweep, no signal", arms.uniform),
    "proportional": ("proportional to known rates", arms.proportional),
    "root": ("√ rule with known rates", arms.square_root),
    "tiers": ("tiers 10 min / 4 h / 24 h, signal", arms.tiers),
    "none": ("planner, learned, no signal", planned("none", signal=False)),
    "prior": ("planner, priors only, signal", planned("prior", learn=False)),
    "signal": ("planner, learned, signal", planned("signal")),
    "limit": ("the same, max_staleness 72 h", planned("limit", limit=LIMIT)),
    "types": ("planner, rates of types known, signal", planned("types", known=True, patients_known=False)),
    "known": ("planner, each patient's rates known, signal", planned("known", known=True)),
    "four": ("planner, learned, signal, B = 1000", planned("four", times=4.0)),
}
USUAL = ("uniform", "proportional", "root", "tiers", "none", "prior", "signal", "limit", "types", "known", "four")

STRESS: Mapping[str, tuple[str, Arm, str]] = {
    "lost": ("signal lost for days 3 to 5", planned("lost", signal_lost=(LEARNS + 3, LEARNS + 5)), ""),
    "rewritten": ("5,000 rows rewritten at once on day 3", planned("rewritten"), "rewritten"),
    "shift": ("rates that shift on day 0", planned("shift"), "shift"),
    "skew": ("visits' times an hour late", planned("skew", skew=3600.0), ""),
    "storm": (
        "a tenth of the calls for 12 h on day 3",
        planned("storm", limit=LIMIT, storms=((LEARNS + 3, LEARNS + 3.5, 0.1),)),
        "",
    ),
}

GATES: Mapping[str, tuple[str, float]] = {
    "signal / bound": ("at most", 1.3),
    "signal / types": ("at most", 1.15),
    "signal / known": ("at most", 1.15),
    "uniform / signal": ("at least", 5.0),
    "uniform / none": ("at least", 2.8),
    "max_staleness broken": ("at most", 0.0),
    "wide p95 / limit": ("at most", 1.2),
}


def delays(world: World, outcome: Outcome, warm: float) -> dict[str, Any]:
    """Delays in minutes of what changed after ``warm`` days and is no Encounter."""
    end = BEGAN + world.days * DAY
    kind = world.row % len(TYPES)
    scored = (world.time >= BEGAN + warm * DAY) & (kind != ENCOUNTER)
    delay = (np.minimum(outcome.found, end) - world.time) / 60
    return {
        **_quantiles(delay[scored]),
        "visit": _quantiles(delay[scored & world.of_visit]),
        "background": _quantiles(delay[scored & ~world.of_visit]),
        "types": {
            name: _quantiles(delay[scored & (kind == number)])
            for number, name in enumerate(TYPES)
            if number != ENCOUNTER
        },
        "undetected": int((outcome.found[scored] > end).sum()),
        "longest_hours": outcome.longest / 3600,
        "calls": {name: round(count) for name, count in outcome.calls.items()},
        "broken": outcome.broken,
        "us_per_call": outcome.cpu / max(sum(outcome.calls.values()), 1) * 1e6 if outcome.cpu else None,
    }


def _quantiles(delay: Any) -> dict[str, float]:
    if not len(delay):
        return {"changes": 0, "mean": 0.0, "p50": 0.0, "p95": 0.0, "p99": 0.0}
    p50, p95, p99 = np.quantile(delay, [0.5, 0.95, 0.99])
    return {"changes": len(delay), "mean": float(delay.mean()), "p50": float(p50), "p95": float(p95), "p99": float(p99)}


def run(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """All arms on one seed."""
    warm, days = (2.0, 3.0) if options.quick else (LEARNS, LEARNS + SCORED)
    calls = options.calls * options.patients / PATIENTS
    chosen = options.arms.split(",") if options.arms else () if options.wide else USUAL
    world = make(options.world, seed, days, options.patients)
    found: dict[str, Any] = {}
    for name in chosen:
        if name in ARMS:
            found[name] = delays(world, ARMS[name][1](world, calls, seed, warm), warm)
            _say(options, seed, ARMS[name][0], found[name])
    if "bound" in chosen or chosen is USUAL:
        # of the whole run: every row begins freshly read, which would be worth much over the few days that are scored
        found["bound"] = {"mean": Bound(world, BEGAN, BEGAN + days * DAY, seed).mean(calls) / 60}
        _say(options, seed, "no policy can be below", found["bound"])
    for name in STRESS if options.stress else ():
        text, arm, other = STRESS[name]
        stressed = make(options.world, seed, days, options.patients, **_world_of(other, warm)) if other else world
        found[name] = delays(stressed, arm(stressed, calls, seed, warm), warm)
        _say(options, seed, text, found[name])
    if options.wide or chosen is USUAL:
        found["wide"] = practice_wide(seed, 0.02 if options.quick else 0.1)
        _say(options, seed, "practice-wide (seconds)", found["wide"]["planner"])
    return found


def _world_of(what: str, warm: float) -> dict[str, float]:
    return {"shift_at": warm} if what == "shift" else {"rewrite_at": warm + 3}


def _say(options: argparse.Namespace, seed: int, name: str, figures: Mapping[str, Any]) -> None:
    row = " ".join(f"{figures[part]:8.1f}" if part in figures else " " * 8 for part in ("mean", "p50", "p95", "p99"))
    (sys.stderr if options.json else sys.stdout).write(f"{seed}  {name:42} {row}\n")
    sys.stdout.flush()


def ratios(found: Mapping[str, Any]) -> dict[str, float]:
    """What the gates are about, as far as the arms were run."""
    mean = {name: figures["mean"] for name, figures in found.items() if "mean" in figures}
    pairs = [("signal", "bound"), ("signal", "types"), ("signal", "known"), ("uniform", "signal"), ("uniform", "none")]
    got = {f"{over} / {under}": mean[over] / mean[under] for over, under in pairs if over in mean and under in mean}
    if "limit" in found:
        got["max_staleness broken"] = float(found["limit"]["broken"])
    if "wide" in found:
        got["wide p95 / limit"] = found["wide"]["planner"]["p95"] / found["wide"]["limit"]
    return got


def judged(seeds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """The gates: the median over the seeds, and whether it is met."""
    verdicts = {}
    for name, (bound, value) in GATES.items():
        got = [ratio[name] for ratio in seeds if name in ratio]
        if got:
            median = float(np.median(got))
            met = median <= value if bound == "at most" else median >= value
            verdicts[name] = {"median": median, "seeds": got, bound.replace(" ", "_"): value, "met": met}
    return verdicts


def table(seeds: Sequence[Mapping[str, Any]]) -> str:
    """The policies, as the README has them: medians over the seeds, in minutes."""
    lines = ["| policy | mean | p50 | p95 | p99 |", "|---|---|---|---|---|"]
    for name, (text, _) in ARMS.items():
        mine = [found[name] for found in seeds if name in found]
        if mine:
            cells = [
                f"{float(np.median([figures[part] for figures in mine])):.0f}" for part in ("mean", "p50", "p95", "p99")
            ]
            lines.append(f"| {text} | {' | '.join(cells)} |")
    bounds = [found["bound"]["mean"] for found in seeds if "bound" in found]
    if bounds:
        lines.append(f"| no policy can be below | {float(np.median(bounds)):.0f} | | | |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the options say; 1 if a gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=PATIENTS)
    parser.add_argument("--calls", type=float, default=CALLS, help="a minute, for 30,000 patients")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--world", choices=("plain", "clinic"), default="plain")
    parser.add_argument("--arms", default="", help=f"of {', '.join(ARMS)}, bound; all if left out")
    parser.add_argument("--stress", action="store_true")
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.quick:
        options.patients = min(options.patients, 300)
    seeds = [run(options.first + number, options) for number in range(options.seeds)]
    verdicts = judged([ratios(found) for found in seeds])
    if options.json:
        sys.stdout.write(json.dumps({"options": vars(options), "gates": verdicts, "seeds": seeds}, indent=1) + "\n")
    else:
        sys.stdout.write(table(seeds) + "\n")
        for name, verdict in verdicts.items():
            word = "met" if verdict["met"] else "MISSED"
            bound, value = GATES[name]
            sys.stdout.write(f"{word:7} {name}: {verdict['median']:.2f}, {bound} {value}\n")
    return 0 if all(verdict["met"] for verdict in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
