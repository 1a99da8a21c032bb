"""Health, readiness and metrics over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from poller import metrics
from poller.errors import PollerError
from poller.web.status import StatusServer

PARTS = {"store": "ok"}


@pytest.fixture
def server() -> Iterator[StatusServer]:
    serving = StatusServer("127.0.0.1", 0, lambda: PARTS)
    yield serving
    serving.close()


def test_it_tells_health_readiness_and_metrics(server: StatusServer, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics.LATE.labels("P", "Observation").set(1)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").status_code == 200
        assert 'poller_feed_late{feed="Observation",practice="P"} 1.0' in client.get("/metrics").text
        monkeypatch.setitem(PARTS, "sink changes", "broker away")
        away = client.get("/readyz")
        assert away.status_code == 503
        assert away.json()["parts"]["sink changes"] == "broker away"
        assert client.get("/healthz").status_code == 200


def test_a_port_in_use_is_said_at_the_start(server: StatusServer) -> None:
    with pytest.raises(PollerError, match=r"http\.listen"):
        StatusServer("127.0.0.1", server.port, lambda: PARTS)
