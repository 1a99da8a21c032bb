"""The command that has a patient read now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from poller.commands.answers import await_answers, ignore, silence
from poller.commands.audited import note
from poller.commands.options import DEFAULT_CONFIG, Actor, AsJson, ConfigOption, Practice, Reason, a_text, installed
from poller.core.audit import Action
from poller.errors import DEGRADED, NotFound, Unanswered
from poller.store.control import Answer, Ask, State

_WAIT = 600.0


def read_now(
    practice: Practice,
    actor: Actor,
    patient: Annotated[str, typer.Option(help="Logical id, as in Patient/ID.", callback=a_text)],
    config: ConfigOption = DEFAULT_CONFIG,
    reason: Reason = "poller read-now",
    wait: Annotated[float, typer.Option(help="Seconds to wait for it.", min=0)] = _WAIT,
    as_json: AsJson = False,
) -> None:
    """Read all that a patient has, before everything else and within the budget; say what came of it.

    One whom nobody has named yet, and whom the source shows, is a patient from then on. The running engine that reads the practice does it.
    The id is visible in this machine's list of processes meanwhile.

    Example: poller read-now FAMLYM --patient 12345

    Exits 0 when all was read, 3 if not all of it could be or no engine reads the practice now, 4 for the store, 6 for an unknown practice
    or patient.
    """
    seen = _Seen()
    with installed(config) as installation:
        code = installation.practice(practice).code
        store = installation.control
        id_ = patient.removeprefix("Patient/")
        note(installation, Action.READ_NOW, code, reason, actor, patient=id_)
        asked = store.ask(Ask.READ_NOW, code, patient=id_, actor=actor, reason=reason)
        answers = await_answers(store, asked, wait, ignore if as_json else seen.show)
    doing = [one for one in answers if one.state is not State.DECLINED]
    if as_json:
        typer.echo(json.dumps({"control": asked.control, **(dict(doing[0].said) if doing else {})}))
    _judge(practice, answers, doing, wait, quiet=as_json)


class _Seen:
    """Shows each pass once."""

    def __init__(self) -> None:
        self._shown = 0
        self._noted = 0

    def show(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            said = answer.said
            if said.get("new") and not self._noted and not self._shown:
                typer.echo("this patient was not known; the source shows them, and they are read from now on")
            for one in said.get("notes", ())[self._noted :]:
                typer.echo(one)
                self._noted += 1
            for one in said.get("passes", ())[self._shown :]:
                self._shown += 1
                typer.echo(f"{self._shown}/{said['total']} {_words(one)}")


def _words(one: Mapping[str, Any]) -> str:
    what = ", ".join(one["feeds"]) + (f" {one['category']}" if one["category"] else "")
    if one["failure"]:
        return f"{what}: failed, {one['failure']}"
    return f"{what}: {one['coverage']}, {one['changes']} change{'s' if one['changes'] != 1 else ''}"


def _judge(practice: str, answers: list[Answer], doing: list[Answer], wait: float, *, quiet: bool) -> None:
    if not doing:
        who = "none of the running engines reads it now" if answers else "no engine runs on this store"
        raise Unanswered(f"practice {practice}: {who}; nothing was read")
    answer = doing[0]
    if not answer.state.is_final:
        raise Unanswered(f"engine {answer.engine} {silence(answer, wait)}; what it has read is kept")
    problems = "\n".join(answer.said.get("problems", ()))
    if answer.said.get("why") == "unknown":
        raise NotFound(problems)
    if answer.state is State.REFUSED:
        raise Unanswered(problems)
    passes = answer.said["passes"]
    failed = sum(one["failure"] is not None or one["coverage"] != "complete" for one in passes)
    if not quiet:
        changes = sum(one["changes"] for one in passes)
        typer.echo(f"{len(passes) - failed} of {len(passes)} searches read whole, {changes} changes")
    if failed or not passes:
        raise typer.Exit(DEGRADED)
