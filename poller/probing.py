"""A survey that a person asks for: made now, within the practice's budget, and kept."""

from __future__ import annotations

import asyncio
import random

from poller.app import Installation
from poller.config import PracticeConfig
from poller.config.difference import without_feeds
from poller.core.capability import PracticeReport
from poller.errors import NotFound, Unanswered
from poller.source.connection import open_source
from poller.source.survey import survey
from poller.store import engine as postgres
from poller.store.control import ALL
from poller.store.ledger import PostgresLedger
from poller.store.probes import ProbeStore
from poller.store.state import StateStore


def last_report(installation: Installation, practice: PracticeConfig) -> PracticeReport:
    """What was found last. Raises NotFound if nothing was, and StoreError."""
    report = installation.probes.latest(practice.code)
    if report is None:
        raise NotFound(f"nothing was found out about {practice.code} yet; `poller probe {practice.code}` asks now")
    return report


def probe_practice(installation: Installation, practice: PracticeConfig) -> PracticeReport:
    """Find out what a practice allows. Needs no lease: a poller may hold the practice, and shares its budget with us.

    Raises Unanswered for what an operator has paused, for which no call is made, and StoreError.
    """
    installation.prepare()
    paused = {held.feed: held for held in installation.control.pauses(practice.code)}
    left = without_feeds(practice, frozenset(paused)) if ALL not in paused else None
    if left is None:
        held = next(iter(paused.values()))
        raise Unanswered(
            f"{practice.code} is paused by {held.actor}: {held.reason}; `poller resume {practice.code}` ends that"
        )
    return asyncio.run(_probe(installation, left))


async def _probe(installation: Installation, practice: PracticeConfig) -> PracticeReport:
    database = installation.engine(postgres.ENGINE, 2)
    ledger = PostgresLedger(installation.engine(postgres.ENGINE, 2))
    clock = await asyncio.to_thread(postgres.open_clock, database)
    known = await asyncio.to_thread(StateStore(database).patients, practice.code)
    present = [patient.id for patient in known if not patient.gone]
    sample = random.sample(present, min(len(present), practice.patients_per_call))
    async with open_source(practice, ledger, clock) as source:
        report = await survey(source, list(practice.feeds), sample, clock.now())
    return await asyncio.to_thread(ProbeStore(database).save_asked, practice.code, report)
