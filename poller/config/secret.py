"""Secrets: named in the configuration, never written in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from poller import keys
from poller.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

HINT: Final = "write {env: NAME} or {file: path}"
IN_DATA_DIR: Final = "$data_dir/"
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OTHERS: Final = 0o077


class Surroundings(TypedDict):
    """What a secret's place depends on; the context of validation while a file is loaded."""

    beside: Path
    """Where relative paths begin: the directory of the YAML file."""
    data_dir: Path
    environment: Mapping[str, str]
    master_keys: bool
    """Whether they must be at hand."""
    usable: dict[Secret, str | None]
    """Why a key cannot be used, of each that was looked at: practices often share one, and looking takes a while."""


class Secret(BaseModel):
    """Where a secret is: exactly one of an environment variable and a file. Holds no secret, so it may be logged."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    env: str | None = Field(default=None, examples=["POLLER_PASSWORD"])
    file: Path | None = Field(default=None, examples=["/etc/poller/key.pem"])

    @field_validator("env")
    @classmethod
    def _names_a_variable(cls, env: str | None) -> str | None:
        if env is not None and not _ENV_NAME.fullmatch(env):
            raise ValueError("not the name of an environment variable; write for example {env: POLLER_PASSWORD}")
        return env

    @field_validator("file", mode="before")
    @classmethod
    def _stands_somewhere(cls, file: object, info: ValidationInfo) -> object:
        """Relative paths begin beside the YAML file; ``$data_dir/`` begins in the data directory."""
        if not isinstance(file, str):
            return file
        if not file.strip() or not file.isprintable():
            raise ValueError("not a path; write for example {file: /etc/poller/key.pem}")
        around: Surroundings | None = info.context
        if around is None:
            return Path(file)
        if file.startswith(IN_DATA_DIR):
            return around["data_dir"] / file.removeprefix(IN_DATA_DIR)
        return around["beside"] / file

    @model_validator(mode="after")
    def _is_one_place(self, info: ValidationInfo) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError(f"a secret has exactly one place; {HINT}")
        around: Surroundings | None = info.context
        if around is not None and (problem := self.problem(around["environment"])) is not None:
            raise ValueError(problem)
        return self

    def problem(self, environment: Mapping[str, str]) -> str | None:
        """Why it cannot be read now, and what to do; None if it can. Never the secret."""
        if self.env is not None:
            return None if environment.get(self.env) else f"the environment variable {self.env} is not set; set it"
        path = _near(self.file or Path())
        try:
            mode = path.stat().st_mode
            if not path.is_file():
                return f"{path} is not a file; name the file that holds the secret"
            if mode & _OTHERS:
                return f"{path} can be read by others; run: chmod 600 {path}"
            path.read_text("utf-8")
        except FileNotFoundError:
            is_key = path.suffix == ".pem"
            remedy = f"make one with `poller keys new --out {path}`" if is_key else "put the secret there"
            return f"there is no file {path}; {remedy}"
        except (OSError, ValueError) as error:
            return f"{path} cannot be read ({type(error).__name__}); make it readable for this user, in UTF-8"
        return None

    def read(self) -> str:
        """The secret, without line ends after it. ConfigError if it is not there any more."""
        if (problem := self.problem(os.environ)) is not None:
            raise ConfigError([problem])
        text = os.environ[self.env] if self.env is not None else (self.file or Path()).read_text("utf-8")
        return text.rstrip("\r\n")


def _near(path: Path) -> Path:
    """As a person would name it from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def check_private_key(secret: Secret, info: ValidationInfo) -> Secret:
    """A key that can sign RS384; looked at only while a file is loaded."""
    around: Surroundings | None = info.context
    if around is None:
        return secret
    usable = around["usable"]
    if secret not in usable:
        usable[secret] = _refusal(secret)
    if (refusal := usable[secret]) is not None:
        raise ValueError(refusal)
    return secret


def _refusal(secret: Secret) -> str | None:
    try:
        keys.load_private_key(secret.read())
    except ConfigError as error:
        return "; ".join(error.problems)
    return None
