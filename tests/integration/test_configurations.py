"""Accepted configurations: numbered over the store, in force by the poller's name, and never another's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from poller.errors import ConfigError, KeyMissing, NotFound
from poller.reloading import Reloading, Written
from poller.store.configurations import ConfigurationStore, Living
from poller.store.control import Post
from tests.living import cut, posts

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from poller.config import Config
    from poller.config.difference import Difference

__all__ = ["posts"]
WHO: Any = {"actor": "ann", "reason": "because"}


@pytest.fixture
def store(engine: Engine) -> ConfigurationStore:
    return ConfigurationStore(engine)


def test_a_configuration_is_kept_when_it_differs_from_the_one_in_force(store: ConfigurationStore) -> None:
    with pytest.raises(NotFound, match="no configuration was accepted here yet"):
        store.in_force("poller")
    first = store.accept("poller", "a: 1\n", **WHO)
    assert store.accept("poller", "a: 1\n", **WHO) == first
    second = store.accept("poller", "a: 2\n", **WHO)
    third = store.accept("poller", "a: 1\n", **WHO)
    assert first < second < third
    assert [one.revision for one in store.revisions(10)] == [third, second, first]
    assert store.revision(second).written == "a: 2\n"
    assert store.in_force("poller").revision == third
    with ThreadPoolExecutor(4) as pool:
        assert len({*pool.map(lambda _: store.accept("poller", "a: 3\n", **WHO), range(8))}) == 1


def test_pollers_of_one_store_keep_their_configurations_apart(store: ConfigurationStore) -> None:
    mine, theirs = store.accept("mine", "a: 1\n", **WHO), store.accept("theirs", "a: 2\n", **WHO)
    assert store.accept("mine", "a: 1\n", **WHO) == mine, "not theirs, though that is newer"
    assert store.in_force("mine").revision == mine
    assert store.in_force("theirs").revision == theirs
    with pytest.raises(NotFound, match="by a poller named other, only by mine, theirs"):
        store.in_force("other")
    assert [(one.revision, one.name) for one in store.revisions(10)] == [(theirs, "theirs"), (mine, "mine")]


def test_who_lives_and_by_what_is_known_by_name(
    store: ConfigurationStore, posts: list[Post], database_url: str
) -> None:
    posts[0].runs(store.accept("mine", "a: 1\n", **WHO))
    posts[1].runs(store.accept("theirs", "a: 2\n", **WHO))
    assert store.living("mine") == [Living("host:1", "a: 1\n")]
    cut(database_url, posts[0])
    assert store.living("mine") == []
    assert store.living("theirs") == [Living("host:2", "a: 2\n")]


def test_a_master_key_is_in_use_when_every_engine_has_it_of_whatever_name(
    store: ConfigurationStore, posts: list[Post], database_url: str
) -> None:
    def says(post: Post, poller: str, *keys: str) -> None:
        named = ", ".join(f"{{name: {key}, file: {key}}}" for key in keys)
        post.runs(store.accept(poller, f"encryption: {{keys: [{named}]}}\n", **WHO))

    with pytest.raises(
        KeyMissing, match=r"k2 is not in the configuration that engine host:1, host:2 runs by; put it in"
    ):
        store.require_master("k2")
    says(posts[0], "mine", "k2", "k1")
    says(posts[1], "theirs", "k1")
    store.require_master("k1")
    with pytest.raises(KeyMissing, match=r"that engine host:2 runs by; put it in .*, `poller reload`, then ask again"):
        store.require_master("k2")
    posts[0].runs(store.accept("mine", "a: 1\n", **WHO))
    with pytest.raises(KeyMissing, match="that engine host:1 runs by"):
        store.require_master("k1")
    for post in posts:
        cut(database_url, post)
    store.require_master("k2")


def test_a_reload_says_by_what_the_engine_runs_now_when_it_does(
    store: ConfigurationStore, posts: list[Post], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "poller.yaml"
    path.write_text(CONFIG.format(name="mine", practice="A"))
    before = Written.read(path)
    meanwhile: list[str] = []

    async def follow(_config: Config, _difference: Difference) -> None:
        meanwhile.extend(one.written for one in store.living("mine"))

    made = Reloading(before, store, lambda *_: [], follow)
    made.keep("ann", "start", posts[0].runs)
    path.write_text(path.read_text() + "reload: {watch: true}\n")
    asyncio.run(made.reload("ann", "because"))
    assert meanwhile == [before.text]
    assert [one.written for one in store.living("mine")] == [Written.read(path).text]


CONFIG = """\
name: {name}
sinks: {{changes: {{exchange: x, queues: [q]}}}}
practices:
  {practice}: {{base_url: https://ehr.example/r4, auth: none, feeds: {{Patient: }}}}
"""


def written(tmp_path: Path, name: str, practice: str) -> Written:
    return Written.of(CONFIG.format(name=name, practice=practice), tmp_path / f"{practice}.yaml")


def reloading(store: ConfigurationStore, present: Written, seen: list[Config | None]) -> Reloading:
    async def follow(_config: Config, _difference: Difference) -> None:
        raise AssertionError("nothing is reloaded here")

    def check(_following: Written, before: Config | None) -> list[str]:
        seen.append(before)
        return []

    return Reloading(present, store, check, follow)


def test_a_poller_is_held_against_its_own_configuration_not_against_anothers(
    store: ConfigurationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[Config | None] = []
    for name, practice in (("mine", "A"), ("theirs", "B"), ("mine", "A")):
        assert reloading(store, written(tmp_path, name, practice), seen).keep("ann", "start") is not None
    assert seen[:2] == [None, None]
    assert seen[2] is not None
    assert list(seen[2].practices) == ["A"]


def test_two_of_one_name_that_read_quite_other_practices_are_told_apart_at_the_start(
    store: ConfigurationStore, posts: list[Post], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    revision = reloading(store, written(tmp_path, "poller", "A"), []).keep("ann", "start")
    assert revision is not None
    posts[0].runs(revision)
    with pytest.raises(ConfigError, match=r"B\.yaml:1: name: engine host:1 runs on this store as poller too"):
        reloading(store, written(tmp_path, "poller", "B"), []).keep("ann", "start")
    assert store.in_force("poller").revision == revision, "and what is in force stays so"
    assert reloading(store, written(tmp_path, "other", "B"), []).keep("ann", "start") is not None
    both = "  B: {base_url: https://ehr.example/r4b, auth: none, feeds: {Patient: }}\n"
    grown = Written.of(CONFIG.format(name="poller", practice="A") + both, tmp_path / "A.yaml")
    assert reloading(store, grown, []).keep("ann", "start") is not None, "a new file on its way round the processes"


def test_two_of_one_name_that_start_at_the_same_moment_are_told_apart(
    engine: Engine, store: ConfigurationStore, posts: list[Post], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has looked for others before the other can be seen, unless one waits until the other is known."""
    monkeypatch.chdir(tmp_path)
    both, looked = threading.Barrier(2), ConfigurationStore.living

    def look(self: ConfigurationStore, name: str) -> list[Living]:
        found = looked(self, name)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(1)
        return found

    monkeypatch.setattr(ConfigurationStore, "living", look)

    def start(which: int) -> int | str | None:
        present = written(tmp_path, "poller", "AB"[which])
        try:
            return reloading(ConfigurationStore(engine), present, []).keep("ann", "start", posts[which].runs)
        except ConfigError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        outcomes = [*pool.map(start, range(2))]
    assert sorted(type(one).__name__ for one in outcomes) == ["int", "str"], outcomes
    (refused,) = (one for one in outcomes if isinstance(one, str))
    assert "runs on this store as poller too and reads none of these practices" in refused
    assert len(store.revisions(10)) == 1
