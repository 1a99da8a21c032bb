"""A relay between a real log and real brokers: a database in which practices have a life, and ways to look at what comes of it."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, text

from poller.core import jsontext
from poller.core.canonical import reduce
from poller.core.model import Kind, Origin, Sighting, Target
from poller.core.sink import Sink
from poller.outlet import Outlet
from poller.relay import Relay
from poller.store.log import EventLog
from poller.store.repository import PassContext, Repository
from poller.store.sinks import SinkLog
from poller.store.state import LeaseKeeper, StateStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, MutableMapping

    from poller.broker.port import Broker
    from poller.store.sinks import Books

SOURCES = {"A": "https://ehr.example/A", "B": "https://ehr.example/B"}


@dataclass
class History:
    """A database in which practices A and B have a life."""

    engine: Engine
    log: SinkLog
    leases: LeaseKeeper

    def change(self, practice: str, id_: str, value: str, origin: Origin = Origin.LIVE, more: str = "") -> None:
        """One change of one observation of a patient, committed; ``more``: further members of its JSON."""
        now = dt.datetime.now(dt.UTC)
        resource = jsontext.loads(
            f'{{"resourceType":"Observation","id":"{id_}","subject":{{"reference":"Patient/p1"}},"value":{value}{more}}}'
        )
        version = reduce(Sighting("Observation", id_, resource, now, now), b"k" * 32)
        target = Target(practice, "Observation", Kind.SWEEP)
        lease = self.leases.take(practice)
        StateStore(self.engine).register_practice(lease)
        Repository(self.engine, b"k" * 32).record(PassContext(lease, target, origin), [version], now)

    def log_of_engine(self) -> EventLog:
        """The log as the operator's commands have it."""
        return EventLog(self.engine)

    def books(self, sink: Sink, practice: str = "A") -> Books:
        """What became of the practice's events at the sink."""
        (found,) = (one for one in self.log.books() if (one.sink, one.practice) == (sink.name, practice))
        return found

    def versions(self, practice: str = "A") -> dict[str, int]:
        """The store's state: the version that each resource has."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT resource_type || '/' || id AS name, version FROM poller.snapshot WHERE practice = :practice"
                ),
                {"practice": practice},
            )
            return {row.name: row.version for row in rows}


class Consumed:
    """A consumer by the README's rules: what it knows after the messages it got, and what it would have to complain of."""

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        self.sequences: list[str] = []
        self.complaints: list[str] = []
        self.repeated = 0
        self.out_of_chain: list[str] = []
        """Sequences that did not follow what came before."""
        self._known: dict[str, Any] = {}
        self._named: set[str] = set()
        self._last: str | None = None

    def take(self, bodies: Iterable[bytes]) -> Consumed:
        """Take messages as they come."""
        for body in bodies:
            event = jsontext.loads(body)
            previous = event.pop("previoussequence", None)
            known = self._known.setdefault(event["id"], event)
            if known is not event:
                self.repeated += 1
                if known != event:
                    self.complaints.append(f"{event['sequence']} came twice, and not the same")
                continue
            self._named |= {previous} if previous is not None else set()
            if previous != self._last:
                self.out_of_chain.append(event["sequence"])
            self._apply(event)
        return self

    @property
    def gaps(self) -> set[str]:
        """What is named as having gone before, and never came."""
        return self._named - set(self.sequences)

    def _apply(self, event: Any) -> None:
        version = int(event["data"]["response"]["etag"].strip('W/"'))
        if version <= self.versions.get(event["subject"], 0):
            self.complaints.append(f"{event['sequence']} is an older version, and new")
        self.versions[event["subject"]] = version
        self.sequences.append(event["sequence"])
        self._last = event["sequence"]


@contextlib.contextmanager
def running(log: Any, broker: Broker, *sinks: Sink) -> Iterator[Relay]:
    relay = Relay(log, [Outlet(sink, broker.publisher(sink)) for sink in sinks], SOURCES, poll=0.05)
    relay.start()
    try:
        yield relay
    finally:
        began = time.monotonic()
        relay.stop()
    assert time.monotonic() - began < 3


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.02)


def passed(log: SinkLog, sink: Sink, practice: str) -> bool:
    """Whether the cursor stands at the head."""
    return any(p.practice == practice and p.sequence == p.head for p in log.positions(sink.name))


def parsed(bodies: list[bytes]) -> list[Any]:
    return [jsontext.loads(body) for body in bodies]


def ids(bodies: list[bytes]) -> list[str]:
    return [f"{event['subject']}={event['data']['response']['etag']}" for event in parsed(bodies)]


def actions(lines: list[MutableMapping[str, Any]]) -> list[str]:
    return [line["action"] for line in lines]
