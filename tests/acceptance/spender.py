"""Spends a practice's budget as fast as the gate allows, until killed: ``python -m tests.acceptance.spender CONFIG CODE``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from poller import logs
from poller.app import Installation
from poller.clock import SystemClock
from poller.config import load
from poller.core.model import Kind, Purpose, Target
from poller.source.connection import open_source
from poller.source.strategies import Source
from poller.store.engine import ENGINE
from poller.store.ledger import PostgresLedger

AT_ONCE = 8


async def _read_on(source: Source, code: str) -> None:
    target = Target(code, "Observation", Kind.SWEEP)
    while True:
        async for _ in source.read(target, None, Purpose.DETECT):
            pass


async def spend(config: Path, code: str) -> None:
    """Read one practice again and again, with more passes than there is budget for."""
    with Installation(load(config)) as installation:
        ledger = PostgresLedger(installation.engine(ENGINE, 2))
        async with open_source(installation.practice(code), ledger, SystemClock()) as source:
            await asyncio.gather(*(_read_on(source, code) for _ in range(AT_ONCE)))


if __name__ == "__main__":
    logs.configure("json", "warning")
    asyncio.run(spend(Path(sys.argv[1]), sys.argv[2]))
