"""How a feed can be read is decided by evidence."""

from __future__ import annotations

import httpx
import pytest

from poller.core.model import Strategy
from tests.source_bench import (
    Server,
    bundle,
    html,
    ok,
    refusal,
)


def probing(future: httpx.Response, past: httpx.Response | None = None, bare: httpx.Response | None = None) -> Server:
    def script(where: str, _request: httpx.Request) -> httpx.Response:
        answer = past if "ge1970" in where else future if "_lastUpdated" in where else bare
        assert answer is not None, f"{where} was not to be asked"
        return answer

    return Server(script)


NAMED = "Observation?_lastUpdated=x"


@pytest.mark.parametrize(
    ("server", "strategy", "calls"),
    [
        (probing(ok(bundle(own=NAMED)), ok(bundle("a", own=NAMED)), ok(bundle("a"))), Strategy.WINDOW, 3),
        (probing(ok(bundle(own=NAMED)), ok(bundle(own=NAMED)), ok(bundle())), Strategy.WINDOW, 3),
        (probing(ok(bundle(own=NAMED)), ok(bundle("a", own=NAMED)), refusal(400, "required")), Strategy.PATIENT, 3),
        (probing(ok(bundle(own=NAMED)), ok(bundle("a", own=NAMED)), refusal(503)), None, 3),
        (probing(ok(bundle(own=NAMED)), refusal(400)), Strategy.PATIENT, 2),
        (probing(ok(bundle(own=NAMED)), refusal(500)), None, 2),
        (probing(refusal(400)), Strategy.PATIENT, 1),
        (probing(httpx.Response(400)), Strategy.PATIENT, 1),
        (probing(httpx.Response(400, html="<h1>Blocked</h1>")), None, 1),
        (probing(refusal(400, "transient")), None, 1),
        (probing(refusal(403)), None, 1),
        (probing(refusal(404)), None, 1),
        (probing(httpx.Response(401)), None, 2),
        (probing(httpx.Response(500)), None, 1),
        (probing(html()), None, 1),
        (probing(ok(bundle("a", own=NAMED)), bare=ok(bundle("a"))), Strategy.SWEEP, 2),
        (probing(ok(bundle(own=NAMED, total=9)), bare=ok(bundle("a"))), Strategy.SWEEP, 2),
        (probing(ok(bundle(own="Observation")), bare=ok(bundle("a"))), Strategy.SWEEP, 2),
        (probing(ok(bundle()), bare=ok(bundle("a"))), Strategy.SWEEP, 2),
        (probing(ok(bundle("a")), bare=refusal(400, "required")), Strategy.PATIENT, 2),
        (probing(ok(bundle("a")), bare=refusal(503)), None, 2),
        (probing(ok(bundle(own=NAMED)), ok(bundle("a")), bare=ok(bundle())), Strategy.SWEEP, 3),
    ],
)
def test_the_probe_decides_by_evidence(server: Server, strategy: Strategy | None, calls: int) -> None:
    verdict = server.probe()
    assert verdict.strategy is strategy
    assert verdict.reason
    assert len(server.asked) == calls
    shown = repr(verdict)
    assert "Jane" not in shown
    assert "'a'" not in shown
    assert all(set(found) <= {"status", "empty", "named"} for found in verdict.evidence.values())


def test_the_probe_says_how_patients_are_found() -> None:
    assert "by name" in probing(refusal(400)).probe("Patient").reason


def test_an_operators_strategy_is_taken_without_a_call() -> None:
    server = probing(refusal(400))
    assert server.probe(strategy="sweep").strategy is Strategy.SWEEP
    assert not server.asked
