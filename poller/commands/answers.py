"""Waiting for what engines say to a request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from poller.store.control import Answer, Asked, ControlStore

_LOOK_EVERY = 0.2


def ignore(_answers: Sequence[Answer]) -> None:
    """Show no progress."""


def await_answers(
    store: ControlStore, asked: Asked, seconds: float, show: Callable[[Sequence[Answer]], None] = ignore
) -> list[Answer]:
    """The answers, once each engine that lives has given its last, or after so many seconds. ``show`` sees them on the way."""
    deadline = time.monotonic() + seconds
    while True:
        answers = store.answers(asked)
        show(answers)
        if all(one.state.is_final or not one.lives for one in answers) or time.monotonic() >= deadline:
            return answers
        time.sleep(_LOOK_EVERY)  # between two looks; the answers or the deadline end it


def in_json(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """For a program."""
    return [{"engine": one.engine, "state": one.state.value, "lives": one.lives, **one.said} for one in answers]


def silence(answer: Answer, seconds: float) -> str:
    """Why there is no last word of an engine."""
    return f"has not answered within {seconds:g} s" if answer.lives else "ended before it answered"
