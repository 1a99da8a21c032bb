"""Attachments from the note that names them to their own events: fetched once, again when the note changes, deleted only on evidence."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine, text

from poller.attachments import Attacher
from poller.config import PracticeConfig
from poller.config.attachments import attachment_rules
from poller.config.feed import FeedConfig
from poller.config.secret import Secret
from poller.core import canonical
from poller.core.attachments import Fetched, TooLarge, wanted, wrap
from poller.core.model import (
    Action,
    Confirmation,
    Coverage,
    Failure,
    FailureKind,
    Gone,
    Kind,
    Origin,
    Present,
    Sighting,
    Target,
    Unclear,
)
from poller.reconcile import Reconciler
from poller.store.attachments import AttachmentStore
from poller.store.engine import ENGINE, open_engine, prove_digest_key
from poller.store.named import Named, note
from poller.store.repository import PassEnd
from tests.integration.conftest import KEY, UNLIMITED, Practice

pytestmark = pytest.mark.usefixtures("bodies")

SICK = Unclear(Failure(FailureKind.SERVER, 500))
FORBIDDEN = Unclear(Failure(FailureKind.REFUSED, 403))
LIMIT = 1000
_NUMBERS = itertools.count(1)
Answer = Callable[[dt.datetime], Fetched]


def config(code: str, **feeds: Any) -> PracticeConfig:
    given = feeds or {"DocumentReference": {"attachments": {"max_bytes": LIMIT}}, "Condition": {}}
    return PracticeConfig(
        code=code,
        base_url=f"https://ehr.example.org/fhir/r4/{code}",
        client_id="c",
        key=Secret(env="UNUSED"),
        feeds={name: FeedConfig.model_validate(feed) for name, feed in given.items()},
    )


def document(id_: str = "d1", *names: str, **more: Any) -> dict[str, Any]:
    attachments = [{"attachment": {"url": f"Binary/{name}", **more}} for name in names]
    return {
        "resourceType": "DocumentReference",
        "id": id_,
        "status": "current",
        "subject": {"reference": "Patient/a"},
        "content": attachments,
    }


def holds(text: str) -> Callable[[str], Answer]:
    """A server's answer with this content."""

    def of(id_: str) -> Answer:
        return lambda began: Present(Sighting("Binary", id_, wrap(id_, "text/plain", text.encode()), began, began))

    return of


def always(fetched: Fetched) -> Callable[[str], Answer]:
    return lambda _: lambda _: fetched


