"""Puts a practice's source together: gate, wire, authorization, client."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import httpx

from poller.clock import Clock
from poller.config.model import PracticeConfig
from poller.source.auth import Authorization, Open
from poller.source.client import Client
from poller.source.gate import Gate, Ledger
from poller.source.grants import Grants
from poller.source.strategies import Source
from poller.source.wire import Observer, Wire, unobserved


@contextlib.asynccontextmanager
async def open_source(
    practice: PracticeConfig,
    ledger: Ledger,
    clock: Clock,
    *,
    grants: Grants | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    observer: Observer = unobserved,
) -> AsyncIterator[Source]:
    """The source of a practice, on the running event loop; closed when the block ends.

    ``grants`` asks ``ledger`` for many practices together. ``transport`` is for tests; ``observer`` is told of each request, token calls
    too.
    """
    gate = Gate(practice.code, practice.budget, ledger, together=grants.grant if grants is not None else None)
    wire = Wire(
        practice.base_url,
        practice.timeout,
        practice.budget.max_in_flight,
        clock,
        transport,
        observer,
        ca=practice.tls.ca,
        proxy=practice.proxy,
    )
    authorization = (Open if practice.auth == "none" else Authorization)(practice, gate, wire)
    client = Client(practice.code, practice.base_url, gate, authorization, wire, clock)
    try:
        yield Source(practice, client, clock)
    finally:
        await authorization.aclose()
        await gate.aclose()
        await wire.aclose()
