"""What is refused for itself is parked and nothing else; order, books and the chain hold through it and through the release."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from sqlalchemy import text

from poller import courier, outlet
from poller.broker.port import Cause, Outcome
from poller.core.sink import Fate, Only, Sink, Step, settle
from poller.errors import NotFound
from poller.outlet import Outlet
from poller.relay import Relay
from poller.store.log import Selection
from poller.store.sinks import SinkLog
from tests.relaying import SOURCES, Consumed, actions, passed, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from poller.core.envelope import Message
    from poller.store.log import Place, Position
    from tests.broker_bench import Bench, Rabbit
    from tests.relaying import History

pytest_plugins = ["tests.relay_bench"]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute between two tries proves no more."""
    monkeypatch.setattr(outlet, "pause", lambda _times, _jitter: 0.05)


def life(history: History) -> None:
    """o1 is created and changed twice; o2 is created after the first change, o3 at the end. Only creations can be routed."""
    history.change("A", "o1", "1")
    history.change("A", "o1", "2")
    history.change("A", "o2", "1")
    history.change("A", "o1", "3")
    history.change("A", "o3", "1")


def test_an_event_that_alone_is_refused_is_parked_with_its_successors_and_goes_out_in_order(
    bench: Bench, history: History
) -> None:
    sink = bench.taking_only("fhir.*.*.created")
    life(history)
    with structlog.testing.capture_logs() as lines, running(history.log, bench.broker(), sink) as relay:
        until(lambda: passed(history.log, sink, "A"))
        until(lambda: [row.released for row in history.log.parked(sink.name)] == [False, False])
        parked = history.log.parked(sink.name)
        assert [(row.sequence, row.id) for row in parked] == [(2, "o1"), (4, "o1")]
        assert "unroutable" in parked[0].reason
        assert "earlier one" in parked[1].reason
        assert "relay.parked" in actions(lines)
        assert not relay.troubles(), "the practice goes on"
        books = history.books(sink)
        assert (books.recorded, books.delivered, books.parked, books.waiting, books.missing) == (5, 3, 2, 0, 0)
        consumed = Consumed()
        while len(consumed.sequences) < 3:  # what was sent behind the refused one may have come twice
            consumed.take(bench.received(1))

        history.log.release(sink.name, "A")  # the cause was not mended
        until(lambda: actions(lines).count("relay.parked") >= 3)
        assert [row.released for row in history.log.parked(sink.name)] == [False, False]
        history.change("A", "o1", "4")
        until(lambda: len(history.log.parked(sink.name)) == 3)

        bench.bind("fhir.*.*.updated")
        assert history.log.release(sink.name, "A", "Observation", "o1") == 3
        until(lambda: not history.log.parked(sink.name))
        history.change("A", "o1", "5")
        until(lambda: passed(history.log, sink, "A"))
        while len(consumed.sequences) < 7:
            consumed.take(bench.received(1))
    assert consumed.complaints == []
    assert consumed.gaps == set()
    assert consumed.versions == history.versions()
    books = history.books(sink)
    assert (books.recorded, books.delivered, books.parked, books.waiting, books.missing) == (7, 7, 0, 0, 0)
    assert bench.depth() == 0
    assert "o1" not in str(lines)


def test_a_refused_event_is_parked_at_a_low_pace_as_well(bench: Bench, history: History) -> None:
    """Whether others pass must be tried with one that is behind several of the same resource."""
    sink = replace(bench.taking_only("fhir.*.*.created"), pace=15.0)
    for value in ("1", "2", "3", "4"):
        history.change("A", "o1", value)
    history.change("A", "o2", "1")
    with running(history.log, bench.broker(), sink):
        until(lambda: passed(history.log, sink, "A"))
        until(lambda: len(history.log.parked(sink.name)) == 3)
        assert history.books(sink).delivered == 2


