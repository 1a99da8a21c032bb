"""Commands on replays: ``poller replay PRACTICE`` begins one; list, resume and cancel are for those that were stopped."""

from __future__ import annotations

import datetime as dt
import getpass
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from poller import display
from poller.app import Installation, sinks_of
from poller.commands.audited import note
from poller.commands.ids import listed_ids
from poller.commands.options import DEFAULT_CONFIG, AsJson, ConfigOption, Practice, Reason, a_text, load, place, utc
from poller.core.audit import Action
from poller.core.sink import Payload, Sink
from poller.errors import DEGRADED, ConfigError, NotFound, StoreError
from poller.replay import (
    Destination,
    FileDestination,
    Hold,
    Player,
    QueueDestination,
    StreamDestination,
    check_live,
)
from poller.store.log import Place, Selection
from poller.store.replays import ReplayRecord, ReplayStore

_STDOUT = "-"


class _BeginsByDefault(TyperGroup):
    """``poller replay PRACTICE …`` is ``poller replay start PRACTICE …``."""

    default = "start"

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # Typer brings its own Context
        """Put in ``start`` where no command stands first."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(help="Events of the past again.", no_args_is_help=True, cls=_BeginsByDefault)

Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Rate = Annotated[float | None, typer.Option(min=0.1, help="Events a second at most.")]
ReplayId = Annotated[str, typer.Argument(help="Its id, as `poller replay list` has it.", callback=a_text)]


@app.command()
def start(
    practice: Practice,
    config: ConfigOption = DEFAULT_CONFIG,
    queue: Annotated[
        str | None, typer.Option(help="Queue to fill; without, replay.<replayid>.", callback=a_text)
    ] = None,
    file: Annotated[str | None, typer.Option(help="File to write instead, NDJSON; - for standard output.")] = None,
    hold: Annotated[
        bool,
        typer.Option("--hold", help="--queue is a live one: delivery to its sink waits until the replay has gone out."),
    ] = False,
    resource_type: Annotated[
        str | None, typer.Option("--type", help="Only this resource type.", callback=a_text)
    ] = None,
    patient: Annotated[str | None, typer.Option(help="Only this patient's (logical id).", callback=a_text)] = None,
    since: Annotated[dt.datetime | None, typer.Option(help="Detected at or after; UTC.")] = None,
    until: Annotated[dt.datetime | None, typer.Option(help="Detected before; UTC.")] = None,
    first: Annotated[
        str | None, typer.Option("--from", help="From this sequence on; a number alone is of the present epoch.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", help="Up to this sequence.")] = None,
    id_: Annotated[
        list[str] | None, typer.Option("--id", help="Only this resource (Type/id) or event (its id); repeat for more.")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="File of such ids, one a line.")] = None,
    payload: Annotated[
        Literal["id-only", "full-resource"] | None, typer.Option(help="Without: full-resource, or the live queue's.")
    ] = None,
    rate: Rate = None,
    dry_run: Annotated[bool, typer.Option(help="Only count, by type and action.")] = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Publish events of the past again, with their ids; the source is not asked.

    Stopped (SIGINT, SIGTERM, a broker that is away), it can be resumed, and says so. Exits 0 at its end, 2 for wrong words, 3 if stopped,
    4 and 5 for store and broker, 6 for what is not there, or past retention; then the earliest time that is kept is named.

    Example: poller replay FAMLYM --type Observation --since 2026-11-01 --queue labs.again --rate 500
    """
    loaded = load(config)
    if queue is not None and file is not None:
        raise ConfigError(["--queue and --file exclude each other; a replay goes to one place"])
    replay_id = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S%f")[:-3]
    name = None if file is not None else queue or f"replay.{replay_id}"
    sink = next((one for one in sinks_of(loaded) if name in one.queues), None)
    if hold and loaded.untested_transport is not None:
        raise ConfigError(
            [
                f"--hold: with {loaded.untested_transport} nobody can be kept from publishing meanwhile; replay into a queue of its own"
            ]
        )
    _check_destination(name, sink, hold=hold, payload=payload, replay_id=replay_id)
    with Installation(loaded) as installation:
        code = installation.practice(practice).code
        log = installation.reading_log
        epoch, _ = log.require_history(code)
        resources, events = listed_ids(id_ or (), ids)
        selection = Selection(
            code,
            resource_type,
            patient,
            utc(since),
            utc(until),
            place("--from", first, epoch),
            place("--to", last, epoch),
            resources,
            events,
        )
        where = {"queue": name, "file": str(file) if file is not None else None, "dryRun": dry_run or None}
        note(installation, Action.REPLAY_START, code, reason, replay=replay_id, **where, selection=selection.to_json())
        begin, end = log.span(selection)
        if dry_run:
            _say_counts(log.count(selection, begin, end), str(file or name), as_json=as_json)
            return
        chosen: Payload = payload or (sink.payload if sink is not None else "full-resource")
        record = ReplayRecord(
            replay_id,
            selection,
            chosen,
            name,
            str(Path(file).absolute()) if file not in {None, _STDOUT} else None,
            sink.name if sink is not None else None,
            begin,
            end,
            None,
            getpass.getuser(),
        )
        to_stdout = file == _STDOUT
        _begin(installation, record, sink, rate, as_json=as_json, to_stdout=to_stdout)


