"""Replays on real Postgres and brokers: what is selected, how they stop and go on, and how one goes into a live queue."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import secrets
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from poller.core import jsontext
from poller.core.envelope import wire_sequence
from poller.core.sink import Only, Parking, Step
from poller.errors import BrokerError, NotFound, PollerError, StoreError
from poller.outlet import Outlet
from poller.relay import Relay
from poller.replay import FileDestination, Hold, Player, QueueDestination, check_live
from poller.store.engine import RELAY, open_engine, sql
from poller.store.log import Selection
from poller.store.replays import ReplayRecord, ReplayStore
from poller.store.sinks import SinkLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from poller.core.envelope import Message
    from poller.core.sink import Payload, Sink
    from tests.broker_bench import Bench
    from tests.integration.conftest import Practice

pytest_plugins = ["tests.broker_bench"]

pytestmark = pytest.mark.usefixtures("bodies")

BASE = "https://ehr.example/p1"


@pytest.fixture
def log(database_url: str) -> Iterator[SinkLog]:
    """As the relay role reads and writes it."""
    engine = open_engine(database_url, RELAY)
    yield SinkLog(engine)
    engine.dispose()


@pytest.fixture
def store(log: SinkLog) -> ReplayStore:
    return ReplayStore(log._engine)


@dataclass
class Kept:
    """A destination in memory, which can refuse, and can be told what to do when it is written to."""

    bodies: list[Any]
    checkpoint: int = 1
    room: int = 10**9
    at_send: Callable[[], object] = lambda: None

    def send(self, messages: Sequence[Message]) -> None:
        self.at_send()
        if len(self.bodies) + len(messages) > self.room:
            self.bodies += [json.loads(one.body) for one in messages[: self.room - len(self.bodies)]]
            raise BrokerError("full")
        self.bodies += [json.loads(one.body) for one in messages]

    def settle(self) -> int:
        return 0

    def close(self) -> None:
        pass


def a_record(log: SinkLog, selection: Selection) -> ReplayRecord:
    replay, (begin, end) = f"r-{secrets.token_hex(3)}", log.span(selection)
    return ReplayRecord(replay, selection, "full-resource", None, None, None, begin, end, None, "me")


def numbers(bodies: Sequence[Any]) -> list[int]:
    return [int(body["sequence"][-20:]) for body in bodies]


def told(practice: Practice, rounds: int = 3, each: int = 4) -> None:
    for n in range(rounds):
        practice.read(*[practice.observation(f"o{i}", value=f"{n}") for i in range(each)])


def test_a_list_of_ids_and_a_range_of_sequences_select(practice: Practice, log: SinkLog) -> None:
    told(practice)
    every = log.after("p1", 0, 0, 100, bodies=False)

    def selected(**more: Any) -> list[int]:
        return [event.sequence for event in log.select(Selection("p1", **more), bodies=True)]

    assert selected(resources=(("Observation", "o1"),)) == [2, 6, 10]
    assert selected(events=(every[0].event_id, every[4].event_id)) == [1, 5]
    assert selected(events=(every[0].event_id,), resources=(("Observation", "o3"), ("Patient", "o2"))) == [1, 4, 8, 12]
    assert selected(first=(1, 5), last=(1, 7)) == [5, 6, 7]
    assert selected(first=(1, 5), resources=(("Observation", "o1"),)) == [6, 10]
    assert selected(last=(9, 1), first=(1, 12)) == [12]
    selection = Selection(
        "p1", since=practice.at(0), resources=(("Observation", "o1"),), events=(every[0].event_id,), first=(1, 1)
    )
    assert Selection.from_json("p1", json.loads(json.dumps(selection.to_json()))) == selection
    assert log.count(Selection("p1"), *log.span(Selection("p1"))) == {
        ("Observation", "created"): 4,
        ("Observation", "updated"): 8,
    }
    assert (
        sum(log.count(selection, *log.span(selection)).values()) == len(list(log.select(selection, bodies=False))) == 4
    )


def test_what_is_past_retention_is_refused_with_the_earliest_time(
    practice: Practice, log: SinkLog, database_url: str
) -> None:
    told(practice)
    first, *_, kept = log.after("p1", 0, 0, 5, bodies=False)
    assert list(log.select(Selection("p1", since=practice.at(-1000)), bodies=False)), "nothing was lost yet"
    with psycopg.connect(database_url) as owner:
        owner.execute("DELETE FROM poller.event WHERE sequence <= 4")
        owner.execute("INSERT INTO poller.expired VALUES ('p1', 1, 4, %s, now())", (kept.detected_at,))
    for early in (
        Selection("p1", since=first.detected_at),
        Selection("p1", first=(1, 4)),
        Selection("p1", until=kept.detected_at),
        Selection("p1", last=(1, 4)),
    ):
        with pytest.raises(NotFound, match="past retention") as refused:
            log.span(early)
        assert f"{kept.detected_at.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}" in str(refused.value)
        assert wire_sequence(1, 4) in str(refused.value)
    assert log.span(Selection("p1", since=kept.detected_at)) == ((0, 0), (1, 12))
    assert next(log.select(Selection("p1"), bodies=False)).sequence == 5, "all that is kept"


@pytest.mark.parametrize("is_resumed", [False, True])
def test_what_retention_drops_under_a_replay_is_not_passed_over_in_silence(
    practice: Practice,
    log: SinkLog,
    store: ReplayStore,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_resumed: bool,
) -> None:
    monkeypatch.setattr("poller.store.log._PAGE_OF_BODIES", 4)
    told(practice)

    def drop(last: int) -> None:
        with psycopg.connect(database_url) as owner:
            owner.execute("DELETE FROM poller.event WHERE sequence <= %s", (last,))
            expired = "INSERT INTO poller.expired VALUES ('p1', 1, %s, %s, clock_timestamp())"
            conflict = (
                " ON CONFLICT (practice) DO UPDATE SET sequence = excluded.sequence, dropped_at = excluded.dropped_at"
            )
            owner.execute(expired + conflict, (last, practice.at(0)))

    drop(1)  # before it begins: what is kept is all there is to tell
    record = a_record(log, Selection("p1"))
    store.begin(record)
    if is_resumed:
        stopping = threading.Event()
        some = Player(log, record, Kept([]), BASE, store, rate=4, progress=lambda _: stopping.set())
        assert not some.play(stopping)
        record = store.find(record.replay)
    kept = Kept([])
    kept.at_send = lambda: drop(11) if kept.bodies else drop(3)  # 3 has gone out by then, 10 and 11 have not
    if is_resumed:
        drop(7)
    with pytest.raises(NotFound, match="retention has dropped"):
        Player(log, record, kept, BASE, store).play()
    assert numbers(kept.bodies) == ([] if is_resumed else [2, 3, 4, 5, 6, 7, 8, 9])
    assert store.find(record.replay).state == "running"


def test_a_replay_that_was_stopped_goes_on_where_it_stood(practice: Practice, log: SinkLog, store: ReplayStore) -> None:
    told(practice, rounds=2)
    record = a_record(log, Selection("p1"))
    store.begin(record)
    stopping = threading.Event()
    first = Kept([], at_send=stopping.set)
    assert not Player(log, record, first, BASE, store, rate=20).play(stopping)
    assert 0 < len(first.bodies) < 8
    kept = store.find(record.replay)
    assert (kept.state, kept.sent, kept.at) == ("running", len(first.bodies), (1, len(first.bodies)))
    practice.read(practice.observation("late"))
    second = Kept([])
    assert Player(log, kept, second, BASE, store).play()
    assert numbers([*first.bodies, *second.bodies]) == list(range(1, 9)), "to the head as it was, each once"
    chain = [body.get("previoussequence") for body in [*first.bodies, *second.bodies]]
    assert chain == [None, *[wire_sequence(1, n) for n in range(1, 8)]]
    done = store.find(record.replay)
    assert (done.state, done.sent) == ("done", 8)
    with pytest.raises(StoreError, match="another process"):
        Player(log, kept, Kept([]), BASE, store).play()


def test_a_replay_that_broke_off_repeats_at_most_what_was_last_sent(
    practice: Practice, log: SinkLog, store: ReplayStore
) -> None:
    told(practice, rounds=2)
    record = a_record(log, Selection("p1"))
    store.begin(record)
    broken = Kept([], room=5)
    with pytest.raises(BrokerError):
        Player(log, record, broken, BASE, store, rate=20).play()
    again = Kept([])
    assert Player(log, store.find(record.replay), again, BASE, store).play()
    assert sorted({*numbers(broken.bodies), *numbers(again.bodies)}) == list(range(1, 9))
    assert {body["id"] for body in broken.bodies} & {body["id"] for body in again.bodies} <= {
        broken.bodies[-1]["id"],
        broken.bodies[-2]["id"],
    }
    assert store.cancel(store.find(record.replay)) is False


def test_a_file_holds_each_event_once_however_the_replay_ends(
    practice: Practice, log: SinkLog, store: ReplayStore, tmp_path: Path
) -> None:
    told(practice)
    path = tmp_path / "events.ndjson"
    record = replace(a_record(log, Selection("p1")), file=str(path))
    store.begin(record)
    stopping = threading.Event()
    destination = FileDestination(path)
    destination.checkpoint = 1
    with contextlib.closing(destination):
        player = Player(log, record, destination, BASE, store, rate=20, progress=lambda _: stopping.set())
        assert not player.play(stopping)
    with path.open("ab") as file:
        file.write(b'{"half a li')  # as a crash between two notes leaves it
    kept = store.find(record.replay)
    with contextlib.closing(FileDestination(path, kept.written)) as resumed:
        assert Player(log, kept, resumed, BASE, store).play()
    events = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert numbers(events) == list(range(1, 13))
    assert all(event["origin"] == "replay" and event["replayid"] == record.replay for event in events)
    with pytest.raises(PollerError, match="is there already"):
        FileDestination(path)
    with pytest.raises(PollerError, match="shorter"):
        FileDestination(path, 10**6)


@contextlib.contextmanager
def relaying(log: SinkLog, bench: Bench, sink: Sink) -> Iterator[Relay]:
    relay = Relay(log, [Outlet(sink, bench.broker().publisher(sink))], {"p1": BASE}, poll=0.05)
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()


def held_replay(log: SinkLog, store: ReplayStore, bench: Bench, sink: Sink) -> tuple[Hold, ReplayRecord]:
    check_live(sink, "p1", log.positions(sink.name))
    record = replace(a_record(log, Selection("p1")), queue=sink.queues[0], sink=sink.name)
    hold = Hold(store, record)
    stands = hold.wait(lambda: log.settle_holds(sink.name), bench.broker().publisher(sink), lambda: None, patience=20)
    record = replace(record, end=min(record.end, stands))
    store.begin(record)
    return hold, record


def into_queue(bench: Bench, log: SinkLog, store: ReplayStore, record: ReplayRecord, hold: Hold, **more: Any) -> bool:
    with contextlib.closing(QueueDestination(bench.broker().queue_publisher(record.queue or ""))) as queue:
        return Player(log, record, queue, BASE, store, hold, **more).play()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.02)


def until_drained(log: SinkLog, sink: Sink) -> None:
    until(lambda: any(at.sequence == at.head for at in log.positions(sink.name)))


def versions_in_order(bodies: list[bytes]) -> dict[str, list[tuple[str, int]]]:
    """Origin and version of each resource's events, as they lie in the queue."""
    found: dict[str, list[tuple[str, int]]] = {}
    for body in bodies:
        event = json.loads(body)
        kind = "replay" if event["origin"] == "replay" else "live"
        found.setdefault(event["subject"], []).append((kind, int(event["data"]["response"]["etag"].strip('W/"'))))
    return found


