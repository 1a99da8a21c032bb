"""Compares an outside dump with the store, block by block: no call to the source, and no more memory for a larger dump."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from poller.config import PracticeConfig
from poller.config.least import is_withheld
from poller.core.dump import LONGEST, Dumped, Flaw, Outcome, compare, read_line
from poller.errors import ConfigError
from poller.store.verify import Verification

_RESOURCES = 1000
_BYTES = 8 * 1024 * 1024
"""A block ends with so many resources, or so many bytes."""

STDIN = "-"
_SHOWN_FLAWS = 100


@dataclass(frozen=True, slots=True)
class FlawedLine:
    """A line that cannot be read."""

    file: str
    line: int
    flaw: Flaw


@dataclass(slots=True)
class Reading:
    """How far the dump is read."""

    bytes: int = 0
    resources: int = 0
    flaws: Counter[Flaw] = field(default_factory=Counter)
    flawed: list[FlawedLine] = field(default_factory=list)
    """The first hundred of them."""

    def note(self, file: str, line: int, flaw: Flaw) -> None:
        """Count a line that cannot be read."""
        self.flaws[flaw] += 1
        if len(self.flawed) < _SHOWN_FLAWS:
            self.flawed.append(FlawedLine(file, line, flaw))


def files_of(source: str) -> list[Path]:
    """The files of a dump: of a directory its ``*.ndjson``. Empty for standard input. Raises ConfigError where there is none to read."""
    if source == STDIN:
        return []
    path = Path(source)
    if path.is_dir():
        found = sorted(path.glob("*.ndjson"))
        if not found:
            raise ConfigError([f"--against: {source} holds no *.ndjson"])
        return found
    if not path.exists():
        raise ConfigError([f"--against: there is no file {source}"])
    return [path]


def verify(
    source: str,
    verification: Verification,
    key: bytes,
    practice: PracticeConfig,
    tell: Callable[[Reading], None],
) -> tuple[Reading, dict[str, dict[Outcome, int]]]:
    """Compare a dump; how many resources stand how, by type, is counted. ``tell`` hears after each block how far it is.

    ``practice`` says what does not count: noise, what its feeds drop, and resources that they skip. Raises ConfigError for a file that
    cannot be read.
    """
    seen, noise = Reading(), practice.left_out
    for block in _blocks(source, seen):
        counting = [one for one in block.values() if not is_withheld(practice, one.resource_type, one.resource)]
        held = verification.held(counting, noise)
        verification.note(
            {one.key: compare(one, held.get(one.key), key, noise.get(one.resource_type, ())) for one in counting}
        )
        tell(seen)
    return seen, verification.end()


def _blocks(source: str, seen: Reading) -> Iterator[dict[tuple[str, str], Dumped]]:
    """The resources of all files; a block has no resource twice, the last line of one stays."""
    block: dict[tuple[str, str], Dumped] = {}
    began = 0
    for name, stream in _streams(source):
        for number, line in enumerate(_lines(stream, name), start=1):
            found = read_line(line) if len(line) <= LONGEST else Flaw.TOO_LONG
            seen.bytes += len(line)
            if isinstance(found, Flaw):
                seen.note(name, number, found)
            elif found is not None:
                seen.resources += 1
                block[found.key] = found
            if len(block) >= _RESOURCES or (block and seen.bytes - began >= _BYTES):
                yield block
                block, began = {}, seen.bytes
    if block:
        yield block


def _streams(source: str) -> Iterator[tuple[str, BinaryIO]]:
    """Each file with its name, which is told where a line of it cannot be read."""
    if source == STDIN:
        yield STDIN, sys.stdin.buffer
        return
    for path in files_of(source):
        try:
            stream = path.open("rb")
        except OSError as error:
            raise ConfigError([f"--against: {path} cannot be read ({error.strerror})"]) from None
        with stream:
            yield path.name, stream


def _lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines; of one that is too long only its beginning, which is too long as well."""
    try:
        while line := stream.readline(LONGEST + 1):
            rest = line
            while len(rest) > LONGEST and not rest.endswith(b"\n"):
                rest = stream.readline(LONGEST + 1)
            yield line
    except OSError as error:
        raise ConfigError([f"--against: {name} cannot be read ({error.strerror})"]) from None
