"""The fixture of :mod:`tests.relaying`, beside those of the brokers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from poller.store.engine import ENGINE, RELAY, open_engine
from poller.store.sinks import SinkLog
from poller.store.state import LeaseKeeper
from tests.relaying import History

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["tests.broker_bench"]


@pytest.fixture
def history(database_url: str) -> Iterator[History]:
    engine, relay = open_engine(database_url, ENGINE), open_engine(database_url, RELAY)
    leases = LeaseKeeper(engine)
    yield History(engine, SinkLog(relay), leases)
    leases.close()
    engine.dispose()
    relay.dispose()
