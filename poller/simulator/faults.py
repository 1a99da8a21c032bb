"""Faults by switch: what a real server does to its readers, on order and repeatable."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from poller.simulator.truth import CallKind


class Fault(StrEnum):
    """What goes wrong with one answer instead of the answer, or with its way back."""

    ERROR_500 = "error_500"
    ERROR_503 = "error_503"
    SPURIOUS_429 = "spurious_429"
    CUT_JSON = "cut_json"
    """A body that ends in the middle, with a length that says it is whole."""
    CUT_CONNECTION = "cut_connection"
    """A body shorter than announced, then the connection is gone."""
    HTML = "html"
    """A web page with status 200."""
    HTML_404 = "html_404"
    """A web page with status 404: a proxy's word, not the server's."""


@dataclass(slots=True)
class Faults:
    """Probabilities (0 to 1, 1 is always) per call unless said otherwise; set at run time."""

    error_500: float = 0.0
    error_503: float = 0.0
    spurious_429: float = 0.0
    cut_json: float = 0.0
    cut_connection: float = 0.0
    html: float = 0.0
    html_404: float = 0.0
    slow: float = 0.0
    """The answer is made at once and held for ``slow_seconds``, so that later questions may be answered sooner."""
    slow_seconds: float = 1.0
    duplicate: float = 0.0
    """Per later page: it begins with the last row of the page before."""
    shift: float = 0.0
    """Per later page: a row before it is gone (one row is skipped) or new (one row is seen twice)."""
    total_lie: float = 0.0
    """Per page: ``total`` is off."""
    total_high: float = 0.0
    """Per page: ``total`` announces fifty more than there are."""
    total_low: float = 0.0
    """Per page: ``total`` announces fewer than there are."""
    repeat: float = 0.0
    """Per later page: it shows the rows of the page before, and its own are skipped."""
    end_early: float = 0.0
    """Per page: the link to the next one is missing."""
    next_self: float = 0.0
    """Per page, the last one too: it names itself as the next one."""
    next_elsewhere: float = 0.0
    """Per page, the last one too: the next one is said to be at another host, with another practice's path."""
    outcome_error: float = 0.0
    """Per page: an OperationOutcome of severity error stands among the matches."""
    outcome_warning: float = 0.0
    """Per page: an OperationOutcome of severity warning stands among the matches, which are whole."""
    no_id: float = 0.0
    """Per page: its first resource has no id."""
    subsetted: float = 0.0
    """Per page: its first resource lacks an element and is tagged SUBSETTED."""
    late: float = 0.0
    """Per change: it becomes visible ``late_seconds`` after its stamp."""
    late_seconds: float = 2.0
    skew_seconds: float = 0.0
    """The server's clock (Date header and stamps) minus the true time."""
    access_denied: float = 0.0
    """Per token call: the practice has not enabled the app."""
    gzip: float = 0.0
    """Per answer to a caller that takes it: the body is compressed."""
    retry_after: str = ""
    """``Retry-After`` of every 429 and 503, as it stands: ``-5``, a date, ``soon``; empty for none."""
    headers: tuple[str, ...] = ()
    """Lines added to every answer, as in ``RateLimit-Remaining: 0``."""
    kinds: tuple[str, ...] = ("token", "search", "read", "metadata", "bulk", "file")
    """Kinds of call that may be hit."""
    types: tuple[str, ...] = ()
    """Resource types that may be hit; empty for all."""
    first: int | None = None
    """Hit only so many times more, then never; None for no bound. Faults of pages and changes do not use it up."""

    def set(self, settings: Mapping[str, object]) -> None:
        """Change some switches. Raises ValueError for a name or value that is not one."""
        fields = {field.name: field for field in dataclasses.fields(self)}
        for name, value in settings.items():
            if name not in fields:
                raise ValueError(f"no such fault: {name}; there are {', '.join(fields)}")
            if name in {"kinds", "types", "headers"}:
                if not isinstance(value, (list, tuple)):
                    raise ValueError(f"{name} takes a list")
                setattr(self, name, tuple(str(item) for item in value))
            elif name == "retry_after":
                self.retry_after = str(value)
            elif name == "first" and (value is None or isinstance(value, int)):
                self.first = value
            elif isinstance(value, (int, float)) or hasattr(value, "__float__"):
                setattr(self, name, float(value))
            else:
                raise ValueError(f"{name} takes a number")

    def clear(self) -> None:
        """Switch all off."""
        self.set({field.name: field.default for field in dataclasses.fields(self)})

    def hits(self, kind: CallKind, resource_type: str | None) -> bool:
        """Whether a call of this sort may be hit at all."""
        spent = self.first is not None and self.first <= 0
        return not spent and kind in self.kinds and (not self.types or resource_type in self.types)

    def draw(self, rng: random.Random, kind: CallKind, resource_type: str | None) -> Fault | None:
        """The fault that befalls this call, if any; uses up ``first``."""
        if not self.hits(kind, resource_type):
            return None
        for fault in Fault:
            chance: float = getattr(self, fault.value)
            if chance and rng.random() < chance:
                self._use_up()
                return fault
        return None

    def delay(self, rng: random.Random, kind: CallKind, resource_type: str | None) -> float:
        """Seconds for which this answer is held."""
        if self.slow and self.hits(kind, resource_type) and rng.random() < self.slow:
            self._use_up()
            return self.slow_seconds
        return 0.0

    def _use_up(self) -> None:
        if self.first is not None:
            self.first -= 1
