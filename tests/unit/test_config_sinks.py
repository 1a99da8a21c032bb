"""What a configuration may say of a sink, and what becomes of it."""

from __future__ import annotations

import datetime as dt

import pytest
from freezegun import freeze_time
from pydantic import ValidationError

from poller.app import sinks_of
from poller.config import Config
from poller.core.sink import Only, Start


def configured(**sink: object) -> Config:
    practice = {"code": "A", "base_url": "https://ehr.example/A", "auth": "none", "feeds": {"Patient": {}}}
    return Config.model_validate(
        {"sinks": {"one": {"exchange": "x", "queues": ("q",), **sink}}, "practices": {"A": practice}}
    )


def test_a_sink_says_no_more_than_it_must() -> None:
    (sink,) = sinks_of(configured())
    assert (sink.only, sink.start, sink.pace, sink.baseline) == (Only(), Start("beginning"), None, False)
    assert not sink.reads_bodies


def test_every_part_of_a_filter_arrives() -> None:
    said: dict[str, tuple[str, ...]] = {
        "practices": ("A",),
        "types": ("Observation",),
        "actions": ("created",),
        "categories": ("laboratory",),
        "codes": ("http://loinc.org|4548-4", "4548-4"),
        "statuses": ("final",),
        "changed": ("valueQuantity",),
        "security": ("N",),
        "without_security": ("R",),
    }
    (sink,) = sinks_of(configured(only=said, pace=12.5))
    assert sink.only == Only(**said)
    assert sink.pace == 12.5
    assert sink.reads_bodies
    assert set(said) == set(Only.__dataclass_fields__), "a part that cannot be configured"


@freeze_time("2026-11-26T12:00:00Z")
@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("now", Start("now")),
        ("snapshot", Start("snapshot")),
        ("2026-11-26T11:00:00Z", Start("time", dt.datetime(2026, 11, 26, 11, tzinfo=dt.UTC))),
        ("2026-11-26T13:30:00+02:00", Start("time", dt.datetime(2026, 11, 26, 11, 30, tzinfo=dt.UTC))),
    ],
)
def test_a_start_is_understood(written: str, means: Start) -> None:
    (sink,) = sinks_of(configured(start=written))
    assert sink.start == means


@freeze_time("2026-11-26T12:00:00Z")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start": "yesterday"}, "neither beginning, now, snapshot nor a time"),
        ({"start": "2026-11-26T11:00:00"}, "with its zone"),
        ({"start": "2026-11-26T12:00:01Z"}, "a time to come"),
        ({"pace": 0.0}, "greater than 0"),
        ({"pace": float("inf")}, "finite"),
        ({"only": {"codes": ("a b",)}}, "not a code"),
        ({"only": {"codes": ("a|b|c",)}}, "not a code"),
        ({"only": {"changed": ("value.unit",)}}, "not an element"),
        ({"only": {"labels": ("R",)}}, "Extra inputs"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        configured(**wrong)
