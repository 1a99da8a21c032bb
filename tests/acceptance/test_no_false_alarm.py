"""Guarantee 3, no false alarm: touches that change nothing, re-reads, and a sick server make no event; and deletes come few at once.

Three practices live through the same day, in one engine. Two are served by the engine as it is. The third, NAIVE, shows at every run that
the checks catch what they should: it takes stamps for content, takes an absence for a delete without reading the id, and knows no bound on
deletes. It tells of touches, deletes what a sick server hid for a moment, and lets a mass disappearance through at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest

from poller.app import Engine, Installation, _SurveyedSource
from poller.core.model import Confirmation, Gone, Purpose
from poller.simulator.judge import Rules, examine
from poller.source.connection import open_source
from poller.store.deletes import Absence, Breaker, DeleteStore, Settled
from poller.store.engine import ENGINE
from tests.acceptance.parts import action_of, state_of, wait_until
from tests.acceptance.rig import ECW, OPEN, Rig, spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from poller.clock import Clock
    from poller.config import PracticeConfig
    from poller.store.repository import Lease
    from tests.acceptance.parts import Collector, Services

NAIVE = "NAIVE"
CODES = (ECW, OPEN, NAIVE)
HTML = b"<html><body><h1>404 Not Found</h1><hr>proxy</body></html>"
GONE = orjson.dumps({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "not-found"}]})
UNWELL = orjson.dumps({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "exception"}]})
DISAPPEARING = 12
ALLOWED = 5
"""Deletes of a small feed that are let through within an hour."""


@dataclass
class Sickness:
    """What a server does instead of answering; counts its lies."""

    mode: str = ""
    lies: Counter[str] = field(default_factory=Counter)
    has_searched: bool = False

    def instead(self, request: httpx.Request) -> httpx.Response | None:
        """The lie, or None for the truth."""
        tail = request.url.path.rpartition("/fhir/r4/")[2].split("/")[1:]
        if not self.mode or request.method != "GET" or tail[:1] in ([".well-known"], ["metadata"]):
            return None
        searches, reads = self.mode.split("/")
        is_read = len(tail) > 1 or request.url.params.get("_id") is not None
        answer = self._answer(reads if is_read else searches, request)
        self.has_searched |= not is_read
        if answer is not None:
            self.lies[f"{self.mode} {'read' if is_read else 'search'}"] += 1
        return answer

    def _answer(self, manner: str, request: httpx.Request) -> httpx.Response | None:
        fhir = {"content-type": "application/fhir+json"}
        match manner:
            case "empty":
                link = [{"relation": "self", "url": str(request.url)}]
                bundle = {"resourceType": "Bundle", "type": "searchset", "total": 0, "link": link, "entry": []}
                return httpx.Response(200, headers=fhir, content=orjson.dumps(bundle))
            case "html" | "html404":
                status = 404 if manner == "html404" else 200
                return httpx.Response(status, headers={"content-type": "text/html"}, content=HTML)
            case "404":
                return httpx.Response(404, headers=fhir, content=GONE)
            case (
                "500then404"
            ):  # an error after every search, so that no pass and read stand together without one between
                if "." in request.url.path:
                    return httpx.Response(500, headers=fhir, content=UNWELL)  # by design no sign of a sick server
                is_first, self.has_searched = self.has_searched, False
                return httpx.Response(500 if is_first else 404, headers=fhir, content=UNWELL if is_first else GONE)
            case _:
                return None


class Network(httpx.AsyncBaseTransport):
    """The way to one practice's server, which may be sick."""

    def __init__(self, sickness: Sickness, spoil: Callable[[bytes], bytes]) -> None:
        self._through = httpx.AsyncHTTPTransport()
        self._sickness = sickness
        self._spoil = spoil

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        lie = self._sickness.instead(request)
        if lie is not None:
            return lie
        answer = await self._through.handle_async_request(request)
        headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
        return httpx.Response(answer.status_code, headers=headers, content=self._spoil(await answer.aread()))

    async def aclose(self) -> None:
        await self._through.aclose()


def stamps_are_content(body: bytes) -> bytes:
    """As if the stamp were not dropped from what is compared."""
    return body.replace(b'"lastUpdated":', b'"updated":')


