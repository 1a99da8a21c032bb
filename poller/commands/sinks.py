"""Commands on sinks: their books, and what is parked."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any

import typer
from rich.table import Column

from poller import display
from poller.app import Installation
from poller.commands.audited import note
from poller.commands.options import DEFAULT_CONFIG, Actor, ConfigOption, Reason, a_text, load, place
from poller.config import Config
from poller.core.audit import WHOLE, Action, discarded_as
from poller.core.envelope import wire_sequence
from poller.core.trace import short
from poller.errors import DEGRADED, ConfigError, NotFound
from poller.installation import sinks_of
from poller.store.log import Selection
from poller.store.sinks import Books, Parked, Wish

TOGETHER = 1_000
"""Events that are given up, and noted in the audit, at once."""

app = typer.Typer(help="Where events go: the books, and what is parked.", no_args_is_help=True)

SinkName = Annotated[str, typer.Argument(help="Name of the sink, as in the configuration.", callback=a_text)]
InPractice = Annotated[str, typer.Argument(metavar="PRACTICE", help="Code of the practice.", callback=a_text)]
OfType = Annotated[str | None, typer.Option("--type", help="Only this resource type.", callback=a_text)]
OfId = Annotated[str | None, typer.Option("--id", help="Only this id.", callback=a_text)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command("list")
def list_(config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """The books: what became of each change recorded, by sink and practice. Exits 3 if something is parked, 1 if they do not balance.

    Example: poller sinks list --json
    """
    loaded = load(config, master_keys=False)
    with Installation(loaded) as installation:
        books = installation.sinks.books()
        theirs = {
            code
            for code in installation.configurations.practices_of_others(loaded.name)
            if code not in loaded.practices
        }
    if as_json:
        _lines(_as_json(one, loaded, theirs) for one in books)
    else:
        columns = ("recorded", "skipped", "delivered", "filtered", "discarded", "parked", "waiting", "missing")
        numbers = [Column(name, justify="right", overflow="fold") for name in columns]
        table = display.table(
            Column("sink", overflow="fold"), Column("practice", overflow="fold"), *numbers, "", between=1
        )
        for one in books:
            counts = (str(getattr(one, name)) for name in columns)
            table.add_row(one.sink, one.practice, *counts, _remark(one, loaded, theirs))
        display.show_table(table if books else None, "no sink has begun yet; `poller run` begins them")
    if any(one.missing for one in books):
        raise typer.Exit(1)
    if any(one.parked or one.released for one in books):
        raise typer.Exit(DEGRADED)


@app.command()
def show(
    sink: SinkName,
    practice: Annotated[str | None, typer.Option(help="Only this practice.", callback=a_text)] = None,
    reason: Reason = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """What is parked for a sink, in order, and why. Exits 6 for a sink that is neither configured nor has ever begun.

    Example: poller sinks show changes --practice FAMLYMED
    """
    loaded = load(config, master_keys=False)
    with Installation(loaded) as installation:
        note(installation, Action.SINKS_SHOW, practice or WHOLE, reason, sink=sink)
        parked = installation.sinks.parked(sink, practice)
        wishes = installation.sinks.to_park(sink, practice)
        if (
            not parked
            and not wishes
            and sink not in loaded.sinks
            and all(one.sink != sink for one in installation.sinks.books())
        ):
            raise NotFound(f"no sink {sink}; see `poller sinks list`")
    if as_json:
        _lines([*(_parked_as_json(one) for one in parked), *(_wish_as_json(one) for one in wishes)])
        return
    table = display.table(
        "practice",
        *(Column(name, overflow="fold") for name in ("sequence", "resource", "parked since", "state", "reason")),
    )
    for one in parked:
        table.add_row(
            one.practice,
            short(wire_sequence(*one.place)),
            f"{one.resource_type}/{one.id}",
            f"{one.parked_at:%Y-%m-%d %H:%M:%S}",
            "released" if one.released else "parked",
            one.reason,
        )
    for wish in wishes:
        table.add_row(wish.practice, short(wire_sequence(*wish.place)), "", "", "to be parked", wish.words)
    display.show_table(table if parked or wishes else None, "nothing is parked")


@app.command()
def park(
    sink: SinkName,
    practice: InPractice,
    actor: Actor,
    reason: Reason,
    sequence: Annotated[
        str | None, typer.Option(help="The event, as in its sequence; a number alone is of the present epoch.")
    ] = None,
    resource_type: OfType = None,
    id_: OfId = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Have an event parked that has not gone out: the next that waits, of a type, of a resource, or the one with a sequence.

    The poller parks it when the sink comes to it, at once if it is what blocks; later ones of its resource wait behind it, the others go on
    until `poller sinks release`. What has gone out cannot be parked. Who asked, and why, is kept.

    Example: poller sinks park changes FAMLYMED --sequence 4711 --reason "the lab's clean-up is not done"

    Exits 6 for a sink that is not configured or has not begun, and where nothing of that waits.
    """
    if id_ is not None and resource_type is None:
        raise ConfigError(["--id: an id alone names no resource; add --type"])
    loaded = load(config)
    chosen = next((one for one in sinks_of(loaded) if one.name == sink), None)
    if chosen is None:
        raise NotFound(f"no sink {sink} in the configuration; see `poller sinks list`")
    with Installation(loaded) as installation:
        epoch, _ = installation.sinks.require_history(practice)
        at = place("--sequence", sequence, epoch)
        resources = ((resource_type, id_),) if resource_type is not None and id_ is not None else ()
        selection = Selection(practice, resource_type, first=at, last=at, resources=resources)
        which = {"sequence": sequence, "type": resource_type, "id": id_}
        note(installation, Action.SINKS_PARK, practice, reason, actor, sink=sink, **which)
        found = installation.sinks.ask_parking(chosen, selection, actor=actor, reason=reason)
    told = f"{wire_sequence(*found)} will be parked when the sink comes to it;\nsee `poller sinks show {sink}`"
    display.answer(told, in_json=as_json, sink=sink, practice=practice, sequence=wire_sequence(*found))


