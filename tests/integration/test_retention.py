"""Old months are dropped once every sink has passed them, and what is told afterwards is still right."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from poller.config import Config
from poller.config.model import StoreConfig
from poller.core.patch import applied, difference
from poller.neighbours import needs
from poller.store.configurations import ConfigurationStore
from poller.store.retention import Expired, Need, Retention
from tests.integration.conftest import Practice

KEEP = dt.timedelta(days=62)
SINKS = ["changes", "full"]


@dataclass
class Past:
    """A practice whose log goes some months back; months count from this one, 0."""

    practice: Practice
    admin: psycopg.Connection

    def __post_init__(self) -> None:
        (today,) = self.admin.execute("SELECT (now() AT TIME ZONE 'UTC')::date").fetchone() or ()
        self.today: dt.date = today
        for back in range(8):
            self.admin.execute("SELECT poller.ensure_partitions(%s)", [self.month(back)])

    def month(self, back: int) -> dt.date:
        months = self.today.year * 12 + self.today.month - 1 - back
        return dt.date(months // 12, months % 12 + 1, 1)

    def at(self, back: int, day: int = 5) -> dt.datetime:
        return dt.datetime.combine(self.month(back), dt.time(12), dt.UTC) + dt.timedelta(days=day - 1)

    def read(self, back: int, value: str, *ids: str, day: int = 5) -> None:
        """What these ids showed in a month."""
        practice, now = self.practice, self.at(back, day)
        second = (now - practice.at(0)).total_seconds()
        versions = [practice.version(practice.observation(id_, value=value), second) for id_ in ids]
        practice.repository.record(practice.context(), versions, now + dt.timedelta(seconds=2))

    def pass_all(self, *sinks: str, sequence: int | None = None) -> None:
        for sink in sinks:
            self.admin.execute(
                "INSERT INTO poller.cursor (sink, practice, epoch, sequence, moved_at)"
                " SELECT %s, practice, epoch, coalesce(%s, head), now() FROM poller.practice_log"
                " ON CONFLICT (sink, practice) DO UPDATE SET sequence = excluded.sequence",
                [sink, sequence],
            )

    def expire(
        self, keep: dt.timedelta = KEEP, practices: tuple[str, ...] = ("p1",), others: Sequence[Need] = ()
    ) -> list[Expired]:
        needs = [Need("poller", code, sink) for code in practices for sink in SINKS]
        needs += [Need("poller", code, keep=keep) for code in practices]
        return Retention(self.practice.engine).expire(keep, [*needs, *others])

    def sequences(self) -> list[int]:
        return [event.sequence for event in self.practice.log.after("p1", 0, 0, 100, bodies=False)]

    def versions(self, id_: str) -> list[int]:
        return [row.version for row in self.practice.log.history("p1", "Observation", id_)]


@pytest.fixture
def past(practice: Practice, database_url: str) -> Iterator[Past]:
    with closing(psycopg.connect(database_url, autocommit=True)) as admin:
        yield Past(practice, admin)


def test_months_that_all_sinks_have_passed_are_dropped_oldest_first(past: Past) -> None:
    past.read(6, "1", "o1")
    past.read(5, "2", "o1")
    past.read(1, "3", "o1")
    past.pass_all(*SINKS)
    dropped = past.expire()
    assert [(one.month, one.held_by) for one in dropped][:2] == [(past.month(7), None), (past.month(6), None)]
    assert past.sequences() == [3]
    assert past.expire() == []
    earliest = Retention(past.practice.engine).earliest("p1")
    assert earliest is not None
    assert (earliest.epoch, earliest.sequence) == (1, 2)
    assert past.at(5) < earliest.at <= past.at(1)
    past.pass_all("behind", sequence=1)
    past.pass_all("level", sequence=2)
    sinks = [*SINKS, "level", "behind"]
    overtaken = [position.overtaken for sink in sinks for position in past.practice.log.positions(sink)]
    assert overtaken == [False, False, False, True]


def test_nothing_younger_than_is_kept_goes(past: Past) -> None:
    past.read(6, "1", "o1")
    past.read(2, "2", "o1")
    past.pass_all(*SINKS)
    past.expire(dt.timedelta(days=31 * 8))
    assert past.sequences() == [1, 2]
    assert Retention(past.practice.engine).earliest("p1") is None


def test_the_state_and_the_patch_can_still_be_told(past: Past) -> None:
    """The version before the retained time stays, however old, or an update would have nothing to differ from."""
    past.read(6, "1", "o1", "o2")
    past.read(5, "2", "o1")
    past.pass_all(*SINKS)
    past.expire()
    assert (past.versions("o1"), past.versions("o2")) == ([2], [1])
    past.read(0, "3", "o1", "o2", day=1)
    events = past.practice.log.after("p1", 0, 0, 100, bodies=True)
    assert [(event.id, event.version) for event in events] == [("o1", 3), ("o2", 2)]
    for event, before in zip(events, ["2", "1"], strict=True):
        assert event.previous_body is not None
        assert event.body is not None
        assert event.previous_body["valueString"] == before
        assert applied(event.previous_body, difference(event.previous_body, event.body)) == event.body


def test_a_last_version_goes_when_a_later_one_has_become_it(past: Past) -> None:
    past.read(6, "1", "o1")
    past.read(4, "2", "o1")
    past.pass_all(*SINKS)
    past.expire(dt.timedelta(days=31 * 5))
    assert past.versions("o1") == [1, 2]
    past.expire()
    assert past.versions("o1") == [2]


def test_tombstones_outlive_their_history(past: Past) -> None:
    past.read(6, "1", "o1")
    past.practice.rows("SELECT 1")
    past.admin.execute(
        "UPDATE poller.snapshot SET deleted = true, version = 7, body = NULL, codec = NULL WHERE id = 'o1'"
    )
    past.pass_all(*SINKS)
    past.expire()
    past.read(0, "1", "o1", day=1)
    assert past.practice.actions() == [("restored", "o1", 8)]


@pytest.mark.parametrize("sequence", [0, 1])
def test_a_sink_that_is_behind_holds_the_month_and_all_after_it(past: Past, sequence: int) -> None:
    past.read(6, "1", "o1", "o2")
    past.read(4, "2", "o1")
    past.pass_all("changes")
    past.pass_all("full", sequence=sequence)
    found = past.expire()
    assert (found[-1].month, found[-1].held_by) == (past.month(6), "sink full, practice p1")
    assert past.sequences() == [1, 2, 3]
    past.pass_all("full", sequence=2)
    assert past.expire()[-1].month == past.month(4)
    assert past.sequences() == [3]


def test_a_sink_that_has_not_begun_holds_everything(past: Past) -> None:
    past.read(6, "1", "o1")
    past.pass_all("changes")
    assert past.expire()[-1].held_by == "sink full, practice p1"


def test_a_sink_and_a_practice_that_are_not_configured_hold_nothing(past: Past) -> None:
    past.read(6, "1", "o1")
    past.pass_all(*SINKS)
    past.pass_all("of old", sequence=0)
    past.admin.execute("INSERT INTO poller.practice_log (practice, head) VALUES ('gone', 1)")
    past.admin.execute(
        "INSERT INTO poller.event (practice, epoch, sequence, recorded_at, event_id, resource_type, id, version, action, origin, digest,"
        " changed, categories, partition_key) SELECT 'gone', 1, 1, recorded_at, event_id, resource_type, id, version, action, origin,"
        " digest, changed, categories, partition_key FROM poller.event"
    )
    assert {one.held_by for one in past.expire()} == {None}


OTHER = """name: other
practices: {p1: {}}
sinks: {theirs: {}}
store: {retention: %s}
"""


OURS = Config.model_construct(
    name="ours", practices={"a": None}, sinks={"changes": None}, store=StoreConfig(retention=KEEP)
)


@pytest.mark.parametrize("retention", ["62d", "124d", "400d", "null", '"${KEEP}"'])
def test_what_another_poller_needs_stays(past: Past, retention: str) -> None:
    """A month holds the events of all pollers' practices, also of one that is stopped: its sinks, and its own retention, hold it."""
    past.read(6, "1", "o1")
    past.read(4, "2", "o1")
    past.pass_all(*SINKS)
    store = ConfigurationStore(past.practice.engine)
    assert store.accept("other", OTHER % retention, actor="test", reason="test") > 0
    held = Retention(past.practice.engine).expire(KEEP, needs(OURS, store.latest()))[-1]
    assert (past.sequences(), held.month) == ([1, 2], past.month(6))


