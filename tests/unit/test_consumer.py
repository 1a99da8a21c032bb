"""What a consumer decides: any deliveries, repeated and cut off as they may be, come to each change once and in order."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from poller.consumer import Change, Consumer, Gap, Malformed, Memory
from poller.consumer.change import Reprocess, Verdict, gap_before, read_change
from poller.core.envelope import wire_sequence

SOURCE = "https://ehr.example/A"


def an_event(
    resource: int = 1, version: int = 1, number: int = 1, previous: int | None = None, **more: Any
) -> dict[str, Any]:
    event = {
        "id": f"o{resource}#{version}",
        "source": SOURCE,
        "subject": f"Observation/o{resource}",
        "type": "dev.ehrpoller.resource.updated.v1",
        "sequence": wire_sequence(1, number),
        "origin": "live",
        "data": {"response": {"etag": f'W/"{version}"'}},
    }
    return event | ({"previoussequence": wire_sequence(1, previous)} if previous is not None else {}) | more


def a_change(*numbers: Any, **more: Any) -> Change:
    return read_change(json.dumps(an_event(*numbers, **more)))


def in_memory() -> Engine:
    return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


ENGINE = in_memory()


def test_an_event_is_read() -> None:
    change = a_change(3, 7, 9, 8, origin="replay", replayid="r-1")
    assert (change.subject, change.action, change.version, change.stream) == ("Observation/o3", "updated", 7, "r-1")
    assert change.data == {"response": {"etag": 'W/"7"'}}
    assert change.previous_sequence == wire_sequence(1, 8)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps(an_event() | {"id": 7}),
        json.dumps(an_event() | {"data": None}),
        json.dumps(an_event() | {"data": {"response": {"etag": "7"}}}),
        json.dumps(an_event() | {"type": "dev.ehrpoller.resource.updated.v2"}),
        json.dumps(an_event() | {"previoussequence": 7}),
    ],
)
def test_what_is_no_event_is_told_without_quoting_it(body: bytes | str) -> None:
    with pytest.raises(Malformed) as refused:
        read_change(body)
    assert "o1" not in str(refused.value)


@settings(deadline=None, max_examples=50)
@given(
    resources=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    kills=st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.integers(0, 6)), max_size=6),
)
def test_any_deliveries_come_to_each_change_once_in_order_and_without_a_false_gap(
    resources: list[int], kills: list[tuple[int, bool, int]]
) -> None:
    """At least once, in the order of the log. Each kill: after so many, the last committed or not; so many come again besides."""
    log = [a_change(r, resources[: n + 1].count(r), n + 1, n or None) for n, r in enumerate(resources)]
    memory, applied, gaps, at = Memory(ENGINE, uuid.uuid4().hex), [], [], 0
    memory.prepare()
    for count, commits, back in [*kills, (len(log), True, 0)]:
        for number, change in enumerate(log[at : at + count], start=1):
            with memory.engine.connect() as connection:
                verdict, gap = memory.take(connection, change)
                if number == count and not commits:
                    break
                connection.commit()
            applied += [change.id] if verdict is Verdict.APPLY else []
            gaps += [gap] if gap is not None else []
            at = log.index(change) + 1
        at = max(0, at - back)
    assert applied == [change.id for change in log]
    assert gaps == []


@given(lost=st.sets(st.integers(1, 18), min_size=1), again=st.booleans())
def test_what_was_lost_on_the_way_is_told(lost: set[int], again: bool) -> None:
    last: str | None = None
    gaps: list[Gap] = []
    for number in range(1, 21):
        if number in lost and number > 1:
            continue
        for _ in range(2 if again else 1):
            change = a_change(1, number, number, number - 1 or None)
            gaps += [found] if (found := gap_before(change, last)) is not None else []
            last = max(last or "", change.sequence)
    missing = lost - {1}
    ends = {number for number in missing if number + 1 not in missing}
    assert [gap.named for gap in gaps] == [wire_sequence(1, number) for number in sorted(ends)]


@pytest.mark.parametrize(
    ("previous", "number", "last"),
    [(None, 5, None), (4, 5, None), (4, 5, 4), (4, 5, 5), (4, 5, 9), (None, 5, 4), (2, 5, 4)],
)
def test_no_gap_where_nothing_is_proven(previous: int | None, number: int, last: int | None) -> None:
    change = a_change(1, 1, number, previous)
    assert gap_before(change, wire_sequence(1, last) if last else None) is None


def test_an_epoch_begins_without_a_gap() -> None:
    change = read_change(
        json.dumps(an_event() | {"sequence": wire_sequence(2, 1), "previoussequence": wire_sequence(1, 7)})
    )
    assert gap_before(change, wire_sequence(1, 7)) is None
    assert isinstance(gap_before(change, wire_sequence(1, 6)), Gap)


def taken(memory: Memory, changes: list[Change], reprocess: Reprocess = "none") -> list[str]:
    done = []
    for change in changes:
        with memory.engine.begin() as connection:
            verdict, gap = memory.take(connection, change, reprocess)
        assert gap is None
        done += [f"{change.version}"] if verdict is Verdict.APPLY else []
    return done


def replayed(replay: str, *versions: int) -> list[Change]:
    return [a_change(1, v, v, v - 1 if v > versions[0] else None, origin="replay", replayid=replay) for v in versions]


def test_a_replay_is_applied_by_an_empty_consumer_dropped_by_one_that_knows_and_reprocessed_on_demand() -> None:
    memory = Memory(in_memory())
    memory.prepare()
    live = [a_change(1, v, v, v - 1 or None) for v in (1, 2, 3)]
    assert taken(memory, live) == ["1", "2", "3"]
    assert taken(memory, replayed("r1", 1, 2, 3)) == []
    assert taken(memory, replayed("r2", 1, 2, 3, 2, 3), {"r2"}) == ["1", "2", "3"], "once, though some came twice"
    assert taken(memory, replayed("r3", 1, 2), {"r2"}) == []
    assert taken(memory, replayed("r3", 1, 2), "all") == ["1", "2"], "wanted only now"


def test_a_reprocessed_replay_counts_for_what_follows_live() -> None:
    memory = Memory(in_memory())
    memory.prepare()
    assert taken(memory, replayed("r", 1, 2, 3), "all") == ["1", "2", "3"]
    assert taken(memory, [a_change(1, 3, 3, 2), a_change(1, 4, 4, 3)], "all") == ["4"]


def test_a_memory_that_forgets_begins_anew_and_others_in_the_same_tables_know_nothing_of_it() -> None:
    engine = in_memory()
    one, other = Memory(engine, "one"), Memory(engine, "other")
    one.prepare()
    changes = [a_change(1, 1, 1), a_change(1, 2, 2, 1)]
    assert taken(one, changes) == taken(other, changes) == ["1", "2"]
    with engine.begin() as connection:
        one.forget(connection)
    assert taken(one, changes) == ["1", "2"]
    assert taken(other, changes) == []


def test_an_unknown_database_is_refused() -> None:
    class Dialect:
        name = "oracle"

    class Other:
        dialect = Dialect()

    with pytest.raises(ValueError, match="SQLite or PostgreSQL"):
        Memory(Other())  # type: ignore[arg-type]


def test_what_went_wrong_long_ago_makes_no_pause_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is restarted once a week is not one that has been away for weeks."""
    consumer = Consumer("amqp://127.0.0.1:1//", "q", Memory(in_memory()), lambda _change, _connection: None)
    paused: list[int] = []

    def consume(_connection: object, _until_idle: float | None) -> bool:
        consumer.counts["apply"] += len(paused) < 3  # later ones find the broker away
        if len(paused) == 6:
            return True
        raise ConnectionResetError

    monkeypatch.setattr(consumer, "_consume", consume)
    monkeypatch.setattr(consumer, "_pause", paused.append)
    consumer.run(signals=False)
    assert paused == [1, 1, 1, 2, 3, 4]
