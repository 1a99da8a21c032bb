"""The consumers' library on real brokers: what fails, what is missing, how it ends."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import pytest
from sqlalchemy import Connection, Engine, create_engine, text

from poller.broker.pgmq import consumer_options
from poller.consumer import Change, Consumer, Gap, Memory, TooManyAside, TryAgain
from poller.core.envelope import Message, wire_sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.broker_bench import Bench, Pgmq, Rabbit

pytest_plugins = ["tests.broker_bench"]


def a_message(number: int, subject: str = "", previous: int | None = None) -> Message:
    event = {
        "id": f"e{number}",
        "source": "https://ehr.example/A",
        "subject": subject or f"Observation/o{number}",
        "type": "dev.ehrpoller.resource.created.v1",
        "sequence": wire_sequence(1, number),
        "previoussequence": wire_sequence(1, number - 1 if previous is None else previous),
        "data": {"response": {"etag": 'W/"1"'}},
    }
    return Message(
        str(event["id"]), str(event["subject"]), "fhir.A.Observation.created", json.dumps(event).encode(), {}
    )


def publish(bench: Bench, *messages: Message) -> None:
    with closing(bench.broker().publisher(bench.sink)) as publisher:
        publisher.open()
        assert publisher.publish(messages).confirmed == len(messages)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path / 'consumer.db'}")
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE done (id TEXT)"))
    yield made
    made.dispose()


def note(change: Change, connection: Connection) -> None:
    connection.execute(text("INSERT INTO done VALUES (:id)"), {"id": change.id})


def done(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return [row[0] for row in connection.execute(text("SELECT id FROM done ORDER BY rowid"))]


def a_consumer(
    bench: Bench, engine: Engine, apply: Callable[[Change, Connection], None] = note, **more: Any
) -> Consumer:
    url, options = "pgmq://", dict[str, Any]()
    if bench.kind == "rabbit":
        url = cast("Rabbit", bench).url
    else:
        options = consumer_options(cast("Pgmq", bench).conninfo) | {"visibility_timeout": 2, "wait_time_seconds": 1}
    return Consumer(url, bench.sink.queues[0], Memory(engine), apply, transport_options=options, **more)


def test_what_cannot_be_applied_is_put_aside_whole_and_the_rest_goes_on_in_order(bench: Bench, engine: Engine) -> None:
    broken = Message("x", "x", "fhir.A.Observation.created", b'{"name": "Aho"}', {})
    publish(bench, a_message(1), broken, a_message(2, "Observation/bad"), a_message(3))
    tries: list[str] = []

    def apply(change: Change, connection: Connection) -> None:
        tries.append(change.id)
        note(change, connection)
        if change.subject.endswith("bad"):
            raise ValueError("Aho")

    gaps: list[Gap] = []
    consumer = a_consumer(bench, engine, apply, attempts=2, on_gap=gaps.append)
    consumer.run(until_idle=1)
    assert done(engine) == ["e1", "e3"], "what the failed one wrote was rolled back"
    assert tries == ["e1", "e2", "e2", "e3"], "tried in its place"
    assert [(one.event_id, one.reason) for one in Memory(engine).aside()] == [
        (None, "malformed: id is not text"),
        ("e2", "ValueError"),
    ]
    assert Memory(engine).aside()[0].body == broken.body
    assert gaps == [], "it has arrived"
    assert consumer.counts == {"apply": 2, "aside": 2, "retry": 1}
    Memory(engine).drop_aside(Memory(engine).aside()[0].number)
    assert [one.event_id for one in Memory(engine).aside()] == ["e2"]


def test_when_too_much_stands_aside_it_stops_and_the_message_is_not_lost(bench: Bench, engine: Engine) -> None:
    publish(bench, *[a_message(number) for number in (1, 2, 3)])

    def fail(_change: Change, _connection: Connection) -> None:
        raise KeyError

    with pytest.raises(TooManyAside):
        a_consumer(bench, engine, fail, attempts=1, most_aside=1).run(until_idle=5)
    assert [one.event_id for one in Memory(engine).aside()] == ["e1"]
    a_consumer(bench, engine).run(until_idle=3)
    assert done(engine) == ["e2", "e3"]


def test_what_is_not_the_message_s_fault_is_tried_until_it_goes(bench: Bench, engine: Engine) -> None:
    publish(bench, a_message(1))
    left = [1, 2, 3]

    def apply(change: Change, connection: Connection) -> None:
        if left:
            left.pop()
            raise TryAgain
        note(change, connection)

    a_consumer(bench, engine, apply, attempts=1).run(until_idle=1)
    assert done(engine) == ["e1"]
    assert Memory(engine).aside() == []


def test_sigterm_ends_it_after_the_message_in_hand(bench: Bench, engine: Engine) -> None:
    publish(bench, *[a_message(number) for number in (1, 2, 3)])
    before = signal.getsignal(signal.SIGTERM)

    def apply(change: Change, connection: Connection) -> None:
        signal.raise_signal(signal.SIGTERM)
        note(change, connection)

    a_consumer(bench, engine, apply).run()
    assert done(engine) == ["e1"]
    assert signal.getsignal(signal.SIGTERM) is before
    rest = a_consumer(bench, engine)
    rest.run(until_idle=3)
    assert done(engine) == ["e1", "e2", "e3"]
    assert rest.counts["known"] == 0, "the one in hand was acknowledged"


def test_what_did_not_arrive_is_told_once(bench: Bench, engine: Engine) -> None:
    publish(bench, a_message(1), a_message(4), a_message(4), a_message(5))
    gaps: list[Gap] = []
    consumer = a_consumer(bench, engine, on_gap=gaps.append)
    consumer.run(until_idle=1)
    source = "https://ehr.example/A"
    assert gaps == [Gap(source, None, wire_sequence(1, 1), wire_sequence(1, 3), wire_sequence(1, 4))]
    assert consumer.counts == {"apply": 3, "known": 1, "gap": 1}


def test_a_broker_that_goes_away_is_found_again(rabbit: Rabbit, engine: Engine) -> None:
    publish(rabbit, a_message(1), a_message(2))
    proxy = rabbit.proxy()
    url = rabbit.url.replace(":5672", f":{proxy.port}")

    def apply(change: Change, connection: Connection) -> None:
        note(change, connection)
        if change.id == "e1":
            proxy.cut()  # the acknowledgement cannot leave; it comes again, and is known

    consumer = Consumer(url, rabbit.sink.queues[0], Memory(engine), apply)
    consumer.run(until_idle=2)
    assert done(engine) == ["e1", "e2"]
    assert consumer.counts["known"] >= 1, "only now: what had been fetched as well comes again, too"
