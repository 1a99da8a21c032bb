"""Traces: spans of what the poller does, with nothing in them that a log line may not hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poller import spans
from poller.core.model import Purpose


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans.trace_by(provider)
    yield exporter
    spans.trace_by(None)


def test_a_span_has_what_is_said_of_it_and_its_parent(exported: InMemorySpanExporter) -> None:
    with spans.span("pass", practice="P", feed="Observation") as told:
        with spans.span("call", purpose=Purpose.PROBE, status=None):
            pass
        told.add(changes=3)
    call, whole = exported.get_finished_spans()
    assert (call.name, dict(call.attributes or {})) == ("poller.call", {"poller.purpose": Purpose.PROBE.value})
    assert dict(whole.attributes or {}) == {"poller.practice": "P", "poller.feed": "Observation", "poller.changes": 3}
    assert call.parent is not None
    assert whole.context is not None
    assert call.parent.span_id == whole.context.span_id


def test_nothing_that_a_log_may_not_hold_gets_into_a_span(exported: InMemorySpanExporter) -> None:
    """By the same filter, whatever someone puts there one day; and an error is its class, never its words."""

    def fail() -> None:
        with spans.span("pass", patient="p-1", url="https://ehr/Patient/p-1") as told:
            told.add(reason="see Patient/p-1?name=Aho", token="secret-1")
            raise ValueError("Patient/p-1")

    with pytest.raises(ValueError, match="Patient"):
        fail()
    (span,) = exported.get_finished_spans()
    shown = span.to_json()
    assert not [word for word in ("p-1", "Aho", "secret", "ehr/") if word in shown]
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert span.events == ()


def test_without_a_place_to_send_to_there_is_no_span_and_no_cost() -> None:
    with spans.span("pass", practice="P") as told:
        told.add(changes=1)
    assert told is spans.span("x").__enter__()


def test_the_standard_environment_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert not spans.configure()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(spans, "_NEEDS", ("no_such_module.at_all",))
    with structlog.testing.capture_logs() as said:
        assert not spans.configure()
    assert [line["action"] for line in said] == ["spans.off"]