def test_a_body_that_cannot_be_read_stops_its_practice_alone(bench: Bench, history: History) -> None:
    """As one of a later release, whose form this one does not know."""
    history.change("A", "o1", "1")
    history.change("B", "o1", "1")
    with history.engine.begin() as connection:
        connection.execute(text("SET LOCAL ROLE poller_owner"))
        connection.execute(text("UPDATE poller.history SET codec = 99 WHERE practice = 'A'"))
    sink = replace(bench.sink, payload="full-resource")
    with structlog.testing.capture_logs() as lines, running(history.log, bench.broker(), sink) as relay:
        until(lambda: passed(history.log, sink, "B"))
        until(lambda: relay.troubles() == {f"{sink.name}, practice A": "ValueError"})
        until(lambda: "relay.failed" in actions(lines))
    assert history.books(sink).waiting == 1


def test_where_everything_is_refused_nothing_is_parked(bench: Bench, history: History) -> None:
    """The whole exchange unbound, for longer than an event is tried: all wait, in order, and go out when a queue is there."""
    sink = bench.taking_only("nothing.*.*.*")
    for n in range(4):
        history.change("A", f"o{n}", "1")
        history.change("A", f"o{n}", "2")
    with running(history.log, bench.broker(), sink) as relay:
        until(lambda: "unroutable" in relay.troubles().get(f"{sink.name}, practice A", ""))
        stream = relay._couriers[0]._outlet.streams["A"]
        until(lambda: stream.times > 4)
        assert history.log.parked(sink.name) == []
        assert history.books(sink).waiting == 8
        bench.bind()
        until(lambda: passed(history.log, sink, "A"))
    consumed = Consumed().take(bench.received(8))
    assert (consumed.complaints, consumed.out_of_chain) == ([], [])
    assert consumed.versions == history.versions()


def test_a_full_queue_holds_and_parks_nothing(rabbit: Rabbit, history: History) -> None:
    queue = rabbit.sink.queues[0]
    sink = replace(rabbit.sink, queues=())
    with rabbit.consumer() as connection:
        channel = connection.channel()
        channel.exchange_declare(sink.exchange, "topic", durable=True, auto_delete=False)
        channel.queue_declare(queue, auto_delete=False, arguments={"x-max-length": 3, "x-overflow": "reject-publish"})
        channel.queue_bind(queue, sink.exchange, "fhir.*.*.*")
    for n in range(12):
        history.change("A", f"o{n % 5}", str(n))
    consumed = Consumed()
    with running(history.log, rabbit.broker(), sink) as relay:
        stream = relay._couriers[0]._outlet.stream("A")
        until(lambda: stream.times > 3)
        assert history.log.parked(sink.name) == []
        while len(consumed.sequences) < 12:
            consumed.take(rabbit.received(1))
        until(lambda: passed(history.log, sink, "A"))
    assert consumed.versions == history.versions()
    assert (consumed.complaints, consumed.gaps) == ([], set())
    assert history.books(sink).missing == 0


def test_what_a_person_gives_up_is_booked_and_its_resource_flows_again(bench: Bench, history: History) -> None:
    sink = bench.taking_only("fhir.*.*.created")
    life(history)
    with running(history.log, bench.broker(), sink):
        until(lambda: [row.released for row in history.log.parked(sink.name)] == [False, False])
        until(lambda: passed(history.log, sink, "A"))
        assert history.log.discard(sink.name, "A", history.log.parked(sink.name, "A", ("Observation", "o1"))) == 2
        bench.bind()
        history.change("A", "o1", "4")
        until(lambda: passed(history.log, sink, "A"))
    books = history.books(sink)
    assert (books.delivered, books.discarded, books.parked, books.missing) == (4, 2, 0, 0)
    consumed = Consumed()
    while len(consumed.sequences) < 4:
        consumed.take(bench.received(1))
    assert consumed.complaints == []
    with pytest.raises(NotFound):
        history.log.release("no-such-sink", "A")


class Careless(SinkLog):
    """Moves past what it parks, and parks nothing."""

    def advance(self, sink: str, position: Position, step: Step) -> Position:
        return super().advance(sink, position, replace(step, parked=()))