@dataclass
class Bench:
    """A practice whose Binary resources are given by the test, and everything that fetches and deletes them."""

    practice: Practice
    feeds: Mapping[str, Any] = field(default_factory=dict)
    answers: dict[str, Callable[[str], Answer]] = field(default_factory=dict)
    otherwise: Callable[[str], Answer] = field(default=holds("content"))
    asked: list[str] = field(default_factory=list)
    later: dt.timedelta = dt.timedelta(0)
    last_server_error: dt.datetime | None = None

    def __post_init__(self) -> None:
        self.code = self.practice.code
        self.config = config(self.code, **self.feeds)
        self.store = AttachmentStore(self.practice.engine)
        self.committed = 0
        self.attacher = self.anew()
        self.reconciler = Reconciler(
            self.config,
            self.practice.lease,
            self,
            self.practice.repository,
            self.practice.deletes,
            self,
            KEY,
            lambda: None,
        )

    def anew(self) -> Attacher:
        """As after a restart."""

        def count() -> None:
            self.committed += 1

        return Attacher(self.config, self.practice.lease, self, self.practice.repository, self.store, self, KEY, count)

    def now(self) -> dt.datetime:
        return self.practice.at(self.practice.tick()) + self.later

    async def attachment(self, id_: str, max_bytes: int) -> Fetched:
        assert max_bytes == LIMIT
        self.asked.append(id_)
        return self.answers.get(id_, self.otherwise)(id_)(self.now())

    async def confirm(self, resource_type: str, id_: str) -> Confirmation:
        assert resource_type == "Binary"
        fetched = await self.attachment(id_, LIMIT)
        assert not isinstance(fetched, TooLarge)
        return fetched

    def read(self, *resources: Mapping[str, Any], notes: bool = True, **context: Any) -> None:
        """One batch; without ``notes`` as it is where no attachments are fetched."""
        began = self.now()
        ended = began + dt.timedelta(seconds=1)
        rules = attachment_rules(self.config) if notes else None
        versions = [
            canonical.reduce(Sighting(resource["resourceType"], resource["id"], resource, began, ended), KEY, rules)
            for resource in resources
        ]
        self.practice.repository.record(self.practice.context(self.target, **context), versions, ended)

    @property
    def target(self) -> Target:
        return Target(self.code, "DocumentReference", Kind.SWEEP)

    def note(self, changes: Sequence[tuple[tuple[str, str], int, Mapping[str, Any] | None]]) -> None:
        rules = attachment_rules(self.config)
        found = [
            Named(*key, version, "Patient/a", (wanted(resource, rules) or ()) if resource else ())
            for key, version, resource in changes
        ]
        with self.practice.engine.begin() as connection:
            note(connection, self.code, found, self.now())

    def fetch(self, after: dt.timedelta = dt.timedelta(0)) -> int:
        self.later += after
        return asyncio.run(self.attacher.fetch_due(self.now()))

    def settle(self) -> None:
        asyncio.run(self.reconciler.settle_absences())

    def states(self) -> dict[tuple[str, str], str]:
        return {
            (row.id, row.owner_id): row.state
            for row in self.practice.rows(
                "SELECT id, owner_id, state FROM poller.attachment WHERE practice = :p ORDER BY id, owner_id",
                p=self.code,
            )
        }

    def missing(self) -> list[str]:
        """Ids whose resources are to be read, for they may be gone."""
        return [absence.id for absence in self.practice.deletes.due(self.code)]

    def log(self) -> Sequence[Any]:
        """All events, in the log's order."""
        return self.practice.rows("SELECT * FROM poller.event WHERE practice = :p ORDER BY sequence", p=self.code)

    def events(self) -> list[tuple[str, str, int]]:
        """Action, id and version of the Binary events."""
        return [(row.action, row.id, row.version) for row in self.log() if row.resource_type == "Binary"]


@pytest.fixture(scope="module")
def shared(postgres_server: str, template_database: str) -> Iterator[Engine]:
    """One database for all of these tests; each has a practice of its own in it."""
    name = f"poller_attachments_{uuid.uuid4().hex[:12]}"
    with closing(psycopg.connect(postgres_server, autocommit=True)) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
        admin.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
        made = open_engine(make_conninfo(postgres_server, dbname=name), ENGINE)
        prove_digest_key(made, KEY)
        yield made
        made.dispose()
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def practice(shared: Engine) -> Iterator[Practice]:
    made = Practice(shared, code=f"p{next(_NUMBERS)}")
    yield made
    made.keeper.close()


@pytest.fixture
def bench(practice: Practice) -> Bench:
    return Bench(practice)


def test_an_attachment_becomes_a_resource_of_the_patient_with_an_event_of_its_own(bench: Bench) -> None:
    bench.read(document("d1", "b1", "b2"))
    assert bench.fetch() == 2
    assert bench.events() == [("created", "b1", 1), ("created", "b2", 1)]
    assert {(row.partition_key, row.origin) for row in bench.log()} == {("Patient/a", "live")}
    (stored,) = bench.practice.log.history(bench.code, "Binary", "b2")
    assert stored.body == wrap("b2", "text/plain", b"content")
    assert bench.states() == {("b1", "d1"): "fetched", ("b2", "d1"): "fetched"}
    assert bench.committed == 2, "the relay is told"
    assert bench.fetch(dt.timedelta(days=9)) == 0
    assert bench.asked == ["b1", "b2"]


def test_a_version_that_is_noted_again_changes_nothing(bench: Bench) -> None:
    bench.read(document("d1", "b1"))
    bench.fetch()
    bench.note([(("DocumentReference", "d1"), 1, document("d1", "b1"))])
    assert bench.states() == {("b1", "d1"): "fetched"}


def test_a_change_of_the_note_asks_again_and_only_another_content_is_an_event(bench: Bench) -> None:
    bench.read(document("d1", "b1"))
    bench.fetch()
    bench.read(document("d1", "b1") | {"docStatus": "final"})
    assert bench.fetch() == 1
    assert bench.events() == [("created", "b1", 1)]
    bench.answers["b1"] = holds("amended")
    bench.read(document("d1", "b1") | {"docStatus": "amended"})
    bench.fetch()
    assert bench.events() == [("created", "b1", 1), ("updated", "b1", 2)]
    assert len(bench.asked) == 3


