"""A plain poller, correct by being simple, reads living practices over HTTP: the judge must acquit it, faults or none.

Time is the test's: each call takes a twentieth of a second, in which the world goes on.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from poller.core import jsontext
from poller.simulator.alignment import content_of
from poller.simulator.judge import FeedSchedule, Received, Rules, judge
from poller.simulator.spec import PracticeSpec
from poller.simulator.world import World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    from tests.simulator_bench import Clock, Reader

    Reading = Callable[[World, Clock], AbstractAsyncContextManager[Reader]]

pytest_plugins = ["tests.simulator_bench"]
pytestmark = pytest.mark.anyio

ECW, OPEN = "AAAAAA", "BBBBBB"
TYPES = ("Encounter", "Observation", "Condition", "MedicationRequest", "DiagnosticReport")
CALL = 0.05
EVERY = 5.0
SWEEP = 15.0
OVERLAP = 4.0
CATEGORIES = ("laboratory", "vital-signs")


class PlainPoller:
    """Reads one practice; keeps what it saw; tells of what changed."""

    def __init__(self, reader: Reader, code: str) -> None:
        self.reader, self.code = reader, code
        self.known: dict[tuple[str, str], bytes | None] = {}
        self.versions: dict[tuple[str, str], int] = {}
        self.searched: dict[str, set[tuple[str, str]]] = {}
        self.received: list[Received] = []
        self.primed: set[str] = set()

    async def call(self, path: str) -> httpx.Response:
        answer = await self.reader.get(self.code, path)
        self.reader.clock.forward(CALL)
        self.reader.world.advance(self.reader.clock())
        return answer

    def tell(self, key: tuple[str, str], resource: dict[str, Any] | None, origin: str) -> None:
        content = content_of(resource)
        if key in self.known and self.known[key] == content:
            return
        self.known[key] = content
        self.versions[key] = version = self.versions.get(key, 0) + 1
        action = "deleted" if resource is None else "created" if version == 1 else "updated"
        now = self.reader.clock()
        self.received.append(
            Received(
                {
                    "id": f"{key}-{version}",
                    "source": f"http://simulator/fhir/r4/{self.code}",
                    "type": f"test.{action}.v1",
                    "subject": "/".join(key),
                    "time": now.isoformat(),
                    "sequence": f"{len(self.received):020d}",
                    "origin": origin,
                    "data": {"response": {"etag": f'W/"{version}"'}, "resource": resource},
                },
                now,
            )
        )

    async def read(self, search: str, *, whole: bool = True, origin: str = "live", target: str = "") -> None:
        """One pass, and where it proves an absence, the question whether it is a delete. ``target``: its name, if not the search."""
        seen, totals, path, name = [], set(), search, target or search
        while path:
            answer = await self.call(path)
            try:
                bundle = jsontext.loads(answer.content)
            except ValueError:
                return
            if answer.status_code != 200:
                return
            totals.add(bundle["total"])
            for entry in bundle.get("entry", []):
                key = (entry["resource"]["resourceType"], entry["resource"]["id"])
                seen.append(key)
                self.searched.setdefault(name, set()).add(key)
                self.tell(key, entry["resource"], "baseline" if name not in self.primed and whole else origin)
            following = self.reader.link(bundle, "next")
            path = following.partition(f"/{self.code}/")[2] if following else ""
        if whole and totals == {len(seen)} and len(set(seen)) == len(seen):
            self.primed.add(name)
            absent = self.searched.get(name, set()) - set(seen)
            self.searched[name] = set(seen)
            for key in sorted(absent):
                if (await self.call("/".join(key))).status_code in {404, 410}:
                    self.tell(key, None, origin)
                else:
                    self.searched[name].add(key)

    async def poll_ecw(self) -> None:
        for letter in "ABCD":
            await self.read(f"Patient?name={letter}")
        for _, patient in [key for key, content in self.known.items() if key[0] == "Patient" and content]:
            for kind in TYPES:
                for category in CATEGORIES if kind == "Observation" else ("",):
                    suffix = f"&category={category}" if category else ""
                    await self.read(f"{kind}?patient={patient}{suffix}")

    async def poll_everything(self) -> None:
        for letter in "ABCD":
            await self.read(f"Patient?name={letter}")
        for _, patient in [key for key, content in self.known.items() if key[0] == "Patient" and content]:
            await self.read(f"Patient/{patient}/$everything")

    async def poll_several(self) -> None:
        for letter in "ABCD":
            await self.read(f"Patient?name={letter}")
        patients = ",".join(sorted(key[1] for key, content in self.known.items() if key[0] == "Patient" and content))
        for kind in TYPES:
            for category in CATEGORIES if kind == "Observation" else ("",):
                suffix = f"&category={category}" if category else ""
                await self.read(f"{kind}?patient={patients}{suffix}", target=f"{kind}{suffix}")

    async def poll_open(self, since: dt.datetime, *, sweep: bool) -> None:
        for kind in ("Patient", *TYPES):
            if sweep:
                await self.read(f"{kind}?_count=50", origin="reconcile")
            bound = (since - dt.timedelta(seconds=OVERLAP)).strftime("%Y-%m-%dT%H:%M:%SZ")
            await self.read(f"{kind}?_lastUpdated=ge{bound}&_count=50", whole=False)


async def poll_through(
    poller: PlainPoller, clock: Clock, until: dt.datetime, poll: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Round after round; ``poll`` makes one, if it is not what the practice's mode wants."""
    since, rounds = clock(), 0
    while clock() < until:
        began = clock()
        if poll is not None:
            await poll()
        elif poller.code == ECW:
            await poller.poll_ecw()
        else:
            await poller.poll_open(since, sweep=rounds % 3 == 0)
        since, rounds = began, rounds + 1
        clock.forward(max((began + dt.timedelta(seconds=EVERY) - clock()).total_seconds(), 0))
        poller.reader.world.advance(clock())


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("code", [ECW, OPEN])
@pytest.mark.parametrize(
    "faults",
    [
        {},
        {"late": 0.3, "late_seconds": 2},
        {"error_503": 0.1, "cut_json": 0.1, "html": 0.1, "shift": 0.3, "duplicate": 0.3, "total_lie": 0.1},
    ],
)
async def test_a_plain_poller_is_acquitted(
    clock: Clock, reading: Reading, code: str, seed: int, faults: dict[str, float]
) -> None:
    specs = {
        ECW: PracticeSpec(
            ECW, "ecw", patients=2, max_patients=3, name_initials="ABCD", tempo=2e-5, page_size=6, limit=3000
        ),
        OPEN: PracticeSpec(OPEN, "open", patients=5, tempo=2e-5, limit=3000),
    }
    world = World([specs[code]], seed=seed, now=clock())
    async with reading(world, clock) as reader:
        poller = PlainPoller(reader, code)
        await poller.call("Patient?name=a")
        world.set_faults(code, kinds=["search", "read"], **faults)
        world.begin(clock(), 2)
        await poll_through(poller, clock, clock() + dt.timedelta(seconds=90))
        world.quiet()
        world.clear_faults()
        await poll_through(poller, clock, clock() + dt.timedelta(seconds=2 * SWEEP + EVERY))
    categories = {"Observation": CATEGORIES} if code == ECW else {}
    feeds = [
        FeedSchedule(
            kind,
            every=2 * EVERY if code == ECW else EVERY,
            categories=categories.get(kind, ()),
            sweep_every=SWEEP if code == OPEN else None,
            names=tuple("ABCD") if code == ECW and kind == "Patient" else (),
        )
        for kind in ("Patient", *TYPES)
    ]
    verdict = judge(world.evidence(), poller.received, {code: feeds}, Rules(by_schedule=not faults))
    assert verdict["ok"], verdict
    assert verdict["practices"][code]["changes"] >= 40


