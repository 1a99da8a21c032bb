"""Guarantee 6, quiet: after faults, a crash and lost connections at log level debug, no outsider has seen a patient or a secret.

Planted patients bear a mark in every id (so in every URL and query) and in every word; tokens and the key are marks themselves.

Shown to fail, and shown again at every run: a poller that logs as most programs do (every library, every word) is found out by the same
search, and so is a Postgres that logs the statements that fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from tests.acceptance.story import MARK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.acceptance.story import Story


def leaks(text: str, markers: Sequence[str]) -> int:
    """How many of the marks stand in a text, whatever their case."""
    lowered = text.lower()
    return sum(marker.lower() in lowered for marker in markers)


def test_the_marks_were_there_to_be_seen(story: Story) -> None:
    assert len(story.tokens) >= 2
    assert sum(MARK in str(event) for event in story.full) > 6
    assert any(MARK in call.path for code in story.rig.world.practices for call in story.rig.world.calls(code)) or any(
        MARK in str(call.query) for code in story.rig.world.practices for call in story.rig.world.calls(code)
    )


def test_no_output_holds_a_mark(story: Story) -> None:
    assert '"level": "debug"' in story.output
    assert '"action": "call.failed"' in story.output
    assert "SQLSTATE 23514" in story.output, "Postgres has quoted a whole row to the poller"
    assert leaks(story.output, story.markers()) == 0


def test_a_chatty_poller_is_found_out(story: Story) -> None:
    assert leaks(story.chatter, story.markers()) > 0


def test_no_metric_and_no_process_list_holds_a_mark(story: Story) -> None:
    assert "poller_" in story.metrics
    assert '"store"' in story.metrics
    assert leaks(story.metrics, story.markers()) == 0
    assert "poller run" in story.processes
    assert leaks(story.processes, story.markers()) == 0


def test_no_trace_holds_a_mark(story: Story) -> None:
    for name in (b"poller.pass", b"poller.call", b"poller.commit", b"poller.publish", b"poller.failure"):
        assert name in story.traces
    assert leaks(story.traces.decode(errors="replace"), story.markers()) == 0


def test_no_core_file_is_ever_written(story: Story) -> None:
    """It would hold patients' data and keys."""
    line = next(line for line in story.limits.splitlines() if line.startswith("Max core file size"))
    assert line.split()[4:6] == ["0", "0"]


def test_postgres_logs_no_mark(story: Story) -> None:
    text = story.postgres_log.read_text()
    assert "terminating connection" in text, "it logs at all"
    assert "no_marks" in text, "also that a row was refused"
    assert leaks(text, story.markers()) == 0
    with psycopg.connect(story.rig.installation().store_conninfo, autocommit=True) as admin:
        admin.execute("SET log_min_error_statement = 'error'")
        try:
            admin.execute(f"SELECT '{MARK}' / 0")
        except psycopg.Error:
            text = story.postgres_log.read_text()
    assert leaks(text, story.markers()) > 0, "a statement in the log must be found out"
