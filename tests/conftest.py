"""Real services for the tests: PostgreSQL named by POLLER_TEST_POSTGRES or embedded, RabbitMQ named by POLLER_TEST_AMQP."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from poller.store.engine import migrate

_POSTGRES = "POLLER_TEST_POSTGRES"
_AMQP = "POLLER_TEST_AMQP"


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Conninfo of a server whose login may do everything: a real one if there is one, else embedded."""
    named = os.environ.get(_POSTGRES)
    if named is None and _listens("127.0.0.1", 5432):
        named = "postgresql://postgres@127.0.0.1:5432/postgres"
        try:
            psycopg.connect(named, connect_timeout=5).close()
        except psycopg.OperationalError:
            named = None
    if named is not None:
        yield named
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"under CI a real PostgreSQL must run; name it in {_POSTGRES}")
    from poller.store.embedded import EmbeddedPostgres  # noqa: PLC0415 - starting the wheel's server only where none runs

    server = EmbeddedPostgres(tmp_path_factory.mktemp("pg", numbered=True))
    yield server.store_conninfo
    server.close()


@pytest.fixture(scope="session")
def template_database(postgres_server: str) -> Iterator[str]:
    """Name of a migrated database that each test's own is copied from."""
    name = f"poller_template_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    migrate(make_conninfo(postgres_server, dbname=name))
    yield name
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def empty_database(postgres_server: str) -> Iterator[str]:
    """Conninfo of a fresh, empty database."""
    yield from _database(postgres_server, "template1")


@pytest.fixture
def database_url(postgres_server: str, template_database: str) -> Iterator[str]:
    """Conninfo of a fresh, migrated database of the test's own."""
    yield from _database(postgres_server, template_database)


def _database(server: str, template: str) -> Iterator[str]:
    name = f"poller_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield make_conninfo(server, dbname=name)
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def rabbit_url() -> str:
    """URL of a real RabbitMQ."""
    url = os.environ.get(_AMQP, "amqp://guest:guest@127.0.0.1:5672//")
    parts = urlsplit(url)
    if _listens(parts.hostname or "127.0.0.1", parts.port or 5672):
        return url
    reason = f"no RabbitMQ answers; name one in {_AMQP}"
    if os.environ.get("CI") == "true":
        pytest.fail(f"under CI a real RabbitMQ must run: {reason}")
    pytest.skip(reason)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory of the test's own."""
    return tmp_path / "data"
