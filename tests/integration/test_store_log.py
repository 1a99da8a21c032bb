"""The log as it is read: positions, cursors, replays, epochs."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from poller.core.envelope import wire_sequence
from poller.core.model import Action, Kind, Target
from poller.core.sink import Step
from poller.errors import LeaseLost, NotFound
from poller.store import log
from poller.store.engine import RELAY, open_engine
from poller.store.log import Position, Selection
from poller.store.sinks import SinkLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.conftest import Practice

pytestmark = pytest.mark.usefixtures("bodies")


@pytest.fixture
def relay(database_url: str) -> Iterator[SinkLog]:
    engine = open_engine(database_url, RELAY)
    yield SinkLog(engine)
    engine.dispose()


def moved(relay: SinkLog, practice: Practice, sequence: int) -> Position:
    """Move the sink's cursor to an event of the present epoch, as a relay that has delivered it; where it stands then."""
    [position] = relay.positions("sink")
    (event,) = practice.log.after("p1", 1, sequence - 1, 1, bodies=False)
    relay.advance("sink", position, Step(event, event, delivered=1, filtered=0))
    [position] = relay.positions("sink")
    return position


def test_a_sink_that_never_moved_stands_before_the_first_event(practice: Practice, relay: SinkLog) -> None:
    practice.read(*[practice.observation(f"o{n}") for n in range(3)])
    assert practice.log.positions("sink") == [Position("p1", 0, 0, None, 1, 3)]
    assert moved(relay, practice, 2) == Position("p1", 1, 2, "0000000001-00000000000000000002", 1, 3)
    assert practice.log.positions("other") == [Position("p1", 0, 0, None, 1, 3)]
    assert [e.sequence for e in practice.log.after("p1", 1, 2, 10, bodies=False)] == [3]
    assert practice.log.after("p1", 1, 3, 10, bodies=True) == []
    assert practice.log.after("unknown", 1, 0, 10, bodies=True) == []


def test_bodies_are_the_version_and_the_one_before_it(practice: Practice) -> None:
    practice.read(practice.observation(value="1"))
    practice.read(practice.observation(value="2"))
    practice.delete("o1")
    practice.read(practice.observation(value="3"))
    practice.read(practice.observation(value="4"))
    found = [
        (e.action, e.previous_body and e.previous_body["valueString"], e.body and e.body["valueString"])
        for e in practice.log.after("p1", 1, 0, 10, bodies=True)
    ]
    assert found == [
        (Action.CREATED, None, "1"),
        (Action.UPDATED, "1", "2"),
        (Action.DELETED, None, None),
        (Action.RESTORED, "2", "3"),
        (Action.UPDATED, "3", "4"),
    ]
    first, *_ = practice.log.after("p1", 1, 0, 1, bodies=True)
    assert first.sequence == 1


