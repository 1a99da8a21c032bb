"""A FHIR server by script, and a practice's source before it."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import httpx

from poller.clock import SystemClock
from poller.config.feed import FeedConfig
from poller.config.model import BudgetConfig, PracticeConfig
from poller.config.secret import Secret
from poller.core.budget import Grant
from poller.core.capability import PracticeReport
from poller.core.model import Kind, Purpose, Target
from poller.source.auth import Authorization, Token
from poller.source.client import Client
from poller.source.gate import Gate
from poller.source.reading import Reading
from poller.source.strategies import Source
from poller.source.survey import survey
from poller.source.wire import Wire

BASE = "https://ehr.example.org/fhir/r4/FAMLYMED"
NOW = dt.datetime(2026, 11, 22, 15, 0, 5, tzinfo=dt.UTC)
DATE = "Sun, 22 Nov 2026 15:00:05 GMT"

Script = Callable[[str, httpx.Request], httpx.Response | Awaitable[httpx.Response]]


class Freely:
    """A ledger that grants everything at once and counts it."""

    def __init__(self) -> None:
        self.granted = 0
        self.blocks: list[float] = []
        self.refusals: list[float | None] = []
        self.blocked = asyncio.Event()

    def grant(self, _practice: str, want: int, _per_minute: float, *_: float) -> Grant:
        self.granted += want
        return Grant(0.0, want, 0.0)

    def block(self, _practice: str, seconds: float, left_ago: float | None = None) -> float:
        self.blocks.append(seconds)
        self.refusals.append(left_ago)
        self.blocked.set()
        return 1.0


class Trusted(Authorization):
    """Has a token without asking anyone."""

    async def token(self) -> Token:
        return Token("secret-token", float("inf"), float("inf"))

    async def renew(self, scopes: tuple[str, ...] | None = None, *, keep: bool = True) -> Token:
        del scopes, keep
        return await self.token()

    @property
    def usable(self) -> Token:
        return Token("secret-token", float("inf"), float("inf"))


async def at_once(call: Callable[..., Any], *arguments: Any) -> Any:
    return call(*arguments)


class Server:
    """Answers by a script from path and query below the base; remembers what was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[str] = []
        self.requests: list[httpx.Request] = []
        self.ledger = Freely()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        where = unquote(str(request.url)).removeprefix(BASE).removeprefix("/")
        self.asked.append(where)
        self.requests.append(request)
        answer = self.script(where, request)
        answered = answer if isinstance(answer, httpx.Response) else await answer
        answered.headers.setdefault("Date", DATE)
        return answered

    @asynccontextmanager
    async def source(self, page_size: int | None = None, **changes: Any) -> AsyncIterator[Source]:
        feed = FeedConfig.model_validate({"page_size": page_size})
        given: dict[str, Any] = {
            "code": "FAMLYMED",
            "base_url": BASE,
            "client_id": "c",
            "key": Secret(env="UNUSED", file=None),
            "feeds": {"Patient": feed, "Observation": feed, "Practitioner": feed},
            "timeout": dt.timedelta(seconds=2),
            "budget": BudgetConfig(calls_per_minute=250, share=1.0, max_in_flight=3),
        }
        config = PracticeConfig.model_validate(given | changes)
        clock = SystemClock()
        gate = Gate("FAMLYMED", config.budget, self.ledger, in_thread=at_once)
        wire = Wire(BASE, config.timeout, 3, clock, httpx.MockTransport(self))
        client = Client("FAMLYMED", BASE, gate, Trusted(config, gate, wire), wire, clock)
        yield Source(config, client, clock)
        assert gate.in_flight == 0
        await gate.aclose()
        await wire.aclose()

    def read(self, target: Target, since: dt.datetime | None = None, page_size: int | None = None) -> Pass:
        async def main() -> Pass:
            async with self.source(page_size) as source:
                reading = source.read(target, since, Purpose.DETECT)
                found = [(s.id, s.resource.get("value")) async for batch in reading for s in batch.sightings]
                return Pass(reading, [name for name, _ in found], found, source.last_server_error)

        return asyncio.run(main())

    def confirm(self, resource_type: str, id_: str) -> tuple[Any, dt.datetime | None]:
        async def main() -> tuple[Any, dt.datetime | None]:
            async with self.source() as source:
                return await source.confirm(resource_type, id_), source.last_server_error

        return asyncio.run(main())

    def survey(self, *feeds: str, sample: Sequence[str] = ("p1", "p2"), **changes: Any) -> PracticeReport:
        async def main() -> PracticeReport:
            async with self.source(**changes) as source:
                return await survey(source, feeds, sample, NOW)

        return asyncio.run(main())


class Pass:
    """A reading that is over."""

    def __init__(
        self, reading: Reading, ids: list[str], found: list[tuple[str, Any]], server_error: dt.datetime | None
    ) -> None:
        self.reading, self.ids, self.found, self.server_error = reading, ids, found, server_error
        self.coverage = reading.coverage
        self.failure = reading.failure.kind if reading.failure else None


def bundle(*names: str, own: str = "", following: str | None = None, kind: str = "Observation", **more: Any) -> Any:
    link = [{"relation": "self", "url": f"http://inside/fhir/r4/FAMLYMED/{own}"}] if own else []
    if following:
        link.append({"relation": "next", "url": following})
    entries = [{"resource": {"resourceType": kind, "id": name}, "search": {"mode": "match"}} for name in names]
    return {"resourceType": "Bundle", "type": "searchset", "link": link, "entry": entries, **more}


def ok(body: Any) -> httpx.Response:
    return httpx.Response(200, json=body)


def refusal(status: int, code: str = "processing") -> httpx.Response:
    issue = {"severity": "error", "code": code, "diagnostics": "Jane Doe"}
    return httpx.Response(status, json={"resourceType": "OperationOutcome", "issue": [issue]})


def always(response: Callable[[], httpx.Response]) -> Server:
    return Server(lambda _where, _request: response())


SWEEP = Target("FAMLYMED", "Observation", Kind.SWEEP)
WINDOW = Target("FAMLYMED", "Observation", Kind.WINDOW)
BY_PATIENT = Target("FAMLYMED", "Observation", Kind.PATIENT, category="laboratory", patient="p1")


def html() -> httpx.Response:
    return httpx.Response(200, html="<h1>Maintenance, Jane Doe</h1>")


def cut() -> httpx.Response:
    return httpx.Response(200, content=b'{"resourceType":"Bundle","entry":[{"resource":')


def broken() -> httpx.Response:
    raise httpx.ReadError("Observation?patient=Jane")
