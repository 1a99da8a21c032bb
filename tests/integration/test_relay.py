"""The relay between the real log and real brokers: nothing lost, in order, whatever happens on the way."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import structlog
from sqlalchemy import Engine

from poller.core import jsontext
from poller.core.canonical import reduce
from poller.core.model import Kind, Origin, Sighting, Target
from poller.core.sink import Only, Sink
from poller.errors import StoreError
from poller.relay import Outlet, Relay
from poller.store.engine import ENGINE, RELAY, open_engine
from poller.store.log import EventLog
from poller.store.repository import PassContext, Repository
from poller.store.state import LeaseKeeper, StateStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

    from poller.broker.port import Broker
    from tests.broker_bench import Bench, Rabbit

pytest_plugins = ["tests.broker_bench"]

SOURCES = {"A": "https://ehr.example/A", "B": "https://ehr.example/B"}


@dataclass
class History:
    """A database in which practices A and B have a life."""

    engine: Engine
    log: EventLog
    leases: LeaseKeeper

    def change(self, practice: str, id_: str, value: str, origin: Origin = Origin.LIVE) -> None:
        """One change of one observation of a patient, committed."""
        now = dt.datetime.now(dt.UTC)
        resource = jsontext.loads(
            f'{{"resourceType":"Observation","id":"{id_}","subject":{{"reference":"Patient/p1"}},"value":{value}}}'
        )
        version = reduce(Sighting("Observation", id_, resource, now, now), b"k" * 32)
        target = Target(practice, "Observation", Kind.SWEEP)
        lease = self.leases.take(practice)
        StateStore(self.engine).register_practice(lease)
        Repository(self.engine, b"k" * 32).record(PassContext(lease, target, origin), [version], now)


@pytest.fixture
def history(database_url: str) -> Iterator[History]:
    engine, relay = open_engine(database_url, ENGINE), open_engine(database_url, RELAY)
    leases = LeaseKeeper(engine)
    yield History(engine, EventLog(relay), leases)
    leases.close()
    engine.dispose()
    relay.dispose()


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


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.02)


def passed(log: EventLog, sink: Sink, practice: str) -> bool:
    """Whether the cursor stands at the head."""
    return any(p.practice == practice and p.sequence == p.head for p in log.positions(sink.name))


def parsed(bodies: list[bytes]) -> list[Any]:
    return [jsontext.loads(body) for body in bodies]


def ids(bodies: list[bytes]) -> list[str]:
    return [f"{event['subject']}={event['data']['response']['etag']}" for event in parsed(bodies)]


def test_the_log_arrives_in_order_and_as_a_chain(bench: Bench, history: History) -> None:
    for n in range(12):
        history.change("A", f"o{n % 4}", f"{n}.10")
    history.change("B", "o1", "1")
    with running(history.log, bench.broker(), bench.sink) as relay:
        until(lambda: passed(history.log, bench.sink, "A") and passed(history.log, bench.sink, "B"))
        history.change("A", "o1", "99")
        relay.notify()
        until(lambda: passed(history.log, bench.sink, "A"))
    events = parsed(bench.received(14))
    of_a = [event for event in events if event["source"].endswith("/A")]
    assert [event["sequence"][-2:] for event in of_a] == [f"{n:02d}" for n in range(1, 14)]
    assert [event.get("previoussequence") for event in of_a] == [None, *(event["sequence"] for event in of_a[:-1])]
    assert bench.depth() == 0


def test_a_full_resource_sink_gets_bodies_and_patches(bench: Bench, history: History) -> None:
    history.change("A", "o1", "13.2")
    history.change("A", "o1", "13.20")
    full = replace(bench.sink, payload="full-resource")
    with running(history.log, bench.broker(), full):
        until(lambda: passed(history.log, full, "A"))
    created, updated = bench.received(2)
    assert b'"value":13.2}' in created
    assert b'"value":13.20}' in updated
    assert b'"patch":[{"op":"replace","path":"/value","value":13.20}]' in updated


def test_what_the_sink_does_not_want_is_passed_and_the_chain_says_so(bench: Bench, history: History) -> None:
    history.change("A", "o1", "1", Origin.BASELINE)
    history.change("A", "o2", "1")
    history.change("A", "o2", "2")
    history.change("A", "o3", "1")
    history.change("A", "o3", "2")
    narrow = replace(bench.sink, baseline=False, only=Only(actions=("created",)))
    with running(history.log, bench.broker(), narrow):
        until(lambda: passed(history.log, narrow, "A"))
    first, second = parsed(bench.received(2))
    assert [first["subject"], second["subject"]] == ["Observation/o2", "Observation/o3"]
    assert second["previoussequence"] == first["sequence"]
    assert bench.depth() == 0


def test_a_refused_event_stops_its_practice_and_no_other(rabbit: Rabbit, history: History) -> None:
    """Nothing may overtake it, nothing is lost, and it is said once."""
    queue, without_queues = rabbit.sink.queues[0], replace(rabbit.sink, queues=())
    with rabbit.consumer() as connection, structlog.testing.capture_logs() as lines:
        channel = connection.channel()
        channel.exchange_declare(rabbit.sink.exchange, "topic", durable=True, auto_delete=False)
        channel.queue_declare(queue, durable=True, auto_delete=False)
        channel.queue_bind(queue, rabbit.sink.exchange, "fhir.B.*.*")
        for n in range(3):
            history.change("A", "o1", str(n))
            history.change("B", "o1", str(n))
        with running(history.log, rabbit.broker(), without_queues):
            until(lambda: passed(history.log, without_queues, "B"))
            until(lambda: bool(actions(lines)))
            assert [p.sequence for p in history.log.positions("changes")] == [0, 3]
            time.sleep(1.2)  # long enough for another try, which is not news
            assert actions(lines) == ["relay.refused"]
            channel.queue_bind(queue, rabbit.sink.exchange, "fhir.A.*.*")
            until(lambda: passed(history.log, without_queues, "A"))
            assert actions(lines) == ["relay.refused", "relay.resumed"]
        events = parsed(rabbit.received(6))
    assert [e["source"][-1] for e in events] == list("BBBAAA")


def actions(lines: list[MutableMapping[str, Any]]) -> list[str]:
    return [line["action"] for line in lines]


def test_a_queue_that_someone_deletes_is_made_again(bench: Bench, history: History) -> None:
    history.change("A", "o1", "1")
    with running(history.log, bench.broker(), bench.sink):
        until(lambda: passed(history.log, bench.sink, "A"))
        bench.unbind()
        history.change("A", "o1", "2")
        until(lambda: passed(history.log, bench.sink, "A"))
    assert ids(bench.received(2)) == ['Observation/o1=W/"1"', 'Observation/o1=W/"2"']


def test_events_wait_while_the_broker_is_down_and_drain_in_order(bench: Bench, history: History) -> None:
    proxy = bench.proxy()
    history.change("A", "o1", "0")
    with structlog.testing.capture_logs() as lines, running(history.log, bench.broker(proxy), bench.sink) as relay:
        until(lambda: passed(history.log, bench.sink, "A"))
        proxy.cut(stay_down=True)
        for n in range(1, 30):
            history.change("A", f"o{n % 3}", str(n))
        until(lambda: "changes" in relay.troubles())
        assert not passed(history.log, bench.sink, "A")
        proxy.up()
        until(lambda: passed(history.log, bench.sink, "A"))
        assert not relay.troubles()
    assert actions(lines)[0] == "relay.broker_away"
    assert actions(lines)[-1] == "relay.recovered"
    unique = list(dict.fromkeys(event["sequence"] for event in parsed(bench.received(30))))
    assert unique == sorted(unique)
    assert len(unique) == 30


class Dying:
    """The log of a relay that dies between a confirm and its cursor."""

    def __init__(self, log: EventLog, deaths: int) -> None:
        self._log = log
        self._deaths = deaths
        self.positions = log.positions
        self.after = log.after

    def advance(self, sink: str, practice: str, epoch: int, sequence: int, routed: str | None) -> None:
        if self._deaths:
            self._deaths -= 1
            raise StoreError("died")
        self._log.advance(sink, practice, epoch, sequence, routed)


def test_what_was_sent_before_a_crash_is_sent_again_the_same(bench: Bench, history: History) -> None:
    for n in range(3):
        history.change("A", "o1", str(n))
    with running(Dying(history.log, 1), bench.broker(), bench.sink):
        until(lambda: passed(history.log, bench.sink, "A"))
    bodies = bench.received(6)
    assert bodies[:3] == bodies[3:]


def test_a_log_behind_its_sink_sends_nothing_until_a_new_epoch(
    bench: Bench, history: History, database_url: str
) -> None:
    """As after a restore from a backup: numbers would be given out twice."""
    history.change("A", "o1", "1")
    history.change("B", "o1", "1")
    history.log.advance("changes", "A", 1, 7, "0000000001-00000000000000000007")
    with structlog.testing.capture_logs() as lines, running(history.log, bench.broker(), bench.sink):
        until(lambda: passed(history.log, bench.sink, "B"))
        until(lambda: bool(lines))
        history.change("A", "o1", "2")
        time.sleep(1)  # long enough for another try
        assert actions(lines) == ["relay.halted"]
        assert ids(bench.received(1)) == ['Observation/o1=W/"1"']
        with psycopg.connect(database_url) as operator:
            operator.execute("UPDATE poller.practice_log SET epoch = 2, head = 0 WHERE practice = 'A'")
        history.change("A", "o1", "3")
        until(lambda: passed(history.log, bench.sink, "A"))
    (event,) = parsed(bench.received(1))
    assert event["sequence"] == "0000000002-00000000000000000001"
    assert event["previoussequence"] == "0000000001-00000000000000000007"


def test_a_second_relay_waits_and_takes_over(bench: Bench, history: History) -> None:
    history.change("A", "o1", "1")
    with running(history.log, bench.broker(), bench.sink) as first:
        until(lambda: passed(history.log, bench.sink, "A"))
        with running(history.log, bench.broker(), bench.sink) as second:
            until(lambda: "another relay" in second.troubles().get("changes", ""))
            history.change("A", "o1", "2")
            until(lambda: passed(history.log, bench.sink, "A"))
            assert not first.troubles()
            first.stop()
            history.change("A", "o1", "3")
            until(lambda: passed(history.log, bench.sink, "A"))
    assert len(set(bench.received(3))) == 3
    assert bench.depth() == 0


def test_no_line_of_the_relay_names_a_patient(bench: Bench, history: History) -> None:
    proxy = bench.proxy()
    history.change("A", "secret-id", "1")
    with structlog.testing.capture_logs() as lines, running(history.log, bench.broker(proxy), bench.sink):
        until(lambda: passed(history.log, bench.sink, "A"))
        proxy.cut(stay_down=True)
        history.change("A", "secret-id", "2")
        until(lambda: bool(lines))
    assert "secret-id" not in str(lines)
    assert "p1" not in str(lines)
