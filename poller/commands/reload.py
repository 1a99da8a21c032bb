"""The command that has running engines read their configuration again."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from poller.app import Installation
from poller.commands.answers import await_answers, in_json, silence
from poller.commands.options import (
    DEFAULT_CONFIG,
    Actor,
    AsJson,
    ConfigOption,
    DataDirOption,
    Reason,
    load,
    locate,
)
from poller.config import Config
from poller.errors import ConfigError, Unanswered
from poller.store.control import ALL, Answer, Ask, State

_WAIT = 60.0


def reload(
    actor: Actor,
    config: ConfigOption = DEFAULT_CONFIG,
    reason: Reason = "poller reload",
    wait: Annotated[float, typer.Option(help="Seconds to wait for the engines' answers.", min=0)] = _WAIT,
    data_dir: DataDirOption = None,
    as_json: AsJson = False,
) -> None:
    """Have every running engine read its configuration file again; print what has changed, or why it is refused.

    All of it is taken up or nothing: an engine that refuses goes on as before. Practices of which nothing changes notice nothing.

    Example: poller reload --reason "another schedule for results"

    Exits 0 when every engine has taken it up, 2 if it is refused (with every reason), 3 if no engine runs or one has not answered, 4 for
    the store.
    """
    broken: list[str] = []
    try:
        here: Config = load(config)
    except ConfigError as error:
        broken = error.problems
        here = locate(config, data_dir, error)
    with Installation(here) as installation:
        store = installation.control
        asked = store.ask(Ask.RELOAD, ALL, actor=actor, reason=reason)
        answers = await_answers(store, asked, wait)
    if as_json:
        typer.echo(json.dumps({"control": asked.control, "engines": in_json(answers), "problems": broken}))
    else:
        for answer in answers:
            _show(answer, wait)
    _judge(answers, broken, wait)


def _show(answer: Answer, wait: float) -> None:
    if answer.state is State.DONE:
        typer.echo(f"engine {answer.engine}: revision {answer.said['revision']} is in force")
        for line in answer.said["lines"] or ["nothing has changed"]:
            typer.echo(f"  {line}")
    elif answer.state.is_final:
        typer.echo(f"engine {answer.engine}: refused; the configuration before stays in force")
    else:
        typer.echo(f"engine {answer.engine}: {silence(answer, wait)}")


def _judge(answers: list[Answer], broken: list[str], wait: float) -> None:
    refused = [problem for one in answers for problem in one.said.get("problems", ())]
    if not answers:
        if broken:
            raise ConfigError(broken)
        raise Unanswered(
            "no engine runs on this store; the configuration is in order, and `poller run` will take it up"
        )
    if any(one.said.get("why") == "config" for one in answers):
        raise ConfigError(list(dict.fromkeys(refused)))
    if refused:
        raise Unanswered("\n".join(dict.fromkeys(refused)))
    if silent := [one for one in answers if not one.state.is_final]:
        raise Unanswered("; ".join(f"engine {one.engine} {silence(one, wait)}" for one in silent))
