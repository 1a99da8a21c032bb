"""A roster is read line by line: what is broken is told by its line and costs no other."""

from __future__ import annotations

import csv
import io
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from poller.core import roster
from poller.core.roster import Entry, Listed, Tally, Unread

ID = st.text(string.ascii_letters + string.digits + "-.", min_size=1, max_size=64).filter(
    lambda text: text.strip(".") and any(map(str.isdigit, text))
)
ADORNED = st.builds("{}{}".format, st.sampled_from(["", "Patient/", "https://ehr.example/r4/ABC/Patient/"]), ID)


def read(data: bytes) -> list[Entry]:
    return list(roster.read(io.BytesIO(data)))


def ids(data: bytes) -> list[str]:
    return [entry.id if isinstance(entry, Listed) else str(entry) for entry in read(data)]


def bare(said: str) -> str:
    return said.rpartition("/")[2]


@given(
    said=st.lists(ADORNED, max_size=20),
    other=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), max_size=30),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    delimiter=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    place=st.integers(0, 2),
)
def test_what_is_written_as_csv_is_read(
    said: list[str], other: str, quoting: int, delimiter: str, end: str, bom: bool, place: int
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    rows = [["name", "born"], *([other, ""] for _ in said)]
    for row, cell in zip(rows, ["Id", *said], strict=True):
        writer.writerow([*row[:place], cell, *row[place:]])
    data = (b"\xef\xbb\xbf" if bom else b"") + out.getvalue().encode()
    assert ids(data) == [bare(cell) for cell in said]


@given(
    said=st.lists(st.tuples(ADORNED, st.sampled_from(["id", "reference", "Patient", "text"])), min_size=1, max_size=20),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    bom=st.booleans(),
)
def test_what_is_written_as_ndjson_is_read(said: list[tuple[str, str]], end: str, bom: bool) -> None:
    shapes = {
        "id": '{"id": "%s"}',
        "reference": '{"type": "Patient", "reference": "%s"}',
        "Patient": '{"resourceType": "Patient", "meta": {"id": "no"}, "id": "%s"}',
        "text": '"%s"',
    }
    lines = ['{"id": "first1"}', *(shapes[shape] % text for text, shape in said)]
    data = (b"\xef\xbb\xbf" if bom else b"") + end.join(lines).encode()
    assert ids(data) == ["first1", *(bare(text) for text, _ in said)]


LINES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [b"id", b"id,name", b'"', b'a1,"b', b'c"1', b"{", b'{"id": "a1"}', b"[", b"\xff\xfe", b"a1", b""]
        ),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"]))
@example([b'"', b""] * 200, b"\n")
@example([b"\xff\xfei\x00d\x00", b"\x00a\x00"], b"\n")
@example([b"{" * 5000, b'{"a":' * 5000], b"\n")
@example([b'{"id": 1e999999}', b'{"id": NaN}', b'{"id": null}', b'{"id": "\\ud800"}'], b"\n")
@example([b"id", b'"' + b"a" * 200_000 + b'"'], b"\n")
def test_any_bytes_are_read_or_told_by_their_line(lines: list[bytes], end: bytes) -> None:
    data = end.join(lines)
    entries, tally = read(data), Tally()
    count = len(data.split(b"\n"))
    numbers = [entry.line for entry in entries]
    assert numbers == sorted(set(numbers)), "each line at most once, in order"
    assert all(1 <= number <= count for number in numbers)
    for entry in entries:
        tally.add(entry)
        if isinstance(entry, Listed):
            assert roster.patient_id(entry.id) == entry.id
    assert tally.listed + tally.unread == len(entries)
    assert (tally.refusal is None) == (tally.listed > 0 and tally.unread * 10 <= len(entries))