class Credulous(_SurveyedSource):
    """Broken on purpose: an absence is a delete, nothing is read."""

    async def confirm(self, _resource_type: str, _id: str, _purpose: Purpose = Purpose.CONFIRM) -> Confirmation:
        now = self._clock.now()
        return Gone(now, now)

    @property
    def last_server_error(self) -> dt.datetime | None:
        return None


class Unbounded(DeleteStore):
    """Broken on purpose for NAIVE: any number of deletes at once."""

    def settle(
        self,
        lease: Lease,
        absence: Absence,
        read_began: dt.datetime,
        read_ended: dt.datetime,
        breaker: Breaker,
        now: dt.datetime,
        *,
        withheld: bool = False,
    ) -> Settled:
        if lease.practice == NAIVE:
            breaker = Breaker(1.0, 1_000_000, breaker.window)
        return super().settle(lease, absence, read_began, read_ended, breaker, now, withheld=withheld)


class SickEngine(Engine):
    """The engine, whose servers can be made sick, and in which one practice is served without care."""

    def __init__(self, installation: Installation, sickness: Mapping[str, Sickness]) -> None:
        super().__init__(installation)
        self._sickness = sickness
        self._stores = dataclasses.replace(self._stores, deletes=Unbounded(installation.engine(ENGINE)))

    @contextlib.asynccontextmanager
    async def _open_source(self, practice: PracticeConfig, clock: Clock) -> AsyncIterator[_SurveyedSource]:
        naive = practice.code == NAIVE
        network = Network(self._sickness[practice.code], stamps_are_content if naive else bytes)
        async with open_source(practice, self._ledger, clock, transport=network) as source:
            yield (Credulous if naive else _SurveyedSource)(source.practice, source.client, clock)


@dataclass
class Day:
    """What was told, chapter by chapter."""

    rig: Rig
    sickness: Mapping[str, Sickness]
    consumer: Collector
    told: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    """Chapter → practice → events."""
    state: dict[str, dict[str, bytes]] = field(default_factory=dict)
    truth: dict[str, dict[str, bytes]] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    """Chapter → deletes of OPEN that waited for a person at its end."""
    read_again: set[str] = field(default_factory=set)
    """Ids that OPEN was asked for after the release."""
    vanished: list[str] = field(default_factory=list)
    _since: int = 0

    @property
    def deletes(self) -> DeleteStore:
        return self.rig.installation().deletes

    def end(self, chapter: str) -> None:
        """Wait until all has come round; note what was told since the last chapter."""
        self.rig.come_round(lambda: len(self.consumer.received))
        events = self.consumer.events[self._since :]
        self._since += len(events)
        self.told[chapter] = {code: [e for e in events if e["source"].endswith(code)] for code in CODES}
        self.held[chapter] = len(self.deletes.listed(OPEN, ["held"]))


def touch(rig: Rig) -> None:
    """The same content again: another narrative, another order of keys, a moved stamp."""
    for code in CODES:
        for resource_type in ("Patient", "Observation", "Condition"):
            for resource in list(rig.world.written(code, resource_type).values())[:3]:
                narrative = {"status": "generated", "div": "<div>another narrative</div>"}
                rig.world.put(code, {**dict(reversed(list(resource.items()))), "text": narrative}, rig.server.clock())


def fall_sick(day: Day, mode: str, reads: int = 0, searches: int = 12) -> None:
    """All servers behave like this until it has been met often enough, then well again for a while."""
    for sickness in day.sickness.values():
        sickness.mode = mode

    def met() -> bool:
        searched = all(sickness.lies[f"{mode} search"] >= searches for sickness in day.sickness.values())
        return searched and all(day.sickness[code].lies[f"{mode} read"] >= reads for code in (ECW, OPEN))

    wait_until(f"{mode} is met", met, 120)
    for sickness in day.sickness.values():
        sickness.mode = ""


def vanish(day: Day, code: str) -> list[str]:
    """A dozen results are gone at once."""
    results = [subject.partition("/")[2] for subject in day.rig.truth(code) if subject.startswith("Observation/")]
    for name in sorted(results)[:DISAPPEARING]:
        day.rig.world.delete(code, "Observation", name, day.rig.server.clock())
    return sorted(results)[:DISAPPEARING]


