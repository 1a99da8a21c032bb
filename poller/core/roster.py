"""A roster: a file that lists a practice's patients, as CSV or NDJSON. Pure: lines in, ids and errors out.

A broken line costs itself and no other; a file with many of them is not the list it should be and is refused whole. No text here quotes a
line: it may name a patient.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from poller.core import jsontext
from poller.core.pages import is_usable_id

LONGEST = 16_000_000
"""Bytes of one line. A Patient resource with a photograph fits; a file without line ends is not held in memory."""

MOST_UNREAD = 0.1
"""More of the lines unread, and the roster is refused."""

_TOLD = 10
"""So many lines are named, of each kind of trouble."""

_RECORD_LINES = 50
"""A CSV record may be spread over so many lines by line breaks within quotes; a quote open for longer was never meant to be one."""

_DELIMITERS = ",;\t"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Listed:
    """A patient, and where in the file."""

    line: int
    """From 1."""
    id: str


@dataclass(frozen=True, slots=True)
class Unread:
    """A line that names no patient, and why; never what it holds."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


Entry = Listed | Unread

_NO_ID = "no id"
_NOT_CSV = "not CSV: a quote that is never closed, or where none may be"
_ODD_ID = "not an id as FHIR knows them, alone or in a reference to a Patient"


def read(lines: Iterable[bytes]) -> Iterator[Entry]:
    """What a roster says, line by line and in its order.

    ``lines`` end with a line feed each, as a file opened for bytes gives them; of one longer than :data:`LONGEST` a beginning longer than
    that will do. A first line that begins with ``{`` makes it NDJSON: objects with an ``id`` or a ``reference``, or Patient resources. Else
    it is CSV: the column ``id``, or the only column there is. Blank lines count for nothing.
    """
    source = _Lines(lines)
    first = source.take_filled()
    if isinstance(first, Unread):
        yield first
        if first.reason == _IN_UTF_16:
            return
        first = source.take_filled()
    while isinstance(first, Unread):
        yield first
        first = source.take_filled()
    if first is None:
        return
    source.put_back([first])
    beginning = first[1].lstrip()[:1]
    if beginning == "[":
        yield Unread(first[0], "a JSON array; write one object a line, with no commas between")
    elif beginning == "{":
        yield from _ndjson(source)
    else:
        yield from _csv(source)


def patient_id(text: str) -> str | None:
    """The logical id in ``ID``, ``Patient/ID`` or a URL that ends with ``Patient/ID``; None if there is none that can be asked for."""
    text = text.strip()
    if "/" in text:
        return reference_id(text)
    return text if _is_id(text) and not text.lower().startswith("urn:") else None


def reference_id(text: str) -> str | None:
    """The logical id in a reference to a Patient, relative or a URL, of a version or not (FHIR R4 §2.3.0.1); None for other texts."""
    segments = text.strip().split("/")
    if segments[-2:-1] == ["_history"]:
        segments = segments[:-2]
    if segments[-2:-1] != ["Patient"]:
        return None
    return segments[-1] if _is_id(segments[-1]) else None


def _is_id(text: str) -> bool:
    """Whether it can be asked for: a path of dots leads elsewhere, and a comma parts two values of a search (FHIR R4 §3.1.1.4.3)."""
    return is_usable_id(text) and bool(text.strip(".")) and "," not in text


_IN_UTF_16 = "the file is UTF-16; save it as UTF-8"

_Line = tuple[int, str]


