"""Commands by which an operator has a practice, or one feed of it, left alone."""

from __future__ import annotations

import datetime as dt
import json
from typing import Annotated, Any

import typer
from rich.table import Table

from poller import display
from poller.app import Installation
from poller.commands.answers import await_answers
from poller.commands.audited import note
from poller.commands.options import (
    DEFAULT_CONFIG,
    Actor,
    AsJson,
    ConfigOption,
    Practice,
    Reason,
    a_text,
    duration,
    installed,
)
from poller.core.audit import Action
from poller.errors import NotFound, Unanswered
from poller.store.control import ALL, Answer, Asked, State

Feed = Annotated[
    str | None, typer.Argument(help="Only this feed, e.g. Observation; without, the whole practice.", callback=a_text)
]
_WAIT = 30.0


def pause(
    practice: Practice,
    actor: Actor,
    reason: Reason,
    feed: Feed = None,
    length: Annotated[
        str | None, typer.Option("--for", help="How long, e.g. 2h; without, until `poller resume`.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Leave a practice or a feed alone: not one call is made for it, no token asked for. Holds over restarts, for all engines.

    Example: poller pause FAMLYM --for 2h --reason "their server is moved tonight"

    Exits 0 when it is in force (also while no engine runs), 2 for a wrong duration, 3 if an engine has not confirmed it, 4 for the store,
    6 for an unknown practice or feed.
    """
    given = duration(length) if length is not None else None
    with installed(config) as installation:
        code, chosen = _known(installation, practice, feed)
        store = installation.control
        note(installation, Action.PAUSE, code, reason, actor, feed=feed, length=length)
        asked = store.pause(code, chosen, given, actor=actor, reason=reason)
        answers = await_answers(store, asked, _WAIT)
    _say(_named(code, chosen), "paused" + _until(asked.until), asked, answers, as_json=as_json)


def resume(
    practice: Practice,
    actor: Actor,
    feed: Feed = None,
    reason: Reason = "poller resume",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """End an operator's pause of a feed, or every one of a practice. What the poller has paused by itself ends by itself.

    Example: poller resume FAMLYM

    Exits 0 when it is over, 3 if an engine has not confirmed it, 4 for the store, 6 if nothing was paused.
    """
    with installed(config) as installation:
        store = installation.control
        note(installation, Action.RESUME, practice, reason, actor, feed=feed)
        # One that was taken out of the configuration while it was paused can be resumed as well.
        asked, held = store.resume(practice, feed or ALL, actor=actor, reason=reason)
        answers = await_answers(store, asked, _WAIT)
    for one in held:
        _say(_named(practice, one.feed), "read again", asked, answers, as_json=as_json)


def pauses(
    practice: Annotated[str | None, typer.Argument(help="Only this practice.", callback=a_text)] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List what is paused, by whom, until when and why: by operators, and by the poller itself.

    Example: poller pauses --json

    Exits 0, 4 for the store, 6 for an unknown practice.
    """
    with installed(config) as installation:
        codes = [installation.practice(practice).code] if practice is not None else list(installation.config.practices)
        found = [row for row in _rows(installation) if row["practice"] in codes]
    if as_json:
        typer.echo(json.dumps({"pauses": found}))
        return
    table = Table("practice", "feed", "by", "since", "until", "reason")
    for row in found:
        until = "it is resumed" if row["by"] == "operator" else "a try succeeds"
        table.add_row(
            row["practice"],
            row["feed"],
            row["actor"] or "the poller",
            row["since"][:19],
            row["until"][:19] if row["until"] else until,
            row["reason"],
        )
    display.console().print(table if found else "nothing is paused")


def _rows(installation: Installation) -> list[dict[str, Any]]:
    return [
        {
            "practice": one.practice,
            "feed": one.feed,
            "by": "operator",
            "actor": one.actor,
            "since": one.since.isoformat(),
            "until": one.until.isoformat() if one.until is not None else None,
            "reason": one.reason,
        }
        for one in installation.control.pauses()
    ] + [
        {
            "practice": code,
            "feed": feed,
            "by": "poller",
            "actor": None,
            "since": one.since.isoformat(),
            "until": None,
            "reason": one.words,
        }
        for code in installation.config.practices
        for feed, one in installation.states.pauses(code).items()
    ]


def _known(installation: Installation, practice: str, feed: str | None) -> tuple[str, str]:
    found = installation.practice(practice)
    if feed is not None and feed not in found.feeds:
        raise NotFound(f"no feed {feed} of practice {practice}; there are: {', '.join(found.feeds)}")
    return found.code, feed or ALL


def _named(practice: str, feed: str) -> str:
    return f"practice {practice}" if feed == ALL else f"feed {feed} of practice {practice}"


def _until(until: dt.datetime | None) -> str:
    return f" until {until:%Y-%m-%d %H:%M:%S} UTC" if until is not None else " until `poller resume`"


def _say(what: str, how: str, asked: Asked, answers: list[Answer], *, as_json: bool) -> None:
    heeded = [one for one in answers if one.state is State.DONE]
    silent = [one for one in answers if one.lives and not one.state.is_final]
    if as_json:
        until = asked.until.isoformat() if asked.until is not None else None
        typer.echo(
            json.dumps(
                {"what": what, "until": until, "heeded": len(heeded), "engines": len(answers), "control": asked.control}
            )
        )
    else:
        by = f"{len(heeded)} running engine{'s' if len(heeded) != 1 else ''} heed{'s' if len(heeded) == 1 else ''} it"
        typer.echo(f"{what} is {how}; {by if answers else 'no engine runs, so it holds from the next start on'}")
    if silent:
        raise Unanswered("; ".join(f"engine {one.engine} has not confirmed it within {_WAIT:g} s" for one in silent))
