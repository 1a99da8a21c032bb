"""What commands take as text."""

from __future__ import annotations

import pytest
import typer

from poller.commands.options import a_text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("bad\udcff", r"not UTF-8 \(character 4\); write it as UTF-8"),
        *(
            (f"ab{letter}", rf"U\+{ord(letter):04X}, character 3\); write one line")
            for letter in "\x00\x1b\n\x7f\x9b\u2028\u202e\u2066"
        ),
    ],
)
def test_what_no_database_takes_as_text_or_a_terminal_obeys_is_refused(value: str, said: str) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        a_text(value)


def test_text_stays_as_it_is() -> None:
    assert a_text("their server is moved, até já") == "their server is moved, até já"
