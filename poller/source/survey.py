"""What a practice's server allows, by evidence: token, what it says of itself, and small real searches of each feed. Few calls."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from poller.core.capability import Finding, PracticeReport, TokenReport, TypeReport, conclude
from poller.core.model import FailureKind, Kind, Strategy
from poller.core.refusals import Why, why_refused
from poller.source.asking import Asked, Asker
from poller.source.auth import Authorization
from poller.source.described import Patients, describe, find_patients
from poller.source.extras import ask_extras, conditional
from poller.source.scopes import Stock, take_stock
from poller.source.strategies import Source
from poller.source.trial import Trial
from poller.source.ways import Records, everything, patient_window, practice_window, several

_ALIKE = (Why.OLD_BUILD, Why.NO_SCOPE, Why.NOT_HERE, Why.NOT_ACTIVATED)
"""Refusals that mean the same with a patient and without."""

_NO_ANSWER = (FailureKind.UNAUTHORIZED, FailureKind.LOCKED_OUT, FailureKind.TRANSPORT)
"""Failures that other patients would not mend."""

_TRIED = 3
"""Patients, and categories of one of them, with whom a refused search is tried."""

_AT_ONCE = 4
"""Feeds that are asked about at a time."""


async def survey(
    source: Source, feeds: Sequence[str], sample: Sequence[str], now: dt.datetime, *, thorough: bool = True
) -> PracticeReport:
    """Find out what the practice allows for these feeds.

    ``sample`` are patients known to be there, some with data if possible; without any a few searches look for some. About four calls and
    five for each feed, more where there is more to prove, and for each category of a feed. They have :attr:`Purpose.PROBE`.

    Not ``thorough``: only a first way of reading each feed is looked for, in two or three calls, so that reading can begin.
    """
    asker = Asker(source)
    authorization = source.client.authorization
    before = authorization.calls
    stock = await take_stock(authorization, source.practice.code, source.practice.scopes)
    granted = _granted(authorization, stock)
    needed = source.practice.auth != "none"
    report = PracticeReport(now, replace(_token(stock, granted), needed=needed))
    if stock.failure is not None:
        types = {feed: conclude(TypeReport(feed, now, None, stock.why)) for feed in feeds}
        return replace(report, types=types, calls=authorization.calls - before)
    report, declared = await describe(asker, report, granted)
    patients = await find_patients(asker, sample)
    async with _records(asker, feeds) as records:
        trials = [_FeedSurvey(Trial(asker, feed, patients.sample), records, patients, granted, now) for feed in feeds]
        types = dict(zip(feeds, await _at_once([one.report(thorough=thorough) for one in trials]), strict=True))
    types = {feed: replace(found, declared=declared.get(feed, ())) for feed, found in types.items()}
    return replace(
        report,
        types=await _ask_conditional(asker, types, [one.trial for one in trials]) if thorough else types,
        patients=len(patients.sample),
        clock_offset_seconds=asker.clock_offset,
        latency_seconds=asker.latency,
        page_size=asker.page_size,
        calls=asker.calls + authorization.calls - before,
    )


def _granted(authorization: Authorization, stock: Stock) -> frozenset[str] | None:
    """The scopes that the token has; None if nobody says."""
    if authorization.granted is None and stock.refused:
        return frozenset(authorization.scopes)
    return authorization.granted


def _token(stock: Stock, granted: Collection[str] | None) -> TokenReport:
    if stock.failure is not None:
        return TokenReport(
            granted=False, status=stock.failure.status, why=stock.failure.detail, kind=stock.failure.kind
        )
    return TokenReport(
        granted=True, scopes=tuple(sorted(granted)) if granted is not None else None, refused=stock.refused
    )


class _FeedSurvey:
    """The questions about one feed, in their order: what each costs depends on the answers before."""

    def __init__(
        self, trial: Trial, records: Records, patients: Patients, granted: Collection[str] | None, now: dt.datetime
    ) -> None:
        self.trial = trial
        self._records = records
        self._patients = patients
        self._granted = granted
        self._now = now

    async def report(self, *, thorough: bool) -> TypeReport:
        """Ask, and say what came of it. A strategy that the configuration sets is taken as it is."""
        trial, found = self.trial, TypeReport(self.trial.feed, self._now, None, Why.UNCLEAR)
        forced = trial.asker.practice.strategy_of(trial.feed)
        if forced != "auto":
            return await self._forced(found, Strategy(forced))
        if not thorough:
            return conclude(replace(await self._first_way(found), thorough=False, evidence=trial.evidence))
        found = await self._whole(found)
        found = await self._by_patient(found)
        if found.why not in _ALIKE:
            found = await self._ways(found)
        refused = trial.evidence.get("refused categories", {}).get("names")
        advice = f"refused categories: {', '.join(refused)}" if isinstance(refused, list) else None
        return conclude(replace(found, evidence=trial.evidence, advice=advice))

    async def _first_way(self, found: TypeReport) -> TypeReport:
        """A way of reading over the whole practice, or else the plain one."""
        found = await self._whole(found)
        if found.whole is not Finding.YES:
            return await self._by_patient(found)
        if "window" in self.trial.forbidden:
            return found
        return replace(found, practice_window=await practice_window(self.trial, self._now, whole=True))

    async def _forced(self, found: TypeReport, strategy: Strategy) -> TypeReport:
        """Whether the type can be read at all, as far as a search or two say."""
        wide = strategy in {Strategy.WINDOW, Strategy.SWEEP}
        found = await self._whole(found) if wide else await self._by_patient(found)
        said = found.whole if wide else found.by_patient
        readable = {Finding.YES: True, Finding.NO: False}.get(said)
        return conclude(replace(found, readable=readable, evidence=self.trial.evidence), strategy)

    async def _whole(self, found: TypeReport) -> TypeReport:
        """A search without any parameter; of patients, by the beginning of a name as well."""
        trial = self.trial
        is_patient = trial.feed == "Patient"
        bare = self._patients.bare if is_patient and self._patients.bare is not None else None
        bare = bare or await trial.asker.first_page(trial.target(Kind.SWEEP))
        trial.note("no parameter", bare)
        trial.add_patients_of(bare)
        found = replace(found, whole=bare.finding, why=self._why(bare))
        names = trial.asker.practice.patients.names
        if not is_patient or not names:
            return found
        by_name = self._patients.by_name or await trial.asker.first_page(
            replace(trial.target(Kind.NAMES), names=names[:1])
        )
        trial.note("name", by_name)
        trial.add_patients_of(by_name)
        return replace(found, by_name=by_name.finding)

    def _why(self, asked: Asked) -> Why:
        """Why a search was answered as it was."""
        if asked.finding is Finding.YES:
            return Why.READABLE
        said = why_refused(asked.said, self.trial.feed, self._granted)
        return said if asked.finding is Finding.NO or said is Why.NOT_ACTIVATED else Why.UNCLEAR

    async def _by_patient(self, found: TypeReport) -> TypeReport:
        """A plain search for a patient."""
        trial, bare = self.trial, found.why
        if not trial.sample:
            return found if bare in _ALIKE else replace(found, why=Why.NO_PATIENT)
        for patient, category in self._places():
            shown = await trial.read(patient, category)
            if shown.finding is Finding.YES:
                return replace(found, by_patient=Finding.YES, why=Why.READABLE)
            if trial.last is not None:
                trial.note("patient", trial.last)
                found = replace(found, by_patient=shown.finding, why=self._why(trial.last))
            if (found.why is bare and bare in _ALIKE) or (
                shown.failure is not None and shown.failure.kind in _NO_ANSWER
            ):
                break
        return found

    def _places(self) -> list[tuple[str, str | None]]:
        """Where a plain search is tried, until one is answered: a patient who is gone or restricted may be refused, or one category."""
        patients, categories = self.trial.sample, self.trial.categories
        return [(patient, categories[0]) for patient in patients[:_TRIED]] + [
            (patients[0], category) for category in categories[1:_TRIED]
        ]

    async def _ways(self, found: TypeReport) -> TypeReport:
        """The ways above the plain one; those that are forbidden are not asked about."""
        trial, forbidden = self.trial, self.trial.forbidden
        if "window" not in forbidden:
            wide = await practice_window(trial, self._now, whole=found.whole is Finding.YES)
            found = replace(found, practice_window=wide)
        if found.by_patient is not Finding.YES:
            return found
        has_windows = found.whole is Finding.YES and found.practice_window is Finding.YES
        if trial.feed != "Patient" and not has_windows and "patient-window" not in forbidden:
            found = replace(found, patient_window=await patient_window(trial, self._now))
        if "patients" not in forbidden:
            found = replace(found, several_patients=await several(trial))
        if not {"everything", "everything-window"} <= forbidden:
            whole, since = await everything(trial, self._records, self._now)
            found = replace(found, everything=whole, everything_since=since)
        return await ask_extras(trial, found, self._now)


@contextlib.asynccontextmanager
async def _records(asker: Asker, feeds: Sequence[str]) -> AsyncIterator[Records]:
    records = Records(asker, feeds)
    try:
        yield records
    finally:
        await records.aclose()


async def _at_once(surveys: Sequence[Coroutine[Any, Any, TypeReport]]) -> list[TypeReport]:
    """The reports in their order, a few feeds asked about at a time; if one fails, so do all."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(survey: Coroutine[Any, Any, TypeReport]) -> TypeReport:
        async with places:
            return await survey

    tasks = [asyncio.create_task(one(survey)) for survey in surveys]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask_conditional(
    asker: Asker, types: Mapping[str, TypeReport], trials: Sequence[Trial]
) -> Mapping[str, TypeReport]:
    """The reports, one of them with what becomes of a conditional read of something that was just seen."""
    for trial in trials:
        held = next((key for shown in trial.plain.values() for key in shown.found), None)
        if held is not None:
            finding = await conditional(asker, *held)
            return {**types, trial.feed: replace(types[trial.feed], conditional=finding)}
    return types
