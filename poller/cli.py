"""Commands and exit codes; nothing else."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import shlex
import signal
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from poller import config as configuration
from poller import display, keys, logs
from poller.app import Engine, Installation, sinks_of
from poller.broker.pgmq import consumer_options
from poller.config import Config
from poller.core.sink import Only
from poller.errors import Breach, ConfigError, NotFound, PollerError
from poller.replay import replay as replay_events
from poller.store.log import Selection

app = typer.Typer(
    name="poller",
    help="An event feed for FHIR servers that can only be asked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
keys_app = typer.Typer(help="Keys of the client.", no_args_is_help=True)
deletes_app = typer.Typer(help="Deletes that wait for a person.", no_args_is_help=True)
epoch_app = typer.Typer(help="Epochs of the event log.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(deletes_app, name="deletes")
app.add_typer(epoch_app, name="epoch")


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("ehr-poller"))
        raise typer.Exit


@app.callback(invoke_without_command=False)
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and stop.")
    ] = False,
) -> None:
    """An event feed for FHIR servers that can only be asked."""


ConfigOption = Annotated[Path, typer.Option("--config", "-c", envvar="POLLER_CONFIG", help="The configuration file.")]
Practice = Annotated[str, typer.Argument(help="Code of the practice, as in the configuration.")]
DEFAULT_CONFIG = Path("config/poller.yaml")


def main() -> None:
    """Run a command; our own errors become one line on standard error and an exit code."""
    try:
        app(standalone_mode=True)
    except PollerError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"poller: {line}\n")
        sys.exit(error.exit_code)


def _make_simulator_key(path: Path) -> Path:
    """The key that the shipped configuration reads the simulator with; made at first use, so that the file runs as it is."""
    key = configuration.data_directory(path) / "keys" / "simulator.pem"
    try:
        wanted = not path.exists() or "$data_dir/keys/simulator.pem" in path.read_text(
            encoding="utf-8", errors="replace"
        )
    except OSError:
        wanted = False  # what is wrong with the file is said when it is loaded
    if wanted and not key.exists():
        key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        keys.new_key(key)
    return key


def _load(path: Path) -> Config:
    """The configuration, with the logs set up as it says. Raises ConfigError."""
    _make_simulator_key(path)
    loaded = configuration.load(path)
    logs.configure(loaded.logging.format, loaded.logging.level)
    return loaded


@app.command()
def check(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Read the configuration and say everything that is wrong with it, all at once."""
    _make_simulator_key(config)
    if problems := configuration.problems(config):
        raise ConfigError(problems)
    loaded = configuration.load(config)
    for code, practice in loaded.practices.items():
        for resource_type, feed in practice.feeds.items():
            typer.echo(f"{code} {resource_type}: {feed.describe()}")
    typer.echo(f"{config}: in order")


@app.command()
def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Poll, record and publish until stopped (SIGINT or SIGTERM)."""
    loaded = _load(config)

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        with Installation(loaded) as installation:
            await asyncio.to_thread(installation.prepare)
            await Engine(installation).run(stop)

    asyncio.run(serve())


@app.command()
def demo(
    seconds: Annotated[
        float | None, typer.Option(min=5, help="How long practices change; without, until Ctrl-C.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the verdict as one JSON object, the last line.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the simulated practices.")] = 1,
) -> None:
    """Two simulated practices, polled, published, consumed, and judged against the truth. Exits 1 on any breach."""
    # Loaded here: the simulator's clinical content takes a second, and no other command wants it.
    from poller import watch  # noqa: PLC0415
    from poller.demo import Demo, summary  # noqa: PLC0415

    logs.configure("console", "warning")
    running = Demo(seconds, seed)
    signal.signal(signal.SIGINT, lambda *_: running.stop_changes.set())
    signal.signal(signal.SIGTERM, lambda *_: running.stop_changes.set())
    verdict = running.run() if as_json else watch.watch(running)
    if as_json:
        typer.echo(json.dumps(summary(verdict)))
    else:
        watch.print_verdict(verdict)
    if not verdict["ok"]:
        raise Breach("; ".join(verdict["breaches"]))


@app.command()
def simulator(
    port: Annotated[int, typer.Option(envvar="POLLER_SIMULATOR_PORT", help="Port on loopback.")] = 8765,
    changes: Annotated[float, typer.Option(help="Changes a second in each practice.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Seed of the practices.")] = 1,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Serve the two practices that config/poller.yaml points at, until stopped. Makes the client's key if there is none."""
    from poller.simulator.command import run_simulator  # noqa: PLC0415 - as in demo

    logs.configure("console", "info")
    key = _make_simulator_key(config)
    run_simulator(key, port=port, changes_per_second=changes, seed=seed)


