"""What every publisher must do, over each broker."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from kombu.entity import Queue
from kombu.messaging import Consumer

from poller.broker.port import WINDOW, Cause, Eraser, Outcome
from poller.core.envelope import Message
from poller.core.sink import Only, Sink
from poller.errors import BrokerError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.broker.port import Publisher
    from tests.broker_bench import Bench, Rabbit

pytest_plugins = ["tests.broker_bench"]


def a_message(resource: str, number: int = 1, action: str = "updated") -> Message:
    """Change ``number`` of a resource."""
    id_ = f"{resource}#{number}"
    return Message(
        id=id_,
        resource=resource,
        routing_key=f"fhir.P.Observation.{action}",
        body=f'{{"specversion":"1.0","id":"{id_}","value":13.20}}'.encode(),
        attributes={"id": id_, "specversion": "1.0"},
    )


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    """Wait for what must happen; fail when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.02)


def opened(publisher: Publisher) -> bool:
    try:
        publisher.open()
    except BrokerError:
        return False
    return True


def test_everything_arrives_in_order_as_it_was_written(bench: Bench) -> None:
    messages = [a_message(f"Observation/{n}") for n in range(1200)]
    with closing(bench.broker().publisher(bench.sink)) as publisher:
        assert publisher.publish(messages) == Outcome(1200)
    assert bench.received(1200) == [message.body for message in messages]
    assert b"13.20" in messages[0].body


def test_versions_of_one_resource_keep_their_order(bench: Bench) -> None:
    messages = [a_message(f"Observation/{n % 3}", n) for n in range(60)]
    with closing(bench.broker().publisher(bench.sink)) as publisher:
        assert publisher.publish(messages) == Outcome(60)
    assert bench.received(60) == [message.body for message in messages]


def test_an_unroutable_message_is_refused_and_taken_once_a_queue_is_bound(bench: Bench) -> None:
    message = a_message("Observation/1")
    with closing(bench.broker().publisher(bench.sink)) as publisher:
        publisher.open()
        bench.unbind()
        outcome = publisher.publish([message])
        assert (outcome.confirmed, (outcome.refused or "")[:10]) == (0, "unroutable")
        bench.bind()
        assert publisher.publish([message]) == Outcome(1)
    assert bench.received(1) == [message.body]


def test_what_stands_before_a_refused_message_counts_and_its_successor_is_not_sent(bench: Bench) -> None:
    """The successor of a refused one would overtake it."""
    narrow = Sink("s", bench.sink.exchange, bench.sink.queues, only=Only(actions=("updated",)))
    messages = [a_message("A/1", 1), a_message("B/1", 1, "created"), a_message("B/1", 2), a_message("B/1", 3)]
    with closing(bench.broker().publisher(narrow)) as publisher:
        outcome = publisher.publish(messages)
    assert outcome.confirmed == 1
    assert outcome.refused
    assert bench.received(1) == [messages[0].body]
    assert bench.depth() == 0


def test_a_second_publisher_of_the_exchange_is_shut_out_until_the_first_is_gone(bench: Bench) -> None:
    first, second = (bench.broker().publisher(bench.sink) for _ in range(2))
    with closing(first), closing(second):
        first.open()
        with pytest.raises(BrokerError, match="another relay"):
            second.open()
        assert first.publish([a_message("A/1")]) == Outcome(1)
        first.close()
        until(lambda: opened(second))
        assert second.publish([a_message("A/1", 2)]) == Outcome(1)


def test_a_line_cut_between_publish_and_confirm_sends_again_under_the_same_id(bench: Bench) -> None:
    proxy = bench.proxy()
    messages = [a_message(f"A/{n}") for n in range(3)]
    failures: list[BrokerError] = []

    def publish() -> None:
        try:
            publisher.publish(messages)
        except BrokerError as error:
            failures.append(error)

    with closing(bench.broker(proxy).publisher(bench.sink)) as publisher:
        publisher.open()
        proxy.withhold_after(bench.commit)
        sending = threading.Thread(target=publish)
        sending.start()
        assert proxy.withheld.wait(10)
        until(lambda: bench.depth() == 3)  # taken, though the publisher cannot know
        proxy.cut()
        sending.join(20)
        assert len(failures) == 1
        until(lambda: opened(publisher))
        assert publisher.publish(messages) == Outcome(3)
    assert bench.received(6) == [message.body for message in messages] * 2


