"""The relay between the real log and real brokers: nothing lost, in order, whatever happens on the way."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
import structlog
from prometheus_client import REGISTRY

from poller.core.model import Origin
from poller.core.sink import Only, Step
from poller.errors import StoreError
from poller.outlet import Outlet
from poller.relay import Relay
from poller.store.sinks import SinkLog
from tests.relaying import SOURCES, actions, ids, parsed, passed, running, until

if TYPE_CHECKING:
    from poller.store.log import Position
    from tests.broker_bench import Bench, Rabbit
    from tests.relaying import History

pytest_plugins = ["tests.relay_bench"]

pytestmark = pytest.mark.usefixtures("bodies")


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
            until(lambda: len(actions(lines)) > 1)  # it is said after the cursor has moved
            assert actions(lines) == ["relay.refused", "relay.resumed"]
        events = parsed(rabbit.received(6))
    assert [e["source"][-1] for e in events] == list("BBBAAA")


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
        until(lambda: not relay.troubles())  # over when the whole turn is, after the cursor has moved
    assert actions(lines)[0] == "relay.broker_away"
    assert actions(lines)[-1] == "relay.recovered"
    unique = list(dict.fromkeys(event["sequence"] for event in parsed(bench.received(30))))
    assert unique == sorted(unique)
    assert len(unique) == 30


class Dying(SinkLog):
    """The log of a relay that dies between a confirm and its cursor."""

    deaths = 1

    def advance(self, sink: str, position: Position, step: Step) -> Position:
        if self.deaths:
            self.deaths -= 1
            raise StoreError("died")
        return super().advance(sink, position, step)


def test_what_was_sent_before_a_crash_is_sent_again_the_same(bench: Bench, history: History) -> None:
    for n in range(3):
        history.change("A", "o1", str(n))
    with running(Dying(history.log._engine), bench.broker(), bench.sink):
        until(lambda: passed(history.log, bench.sink, "A"))
    bodies = bench.received(6)
    assert bodies[:3] == bodies[3:]


def test_a_log_behind_its_sink_sends_nothing_until_a_new_epoch(
    bench: Bench, history: History, database_url: str
) -> None:
    """As after a restore from a backup: numbers would be given out twice."""
    history.change("A", "o1", "1")
    history.change("B", "o1", "1")
    (first,) = history.log.after("A", 1, 0, 1, bodies=False)
    seventh = replace(first, sequence=7)
    (at,) = (position for position in history.log.positions("changes") if position.practice == "A")
    history.log.advance("changes", at, Step(seventh, seventh, delivered=7, filtered=0))
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


def test_a_restore_under_a_relay_that_runs_on_is_noticed(bench: Bench, history: History, database_url: str) -> None:
    """The cursor comes back with the log, so that the two agree; but the relay remembers where they stood."""
    for n in range(3):
        history.change("A", "o1", str(n))
    with structlog.testing.capture_logs() as lines, running(history.log, bench.broker(), bench.sink) as relay:
        until(lambda: passed(history.log, bench.sink, "A"))
        with psycopg.connect(database_url) as operator:
            operator.execute("UPDATE poller.cursor SET sequence = 1, delivered = 1 WHERE practice = 'A'")
            operator.execute("UPDATE poller.practice_log SET head = 2 WHERE practice = 'A'")
            operator.execute("DELETE FROM poller.event WHERE sequence = 3")
        until(lambda: "restored from a backup" in str(relay.troubles()))
        assert actions(lines) == ["relay.halted"]
        history.log_of_engine().start_epoch("A")
        until(lambda: not relay.troubles())
    assert len(bench.received(4)) == 4, "and what waited goes out in the new epoch, the second one again"


def test_a_sink_that_has_missed_what_retention_dropped_says_so_and_sends_nothing(
    bench: Bench, history: History, database_url: str
) -> None:
    """Put back after months: were it to go on with what is kept, its consumers would take the gap for all there was."""
    history.change("A", "o1", "1")
    with running(history.log, bench.broker(), bench.sink):
        until(lambda: passed(history.log, bench.sink, "A"))
    for n in range(2, 5):
        history.change("A", "o1", str(n))
    with psycopg.connect(database_url) as operator:
        operator.execute("DELETE FROM poller.event WHERE practice = 'A' AND sequence <= 2")
        operator.execute("INSERT INTO poller.expired VALUES ('A', 1, 2, now(), now())")
    history.change("B", "o1", "1")
    with structlog.testing.capture_logs() as lines, running(history.log, bench.broker(), bench.sink) as relay:
        until(lambda: "past retention" in str(relay.troubles()))
        until(lambda: passed(history.log, bench.sink, "B"))
        assert "start: snapshot" in str(relay.troubles()), "the way out"
        assert actions(lines) == ["relay.halted"]
    assert [event["source"][-1] for event in parsed(bench.received(2))] == ["A", "B"]
    assert bench.depth() == 0


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


def _shown(sink: str, practice: str) -> list[float | None]:
    labels = {"sink": sink, "practice": practice}
    return [
        REGISTRY.get_sample_value(name, labels)
        for name in ("poller_sink_lag_events", "poller_sink_refused", "poller_sink_parked_events")
    ]


def test_two_pollers_on_a_store_leave_each_others_practices_alone(rabbit: Rabbit, history: History) -> None:
    """Neither complains of what is no business of its, or shows it."""
    for practice in ("A", "B"):
        history.change(practice, "o1", "1")
    ours, theirs = (
        replace(rabbit.sink, name="ours"),
        replace(
            rabbit.sink, name="theirs", exchange=f"{rabbit.sink.exchange}.b", queues=(f"{rabbit.sink.queues[0]}.b",)
        ),
    )
    relays = [
        Relay(history.log, [Outlet(sink, rabbit.broker().publisher(sink))], {code: SOURCES[code]}, poll=0.02)
        for sink, code in ((ours, "A"), (theirs, "B"))
    ]
    relays[1].leave_out({"A"})
    with structlog.testing.capture_logs() as lines:
        for relay in relays:
            relay.start()
        try:
            until(lambda: passed(history.log, ours, "A") and passed(history.log, theirs, "B"))
            until(lambda: bool(relays[0].troubles()))  # nobody has told this one yet
            assert _shown("ours", "B")[:2] == [1, 1]
            relays[0].leave_out({"B"})
            until(lambda: not relays[0].troubles())
            until(lambda: _shown("ours", "B") == [None] * 3)
            for n in range(2, 5):
                history.change("A", "o1", str(n))
                history.change("B", "o1", str(n))
                until(lambda: passed(history.log, ours, "A") and passed(history.log, theirs, "B"))
            assert [relay.troubles() for relay in relays] == [{}, {}]
            assert (_shown("ours", "B"), _shown("theirs", "A")) == ([None] * 3, [None] * 3)
            relays[0].leave_out(())
            until(lambda: bool(relays[0].troubles()))
        finally:
            for relay in relays:
                relay.stop()
    said = [(line["sink"], line["practice"]) for line in lines if line["log_level"] == "error"]
    assert said == [("ours", "B"), ("ours", "B")]
