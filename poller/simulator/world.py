"""The simulated world: practices, their lives, and the truth about both.

No clock of its own: every method that needs the time is given it. One lock makes writing and reading consistent across threads.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from typing import TYPE_CHECKING, Any

from poller.simulator import moves
from poller.simulator.adjust import changed
from poller.simulator.care import Care
from poller.simulator.practice import Practice
from poller.simulator.tokens import TokenDesk
from poller.simulator.truth import Call, Key, PracticeTruth, TrueVersion, export_truth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from poller.simulator.faults import Faults
    from poller.simulator.spec import PracticeSpec

_TICK = 0.05


class World:
    """All practices of one simulator.

    ``now`` is when the world begins; what exists then is its past. Deterministic for a seed, given the same calls with the same times.
    """

    def __init__(self, practices: Sequence[PracticeSpec], *, seed: int = 1, now: dt.datetime | None = None) -> None:
        self.lock = threading.RLock()
        self.began = now or dt.datetime.now(dt.UTC)
        self.practices = {spec.code: Practice(spec, seed, self.began) for spec in practices}
        self.tokens = TokenDesk(seed)
        self._care = {code: Care(practice) for code, practice in self.practices.items()}
        for code, care in self._care.items():
            care.settle(self.began)
            self.practices[code].chart.reveal(self.began)

    def register(self, public_keys: Mapping[str, Any]) -> None:
        """Register a JWKS ({"keys": […]}) of the app for every practice. Raises ValueError when it holds no public key."""
        with self.lock:
            for practice in self.practices.values():
                self.tokens.register(practice.spec.client, public_keys, practice.spec.code)

    def begin(self, now: dt.datetime, changes_per_second: float) -> None:
        """Life goes on from ``now``: about so many changes a second in each practice."""
        with self.lock:
            for care in self._care.values():
                care.begin(now, changes_per_second)

    def quiet(self) -> None:
        """Nothing changes any more; what was written late still becomes visible."""
        with self.lock:
            for care in self._care.values():
                care.quiet()

    def advance(self, now: dt.datetime) -> None:
        """Let happen, and be seen, all that is due by ``now``."""
        with self.lock:
            for code, care in self._care.items():
                care.advance(now)
                self.practices[code].chart.reveal(now)

    def put(self, code: str, resource: Mapping[str, Any], now: dt.datetime) -> None:
        """Create or edit one resource by hand."""
        with self.lock:
            practice = self.practices[code]
            practice.put(dict(resource), now)
            practice.chart.reveal(now)

    def delete(self, code: str, resource_type: str, name: str, now: dt.datetime) -> None:
        """Delete one resource by hand. Raises KeyError when it is not there."""
        with self.lock:
            practice = self.practices[code]
            practice.delete(resource_type, name, now)
            practice.chart.reveal(now)

    def merge(self, code: str, old: str, new: str, now: dt.datetime, *, vanish: bool = False) -> None:
        """Merge one patient into another by hand; see :func:`moves.merge`. KeyError when one of them is not there."""
        with self.lock:
            practice = self.practices[code]
            moves.merge(practice, old, new, now, vanish=vanish)
            practice.chart.reveal(now)

    def remove_patient(self, code: str, patient: str, now: dt.datetime) -> None:
        """Delete a patient with all records by hand. KeyError when there is no such patient."""
        with self.lock:
            practice = self.practices[code]
            moves.remove(practice, patient, now)
            practice.chart.reveal(now)

    def enter_in_error(self, code: str, resource_type: str, name: str, now: dt.datetime) -> None:
        """Mark one resource as entered in error by hand. KeyError when it is not there."""
        with self.lock:
            written = self.practices[code].chart.written(resource_type)[name]
            self.put(code, moves.erroneous(dict(written)), now)

    def written(self, code: str, resource_type: str) -> dict[str, Mapping[str, Any]]:
        """Id → resource as last written."""
        with self.lock:
            return dict(self.practices[code].chart.written(resource_type))

    def set_faults(self, code: str | None = None, **settings: object) -> None:
        """Set some switches of one practice or of all. Raises ValueError for one that there is not."""
        with self.lock:
            for practice in self.practices.values():
                if code in (None, practice.spec.code):
                    practice.faults.set(settings)

    def clear_faults(self, code: str | None = None) -> None:
        """Switch all faults off, in one practice or in all."""
        with self.lock:
            for practice in self.practices.values():
                if code in (None, practice.spec.code):
                    practice.faults.clear()

    def faults(self, code: str) -> Faults:
        """The practice's switches."""
        return self.practices[code].faults

    def set_manners(self, code: str, **changes: Any) -> None:
        """Let a practice have other manners from now on, e.g. ``everything="off"``. KeyError for no such practice.

        ValueError for a manner that there is not, that cannot change, or that has no such value.
        """
        with self.lock:
            practice = self.practices[code]
            practice.spec = changed(practice.spec, changes)

    def revoke_tokens(self) -> None:
        """No token given out so far is good any more."""
        with self.lock:
            self.tokens.revoke()

    def truth(self, code: str) -> dict[Key, list[TrueVersion]]:
        """Every version of every resource of a practice."""
        with self.lock:
            return self.practices[code].chart.truth()

    def calls(self, code: str) -> list[Call]:
        """The practice's calls in the order in which they arrived, refused ones too."""
        with self.lock:
            return list(self.practices[code].calls)

    def evidence(self) -> dict[str, PracticeTruth]:
        """What a judge needs, by practice."""
        with self.lock:
            return {code: practice.truth() for code, practice in self.practices.items()}

    def export(self) -> dict[str, Any]:
        """:meth:`evidence` as JSON; write it with :func:`jsontext.dumps`, read it with :func:`truth.load_truth`."""
        return export_truth(self.evidence())


async def run(world: World, changes_per_second: float, stop: asyncio.Event, clock: Callable[[], dt.datetime]) -> None:
    """Let the world live in real time until ``stop`` is set; after :meth:`World.quiet` it only lets late commits appear."""
    world.begin(clock(), changes_per_second)
    while not stop.is_set():
        world.advance(clock())
        try:
            await asyncio.wait_for(stop.wait(), _TICK)
        except TimeoutError:
            continue
