"""What commands take as text."""

from __future__ import annotations

import pytest
import typer

from poller.commands.options import a_text


@pytest.mark.parametrize("value", ["bad\udcff", "a\x00b"])
def test_what_no_database_takes_as_text_is_refused(value: str) -> None:
    with pytest.raises(typer.BadParameter, match="write UTF-8 without NUL"):
        a_text(value)


def test_text_stays_as_it_is() -> None:
    assert a_text("their server is moved, até já") == "their server is moved, até já"
