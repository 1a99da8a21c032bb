"""What a person reads when a command fails: our words and a code, and never another's words."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from poller import cli
from poller.errors import Code, ConfigError, Fenced, PollerError, StoreError


def ends_with(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception) -> tuple[int, str]:
    """Exit code and standard error of a command that ends so."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr("poller.output.guard", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError(["a:1: x", "a:2: y"]), 2, "poller: a:1: x\npoller: a:2: y [config-refused]\n"),
        (StoreError("no key", Code.STORE_KEY), 4, "poller: no key [store-key]\n"),
        (Fenced("two of them"), 5, "poller: two of them [broker-fenced]\n"),
        (PollerError(), 1, "poller: PollerError [failed]\n"),
    ],
)
def test_an_error_of_ours_says_its_code_behind_its_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: PollerError, code: int, said: str
) -> None:
    assert ends_with(monkeypatch, capsys, error) == (code, said)


def test_an_error_that_nobody_expected_says_where_and_none_of_its_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words may quote a resource, as a traceback would show them."""
    code, said = ends_with(monkeypatch, capsys, ValueError("Patient/secret-1"))
    assert code == 1
    assert said.startswith("poller: a defect: ValueError at ")
    assert "test_error_lines.py:fail:" in said
    assert said.endswith("please report this line [defect]\n")
    assert "secret" not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OperationalError("SELECT 'secret'", {}, Exception("secret")), "[store-ended]\n"),
        (
            psycopg.errors.AdminShutdown("secret"),
            "Postgres ended this (SQLSTATE 57P01); ask again, and see its log if that does not help [store-ended]\n",
        ),
        (
            psycopg.OperationalError("connection to secret failed"),
            "cannot be reached; see store.url, and whether it runs [store-unreachable]\n",
        ),
    ],
)
def test_postgres_that_ends_a_command_is_an_error_of_the_store(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, told: str
) -> None:
    code, said = ends_with(monkeypatch, capsys, error)
    assert code == 4
    assert said.endswith(told)
    assert "secret" not in said