@keys_app.command("new")
def keys_new(
    out: Annotated[Path, typer.Option(help="Where the private key goes (PEM, readable by its owner only).")],
    kid: Annotated[str | None, typer.Option(help="Key id; without, the RFC 7638 thumbprint.")] = None,
    force: Annotated[bool, typer.Option(help="Overwrite a key that is there.")] = False,
) -> None:
    """Make a private key and, beside it, the JWKS to publish where the vendor can fetch it."""
    out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pair = keys.new_key(out, kid, force=force)
    typer.echo(f"private key: {pair.private_path}")
    typer.echo(f"public JWKS: {pair.jwks_path} (publish this one)")
    typer.echo(f"kid: {pair.kid}")


@app.command()
def tail(
    config: ConfigOption = DEFAULT_CONFIG,
    sink: Annotated[str | None, typer.Option(help="Whose exchange to listen at; without, the first sink.")] = None,
    practice: Annotated[str, typer.Option(help="Only this practice.")] = "*",
    resource_type: Annotated[str, typer.Option("--type", help="Only this resource type.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Whole events, one a line.")] = False,
) -> None:
    """Show events as they come, from a temporary queue of its own; nothing is taken from anyone's queue."""
    loaded = _load(config)
    sinks = {one.name: one for one in sinks_of(loaded)}
    chosen = sinks.get(sink) if sink is not None else next(iter(sinks.values()))
    if chosen is None:
        raise NotFound(f"no sink {sink} in the configuration; there are: {', '.join(sinks)}")
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    pattern = Only((practice,) if practice != "*" else (), (resource_type,) if resource_type != "*" else ()).patterns()
    with Installation(loaded) as installation:
        for body in installation.broker().tail(chosen.exchange, pattern, stopping):
            typer.echo(body.decode() if as_json else display.event_line(body))


@app.command("queue-url")
def queue_url(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="What kombu's Connection takes, as JSON.")] = False,
) -> None:
    """Say how a consumer reaches the queues, as lines that a shell can evaluate. Never a password."""
    loaded = _load(config)
    url, options = loaded.broker.url, dict[str, Any]()
    if loaded.is_embedded_broker:
        with Installation(loaded) as installation:
            url, options = "pgmq://", consumer_options(installation.queue_conninfo)
    if as_json:
        typer.echo(json.dumps({"url": url, "transport_options": options}))
        return
    typer.echo(f"export BROKER_URL={shlex.quote(url)}")
    if options:
        typer.echo(f"export QUEUE_DATABASE={shlex.quote(options['conn_string'])}")


@app.command()
def replay(
    practice: Practice,
    config: ConfigOption = DEFAULT_CONFIG,
    queue: Annotated[str | None, typer.Option(help="Queue to fill; without, replay.<replayid>.")] = None,
    resource_type: Annotated[str | None, typer.Option("--type", help="Only this resource type.")] = None,
    patient: Annotated[str | None, typer.Option(help="Only this patient's (logical id).")] = None,
    since: Annotated[dt.datetime | None, typer.Option(help="Detected at or after; UTC.")] = None,
    until: Annotated[dt.datetime | None, typer.Option(help="Detected before; UTC.")] = None,
    payload: Annotated[str, typer.Option(help="id-only or full-resource.")] = "full-resource",
    dry_run: Annotated[bool, typer.Option(help="Only count.")] = False,
) -> None:
    """Publish events of the past again, with their ids, to a queue of their own; the source is not asked."""
    loaded = _load(config)
    if payload not in {"id-only", "full-resource"}:
        raise ConfigError([f"--payload {payload}: there are id-only and full-resource"])
    replay_id = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S%f")[:-3]
    name = queue or f"replay.{replay_id}"
    for sink in loaded.sinks.values():
        if name in sink.queues:
            raise ConfigError(
                [f"--queue {name} is a live queue; a replay goes to a queue of its own, say replay.{replay_id}"]
            )
    selection = Selection(practice, resource_type, patient, _utc(since), _utc(until))
    with Installation(loaded) as installation:
        base_url = installation.practice(practice).base_url
        if dry_run:
            count = sum(1 for _ in installation.reading_log.select(selection, bodies=False))
            typer.echo(f"{count} events would go to {name}")
            return
        count = replay_events(
            installation.reading_log,
            installation.broker(),
            selection,
            base_url=base_url,
            payload="id-only" if payload == "id-only" else "full-resource",
            queue=name,
            replay_id=replay_id,
        )
    typer.echo(f"{count} events to queue {name}, replayid {replay_id}")


