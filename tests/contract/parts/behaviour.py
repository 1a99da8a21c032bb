"""What every strategy has to show in every mode: nothing missed, nothing false, the budget kept, the feed on the rung where it belongs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from poller.core.model import Event
from poller.simulator.chart import patient_of
from tests.acceptance.hypo.virtual import T0
from tests.contract.parts.play import EVERY, Bench, Play, Scene, play

ACTIONS = {"created", "updated", "deleted"}
"""Of these there is one at least in every case."""
_LONG = 1800.0
"""Seconds of virtual time in which whatever is to come has come."""
_BAD_DAY = 80.0
_REFUSED = 150.0

SEARCHES: Mapping[str, Any] = {
    "error_500": 0.03,
    "error_503": 0.02,
    "spurious_429": 0.005,
    "cut_json": 0.02,
    "cut_connection": 0.02,
    "html": 0.01,
    "slow": 0.05,
    "slow_seconds": 9,
    "duplicate": 0.2,
    "shift": 0.2,
    "total_lie": 0.1,
    "total_high": 0.05,
    "total_low": 0.05,
    "repeat": 0.1,
    "end_early": 0.05,
    "next_self": 0.03,
    "next_elsewhere": 0.03,
    "outcome_error": 0.03,
    "outcome_warning": 0.05,
    "no_id": 0.02,
    "subsetted": 0.03,
    "late": 0.3,
    "late_seconds": 15,
    "skew_seconds": -8,
    "gzip": 0.2,
}
"""A server that has a bad day in every way that it can."""

READS: Mapping[str, Any] = {
    "kinds": ["read"],
    "html_404": 0.3,
    "error_500": 0.2,
    "cut_json": 0.1,
    "late": 0.3,
    "late_seconds": 15,
    "skew_seconds": 300,
}
"""And one that fails at reads, among them those that are to prove a delete."""


@dataclass(frozen=True)
class Turn:
    """What a practice changes while it is read, and what is to come of it."""

    manners: Mapping[str, Any]
    rungs: Mapping[str, str] = field(default_factory=dict)
    """By feed, those that differ from before."""
    paused: frozenset[str] = frozenset()
    """Feeds that are left alone until the next turn; ``*`` for the practice."""
    late: frozenset[str] = frozenset()
    """Feeds that are said to be late until the next turn."""


@dataclass(frozen=True)
class Case:
    """A scene, its turns, and how each feed is read in the end."""

    scene: Scene
    rungs: Mapping[str, str]
    """By feed, before any turn; a feed that is not here cannot be read."""
    turns: tuple[Turn, ...] = ()
    patience: float = _LONG
    """Seconds after which what has not been found never will be."""

    @property
    def rungs_at_last(self) -> dict[str, str]:
        """After all turns."""
        rungs = dict(self.rungs)
        for turn in self.turns:
            rungs |= turn.rungs
        return rungs

    def __str__(self) -> str:
        turned = ",".join(f"{name}={value}" for turn in self.turns for name, value in turn.manners.items())
        return f"{self.scene.strategy} in {self.scene.mode}" + (f" turned {turned}" if turned else "")


@dataclass(frozen=True)
class Outcome:
    """What a case came to."""

    rungs: Mapping[str, str]
    wrong: Counter[str]
    """Findings by what is wrong and the type."""
    lost: Counter[str]
    """By type: what is there and was not told so."""
    left: Counter[str]
    """By type: what was told and is gone."""
    late: frozenset[str]
    paused: frozenset[str]
    settled: bool
    """Whether everything was read whole after the last change, and nothing more came then."""
    most_calls: int
    limit: int
    actions: Counter[str]
    numbered: bool
    """Whether ids differ, and sequences and versions have no gaps."""

    @property
    def is_true(self) -> bool:
        """Whether nothing is missed and nothing false."""
        return not (self.wrong or self.lost or self.left) and self.numbered and self.most_calls <= self.limit


def behaves(bench: Bench, case: Case) -> Outcome:
    """Play a case; raises AssertionError with what is wrong."""
    outcome, rungs = come_to(bench, case), case.rungs_at_last
    assert outcome.is_true, f"{case}: {outcome}"
    assert outcome.settled, f"{case} does not come to rest: {outcome}"
    assert outcome.rungs == rungs, f"{case} is read by {outcome.rungs}, not by {rungs}"
    unread = set(case.scene.feeds) - set(rungs)
    assert unread == outcome.late, f"{case}: late are {set(outcome.late)}, not {unread}"
    assert set(outcome.actions) >= ACTIONS, f"{case}: not all happened, but {outcome.actions}"
    return outcome


def come_to(bench: Bench, case: Case, *, ill: bool = False) -> Outcome:
    """Play a case, whatever it comes to; ``ill``: so the server is from the beginning, and the poller dies now and then."""

    async def course(acting: Play) -> Outcome:
        feeds = tuple(case.rungs)
        if ill:
            acting.world.begin(acting.clock.now(), case.scene.rate)
            acting.world.set_faults(acting.code, **{**SEARCHES, "html_404": 0.02})
            for _ in range(3):
                await acting.live(acting.rng.uniform(1, _BAD_DAY))
                await acting.restart()
        elif feeds:
            await acting.until(lambda: acting.is_whole(feeds, T0), _LONG)
            await acting.until(
                lambda: acting.rungs == case.rungs, _LONG
            )  # what lives may never look the same both ways
        acting.world.begin(acting.clock.now(), case.scene.rate)
        for turn in case.turns:
            await _turn(acting, turn)
        await acting.until(lambda: acting.is_whole(tuple(case.rungs_at_last), T0), _LONG)
        await _bad_day(acting)
        return await _in_the_end(acting, tuple(case.rungs_at_last), case.patience)

    outcome: Outcome = play(bench, case.scene, course)
    return outcome


def stays_honest(bench: Bench, scene: Scene) -> None:
    """A practice that cannot be read so is said to be late or paused, and nothing is made up about it. Raises AssertionError."""

    async def course(acting: Play) -> tuple[set[str], set[str], Counter[str]]:
        acting.world.begin(acting.clock.now(), scene.rate)
        acting.world.set_faults(acting.code, **SEARCHES)
        await acting.live(_REFUSED)
        acting.world.clear_faults(acting.code)
        await acting.until(lambda: bool(acting.late), _LONG)
        findings = acting.findings(scene.feeds, wide=acting.spec.wide)
        wrong = Counter(finding.what for finding in findings if finding.what not in {"missed", "state"})
        return acting.late, acting.paused, wrong

    late, paused, wrong = play(bench, scene, course)
    assert not wrong, f"{scene.strategy} in {scene.mode}: {wrong}"
    assert late | paused, f"{scene.strategy} in {scene.mode} cannot be read, and nothing says so"


async def _bad_day(acting: Play) -> None:
    """Faults of every sort while records are merged, go, come back and are corrected."""
    world, code = acting.world, acting.code
    world.set_faults(code, **SEARCHES)
    await acting.live(_BAD_DAY / 4)
    gone = _befall(acting)
    await acting.live(_BAD_DAY / 2)
    world.clear_faults(code)
    world.set_faults(code, **READS)
    world.revoke_tokens()
    await acting.live(_BAD_DAY / 4)
    world.clear_faults(code)
    await acting.until(lambda: _name(gone) not in acting.told(), _LONG)
    brief = {**gone, "id": "brief"}
    world.put(code, gone, acting.clock.now())
    world.put(code, brief, acting.clock.now())
    await acting.until(lambda: _name(brief) in acting.told(), _LONG)
    world.delete(code, "Observation", "brief", acting.clock.now())  # maybe before any read but a window's has shown it


def _befall(acting: Play) -> Mapping[str, Any]:
    """Two patients turn out to be one, another goes with everything, a result is corrected, and one vanishes, which is returned."""
    now, world, code = acting.clock.now(), acting.world, acting.code
    first, second, third, *_ = acting.rng.sample(_active(acting), 3)
    world.remove_patient(code, third, now)
    world.merge(code, first, second, now, vanish=acting.rng.random() < 0.5)
    wrong, gone, *_ = [one for one in world.written(code, "Observation").values() if patient_of(one) == second]
    world.enter_in_error(code, "Observation", wrong["id"], now)
    world.delete(code, "Observation", gone["id"], now)
    return gone


def _name(resource: Mapping[str, Any]) -> str:
    return f"{resource['resourceType']}/{resource['id']}"


def _active(acting: Play) -> list[str]:
    return [name for name, one in acting.world.written(acting.code, "Patient").items() if one.get("active", True)]


async def _turn(acting: Play, turn: Turn) -> None:
    before = acting.rungs
    acting.world.set_manners(acting.code, **turn.manners)
    acting.world.revoke_tokens()
    await acting.live(2 * EVERY)
    if turn.paused or turn.late:
        await acting.until(lambda: turn.paused <= acting.paused and turn.late <= acting.late, _LONG)
        await acting.live(_REFUSED)
        assert turn.paused <= acting.paused, f"after {turn.manners} only {acting.paused} is paused"
        assert turn.late <= acting.late, f"after {turn.manners} only {acting.late} is late"
    else:
        await acting.until(lambda: acting.rungs == before | dict(turn.rungs) and not acting.paused, _LONG)


async def _in_the_end(acting: Play, feeds: tuple[str, ...], patience: float) -> Outcome:
    """Nothing changes any more: everything is found in a while, and then nothing more."""
    world, wide = acting.world, acting.spec.wide
    world.quiet()
    await acting.live(20)  # until what was written late is there
    quiet_at = acting.clock.now()
    found = await acting.until(
        lambda: acting.is_whole(feeds, quiet_at) and acting.told() == acting.true(feeds), patience
    )
    said = len(acting.events())
    await acting.live(1.2 * EVERY)
    events, told, true = acting.events(), acting.told(), acting.true(feeds)
    return Outcome(
        rungs=acting.rungs,
        wrong=Counter(f"{finding.what} {finding.key[0]}" for finding in acting.findings(feeds, wide=wide)),
        lost=_by_type(name for name, content in true.items() if told.get(name) != content),
        left=_by_type(name for name in told if name not in true),
        late=frozenset(acting.late),
        paused=frozenset(acting.paused),
        settled=found and len(events) == said,
        most_calls=acting.most_calls,
        limit=acting.spec.limit,
        actions=Counter(event.action.value for event in events),
        numbered=_is_numbered(events),
    )


def _by_type(names: Any) -> Counter[str]:
    return Counter(name.partition("/")[0] for name in names)


def _is_numbered(events: list[Event]) -> bool:
    versions: dict[tuple[str, str], int] = {}
    for event in events:
        key = event.resource_type, event.id
        if event.version != versions.get(key, 0) + 1:
            return False
        versions[key] = event.version
    in_sequence = [event.sequence for event in events] == list(range(1, len(events) + 1))
    return in_sequence and len({event.event_id for event in events}) == len(events)
