"""Where a new sink begins; how it filters by what only bodies say; and that sinks do not hold each other up."""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from poller.core.sink import Only, Sink, Start, Step
from poller.errors import StoreError
from poller.store.sinks import SinkLog
from tests.relaying import Consumed, parsed, passed, running, until

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from poller.store.log import Position
    from tests.broker_bench import Bench, Rabbit
    from tests.relaying import History

pytest_plugins = ["tests.relay_bench"]

pytestmark = pytest.mark.usefixtures("bodies")


def sent(bench: Bench, history: History, sink: Sink, count: int) -> list[str]:
    """What a sink sends until it stands at the heads of both practices, as practice, id and version."""
    with running(history.log, bench.broker(), sink):
        until(lambda: passed(history.log, sink, "A") and passed(history.log, sink, "B"))
    events = parsed(bench.received(count))
    assert bench.depth() == 0
    return [
        f"{event['source'][-1]} {event['subject'][12:]} {event['data']['response']['etag'][3:-1]}" for event in events
    ]


def test_from_the_beginning_from_now_and_from_a_time(bench: Bench, history: History) -> None:
    history.change("A", "o1", "1")
    history.change("B", "o1", "1")
    history.change("A", "o2", "1")
    with history.engine.connect() as connection:
        between = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    history.change("A", "o1", "2")
    everything = replace(bench.sink, name="all")
    assert sent(bench, history, everything, 4) == ["A o1 1", "A o2 1", "A o1 2", "B o1 1"]
    since = replace(bench.sink, name="since", start=Start("time", between))
    assert sent(bench, history, since, 1) == ["A o1 2"]
    now = replace(bench.sink, name="now", start=Start("now"))
    assert sent(bench, history, now, 0) == []
    history.change("A", "o1", "3")
    history.change("C", "o1", "1")  # of a practice that no one has seen before
    for sink in (since, now, everything):
        assert sent(bench, history, sink, 1) == ["A o1 3"]
        of_c = history.books(sink, "C")
        assert (of_c.recorded, of_c.skipped, of_c.waiting, of_c.missing) == (1, 0, 1, 0)
    books = {sink.name: history.books(sink) for sink in (everything, since, now)}
    assert {name: (one.skipped, one.delivered, one.missing) for name, one in books.items()} == {
        "all": (0, 4, 0),
        "since": (2, 2, 0),
        "now": (3, 1, 0),
    }


def test_a_start_is_applied_once(bench: Bench, history: History) -> None:
    history.change("A", "o1", "1")
    history.change("B", "o1", "1")
    sink = replace(bench.sink, start=Start("now"))
    assert sent(bench, history, sink, 0) == []
    history.change("A", "o1", "2")
    assert sent(bench, history, replace(sink, start=Start("snapshot")), 1) == ["A o1 2"]


class Changing(SinkLog):
    """The log while others write: each page of a snapshot has been overtaken by the time it is sent."""

    def __init__(self, engine: Engine, history: History) -> None:
        super().__init__(engine)
        self._history = history
        self._pages = 0
        self.deaths = 2

    def snapshot(self, practice: str, position: Position, limit: int) -> list[object]:  # type: ignore[override]
        page = super().snapshot(practice, position, min(limit, 2))
        self._pages += 1
        self._history.change(practice, f"o{self._pages % 5}", f"{self._pages + 1000}")
        self._history.change(practice, f"new{self._pages}", "1")
        return list(page)

    def advance(self, sink: str, position: Position, step: Step) -> Position:
        if self.deaths and position.snapshot_type:
            self.deaths -= 1
            raise StoreError("died between confirm and cursor")
        return super().advance(sink, position, step)


def test_a_snapshot_is_the_state_at_one_place_and_the_log_follows_without_gap_or_repeat(
    bench: Bench, history: History
) -> None:
    """While it goes out, what it has still to show changes, and the relay dies twice between confirm and cursor."""
    for n in range(6):
        history.change("A", f"o{n}", str(n))
    history.change("A", "o1", "100")
    history.change("A", "o5", "500", more=',"status":"final","category":[{"coding":[{"code":"laboratory"}]}]')
    before = history.versions()
    sink = replace(bench.sink, start=Start("snapshot"), baseline=False)
    with running(Changing(history.log._engine, history), bench.broker(), sink):
        until(lambda: bool(history.log.books()) and history.books(sink).delivered > 0)
        until(lambda: passed(history.log, sink, "A"))
    bodies = bench.received(bench.depth())
    unique = list({event["id"]: event for event in parsed(bodies)}.values())
    shown = [event for event in unique if event["sequence"].count("-") == 2]
    followed = [event for event in unique if event["sequence"].count("-") == 1]
    assert {event["subject"]: int(event["data"]["response"]["etag"][3:-1]) for event in shown} == before
    assert all(event["type"].endswith(".created.v1") and event["origin"] == "baseline" for event in shown)
    (fifth,) = (event for event in shown if event["subject"] == "Observation/o5")
    assert (fifth["data"]["status"], fifth["data"]["category"]) == ("final", ["laboratory"])
    assert [event["sequence"][-2:] for event in followed] == [f"{n:02d}" for n in range(9, 9 + len(followed))]
    consumed = Consumed().take(bodies)
    assert (consumed.complaints, consumed.gaps) == ([], set())
    assert consumed.repeated > 0
    assert consumed.versions == history.versions()
    assert consumed.sequences == sorted(consumed.sequences)
    books = history.books(sink)
    assert (books.skipped, books.delivered, books.missing, books.ordinal) == (8, len(followed), 0, 6)


