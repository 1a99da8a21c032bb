"""Guarantee 6, the logs' part: whatever is thrown at a logger, no URL, id, token or foreign exception text comes out."""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from poller import logs, quiet
from poller.core.model import Action
from poller.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = "p-4711.Zz"
log = structlog.get_logger("poller.test")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level, ours = list(root.handlers), root.level, logging.getLogger("poller").level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level
    logging.getLogger("poller").setLevel(ours)
    sys.excepthook, threading.excepthook = hooks


def heard(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def listen(level: str = "debug", style: logs.Format = "json") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(style, level, stream=stream)
    return stream


def fail_with(error: Exception) -> None:
    raise error


def test_a_line_has_time_level_action_and_what_was_said() -> None:
    stream = listen()
    log.info(
        "pass ended", action="pass.ended", practice="DEMOEC", feed="Observation", kind="patient", patients=12, took=1.5
    )
    (line,) = heard(stream)
    assert dt.datetime.fromisoformat(line.pop("timestamp")).utcoffset() == dt.timedelta(0)
    assert line == {
        "event": "pass ended",
        "action": "pass.ended",
        "level": "info",
        "logger": "poller.test",
        "practice": "DEMOEC",
        "feed": "Observation",
        "kind": "patient",
        "patients": 12,
        "took": 1.5,
    }


def test_a_line_without_an_action_still_has_one() -> None:
    stream = listen()
    log.info("something")
    assert heard(stream)[0]["action"] == "log.unnamed"


def test_levels_are_kept() -> None:
    stream = listen("warning")
    log.info("not heard", action="a.b")
    log.warning("heard", action="a.b")
    assert [line["event"] for line in heard(stream)] == ["heard"]


@pytest.mark.parametrize("style", ["console", "json"])
def test_httpx_never_says_its_url(style: logs.Format) -> None:
    stream = listen("debug", style)
    logging.getLogger("httpx").setLevel(logging.DEBUG)
    logging.getLogger("httpcore").setLevel(logging.DEBUG)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={}))
    with httpx.Client(transport=transport) as client:
        client.get(f"https://fhir.example.org/r4/Patient?_id={ID}")
    logging.getLogger("httpx").warning("GET %s", f"https://fhir.example.org/Patient/{ID}")
    logging.getLogger("httpx").warning(f"GET https://fhir.example.org/Patient/{ID}")  # noqa: G004 - as libraries do
    log.debug("own line", action="a.b")
    text = stream.getvalue()
    assert "own line" in text
    assert "GET %s" in text
    assert ID not in text
    assert "fhir.example.org" not in text


@pytest.mark.parametrize("name", [*logs.LIBRARIES, "sqlalchemy.engine.Engine", "uvicorn.access", "some.other.library"])
def test_libraries_are_heard_from_warning_on_and_without_their_words(name: str) -> None:
    stream = listen("debug")
    library = logging.getLogger(name)
    library.debug("DETAIL %s", ID)
    library.info("DETAIL %s", ID)
    library.warning("lost %s", ID)
    library.warning(f"lost Patient/{ID}")
    lines = heard(stream)
    assert [line["event"] for line in lines] == ["lost %s", "a library logged a line"]
    assert {line["action"] for line in lines} == {"library.logged"}
    assert all(":test_libraries_are_heard" in line["where"] for line in lines)
    assert ID not in stream.getvalue()


