"""The plans of the write path and of the log's readers on a million resources: each costs what its input does, not what there is."""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from poller.store.engine import open_engine
from tests.benchmarks.diff import fill
from tests.integration.test_statements import CASES, check_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

MANY = 1_000_000
HOT = [
    "compare: a window's",
    "lock_snapshots",
    "stored_bodies",
    "insert_snapshots",
    "update_snapshots",
    "rewrite_digests",
    "insert_history",
    "append_events",
    "clear_absences",
    "read_events",
    "read_events: with bodies",
    "read_version",
    "resource_history",
    "events_of_versions",
]


@pytest.fixture(scope="module")
def many(postgres_server: str, template_database: str) -> Iterator[Connection]:
    name = f"poller_plans_{uuid.uuid4().hex[:12]}"
    with closing(psycopg.connect(postgres_server, autocommit=True)) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
    url = make_conninfo(postgres_server, dbname=name)
    engine = open_engine(url, None)
    try:
        with closing(psycopg.connect(url, autocommit=True)) as admin:
            admin.execute("INSERT INTO poller.practice_log (practice) VALUES ('p1')")
        fill(url, MANY)
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()
        with closing(psycopg.connect(postgres_server, autocommit=True)) as admin:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def among_many(binds: dict[str, Any]) -> dict[str, Any]:
    """The same resources by the names that they have here, spread over all there are."""

    def renamed(id_: str) -> str:
        return f"old{int(id_[1:]) * 50}" if id_[1:].isdigit() else id_

    own: dict[str, Any] = {}
    if "ids" in binds:
        own["ids"] = [renamed(id_) for id_ in binds["ids"]]
    if isinstance(binds.get("id"), str):
        own["id"] = renamed(binds["id"])
    return binds | own


@pytest.mark.parametrize("case", HOT)
def test_a_million_more_cost_no_more(many: Connection, case: str) -> None:
    """Twice the pages of 20,000 are allowed: trees are deeper, and what was on one page is on two."""
    binds, pages = CASES[case]
    check_plan(many, case.partition(":")[0], among_many(binds), pages * 2)
