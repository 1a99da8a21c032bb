"""Connections to Postgres: one engine a role, statements from named files, migrations."""

from __future__ import annotations

import datetime as dt
import functools
import hmac
import re
import time
from importlib.resources import files
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, TextClause, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from poller.clock import AnchoredClock
from poller.errors import Code, StoreError
from poller.store.arrays import FlatListDumper

OWNER = "poller_owner"
ENGINE = "poller_engine"
RELAY = "poller_relay"
READER = "poller_reader"
STATUS = "poller_status"
API = "poller_api"

VERSION_TABLE = "poller_revision"
"""Alembic's table, in the schema ``public``: it must be readable before ours exists."""

_KEY_CHECK = b"poller: is this the digest key of this database?"


_IN_BINARY = "poller_in_binary"
_STATEMENTS = files("poller.store").joinpath("sql")
_PART = re.compile(r"\{(\w+)\}")


@functools.cache
def sql(name: str) -> TextClause:
    """The statement in ``sql/<name>.sql``; binds are written ``:name``, what statements share ``{part}``: it stands in ``sql/parts``."""
    statement = _STATEMENTS.joinpath(f"{name}.sql").read_text(encoding="utf-8")
    return text(_PART.sub(lambda part: _part(part[1]), statement))


@functools.cache
def sql_in_binary(name: str) -> TextClause:
    """The same, its rows sent as Postgres has them: bodies not as hexadecimal digits, moments and ids not as text to parse.

    For results of many rows, whose types psycopg knows.
    """
    return sql(name).execution_options(**{_IN_BINARY: True})


def _part(name: str) -> str:
    """Without the comment that it begins with: it stands in the middle of a statement."""
    return _STATEMENTS.joinpath("parts", f"{name}.sql").read_text(encoding="utf-8").partition("\n")[2].rstrip()


def open_engine(conninfo: str, role: str | None, *, pool_size: int = 5) -> Engine:
    """An engine whose every connection acts as ``role`` (None: as whoever logs in).

    ``conninfo`` is a libpq URI or keyword string. A connection that idles inside a transaction is ended by the server after a minute:
    it would hold locks that other pollers wait for.
    """

    def connect() -> Any:
        connection = psycopg.connect(
            conninfo,
            application_name=f"poller:{role or 'admin'}",
            client_encoding="UTF8",
            connect_timeout=10,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=30_000,  # a server that vanishes without a word is noticed in half a minute, not in two hours
            prepare_threshold=None,  # planned with the values at hand: a plan for any values reads whole tables for a few rows
            options="-c idle_in_transaction_session_timeout=60s -c timezone=UTC -c jit=off",
        )
        connection.adapters.register_dumper(
            list, FlatListDumper
        )  # as text, escaping a batch takes as long as writing it
        return connection

    engine = create_engine(
        "postgresql+psycopg://",
        creator=connect,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        hide_parameters=True,
    )

    @event.listens_for(engine, "before_cursor_execute")
    def _choose_format(_connection: Any, cursor: Any, _statement: str, _binds: Any, context: Any, _many: Any) -> None:
        if context.execution_options.get(_IN_BINARY):
            cursor.format = psycopg.pq.Format.BINARY

    if role is not None:

        @event.listens_for(engine, "connect")
        def _take_role(connection: Any, _record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute(f'SET ROLE "{role}"')
            connection.commit()

    return engine


def reading(engine: Engine) -> Connection:
    """A connection for reads of one statement each: without BEGIN and ROLLBACK, which are two of three round trips."""
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def migrate(conninfo: str) -> None:
    """Bring the schema to this release. Safe to call at every start, from many processes at once.

    Raises StoreError when the server cannot be reached or the login may not do it.
    """
    engine = open_engine(conninfo, None, pool_size=1)
    try:
        with engine.connect() as connection, connection.begin():
            if _is_current(connection):
                return  # nothing to do, so a login that may not migrate can run what was migrated for it
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('poller.migrate'))"))
            _upgrade(connection)
            connection.execute(text(f"GRANT SELECT ON {VERSION_TABLE} TO {ENGINE}, {RELAY}, {READER}, {STATUS}, {API}"))
    except OperationalError as error:
        raise _unreachable(error) from None
    except (DBAPIError, psycopg.Error) as error:
        raise StoreError(
            f"the schema could not be brought up to date ({sqlstate(error)}); the login needs CREATEROLE and CREATE on the database",
            Code.STORE_GRANTS,
        ) from None
    finally:
        engine.dispose()