def test_a_page_with_bodies_ends_after_so_many_bytes_and_nothing_is_left_out(
    practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of attachments would else fill the memory of relay and replay."""
    large = "".join(random.Random(1).choices("0123456789abcdef", k=20_000))  # noqa: S311 - only to be incompressible
    for n in range(6):
        practice.read(practice.observation(f"o{n}", value=large))
    monkeypatch.setitem(log._EVERYTHING, "bytes", 25_000)
    page = practice.log.after("p1", 0, 0, 100, bodies=True)
    assert 1 <= len(page) < 6
    assert len(practice.log.after("p1", 0, 0, 100, bodies=False)) == 6
    monkeypatch.setitem(log._EVERYTHING, "bytes", 1)
    assert [event.id for event in practice.log.after("p1", 0, 0, 100, bodies=True)] == ["o0"], "one goes always"
    selected = practice.log.select(Selection("p1"), bodies=True)
    assert [event.id for event in selected] == [f"o{n}" for n in range(6)]


def test_a_replay_gives_the_same_events_selected(practice: Practice) -> None:
    for second in (10, 20, 30):
        practice.read(practice.observation("o1", value=str(second)), second=second)
        mine = practice.observation("o2", value=str(second), subject={"reference": "Patient/b"})
        practice.read(mine, practice.patient("b", active=second), second=second)
    log = practice.log.after("p1", 1, 0, 100, bodies=True)

    def selected(selection: Selection) -> list[int]:
        events = list(practice.log.select(selection, bodies=True))
        assert all(event in log for event in events), "the very same: ids, bodies, times"
        return [event.sequence for event in events]

    assert selected(Selection("p1")) == list(range(1, 10))
    assert selected(Selection("p1", resource_type="Patient")) == [3, 6, 9]
    assert selected(Selection("p1", patient="b")) == [2, 3, 5, 6, 8, 9]
    assert selected(Selection("p1", since=practice.at(21))) == [4, 5, 6, 7, 8, 9]
    assert selected(Selection("p1", until=practice.at(21))) == [1, 2, 3]
    window = Selection("p1", "Observation", "b", since=practice.at(11), until=practice.at(31))
    assert selected(window) == [2, 5]
    with pytest.raises(NotFound):
        next(practice.log.select(Selection("p9"), bodies=False))


def test_a_replay_ends_at_the_head_of_its_beginning_and_pages_through(practice: Practice) -> None:
    practice.read(*[practice.observation(f"o{n:04}") for n in range(1201)])
    events = practice.log.select(Selection("p1"), bodies=False)
    first = next(events)
    practice.read(practice.observation("late"))
    assert [first.sequence, *[event.sequence for event in events]] == list(range(1, 1202))


def test_the_history_of_a_resource_is_all_its_versions(practice: Practice) -> None:
    practice.read(practice.observation(value="1"), previous_read=practice.at(1))
    practice.read(practice.observation(value="2", status="amended"))
    practice.delete("o1")
    rows = practice.log.history("p1", "Observation", "o1")
    assert [(row.version, row.action, row.changed, row.status) for row in rows] == [
        (1, Action.CREATED, (), "final"),
        (2, Action.UPDATED, ("status", "valueString"), "amended"),
        (3, Action.DELETED, (), "amended"),
    ]
    assert [row.sequence for row in rows] == [wire_sequence(1, n) for n in (1, 2, 3)]
    assert [row.body and row.body["valueString"] for row in rows] == ["1", "2", None]
    assert rows[0].evidence is None
    assert "gone when read" in (rows[2].evidence or "")
    with pytest.raises(NotFound):
        practice.log.history("p1", "Observation", "o2")


def test_a_new_epoch_starts_numbers_again_and_carries_versions_far_ahead(practice: Practice, relay: SinkLog) -> None:
    """Also when the same backup is restored twice: an epoch is a time, so neither its numbers nor its versions come again."""
    practice.read(practice.observation("o1", value="1"), practice.observation("gone"))
    moved(relay, practice, 1)
    old = practice.log.after("p1", 1, 0, 10, bodies=False)
    before = int(time.time())
    epoch = practice.log.start_epoch("p1")
    assert before - 60 <= epoch <= time.time() + 60
    assert practice.log.positions("sink") == [Position("p1", 1, 1, wire_sequence(1, 1), epoch, 0)]
    assert practice.log.positions("new") == [Position("p1", 0, 0, None, epoch, 0)]
    with pytest.raises(LeaseLost):
        practice.read(practice.observation("o1", value="2"))
    practice.lease = practice.keeper.take("p1")
    practice.read(practice.observation("o1", value="2"), practice.observation("o2"))
    practice.read(practice.observation("o1", value="3"))
    practice.delete("gone")
    events = practice.log.after("p1", 1, 1, 10, bodies=True)
    floor = events[1].version
    assert floor >= before * 1000 - 60_000
    assert [(e.epoch, e.sequence, e.id, e.version) for e in events] == [
        (1, 2, "o1", 1),
        (epoch, 1, "o2", floor),
        (epoch, 2, "o1", floor),
        (epoch, 3, "o1", floor + 1),
        (epoch, 4, "gone", floor),
    ]
    assert events[2].previous_body is not None
    assert events[2].previous_body["valueString"] == "1"
    order = [wire_sequence(e.epoch, e.sequence) for e in (*old[:1], *events)]
    assert order == sorted(order)
    again = practice.log.start_epoch("p1")
    assert again > epoch
    practice.lease = practice.keeper.take("p1")
    practice.read(practice.observation("o1", value="4"))
    [last] = practice.log.after("p1", again, 0, 10, bodies=False)
    assert last.version > floor + 1
    assert [e.sequence for e in practice.log.select(Selection("p1"), bodies=False)] == [1, 2, 1, 2, 3, 4, 1]
    with pytest.raises(NotFound):
        practice.log.start_epoch("p9")


def test_events_stand_in_the_partition_of_their_month_and_read_as_one_log(practice: Practice) -> None:
    with practice.engine.begin() as connection:
        connection.exec_driver_sql("SELECT poller.ensure_partitions('2026-11-22')")
    practice.register(Target("p1", "Patient", Kind.SWEEP))
    months = 86400 * 31
    for turn, second in enumerate((0, months, 5 * months)):
        practice.read(practice.observation(value=str(turn)), second=second)
    tables = [row[0] for row in practice.rows("SELECT tableoid::regclass::text FROM poller.event ORDER BY sequence")]
    assert tables == ["poller.event_202611", "poller.event_202612", "poller.event_default"]
    events = practice.log.after("p1", 1, 0, 10, bodies=True)
    assert [(e.sequence, e.previous_body and e.previous_body["valueString"]) for e in events] == [
        (1, None),
        (2, "0"),
        (3, "1"),
    ]
    with practice.engine.begin() as connection:
        connection.exec_driver_sql("SELECT poller.ensure_partitions('2027-04-26')")
    assert [e.sequence for e in practice.log.after("p1", 1, 0, 10, bodies=True)] == [1, 2, 3]
