"""Master keys: where they may be, what is said of one that is none, and that nobody ever shows one."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from poller import config
from poller.config.difference import difference
from poller.config.encryption import EncryptionConfig, MasterKey
from poller.errors import ConfigError

KEY = bytes(range(100, 132))
BASE64, HEX = base64.b64encode(KEY).decode(), KEY.hex()
CONFIG = """
encryption: {keys: ENCRYPTION}
sinks: {changes: {exchange: fhir.changes, queues: [fhir.changes.all]}}
practices: {AB: {base_url: "https://ehr.example/AB", auth: none, feeds: {Patient: }}}
"""


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("text", [BASE64, HEX, HEX.upper(), BASE64.rstrip("="), f"{BASE64}\n", f"  {HEX}\r\n"])
def test_a_key_is_32_bytes_in_base64_or_hexadecimal(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER", text)
    file = write(tmp_path / "key", text)
    echo = (sys.executable, "-c", f"print({text!r})")
    for place in (MasterKey(name="k", env="MASTER"), MasterKey(name="k", file=file), MasterKey(name="k", command=echo)):
        assert place.key() == KEY


@pytest.mark.parametrize(
    "text", ["", "secret", HEX[:-2], HEX + "00", BASE64[:-4], base64.b64encode(KEY * 2).decode(), "é" * 32]
)
def test_what_is_no_key_is_named_by_its_place_and_never_shown(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER", text or " ")
    file = write(tmp_path / "master", text)
    echo = (sys.executable, "-c", f"import sys; sys.stdout.buffer.write({text.encode()!r})")
    for key, place in (
        (MasterKey(name="k1", env="MASTER"), "the environment variable MASTER"),
        (MasterKey(name="k1", file=file), str(file)),
        (MasterKey(name="k1", command=echo), f"the command {sys.executable}"),
    ):
        with pytest.raises(ConfigError) as refused:
            key.key()
        (problem,) = refused.value.problems
        assert problem.startswith(f"encryption.keys: k1: {place} ")
        assert "32 bytes" in problem
        assert "openssl rand -base64 32" in problem
        assert not text or text not in problem


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            (sys.executable, "-c", f"import sys; print('{HEX}'); print('{BASE64}', file=sys.stderr); sys.exit(3)"),
            "ended with code 3",
        ),
        (("/nowhere/at/all", HEX), "cannot be run (FileNotFoundError)"),
    ],
)
def test_a_command_that_fails_is_said_to_have_and_nothing_that_it_wrote_or_was_given(
    command: tuple[str, ...], said: str
) -> None:
    key = MasterKey(name="k1", command=command)
    with pytest.raises(ConfigError, match=r"encryption\.keys: k1: the command") as refused:
        key.key()
    assert said in str(refused.value)
    assert HEX not in str(refused.value)
    assert BASE64 not in str(refused.value)


def test_a_key_has_one_place_and_a_name_of_its_own() -> None:
    for places in ({}, {"env": "A", "command": ("b",)}, {"command": ()}, {"command": (" ",)}):
        with pytest.raises(ValidationError):
            MasterKey.model_validate({"name": "k1", **places})
    with pytest.raises(ValidationError, match="two keys are called k1"):
        EncryptionConfig(keys=(MasterKey(name="k1", env="A"), MasterKey(name="k1", env="B")))


def test_a_file_names_keys_and_is_refused_at_once_for_one_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLD", HEX)
    write(tmp_path / "k2026", BASE64)
    file = tmp_path / "poller.yaml"
    file.write_text(
        CONFIG.replace(
            "ENCRYPTION", "[{name: k2026, file: k2026}, {name: k2025, env: OLD}, {name: k1, command: [echo, x]}]"
        )
    )
    loaded = config.load(file)
    assert [key.name for key in loaded.encryption.keys] == ["k2026", "k2025", "k1"]
    assert loaded.encryption.keys[0].key() == loaded.encryption.keys[1].key() == KEY
    write(tmp_path / "k2026", BASE64[4:])
    with pytest.raises(ConfigError) as refused:
        config.load(file)
    assert [
        problem for problem in refused.value.problems if "k2026 holds no key of 32 bytes" in problem
    ] == refused.value.problems
    assert BASE64[4:] not in str(refused.value)
    write(tmp_path / "k2026", BASE64, 0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        config.load(file)


def test_no_keys_are_the_default_and_a_change_of_them_needs_no_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLD", HEX)
    file = tmp_path / "poller.yaml"
    file.write_text(CONFIG.replace("encryption: {keys: ENCRYPTION}\n", ""))
    without = config.load(file)
    assert without.encryption.keys == ()
    file.write_text(CONFIG.replace("ENCRYPTION", "[{name: k2025, env: OLD}, {name: k1, command: [echo, argument]}]"))
    found = difference(without, config.load(file))
    assert found.needs_restart == ()
    assert [str(change) for change in found.other] == [
        "encryption.keys: [] → [k2025 in the environment variable OLD, k1 in the command echo]"
    ]
