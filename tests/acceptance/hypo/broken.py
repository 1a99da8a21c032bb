"""Parts of a poller broken on purpose, each in a way that the property must find out.

Two that one might look for are not here, since something else makes up for them: a cursor at the largest stamp seen, and absences taken
from passes that are not complete. What windows miss a content read finds, and no absence becomes a delete without a read of the id.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

import poller.core.canonical
import poller.core.jsontext
import poller.core.pages
import poller.source.strategies
import poller.source.wire
import poller.store.repository
import poller.store.state
from poller.core.model import Confirmation, Gone, Purpose, Strategy
from poller.source.strategies import Source


@dataclass(frozen=True)
class Broken:
    """One part, and what stands in its place."""

    name: str
    strategy: Strategy
    """How feeds are read when it is found out."""
    where: Any
    part: str
    instead: Callable[..., Any]

    def put(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self.where, self.part, self.instead)


async def _gone_at_once(self: Source, resource_type: str, id_: str, purpose: Purpose = Purpose.CONFIRM) -> Confirmation:  # noqa: ARG001 - the port's
    """Takes what a pass did not show for gone, without a read."""
    now: dt.datetime = self._clock.now()
    return Gone(now, self._clock.now())


def _with_stamps(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Takes stamps and versions of the server for content."""
    return {name: value for name, value in resource.items() if name != "text"}


def _never_outdated(_stored: object, _began: dt.datetime) -> bool:
    """Lets the answer that comes last win, whenever it was asked for."""
    return False


def _nothing(*_: object) -> None:
    """Forgets what other ways of reading have found."""


def _never(*_: object) -> bool:
    return False


def _handed_over(*_: object) -> bool:
    return True


BROKEN = (
    Broken("deletes without a read", Strategy.SWEEP, Source, "confirm", _gone_at_once),
    Broken("compares stamps", Strategy.SWEEP, poller.core.canonical, "canonical", _with_stamps),
    Broken("takes the last answer", Strategy.WINDOW, poller.store.repository, "is_outdated", _never_outdated),
    Broken("forgets members", Strategy.PATIENT, poller.store.state, "_seed_members", _nothing),
    Broken("takes summaries", Strategy.PATIENT, poller.core.pages, "is_subsetted", _never),
    Broken("rounds decimals", Strategy.EVERYTHING, poller.core.jsontext, "loads", __import__("json").loads),
)
"""By the name of what they do wrong."""
