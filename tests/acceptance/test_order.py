"""Guarantee 4, order and identity.

Shown to fail, and shown again at every run: without the look at when a read began, the late answer of the older read becomes an event that
takes the change back; with random ids the same history has other names; a stream with an event missing, two swapped, or a repetition under
another id does not pass the checks that the true ones pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from poller.core.model import Kind, Strategy
from poller.cycle import Cycle
from poller.reconcile import Reconciler
from poller.source.connection import open_source
from poller.store import repository
from poller.store.deletes import DeleteStore
from poller.store.engine import ENGINE, open_clock, open_engine
from poller.store.ledger import PostgresLedger
from poller.store.log import EventLog
from poller.store.repository import Repository
from poller.store.state import LeaseKeeper, StateStore
from tests.acceptance.parts import action_of, applied, version_of
from tests.acceptance.rig import ECW, OPEN, Rig, spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from poller.core.model import Event
    from poller.core.plan import TargetState
    from tests.acceptance.parts import Services
    from tests.acceptance.story import Story

KEY = b"k" * 32
FEED = "Condition"


class Holding(httpx.AsyncBaseTransport):
    """The network, which can keep the next answer until it is told to let go."""

    def __init__(self) -> None:
        self._through = httpx.AsyncHTTPTransport()
        self.hold = False
        self.held = asyncio.Event()
        self.let_go = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._through.handle_async_request(request)
        content = await answer.aread()
        if self.hold:
            self.hold = False
            self.held.set()
            await self.let_go.wait()
        return httpx.Response(answer.status_code, headers=answer.headers, content=content)

    async def aclose(self) -> None:
        await self._through.aclose()


@dataclass
class Bench:
    """One feed of one practice: the real source, cycle and reconciler over a database, passes on demand."""

    rig: Rig
    cycle: Cycle
    reconciler: Reconciler
    network: Holding
    log: EventLog

    def state(self, kind: Kind) -> TargetState:
        return next(state for state in self.cycle.targets.states.values() if state.target.kind is kind)

    async def read(self, kind: Kind) -> None:
        await self.cycle.run_pass(self.state(kind))

    def put(self, name: str, text: str) -> None:
        subject = {"reference": "Patient/p"}
        resource = {"resourceType": FEED, "id": name, "subject": subject, "code": {"text": text}}
        self.rig.world.put(OPEN, resource, self.rig.server.clock())

    def events(self) -> list[Event]:
        return self.log.after(OPEN, 0, 0, 1000, bodies=True)

    def told(self, name: str) -> list[str]:
        """What the events of a resource leave a consumer with, one after the other."""
        return [
            event.body["code"]["text"] if event.body else event.action.value
            for event in self.events()
            if event.id == name
        ]


@contextlib.asynccontextmanager
async def bench(rig: Rig, conninfo: str) -> AsyncIterator[Bench]:
    engine = open_engine(conninfo, ENGINE, pool_size=4)
    keeper, states, log = LeaseKeeper(engine), StateStore(engine), EventLog(engine)
    practice, clock, network = rig.config().practices[OPEN], open_clock(engine), Holding()
    try:
        lease = keeper.take(OPEN)
        states.register_practice(lease)
        states.register_feed(lease, FEED, clock.now())
        async with open_source(practice, PostgresLedger(engine), clock, transport=network) as source:
            store, told = Repository(engine, KEY), lambda: None
            cycle = Cycle(practice, lease, source, store, states, clock, KEY, told)
            reconciler = Reconciler(practice, lease, source, store, DeleteStore(engine), clock, KEY, told)
            await cycle.adopt(FEED, Strategy.WINDOW)
            yield Bench(rig, cycle, reconciler, network, log)
    finally:
        keeper.close()
        engine.dispose()


@pytest.fixture
def rig(services: Services, tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path, services, [spec(OPEN, patients=1)]) as made:
        yield made


async def overtaken(rig: Rig, conninfo: str) -> list[str]:
    """A sweep's answer, made before a change, arrives after the answer of a window that shows the change. What is told of it."""
    async with bench(rig, conninfo) as one:
        one.put("c1", "old")
        await one.read(Kind.SWEEP)
        one.network.hold = True
        slow = asyncio.create_task(one.read(Kind.SWEEP))
        await one.network.held.wait()
        one.put("c1", "new")
        await one.read(Kind.WINDOW)
        one.network.let_go.set()
        await slow
        await one.read(Kind.SWEEP)
        await one.read(Kind.WINDOW)
        return one.told("c1")