@pytest.mark.parametrize("payload", ["id-only", "full-resource"])
def test_a_file_has_byte_for_byte_what_the_relay_published(
    practice: Practice, log: SinkLog, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, payload: Payload
) -> None:
    """But for the origin and the replay's id. Pages and blocks are so small that their seams are among what is compared."""
    for name in ("poller.store.log._PAGE", "poller.store.log._PAGE_OF_BODIES", "poller.replay._BATCH"):
        monkeypatch.setattr(name, 3)
    quantity = {"unit": 'Å "\\', "code": "\u2028\u0000"}
    for number in ("13.20", "13.2", "1E+2", "100000000000000000000"):
        practice.read(
            *[
                practice.observation(f"o{i}", valueQuantity=quantity | {"value": jsontext.Literal(number)})
                for i in range(4)
            ]
        )
    practice.read(practice.observation("o0", status="entered-in-error"))
    sink = replace(bench.sink, payload=payload)
    with relaying(log, bench, sink):
        until_drained(log, sink)
    published = bench.received(17)
    path = tmp_path / "events.ndjson"
    record = replace(a_record(log, Selection("p1")), payload=payload)
    with contextlib.closing(FileDestination(path)) as file:
        assert Player(log, record, file, BASE).play()
    added = f'"origin":"replay","replayid":"{record.replay}"'.encode()
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [line.replace(added, b'"origin":"live"') for line in lines] == published
    assert b"13.20" not in b"".join(lines) if payload == "id-only" else b'"value":13.20' in lines[0]


