"""Small histories, calls and events for the tests of the judge."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from poller.core import jsontext
from poller.simulator.judge import FeedSchedule, Received, Rules, judge
from poller.simulator.truth import Call, PracticeTruth, SearchScope, TrueVersion

START = dt.datetime(2026, 11, 22, 15, 0, tzinfo=dt.UTC)
CODE = "BBBBBB"
FEED = FeedSchedule("Observation", every=5, sweep_every=15)
LENIENT = Rules(min_changes=0, min_deletes=0)


def at(seconds: float) -> dt.datetime:
    return START + dt.timedelta(seconds=seconds)


def observation(value: str, name: str = "o1", **more: Any) -> dict[str, Any]:
    quantity = {"value": jsontext.Literal(value)}
    return {"resourceType": "Observation", "id": name, "status": "final", "valueQuantity": quantity, **more}


def history(*states: tuple[float, dict[str, Any] | None]) -> list[TrueVersion]:
    """States with the seconds at which they began."""
    starts = [at(second) for second, _ in states]
    return [
        TrueVersion(resource, start, start, until)
        for (_, resource), start, until in zip(states, starts, [*starts[1:], None], strict=True)
    ]


def sweep(began: float, ended: float, *rows: str, read: int, **scope: Any) -> Call:
    return Call(
        arrived=began,
        arrived_at=at(began),
        path="/Observation",
        query=(),
        kind="search",
        status=200,
        finished=ended,
        finished_at=at(ended),
        scope=SearchScope("Observation", **scope),
        read=read,
        page=1,
        last=True,
        rows=rows,
    )


def event(
    second: float,
    resource: Mapping[str, Any] | None,
    number: int,
    *,
    name: str = "o1",
    version: int | None = None,
    **more: Any,
) -> Received:
    action = "deleted" if resource is None else "created" if number == 1 else "updated"
    return Received(
        {
            "id": f"{name}-{number}",
            "source": f"http://127.0.0.1:8765/fhir/r4/{CODE}",
            "type": f"dev.ehrpoller.resource.{action}.v1",
            "subject": f"Observation/{name}",
            "time": at(second).isoformat(),
            "sequence": f"0000000001-{number:020d}",
            "origin": "live",
            "data": {"response": {"etag": f'W/"{version or number}"'}} | ({"resource": resource} if resource else {}),
            **more,
        },
        at(second),
    )


A, B, C = observation("13.20"), observation("13.2"), observation("14.0")
BASELINE = sweep(0, 1, "o1", read=1)


def verdict(
    versions: Sequence[TrueVersion], events: Sequence[Received], *calls: Call, rules: Rules = LENIENT
) -> dict[str, Any]:
    evidence = PracticeTruth("open", 250, {("Observation", "o1"): versions}, [BASELINE, *calls])
    return judge({CODE: evidence}, events, {CODE: [FEED]}, rules)


def row(result: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = result["practices"][CODE]
    return found


FIRST = event(1, A, 1, origin="baseline")