def test_an_older_answer_that_comes_last_changes_nothing(rig: Rig, database_url: str) -> None:
    assert asyncio.run(overtaken(rig, database_url)) == ["old", "new"]


def test_without_the_look_at_the_beginning_it_is_found_out(
    rig: Rig, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "is_outdated", lambda _stored, _began: False)
    assert asyncio.run(overtaken(rig, database_url)) != ["old", "new"]


async def a_history(rig: Rig, conninfo: str) -> list[tuple[str, int, str, uuid.UUID]]:
    """Created, updated, deleted, restored: the same content each time, into whatever database."""
    async with bench(rig, conninfo) as one:
        one.put("c2", "first")
        await one.read(Kind.SWEEP)
        one.put("c2", "second")
        await one.read(Kind.WINDOW)
        rig.world.delete(OPEN, FEED, "c2", rig.server.clock())
        await one.read(Kind.SWEEP)
        await one.reconciler.settle_absences()
        one.put("c2", "third")
        await one.read(Kind.SWEEP)
        found = [(e.action.value, e.version, e.event_id) for e in one.events() if e.id == "c2"]
        rig.world.delete(OPEN, FEED, "c2", rig.server.clock())
        return [("c2", version, action, name) for action, version, name in found]


def test_the_same_content_has_the_same_names_in_a_fresh_store(
    rig: Rig, new_databases: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asyncio.run(a_history(rig, new_databases()))
    assert [action for _, _, action, _ in first] == ["created", "updated", "deleted", "restored"]
    assert asyncio.run(a_history(rig, new_databases())) == first
    monkeypatch.setattr(repository, "event_id", lambda *_: uuid.uuid4())
    assert asyncio.run(a_history(rig, new_databases())) != first, "random names must be found out"


def broken_chain(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Places where ``previoussequence`` is not the event before, or sequences do not rise."""
    found, before = [], None
    for event in events:
        if event.get("previoussequence") != before:
            found.append(f"after {before} comes {event['sequence']}, which follows {event.get('previoussequence')}")
        if before is not None and event["sequence"] <= before:
            found.append(f"{event['sequence']} after {before}")
        before = event["sequence"]
    return found


def of(events: Sequence[dict[str, Any]], practice: str) -> list[dict[str, Any]]:
    return [event for event in events if event["source"].endswith(practice)]


def wanted_by_labs(event: Mapping[str, Any]) -> bool:
    lab = event["subject"].startswith("Observation/") and event["origin"] != "baseline"
    return lab and action_of(event) in {"created", "updated"}


def once(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """First arrivals."""
    return list({event["id"]: event for event in reversed(events)}.values())[::-1]


@pytest.mark.parametrize("practice", [ECW, OPEN])
def test_sequences_have_no_gap_and_chain_what_a_sink_got(story: Story, practice: str) -> None:
    full = sorted(once(of(story.full, practice)), key=lambda event: event["sequence"])
    assert [int(event["sequence"].partition("-")[2]) for event in full] == list(range(1, len(full) + 1))
    labs = sorted(once(of(story.labs, practice)), key=lambda event: event["sequence"])
    assert len(labs) > 4
    assert [event["id"] for event in labs] == [event["id"] for event in full if wanted_by_labs(event)]
    for events in (full, labs):
        assert broken_chain(events) == []
        middle = len(events) // 2
        assert broken_chain([*events[:middle], *events[middle + 1 :]]), "a missing event must be found out"
        swapped = [*events[:middle], events[middle + 1], events[middle], *events[middle + 2 :]]
        assert broken_chain(swapped), "a wrong order must be found out"


def other_names(events: Sequence[Mapping[str, Any]]) -> set[str]:
    """Places of a practice's log that arrived under more than one id, or with more than one content."""
    known: dict[tuple[str, str], object] = {}
    return {
        event["sequence"]
        for event in events
        if known.setdefault((event["source"], event["sequence"]), (event["id"], event["data"]))
        != (event["id"], event["data"])
    }


def test_a_crash_repeats_events_under_their_ids(story: Story) -> None:
    repeated = len(story.full) - len(once(story.full))
    assert repeated > 0, "the crash fell between a confirm and its cursor"
    assert other_names(story.full) == set()
    renamed = [story.full[-1] | {"id": str(uuid.uuid4())}]
    assert other_names([*story.full, *renamed]), "another name for the same event must be found out"


def test_each_resource_comes_in_the_order_of_its_versions(story: Story) -> None:
    versions: dict[tuple[str, str], list[int]] = {}
    for event in applied(story.full):
        versions.setdefault((event["source"], event["subject"]), []).append(version_of(event))
    assert any(len(found) > 1 for found in versions.values())
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values())