def live_through(day: Day) -> None:
    wait_until("all are told of", lambda: all(state_of(day.consumer.of(c)) for c in CODES), 120)
    day.end("baseline")
    touch(day.rig)
    day.end("touches")
    fall_sick(day, "html/html")
    fall_sick(day, "empty/well")
    fall_sick(day, "empty/html404", reads=4)
    fall_sick(day, "empty/500then404", reads=4)
    day.rig.come_round(lambda: 0)  # an empty pass, and then a 404, is what a delete looks like
    fall_sick(day, "404/404", searches=3)  # soon nothing is asked any more: it looks as if base_url were wrong
    day.rig.world.set_faults(error_500=0.2, error_503=0.2, html=0.2, cut_json=0.2)
    calls = len(day.rig.world.calls(OPEN))
    wait_until("faults are met", lambda: len(day.rig.world.calls(OPEN)) > calls + 30, 120)
    day.rig.world.clear_faults()
    day.end("sickness")
    day.state = {code: state_of(day.consumer.of(code)) for code in CODES}
    day.truth = {code: day.rig.truth(code) for code in CODES}
    day.vanished = vanish(day, OPEN)
    vanish(day, NAIVE)
    day.end("disappearance")
    _rule_on_the_held(day)


def _rule_on_the_held(day: Day) -> None:
    held = [absence.id for absence in day.deletes.listed(OPEN, ["held"])]
    assert day.deletes.rule(OPEN, "discarded", "Observation", held[0]) == 1
    asked = len(day.rig.world.calls(OPEN))
    assert day.deletes.rule(OPEN, "released", "Observation", None) == len(held) - 1
    day.end("release")
    reads = [call.path for call in day.rig.world.calls(OPEN)[asked:] if call.kind == "read"]
    day.read_again = {path.rpartition("/")[2] for path in reads}
    day.vanished = [held[0], *held[1:]]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, new_services: Callable[[], Services]) -> Iterator[Day]:
    specs = [spec(ECW), *(spec(code, patients=4, labs_per_patient=8, page_size=100) for code in (OPEN, NAIVE))]
    home: Path = tmp_path_factory.mktemp("day")
    rig = Rig(home, new_services(), specs, every={"every": "400ms", "sweep_every": "800ms"})
    sickness = {code: Sickness() for code in CODES}
    with rig, rig.collector() as consumer, rig.engine(lambda installation: SickEngine(installation, sickness)):
        lived = Day(rig, sickness, consumer)
        live_through(lived)
        yield lived


def actions(events: list[dict[str, Any]]) -> Counter[str]:
    return Counter(map(action_of, events))


@pytest.mark.parametrize("code", [ECW, OPEN])
def test_the_same_content_makes_no_event(day: Day, code: str) -> None:
    assert day.told["touches"][code] == []
    assert actions(day.told["touches"][NAIVE])["updated"] >= 9, "stamps taken for content must be found out"


@pytest.mark.parametrize("code", [ECW, OPEN])
def test_a_sick_server_makes_no_event_and_no_delete(day: Day, code: str) -> None:
    assert all(count >= 3 for mode, count in day.sickness[code].lies.items() if mode.endswith("search"))
    assert day.told["sickness"][code] == []
    assert day.state[code] == day.truth[code]
    assert actions(day.told["sickness"][NAIVE])["deleted"] > 0, "a delete without a read must be found out"


def test_a_mass_disappearance_is_held_but_for_the_set_fraction(day: Day) -> None:
    assert actions(day.told["disappearance"][OPEN]) == {"deleted": ALLOWED}
    assert day.held["disappearance"] == DISAPPEARING - ALLOWED
    assert actions(day.told["disappearance"][NAIVE])["deleted"] > ALLOWED, "no bound must be found out"


def test_what_a_person_releases_is_read_once_more_and_deleted(day: Day) -> None:
    discarded, *released = day.vanished
    told = day.told["release"][OPEN]
    assert actions(told) == {"deleted": len(released)}
    assert {event["subject"].partition("/")[2] for event in told} == set(released)
    assert day.read_again == set(released)
    assert discarded not in day.read_again


def test_the_judge_has_no_complaint_but_of_the_naive(day: Day) -> None:
    evidence, schedules = day.rig.world.evidence(), day.rig.schedules()
    rules = Rules(by_schedule=False, allow_duplicates=True)
    received = list(day.consumer.received)
    false = {
        code: examine(evidence[code], [one for one in received if one.practice == code], schedules[code], rules).count(
            "false"
        )
        for code in CODES
    }
    assert false[ECW] == false[OPEN] == 0
    assert false[NAIVE] > 0
