"""Where events go: a sink's exchange, queues, filter, start and pace."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from poller.config.section import Section
from poller.config.values import Category, Code, Word, check_action, check_published_type
from poller.core.sink import Start

Payload = Literal["id-only", "full-resource"]

_TOKEN = re.compile(r"[^\s|,]{1,200}(?:\|[^\s|,]{1,200})?")
_ELEMENT = re.compile(r"[a-z][A-Za-z]{0,63}")
_STARTS: Final = ("beginning", "now", "snapshot")


def check_token(written: str) -> str:
    """A code or label as FHIR writes tokens (R4 §3.1.1.4.10): ``code`` or ``system|code``."""
    if not _TOKEN.fullmatch(written):
        raise ValueError("not a code; write it plain, or as system|code, as in http://loinc.org|4548-4")
    return written


def check_element(written: str) -> str:
    """A top-level element of a resource."""
    if not _ELEMENT.fullmatch(written):
        raise ValueError("not an element of a resource; write its name alone, as in valueQuantity")
    return written


def check_start(written: str) -> str:
    """``beginning``, ``now``, ``snapshot``, or an instant that has passed."""
    start_of(written)
    return written


def start_of(written: str) -> Start:
    """What ``start`` means. Raises ValueError for what it does not say."""
    if written == "beginning":
        return Start("beginning")
    if written == "now":
        return Start("now")
    if written == "snapshot":
        return Start("snapshot")
    try:
        since = dt.datetime.fromisoformat(written)
    except ValueError:
        since = None
    if since is None or since.tzinfo is None:
        raise ValueError(
            f'neither {", ".join(_STARTS)} nor a time with its zone; write for example "2026-11-01T00:00:00Z"'
        )
    if since > dt.datetime.now(dt.UTC):
        raise ValueError("a time to come; write now, and the sink begins when the poller does")
    return Start("time", since.astimezone(dt.UTC))


Token = Annotated[str, AfterValidator(check_token)]


class SinkFilter(Section):
    """What a sink gets; nothing named means everything."""

    practices: tuple[Code, ...] = Field(default=(), examples=["[FAMLYMED]"])
    types: tuple[Annotated[str, AfterValidator(check_published_type)], ...] = Field(
        default=(), examples=["[Observation, DiagnosticReport]"]
    )
    actions: tuple[Annotated[str, AfterValidator(check_action)], ...] = Field(
        default=(), examples=["[created, updated]"]
    )
    categories: tuple[Category, ...] = Field(default=(), examples=["[laboratory, vital-signs]"])
    codes: tuple[Token, ...] = Field(default=(), examples=['["http://loinc.org|4548-4"]'])
    """What a resource is of: its ``code``, ``vaccineCode``, ``medicationCodeableConcept`` or ``type``."""
    statuses: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        default=(), examples=["[final, amended]"]
    )
    changed: tuple[Annotated[str, AfterValidator(check_element)], ...] = Field(
        default=(), examples=["[valueQuantity, status]"]
    )
    """Elements, one of which an update must have changed."""
    security: tuple[Token, ...] = Field(default=(), examples=["[N]"])
    """Labels in ``meta.security``, one of which a resource must have."""
    without_security: tuple[Token, ...] = Field(default=(), examples=["[R, V]"])
    """Labels of which a resource must have none."""


class SinkConfig(Section):
    """One way out: an exchange of its own, and the queues bound to it by the filter."""

    payload: Payload = Field(default="id-only", examples=["id-only"])
    exchange: Word = Field(examples=["fhir.changes"])
    baseline: Literal["publish", "skip"] = Field(default="skip", examples=["skip"])
    """Whether what a target's first complete pass finds is published."""
    queues: tuple[Word, ...] = Field(min_length=1, examples=["[fhir.changes.all]"])
    only: SinkFilter = Field(default=SinkFilter(), examples=["{types: [Observation]}"])
    start: Annotated[str, AfterValidator(check_start)] = Field(
        default="beginning", examples=["now", "snapshot", '"2026-11-01T00:00:00Z"']
    )
    """Where a new sink begins in the log."""
    pace: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False, examples=["200"])
    """Events a second at most."""