@app.command("list")
def list_(config: ConfigOption = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Show replays, the latest first, and how far each is.

    Exits 0, or 4 for the store. Example: poller replay list --json
    """
    with Installation(load(config)) as installation:
        found = installation.replays.listed()
    if as_json:
        typer.echo(json.dumps([_to_json(record) for record in found]))
        return
    table = Table("replay", "practice", "to", "state", "events", "began", "moved", "by")
    for record in found:
        times = [f"{at:%Y-%m-%d %H:%M:%S}" if at else "" for at in (record.began_at, record.moved_at)]
        where = record.queue or record.file or ""
        table.add_row(record.replay, record.practice, where, record.state, str(record.sent), *times, record.made_by)
    display.console().print(table if found else "there are no replays")


@app.command()
def resume(
    replay: ReplayId,
    config: ConfigOption = DEFAULT_CONFIG,
    rate: Rate = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Carry on a replay that was stopped, from where it stood. What was last sent may come again, under the same ids.

    Exits as `poller replay start`. Example: poller replay resume 20261126T120000000
    """
    loaded = load(config)
    with Installation(loaded) as installation:
        record = installation.replays.find(replay)
        if record.state != "running":
            raise NotFound(f"replay {replay} is {record.state}; there is nothing to resume")
        note(installation, Action.REPLAY_RESUME, record.practice, reason, replay=replay)
        sink = next((one for one in sinks_of(loaded) if one.name == record.sink), None)
        if record.sink is not None and sink is None:
            raise NotFound(f"sink {record.sink}, into whose queue the replay goes, is not configured any more")
        held = Hold(installation.replays, record) if sink is not None else None
        if held is not None:
            held.renew()
        _play(installation, record, sink, held, rate, as_json=as_json)


@app.command()
def cancel(
    replay: ReplayId, reason: Reason = "", config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Give a replay up; delivery to a live queue that waited for it goes on. What has gone out stays.

    Exits 6 if it is not there or has ended. Example: poller replay cancel 20261126T120000000
    """
    with Installation(load(config)) as installation:
        record = installation.replays.find(replay)
        note(installation, Action.REPLAY_CANCEL, record.practice, reason, replay=replay)
        if not installation.replays.cancel(record):
            raise NotFound(f"replay {replay} is {record.state} already")
    told = f"{replay} cancelled after {record.sent} events"
    display.answer(told, in_json=as_json, replay=replay, sent=record.sent, state="cancelled")


def _check_destination(
    name: str | None, sink: Sink | None, *, hold: bool, payload: Payload | None, replay_id: str
) -> None:
    if sink is not None and not hold:
        own = f"a replay goes to a queue of its own, say replay.{replay_id}"
        raise ConfigError(
            [f"--queue {name} is a live queue; {own}, or with --hold into the live one while delivery waits"]
        )
    if hold and sink is None:
        raise ConfigError(["--hold: only for a live queue, named with --queue; any other needs no delivery to wait"])
    if sink is not None and payload not in {None, sink.payload}:
        raise ConfigError([f"--payload {payload}: what reads queue {name} expects {sink.payload}; leave --payload out"])


def _begin(
    installation: Installation,
    record: ReplayRecord,
    sink: Sink | None,
    rate: float | None,
    *,
    as_json: bool,
    to_stdout: bool,
) -> None:
    if sink is None:
        if not to_stdout:
            installation.replays.begin(record)
        _play(installation, record, None, None, rate, as_json=as_json, to_stdout=to_stdout)
        return

    def check() -> None:
        check_live(sink, record.practice, installation.sinks.positions(sink.name))

    check()  # at once, for the person who waits; and again when it is granted, for what was parked meanwhile
    held = Hold(installation.replays, record)
    publisher = installation.broker().publisher(sink)
    stands = held.wait(lambda: installation.sinks.settle_holds(sink.name), publisher, check)
    record = _up_to(record, stands)
    installation.replays.begin(record)
    _play(installation, record, sink, held, rate, as_json=as_json)


def _up_to(record: ReplayRecord, stands: Place) -> ReplayRecord:
    """The replay, no further than its sink has come: what is behind that will be delivered."""
    return replace(record, end=min(record.end, stands))


def _play(
    installation: Installation,
    record: ReplayRecord,
    sink: Sink | None,
    held: Hold | None,
    rate: float | None,
    *,
    as_json: bool,
    to_stdout: bool = False,
) -> None:
    store: ReplayStore | None = None if to_stdout else installation.replays
    destination = _open(installation, record, to_stdout=to_stdout)
    with closing(destination), _stoppable() as stopping, _progress(installation, record) as progress:
        player = Player(
            installation.reading_log,
            record,
            destination,
            installation.practice(record.practice).base_url,
            store,
            held,
            sink.wants if sink is not None else lambda _: True,
            sink is not None and sink.only.reads_bodies,
            rate,
            progress,
        )
        try:
            is_done = player.play(stopping)
        except (StoreError, NotFound):
            raise  # it cannot go on
        except Exception:  # raised again: only how to go on is said first
            _say_how_to_go_on(record, to_stdout=to_stdout)
            raise
    if is_done and held is not None:
        held.end()
    if as_json:
        (sys.stderr if to_stdout else sys.stdout).write(json.dumps(_to_json(player.record)) + "\n")
    elif not to_stdout:
        where = f"queue {record.queue}" if record.queue is not None else f"file {record.file}"
        typer.echo(f"{player.record.sent} events to {where}, replayid {record.replay}")
    if not is_done:
        _say_how_to_go_on(record, to_stdout=to_stdout)
        raise typer.Exit(DEGRADED)


def _open(installation: Installation, record: ReplayRecord, *, to_stdout: bool) -> Destination:
    if record.queue is not None:
        return QueueDestination(installation.broker().queue_publisher(record.queue))
    if to_stdout or record.file is None:
        return StreamDestination(sys.stdout.buffer)
    return FileDestination(Path(record.file), record.written)


def _say_how_to_go_on(record: ReplayRecord, *, to_stdout: bool) -> None:
    if to_stdout:
        sys.stderr.write("poller: stopped before its end\n")
        return
    waits = ""
    if record.sink is not None:
        waits = f"; delivery to sink {record.sink} waits for two minutes, then goes on"
    sys.stderr.write(
        f"poller: stopped before its end; `poller replay resume {record.replay}` goes on,"
        f" `poller replay cancel {record.replay}` gives it up{waits}\n"
    )


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Set by SIGINT and SIGTERM."""
    stopping = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(installation: Installation, record: ReplayRecord) -> Iterator[Callable[[int], None]]:
    """A bar and the rate, on a terminal only."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    total = sum(installation.reading_log.count(record.selection, record.at, record.end).values())
    speed = TextColumn("{task.fields[rate]:.0f}/s")
    with Progress(
        BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task("", total=total, rate=0.0)

        def advance(events: int) -> None:
            bar.advance(task, events)
            bar.update(task, rate=bar.tasks[0].speed or 0.0)

        yield advance


def _say_counts(counts: dict[tuple[str, str], int], where: str, *, as_json: bool) -> None:
    total = sum(counts.values())
    if as_json:
        rows = [{"type": kind, "action": action, "events": events} for (kind, action), events in counts.items()]
        typer.echo(json.dumps({"events": total, "to": where, "counts": rows}))
        return
    if counts:
        table = Table("type", "action", "events")
        for (kind, action), events in counts.items():
            table.add_row(kind, action, str(events))
        display.console().print(table)
    typer.echo(f"{total} events would go to {where}")


def _to_json(record: ReplayRecord) -> dict[str, object]:
    return {
        "replay": record.replay,
        "practice": record.practice,
        "queue": record.queue,
        "file": record.file,
        "sink": record.sink,
        "payload": record.payload,
        "state": record.state,
        "events": record.sent,
        "began_at": record.began_at and record.began_at.isoformat(),
        "moved_at": record.moved_at and record.moved_at.isoformat(),
    }