def test_a_broker_that_is_away_is_an_error_and_its_return_is_noticed(bench: Bench) -> None:
    proxy = bench.proxy()
    with closing(bench.broker(proxy).publisher(bench.sink)) as publisher:
        publisher.open()
        publisher.tend()
        proxy.cut(stay_down=True)
        with pytest.raises(BrokerError):
            publisher.publish([a_message("A/1")])
        with pytest.raises(BrokerError):
            publisher.open()
        proxy.up()
        until(lambda: opened(publisher))
        assert publisher.publish([a_message("A/1")]) == Outcome(1)
    assert bench.received(1) == [a_message("A/1").body]


def test_a_lost_line_is_noticed_while_there_is_nothing_to_send(bench: Bench) -> None:
    proxy = bench.proxy()
    with closing(bench.broker(proxy).publisher(bench.sink)) as publisher:
        publisher.open()
        proxy.cut()

        def noticed() -> bool:
            try:
                publisher.tend()
            except BrokerError:
                return True
            return False

        until(noticed)


def test_a_publish_can_be_told_to_stop(rabbit: Rabbit) -> None:
    proxy = rabbit.proxy()
    failures: list[str] = []

    def publish() -> None:
        try:
            publisher.publish([a_message("A/1")])
        except BrokerError as error:
            failures.append(str(error))

    with closing(rabbit.broker(proxy).publisher(rabbit.sink)) as publisher:
        publisher.open()
        proxy.withhold_after(rabbit.commit)
        sending = threading.Thread(target=publish)
        sending.start()
        assert proxy.withheld.wait(10)
        publisher.halt()
        sending.join(5)
    assert failures == ["publishing was told to stop"]


def test_two_messages_of_one_resource_are_never_in_flight_together(rabbit: Rabbit) -> None:
    proxy = rabbit.proxy()
    messages = [a_message("A/1", 1), a_message("B/1", 1), a_message("A/1", 2), a_message("B/1", 2)]
    with closing(rabbit.broker(proxy).publisher(rabbit.sink)) as publisher:
        publisher.open()
        proxy.withhold_after(rabbit.commit)
        sending = threading.Thread(target=publisher.publish, args=(messages,))
        sending.start()
        until(lambda: rabbit.depth() == 2)
        time.sleep(0.3)  # nothing to wait for: the point is that nothing more comes
        assert rabbit.depth() == 2
        proxy.release()
        sending.join(20)
    assert rabbit.received(4) == [message.body for message in messages]


def test_a_broker_that_confirms_nothing_is_given_up(rabbit: Rabbit) -> None:
    proxy = rabbit.proxy()
    with closing(rabbit.broker(proxy).publisher(rabbit.sink, patience=0.5)) as publisher:
        publisher.open()
        proxy.withhold_after(rabbit.commit)
        with pytest.raises(BrokerError, match="confirmed nothing"):
            publisher.publish([a_message("A/1")])