def test_the_books_show_an_event_that_was_passed_without_a_word(bench: Bench, history: History) -> None:
    sink = bench.taking_only("fhir.*.*.created")
    life(history)
    with running(Careless(history.log._engine), bench.broker(), sink):
        until(lambda: passed(history.log, sink, "A"))
    assert history.books(sink).missing == 2


def test_a_step_that_fails_half_way_changes_nothing(rabbit: Rabbit, history: History) -> None:
    """Cursor, books and parked rows are one transaction."""
    sink = rabbit.taking_only("fhir.*.*.created")
    life(history)
    with history.log._engine.begin() as connection:
        connection.exec_driver_sql("RESET ROLE")
        connection.exec_driver_sql(
            "ALTER TABLE poller.parked ADD CONSTRAINT full_disk CHECK (released IS NULL) NOT VALID"
        )
    with structlog.testing.capture_logs() as lines, running(history.log, rabbit.broker(), sink):
        until(lambda: "relay.failed" in actions(lines))
        time.sleep(0.2)
        books = history.books(sink)
        assert (books.delivered, books.waiting, books.missing) == (1, 4, 0)
        with history.log._engine.begin() as connection:
            connection.exec_driver_sql("RESET ROLE")
            connection.exec_driver_sql("ALTER TABLE poller.parked DROP CONSTRAINT full_disk")
        until(lambda: passed(history.log, sink, "A"))
    books = history.books(sink)
    assert (books.delivered, books.parked, books.missing) == (3, 2, 0)


class Picky:
    """A publisher that refuses what is of one resource, for one cause."""

    def __init__(self, cause: Cause) -> None:
        self._cause = cause
        self.sent: list[str] = []
        self.refused = 0

    def publish(self, messages: Sequence[Message], _settled: object = None) -> Outcome:
        for index, message in enumerate(messages):
            if message.resource.endswith("/o1"):
                self.refused += 1
                return Outcome(index, "refused", self._cause)
            self.sent.append(message.resource)
        return Outcome(len(messages))

    def open(self) -> None: ...
    def declare(self) -> None: ...
    def tend(self) -> None: ...
    def halt(self) -> None: ...
    def close(self) -> None: ...


@contextlib.contextmanager
def relaying(history: History, publisher: Picky) -> Iterator[Sink]:
    sink = Sink("picky", "x", ("q",))
    relay = Relay(history.log, [Outlet(sink, publisher)], SOURCES, poll=0.02)
    relay.start()
    try:
        yield sink
    finally:
        relay.stop()


def test_what_is_not_taken_waits_even_where_another_would_be(history: History) -> None:
    """A place in a full queue may come free between two tries; that proves nothing of either."""
    history.change("A", "o1", "1")
    history.change("A", "o2", "1")
    publisher = Picky(Cause.NOT_TAKEN)
    with relaying(history, publisher) as sink:
        until(lambda: publisher.refused > courier.TRIES + 3)
        assert history.log.parked(sink.name) == []
        assert history.books(sink).waiting == 2
    assert publisher.sent == []


def test_what_is_never_acceptable_is_parked_after_a_few_tries_without_another_to_show_it(history: History) -> None:
    history.change("A", "o1", "1")
    publisher = Picky(Cause.UNACCEPTABLE)
    with relaying(history, publisher) as sink:
        until(lambda: len(history.log.parked(sink.name)) == 1)
        assert publisher.refused == courier.TRIES
        history.change("A", "o1", "2")
        history.change("A", "o2", "1")
        until(lambda: passed(history.log, sink, "A"))
        assert [(row.id, row.released) for row in history.log.parked(sink.name)] == [("o1", False)] * 2
        assert publisher.refused == courier.TRIES
    assert publisher.sent == ["A/Observation/o2"]
    assert history.books(sink).missing == 0


def asked(history: History, sink: Sink, **of: Any) -> Place:
    return history.log.ask_parking(sink, Selection("A", **of), actor="Aino", reason="not yet")