FAULTS = {
    "error_503": 0.1,
    "cut_json": 0.1,
    "html_404": 0.1,
    "repeat": 0.2,
    "end_early": 0.1,
    "total_low": 0.1,
}


@pytest.mark.parametrize("faults", [{}, FAULTS], ids=["well", "faults"])
@pytest.mark.parametrize("way", ["everything", "several"])
async def test_a_plain_poller_by_other_ways_is_acquitted(
    clock: Clock, reading: Reading, way: str, faults: dict[str, float]
) -> None:
    spec = PracticeSpec(
        ECW, "ecw", patients=2, max_patients=3, name_initials="ABCD", tempo=2e-5, page_size=12, limit=3000,
        everything="on", several_patients="honoured",
    )  # fmt: skip
    world = World([spec], now=clock())
    async with reading(world, clock) as reader:
        poller = PlainPoller(reader, ECW)
        poll = poller.poll_everything if way == "everything" else poller.poll_several
        await poller.call("Patient?name=a")
        world.set_faults(ECW, kinds=["search", "read"], **faults)
        world.begin(clock(), 2)
        await poll_through(poller, clock, clock() + dt.timedelta(seconds=90), poll)
        world.quiet()
        world.clear_faults()
        await poll_through(poller, clock, clock() + dt.timedelta(seconds=SWEEP), poll)
    names = {"Patient": tuple("ABCD")}
    categories = {"Observation": CATEGORIES} if way == "several" else {}
    feeds = [
        FeedSchedule(kind, every=2 * EVERY, names=names.get(kind, ()), categories=categories.get(kind, ()))
        for kind in ("Patient", *TYPES)
    ]
    verdict = judge(world.evidence(), poller.received, {ECW: feeds}, Rules(by_schedule=not faults))
    assert verdict["ok"], verdict
    assert verdict["practices"][ECW]["changes"] >= 40
