"""Patients out of a roster and a Group: added and never removed, live after the first whole reading, with troubles kept and said once."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY
from sqlalchemy import Engine, text

from poller.config import PracticeConfig
from poller.config.secret import Secret
from poller.core import roster
from poller.core.model import Failure, FailureKind, Purpose
from poller.errors import LeaseLost
from poller.patients import GROUP_EVERY, PatientFinder
from poller.source.group import Membership
from poller.store.known import PatientSource
from poller.store.patients import BATCH, Enumeration, PatientStore
from tests.integration.conftest import Practice
from tests.patients_bench import practice_in, shared_database, shared_engine

HOUR = dt.timedelta(hours=1)
REFUSED = Failure(FailureKind.REFUSED, 403, "forbidden; are the scope and the app enabled")


class Roll:
    """A Group by script; the last answer is given again and again."""

    def __init__(self, *answers: Membership) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def read(self, purpose: Purpose) -> Membership:
        assert purpose is Purpose.DETECT
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Bench:
    """A practice with a roster that the test writes, and a Group that it scripts."""

    def __init__(self, practice: Practice, path: Path) -> None:
        self.practice = practice
        self.code = practice.code
        self.path = path
        self.store = PatientStore(practice.engine)
        self.time = practice.at(0)
        self.written = 0
        self.finder = self.restart()

    def now(self) -> dt.datetime:
        return self.time

    def restart(self, group: Roll | None = None) -> PatientFinder:
        config = PracticeConfig.model_validate(
            {
                "code": self.practice.code,
                "base_url": "https://ehr.example/r4",
                "client_id": "c",
                "key": Secret(env="UNUSED", file=None),
                "feeds": {"Patient": {}},
                "patients": {"roster": str(self.path)} if group is None else {},
            }
        )
        self.finder = PatientFinder(config, self.practice.lease, self.store, group, self)
        return self.finder

    def write(self, data: str | bytes) -> None:
        self.path.write_bytes(data if isinstance(data, bytes) else data.encode())
        self.written += 1
        os.utime(self.path, ns=(self.written, self.written))

    def find(self, later: dt.timedelta = dt.timedelta(seconds=10)) -> bool:
        self.time += later
        return asyncio.run(self.finder.find(self.time))

    def known(self) -> dict[str, bool]:
        rows = self.practice.rows(
            "SELECT id, live FROM poller.patient WHERE practice = :code ORDER BY ordinal", code=self.code
        )
        return {row.id: row.live for row in rows}

    def rows(self, statement: str) -> Sequence[Any]:
        return self.practice.rows(f"{statement} WHERE practice = :code", code=self.code)

    def change(self, statement: str) -> None:
        with self.practice.engine.begin() as connection:
            connection.execute(text(statement), {"code": self.code})

    def enumeration(self, source: PatientSource = PatientSource.ROSTER) -> Enumeration:
        return self.store.enumerations(self.code)[source]


@pytest.fixture(scope="module")
def engine(postgres_server: str, template_database: str) -> Iterator[Engine]:
    with shared_database(postgres_server, template_database) as url, shared_engine(url) as made:
        yield made


@pytest.fixture
def practice(engine: Engine) -> Iterator[Practice]:
    with practice_in(engine) as made:
        yield made


@pytest.fixture
def bench(practice: Practice, tmp_path: Path) -> Bench:
    return Bench(practice, tmp_path / "roster.csv")


@pytest.fixture
def said() -> Iterator[Callable[[str], list[Any]]]:
    """What was logged, by its action."""
    with structlog.testing.capture_logs() as lines:
        yield lambda action: [line for line in lines if line["action"] == action]


def test_a_roster_is_read_when_it_has_changed_and_its_newcomers_are_live(bench: Bench) -> None:
    bench.write("id\na1\nb2\n")
    assert bench.find()
    assert bench.known() == {"a1": False, "b2": False}, "the first list is what the practice has: a baseline"
    assert not bench.find()
    bench.write("id\na1\nb2\nc3\n")
    assert bench.find()
    assert bench.known() == {"a1": False, "b2": False, "c3": True}
    assert bench.enumeration() == Enumeration("roster", bench.time, bench.time, 3, None)
    bench.restart()
    bench.write("id\nd4\n")
    assert bench.find()
    assert bench.known() == {"a1": False, "b2": False, "c3": True, "d4": True}, "nobody is gone, also after a restart"


def test_an_unchanged_roster_is_not_opened(bench: Bench, said: Callable[[str], list[Any]]) -> None:
    bench.write("id\na1\n")
    bench.find()
    bench.find()
    assert len(said("roster.read")) == 1


def test_a_roster_of_broken_lines_is_refused_and_the_last_good_one_stays(
    bench: Bench, said: Callable[[str], list[Any]]
) -> None:
    bench.write("id\na1\n")
    bench.find()
    good = bench.enumeration()
    bench.write("id\nb2\nJane Doe\n")
    assert not bench.find()
    assert not bench.find()
    assert bench.known() == {"a1": False}
    found = bench.enumeration()
    assert (found.began, found.ended, found.found) == (good.began, good.ended, good.found)
    assert found.failure == f"refused: 1 of 2 lines cannot be read, the first: line 3: {roster._ODD_ID}"
    assert len(said("patients.fail")) == len(said("roster.unread")) == 1
    bench.write("id\nb2\n")
    assert bench.find()
    assert bench.enumeration().failure is None


def test_what_is_wrong_is_told_by_line_and_never_by_content(bench: Bench, said: Callable[[str], list[Any]]) -> None:
    bench.write("id\n" + "".join(f"a{n}\n" for n in range(20)) + "Jane Doe\na1\n")
    assert bench.find()
    assert len(bench.known()) == 20
    [unread], [repeated] = said("roster.unread"), said("roster.repeat")
    assert (unread["count"], unread["lines"]) == (1, [f"line 22: {roster._ODD_ID}"])
    assert (repeated["count"], repeated["lines"]) == (1, [23])
    found = bench.enumeration()
    assert (found.found, found.failure) == (20, f"1 of 22 lines cannot be read, the first: line 22: {roster._ODD_ID}")
    assert "Jane" not in repr(said("roster.read") + said("roster.unread") + said("roster.repeat"))


def test_a_roster_that_is_not_there_is_said_once_and_found_when_it_comes(
    bench: Bench, said: Callable[[str], list[Any]]
) -> None:
    assert not bench.find()
    assert not bench.find()
    assert bench.enumeration() == Enumeration("roster", None, None, 0, "there is no such file")
    assert len(said("patients.fail")) == 1
    bench.write("id\na1\n")
    assert bench.find()
    assert bench.known() == {"a1": False}, "a failure is no first reading"


def test_a_pipe_is_not_waited_for(bench: Bench) -> None:
    os.mkfifo(bench.path)
    assert not bench.find()
    assert bench.enumeration().failure == "it is no file"


def test_lines_without_end_take_no_memory_and_cost_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.core.roster.LONGEST", 30)
    long = b"x" * 31
    for broken in (long, long + b"y", long[:30] + b"\n", long * 3, long * 3 + b"zz"):
        names = b"".join(b"a%d\n" % n for n in range(20))
        bench.write(b"id\n" + broken.rstrip(b"\n") + b"\n" + names)
        bench.find()
        assert set(bench.known()) - {"x" * 30} == {f"a{n}" for n in range(20)}
    assert "x" * 30 not in bench.known(), "with its end it is one byte too long"


def test_a_roster_that_is_written_while_it_is_read_is_read_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("id\na1\n")
    add = PatientStore.add

    def add_and_write(*arguments: Any, **more: Any) -> int:
        new = add(*arguments, **more)
        bench.write("id\na1\nb2\n")
        monkeypatch.setattr(PatientStore, "add", add)
        return new

    monkeypatch.setattr(PatientStore, "add", add_and_write)
    assert bench.find()
    assert bench.store.enumerations(bench.code) == {}, "what was read was no whole list"
    assert bench.find()
    assert bench.known() == {"a1": False, "b2": False}


def test_many_are_committed_by_the_thousand(bench: Bench) -> None:
    count = 2 * BATCH + 500
    bench.write("id\n" + "".join(f"a{n}\n" for n in range(count)))
    assert bench.find()
    assert list(bench.known()) == [f"a{n}" for n in range(count)], "in the order of the file"
    assert len(bench.rows("SELECT DISTINCT xmin FROM poller.patient")) == 3


def test_a_practice_that_was_lost_is_written_no_more(bench: Bench) -> None:
    bench.write("id\na1\n")
    bench.change("UPDATE poller.lease SET epoch = epoch + 1 WHERE practice = :code")
    with pytest.raises(LeaseLost):
        bench.find()
    assert bench.known() == {}


def test_one_who_is_gone_stays_so_whatever_a_roster_says(bench: Bench) -> None:
    bench.write("id\na1\n")
    bench.find()
    bench.change("UPDATE poller.patient SET gone_at = now() WHERE practice = :code")
    bench.write("id\na1\n\n")
    assert not bench.find()
    assert [row.gone for row in bench.rows("SELECT gone_at IS NOT NULL AS gone FROM poller.patient")] == [True]


def test_a_group_is_read_each_hour_also_after_a_restart(bench: Bench) -> None:
    group = Roll(Membership(("a1",)), Membership(("b2",)))
    bench.restart(group)
    assert bench.find()
    assert not bench.find()
    bench.restart(group)
    assert not bench.find()
    assert group.asked == 1
    assert bench.find(GROUP_EVERY)
    assert bench.known() == {"a1": False, "b2": True}
    assert bench.enumeration(PatientSource.GROUP) == Enumeration("group", bench.time, bench.time, 1, None)


def test_a_group_that_fails_is_asked_again_sooner_and_then_less(bench: Bench, said: Callable[[str], list[Any]]) -> None:
    group = Roll(Membership(("a1",), REFUSED))
    bench.restart(group)
    assert bench.find(), "whom it showed before it failed is known"
    minutes = []
    for minute in range(1, 200):
        asked = group.asked
        bench.find(dt.timedelta(minutes=1))
        if group.asked > asked:
            minutes.append(minute)
    assert minutes == [5, 15, 35, 75, 135, 195]
    assert len(said("patients.fail")) == 1
    assert bench.enumeration(PatientSource.GROUP) == Enumeration(
        "group", None, None, 0, "forbidden; are the scope and the app enabled (403)"
    )
    group.answers = [Membership(("a1", "b2"))]
    bench.find(HOUR)
    assert bench.known() == {"a1": False, "b2": False}


def test_a_group_that_is_short_is_read_again_before_it_counts(bench: Bench, said: Callable[[str], list[Any]]) -> None:
    """Who was only hidden is not new in the practice; and one that is short for ever has newcomers all the same."""
    short = "the Group says that it has 7 members and shows 1"
    bench.restart(
        Roll(Membership(("a1",), None, short), Membership(("a1", "b2"), None, short), Membership(("c3",), None, short))
    )
    assert bench.find()
    assert bench.enumeration(PatientSource.GROUP) == Enumeration("group", None, None, 0, short)
    assert not bench.find(dt.timedelta(minutes=4))
    assert bench.find(dt.timedelta(minutes=1))
    found = bench.enumeration(PatientSource.GROUP)
    assert (found.began, found.found, found.failure) == (bench.time, 2, short)
    assert bench.find(GROUP_EVERY)
    assert bench.known() == {"a1": False, "b2": False, "c3": True}
    assert len(said("patients.fail")) == 1


def test_the_metric_counts_with_each_source(bench: Bench) -> None:
    def shown(source: str) -> float | None:
        return REGISTRY.get_sample_value("poller_patients", {"practice": bench.code, "source": source})

    bench.store.add(bench.practice.lease, ["a1", "z9"], PatientSource.NAMES, bench.time, live=False)
    bench.write("id\na1\nb2\nc3\n")
    bench.find()
    assert (shown("names"), shown("roster")) == (2, 3)
    bench.change("UPDATE poller.patient SET gone_at = now() WHERE practice = :code AND id IN ('a1', 'z9')")
    bench.find(HOUR)
    assert (shown("names"), shown("roster")) == (0, 2)


def test_a_practice_that_is_given_up_stops_a_reading_under_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("id\n" + "".join(f"a{n}\n" for n in range(3 * BATCH)))
    add = PatientStore.add
    task: list[asyncio.Task[bool]] = []
    loop: list[asyncio.AbstractEventLoop] = []
    cancelled = asyncio.Event()

    def slow_add(store: PatientStore, lease: Any, ids: Any, *arguments: Any, **more: Any) -> int:
        def one_by_one() -> Iterator[str]:
            for n, id_ in enumerate(ids):
                if n == BATCH:
                    asyncio.run_coroutine_threadsafe(cancel(), loop[0]).result(10)
                yield id_

        return add(store, lease, one_by_one(), *arguments, **more)

    async def cancel() -> None:
        task[0].cancel()
        await asyncio.sleep(0)
        await cancelled.wait()

    async def main() -> None:
        loop.append(asyncio.get_running_loop())
        task.append(asyncio.create_task(bench.finder.find(bench.time)))
        with pytest.raises(asyncio.CancelledError):
            await task[0]
        cancelled.set()

    monkeypatch.setattr(PatientStore, "add", slow_add)
    asyncio.run(main())
    assert len(bench.known()) == BATCH