def test_what_a_baseline_names_is_of_the_baseline(bench: Bench) -> None:
    bench.read(document("d1", "b1"), origin=Origin.BASELINE)
    bench.fetch()
    assert {row.origin for row in bench.log()} == {"baseline"}
    bench.read(document("d1", "b1", "b2"), origin=Origin.BASELINE)
    bench.fetch()
    origins = {row.id: row.origin for row in bench.log()}
    assert origins == {"b1": "baseline", "d1": "live", "b2": "live"}


def test_killed_between_the_event_and_the_mark_it_is_fetched_again_and_told_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.read(document("d1", "b1"))
    with monkeypatch.context() as killed:
        killed.setattr(bench.store, "settle", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bench.fetch()
    assert bench.states() == {("b1", "d1"): "wanted"}
    bench.attacher = bench.anew()
    assert bench.fetch() == 1
    assert bench.events() == [("created", "b1", 1)]


def test_a_note_that_changes_while_its_attachment_is_read_wants_it_anew(bench: Bench) -> None:
    bench.read(document("d1", "b1"))

    def meanwhile(id_: str) -> Answer:
        bench.answers.pop(id_)
        bench.read(document("d1", "b1") | {"docStatus": "final"})
        return holds("before")(id_)

    bench.answers["b1"] = meanwhile
    bench.fetch()
    assert bench.states() == {("b1", "d1"): "wanted"}
    bench.fetch()
    assert bench.events() == [("created", "b1", 1), ("updated", "b1", 2)]


def test_one_that_two_notes_name_is_asked_for_once_and_stays_while_one_names_it(bench: Bench) -> None:
    bench.read(document("d1", "b1"), document("d2", "b1"))
    assert bench.fetch() == 1
    bench.read(document("d1"))
    bench.fetch()
    bench.settle()
    assert bench.asked == ["b1"]
    assert bench.states() == {("b1", "d2"): "fetched"}


def test_what_says_that_it_is_too_large_costs_no_call_until_the_limit_is_raised(bench: Bench) -> None:
    bench.read(document("d1", "b1", size=LIMIT + 1), document("d2", "b2", size=LIMIT))
    bench.fetch()
    assert bench.asked == ["b2"]
    assert bench.states()["b1", "d1"] == "too-large"
    raised = Bench(bench.practice, {"DocumentReference": {"attachments": {"max_bytes": LIMIT + 1}}})
    raised.later = bench.later
    rules = attachment_rules(raised.config)
    raised.store.revise(bench.practice.lease, rules, raised.now())
    assert raised.states() == {("b1", "d1"): "wanted", ("b2", "d2"): "fetched"}


def test_what_turns_out_to_be_too_large_is_not_asked_for_again(bench: Bench) -> None:
    bench.read(document("d1", "b1"))
    bench.otherwise = always(TooLarge(LIMIT + 1))
    bench.fetch()
    bench.attacher = bench.anew()
    bench.fetch(dt.timedelta(days=9))
    assert bench.asked == ["b1"]
    assert bench.events() == []


def test_what_is_not_there_is_asked_for_ever_less_often_and_taken_when_it_is(bench: Bench) -> None:
    """A note can be there before its content is."""
    bench.read(document("d1", "b1"))
    bench.otherwise = lambda _: lambda began: Gone(began, began)
    bench.fetch()
    for tries, minutes in enumerate((1, 2, 4, 8, 16, 32), start=1):
        assert bench.states() == {("b1", "d1"): "refused"}
        bench.fetch(dt.timedelta(minutes=minutes / 2))
        assert len(bench.asked) == tries
        bench.fetch(dt.timedelta(minutes=minutes / 2 + 0.1))
        assert len(bench.asked) == tries + 1
    bench.otherwise = holds("at last")
    bench.fetch(dt.timedelta(days=1))
    assert bench.events() == [("created", "b1", 1)]


def test_a_sick_server_is_left_alone_and_nothing_is_given_up(bench: Bench) -> None:
    bench.read(document("d1", *(f"b{n}" for n in range(5))))
    bench.otherwise = always(SICK)
    bench.fetch()
    assert len(bench.asked) == 2
    assert set(bench.states().values()) == {"wanted"}
    bench.otherwise = holds("content")
    bench.fetch(dt.timedelta(hours=1))
    assert len(bench.events()) == 5


def test_one_that_cannot_be_read_holds_up_no_other(bench: Bench) -> None:
    """Some servers give a note in HTML bare, which nobody can tell from the page of a server that is being mended."""
    bench.read(document("d1", *(f"b{n}" for n in range(8))))
    for n in (0, 1, 3, 4, 6):
        bench.answers[f"b{n}"] = always(Unclear(Failure(FailureKind.MALFORMED, 200)))
    assert bench.fetch() == 3
    assert list(bench.states().values()).count("refused") == 5


@pytest.mark.parametrize("kind", [FailureKind.UNAUTHORIZED, FailureKind.LOCKED_OUT])
def test_without_a_token_or_when_locked_out_nothing_counts_as_tried(bench: Bench, kind: FailureKind) -> None:
    bench.read(document("d1", "b1", "b2"))
    bench.otherwise = always(Unclear(Failure(kind)))
    bench.fetch()
    assert len(bench.asked) == 1
    bench.otherwise = holds("content")
    assert bench.fetch() == 2


def test_where_all_are_refused_all_wait_longer_each_time_until_one_is_not(bench: Bench) -> None:
    """A scope that is missing must not cost a call for each attachment of the practice, again and again."""
    bench.read(document("d1", *(f"b{n}" for n in range(30))))
    bench.otherwise = always(FORBIDDEN)
    for _ in range(15):
        bench.fetch(dt.timedelta(minutes=1))
    assert len(bench.asked) <= 3 * 5, "three each time, with gaps that double"
    bench.otherwise = holds("content")
    assert [bench.fetch(dt.timedelta(days=1)) for _ in range(2)] == [20, 10]
    assert len(bench.events()) == 30


def test_new_ones_come_before_a_backlog_and_before_what_was_refused(bench: Bench) -> None:
    bench.read(document("d1", *(f"old{n}" for n in range(30))))
    bench.read(document("d2", "new"))
    bench.fetch()
    assert "new" in bench.asked[:20]


def test_what_no_note_names_any_more_is_deleted_if_reading_it_says_so(bench: Bench) -> None:
    bench.read(document("d1", "b1", "b2"))
    bench.fetch()
    bench.read(document("d1", "b2"))
    bench.answers["b1"] = always(Gone(bench.practice.at(9_000), bench.practice.at(9_001)))
    bench.fetch()
    bench.settle()
    assert bench.events()[-1] == ("deleted", "b1", 2)
    bench.fetch(dt.timedelta(days=2))
    assert bench.states() == {("b2", "d1"): "fetched"}


def test_what_is_still_there_is_not_deleted_and_not_asked_for_all_the_time(bench: Bench) -> None:
    bench.read(document("d1", "b1"))
    bench.fetch()
    bench.read(document("d1"))
    for _ in range(17):
        bench.fetch(dt.timedelta(days=1))
        bench.settle()
    assert bench.events() == [("created", "b1", 1)]
    assert len(bench.asked) == 1 + 5, "on days 1, 2, 4, 8 and 16"
    bench.otherwise = always(Gone(bench.now() + dt.timedelta(days=18), bench.now() + dt.timedelta(days=18)))
    for _ in range(17):
        bench.fetch(dt.timedelta(days=1))
        bench.settle()
    assert bench.events()[-1] == ("deleted", "b1", 2)


def test_an_error_since_makes_the_evidence_void_and_a_later_look_good(bench: Bench) -> None:
    bench.read(document("d1", "b1"))
    bench.fetch()
    bench.read(document("d1"))
    bench.fetch()
    bench.last_server_error = bench.now()
    bench.otherwise = lambda _: lambda began: Gone(began, began)
    bench.settle()
    assert bench.events() == [("created", "b1", 1)]
    bench.fetch(dt.timedelta(hours=1))
    bench.settle()
    assert bench.events()[-1] == ("deleted", "b1", 2)


def test_what_names_it_and_that_it_is_named_are_written_together_or_not_at_all(bench: Bench) -> None:
    """Else a crash between the two would forget the attachment for good: the note is known, and never looked at again."""
    bench.read(document("d1", "b1"))

    def killed(_connection: Any) -> None:
        raise KeyboardInterrupt

    for statement in itertools.count(1):
        with bench.practice.failing_before(statement, killed) as sent, contextlib.suppress(KeyboardInterrupt):
            bench.read(document("d1", "b2"))
        if len(sent) < statement:
            break
        assert bench.states() == {("b1", "d1"): "wanted"}
    assert sum("poller.attachment" in each for each in sent) == 2
    assert bench.states() == {("b1", "d1"): "dropped", ("b2", "d1"): "wanted"}


def test_of_a_deleted_note_nothing_is_named_any_more(bench: Bench) -> None:
    bench.practice.register(bench.target)
    bench.read(document("d1", "b1"))
    bench.fetch()
    began, ended = bench.now(), bench.now()
    end = PassEnd(began, ended, Coverage.COMPLETE, counts=True)
    bench.practice.repository.record(bench.practice.context(bench.target), [], ended, end)
    (absence,) = bench.practice.deletes.due(bench.code)
    bench.practice.deletes.settle(bench.practice.lease, absence, bench.now(), bench.now(), UNLIMITED, bench.now())
    bench.otherwise = lambda _: lambda began: Gone(began, began)
    bench.fetch()
    bench.settle()
    assert bench.events()[-1] == ("deleted", "b1", 2)


def test_named_again_it_is_not_missing_any_more_and_comes_back(bench: Bench) -> None:
    bench.read(document("d1", "b1"))
    bench.fetch()
    bench.read(document("d1"))
    bench.fetch()
    assert bench.missing() == ["b1"]
    bench.read(document("d2", "b1"))
    assert bench.missing() == []
    bench.read(document("d2"))
    bench.otherwise = lambda _: lambda began: Gone(began, began)
    bench.fetch()
    bench.settle()
    bench.otherwise = holds("content")
    bench.read(document("d1", "b1"))
    bench.fetch()
    assert [action for action, _, _ in bench.events()] == ["created", "deleted", "restored"]


def test_an_attachment_that_was_dropped_unread_is_forgotten(bench: Bench) -> None:
    bench.read(document("d1", "b1"))
    bench.read(document("d1"))
    bench.fetch()
    bench.settle()
    assert bench.asked == []
    assert bench.states() == {}


def test_notes_from_before_attachments_were_wanted_are_caught_up_with(bench: Bench) -> None:
    everything = [document(f"d{n:04}", f"b{n}") for n in range(510)]
    bench.read(*everything, document("empty"), notes=False, origin=Origin.BASELINE)
    for _ in range(2):
        bench.fetch()
    assert len(bench.states()) == 510
    bench.attacher = bench.anew()
    bench.fetch()
    fetched = [key for key, state in bench.states().items() if state == "fetched"]
    assert len(fetched) == len(bench.asked) == 60, "looked at again, and not wanted anew"


def test_what_happened_while_attachments_were_not_wanted_is_caught_up_with(bench: Bench) -> None:
    bench.read(document("d1", "b1"), document("d2", "b2"), document("d3", "b3"))
    bench.fetch()
    bench.read(document("d1", "b9"), notes=False)
    with bench.practice.engine.begin() as connection:
        gone = "UPDATE poller.snapshot SET deleted = true WHERE practice = :practice AND id = 'd2'"
        connection.execute(text(gone), {"practice": bench.code})
    bench.attacher = bench.anew()
    bench.fetch()
    states = bench.states()
    assert states == {
        ("b1", "d1"): "dropped",
        ("b2", "d2"): "dropped",
        ("b3", "d3"): "fetched",
        ("b9", "d1"): "fetched",
    }
    assert set(bench.missing()) == {"b1", "b2"}


def test_where_no_feed_asks_for_attachments_none_is_fetched(practice: Practice) -> None:
    bench = Bench(practice, {"DocumentReference": {}})
    bench.read(document("d1", "b1"))
    assert bench.fetch() == 0
    assert bench.states() == {}


def test_a_confirming_read_of_the_same_at_the_same_time_loses_nothing(bench: Bench) -> None:
    bench.read(document("d1", "b1"))
    early = bench.now()
    bench.fetch()
    bench.read(document("d1", "b1") | {"docStatus": "final"})
    bench.answers["b1"] = lambda _: lambda _: holds("older")("b1")(early)
    bench.fetch()
    assert bench.states() == {("b1", "d1"): "wanted"}
    bench.answers["b1"] = holds("newer")
    bench.fetch(dt.timedelta(minutes=2))
    assert [action for action, _, _ in bench.events()] == [Action.CREATED.value, Action.UPDATED.value]
