"""A FHIR server that a case drives: it answers from the truth, in its ways, and goes wrong where the script says so."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote

import httpx

from poller.core import jsontext
from tests.acceptance.hypo.answering import Asked, Refused, refusal, search, show
from tests.acceptance.hypo.faults import AFTERWARDS, INSTEAD, spoil
from tests.acceptance.hypo.script import OF_SEARCHES, Change, Fault, Filter, Reads, Round, Ways
from tests.acceptance.hypo.truth import Truth

BASE = "https://ehr.example.org/fhir/r4/RANDOM"
MOST_REQUESTS = 3000
"""Of one round; a few hundred are the most that there is to be asked."""
TIMEOUT = dt.timedelta(seconds=30)


class Server(httpx.AsyncBaseTransport):
    """Answers requests in virtual time; what it holds changes while it does."""

    def __init__(self, ways: Ways, now: Callable[[], dt.datetime]) -> None:
        self.ways = ways
        self.truth = Truth(ways, now)
        self.filter = ways.filter
        self.died = asyncio.Event()
        """The poller is to be killed."""
        self.asked: list[str] = []
        """Paths and queries of this round, for whoever looks into a failure."""
        self._now = now
        self._kept: dict[str, list[tuple[str, str]]] = {}
        self._pending: list[tuple[int, Change]] = []
        self._troubles: dict[int, Fault] = {}
        self._crash: int | None = None

    def begin(self, round_: Round) -> None:
        """What a round brings, from here on."""
        self.asked.clear()
        self.filter = round_.filter or self.filter
        for change in round_.before:
            self.truth.apply(change)
        self._pending = sorted(round_.during, key=lambda pair: pair[0])
        self._troubles = {
            trouble.at + n: trouble.fault for trouble in reversed(round_.troubles) for n in range(trouble.count)
        }
        self._crash = round_.crash
        self.died.clear()

    def end(self) -> None:
        """What was to happen during the round has happened."""
        self._apply_until(None)
        self._troubles, self._crash = {}, None

    def _apply_until(self, number: int | None) -> None:
        while self._pending and (number is None or self._pending[0][0] <= number):
            self.truth.apply(self._pending.pop(0)[1])

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        number = len(self.asked)
        where = unquote(str(request.url)).removeprefix(BASE).removeprefix("/")
        self.asked.append(where)
        assert number < MOST_REQUESTS, f"a round without an end: {self.asked[-20:]}"
        if self._crash is not None and number >= self._crash:
            self._crash = None
            self.died.set()
        takes = self.ways.latency[number % len(self.ways.latency)]
        before = 0 if self.ways.late_answers else takes / 2
        await asyncio.sleep(before)
        self._apply_until(number)
        response = await self._answer(Asked.read(where), self._troubles.get(number))
        await asyncio.sleep(takes - before)
        if self.ways.date is not None and "Date" not in response.headers:
            told = self._now() + dt.timedelta(seconds=self.ways.date)
            response.headers["Date"] = format_datetime(told, usegmt=True)
        return response

    async def _answer(self, asked: Asked, fault: Fault | None) -> httpx.Response:
        if fault is Fault.TIMEOUT:
            await asyncio.sleep(TIMEOUT.total_seconds())
        if fault is not None and fault in INSTEAD:
            return INSTEAD[fault]()
        if asked.id is not None and asked.operation is None:
            return self._read(asked)
        try:
            found = search(self.truth, self.ways, self.filter, self._kept, asked)
        except Refused as refused:
            return refusal(refused.status, refused.code)
        if fault in OF_SEARCHES and not (fault is Fault.HOLE and "_id" in asked.query):
            assert fault is not None
            found = spoil(found, fault)
        body = AFTERWARDS.get(fault, _same)(self._bundle(asked, found.rows, found))
        return httpx.Response(200, content=jsontext.dumps(body), headers={"Content-Type": "application/fhir+json"})

    def _read(self, asked: Asked) -> httpx.Response:
        """A single resource by its path."""
        assert asked.id is not None
        if self.ways.reads is Reads.SEARCH:
            return refusal(400, "not-supported")
        if self.ways.reads is Reads.DOTLESS and "." in asked.id:
            return refusal(500, "exception")
        life = self.truth.lives.get((asked.resource_type, asked.id))
        if life is None or life.now is None:
            return refusal(404 if life is None else self.ways.gone, "not-found")
        return httpx.Response(200, content=jsontext.dumps(show(life)))

    def _bundle(self, asked: Asked, rows: list[Any], found: Any) -> dict[str, Any]:
        root = "http://10.0.0.7:8080/inner/fhir/r4/RANDOM" if self.ways.elsewhere else BASE
        told = found.query if self.filter is not Filter.ECHOED else asked.query
        links = [{"relation": "self", "url": f"{root}/{asked.path}?{_query(told)}"}]
        if found.following is not None:
            again = {name: value for name, value in asked.query.items() if name != "_page"}
            links.append(
                {"relation": "next", "url": f"{root}/{asked.path}?{_query(again | {'_page': found.following})}"}
            )
        total = {"total": found.total} if self.ways.total or found.lies else {}
        entries = [{"resource": show(life), "search": {"mode": "match"}} for life in rows]
        return {"resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries, **total}


def _same(body: dict[str, Any]) -> dict[str, Any]:
    return body


def _query(parameters: dict[str, str]) -> str:
    return "&".join(f"{name}={value}" for name, value in parameters.items())


__all__ = ["BASE", "TIMEOUT", "Server"]