def test_what_another_poller_keeps_goes_once_it_is_past_its_retention_and_its_sinks(past: Past) -> None:
    past.read(6, "1", "o1")
    past.read(4, "2", "o1")
    store = ConfigurationStore(past.practice.engine)
    store.accept("other", OTHER % "124d", actor="test", reason="test")
    past.pass_all("theirs")
    held = Retention(past.practice.engine).expire(KEEP, needs(OURS, store.latest()))[-1]
    assert past.sequences() == [2]
    assert (held.month, held.held_by) == (past.month(4), "retention of poller other, practice p1")
    store.accept("other", OTHER % "62d", actor="test", reason="test")
    assert Retention(past.practice.engine).expire(KEEP, needs(OURS, store.latest()))[-1].held_by is None
    assert past.sequences() == []


def test_a_parked_event_holds_its_month(past: Past) -> None:
    past.read(6, "1", "o1")
    past.pass_all(*SINKS)
    past.admin.execute(
        "INSERT INTO poller.parked (practice, sink, epoch, sequence, ordinal, resource_type, id, reason, released, parked_at)"
        " VALUES ('p1', 'full', 1, 1, 0, 'Observation', 'o1', 'unroutable', false, now())"
    )
    assert past.expire()[-1].held_by == "sink full, practice p1"
    past.admin.execute("DELETE FROM poller.parked")
    assert past.expire()[-1].held_by is None


def test_what_no_month_had_a_place_for_goes_as_well(past: Past) -> None:
    past.admin.execute(f"DROP TABLE poller.event_{past.month(5):%Y%m}")
    past.admin.execute(f"DROP TABLE poller.history_{past.month(5):%Y%m}")
    past.read(5, "1", "o1", "o2")
    past.read(4, "2", "o1")
    past.pass_all(*SINKS)
    past.expire()
    assert past.sequences() == []
    assert (past.versions("o1"), past.versions("o2")) == ([2], [1])


def test_not_even_the_engine_can_drop_what_is_young(past: Past) -> None:
    with pytest.raises(DBAPIError):
        past.expire(dt.timedelta(days=27))
    with past.practice.engine.connect() as connection, pytest.raises(DBAPIError):
        connection.exec_driver_sql("DELETE FROM poller.event_default")


def test_a_month_is_not_waited_for_behind_a_reader(past: Past) -> None:
    """A backup holds its locks for hours; writers must not queue behind us."""
    past.read(6, "1", "o1")
    past.pass_all(*SINKS)
    with past.practice.engine.connect() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM poller.event")
        with pytest.raises(DBAPIError):
            past.expire()
    assert past.sequences() == [1]
    assert past.expire()[-1].held_by is None
