"""Where the acceptance tests run: on real services where they are, else embedded."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.parts import Services, store_url, with_rabbit
from tests.acceptance.story import Story, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def new_databases(postgres_server: str, template_database: str) -> Iterator[Callable[[], str]]:
    """Gives the conninfo of a fresh, migrated database each time."""
    made: list[str] = []
    with psycopg.connect(postgres_server, autocommit=True) as admin:

        def new() -> str:
            made.append(f"poller_accept_{secrets.token_hex(6)}")
            admin.execute(f'CREATE DATABASE "{made[-1]}" TEMPLATE "{template_database}"')
            return make_conninfo(postgres_server, dbname=made[-1])

        yield new
        for name in made:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="module")
def new_services(request: pytest.FixtureRequest, new_databases: Callable[[], str]) -> Callable[[], Services]:
    """Gives a fresh database each time, and RabbitMQ where it runs, else the embedded queue."""
    try:
        rabbit = request.getfixturevalue("rabbit_url")
    except pytest.skip.Exception:
        return lambda: Services(store_url(new_databases()))
    return lambda: with_rabbit(store_url(new_databases()), rabbit)


@pytest.fixture
def services(new_services: Callable[[], Services]) -> Services:
    """A database of the test's own, and RabbitMQ where it runs, else the embedded queue."""
    return new_services()


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """One run that several guarantees are read from."""
    yield from tell(tmp_path_factory.mktemp("story", numbered=True))
