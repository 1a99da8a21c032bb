"""Whether what a poller has said is true: judged by the truth alone, without the poller's own idea of what a change is."""

from __future__ import annotations

import datetime as dt

from poller.core.model import Action, Event
from tests.acceptance.hypo.play import Played, essence, state
from tests.acceptance.hypo.truth import Content, Key, Life

Span = tuple[dt.datetime, dt.datetime, Content | None]
_END = dt.datetime.max.replace(tzinfo=dt.UTC)


def judge(played: Played) -> None:
    """Raises AssertionError with what is wrong."""
    numbered(played.events)
    told: dict[Key, _Story] = {}
    for event in played.events:
        key = event.resource_type, event.id
        assert key in played.truth.lives, f"{key} was never there"
        story = told.setdefault(key, _Story(played.truth.lives[key]))
        story.hear(event, *played.reads[*key, event.version])
    truth, found = played.truth.state(), state(played.events)
    lost = {key: content for key, content in truth.items() if found.get(key) != content}
    left = {key: content for key, content in found.items() if key not in truth}
    assert not lost, f"after quiet the events do not tell of {lost}, but of { {key: found.get(key) for key in lost} }"
    assert not left, f"after quiet the events tell of {left}, which is gone"
    assert played.quiet, f"it never comes to rest; the last event is {played.events[-1:]}"


def numbered(events: list[Event]) -> None:
    """Ids differ, and sequences and versions have no gaps."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert len({event.epoch for event in events}) <= 1
    assert len({event.event_id for event in events}) == len(events)
    versions: dict[Key, int] = {}
    for event in events:
        key = event.resource_type, event.id
        assert event.version == versions.get(key, 0) + 1, f"{key} has version {event.version} after {versions.get(key)}"
        versions[key] = event.version


class _Story:
    """One resource as its events tell of it, held against what it was."""

    def __init__(self, life: Life) -> None:
        starts = [at for at, _ in life.spans]
        ends = [*starts[1:], _END]
        self._key = life.key
        self._spans: list[Span] = [(at, end, content) for (at, content), end in zip(life.spans, ends, strict=True)]
        self._at = -1
        """Number of the span that the last event told of."""
        self.content: Content | None = None

    def hear(self, event: Event, began: dt.datetime, ended: dt.datetime) -> None:
        """One event, and when the read that showed it began and ended."""
        content = None if event.body is None else essence(event.body)
        assert event.action is self._action(content), f"{self._key} is {event.action}, not {self._action(content)}"
        self._at = self._find(event, content, began, ended)
        self.content = content

    def _find(self, event: Event, content: Content | None, began: dt.datetime, ended: dt.datetime) -> int:
        """The span that the event tells of: a later one than the last, of that content, and there while it was read."""
        for number in range(self._at + 1, len(self._spans)):
            start, end, was = self._spans[number]
            if was == content and start <= ended and end >= began:
                return number
        known = [number for number, (_, _, was) in enumerate(self._spans) if was == content]
        raise AssertionError(
            f"{self._key}: {event.action} in version {event.version}, read from {began} to {ended}, tells of {content},"
            f" which it was in spans {known} of {self._spans}; the event before told of span {self._at}"
        )

    def _action(self, content: Content | None) -> Action | None:
        """What an event of this content has to be called; None if there must be none."""
        before = self.content
        if content is None:
            return None if before is None else Action.DELETED
        if before is None:
            return Action.CREATED if self._at < 0 else Action.RESTORED
        if content == before:
            return None
        if "link" in content and "link" not in before:
            return Action.MERGED
        if _is_error(content) and not _is_error(before):
            return Action.ENTERED_IN_ERROR
        return Action.UPDATED


def _is_error(content: Content) -> bool:
    return content.get("status") == "entered-in-error" or "verificationStatus" in content