@settings(max_examples=50)
@given(st.lists(ID, min_size=1, max_size=20, unique=True), st.data())
def test_a_broken_line_costs_no_other(said: list[str], data: st.DataObject) -> None:
    broken = data.draw(
        st.lists(
            st.sampled_from(
                ['?,"y', '"', 'a "b', "\x00", "a,b,c,d", "two words", '"?'],
            ),
            max_size=5,
        )
    )
    lines = data.draw(st.permutations([*((text, True) for text in said), *((text, False) for text in broken)]))
    text = "\n".join(["id,name", *(f"{text}{',n' if whole else ''}" for text, whole in lines)])
    entries = read(text.encode())
    listed = [(entry.line, entry.id) for entry in entries if isinstance(entry, Listed)]
    assert listed == [(n, text) for n, (text, whole) in enumerate(lines, 2) if whole]
    if len(broken) == 1:  # two that leave a quote open may be one record
        unread = [entry.line for entry in entries if isinstance(entry, Unread)]
        assert unread == [n for n, (_, whole) in enumerate(lines, 2) if not whole]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id\na1\n\n  \nb2", ["a1", "b2"]),
        ("a1\nb2", ["a1", "b2"]),
        ("the patients\na1", ["a1"]),
        ("Patient/a1", ["a1"]),
        ('"id"\n"a1"\n" b2 "', ["a1", "b2"]),
        ('name;id\n"Aho; ""A""\nof X";a1\n;b2', ["a1", "b2"]),
        ('id,name\na1,"x\nb2,y\nc3,"z\nof Z"', [f"line 2: {roster._NOT_CSV}", "b2", "c3"]),
        ("id,name,\na1,x,\nb2\n,,\n", ["a1", "b2"]),
        ("id\nhttps://h/r4/AB/Patient/a1/_history/3\nPatient/b2/_history/1", ["a1", "b2"]),
        ("id\n# a comment\na1", ["line 2: " + roster._ODD_ID, "a1"]),
        ("id\nEncounter/1\nurn:uuid:1\n..\nPatient/\nPatient/..", [f"line {n}: {roster._ODD_ID}" for n in range(2, 7)]),
        ("name,mrn\nx,1", ["line 1: no column id in the header; name the one with the patients' ids so"]),
        ("name,id\nx,", ["line 2: no id"]),
        ("name,id\nx", ["line 2: no id"]),
        ("id,name\na1,Aho, A", ["line 2: more cells than the header has columns"]),
        ("id\ra1\rb2", ["line 1: the header is not CSV: a quote that is never closed, or where none may be"]),
        ("[\n{}]", ["line 1: a JSON array; write one object a line, with no commas between"]),
        ('{"id": 7}', ["line 1: the id is not a text"]),
        ('{"resourceType": "Group", "id": "a1"}', ["line 1: a resource of another type than Patient"]),
        ('{"id": "a1"}\nb2\n[]\n{}', ["a1", "line 2: not JSON", "line 3: the id is not a text", "line 4: no id"]),
        ("", []),
    ],
)
def test_what_is_read_of(text: str, expected: list[str]) -> None:
    assert ids(text.encode()) == expected


def test_a_file_in_utf_16_is_told_once() -> None:
    assert ids("id\na1\nb2".encode("utf-16")) == ["line 1: the file is UTF-16; save it as UTF-8"]


def test_a_line_without_end_is_not_read() -> None:
    long = b"x" * (roster.LONGEST + 1)
    assert [str(entry) for entry in roster.read([b"id\n", long, b"a1\n"]) if isinstance(entry, Unread)] == [
        "line 2: longer than 16 MB"
    ]


def test_one_line_in_ten_may_be_broken_and_no_more() -> None:
    tally = Tally()
    for entry in read(b"id\n" + b"".join(b"a%d\n" % n for n in range(9)) + b"!?\n"):
        tally.add(entry)
    assert tally.refusal is None
    assert tally.trouble == f"1 of 10 lines cannot be read, the first: line 11: {roster._ODD_ID}"
    tally.add(Unread(12, "no id"))
    assert tally.refusal is not None
    assert tally.refusal.startswith("refused: 2 of 11 lines cannot be read, the first: line 11")
    assert Tally().refusal == "refused: it lists nobody"


def test_who_is_listed_twice_is_told() -> None:
    tally = Tally()
    for entry in read(b"id\na1\nb2\nPatient/a1\nb2\na1"):
        tally.add(entry)
    assert (tally.listed, tally.patients, tally.repeated, tally.first_repeated) == (5, 2, 3, [4, 5, 6])
    assert tally.trouble is None
