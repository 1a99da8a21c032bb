"""Where the acceptance tests run: on real services where they are, else embedded."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.rig import Services, store_url, with_rabbit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def new_services(
    request: pytest.FixtureRequest, postgres_server: str, template_database: str
) -> Iterator[Callable[[], Services]]:
    """Gives a fresh database each time, and RabbitMQ where it runs, else the embedded queue."""
    made: list[str] = []
    try:
        rabbit = request.getfixturevalue("rabbit_url")
    except pytest.skip.Exception:
        rabbit = None
    with psycopg.connect(postgres_server, autocommit=True) as admin:

        def new() -> Services:
            made.append(f"poller_accept_{secrets.token_hex(6)}")
            admin.execute(f'CREATE DATABASE "{made[-1]}" TEMPLATE "{template_database}"')
            store = store_url(make_conninfo(postgres_server, dbname=made[-1]))
            return with_rabbit(store, rabbit) if rabbit is not None else Services(store)

        yield new
        for name in made:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def services(new_services: Callable[[], Services]) -> Services:
    """A database of the test's own, and RabbitMQ where it runs, else the embedded queue."""
    return new_services()
