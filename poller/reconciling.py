"""Reads all targets of a practice, or of one feed, because a person asks what detection has missed: out of turn, within the budget."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from poller import metrics
from poller.asking import Tell
from poller.config import PracticeConfig
from poller.core.model import Action, Coverage, Kind, Target
from poller.cycle import Came, Cycle, PassReport
from poller.errors import PollerError
from poller.reconcile import Reconciler
from poller.store.control import ALL
from poller.store.deletes import Absence, Settled
from poller.store.repository import Key

_CONTENT = frozenset({Kind.SWEEP, Kind.PATIENT, Kind.PATIENTS, Kind.EVERYTHING, Kind.NAMES})
"""Kinds of searches that show all there is, whatever has moved. The windows beside them are read with them."""

_TELL_EVERY = 0.5
"""Seconds between two words on how far it is."""


class Reconciliation:
    """One full pass under way, over all targets that there are at its beginning.

    Where a content read finds something, the window beside it is read next: what that shows was not missed, only not yet read.
    """

    def __init__(
        self, practice: str, feeds: frozenset[str], cycle: Cycle, at_once: int, settled: asyncio.Event
    ) -> None:
        """``practice``: its code; ``at_once``: passes in flight; ``settled`` is set while nothing is to be confirmed or left."""
        self._practice = practice
        self._cycle = cycle
        self._feeds = feeds
        self._at_once = at_once
        self._settled = settled
        self._targets = [
            state.target
            for state in cycle.targets.states.values()
            if state.target.kind in _CONTENT and feeds.intersection(state.target.reads)
        ]
        self._windowed: set[str] = set()
        """Feeds beside whose content reads windows stand."""
        self._missed: set[Key] = set()
        """What windows should have shown since this began, and did not."""
        self._began: dict[str, dt.datetime] = {}
        """By key of a target: when the pass of it began that is ours."""
        self._read = self._whole = 0
        self._failed: Counter[tuple[tuple[str, ...], str]] = Counter()
        self._found: Counter[tuple[str, Action]] = Counter()
        self._held: Counter[str] = Counter()
        self._notes = [
            f"{feed} is not read at present; `poller status {practice}` says why"
            for feed in sorted(feeds - cycle.targets.strategies.keys())
        ]

    async def run(self) -> None:
        """Read them all, and see to what they did not show. Cancelled when the cycle ends."""
        left = iter(self._targets)

        async def work() -> None:
            for target in left:
                await self._take(target)

        await asyncio.gather(*(work() for _ in range(self._at_once)))
        await self._settled.wait()

    async def _take(self, target: Target) -> None:
        if not any(map(self._cycle.order.allows, target.reads)):
            self._fail(target, "the poller has paused it")
            return
        came = await self._cycle.reconcile(target.key)
        if came is None:
            self._fail(target, "not read any more")
            return
        self._note(target, came)
        for key, action in await self._truly_missed(target, came.found):
            self._find(key[0], action)

    async def _truly_missed(self, target: Target, found: Sequence[tuple[Key, Action]]) -> Sequence[tuple[Key, Action]]:
        """Of what a content read has found, what the window beside it does not show now, if there is one that can be read."""
        beside = target.kind.window_beside
        window = self._cycle.targets.states.get(replace(target, kind=beside).key) if beside is not None else None
        if window is None or window.cursor_at is None:
            return found
        shown = await self._cycle.reconcile(window.target.key) if found else None
        if found and (shown is None or shown.coverage is not Coverage.COMPLETE):
            return found
        self._windowed.update(target.reads)
        return [(key, action) for key, action in found if key in self._missed]

    def note_pass(self, report: PassReport) -> None:
        """Take note of what a window has not shown."""
        self._missed.update(report.missed)

    def _fail(self, target: Target, why: str) -> None:
        self._read += 1
        self._failed[target.reads, why] += 1

    def _note(self, target: Target, came: Came) -> None:
        self._began[target.key] = came.began
        if came.failure is not None:
            self._fail(target, came.failure.detail or came.failure.kind.value)
        elif came.coverage is not Coverage.COMPLETE:
            self._fail(target, f"{came.coverage.value}: it is not proven that these are all")
        else:
            self._read += 1
            self._whole += 1

    def _find(self, feed: str, action: Action) -> None:
        self._found[feed, action] += 1
        metrics.FOUND_BY_RECONCILE.labels(self._practice, feed, action.value).inc()

    def note_settled(self, absence: Absence, settled: Settled) -> None:
        """Count a delete, if it was a pass of ours that first did not show the resource."""
        began = self._began.get(absence.target)
        if began is None or absence.first_missing_at < began:
            return
        if settled is Settled.DELETED:
            self._find(absence.resource_type, Action.DELETED)
        elif settled is Settled.HELD:
            self._held[absence.resource_type] += 1

    def said(self) -> dict[str, Any]:
        """How far it is, and what it has found. Holds no id."""
        found: dict[str, dict[str, int]] = {}
        for (feed, action), number in sorted(self._found.items()):
            found.setdefault(feed, {})[action.value] = number
        return {
            "total": len(self._targets),
            "read": self._read,
            "whole": self._whole,
            "failed": [
                {"feeds": list(feeds), "failure": failure, "searches": number}
                for (feeds, failure), number in sorted(self._failed.items())
            ],
            "found": [
                {"feed": feed, "windows": feed in self._windowed, "actions": actions} for feed, actions in found.items()
            ],
            "held": dict(self._held),
            "notes": list(self._notes),
        }


class Reconciling:
    """The full passes of one practice: one at a time."""

    def __init__(self, config: PracticeConfig, cycle: Cycle, reconciler: Reconciler, settled: asyncio.Event) -> None:
        self._config = config
        self._cycle = cycle
        self._reconciler = reconciler
        self._settled = settled
        self._feed = ALL
        self._run: Reconciliation | None = None
        """What is under way."""
        self._task: asyncio.Task[None] | None = None

    async def ask(self, feed: str, tell: Tell) -> dict[str, Any]:
        """Read all of a feed, or of :data:`ALL`; what that came to. Who asks while it is under way is told of the same pass.

        Whoever asks may go away: it is read all the same. Raises PollerError.
        """
        joins = self._run is not None
        if joins and self._feed not in {ALL, feed}:
            raise PollerError(f"{self._feed} is being reconciled; ask again when that has ended")
        run, task = (self._run, self._task) if self._run is not None and self._task is not None else self._begin(feed)
        while not task.done():
            await tell(run.said() | {"joined": joins})
            await asyncio.wait({task}, timeout=_TELL_EVERY)
        if task.cancelled():
            raise PollerError("the practice was stopped or begun anew meanwhile; ask again")
        task.result()
        return run.said() | {"joined": joins}

    def _begin(self, feed: str) -> tuple[Reconciliation, asyncio.Task[None]]:
        if feed not in {ALL, *self._config.feeds}:
            why = "an operator has paused it, or the engine has another configuration"
            raise PollerError(f"{feed} is not read here now: {why}")
        feeds = frozenset(self._config.feeds if feed == ALL else [feed])
        at_once = max(1, self._config.budget.max_in_flight // 2)  # the other half is for what is owed
        run = Reconciliation(self._config.code, feeds, self._cycle, at_once, self._settled)
        task = asyncio.create_task(run.run())
        self._feed, self._run, self._task = feed, run, task
        self._reconciler.on_settled = run.note_settled
        task.add_done_callback(self._ended)
        return run, task

    def _ended(self, _task: asyncio.Task[None]) -> None:
        self._run = self._task = None
        self._reconciler.on_settled = lambda _absence, _settled: None  # what is settled from now on was not missed

    def note_pass(self, report: PassReport) -> None:
        """Hear of every pass of the practice."""
        if self._run is not None:
            self._run.note_pass(report)

    def stop(self) -> None:
        """End what is under way; what it has found is kept."""
        if self._task is not None:
            self._task.cancel()
