"""What operators ask of running engines, and what these answer. A command and an engine share nothing but the store.

Each request is written once for every engine that lives when it is asked, so that an engine looks only for what is its own, in whatever
order transactions commit. An engine lives while its session holds its advisory lock: a crash is known at once.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from poller.core import jsontext
from poller.errors import NotFound
from poller.store.engine import reading, sql

ALL = "*"
"""Stands for the whole installation among practices, and for all feeds of a practice among feeds."""

_LOCK = text("SELECT pg_try_advisory_lock(hashtext('poller.engine'), :engine)")


class Ask(StrEnum):
    """What may be asked."""

    RELOAD = "reload"
    PAUSE = "pause"
    RESUME = "resume"
    READ_NOW = "read-now"
    RECONCILE = "reconcile"


class State(StrEnum):
    """How far an engine is with a request."""

    WAITING = "waiting"
    UNDER_WAY = "under way"
    DONE = "done"
    REFUSED = "refused"
    """It could not be done; what was said tells why."""
    DECLINED = "declined"
    """It is not this engine's to do: another one reads the practice, or none."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will be said."""
        return self not in {State.WAITING, State.UNDER_WAY}


@dataclass(frozen=True, slots=True)
class Order:
    """A request as an engine gets it."""

    practice: str
    control: int
    ask: Ask
    feed: str
    patient: str | None
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was kept."""

    practice: str
    control: int
    at: dt.datetime
    until: dt.datetime | None
    engines: int
    """How many engines were there to be asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one engine has said so far."""

    engine: str
    """``host:pid``."""
    state: State
    said: Mapping[str, Any]
    lives: bool


@dataclass(frozen=True, slots=True)
class OperatorPause:
    """A practice, or one feed of it, that an operator wants left alone."""

    practice: str
    feed: str
    """:data:`ALL` for the whole practice."""
    since: dt.datetime
    until: dt.datetime | None
    """None: until it is resumed."""
    actor: str
    reason: str


class ControlStore:
    """Requests and pauses. Safe to use from several threads. Needs an engine of role ``poller_engine``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ask(
        self,
        ask: Ask,
        practice: str,
        *,
        actor: str,
        reason: str,
        feed: str = ALL,
        patient: str | None = None,
        engine: int | None = None,
    ) -> Asked:
        """Ask something of the engines that live, or of the one with this number."""
        with self._engine.begin() as connection:
            return _ask(connection, ask, practice, feed, actor, reason, patient=patient, engine=engine)

    def pause(self, practice: str, feed: str, length: dt.timedelta | None, *, actor: str, reason: str) -> Asked:
        """Have a practice or a feed left alone for so long, or until it is resumed; another pause of it is replaced."""
        with self._engine.begin() as connection:
            asked = _ask(connection, Ask.PAUSE, practice, feed, actor, reason, length=length)
            connection.execute(
                text(
                    "INSERT INTO poller.operator_pause (practice, resource_type, control, since, until_at, actor, reason)"
                    " VALUES (:practice, :feed, :control, :since, :until, :actor, :reason)"
                    " ON CONFLICT (practice, resource_type) DO UPDATE SET control = excluded.control, since = excluded.since,"
                    " until_at = excluded.until_at, actor = excluded.actor, reason = excluded.reason"
                ),
                {
                    "practice": practice,
                    "feed": feed,
                    "control": asked.control,
                    "since": asked.at,
                    "until": asked.until,
                    "actor": actor,
                    "reason": reason,
                },
            )
        return asked

    def resume(self, practice: str, feed: str, *, actor: str, reason: str) -> tuple[Asked, list[OperatorPause]]:
        """End the pause of a feed, or all of a practice's; returns those that were in force. Raises NotFound if none was."""
        with self._engine.begin() as connection:
            held = [row for row in _pauses(connection, practice) if feed in {ALL, row.feed}]
            if not held:
                raise NotFound(_not_paused(practice, feed, _pauses(connection, practice)))
            asked = _ask(connection, Ask.RESUME, practice, feed, actor, reason)
            connection.execute(
                text(
                    "DELETE FROM poller.operator_pause WHERE practice = :practice"
                    " AND (CAST(:feed AS text) = '*' OR resource_type = :feed)"
                ),
                {"practice": practice, "feed": feed},
            )
        return asked, held

    def pauses(self, practice: str | None = None) -> list[OperatorPause]:
        """The pauses of operators that are in force, of one practice or of all."""
        with self._engine.connect() as connection:
            return _pauses(connection, practice)

    def answers(self, asked: Asked) -> list[Answer]:
        """What the engines that were asked have said so far."""
        binds = {"practice": asked.practice, "control": asked.control}
        with reading(self._engine) as connection:
            rows = connection.execute(sql("control_answers"), binds).all()
        return [
            Answer(f"{row.host or '?'}:{row.pid or row.engine}", State(row.state), row.said, row.lives) for row in rows
        ]


