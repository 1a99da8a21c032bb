"""Real services for the tests: PostgreSQL named by POLLER_TEST_POSTGRES or embedded, RabbitMQ named by POLLER_TEST_AMQP."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import structlog
from psycopg.conninfo import make_conninfo

from poller import logs
from poller.store.engine import migrate
from tests.databases import Databases

_POSTGRES = "POLLER_TEST_POSTGRES"
_AMQP = "POLLER_TEST_AMQP"


_APART = (
    "tests/acceptance/test_random_server.py",
    "tests/contract/test_strategies.py",
    "tests/contract/test_strategies_turned.py",
)
"""Each test of these takes long, and may run beside others of its file."""
_STORY = tuple(f"tests/acceptance/test_{name}.py" for name in ("order", "quiet", "replay", "schemas"))
"""These read one story, which is dear to tell."""


def unit_of(nodeid: str) -> str:
    """What goes to one worker: a file, whose tests share what is dear to make; all that read the one story; a long test by itself."""
    file = nodeid.partition("::")[0]
    return nodeid if file in _APART else "story" if file in _STORY else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Deal out whole units, in the order of collection.

    xdist's own ``--dist loadgroup`` writes the group into a private attribute of pytest that is no more, and so deals out single tests.
    """
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - asked only where xdist is at work

    class InUnits(LoadScopeScheduling):  # type: ignore[misc] # xdist is not typed
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    return InUnits(config, log)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A command that sets up its process's logging does so for the tests after it too, unless it is undone."""
    written, hooks = structlog.get_config(), (sys.excepthook, threading.excepthook)
    levels = {name: logging.getLogger(name).level for name in (None, logs.OURS)}
    yield
    structlog.configure(**written)
    sys.excepthook, threading.excepthook = hooks
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for handler in [one for one in logging.getLogger().handlers if isinstance(one, logs._Stream)]:
        logging.getLogger().removeHandler(handler)


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
    databases = Databases(postgres_server, "template1")
    name = databases.make()
    yield make_conninfo(postgres_server, dbname=name)
    databases.drop(name)


@pytest.fixture(scope="session")
def databases(postgres_server: str, template_database: str) -> Iterator[Databases]:
    """Migrated databases, each lent to one test or module at a time."""
    made = Databases(postgres_server, template_database)
    yield made
    made.close()


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """Conninfo of a migrated, empty database that no other test has at the same time."""
    with databases.lend() as conninfo:
        yield conninfo


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
