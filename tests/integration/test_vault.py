"""Sealed bodies on real Postgres: what opens and what does not, rotation while all runs, and what was stored before."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from poller.core import canonical
from poller.core.canonical import CODEC_SEALED, CODEC_ZLIB
from poller.errors import KeyMissing, StoreError
from poller.store.engine import API, ENGINE, OWNER, READER, RELAY, open_engine
from poller.store.keys import KeyStore
from poller.store.reading import ReadingStore
from poller.store.repository import Repository
from poller.store.sealing import Sealing
from poller.store.sinks import SinkLog
from poller.store.vault import PLAIN, Master, Masters, Vault
from tests.integration.conftest import KEY, Practice
from tests.markers import marked

MARKER = "Kvothe-Marker-1743"
OTHER = Masters([Master("k1", AESGCM(b"x" * 32))])


@pytest.fixture
def admin(database_url: str) -> Iterator[psycopg.Connection]:
    """A superuser."""
    with closing(psycopg.connect(database_url, autocommit=True)) as connection:
        yield connection


@pytest.fixture
def keys_engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url, ENGINE, pool_size=1)
    yield made
    made.dispose()


@pytest.fixture
def vault(keys_engine: Engine, masters: Masters) -> Vault:
    return Vault(keys_engine, masters)


@pytest.fixture
def keys(keys_engine: Engine, masters: Masters) -> KeyStore:
    return KeyStore(keys_engine, masters)


@pytest.fixture
def sealed(practice: Practice, vault: Vault) -> Practice:
    """The practice, writing sealed bodies."""
    practice.repository = Repository(practice.engine, KEY, vault)
    return practice


def values(engine: Engine, vault: Vault, practice: str = "p1") -> list[Any]:
    """Of each event the value before and after, as a relay reads them."""
    events = SinkLog(engine, vault).after(practice, 0, 0, 1000, bodies=True)
    return [
        ((e.previous_body or {}).get("valueString"), e.body["valueString"] if e.body is not None else None)
        for e in events
    ]


def codecs(practice: Practice) -> set[int]:
    both = "SELECT codec FROM poller.snapshot WHERE NOT deleted UNION SELECT codec FROM poller.history WHERE body IS NOT NULL"
    return {row.codec for row in practice.rows(both)}


def numbers(practice: Practice, table: str = "history") -> list[int]:
    """Which key has sealed each body."""
    return [
        row.number
        for row in practice.rows(
            f"SELECT get_byte(body, 0) * 256 + get_byte(body, 1) AS number FROM poller.{table} ORDER BY id, version"  # noqa: S608
        )
    ]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.text(max_size=20), st.text(max_size=3000), max_size=5), st.text(min_size=1, max_size=64))
def test_what_was_sealed_opens_as_it_was_and_only_as_its_own(
    sealed: Practice, vault: Vault, resource: dict[str, str], id_: str
) -> None:
    body = canonical.encode_body(resource)
    with sealed.engine.begin() as connection:
        seal = vault.sealing(connection, "p1")
        codec, stored = seal(("Observation", id_), CODEC_ZLIB, body)
        again = seal(("Observation", id_), CODEC_ZLIB, body)
    assert codec == CODEC_SEALED
    assert stored != again[1], "a nonce is never used twice"
    assert len(stored) == len(body) + 30
    assert vault.resource("p1", ("Observation", id_), codec, stored) == resource
    with sealed.engine.begin() as connection:  # so that there is a key of that practice and that number
        vault.sealing(connection, "p2")
    for practice, key in (("p2", ("Observation", id_)), ("p1", ("Condition", id_)), ("p1", ("Observation", id_ + "1"))):
        with pytest.raises(ValueError, match="damaged, or not of this resource"):
            vault.text(practice, key, codec, stored)
    for damaged in (stored[:-1], stored[:20], stored[:30] + bytes([stored[30] ^ 1]) + stored[31:], b""):
        with pytest.raises(ValueError, match="damaged"):
            vault.text("p1", ("Observation", id_), codec, damaged)


def test_all_that_reads_bodies_reads_sealed_ones_each_role_by_itself(
    sealed: Practice, masters: Masters, database_url: str
) -> None:
    sealed.read(sealed.observation(value="1"))
    sealed.read(sealed.observation(value="2"))
    assert codecs(sealed) == {CODEC_SEALED}
    for role in (RELAY, READER, API):
        engine = open_engine(database_url, role)
        keys = open_engine(database_url, role, pool_size=1)
        vault = Vault(keys, masters)
        with engine.connect() as connection:
            found = ReadingStore(engine, vault).version(connection, "p1", "Observation", "o1")
        assert getattr(found, "text", b"").endswith(b'"valueString":"2"}')
        if role != API:
            assert values(engine, vault) == [(None, "1"), ("1", "2")]
        engine.dispose()
        keys.dispose()


def test_no_body_is_sealed_again_that_has_not_changed(sealed: Practice) -> None:
    sealed.read(sealed.observation("o1"), sealed.observation("o2"))
    before = sealed.rows("SELECT id, body FROM poller.snapshot ORDER BY id")
    sealed.read(sealed.observation("o1"), sealed.observation("o2", value="new"))
    after = sealed.rows("SELECT id, body FROM poller.snapshot ORDER BY id")
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_body_that_was_moved_to_another_row_does_not_open(
    sealed: Practice, vault: Vault, admin: psycopg.Connection
) -> None:
    sealed.read(sealed.observation("o1", "1"), sealed.observation("o2", "2"))
    admin.execute("UPDATE poller.history SET body = (SELECT body FROM poller.history WHERE id = 'o1') WHERE id = 'o2'")
    with pytest.raises(ValueError, match="not of this resource"):
        values(sealed.engine, vault)


def test_no_table_shows_what_a_resource_says(
    practice: Practice, vault: Vault, keys: KeyStore, admin: psycopg.Connection
) -> None:
    def all_that_writes(value: str) -> None:
        said: dict[str, Any] = {"valueString": value, "note": [{"text": f"{value} said"}]}
        practice.read(practice.observation("o1", **said), practice.patient("a", name=[{"family": value}]))
        practice.read(practice.observation("o1", **said | {"valueString": f"{value} again"}))
        practice.delete("o1")
        practice.read(practice.observation("o1", **said))

    practice.repository = Repository(practice.engine, KEY)
    all_that_writes(MARKER)
    assert {"snapshot.body", "history.body"} <= marked(admin, [MARKER]), "the search finds what is there"
    practice.repository = Repository(practice.engine, KEY, vault)
    all_that_writes("Denna-Marker-1744")
    keys.rotate("p1")
    all_that_writes("Denna-Marker-1744 once more")
    assert marked(admin, ["Denna-Marker"]) == set()


def test_keys_rotate_while_an_engine_writes_and_a_relay_reads(
    sealed: Practice, keys: KeyStore, masters: Masters, database_url: str
) -> None:
    """Each opens what the other has sealed by a key that it has never seen, and nothing is lost or told to wait."""
    stop, read = threading.Event(), []
    errors: list[BaseException] = []
    relay = open_engine(database_url, RELAY)
    relay_keys = open_engine(database_url, RELAY, pool_size=1)

    def go_on_reading() -> None:
        log, at = SinkLog(relay, Vault(relay_keys, masters)), (1, 0)
        try:
            while True:
                ending = stop.is_set()
                for event in log.after("p1", *at, 10, bodies=True):
                    assert event.body is not None
                    read.append(event.body["valueString"])
                    at = event.epoch, event.sequence
                if ending and len(read) == written:
                    return
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    written = 0
    reader = threading.Thread(target=go_on_reading)
    reader.start()
    for number in range(1, 31):
        sealed.read(sealed.observation(value=str(number)))
        written = number
        if number % 10 == 0:
            assert keys.rotate("p1") == number // 10 + 1
    stop.set()
    reader.join(timeout=30)
    relay.dispose()
    relay_keys.dispose()
    assert errors == []
    assert read == [str(number) for number in range(1, 31)]
    assert numbers(sealed) == [1] * 10 + [2] * 10 + [3] * 10
    assert [(key.number, key.is_current) for key in keys.listed()] == [(1, False), (2, False), (3, False), (4, True)]


def test_the_master_key_rotates_without_a_body_being_touched(
    sealed: Practice, keys_engine: Engine, keys: KeyStore, masters: Masters
) -> None:
    sealed.read(sealed.observation(value="1"))
    keys.rotate("p1")
    sealed.read(sealed.observation(value="2"))
    bodies = sealed.rows("SELECT body FROM poller.history ORDER BY version")
    old, new = Master("k1", AESGCM(b"m" * 32)), Master("k2", AESGCM(b"n" * 32))
    only_new = Vault(keys_engine, Masters([new]))
    with pytest.raises(
        KeyMissing, match=r"practice p1: its key \d was wrapped by the master key k1, and encryption.keys"
    ):
        values(sealed.engine, only_new)
    masters.follow(Masters([new, old]))  # as an engine does that was told of it: the same vault goes on
    sealed.read(sealed.observation(value="3"))
    assert KeyStore(keys_engine, masters).rewrap(["p1"]) == 2
    assert KeyStore(keys_engine, masters).rewrap(["p1"]) == 0
    assert {key.master for key in keys.listed()} == {"k2"}
    assert values(sealed.engine, only_new) == [(None, "1"), ("1", "2"), ("2", "3")]
    sealed.read(sealed.observation(value="4"))
    assert values(sealed.engine, only_new)[-1] == ("3", "4")
    assert sealed.rows("SELECT body FROM poller.history ORDER BY version")[:2] == bodies


def test_a_name_that_means_another_key_now_is_refused_and_what_it_wrapped_is_not_taken_for_done(
    sealed: Practice, keys_engine: Engine, keys: KeyStore
) -> None:
    sealed.read(sealed.observation(value="1"))
    old, reused = Master("k1old", AESGCM(b"m" * 32)), Master("k1", AESGCM(b"n" * 32))
    both = Masters([reused, old])
    (refused,) = keys.refusals(both, ["p1"])
    assert refused.endswith("what encryption.keys has by that name is another key; put the former one back")
    with pytest.raises(KeyMissing, match="by another master key of the name k1; give the new one a name"):
        KeyStore(keys_engine, both).rewrap(["p1"])
    renamed = Masters([Master("k2", AESGCM(b"n" * 32)), old])
    assert keys.refusals(renamed, ["p1"]) == [], "a name may change as long as no other key has it"
    assert KeyStore(keys_engine, renamed).rewrap(["p1"]) == 1
    assert values(sealed.engine, Vault(keys_engine, Masters([Master("k2", AESGCM(b"n" * 32))]))) == [(None, "1")]


def test_what_is_made_while_keys_are_wrapped_anew_is_wrapped_too_and_other_practices_are_left(
    sealed: Practice,
    keys_engine: Engine,
    keys: KeyStore,
    masters: Masters,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sealed.read(sealed.observation(value="1"))
    keys.rotate("p2")
    late = [KeyStore(engine, masters)]
    new, old = Master("k2", AESGCM(b"n" * 32)), Master("k1", AESGCM(b"m" * 32))
    wrap = Masters.wrap

    def meanwhile(self: Masters, practice: str, number: int, key: bytes) -> dict[str, Any]:
        if self is not masters and late:
            late.pop().rotate(practice)
        return wrap(self, practice, number, key)

    monkeypatch.setattr(Masters, "wrap", meanwhile)
    following = KeyStore(keys_engine, Masters([new, old]))
    assert following.rewrap(["p1"]) == 2
    assert [(key.practice, key.master) for key in keys.listed()] == [("p1", "k2"), ("p1", "k2"), ("p2", "k1")]
    assert following.others(["p1"]) == {"p2": ["k1"]}
    assert following.rewrap(["p2"]) == 1
    assert following.others(["p1"]) == {}


def test_keys_that_none_opens_keep_no_other_from_being_wrapped_anew(
    sealed: Practice, keys_engine: Engine, keys: KeyStore
) -> None:
    sealed.read(sealed.observation(value="1"))
    KeyStore(keys_engine, Masters([Master("lost", AESGCM(b"l" * 32))])).rotate("p0")
    new, old = Master("k2", AESGCM(b"n" * 32)), Master("k1", AESGCM(b"m" * 32))
    with pytest.raises(KeyMissing, match="practice p0: its key 1 was wrapped by the master key lost"):
        KeyStore(keys_engine, Masters([new, old])).rewrap(["p0", "p1"])
    assert [(key.practice, key.master) for key in keys.listed()] == [("p0", "lost"), ("p1", "k2")]


def test_a_wrong_or_missing_master_key_is_said_and_nothing_is_written_with_it(
    sealed: Practice, keys_engine: Engine, keys: KeyStore, masters: Masters
) -> None:
    sealed.read(sealed.observation(value="1"))
    assert keys.refusals(masters, ["p1"]) == []
    (wrong,) = keys.refusals(OTHER, ["p1", "p2"])
    assert wrong == (
        "practice p1: its key 1 was wrapped by the master key k1, and what encryption.keys has by that name is another key;"
        " put the former one back"
    )
    (none,) = keys.refusals(Masters(), ["p1"])
    assert none.endswith("and encryption.keys names none; name it there again")
    assert keys.refusals(OTHER, ["p2"]) == []
    before = sealed.tables()
    sealed.repository = Repository(sealed.engine, KEY, Vault(keys_engine, OTHER))
    with pytest.raises(StoreError, match="another key"):
        sealed.read(sealed.observation(value="2"))
    assert sealed.tables() == before
    for vault in (Vault(keys_engine, OTHER), Vault(keys_engine, Masters()), PLAIN):
        with pytest.raises(ValueError, match="master key"):
            values(sealed.engine, vault)


def test_a_key_that_was_destroyed_opens_nothing_and_is_not_used_again(
    sealed: Practice, vault: Vault, keys_engine: Engine, masters: Masters, admin: psycopg.Connection
) -> None:
    """As when a practice is forgotten, and then begins anew: this process still knows the former key of the same number."""
    sealed.read(sealed.observation("o1", "1"))
    assert values(sealed.engine, vault) == [(None, "1")]
    admin.execute("DELETE FROM poller.practice_key WHERE practice = 'p1'")
    with pytest.raises(KeyMissing, match="key 1 is not in this database"):
        values(sealed.engine, Vault(keys_engine, masters))
    sealed.read(sealed.observation("o2", "2"))
    admin.execute("DELETE FROM poller.history WHERE id = 'o1'")
    other = Vault(keys_engine, masters)
    assert values(sealed.engine, other)[-1] == (None, "2"), "sealed by a key that others can find"
    assert values(sealed.engine, vault)[-1] == (None, "2")


def test_two_that_write_first_at_once_make_one_key(practice: Practice, keys_engine: Engine, masters: Masters) -> None:
    first, second = Vault(keys_engine, masters), Vault(keys_engine, masters)
    done: list[tuple[int, bytes]] = []

    def write() -> None:
        with practice.engine.begin() as connection:
            done.append(
                second.sealing(connection, "p1")(("Observation", "o1"), CODEC_ZLIB, canonical.encode_body({"a": "b"}))
            )

    with practice.engine.begin() as connection:
        first.sealing(connection, "p1")
        thread = threading.Thread(target=write)
        thread.start()
        while not practice.someone_waits():
            assert thread.is_alive()
    thread.join(timeout=30)
    assert len(practice.rows("SELECT FROM poller.practice_key")) == 1
    assert first.resource("p1", ("Observation", "o1"), *done[0]) == {"a": "b"}


def test_a_login_that_may_not_touch_history_is_told_so(
    practice: Practice, vault: Vault, database_url: str, admin: psycopg.Connection
) -> None:
    practice.read(practice.observation())
    name = f"poller_service_{uuid.uuid4().hex[:8]}"
    admin.execute(f"CREATE ROLE {name} LOGIN NOSUPERUSER")
    admin.execute(f"GRANT {ENGINE}, {READER} TO {name}")
    owner = open_engine(make_conninfo(database_url, user=name), OWNER, pool_size=1)
    with pytest.raises(StoreError, match="may not act as poller_owner; run this as the login that migrates"):
        next(Sealing(owner, vault, "p1").run())
    owner.dispose()
    admin.execute(f"DROP ROLE {name}")
    with pytest.raises(DBAPIError, match="permission denied"), practice.engine.begin() as connection:
        connection.execute(text("UPDATE poller.history SET body = ''"))


def test_what_was_stored_before_stays_readable_and_can_be_encrypted_at_last(
    practice: Practice, vault: Vault, database_url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poller.store.sealing._BATCH", 4)
    practice.read(*[practice.observation(f"o{n}", MARKER) for n in range(10)])
    practice.delete("o9")
    practice.repository = Repository(practice.engine, KEY, vault)
    practice.read(*[practice.observation(f"o{n}", f"{MARKER} 2") for n in range(5)])
    assert codecs(practice) == {CODEC_ZLIB, CODEC_SEALED}
    before = values(practice.engine, vault)
    assert before[-1] == (MARKER, f"{MARKER} 2")
    owner = open_engine(database_url, OWNER, pool_size=1)
    stopped = Sealing(owner, vault, "p1").run()
    assert next(stopped) == 4
    stopped.close()
    assert codecs(practice) == {CODEC_ZLIB, CODEC_SEALED}
    assert sum(Sealing(owner, vault, "p1").run()) == 10, (
        "4 snapshots were done before, 5 newer ones were never unsealed"
    )
    assert codecs(practice) == {CODEC_SEALED}
    assert values(practice.engine, vault) == before
    assert sum(Sealing(owner, vault, "p1").run()) == 0
    assert marked(admin, [MARKER]) == set()
    practice.read(*[practice.observation(f"o{n}", MARKER) for n in range(5, 9)])
    assert len(values(practice.engine, vault)) == len(before), "and nothing of it is news"
    assert list(Sealing(owner, PLAIN, "p1").run()) == []
    owner.dispose()