@pytest.mark.parametrize("relay_runs", [True, False])
def test_a_replay_into_a_live_queue_lies_between_what_was_and_what_will_be_delivered(
    practice: Practice, log: SinkLog, store: ReplayStore, bench: Bench, *, relay_runs: bool
) -> None:
    sink = replace(bench.sink, payload="full-resource")
    told(practice, rounds=2, each=2)
    with relaying(log, bench, sink):
        until_drained(log, sink)
        if relay_runs:
            hold, record = held_replay(log, store, bench, sink)
    if not relay_runs:
        hold, record = held_replay(log, store, bench, sink)
    with relaying(log, bench, sink):
        practice.read(practice.observation("o0", value="new"), practice.observation("o1", value="new"))
        assert into_queue(bench, log, store, record, hold)
        assert log.positions(sink.name)[0].held == record.replay
        hold.end()
        until_drained(log, sink)
    order = [("live", 1), ("live", 2), ("replay", 1), ("replay", 2), ("live", 3)]
    assert versions_in_order(bench.received(10)) == {"Observation/o0": order, "Observation/o1": order}
    assert bench.depth() == 0


def test_delivery_waits_as_long_as_the_replay_lives_and_no_longer(
    practice: Practice, log: SinkLog, store: ReplayStore, bench: Bench
) -> None:
    told(practice, rounds=1, each=1)
    with relaying(log, bench, bench.sink):
        until_drained(log, bench.sink)
        hold, record = held_replay(log, store, bench, bench.sink)
        practice.read(practice.observation("o0", value="new"))
        store.keep_hold(record, dt.timedelta(milliseconds=300))  # it dies here
        until_drained(log, bench.sink)
        until(lambda: log.positions(bench.sink.name)[0].held is None)
    with pytest.raises(StoreError, match="has gone on"):
        hold.renew()
    assert len(bench.received(2)) == 2, "nothing of the replay came behind what was delivered"
    other, second = held_replay(log, store, bench, bench.sink)
    with pytest.raises(StoreError, match="another replay holds"):
        store.ask_hold(replace(second, replay="third"))
    assert store.cancel(second)
    assert log.positions(bench.sink.name)[0].held is None
    with pytest.raises(StoreError):
        other.renew()