@app.command()
def release(
    sink: SinkName,
    practice: InPractice,
    resource_type: OfType = None,
    id_: OfId = None,
    reason: Reason = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Let parked events go on: a running poller sends them, each resource's in order. One that is refused again is parked again.

    Exits 0, also where none is parked, 6 for a sink that has not begun there.
    Example: poller sinks release changes FAMLYMED --type DocumentReference
    """
    with Installation(load(config)) as installation:
        note(installation, Action.SINKS_RELEASE, practice, reason, sink=sink, type=resource_type, id=id_)
        count = installation.sinks.release(sink, practice, resource_type, id_)
    display.answer(f"{count} released", in_json=as_json, sink=sink, practice=practice, released=count)


@app.command()
def discard(
    sink: SinkName,
    practice: InPractice,
    resource_type: OfType = None,
    id_: OfId = None,
    reason: Reason = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give parked events up: this sink never gets them. The books keep their number; other sinks and the history keep the events.

    Exits 6 where nothing of that is parked.
    Example: poller sinks discard changes FAMLYMED --type DocumentReference --id the-id
    """
    which, count = {"type": resource_type, "id": id_}, 0
    with Installation(load(config)) as installation:
        while parked := installation.sinks.parked(sink, practice, (resource_type, id_), TOGETHER):
            # by name: `poller why` tells from it what became of an event of which nothing else is left here
            events = [
                discarded_as(f"{one.resource_type}/{one.id}", None if one.ordinal else (one.epoch, one.sequence))
                for one in parked
            ]
            note(installation, Action.SINKS_DISCARD, practice, reason, sink=sink, **which, events=events)
            count += installation.sinks.discard(sink, practice, parked)
        if not count:
            note(installation, Action.SINKS_DISCARD, practice, reason, sink=sink, **which)
            raise NotFound("nothing of that is parked; see `poller sinks show`")
    display.answer(f"{count} discarded", in_json=as_json, sink=sink, practice=practice, discarded=count)


def _lines(objects: Iterable[Mapping[str, Any]]) -> None:
    for one in objects:
        typer.echo(json.dumps(one))


def _as_json(books: Books, config: Config, theirs: Collection[str]) -> dict[str, Any]:
    counts = ("recorded", "skipped", "delivered", "filtered", "discarded", "parked", "waiting", "missing")
    return {
        "sink": books.sink,
        "practice": books.practice,
        "configured": books.sink in config.sinks,
        "another_pollers": books.practice in theirs,
        "start": books.start,
        "started_at": books.started_at.isoformat(),
        **{name: getattr(books, name) for name in counts},
        "released": books.released,
        "snapshot": {"under_way": books.in_snapshot, "resources": books.ordinal},
        "held": books.held,
        "moved_at": books.moved_at.isoformat() if books.moved_at is not None else None,
    }


def _parked_as_json(parked: Parked) -> dict[str, Any]:
    return {
        "practice": parked.practice,
        "sequence": wire_sequence(*parked.place),
        "resource": f"{parked.resource_type}/{parked.id}",
        "reason": parked.reason,
        "state": "released" if parked.released else "parked",
        "released": parked.released,
        "parked_at": parked.parked_at.isoformat(),
    }


def _wish_as_json(wish: Wish) -> dict[str, Any]:
    return {
        "practice": wish.practice,
        "sequence": wire_sequence(*wish.place),
        "resource": None,
        "reason": wish.words,
        "state": "to be parked",
        "released": False,
        "parked_at": None,
    }


def _remark(books: Books, config: Config, theirs: Collection[str]) -> str:
    if books.practice in theirs:
        return "another poller's practice"
    if books.sink not in config.sinks:
        return "not in the configuration any more"
    if books.in_snapshot:
        return f"snapshot under way, {books.ordinal} resources"
    return f"held by {books.held}" if books.held is not None else ""
