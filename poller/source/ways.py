"""The ways of reading above the plain one: each is tried on a few patients, and proven by showing what plain searches show."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence

from poller.core.capability import Finding
from poller.core.model import EVERY_TYPE, Kind, Target
from poller.core.window import BEGINNING
from poller.source import links
from poller.source.asking import Asked, Asker, Shown
from poller.source.trial import Pair, Trial

FUTURE = dt.timedelta(days=366)
"""A window that starts so far ahead must come back empty."""

_OF_THE_PATIENT = frozenset({403, 404, 410})
"""Statuses by which ``$everything`` may be refused for a patient who is gone, or restricted, and not for others."""

_TRIED = 3
"""Patients of whom ``$everything`` is read to find one who has something of a type."""


async def practice_window(trial: Trial, now: dt.datetime, *, whole: bool) -> Finding:
    """What becomes of ``_lastUpdated`` over the whole practice; ``whole``: such a search is answered without any parameter."""
    target = trial.target(Kind.WINDOW)
    future = await _window(trial, "window in the future", target, now + FUTURE)
    if future is not Finding.YES or not whole:
        return future
    asked = await trial.asker.first_page(target, BEGINNING)
    named = _is_named(asked)
    trial.note("window over all time", asked, named=named)
    if asked.finding is not Finding.YES:
        return asked.finding
    if not named:
        return Finding.IGNORED
    lost_all = asked.is_empty and bool(trial.evidence.get("no parameter", {}).get("rows"))
    return Finding.DIFFERS if lost_all else Finding.YES


async def _window(trial: Trial, name: str, target: Target, since: dt.datetime) -> Finding:
    """What becomes of a window that can hold nothing."""
    asked = await trial.asker.first_page(target, since)
    named = _is_named(asked)
    trial.note(name, asked, empty=asked.is_empty, named=named)
    if asked.finding is not Finding.YES:
        return asked.finding
    return Finding.YES if named and asked.is_empty else Finding.IGNORED


def _is_named(asked: Asked) -> bool:
    return asked.page is not None and links.names(asked.page.self_link, "_lastUpdated")


async def patient_window(trial: Trial, now: dt.datetime) -> Finding:
    """What becomes of ``_lastUpdated`` with a patient: a window over all time must show what a plain search does."""
    first = trial.target(Kind.PATIENT_WINDOW, trial.sample[0], trial.categories[0])
    future = await _window(trial, "patient's window in the future", first, now + FUTURE)
    if future is not Finding.YES:
        return future
    holders, category = await trial.holders(1)
    if not holders:
        return Finding.UNPROVEN
    target = trial.target(Kind.PATIENT_WINDOW, holders[0], category)

    async def pair(*, again: bool = False) -> Pair:
        plain = await trial.read(holders[0], category, again=again)
        return trial.way([plain], holders), trial.way([await trial.asker.read(target, BEGINNING)], holders)

    return await trial.equal("patient's window over all time", await pair(), lambda: pair(again=True))


async def several(trial: Trial) -> Finding:
    """What becomes of several patients in one search: those who have something must all be answered, the last one too."""
    pair_of_them = (
        trial.sample[0],
        trial.sample[-1],
    )  # one may be all there is: a refusal is learned from that one twice, too
    asked = await trial.asker.first_page(trial.group(pair_of_them, trial.categories[0]))
    trial.note("several patients", asked)
    if asked.finding is not Finding.YES:
        return asked.finding
    holders, category = await trial.holders(2)
    if len(holders) < 2:  # noqa: PLR2004 - the first and the last of a group
        return Finding.UNPROVEN
    others = [patient for patient in trial.sample if patient not in holders]
    group = [holders[0], *others[: trial.asker.practice.patients_per_call - 2], holders[1]]

    async def pair(*, again: bool = False) -> Pair:
        plain = [await trial.read(patient, category, again=again) for patient in holders]
        return trial.way(plain, holders), trial.way([await trial.asker.read(trial.group(group, category))], group)

    plain, together = await pair()
    if together.failure is None and any(together.is_foreign(version) for version in together.found.values()):
        return trial.say("several patients, compared", Finding.IGNORED)
    if together.failure is None and {version.detail.patient for version in together.found.values()} == {group[0]}:
        return trial.say("several patients, compared", Finding.FIRST)
    return await trial.equal("several patients, compared", (plain, together), lambda: pair(again=True))


class Records:
    """Patients' ``$everything``, each asked for once, whichever feeds want to see it."""

    def __init__(self, asker: Asker, feeds: Sequence[str]) -> None:
        self._asker = asker
        self._types = tuple(feeds)
        self._known: dict[tuple[str, dt.datetime | None], asyncio.Task[Shown]] = {}

    async def whole(self, patient: str, *, again: bool = False) -> Shown:
        """All of it; ``again``: as it is now."""
        return await self._read(patient, None, again=again)

    async def since(self, patient: str, moment: dt.datetime, *, again: bool = False) -> Shown:
        """What moved since then."""
        return await self._read(patient, moment, again=again)

    async def _read(self, patient: str, since: dt.datetime | None, *, again: bool) -> Shown:
        key = patient, since
        if again or key not in self._known:
            kind = Kind.EVERYTHING if since is None else Kind.EVERYTHING_WINDOW
            target = Target(self._asker.practice.code, EVERY_TYPE, kind, patient=patient, types=self._types)
            self._known[key] = asyncio.create_task(self._asker.read(target, since))
        return await asyncio.shield(self._known[key])

    async def aclose(self) -> None:
        """End what is still under way."""
        for task in self._known.values():
            task.cancel()
        await asyncio.gather(*self._known.values(), return_exceptions=True)


async def everything(trial: Trial, records: Records, now: dt.datetime) -> tuple[Finding, Finding]:
    """What becomes of ``$everything``, and of ``_since`` with it: of one patient who has something of the type."""
    finding = Finding.UNPROVEN
    for patient in trial.sample[:_TRIED]:
        shown = await records.whole(patient)
        if shown.finding is not Finding.YES:
            finding = trial.say("$everything", shown.finding)
            if shown.failure is not None and shown.failure.status in _OF_THE_PATIENT:
                continue
            break

        async def pair(*, again: bool = False, patient: str = patient) -> Pair:
            plain = await trial.read_all(patient, again=again)
            return plain, trial.way([await records.whole(patient, again=again)], [patient])

        finding = await trial.equal("$everything", await pair(), lambda: pair(again=True))
        if finding is Finding.YES and "everything-window" not in trial.forbidden:
            return finding, await _since(trial, records, patient, now)
        if finding is not Finding.UNPROVEN:
            break
    return finding, Finding.UNTESTED


async def _since(trial: Trial, records: Records, patient: str, now: dt.datetime) -> Finding:
    """What becomes of ``_since`` with ``$everything``: nothing since the future, and all since the beginning."""
    name = "$everything since"
    future = await records.since(patient, now + FUTURE)
    if future.finding is not Finding.YES:
        return trial.say(name, future.finding)
    if future.of(trial.feed):
        return trial.say(name, Finding.IGNORED)

    async def pair(*, again: bool = False) -> Pair:
        whole = await records.whole(patient, again=again)
        windowed = await records.since(patient, BEGINNING, again=again)
        return trial.way([whole], [patient]), trial.way([windowed], [patient])

    return await trial.equal(name, await pair(), lambda: pair(again=True))
