"""What the strategies' contract is played on."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg
import pytest
import structlog
from psycopg.conninfo import make_conninfo

from poller import keys
from poller.store.engine import ENGINE, open_engine, prove_digest_key
from poller.store.state import LeaseKeeper
from tests.contract.parts.play import KEY, Bench
from tests.databases import plan_once

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey


@pytest.fixture(scope="module")
def stage(postgres_server: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A store for all cases of a module: each has a practice of its own. And one key pair, loaded once: checking it takes its time."""
    name = f"poller_contract_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
        admin.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    pair = keys.new_key(tmp_path_factory.mktemp("keys"))
    key = keys.load_private_key(pair.private_path.read_text())
    engine = open_engine(make_conninfo(postgres_server, dbname=name), ENGINE, pool_size=3)
    engine.pool._pre_ping = False  # a third of all that is asked of the store
    plan_once(engine)
    keeper = LeaseKeeper(engine)
    prove_digest_key(engine, KEY)

    def loaded(_pem: str) -> RSAPrivateKey:
        return key

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "load_private_key", loaded)
        yield Bench(engine, keeper, pair.private_path, keys.jwks([(pair.kid, pair.private_key.public_key())]))
    keeper.close()
    engine.dispose()
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def silent() -> Iterator[None]:
    """Without log lines, which are many."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)