class Post:
    """Where one running engine gets what is asked of it. Safe to use from several threads.

    It needs a session of its own, whose advisory lock says that the engine lives.
    """

    def __init__(self, engine: Engine, host: str, pid: int) -> None:
        self._database = engine
        self._host = host
        self._pid = pid
        self._connection: Connection | None = None
        self._guard = threading.Lock()
        self.engine: int | None = None
        """This engine's number, from the first look on."""

    def look(self) -> tuple[list[OperatorPause], list[Order]]:
        """The pauses in force, and what is asked of this engine and not answered yet. Raises DBAPIError; look again then."""
        with self._guard:
            connection = self._standing()
            orders = [
                Order(row.practice, row.control, Ask(row.action), row.resource_type, row.patient, row.actor, row.reason)
                for row in connection.execute(sql("waiting_orders"), {"engine": self.engine})
            ]
            return _pauses(connection, None), orders  # read after them: a pause that was asked for is among these

    def _standing(self) -> Connection:
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
            except DBAPIError:
                self._let_go()
            else:
                return self._connection
        connection = self._database.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()  # its session says that we live; the pool must not recycle it
        self._connection = connection
        if self.engine is None:
            self.engine = self._enter(connection)
        connection.execute(_LOCK, {"engine": self.engine})
        return connection

    def _enter(self, connection: Connection) -> int:
        """Make this engine known, and forget those that are gone and whom nobody asks about any more."""
        connection.execute(
            text(
                "DELETE FROM poller.engine AS e WHERE e.started_at < clock_timestamp() - interval '1 day' AND NOT EXISTS ("
                "SELECT FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.objsubid = 2"
                " AND l.classid = CAST(hashtext('poller.engine') AS oid) AND l.objid = CAST(e.engine AS oid)"
                " AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))"
            )
        )
        entered = text("INSERT INTO poller.engine (host, pid) VALUES (:host, :pid) RETURNING engine")
        return int(connection.execute(entered, {"host": self._host, "pid": self._pid}).scalar_one())

    def answer(self, order: Order, state: State, said: Mapping[str, Any]) -> None:
        """Say how far a request has come. Raises DBAPIError."""
        statement = text(
            "UPDATE poller.control_answer SET state = :state, said = CAST(:said AS jsonb), answered_at = clock_timestamp()"
            " WHERE practice = :practice AND control = :control AND engine = :engine"
        )
        binds = {
            "practice": order.practice,
            "control": order.control,
            "engine": self.engine,
            "state": state.value,
            "said": jsontext.dumps(dict(said)).decode(),
        }
        with self._guard:
            self._standing().execute(statement, binds)

    def runs(self, revision: int) -> None:
        """Note which configuration this engine runs by. Raises DBAPIError."""
        statement = text("UPDATE poller.engine SET revision = :revision WHERE engine = :engine")
        with self._guard:
            connection = self._standing()
            connection.execute(statement, {"revision": revision, "engine": self.engine})

    def close(self) -> None:
        """Be gone."""
        with self._guard:
            if self._connection is not None:
                with contextlib.suppress(DBAPIError):
                    self._connection.execute(text("SELECT pg_advisory_unlock_all()"))
                self._let_go()

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _ask(
    connection: Connection,
    ask: Ask,
    practice: str,
    feed: str,
    actor: str,
    reason: str,
    *,
    patient: str | None = None,
    length: dt.timedelta | None = None,
    engine: int | None = None,
) -> Asked:
    row = connection.execute(
        sql("ask_engines"),
        {
            "practice": practice,
            "action": ask.value,
            "resource_type": feed,
            "patient": patient,
            "actor": actor,
            "reason": reason,
            "length": length,
            "engine": engine,
        },
    ).one()
    return Asked(practice, row.control, row.asked_at, row.until_at, row.engines)


def _pauses(connection: Connection, practice: str | None) -> list[OperatorPause]:
    return [OperatorPause(*row) for row in connection.execute(sql("operator_pauses"), {"practice": practice})]


def _not_paused(practice: str, feed: str, held: Sequence[OperatorPause]) -> str:
    if feed == ALL:
        return f"practice {practice} is not paused by an operator, nor is a feed of it"
    if any(row.feed == ALL for row in held):
        return f"practice {practice} is paused as a whole, not feed {feed} by itself; `poller resume {practice}`"
    return f"feed {feed} of practice {practice} is not paused by an operator"
