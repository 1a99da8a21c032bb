"""A practice whose activation is withdrawn is paused, tried gently, and read again by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from poller.core import pause
from poller.core.pause import PRACTICE, Reason, Standing
from poller.store.engine import READER
from poller.store.state import StateStore
from tests.acceptance.parts import store_url, wait_until, with_rabbit
from tests.acceptance.rig import OPEN, Rig, spec

UNREADABLE_FIRST = ("Coverage",)


@pytest.mark.parametrize("types", [pytest.param((), marks=pytest.mark.soak), UNREADABLE_FIRST])
def test_a_practice_that_lets_us_in_again_is_read_again(
    types: tuple[str, ...],
    tmp_path: Path,
    database_url: str,
    rabbit_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the feed that is tried is one that is never to be had: ``types`` that the build is too old for."""
    monkeypatch.setattr(Standing, "feed_to_try", lambda _self, feeds: min(feeds))
    monkeypatch.setattr(pause, "_GAPS", dict.fromkeys(Reason, (0.3, 0.6)))
    monkeypatch.setattr("poller.source.auth._HOLD_OFF", (0.1, 0.2))
    services = with_rabbit(store_url(database_url), rabbit_url)
    feeds: dict[str, Any] = {"Patient": {}, "Encounter": {}} | {resource_type: {} for resource_type in types}
    with Rig(tmp_path, services, [spec(OPEN, patients=2, coverage=False)], practice={"feeds": feeds}) as rig:
        rig.world.set_faults(OPEN, access_denied=1.0)
        with rig.engine():
            states = StateStore(rig.installation().engine(READER, 1))
            log = rig.installation().reading_log
            wait_until("the practice is paused", lambda: PRACTICE in states.pauses(OPEN), 30)
            assert states.pauses(OPEN)[PRACTICE].reason is Reason.NO_ACCESS
            asked = len(rig.world.calls(OPEN))
            wait_until("it is tried again", lambda: states.pauses(OPEN)[PRACTICE].tries >= 4, 30)
            assert len(rig.world.calls(OPEN)) - asked <= 4 * states.pauses(OPEN)[PRACTICE].tries
            assert log.after(OPEN, 0, 0, 1, bodies=False) == []
            rig.world.clear_faults(OPEN)
            wait_until("it is read again", lambda: log.after(OPEN, 0, 0, 1, bodies=False), 15)
            wait_until("nothing is paused", lambda: PRACTICE not in states.pauses(OPEN), 10)
