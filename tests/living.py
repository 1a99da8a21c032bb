"""Engines that live, as far as the store can tell, and their deaths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import Engine

from poller.store.control import Post


@pytest.fixture
def posts(engine: Engine) -> Iterator[list[Post]]:
    """Two engines that live."""
    made = [Post(engine, "host", pid) for pid in (1, 2)]
    for post in made:
        post.look()
    yield made
    for post in made:
        post.close()


def cut(database_url: str, post: Post) -> None:
    """End the session of an engine as its death would."""
    with closing(psycopg.connect(database_url, autocommit=True)) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2"
            " AND objid = CAST(%s AS oid) AND classid = CAST(hashtext('poller.engine') AS oid)"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            (post.engine,),
        )
