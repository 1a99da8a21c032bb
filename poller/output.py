"""Standard output of a command: its reader may go, its disk may be full, and neither is worth a traceback."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from poller.errors import OutputError

UNREAD = 141
"""Exit code of a command whose reader has gone, as shells know it of one that SIGPIPE has ended."""


class _Output(io.FileIO):
    """A file from which on the first failure nothing more is expected: it is the null device then, so that no later flush fails, too."""

    def write(self, written: Any, /) -> int:
        """Write. Raises SystemExit where nobody reads, and OutputError."""
        try:
            return super().write(written)
        except BrokenPipeError:
            self._give_up()
            raise SystemExit(UNREAD) from None
        except OSError as error:
            self._give_up()
            why = os.strerror(error.errno) if error.errno else type(error).__name__
            raise OutputError(
                f"what was to be said could not be written: {why}; make room, or write elsewhere, and ask again"
            ) from None

    def _give_up(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def guard() -> None:
    """From now on standard output ends this process quietly when its reader has gone, and with one line when it cannot be written."""
    present = sys.stdout
    if not isinstance(present, io.TextIOWrapper):  # closed, or another's
        return
    present.flush()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(present.fileno(), "w", closefd=False)),
        encoding=present.encoding,
        errors=present.errors,
        line_buffering=present.line_buffering,
        write_through=present.write_through,
    )


def flush() -> None:
    """Write what is left, where failing can still be told."""
    if sys.stdout is not None:
        sys.stdout.flush()