def test_a_line_that_cannot_be_rendered_does_not_spill_its_contents(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError(ID)

    stream = listen()
    (ours,) = [way for way in logging.getLogger().handlers if isinstance(way, logs._Stream)]
    for said, args in (("%s and %d", (ID,)), (Broken(), (ID,))):
        ours.handle(logging.LogRecord("kombu", logging.WARNING, __file__, 1, said, args, None))
    told = capsys.readouterr().err
    assert "could not be written: ValueError" in told
    assert ID not in stream.getvalue() + told


def test_loggers_that_a_library_set_up_itself_lose_their_own_way_out() -> None:
    own = io.StringIO()
    library = logging.getLogger("uvicorn.access")
    library.addHandler(logging.StreamHandler(own))
    library.propagate = False
    stream = listen()
    library.warning("GET /history/%s", ID)
    assert own.getvalue() == ""
    assert len(heard(stream)) == 1


@pytest.mark.parametrize("style", ["console", "json"])
def test_an_exception_that_is_not_ours_shows_class_and_frames_alone(style: logs.Format) -> None:
    stream = listen("debug", style)
    try:
        try:
            fail_with(psycopg.errors.UniqueViolation(f"DETAIL: Key (id)=({ID}) already exists."))
        except psycopg.Error as error:
            error.add_note(ID)
            raise RuntimeError(f"while writing {ID}") from error
    except RuntimeError:
        log.exception("write failed", action="batch.failed")
    text = stream.getvalue()
    assert ID not in text
    assert "UniqueViolation" in text
    assert "RuntimeError" in text
    assert "test_logs.py:fail_with:" in text


def test_an_exception_of_ours_shows_its_message() -> None:
    stream = listen()
    log.error(
        "refused", action="config.refused", exc_info=ConfigError(["poller.yaml:3: no such key; did you mean every?"])
    )
    (line,) = heard(stream)
    assert line["errors"] == [
        {"said": "poller.errors.ConfigError: poller.yaml:3: no such key; did you mean every?", "at": []}
    ]


def test_members_of_a_group_are_told_without_their_texts() -> None:
    told = quiet.chain(ExceptionGroup(ID, [ValueError(ID), ConfigError(["bad key"])]))
    assert [each["said"] for each in told] == ["ExceptionGroup", "ValueError", "poller.errors.ConfigError: bad key"]


def test_an_exception_in_a_library_line_is_told_the_same_way() -> None:
    stream = listen()
    try:
        fail_with(ValueError(ID))
    except ValueError:
        logging.getLogger("apscheduler").exception("Job %s raised", ID)
    (line,) = heard(stream)
    assert line["errors"][0]["said"] == "ValueError"
    assert ID not in stream.getvalue()


def test_what_nothing_caught_is_told_the_same_way() -> None:
    stream = listen()
    sys.excepthook(ValueError, ValueError(ID), None)
    thread = threading.Thread(target=fail_with, args=(ValueError(ID),))
    thread.start()
    thread.join()
    assert [line["action"] for line in heard(stream)] == ["process.failed", "thread.failed"]
    assert ID not in stream.getvalue()


@pytest.mark.parametrize(
    "key",
    [
        "url",
        "base_url",
        "token",
        "access_token",
        "body",
        "patient",
        "patient_id",
        "query",
        "params",
        "headers",
        "key",
        "id",
    ],
)
def test_dangerous_keys_are_left_out_by_name(key: str) -> None:
    stream = listen()
    log.info("line", action="a.b", inner={key: ID}, **{key: ID})
    (line,) = heard(stream)
    assert line["left_out"] == [key]
    assert line["inner"] == {"left_out": [key]}
    assert ID not in stream.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        f"https://fhir.example.org/Patient/{ID}",
        f"read Patient/{ID} again",
        f"Observation/{ID}/_history/2",
        f"Patient?_id={ID}",
        f"asked with name={ID}",
        f"Bearer {ID}{ID}",
        f"-----BEGIN PRIVATE KEY-----\n{ID}\n-----END PRIVATE KEY-----",
        f"eyJhbGciOiJSUzM4NCJ9.{ID}",
        [f"Patient/{ID}"],
        {"a": {"b": f"Patient/{ID}"}},
        ID.encode(),
        ValueError(ID),
        httpx.URL(f"https://fhir.example.org/{ID}"),
    ],
)
def test_dangerous_values_do_not_come_through_harmless_keys(value: object) -> None:
    stream = listen()
    log.info("line", action="a.b", detail=value)
    log.info(f"saw {value}" if isinstance(value, str) else "line", action="a.b")
    assert len(heard(stream)) == 2
    assert ID not in stream.getvalue()


def test_harmless_values_stay_readable() -> None:
    assert quiet.harmless(Action.DELETED) == "deleted"
    assert quiet.harmless(dt.timedelta(milliseconds=1500)) == 1.5
    assert quiet.harmless(dt.datetime(2025, 1, 2, tzinfo=dt.UTC)) == "2025-01-02T00:00:00+00:00"
    assert quiet.harmless("America/New_York every 5m, 250/min") == "America/New_York every 5m, 250/min"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=10,
    )
)
def test_any_value_becomes_json(value: object) -> None:
    json.dumps(quiet.harmless(value))