def test_a_full_queue_refuses(rabbit: Rabbit) -> None:
    """The nack of ``reject-publish``."""
    queue = rabbit.sink.queues[0]
    with rabbit.consumer() as connection:
        channel = connection.channel()
        channel.exchange_declare(rabbit.sink.exchange, "topic", durable=True, auto_delete=False)
        channel.queue_declare(queue, auto_delete=False, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
        channel.queue_bind(queue, rabbit.sink.exchange, "fhir.*.*.*")
        messages = [a_message(f"A/{n}") for n in range(4)]
        without_queues = Sink("s", rabbit.sink.exchange, ())
        with closing(rabbit.broker().publisher(without_queues, window=1)) as publisher:
            outcome = publisher.publish(messages)
            assert outcome.confirmed == 2
            assert "full" in (outcome.refused or "")
            assert len(rabbit.received(2)) == 2
            assert publisher.publish(messages[2:]) == Outcome(2)


def test_a_message_that_the_broker_never_takes_is_told_from_the_others(bench: Bench) -> None:
    """RabbitMQ closes the channel and does not say which it was; Postgres rolls the whole batch back."""
    limit = 128 * 1024 * 1024 if bench.kind == "rabbit" else 1000
    large = replace(a_message("B/1"), body=b"x" * (limit + 1))
    messages = [a_message("A/1"), a_message("A/2"), large, a_message("C/1")]
    with closing(bench.broker().publisher(bench.sink)) as publisher:
        publisher.open()
        if bench.kind == "pgmq":
            _take_at_most(bench, limit)
        outcome = publisher.publish(messages)
        assert (outcome.confirmed, outcome.cause) == (2, Cause.UNACCEPTABLE)
        alone = publisher.publish([large])
        assert (alone.confirmed, alone.cause) == (0, Cause.UNACCEPTABLE)
        assert publisher.publish([a_message("D/1")]) == Outcome(1)
    arrived = bench.received(bench.depth())
    assert list(dict.fromkeys(arrived)) == [messages[0].body, messages[1].body, a_message("D/1").body]


def _take_at_most(bench: Bench, octets: int) -> None:
    with psycopg.connect(bench.conninfo) as connection:  # type: ignore[union-attr]
        connection.execute(
            f"""CREATE FUNCTION pgmq.limit_{bench.sink.queues[0]}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF length(NEW.message::text) > {octets} THEN RAISE EXCEPTION 'too long' USING ERRCODE = '54000'; END IF;
                RETURN NEW; END $$;
            CREATE TRIGGER large BEFORE INSERT ON pgmq.q_{bench.sink.queues[0]}
                FOR EACH ROW EXECUTE FUNCTION pgmq.limit_{bench.sink.queues[0]}()"""
        )


def test_a_queue_that_is_there_otherwise_is_an_error_that_says_so(rabbit: Rabbit) -> None:
    with rabbit.consumer() as connection:
        connection.channel().queue_declare(rabbit.sink.queues[0], durable=True, auto_delete=False)
        with (
            closing(rabbit.broker().publisher(rabbit.sink)) as publisher,
            pytest.raises(BrokerError, match="delete it, or name another"),
        ):
            publisher.open()


def test_headers_repeat_the_attributes_where_the_broker_has_headers(rabbit: Rabbit) -> None:
    with closing(rabbit.broker().publisher(rabbit.sink)) as publisher:
        publisher.publish([a_message("A/1")])
    with rabbit.consumer() as connection:
        got: list[Any] = []
        with Consumer(
            connection.channel(), [Queue(rabbit.sink.queues[0], no_declare=True)], on_message=got.append, no_ack=True
        ):
            connection.drain_events(timeout=90)
    assert got[0].headers == {"ce-id": "A/1#1", "ce-specversion": "1.0"}
    assert got[0].properties["message_id"] == "A/1#1"
    assert got[0].properties["delivery_mode"] == 2
    assert got[0].content_encoding == "utf-8"


def test_a_replay_goes_to_one_queue_of_its_own(bench: Bench) -> None:
    queue = f"{bench.sink.queues[0]}_replay"
    object.__setattr__(bench.sink, "queues", (*bench.sink.queues, queue))  # so that it is cleared away
    messages = [a_message(f"A/{n % 7}", n) for n in range(40)]
    with closing(bench.broker().publisher(bench.sink)) as publisher:
        publisher.open()  # a running relay is in nobody's way
        with closing(bench.broker().queue_publisher(queue)) as direct:
            direct.open()
            assert direct.publish(messages).confirmed == 40
    assert bench.received(40, queue) == [message.body for message in messages]
    assert bench.depth() == 0


def test_a_tail_sees_what_passes_and_takes_nothing_away(bench: Bench) -> None:
    seen: list[bytes] = []
    stopping = threading.Event()

    def tail() -> None:
        for body in bench.broker().tail(bench.sink.exchange, ["fhir.*.*.updated"], stopping):
            seen.append(body)
            if len(seen) > 2:
                stopping.set()

    with closing(bench.broker().publisher(bench.sink)) as publisher:
        publisher.open()
        watching = threading.Thread(target=tail)
        watching.start()
        number = 0
        while not stopping.is_set():
            number += 1
            publisher.publish([a_message("A/1", number), a_message("A/1", number, "deleted")])
            assert number < 2000
        watching.join(20)
    bodies = bench.received(2 * number)
    assert [body for body in bodies[::2] if body in seen] == seen
    assert seen
    assert bench.depth() == 0


def test_what_is_sent_beyond_what_was_told_stays_within_the_window(bench: Bench) -> None:
    """As much may arrive twice after a crash, however many messages go out in one run."""
    messages = [a_message(f"A/{n}") for n in range(1900)]
    told: list[tuple[int, int]] = []
    with closing(bench.broker().publisher(bench.sink)) as publisher:
        assert publisher.publish(messages, lambda taken: told.append((taken, bench.depth()))) == Outcome(1900)
    assert len(told) > 2
    assert [taken for taken, _ in told] == sorted({taken for taken, _ in told})
    before = 0
    for taken, there in told:
        assert there <= before + WINDOW
        before = taken


def test_whoever_is_told_can_end_the_publish(bench: Bench) -> None:
    messages = [a_message(f"A/{n}") for n in range(1900)]

    def refuse(_taken: int) -> None:
        raise StoreError("moved")

    with closing(bench.broker().publisher(bench.sink)) as publisher:
        with pytest.raises(StoreError):
            publisher.publish(messages, refuse)
        assert bench.depth() <= WINDOW
        publisher.close()
        until(lambda: opened(publisher))
        assert publisher.publish(messages[:3]) == Outcome(3)


def test_a_practices_messages_are_taken_out_where_that_can_be_and_a_queue_goes_with_what_is_in_it(bench: Bench) -> None:
    queue = bench.sink.queues[0]
    ours = [replace(a_message(f"A/{n}"), routing_key="fhir.P.Observation.updated") for n in range(3)]
    theirs = [replace(a_message(f"B/{n}"), routing_key="fhir.PQ.Observation.updated") for n in range(4)]
    broker = bench.broker()
    with closing(broker.publisher(bench.sink)) as publisher:
        assert publisher.publish([*ours[1:], *theirs]) == Outcome(6)
    with closing(broker.queue_publisher(queue)) as publisher:
        assert publisher.publish(ours[:1]) == Outcome(1), "as a replay into a live queue does"
    assert isinstance(broker, Eraser)
    swept = broker.sweep(queue, "P")
    if bench.kind == "pgmq":
        assert swept == 3
        assert bench.received(4) == [message.body for message in theirs]
    else:
        assert swept is None
        until(lambda: bench.depth() == 7)
    left = bench.depth()
    assert broker.delete_queue(queue) == left
    assert broker.delete_queue(queue) in {None, 0}


def test_a_publish_that_is_told_to_stop_tells_what_was_taken(rabbit: Rabbit) -> None:
    """Else all that is confirmed by then arrives again after each restart under load."""
    messages = [a_message(f"A/{n}") for n in range(1900)]
    told: list[int] = []
    publisher = rabbit.broker().publisher(rabbit.sink)

    def halt_at_the_second(taken: int) -> None:
        told.append(taken)
        if len(told) == 2:
            publisher.halt()

    with closing(publisher), pytest.raises(BrokerError, match="told to stop"):
        publisher.publish(messages, halt_at_the_second)
    until(lambda: rabbit.depth() == told[-1])