def test_an_event_that_an_operator_wants_parked_waits_with_its_successors_and_goes_out_in_order(
    bench: Bench, history: History
) -> None:
    sink = bench.sink
    life(history)
    history.log.begin(sink)
    assert asked(history, sink, resources=(("Observation", "o1"),), first=(1, 2)) == (1, 2)
    assert [wish.place for wish in history.log.to_park(sink.name, "A")] == [(1, 2)]
    with pytest.raises(NotFound, match="asked already"):
        asked(history, sink, first=(1, 2), last=(1, 2))
    books = history.books(sink)
    assert (books.parked, books.waiting, books.missing) == (0, 5, 0), "until the sink comes to it, it waits"
    consumed = Consumed()
    with structlog.testing.capture_logs() as lines, running(history.log, bench.broker(), sink):
        until(lambda: passed(history.log, sink, "A"))
        until(lambda: not history.log.to_park(sink.name, "A"))
        assert [(row.sequence, row.id, row.released) for row in history.log.parked(sink.name)] == [
            (2, "o1", False),
            (4, "o1", False),
        ]
        assert history.log.parked(sink.name)[0].reason == "not yet (Aino)"
        books = history.books(sink)
        assert (books.recorded, books.delivered, books.parked, books.waiting, books.missing) == (5, 3, 2, 0, 0)
        consumed.take(bench.received(3))
        assert sorted(consumed.versions) == ["Observation/o1", "Observation/o2", "Observation/o3"]
        until(lambda: "relay.parked-as-asked" in actions(lines))
        assert history.log.release(sink.name, "A") == 2
        until(lambda: not history.log.parked(sink.name))
        consumed.take(bench.received(2))
    assert consumed.complaints == []
    assert consumed.versions == history.versions()
    books = history.books(sink)
    assert (books.recorded, books.delivered, books.parked, books.waiting, books.missing) == (5, 5, 0, 0, 0)
    assert not [word for word in ("o1", "not yet", "Aino") if word in str(lines)]


def test_an_event_that_blocks_is_parked_at_once_and_others_go_on(bench: Bench, history: History) -> None:
    """Alone in the log, nothing shows that it is refused for itself; an operator may know."""
    sink = bench.taking_only("nothing.*.*.*")
    history.change("A", "o1", "1")
    with running(history.log, bench.broker(), sink) as relay:
        until(lambda: bool(relay.troubles()))
        assert asked(history, sink) == (1, 1), "the next that waits"
        until(lambda: [row.sequence for row in history.log.parked(sink.name)] == [1])
        until(lambda: not relay.troubles())
        bench.bind()
        history.change("A", "o2", "1")
        until(lambda: passed(history.log, sink, "A"))
    books = history.books(sink)
    assert (books.recorded, books.delivered, books.parked, books.waiting, books.missing) == (2, 1, 1, 0, 0)


def test_what_has_gone_out_cannot_be_parked_and_who_asks_too_late_is_told(bench: Bench, history: History) -> None:
    sink = replace(bench.sink, only=Only(actions=("created",)))
    life(history)
    with pytest.raises(NotFound, match="has not begun"):
        asked(history, sink)
    history.log.begin(sink)
    with pytest.raises(NotFound, match="nothing of that waits"):
        asked(history, sink, first=(1, 2), last=(1, 2))
    (at,) = history.log.positions(sink.name)
    events = history.log.after("A", 0, 0, 1, bodies=False)
    assert asked(history, sink) == (1, 1)
    step = settle(events, [Fate.SEND], 1)  # it was under way
    assert step is not None
    history.log.advance(sink.name, at, step)
    with pytest.raises(NotFound, match="nothing of that waits"):
        asked(history, sink, first=(1, 1), last=(1, 1))
    with structlog.testing.capture_logs() as lines, running(history.log, bench.broker(), sink):
        until(lambda: "relay.asked-too-late" in actions(lines))
        until(lambda: passed(history.log, sink, "A"))
    assert history.log.parked(sink.name) == []
    assert history.books(sink).missing == 0
