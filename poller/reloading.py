"""Takes up the configuration as it stands in its file: all of it or nothing, while everything runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from poller import metrics
from poller.config import Config, document, loader
from poller.config.difference import Difference, difference
from poller.config.salvage import NOTE, note_of
from poller.errors import ConfigError, NotFound, PollerError
from poller.store.configurations import ConfigurationStore

log = structlog.get_logger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks at whether the file has changed."""


@dataclass(frozen=True, slots=True)
class Written:
    """A configuration, and where and how it was written."""

    path: Path
    config: Config
    text: str
    """Without comments."""

    @classmethod
    def read(cls, path: Path, *, master_keys: bool = True) -> Written:
        """From the file. Raises ConfigError with all that is wrong. ``master_keys``: whether they must be at hand."""
        return cls.of(loader.text_of(path), path, master_keys=master_keys)

    @classmethod
    def of(cls, text: str, path: Path, *, master_keys: bool = True) -> Written:
        """From a text, as if it stood in the file. Raises ConfigError."""
        return cls(path, loader.load_text(text, path, master_keys=master_keys), document.without_comments(text))


Check = Callable[[Written, Config | None], Sequence[str]]
"""What else speaks against a configuration, a line each, given the one that was accepted before; called on a thread."""


class Reloading:
    """The configuration in force, and how another one takes its place."""

    def __init__(
        self,
        present: Written | None,
        store: ConfigurationStore,
        check: Check,
        follow: Callable[[Config, Difference], Awaitable[None]],
    ) -> None:
        """``present`` is None for an engine that was given no file. ``follow`` brings what runs in line, and must not fail halfway."""
        self._present = present
        self._store = store
        self._check = check
        self._follow = follow
        self._runs: Callable[[int], None] = lambda _: None

    def keep(self, actor: str, reason: str, runs: Callable[[int], None] = lambda _: None) -> int | None:
        """Keep what an engine starts with; returns its revision, of which ``runs`` is told: others see then that it runs by that.

        Raises ConfigError if something speaks against it.
        """
        if self._present is None:
            return None
        name = self._present.config.name
        with self._store.one_at_a_time(name):  # two that start together must see each other
            if refused := [*self._strangers(self._present), *self._check(self._present, self._accepted(self._present))]:
                raise ConfigError(refused)
            revision = self._store.accept(name, self._present.text, actor=actor, reason=reason)
            runs(revision)
            self._runs = runs
        metrics.CONFIG_REVISION.set(revision)
        _note(self._present.config)
        return revision

    def _accepted(self, present: Written) -> Config | None:
        """What was accepted last by this name, if it can still be read: a file that it names may be gone."""
        try:
            return Written.of(self._store.in_force(present.config.name).written, present.path).config
        except (NotFound, ConfigError):
            return None

    def _strangers(self, present: Written) -> list[str]:
        """Refuse to share a name with who reads quite other practices: each would fall back on the other's configuration."""
        line = document.line_of(present.text, "name")
        return [
            f"{present.path}:{line}: name: engine {other.engine} runs on this store as {present.config.name} too and reads none of these"
            " practices; give this poller a name of its own"
            for other in self._store.living(present.config.name)
            if document.keys_of(other.written, "practices").isdisjoint(present.config.practices)
        ]

    async def reload(self, actor: str, reason: str) -> Mapping[str, Any]:
        """Read the file and follow it. Raises ConfigError with everything that is wrong, and then nothing has changed."""
        if self._present is None:
            raise PollerError("this engine was started without a configuration file, so there is none to read")
        try:
            following, found = await asyncio.to_thread(self._read, self._present)
        except ConfigError as error:
            metrics.CONFIG_REFUSED.set(1)
            say = log.bind(problems=error.problems)
            say.error("the configuration is refused; the former one stays in force", action="config.refuse")
            raise
        revision = await asyncio.to_thread(
            self._store.accept, following.config.name, following.text, actor=actor, reason=reason
        )
        self._present = following
        await self._follow(following.config, found)
        await asyncio.to_thread(_note, following.config)
        metrics.CONFIG_REVISION.set(revision)
        metrics.CONFIG_REFUSED.set(0)
        await asyncio.to_thread(self._runs, revision)  # not before: what this says that we have, others rely on
        lines = found.lines()
        log.info("the configuration is taken up", action="config.reload", revision=revision, changes=len(lines))
        return {"revision": revision, "lines": lines}

    def _read(self, present: Written) -> tuple[Written, Difference]:
        following = Written.read(present.path)
        found = difference(present.config, following.config)
        if refused := [*_needs_restart(found, following), *self._check(following, present.config)]:
            raise ConfigError(refused)
        return following, found

    async def watch(self, changed: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        """Tell of each change of the file, as long as the configuration wants that, until ``stop``.

        A change is told when the file has stayed as it is for a look, lest one be read that is half written.
        """
        if self._present is None:
            return
        told = seen = await asyncio.to_thread(_state, self._present.path)
        while not stop.is_set():
            before, seen = seen, await asyncio.to_thread(_state, self._present.path)
            if seen != told and seen == before:
                told = seen
                if self._present.config.reload.watch:
                    await changed()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_EVERY)


def _needs_restart(found: Difference, following: Written) -> list[str]:
    return [
        f"{following.path}:{document.line_of(following.text, change.key)}: {change} can only be changed by a restart of the"
        " process; put the former value back, or restart it"
        for change in found.needs_restart
    ]


def _state(path: Path) -> tuple[int, int, int] | None:
    """What a file is known by; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _note(config: Config) -> None:
    """Note where the store is, for the day on which the file does not say it."""
    path = config.data_dir / NOTE
    new = path.with_name(f"{NOTE}.{os.getpid()}")
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.write_text(note_of(config), encoding="utf-8")
        new.replace(path)
    except OSError as error:
        log.warning("where the store is could not be noted", action="config.note", error=type(error).__name__)