def _utc(moment: dt.datetime | None) -> dt.datetime | None:
    return moment.replace(tzinfo=dt.UTC) if moment is not None and moment.tzinfo is None else moment


@app.command()
def history(
    practice: Practice,
    resource: Annotated[str, typer.Argument(help="Type/id, e.g. Observation/lab-1.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One version a line, with the resource.")] = False,
) -> None:
    """List the versions of a resource and what changed, from the store alone."""
    resource_type, _, id_ = resource.partition("/")
    if not resource_type or not id_:
        raise NotFound("name the resource as Type/id, e.g. Observation/lab-1")
    loaded = _load(config)
    with Installation(loaded) as installation:
        code = installation.practice(practice).code
        rows = installation.reading_log.history(code, resource_type, id_)
    for line in display.history_lines(rows) if as_json else ():
        typer.echo(line)
    if not as_json:
        Console().print(display.history_table(rows))


Held = Annotated[str | None, typer.Option("--type", help="Only this resource type.")]
HeldId = Annotated[str | None, typer.Option("--id", help="Only this id.")]


@deletes_app.command("list")
def deletes_list(
    practice: Practice,
    config: ConfigOption = DEFAULT_CONFIG,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is merely missing, and what was discarded.")
    ] = False,
) -> None:
    """Deletes held because they are too many at once, and why."""
    with Installation(_load(config)) as installation:
        states = ["held", "released"] + (["missing", "discarded"] if everything else [])
        code = installation.practice(practice).code
        found = installation.deletes.listed(code, states)
    table = Table("resource", "state", "missing since", "passes", "reason")
    for absence in found:
        since = f"{absence.first_missing_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(
            f"{absence.resource_type}/{absence.id}", absence.state, since, str(absence.passes), absence.reason
        )
    Console().print(table if found else "nothing is held")


@deletes_app.command("release")
def deletes_release(
    practice: Practice, resource_type: Held = None, id_: HeldId = None, config: ConfigOption = DEFAULT_CONFIG
) -> None:
    """Let held deletes go on: each is read once more and, if still gone, published."""
    _rule(config, practice, "released", resource_type, id_)


@deletes_app.command("discard")
def deletes_discard(
    practice: Practice, resource_type: Held = None, id_: HeldId = None, config: ConfigOption = DEFAULT_CONFIG
) -> None:
    """Never publish these deletes, unless the resources are seen and go missing again."""
    _rule(config, practice, "discarded", resource_type, id_)


def _rule(config: Path, practice: str, verdict: str, resource_type: str | None, id_: str | None) -> None:
    with Installation(_load(config)) as installation:
        code = installation.practice(practice).code
        count = installation.deletes.rule(code, verdict, resource_type, id_)
    typer.echo(f"{count} {verdict}")


@epoch_app.command("start")
def epoch_start(practice: Practice, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """After a restore of the database: begin a new epoch of the practice's log, before anything is published."""
    with Installation(_load(config)) as installation:
        epoch = installation.start_epoch(installation.practice(practice).code)
    typer.echo(f"practice {practice}: epoch {epoch}")


@app.command()
def migrate(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Bring the database's schema and roles to this release; `run` does it too."""
    with Installation(_load(config)) as installation:
        installation.prepare()
    typer.echo("the schema is up to date")
