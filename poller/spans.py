"""Traces for OpenTelemetry, where the extra ``otel`` is installed and its standard environment says where to.

That is ``OTEL_EXPORTER_OTLP_ENDPOINT``. Spans are of a pass, a call, a commit, a run of events. Their attributes go through the same filter
as log lines (:mod:`poller.quiet`): no id, no query, no URL, no error's words. Without the extra, or the environment, a span is nothing and
costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import structlog

from poller.quiet import harmless_mapping

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

log = structlog.get_logger(__name__)

_WHERE_TO = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NEEDS = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_tracers: list[Tracer] = []
"""None, or the one by which spans are made."""


class Told:
    """What a span learns before it ends."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def add(self, **attributes: object) -> None:
        """More of it; what may not leave the process is left out."""
        if self._span is not None:
            self._span.set_attributes(_allowed(attributes))


_NOTHING = Told()


def configure() -> bool:
    """Begin to trace if the environment asks for it; whether it does. Says so once where the extra is not installed."""
    if not any(os.environ.get(name) for name in _WHERE_TO):
        return False
    if not all(_is_there(name) for name in _NEEDS):
        log.warning(
            "traces are asked for, but the extra is not installed: pip install 'ehr-poller[otel]'", action="spans.off"
        )
        return False
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - as above

    provider = TracerProvider(resource=Resource.create({"service.name": "ehr-poller"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace_by(provider)
    return True


def trace_by(provider: Any) -> None:
    """Make spans by this provider from now on; None: no more."""
    _tracers[:] = [provider.get_tracer("poller")] if provider is not None else []


@contextmanager
def span(name: str, **attributes: object) -> Iterator[Told]:
    """A span around the block, a child of the one that is open in this task or thread."""
    if not _tracers:
        yield _NOTHING
        return
    # Its own words for an error may hold anything; ours are its class.
    with _tracers[0].start_as_current_span(
        f"poller.{name}", attributes=_allowed(attributes), record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield Told(current)
        except BaseException as error:
            current.set_attribute("error.type", type(error).__qualname__)
            raise


def _allowed(attributes: dict[str, object]) -> dict[str, Any]:
    return {f"poller.{name}": value for name, value in harmless_mapping(attributes).items() if value is not None}


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
