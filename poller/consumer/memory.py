"""What a consumer must remember to see each change once, in tables beside its own: SQLite or PostgreSQL, by SQLAlchemy."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from poller.consumer.change import Verdict, gap_before, is_reprocessed, judge

if TYPE_CHECKING:
    from poller.consumer.change import Change, Gap, Reprocess

_metadata = MetaData()

_applied = Table(
    "consumer_applied",
    _metadata,
    Column("consumer", String, primary_key=True),
    Column("source", String, primary_key=True),
    Column("subject", String, primary_key=True),
    Column("replay", String, primary_key=True, comment="empty for what counts in general; else a replay that was reprocessed"),
    Column("version", BigInteger, nullable=False),
)  # fmt: skip
_arrived = Table(
    "consumer_arrived",
    _metadata,
    Column("consumer", String, primary_key=True),
    Column("source", String, primary_key=True),
    Column("replay", String, primary_key=True, comment="empty for the live stream"),
    Column("sequence", String, nullable=False),
)
_aside = Table(
    "consumer_aside",
    _metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("consumer", String, nullable=False, index=True),
    Column("event_id", String),
    Column("subject", String),
    Column("sequence", String),
    Column("reason", String, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("body", LargeBinary, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Aside:
    """A message that could not be applied, kept with all it holds."""

    number: int
    event_id: str | None
    subject: str | None
    sequence: str | None
    reason: str
    """Name of the exception's class; its text may hold what no log may."""
    at: dt.datetime
    body: bytes


class Memory:
    """The tables of one consumer; several may share a database under names of their own.

    ``engine`` is the database in which the consumer's effects are, so that both are committed together. The tables
    (``consumer_applied``, ``consumer_arrived``, ``consumer_aside``) are made at first use. What is kept grows with the number of resources,
    not of events.
    """

    def __init__(self, engine: Engine, name: str = "consumer") -> None:
        if engine.dialect.name not in {"sqlite", "postgresql"}:
            raise ValueError(f"{engine.dialect.name} is not known here; use SQLite or PostgreSQL")
        self.engine = engine
        self.name = name
        self._insert: Any = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert

    def prepare(self) -> None:
        """Make the tables that are not there yet."""
        _metadata.create_all(self.engine)

    def take(self, connection: Connection, change: Change, reprocess: Reprocess = "none") -> tuple[Verdict, Gap | None]:
        """Judge a change and note it, in the transaction of its effect."""
        gap = self.arrive(connection, change)
        again = is_reprocessed(change, reprocess)
        own = self._version(connection, change, change.stream if again else "")
        verdict = judge(change, own)
        if verdict is Verdict.APPLY:
            self._note(connection, change, change.stream if again else "")
            if again and (self._version(connection, change, "") or 0) < change.version:
                self._note(connection, change, "")
        return verdict, gap

    def arrive(self, connection: Connection, change: Change) -> Gap | None:
        """Note that a change has arrived; what has not, if its sequences prove that."""
        last = connection.execute(
            select(_arrived.c.sequence).where(*self._is(_arrived, source=change.source, replay=change.stream))
        ).scalar()
        if last is None or change.sequence > last:
            self._put(
                connection, _arrived, {"source": change.source, "replay": change.stream}, sequence=change.sequence
            )
        return gap_before(change, last)

    def put_aside(self, connection: Connection, body: bytes, change: Change | None, reason: str) -> None:
        """Keep a message that cannot be applied; what is known of it says a person where to look."""
        connection.execute(
            insert(_aside).values(
                consumer=self.name,
                event_id=change and change.id,
                subject=change and change.subject,
                sequence=change and change.sequence,
                reason=reason,
                at=dt.datetime.now(dt.UTC),
                body=body,
            )
        )

    def aside(self) -> Sequence[Aside]:
        """What was put aside, in the order of arrival."""
        columns = [column for column in _aside.c if column.name != "consumer"]
        with self.engine.connect() as connection:
            rows = connection.execute(select(*columns).where(_aside.c.consumer == self.name).order_by(_aside.c.number))
            return [Aside(*row) for row in rows]

    def count_aside(self, connection: Connection) -> int:
        """How many messages stand aside."""
        return int(connection.execute(select(func.count()).where(_aside.c.consumer == self.name)).scalar_one())

    def drop_aside(self, number: int) -> None:
        """Forget a message that was put aside, once it is dealt with."""
        with self.engine.begin() as connection:
            connection.execute(delete(_aside).where(_aside.c.consumer == self.name, _aside.c.number == number))

    def forget(self, connection: Connection) -> None:
        """Forget what was applied and what arrived, in the transaction that empties what the consumer has built.

        Then a replay builds it anew; what was put aside stays.
        """
        for table in (_applied, _arrived):
            connection.execute(delete(table).where(table.c.consumer == self.name))

    def _version(self, connection: Connection, change: Change, replay: str) -> int | None:
        key = self._is(_applied, source=change.source, subject=change.subject, replay=replay)
        found: int | None = connection.execute(select(_applied.c.version).where(*key)).scalar()
        return found

    def _note(self, connection: Connection, change: Change, replay: str) -> None:
        key = {"source": change.source, "subject": change.subject, "replay": replay}
        self._put(connection, _applied, key, version=change.version)

    def _is(self, table: Table, **key: str) -> list[Any]:
        return [table.c.consumer == self.name, *(table.c[name] == value for name, value in key.items())]

    def _put(self, connection: Connection, table: Table, key: dict[str, str], **values: Any) -> None:
        statement = self._insert(table).values(consumer=self.name, **key, **values)
        connection.execute(statement.on_conflict_do_update(index_elements=["consumer", *key], set_=values))