def require_current(conninfo: str) -> None:
    """Make sure that the schema is this release's, for commands that only look. Raises StoreError."""
    engine = open_engine(conninfo, None, pool_size=1)
    try:
        with engine.connect() as connection:
            current = _is_current(connection)
    except OperationalError as error:
        raise _unreachable(error) from None
    finally:
        engine.dispose()
    if not current:
        raise StoreError(
            "the database does not hold the schema of this release; `poller migrate` brings it there, and `poller run` does too",
            Code.STORE_SCHEMA,
        )


def newest_revision() -> str:
    """The schema's revision of this release, as the names of its files have it."""
    names = (file.name for file in files("poller.store.migrations").joinpath("versions").iterdir())
    return max(name[1:5] for name in names if name.startswith("r") and name.endswith(".py"))


def _upgrade(connection: Connection) -> None:
    # Loaded here: alembic is a fifth of what a start takes, and nearly all starts find the schema as it should be.
    import alembic.command  # noqa: PLC0415
    import alembic.config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = alembic.config.Config()
    config.set_main_option("script_location", "poller.store:migrations")
    config.attributes["connection"] = connection
    try:
        alembic.command.upgrade(config, "head")
    except CommandError:
        raise StoreError(
            "the database holds the schema of a newer release; run that one, or restore a backup of this one's",
            Code.STORE_NEWER,
        ) from None


_DISTRUST: Final = (
    (
        "does not match host name",
        "the certificate is for another host than store.url names; name it as the certificate does",
    ),
    (
        "certificate verify failed",
        "no CA in the file that sslrootcert names has signed the certificate, or its time is over",
    ),
    ("server does not support SSL", "the server has no TLS, and store.url asks for it; turn ssl on there"),
    (
        "root certificate file",
        "sslrootcert names no file that can be read; add &sslrootcert=/path/to/ca.pem to store.url",
    ),
)
"""libpq's words for why there is no TLS, and ours."""


def _unreachable(error: DBAPIError) -> StoreError:
    said = str(error.orig)
    for words, ours in _DISTRUST:
        if words in said:
            return StoreError(
                f"Postgres cannot be reached as safely as store.url asks for: {ours}", Code.STORE_UNREACHABLE
            )
    return StoreError(
        f"Postgres cannot be reached or refuses the login ({sqlstate(error)}); see store.url", Code.STORE_UNREACHABLE
    )


def _is_current(connection: Connection) -> bool:
    known = connection.execute(text("SELECT to_regclass(:name)"), {"name": VERSION_TABLE}).scalar()
    if known is None:
        return False
    revisions = connection.execute(text("SELECT version_num FROM poller_revision")).scalars()
    return list(revisions) == [newest_revision()]


def sqlstate(error: DBAPIError | psycopg.Error) -> str:
    """What of an error of Postgres may be told: its code, never its words."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(cause, "sqlstate", None)
    return f"SQLSTATE {state}" if state else type(cause).__name__


def key_check(key: bytes) -> bytes:
    """What the database keeps to know the digest key by."""
    return hmac.digest(key, _KEY_CHECK, "sha256")


def prove_digest_key(engine: Engine, key: bytes) -> None:
    """Tie the digest key to the database at first use, and refuse any other afterwards.

    Raises StoreError: under another key every resource would look changed.
    """
    check = key_check(key)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO poller.installation (key_check) VALUES (:check) ON CONFLICT DO NOTHING"), {"check": check}
        )
        known: bytes = connection.execute(text("SELECT key_check FROM poller.installation")).scalar_one()
    if not hmac.compare_digest(bytes(known), check):
        raise StoreError(
            "store.digest_key is not the key this database was made with; put the former key back", Code.STORE_KEY
        )


def read_clock(engine: Engine) -> tuple[dt.datetime, float]:
    """The database's time, and this process's monotonic time at the middle of the round trip."""
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))  # the connection is up before the round trip that is timed
        before = time.monotonic()
        now: dt.datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        after = time.monotonic()
    return now.astimezone(dt.UTC), (before + after) / 2


def open_clock(engine: Engine) -> AnchoredClock:
    """The database's clock, carried by this process's monotonic one."""
    return AnchoredClock(*read_clock(engine))


def ensure_partitions(connection: Connection, now: dt.datetime) -> None:
    """Make this month's and next month's partitions of history and events.

    Raises OperationalError rather than wait long for a lock, as behind a backup: whoever writes would wait behind us. What is missing
    is caught by the default partitions.
    """
    connection.execute(text("SET LOCAL lock_timeout = '2s'"))
    connection.execute(text("SELECT poller.ensure_partitions(CAST(:today AS date))"), {"today": now.date()})
