"""One database for the tests of a module, each with a practice of its own: a database for each would take longer than what they test."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine

from poller.store.engine import ENGINE, open_engine, prove_digest_key
from tests.integration.conftest import KEY, Practice

_numbers = itertools.count(1)


@contextmanager
def shared_database(server: str, template: str) -> Iterator[str]:
    """Conninfo of a migrated database."""
    name = f"poller_test_{uuid.uuid4().hex[:12]}"
    with closing(psycopg.connect(server, autocommit=True)) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        yield make_conninfo(server, dbname=name)
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def shared_engine(database: str) -> Iterator[Engine]:
    """Connections that act as the engine."""
    engine = open_engine(database, ENGINE, pool_size=8)
    prove_digest_key(engine, KEY)
    yield engine
    engine.dispose()


@contextmanager
def practice_in(engine: Engine, code: str | None = None) -> Iterator[Practice]:
    """A practice that no other test has."""
    practice = Practice(engine, code=code or f"p{next(_numbers)}")
    yield practice
    practice.keeper.close()
