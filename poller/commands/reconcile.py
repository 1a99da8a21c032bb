"""The command that has a practice, or one feed of it, read whole, to see what detection has missed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from poller.commands.answers import await_answers, ignore, silence
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
from poller.errors import DEGRADED, NotFound, Unanswered
from poller.store.control import ALL, Answer, Ask, State


def reconcile(
    practice: Practice,
    actor: Actor,
    feed: Annotated[
        str | None,
        typer.Argument(help="Only this feed, e.g. Observation; without, the whole practice.", callback=a_text),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    reason: Reason = "poller reconcile",
    wait: Annotated[str, typer.Option(help="How long to wait for it, e.g. 10m.")] = "10m",
    as_json: AsJson = False,
) -> None:
    """Read every target of a practice or a feed whole, out of turn and within the budget; say what detection had missed.

    The running engine that reads the practice does it, as whole reads beside windows: what is owed comes first. It goes on when this
    command is interrupted; who asks again meanwhile is told of the same pass.

    Example: poller reconcile FAMLYM Observation --wait 1h

    Exits 0 when all was read, whatever was found, 2 for a wrong duration, 3 if not all of it could be, in this time, or no engine reads the
    practice now, 4 for the store, 6 for an unknown practice or feed.
    """
    seconds = duration(wait).total_seconds()
    with installed(config) as installation:
        chosen = installation.practice(practice)
        if feed is not None and feed not in chosen.feeds:
            raise NotFound(f"practice {practice} has no feed {feed}; there are: {', '.join(sorted(chosen.feeds))}")
        note(installation, Action.RECONCILE, chosen.code, reason, actor, feed=feed)
        store = installation.control
        asked = store.ask(Ask.RECONCILE, chosen.code, feed=feed or ALL, actor=actor, reason=reason)
        with _progress(quiet=as_json) as show:
            answers = await_answers(store, asked, seconds, show)
    doing = [one for one in answers if one.state is not State.DECLINED]
    said = dict(doing[0].said) if doing else {}
    if as_json:
        typer.echo(json.dumps({"control": asked.control, **said}))
    elif "total" in said:
        _show(said)
    _judge(practice, answers, doing, seconds)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Sequence[Answer]], None]]:
    """A bar, on a terminal only."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield ignore
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("searches"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(answers: Sequence[Answer]) -> None:
            for one in answers:
                if "total" in one.said:
                    bar.update(task, total=one.said["total"], completed=one.said["read"])

        yield show


def _show(said: Mapping[str, Any]) -> None:
    if said["joined"]:
        typer.echo("it had been asked for before, and was under way")
    for remark in said["notes"]:
        typer.echo(remark)
    typer.echo(f"{said['whole']} of {said['total']} searches read whole")
    for one in said["failed"]:
        typer.echo(
            f"{', '.join(one['feeds'])}: {_number(one['searches'], 'search', 'searches')} failed, {one['failure']}"
        )
    for one in said["found"]:
        what = ", ".join(f"{number} {action}" for action, number in one["actions"].items())
        how = "which its windows do not show" if one["windows"] else "since it was last read whole"
        typer.echo(f"{one['feed']}: {what}, {how}")
    for feed, number in said["held"].items():
        typer.echo(f"{feed}: {_number(number, 'delete is', 'deletes are')} held; see `poller deletes list`")
    if not said["found"] and not said["held"]:
        typer.echo("nothing had been missed")


def _number(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _judge(practice: str, answers: list[Answer], doing: list[Answer], seconds: float) -> None:
    if not doing:
        who = "none of the running engines reads it now" if answers else "no engine runs on this store"
        raise Unanswered(f"practice {practice}: {who}; nothing was read")
    answer = doing[0]
    if not answer.state.is_final:
        then = "it goes on; ask again to be told the end" if answer.lives else "what it has found is kept"
        raise Unanswered(f"engine {answer.engine} {silence(answer, seconds)}; {then}")
    if answer.state is State.REFUSED:
        raise Unanswered("\n".join(answer.said.get("problems", ())))
    if answer.said["whole"] < answer.said["total"] or not answer.said["total"]:
        raise typer.Exit(DEGRADED)