def test_codes_and_labels_are_looked_up_in_bodies_that_do_not_travel(bench: Bench, history: History) -> None:
    def coded(code: str, label: str = "N") -> str:
        return f',"code":{{"coding":[{{"code":"{code}"}}]}},"meta":{{"security":[{{"code":"{label}"}}]}}'

    history.change("A", "o1", "1", more=coded("a"))
    history.change("A", "o2", "1", more=coded("b"))
    history.change("A", "o3", "1", more=coded("a", "R"))
    history.change("A", "o1", "2", more=coded("b"))
    history.change("A", "o1", "3", more=coded("b"))
    history.change("B", "o1", "1", more=coded("b"))
    sink = replace(bench.sink, only=Only(codes=("a",), without_security=("R",)))
    assert sent(bench, history, sink, 2) == ["A o1 1", "A o1 2"]
    books = history.books(sink)
    assert (books.delivered, books.filtered, books.missing) == (2, 3, 0)


def test_a_sink_that_is_stuck_holds_up_no_other(rabbit: Rabbit, history: History) -> None:
    """Its broker takes what is sent and says nothing, for as long as it likes."""
    proxy = rabbit.proxy()
    slow = replace(rabbit.sink, name="slow", exchange=f"{rabbit.sink.exchange}_slow", queues=())
    history.change("A", "o1", "1")
    proxy.withhold_after(rabbit.commit)
    with running(history.log, rabbit.broker(proxy), slow):
        until(proxy.withheld.is_set)
        with running(history.log, rabbit.broker(), rabbit.sink) as relay:
            for n in range(2, 6):
                history.change("A", "o1", str(n))
                relay.notify()
                until(lambda: passed(history.log, rabbit.sink, "A"))
        assert history.books(slow).waiting == 5
        proxy.cut()
    assert len(rabbit.received(5)) == 5
    with rabbit.consumer() as connection:
        connection.channel().exchange_delete(slow.exchange)


def test_two_sinks_of_one_relay_go_on_while_one_is_stuck(rabbit: Rabbit, history: History) -> None:
    class Stuck:
        """A publisher that never comes back until it is told to stop."""

        halted = threading.Event()

        def open(self) -> None:
            self.halted.wait(20)

        def halt(self) -> None:
            self.halted.set()

        def tend(self) -> None: ...
        def close(self) -> None: ...

    from poller.outlet import Outlet  # noqa: PLC0415 - put together by hand here alone
    from poller.relay import Relay  # noqa: PLC0415 - as above

    stuck = Stuck()
    outlets = [
        Outlet(Sink("stuck", "x", ("q",)), stuck),  # type: ignore[arg-type]
        Outlet(rabbit.sink, rabbit.broker().publisher(rabbit.sink)),
    ]
    history.change("A", "o1", "1")
    relay = Relay(history.log, outlets, {"A": "https://ehr.example/A"}, poll=0.05)
    relay.start()
    try:
        until(lambda: passed(history.log, rabbit.sink, "A"))
        assert not stuck.halted.is_set()
    finally:
        relay.stop()
    assert len(rabbit.received(1)) == 1


class Sleeper(SinkLog):
    """A relay that falls asleep between confirm and cursor, while another takes its place."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.asleep, self.wakes = threading.Event(), threading.Event()

    def advance(self, sink: str, position: Position, step: Step) -> Position:
        if not self.asleep.is_set():
            self.asleep.set()
            self.wakes.wait(30)
        return super().advance(sink, position, step)


@pytest.mark.parametrize("other_goes", [1, 7])
def test_a_relay_that_slept_while_another_went_on_moves_nothing(
    bench: Bench, history: History, other_goes: int
) -> None:
    """Its connection is gone, the other has begun from the same cursor and stands before or behind what it believes to have done."""
    proxy = bench.proxy()
    for n in range(4):
        history.change("A", f"o{n}", "1")
    sleeper = Sleeper(history.log._engine)
    with running(sleeper, bench.broker(proxy), bench.sink) as first:
        until(sleeper.asleep.is_set)
        proxy.cut(stay_down=True)
        publisher = bench.broker().publisher(bench.sink)
        until(lambda: _opens(publisher))
        publisher.close()
        paced = replace(bench.sink, pace=1.0) if other_goes == 1 else bench.sink
        with running(history.log, bench.broker(), paced):
            for n in range(4, other_goes):
                history.change("A", f"o{n}", "1")
            until(lambda: history.books(bench.sink).delivered >= other_goes)
        books = history.books(bench.sink)
        sleeper.wakes.set()
        until(lambda: "another relay" in str(first.troubles()))
        assert history.books(bench.sink) == books
        proxy.up()
        until(lambda: passed(history.log, bench.sink, "A"))
    consumed = Consumed().take(bench.received(bench.depth()))
    assert (consumed.complaints, consumed.gaps) == ([], set())
    assert consumed.repeated >= 1
    assert consumed.versions == history.versions()
    final = history.books(bench.sink)
    assert (final.delivered, final.waiting, final.missing) == (max(4, other_goes), 0, 0)


def _opens(publisher: object) -> bool:
    from poller.errors import BrokerError  # noqa: PLC0415

    try:
        publisher.open()  # type: ignore[attr-defined]
    except BrokerError:
        return False
    return True


def test_a_sink_with_a_pace_delivers_all_the_same(bench: Bench, history: History) -> None:
    for n in range(5):
        history.change("A", f"o{n}", "1")
    history.change("B", "o1", "1")
    assert len(sent(bench, history, replace(bench.sink, pace=40.0), 6)) == 6


def test_when_the_clock_of_a_start_lies_before_all_everything_comes(bench: Bench, history: History) -> None:
    history.change("A", "o1", "1")
    history.change("B", "o1", "1")
    sink = replace(bench.sink, start=Start("time", dt.datetime(2020, 1, 1, tzinfo=dt.UTC)))
    assert sent(bench, history, sink, 2) == ["A o1 1", "B o1 1"]