def test_a_hold_that_is_granted_while_it_is_given_up_holds_nothing(
    practice: Practice, log: SinkLog, store: ReplayStore, bench: Bench, database_url: str
) -> None:
    """Else the practice would wait for a replay that is not, for good, and nothing would let it go on."""
    told(practice, rounds=1, each=1)
    with relaying(log, bench, bench.sink):
        until_drained(log, bench.sink)
    record = replace(a_record(log, Selection("p1")), queue=bench.sink.queues[0], sink=bench.sink.name)
    store.ask_hold(record)
    giving_up = threading.Thread(target=store.end_hold, args=[record])
    with (
        psycopg.connect(database_url, autocommit=True) as watching,
        log._engine.connect() as granting,
        granting.begin(),
    ):
        assert [row.lapsed for row in granting.execute(sql("settle_holds"), {"sink": bench.sink.name})] == [False]
        giving_up.start()
        waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        until(lambda: watching.execute(waits).fetchone() == (1,))
    giving_up.join(20)
    assert log.positions(bench.sink.name)[0].held is None


def test_what_is_parked_until_a_replay_may_begin_stands_in_its_way(
    practice: Practice, log: SinkLog, store: ReplayStore, bench: Bench
) -> None:
    told(practice, rounds=1, each=1)
    with relaying(log, bench, bench.sink):
        until_drained(log, bench.sink)
    record = replace(a_record(log, Selection("p1")), queue=bench.sink.queues[0], sink=bench.sink.name)
    (event,) = log.after("p1", 0, 0, 1, bodies=False)

    def park_and_settle() -> None:
        (position,) = log.positions(bench.sink.name)
        parking = Parking(event, "too large")
        log.advance(
            bench.sink.name, position, Step(last=event, routed=None, delivered=0, filtered=0, parked=(parking,))
        )
        log.settle_holds(bench.sink.name)

    def check() -> None:
        check_live(bench.sink, "p1", log.positions(bench.sink.name))

    check()
    with pytest.raises(PollerError, match="poller sinks release"):
        Hold(store, record).wait(park_and_settle, bench.broker().publisher(bench.sink), check)
    assert log.positions(bench.sink.name)[0].held is None


def test_what_stands_in_the_way_of_a_live_replay_is_told(practice: Practice, log: SinkLog, bench: Bench) -> None:
    told(practice)
    sink = replace(bench.sink, only=Only())
    with pytest.raises(PollerError, match="nothing of practice p1"):
        check_live(sink, "p1", log.positions(sink.name))
    (position,) = log.positions(sink.name)
    with pytest.raises(PollerError, match="poller sinks release"):
        check_live(sink, "p1", [replace(position, sequence=3, parked=1)])
    with pytest.raises(PollerError, match="snapshot"):
        check_live(sink, "p1", [replace(position, sequence=3, snapshot_type="")])
    check_live(sink, "p1", [replace(position, sequence=3)])
