"""A survey's own questions do not make a server look sick."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from poller.core import faults
from poller.core.capability import Finding
from poller.source.asking import Asker
from poller.source.extras import conditional
from tests.source_bench import always, refusal


@pytest.mark.parametrize(("name", "is_sick"), [("o.2", False), ("o2", True)])
def test_a_read_of_a_dotted_id_that_fails_says_nothing_of_the_servers_health(
    name: str, is_sick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each survey makes the evidence of all absences void, and where surveys follow each other nothing is ever deleted."""

    monkeypatch.setattr(faults, "backoff", lambda *_: 0.0)

    async def ask() -> tuple[Finding, dt.datetime | None]:
        async with always(lambda: refusal(500, "exception")).source() as source:
            return await conditional(Asker(source), "Observation", name), source.last_server_error

    found, error = asyncio.run(ask())
    assert found is Finding.UNCLEAR
    assert (error is not None) is is_sick
