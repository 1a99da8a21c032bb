"""When a feed's way of being read is asked for anew."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any

from poller.config.model import PracticeConfig
from poller.core.model import Failure, FailureKind, Kind, Target
from poller.cycle import PassReport
from poller.store.repository import Lease
from poller.supervise import PROBE_EVERY, Stores, _Service

if TYPE_CHECKING:
    from pathlib import Path

T0 = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
REFUSED = Failure(FailureKind.REFUSED, 400)


class Clock:
    """Stands still until told."""

    time = T0

    def now(self) -> dt.datetime:
        return self.time


async def probed_at(config: PracticeConfig, refusals_every: float, count: int) -> dt.timedelta:
    """When the feed is to be probed, after so many refused passes of it."""
    nothing: Any = None
    clock = Clock()
    stores = Stores(nothing, nothing, nothing, nothing)
    service = _Service(config, stores, Lease("A", 1), nothing, clock, b"k" * 32, lambda: None)
    service._probe_at["Condition"] = T0 + PROBE_EVERY
    for failures in range(1, count + 1):
        clock.time = T0 + dt.timedelta(seconds=refusals_every * failures)
        service._after_pass(PassReport(Target("A", "Condition", Kind.SWEEP), REFUSED, failures))
    return service._probe_at["Condition"] - T0


def a_practice(tmp_path: Path) -> PracticeConfig:
    key = tmp_path / "key.pem"
    return PracticeConfig.model_construct(
        code="A", budget=None, deletes=PracticeConfig.model_fields["deletes"].default, feeds={}, key=key
    )


def test_one_refusal_is_no_reason(tmp_path: Path) -> None:
    assert asyncio.run(probed_at(a_practice(tmp_path), 1, 1)) == PROBE_EVERY


def test_two_in_a_row_are(tmp_path: Path) -> None:
    assert asyncio.run(probed_at(a_practice(tmp_path), 1, 2)) == dt.timedelta(seconds=2 + 5)


def test_refusals_that_go_on_do_not_put_it_off(tmp_path: Path) -> None:
    assert asyncio.run(probed_at(a_practice(tmp_path), 1, 40)) == dt.timedelta(seconds=2 + 5)
