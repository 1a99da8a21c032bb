"""Whatever breaks on the way, on real brokers and a real Postgres: the consumer's state is the store's, and every sequence is told."""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
import structlog

from poller import outlet
from poller.broker.port import WINDOW
from poller.core.canonical import reduce
from poller.core.model import Kind, Origin, Sighting, Target
from poller.errors import StoreError
from poller.store.embedded import EmbeddedPostgres
from poller.store.engine import ENGINE, RELAY, migrate, open_engine
from poller.store.repository import PassContext, Repository
from poller.store.sinks import SinkLog
from poller.store.state import LeaseKeeper, StateStore
from tests.relaying import Consumed, History, actions, passed, running, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from poller.core.sink import Sink, Step
    from poller.store.log import Position
    from tests.broker_bench import Bench, Pgmq, Proxy, Rabbit

pytest_plugins = ["tests.relay_bench"]

EVENTS = 120


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "pause", lambda _times, _jitter: 0.05)


def a_backlog(history: History, events: int = EVENTS) -> None:
    """So many events of a quarter as many resources, in few commits."""
    StateStore(history.engine).register_practice(lease := history.leases.take("A"))
    repository, target = Repository(history.engine, b"k" * 32), Target("A", "Observation", Kind.SWEEP)
    for version in range(4):
        now = _clock(history)
        seen = [
            Sighting("Observation", f"o{n}", {"resourceType": "Observation", "id": f"o{n}", "value": version}, now, now)
            for n in range(events // 4)
        ]
        versions = [reduce(one, b"k" * 32) for one in seen]
        repository.record(PassContext(lease, target, Origin.LIVE), versions, _clock(history))


def _clock(history: History) -> dt.datetime:
    with history.engine.connect() as connection:
        now: dt.datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return now


def all_is_told(bench: Bench, history: History, sink: Sink, events: int = EVENTS) -> Consumed:
    """What must hold after any fault."""
    consumed = Consumed().take(bench.received(bench.depth()))
    assert (consumed.complaints, consumed.gaps) == ([], set())
    assert [int(sequence[-20:]) for sequence in consumed.sequences] == list(range(1, events + 1))
    assert consumed.versions == history.versions()
    books = history.books(sink)
    assert (books.recorded, books.delivered, books.waiting, books.parked, books.missing) == (events, events, 0, 0, 0)
    return consumed


def cut_again_and_again(proxy: Proxy, _bench: Bench) -> None:
    for _ in range(3):
        proxy.cut()
        time.sleep(0.1)


def cut_between_publish_and_confirm(proxy: Proxy, bench: Bench) -> None:
    proxy.withhold_after(bench.commit)
    assert proxy.withheld.wait(20)
    time.sleep(0.2)
    proxy.cut()


def stall_and_go_on(proxy: Proxy, bench: Bench) -> None:
    proxy.withhold_after(bench.commit)
    assert proxy.withheld.wait(20)
    time.sleep(0.5)
    proxy.release()


def be_away_for_long(proxy: Proxy, _bench: Bench) -> None:
    proxy.cut(stay_down=True)
    time.sleep(1)
    proxy.up()


def unbind(_proxy: Proxy, bench: Bench) -> None:
    bench.unbind()


@pytest.mark.parametrize(
    "fault", [cut_again_and_again, cut_between_publish_and_confirm, stall_and_go_on, be_away_for_long, unbind]
)
def test_a_broker_that_fails_in_the_middle_loses_and_reorders_nothing(
    bench: Bench, history: History, fault: Callable[[Proxy, Bench], None]
) -> None:
    proxy = bench.proxy()
    a_backlog(history)
    sink = replace(bench.sink, pace=80.0)
    with running(history.log, bench.broker(proxy), sink):
        until(lambda: bool(history.log.books()) and history.books(sink).delivered > 10)
        assert history.books(sink).waiting > 0, "the fault must come in the middle"
        fault(proxy, bench)
        until(lambda: passed(history.log, sink, "A"), 40)
    consumed = all_is_told(bench, history, sink)
    if fault is cut_between_publish_and_confirm:
        assert consumed.repeated > 0, "what was taken and not confirmed comes again, under its id"


def test_hours_without_a_broker_are_a_backlog_and_no_more(bench: Bench, history: History) -> None:
    """What changes meanwhile waits; nothing is parked; it drains in order."""
    proxy = bench.proxy()
    a_backlog(history)
    proxy.cut(stay_down=True)
    with structlog.testing.capture_logs() as lines, running(history.log, bench.broker(proxy), bench.sink) as relay:
        until(lambda: relay._couriers[0]._outlet.trouble.times > 10)
        said = [(line["action"], line["reason"]) for line in lines if line["log_level"] != "info"]
        assert {action for action, _ in said} == {"relay.broker_away"}
        assert len(set(said)) == len(said), "each way to be away is said once, however long it lasts"
        assert history.log.parked(bench.sink.name) == []
        proxy.up()
        until(lambda: passed(history.log, bench.sink, "A"))
    assert all_is_told(bench, history, bench.sink).repeated == 0


@pytest.mark.parametrize("full", ["cursor", "queue"])
def test_a_full_disk_holds_and_repeats_at_most(
    rabbit: Rabbit, pgmq: Pgmq, history: History, database_url: str, full: str
) -> None:
    """Postgres says 53100 and takes the transaction back: the store's, or that of a queue in Postgres."""
    bench: Bench = rabbit if full == "cursor" else pgmq
    table = "poller.cursor" if full == "cursor" else f"pgmq.q_{bench.sink.queues[0]}"
    conninfo = database_url if full == "cursor" else pgmq.conninfo
    a_backlog(history)
    sink = replace(bench.sink, pace=100.0)
    with structlog.testing.capture_logs() as lines, running(history.log, bench.broker(), sink):
        until(lambda: bool(history.log.books()) and history.books(sink).delivered > 10)
        with _full_disk(conninfo, table):
            until(lambda: bool({"relay.failed", "relay.broker_away"} & set(actions(lines))))
        until(lambda: passed(history.log, sink, "A"))
    all_is_told(bench, history, sink)


@contextlib.contextmanager
def _full_disk(conninfo: str, table: str) -> Iterator[None]:
    with psycopg.connect(conninfo, autocommit=True) as admin:
        admin.execute(
            "CREATE FUNCTION public.no_space() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$"
        )
        admin.execute(f"CREATE TRIGGER no_space BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION public.no_space()")
        yield
        admin.execute("DROP FUNCTION public.no_space CASCADE")


class OwnServer:
    """A Postgres of the test's own, to be stopped, killed and started again."""

    def __init__(self, data_dir: Path) -> None:
        self._embedded = EmbeddedPostgres(data_dir)
        self.store, self.queue = self._embedded.store_conninfo, self._embedded.queue_conninfo

    def end(self, number: signal.Signals) -> None:
        """By a signal to the postmaster, and to all of its children where it cannot tell them itself."""
        postmaster = psutil.Process(self._embedded._server.get_pid())
        all_of_them = [postmaster, *postmaster.children(recursive=True)]
        for process in all_of_them if number is signal.SIGKILL else [postmaster]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        psutil.wait_procs(all_of_them, timeout=20)

    def start(self) -> None:
        with self._embedded._server._lock:
            self._embedded._server.ensure_postgres_running()

    def close(self) -> None:
        self._embedded.close()


@pytest.fixture
def own_server(data_dir: Path) -> Iterator[OwnServer]:
    server = OwnServer(data_dir)
    migrate(server.store)
    yield server
    server.close()


@pytest.mark.parametrize("kind", ["rabbit", "pgmq"])
def test_a_postgres_that_is_stopped_killed_and_started_again_loses_nothing(
    request: pytest.FixtureRequest, own_server: OwnServer, kind: str
) -> None:
    """With the queue in the same server, as the embedded default has it, and with RabbitMQ, which goes on without it."""
    bench: Bench = request.getfixturevalue(kind)
    if bench.kind == "pgmq":
        setattr(bench, "conninfo", own_server.queue)  # noqa: B010 - the other kind has none
    engine, relay = open_engine(own_server.store, ENGINE), open_engine(own_server.store, RELAY)
    history = History(engine, SinkLog(relay), LeaseKeeper(engine))
    a_backlog(history)
    sink = replace(bench.sink, pace=40.0)
    try:
        with running(history.log, bench.broker(), sink) as under_test:
            for number in (signal.SIGINT, signal.SIGKILL, signal.SIGQUIT):
                before = history.books(sink).delivered if history.log.books() else 0
                until(lambda: bool(history.log.books()) and history.books(sink).delivered > before)  # noqa: B023
                own_server.end(number)
                until(lambda: bool(under_test.troubles()))
                own_server.start()
                until(lambda: not under_test.troubles())
            assert history.books(sink).waiting > 0, "all of it came in the middle"
            until(lambda: passed(history.log, sink, "A"), 40)
        all_is_told(bench, history, sink)
    finally:
        history.leases.close()
        engine.dispose()
        relay.dispose()


def test_two_relays_with_one_store_and_one_broker_deliver_once(bench: Bench, history: History) -> None:
    """By mistake, at the same time, while the log grows: one waits, and takes over in the middle."""
    a_backlog(history)
    sink = replace(bench.sink, pace=80.0)
    with running(history.log, bench.broker(), sink) as first:
        until(lambda: bool(history.log.books()) and history.books(sink).delivered > 10)
        with running(history.log, bench.broker(), sink) as second:
            until(lambda: "another relay" in str(second.troubles()))
            stopping = threading.Thread(target=first.stop)
            stopping.start()
            until(lambda: passed(history.log, sink, "A"), 30)
            stopping.join(20)
    assert all_is_told(bench, history, sink).repeated <= 500


def test_what_a_crash_in_a_long_run_repeats_stays_within_the_window(
    bench: Bench, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor follows while the run goes out; else all that was taken of it would come again."""
    a_backlog(history, events := 2000)
    advance, booked = history.log.advance, list[int]()

    def die_at_the_third(sink: str, position: Position, step: Step) -> Position:
        booked.append(step.delivered)
        if len(booked) == 3:
            raise StoreError("killed")
        return advance(sink, position, step)

    monkeypatch.setattr(history.log, "advance", die_at_the_third)
    with running(history.log, bench.broker(), bench.sink):
        until(lambda: passed(history.log, bench.sink, "A"), 60)
    assert sum(booked[:2]) < events, "it broke in the middle"
    assert 0 < all_is_told(bench, history, bench.sink, events).repeated <= WINDOW
