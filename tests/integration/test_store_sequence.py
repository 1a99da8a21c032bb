"""The log's numbers: gapless and in commit order, whoever writes at once and whatever is rolled back."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from poller.core.model import Coverage, Kind, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from poller.store.log import EventLog
    from tests.integration.conftest import Practice

RUNS = itertools.count(1)
STEPS = st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=4)


class Undone(Exception):  # noqa: N818
    """Raised at the commit of what is to be rolled back."""


@contextmanager
def before_statement(engine: Engine, opening: str, act: Callable[[], object]) -> Iterator[None]:
    def before(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith(opening):
            act()

    event.listen(engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", before)


@contextmanager
def rollbacks(engine: Engine) -> Iterator[threading.local]:
    """A flag of each thread: whether its next commit fails."""
    undo = threading.local()

    def before(_connection: Any) -> None:
        if getattr(undo, "next", False):
            undo.next = False
            raise Undone

    event.listen(engine, "commit", before)
    try:
        yield undo
    finally:
        event.remove(engine, "commit", before)


class Watcher(threading.Thread):
    """Reads on from where it stood, as a relay does, and notes every number that does not follow the one before."""

    def __init__(self, log: EventLog, code: str) -> None:
        super().__init__()
        self._log, self._code = log, code
        self._over = threading.Event()
        self.seen: list[int] = []

    def run(self) -> None:
        last_round = False
        while True:
            after = self.seen[-1] if self.seen else 0
            self.seen += [e.sequence for e in self._log.after(self._code, 1, after, 1000, bodies=False)]
            if last_round:
                return
            last_round = self._over.wait(0.002)

    def finish(self) -> list[int]:
        self._over.set()
        self.join()
        return self.seen


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, min_size=2, max_size=6))
def test_a_reader_never_sees_a_gap_or_a_lower_number(practice: Practice, plan: list[list[tuple[int, bool]]]) -> None:
    made = type(practice)(practice.engine, code=f"run{next(RUNS)}")
    watcher = Watcher(made.log, made.code)
    watcher.start()
    with rollbacks(made.engine) as undo, ThreadPoolExecutor(len(plan)) as pool:

        def write(writer: int, steps: list[tuple[int, bool]]) -> int:
            kept = 0
            for step, (count, undone) in enumerate(steps):
                undo.next = undone
                with suppress(Undone):
                    made.read(*[made.observation(f"w{writer}-{step}-{n}") for n in range(count)], second=step)
                    kept += count
            return kept

        kept = sum(pool.map(write, range(len(plan)), plan))
    assert watcher.finish() == list(range(1, kept + 1))
    made.keeper.close()


def test_writers_of_the_same_rows_neither_wait_in_a_ring_nor_make_a_version_twice(practice: Practice) -> None:
    """Six writers read the same 40 resources in different order, over and over; missing ones come and go beside them."""
    ids = [f"o{n:02}" for n in range(40)]
    targets = [Target("p1", "Observation", Kind.PATIENT, patient=f"p{n}") for n in range(6)]
    practice.register(*targets)
    watcher = Watcher(practice.log, "p1")
    watcher.start()
    seconds = itertools.count(1, 3)

    def write(writer: int) -> None:
        for turn in range(12):
            order = ids[writer * turn % 40 :] + ids[: writer * turn % 40]
            shown = [practice.observation(id_, value=f"{writer}{turn}") for id_ in order[:: -1 if writer % 2 else 1]]
            target = targets[writer]
            practice.whole(*shown[: 40 - turn % 3], second=next(seconds), target=target)
            practice.whole(*shown[turn % 5 :], second=next(seconds), target=target, coverage=Coverage.COMPLETE)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    sequences = watcher.finish()
    assert sequences == list(range(1, len(sequences) + 1))
    versions: dict[str, list[int]] = {}
    for _, id_, version in practice.actions():
        versions.setdefault(id_, []).append(version)
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values())
    history = practice.rows("SELECT id, version FROM poller.history")
    assert len(history) == len(set(history)) == len(sequences)


def test_two_creators_make_one_event(practice: Practice) -> None:
    both = threading.Barrier(2)

    def create(value: str) -> int:
        recorded = practice.read(practice.observation(value=value), second=1)
        return len(recorded.changes) - len(recorded.outdated)

    with before_statement(practice.engine, "-- First versions", both.wait), ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(create, ["1", "2"])) == [-1, 1]
    assert practice.actions() == [("created", "o1", 1)]
    assert len(practice.rows("SELECT FROM poller.history")) == 1


def test_two_updaters_with_the_same_news_make_one_event(practice: Practice) -> None:
    practice.read(practice.observation(value="1"), second=0)
    both = threading.Barrier(2)

    def update(_: int) -> int:
        recorded = practice.read(practice.observation(value="2"), second=10)
        return len(recorded.changes) - len(recorded.outdated)

    with before_statement(practice.engine, "-- Hop 7", both.wait), ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(update, range(2))) == [0, 1]
    assert len(practice.actions()) == 2


def test_numbers_of_a_rollback_are_given_to_the_next(practice: Practice) -> None:
    """The second writer waits for the head that the first has taken, and gets its numbers when that one fails."""
    taken, waited = threading.Event(), threading.Event()

    def hold(_connection: Any) -> None:
        taken.set()
        assert waited.wait(10)
        raise Undone

    with practice.at_next_commit(hold), ThreadPoolExecutor(2) as pool:
        first = pool.submit(practice.read, practice.observation("o1"), second=1)
        assert taken.wait(10)
        second = pool.submit(practice.read, practice.observation("o2"), second=1)
        while not practice.someone_waits():
            assert not second.done()
        assert practice.actions() == []
        waited.set()
        assert isinstance(first.exception(10), Undone)
        second.result(10)
    assert [(e.sequence, e.id) for e in practice.log.after("p1", 1, 0, 10, bodies=False)] == [(1, "o2")]