class _Lines:
    """Numbered lines as text, some of which may be put back."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = enumerate(lines, 1)
        self._back: deque[_Line | Unread] = deque()

    def take(self) -> _Line | Unread | None:
        """The next line without its end; None after the last."""
        if self._back:
            return self._back.popleft()
        number, line = next(self._lines, (0, b""))
        if not number:
            return None
        if number == 1:
            if line.startswith(_UTF_16):
                return Unread(1, _IN_UTF_16)
            line = line.removeprefix(_BOM)
        if len(line) > LONGEST:
            return Unread(number, f"longer than {LONGEST // 1_000_000} MB")
        try:
            return number, line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            return Unread(number, "not UTF-8")

    def take_filled(self) -> _Line | Unread | None:
        """The next line that is not blank."""
        while True:
            line = self.take()
            if line is None or isinstance(line, Unread) or line[1].strip():
                return line

    def put_back(self, lines: Iterable[_Line | Unread]) -> None:
        """Have these, in this order, taken again."""
        self._back.extendleft(reversed(list(lines)))


def _ndjson(source: _Lines) -> Iterator[Entry]:
    while (line := source.take_filled()) is not None:
        yield line if isinstance(line, Unread) else _object(*line)


def _object(number: int, text: str) -> Entry:
    try:
        value = jsontext.loads(text)
    except ValueError:
        return Unread(number, "not JSON")
    if isinstance(value, dict):
        if value.get("resourceType", "Patient") != "Patient":
            return Unread(number, "a resource of another type than Patient")
        value = value.get("id", value.get("reference"))
        if value is None:
            return Unread(number, _NO_ID)
    return _entry(number, value) if isinstance(value, str) else Unread(number, "the id is not a text")


def _entry(number: int, said: str) -> Entry:
    if not said.strip():
        return Unread(number, _NO_ID)
    found = patient_id(said)
    return Listed(number, found) if found is not None else Unread(number, _ODD_ID)


def _csv(source: _Lines) -> Iterator[Entry]:
    head = source.take_filled()
    if head is None or isinstance(head, Unread):
        return
    delimiter = max(_DELIMITERS, key=head[1].count)
    header = _cells_of([head[1]], delimiter)
    if not header:
        yield Unread(head[0], f"the header is {_NOT_CSV}")
        return
    names = [name.strip().lower() for name in header]
    if "id" not in names and len(names) > 1:
        yield Unread(head[0], "no column id in the header; name the one with the patients' ids so")
        return
    table = _Table(source, delimiter, names.index("id") if "id" in names else 0, len(names))
    if _has_digit(names[table.column]):
        yield _entry(head[0], header[table.column])
    yield from table.entries()


@dataclass(frozen=True, slots=True)
class _Table:
    """The records below a CSV header."""

    source: _Lines
    delimiter: str
    column: int
    """Where the ids stand."""
    columns: int

    def entries(self) -> Iterator[Entry]:
        while (line := self.source.take_filled()) is not None:
            if isinstance(line, Unread):
                yield line
            elif (entry := self._record(*line)) is not None:
                yield entry

    def _record(self, number: int, text: str) -> Entry | None:
        """The record that begins with this line; None if all of its cells are empty. One that is broken takes no other line with it."""
        cells = _cells_of([text], self.delimiter)
        lines = [text]
        more: list[_Line | Unread] = []
        while cells == [] and len(lines) < _RECORD_LINES and (following := self.source.take()) is not None:
            more.append(following)
            if isinstance(following, Unread):
                break
            lines.append(following[1])
            cells = _cells_of(lines, self.delimiter) if '"' in following[1] else []
            hidden = self._named_by(following[1])
            if hidden is not None and not (cells and self._entry(number, cells) == Listed(number, hidden)):
                cells = None
        if cells:
            return self._entry(number, cells)
        self.source.put_back(more)
        return Unread(number, _NOT_CSV)

    def _named_by(self, text: str) -> str | None:
        """The id of a line that is a record by itself. A quote that was open before it may have been left open by mistake."""
        cells = _cells_of([text], self.delimiter)
        entry = self._entry(0, cells) if cells else None
        return entry.id if isinstance(entry, Listed) and _has_digit(entry.id) else None

    def _entry(self, number: int, cells: list[str]) -> Entry | None:
        if not any(cell.strip() for cell in cells):
            return None
        if any(cell.strip() for cell in cells[self.columns :]):
            # So the id may stand in another column than its own.
            return Unread(number, "more cells than the header has columns")
        return _entry(number, cells[self.column]) if self.column < len(cells) else Unread(number, _NO_ID)


def _has_digit(text: str) -> bool:
    """What tells an id from a word: ids without a digit are not seen, headings with one hardly are."""
    return any(character.isdigit() for character in text)


def _cells_of(lines: list[str], delimiter: str) -> list[str] | None:
    """The cells of a record spread over these lines (RFC 4180 §2); none if a quote is still open, None if they are no record at all."""
    if len(lines) == 1 and '"' not in lines[0] and "\r" not in lines[0]:
        return lines[0].split(delimiter)
    is_open = False

    def feed() -> Iterator[str]:
        nonlocal is_open
        for line in lines:
            yield f"{line}\n"
        is_open = True  # only a record that has not ended asks for more

    try:
        return next(csv.reader(feed(), delimiter=delimiter, strict=True))
    except (csv.Error, StopIteration):
        return [] if is_open else None


@dataclass(slots=True)
class Tally:
    """What a whole roster comes to."""

    listed: int = 0
    """Lines that name a patient, each time for one named twice."""
    unread: int = 0
    repeated: int = 0
    first_unread: list[Unread] = field(default_factory=list)
    first_repeated: list[int] = field(default_factory=list)
    """Lines."""
    _seen: set[int] = field(default_factory=set, repr=False)

    def add(self, entry: Entry) -> None:
        """Count one more."""
        if isinstance(entry, Unread):
            self.unread += 1
            if len(self.first_unread) < _TOLD:
                self.first_unread.append(entry)
            return
        self.listed += 1
        known = len(self._seen)
        # Not the ids, which are many: two of a million share 64 bits once in ten million files, and then a word too much is said.
        self._seen.add(hash(entry.id))
        if len(self._seen) == known:
            self.repeated += 1
            if len(self.first_repeated) < _TOLD:
                self.first_repeated.append(entry.line)

    @property
    def patients(self) -> int:
        """How many different patients."""
        return self.listed - self.repeated

    @property
    def refusal(self) -> str | None:
        """Why nothing of it is taken; None if what could be read is."""
        if self.unread > MOST_UNREAD * (self.listed + self.unread):
            return f"refused: {self.trouble}"
        return None if self.listed else "refused: it lists nobody"

    @property
    def trouble(self) -> str | None:
        """What could not be read, with the first line; None if everything was."""
        if not self.unread:
            return None
        lines = self.listed + self.unread
        return f"{self.unread} of {lines} lines cannot be read, the first: {self.first_unread[0]}"
