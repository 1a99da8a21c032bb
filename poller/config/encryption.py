"""Master keys: where each is, and how it is read. What they wrap, and what that seals, :mod:`poller.store.vault` knows."""

from __future__ import annotations

import base64
import binascii
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from poller.config.secret import Secret, Surroundings
from poller.config.section import Section
from poller.config.values import Word
from poller.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_BYTES: Final = 32
_TIMEOUT: Final = 30
"""Seconds that a command may take."""
_PLACES: Final = (
    "write one of {name: k1, file: path}, {name: k1, env: NAME} and {name: k1, command: [program, argument]}"
)
_UNFIT: Final = (
    f"holds no key of {KEY_BYTES} bytes in base64 or hexadecimal; make one with `openssl rand -base64 {KEY_BYTES}`"
)


class MasterKey(Secret):
    """A master key's name and its place. Holds no key, so it may be logged."""

    name: Word = Field(examples=["k2026"])
    """What the database knows it by."""
    command: tuple[str, ...] | None = Field(default=None, examples=["[/usr/local/bin/master-key, k2026]"], repr=False)
    """A program that writes it to its standard output, with its arguments."""

    @field_validator("command")
    @classmethod
    def _names_a_program(cls, command: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if command is not None and (not command or not command[0].strip() or any("\x00" in one for one in command)):
            raise ValueError(
                "not a command; write a program and its arguments, as in [/usr/local/bin/master-key, k2026]"
            )
        return command

    @model_validator(mode="after")
    def _is_one_place(self, info: ValidationInfo) -> Self:
        if sum(place is not None for place in (self.env, self.file, self.command)) != 1:
            raise ValueError(f"a master key has exactly one place; {_PLACES}")
        around: Surroundings | None = info.context
        if around is None or not around["master_keys"]:
            return self
        if (problem := self.problem(around["environment"])) is not None:
            raise ValueError(problem)
        return self

    def problem(self, environment: Mapping[str, str]) -> str | None:
        """As of any secret, and whether it is a key; a command is not run for that."""
        if self.command is not None:
            return None
        if (problem := super().problem(environment)) is not None:
            return problem
        text = environment[self.env] if self.env is not None else (self.file or Path()).read_text("utf-8")
        return f"{self.place} {_UNFIT}" if _key_of(text) is None else None

    @property
    def place(self) -> str:
        """Where it is, for a person. Of a command only the program: arguments may be secrets of their own."""
        if self.command is not None:
            return f"the command {self.command[0]}"
        return f"the environment variable {self.env}" if self.env is not None else str(self.file)

    def key(self) -> bytes:
        """The key. ConfigError, which never shows it or what a command wrote, if it cannot be had or is none."""
        try:
            text = self._run(self.command) if self.command is not None else self.read()
        except ConfigError as error:
            raise ConfigError([f"encryption.keys: {self.name}: {problem}" for problem in error.problems]) from None
        found = _key_of(text)
        if found is None:
            raise ConfigError([f"encryption.keys: {self.name}: {self.place} {_UNFIT}"])
        return found

    def _run(self, command: tuple[str, ...]) -> str:
        try:
            run = subprocess.run(  # noqa: S603 - the operator's own words
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_TIMEOUT,
                check=False,
                env=os.environ,
            )
        except subprocess.TimeoutExpired:
            raise ConfigError([f"{self.place} took longer than {_TIMEOUT} s; run it by hand as this user"]) from None
        except (OSError, ValueError) as error:
            why = type(error).__name__
            raise ConfigError([f"{self.place} cannot be run ({why}); name a program that this user may run"]) from None
        if run.returncode != 0:
            raise ConfigError([f"{self.place} ended with code {run.returncode}; run it by hand as this user"])
        return run.stdout.decode("ascii", "replace")


def _key_of(text: str) -> bytes | None:
    """The key that a text holds, None if it holds none."""
    written = "".join(text.split())
    if len(written) == 2 * KEY_BYTES:
        try:
            return bytes.fromhex(written)
        except ValueError:
            return None
    try:
        key = base64.b64decode(written.rstrip("=") + "=", altchars=None, validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_BYTES else None


class EncryptionConfig(Section):
    """How stored bodies are encrypted; not at all without keys."""

    keys: tuple[MasterKey, ...] = Field(default=(), examples=["[{name: k2026, file: /etc/poller/k2026}]"])
    """The first wraps the practices' keys, the others only unwrap what they have wrapped before."""

    @field_validator("keys")
    @classmethod
    def _have_names_of_their_own(cls, keys: tuple[MasterKey, ...]) -> tuple[MasterKey, ...]:
        names = [key.name for key in keys]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two keys are called {name}; give each a name of its own, and never use one again")
        return keys
