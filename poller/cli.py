"""Commands and exit codes; nothing else."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
from importlib.metadata import version
from typing import Annotated, Any

import typer

from poller import config as configuration
from poller import display, display_coverage, display_probe, logs, output, quiet
from poller.app import Installation, sinks_of
from poller.commands import (
    audit,
    deletes,
    epoch,
    forget,
    keys,
    pauses,
    plan,
    read_now,
    reconcile,
    reload,
    replay,
    revisions,
    run,
    schema,
    sinks,
    status,
    tokens,
    verify,
    why,
)
from poller.commands.as_of import as_of
from poller.commands.audited import note
from poller.commands.options import (
    DEFAULT_CONFIG,
    AsJson,
    ConfigOption,
    Practice,
    Reason,
    a_text,
    load,
    make_simulator_key,
)
from poller.core.audit import Action
from poller.core.capability import to_json
from poller.core.sink import Only
from poller.errors import DEGRADED, Breach, Code, ConfigError, NotFound, PollerError, StoreError
from poller.probing import last_report, probe_practice
from poller.simulator.modes import MODES

app = typer.Typer(
    name="poller",
    help="An event feed for FHIR servers that can only be asked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(keys.app, name="keys")
app.add_typer(deletes.app, name="deletes")
app.add_typer(epoch.app, name="epoch")
app.command("plan", epilog=plan.EPILOG)(plan.plan)
app.add_typer(schema.app, name="schema")
app.add_typer(sinks.app, name="sinks")
app.add_typer(replay.app, name="replay")
app.add_typer(tokens.app, name="tokens")
app.command("as-of")(as_of)
app.command("audit")(audit.audit)
app.command("run")(run.run)
app.command("reload")(reload.reload)
app.command("status")(status.status)
app.command("why")(why.why)
app.command("verify")(verify.verify)
app.command("pause")(pauses.pause)
app.command("resume")(pauses.resume)
app.command("pauses")(pauses.pauses)
app.command("read-now")(read_now.read_now)
app.command("reconcile")(reconcile.reconcile)
app.command("forget")(forget.forget)
app.add_typer(revisions.app, name="config")


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


def main() -> None:
    """Run a command; our own errors become one line on standard error and an exit code."""
    output.guard()
    try:
        try:
            app(standalone_mode=True)
        finally:
            output.flush()
    except PollerError as error:
        _say(error)
    except Exception as error:  # noqa: BLE001 - whatever it is: its words may hold a patient's data, and a traceback shows them
        _say(_explained(error))


def _say(error: PollerError) -> None:
    """Each line of it, the code behind the last, and end."""
    *before, last = str(error).splitlines() or [type(error).__name__]
    for line in [*before, f"{last} [{error.code}]"]:
        sys.stderr.write(f"poller: {line}\n")
    sys.exit(error.exit_code)


def _explained(error: Exception) -> PollerError:
    """An error that nobody expected here, without its words."""
    import psycopg  # noqa: PLC0415 - as below
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - half a second, and loaded already where it can have been raised

    from poller.store.engine import sqlstate  # noqa: PLC0415 - as above

    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:  # it never came to an answer
        return StoreError("Postgres cannot be reached; see store.url, and whether it runs", Code.STORE_UNREACHABLE)
    if isinstance(error, DBAPIError | psycopg.Error):
        ended = f"Postgres ended this ({sqlstate(error)}); ask again, and see its log if that does not help"
        return StoreError(ended, Code.STORE_ENDED)
    where = " < ".join(reversed(quiet.frames(error)[-3:]))
    return PollerError(f"a defect: {quiet.said(error)} at {where}; please report this line", Code.DEFECT)


@app.command()
def check(config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Read the configuration and say everything that is wrong with it, all at once; also what the store knows cannot be kept.

    Exits 0 if it is in order, 2 with each problem on a line. Example: poller check --config /etc/poller/poller.yaml
    """
    make_simulator_key(config)
    if problems := configuration.problems(config):
        raise ConfigError(problems)
    loaded = configuration.load(config)
    feeds = [
        f"{code} {resource_type}: {feed.describe(resource_type)}"
        for code, practice in loaded.practices.items()
        for resource_type, feed in practice.feeds.items()
    ]
    weighed = list(plan.weigh(loaded, config))
    told = "\n".join([*feeds, *weighed, f"{config}: in order"])
    display.answer(told, in_json=as_json, file=str(config), feeds=feeds, notes=weighed)


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
    """Two simulated practices, polled, published, consumed, and judged against the truth.

    Exits 1 on any breach of a promise. Example: poller demo --seconds 30
    """
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
    mode: Annotated[
        str | None, typer.Option(help=f"What the practice of this kind of server is like: {', '.join(MODES)}.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Serve the two practices that config/poller.yaml points at, until stopped. Makes the client's key if there is none.

    Exits 0 when stopped. Example: poller simulator --changes 10
    """
    from poller.simulator.command import demo_practices, run_simulator  # noqa: PLC0415 - as in demo

    logs.configure("console", "info")
    practices = demo_practices(mode)
    key = make_simulator_key(config)
    run_simulator(key, port=port, changes_per_second=changes, seed=seed, practices=practices)


@app.command()
def tail(
    config: ConfigOption = DEFAULT_CONFIG,
    sink: Annotated[
        str | None, typer.Option(help="Whose exchange to listen at; without, the first sink.", callback=a_text)
    ] = None,
    practice: Annotated[str, typer.Option(help="Only this practice.", callback=a_text)] = "*",
    resource_type: Annotated[str, typer.Option("--type", help="Only this resource type.", callback=a_text)] = "*",
    reason: Reason = "",
    as_json: Annotated[bool, typer.Option("--json", help="Whole events, one a line.")] = False,
) -> None:
    """Show events as they come, from a temporary queue of its own; nothing is taken from anyone's queue.

    Exits 0 when stopped, 5 for the broker, 6 for an unknown sink. Example: poller tail --practice FAMLYM --type Observation
    """
    loaded = load(config)
    known = {one.name: one for one in sinks_of(loaded)}
    chosen = known.get(sink) if sink is not None else next(iter(known.values()))
    if chosen is None:
        raise NotFound(f"no sink {sink} in the configuration; there are: {', '.join(known)}")
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    pattern = Only((practice,) if practice != "*" else (), (resource_type,) if resource_type != "*" else ()).patterns()
    with Installation(loaded) as installation:
        kind = resource_type if resource_type != "*" else None
        note(installation, Action.TAIL, practice, reason, sink=chosen.name, type=kind)
        for body in installation.broker().tail(chosen.exchange, pattern, stopping):
            typer.echo(body.decode() if as_json else display.event_line(body))


@app.command("queue-url")
def queue_url(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="What kombu's Connection takes, as JSON.")] = False,
) -> None:
    """Say how a consumer reaches the queues, as lines that a shell can evaluate. Never a password.

    Exits 0, or 2 for the configuration. Example: eval "$(poller queue-url)"
    """
    loaded = load(config)
    url, options = loaded.broker.url, dict[str, Any]()
    if loaded.is_embedded_broker:
        from poller.broker.pgmq import consumer_options  # noqa: PLC0415 - a second, for those who have that broker

        with Installation(loaded) as installation:
            url, options = "pgmq://", consumer_options(installation.queue_conninfo)
    elif loaded.untested_transport is not None:
        from poller.broker.plain import kombu_options  # noqa: PLC0415 - as above

        url, options = kombu_options(url)
    if as_json:
        typer.echo(json.dumps({"url": url, "transport_options": options}))
        return
    said = (
        url if loaded.is_embedded_broker else loaded.broker.url
    )  # with the directory, where that is not kombu's to see in a URL
    typer.echo(f"export BROKER_URL={shlex.quote(said)}")
    if "conn_string" in options:
        typer.echo(f"export QUEUE_DATABASE={shlex.quote(options['conn_string'])}")
    elif options:
        typer.echo(f"export TRANSPORT_OPTIONS={shlex.quote(json.dumps(options))}")


@app.command()
def history(
    practice: Practice,
    resource: Annotated[str, typer.Argument(help="Type/id, e.g. Observation/lab-1.", callback=a_text)],
    reason: Reason = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One version a line, with the resource.")] = False,
) -> None:
    """List the versions of a resource and what changed, from the store alone.

    Exits 4 for the store, 6 for an unknown practice or resource.
    Example: poller history FAMLYM Observation/lab-1 --reason "asked by the practice"
    """
    resource_type, _, id_ = resource.partition("/")
    if not resource_type or not id_:
        raise NotFound("name the resource as Type/id, e.g. Observation/lab-1")
    loaded = load(config)
    with Installation(loaded) as installation:
        code = installation.practice(practice).code
        note(installation, Action.HISTORY, code, reason, resource=resource)
        rows = installation.reading_log.history(code, resource_type, id_)
    for line in display.history_lines(rows) if as_json else ():
        typer.echo(line)
    if not as_json:
        display.console().print(display.history_table(rows))


@app.command()
def coverage(
    practice: Practice,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what of a practice has been read and what never was, from the store alone.

    Exits 3 if something never was, 4 for the store, 6 for an unknown practice. Example: poller coverage FAMLYM
    """
    with Installation(load(config)) as installation:
        chosen = installation.practice(practice)
        found = installation.coverage.look(chosen.code, display_coverage.categorised(chosen))
    report = display_coverage.judge(chosen, found)
    display_coverage.show(report, display.console(), in_json=as_json)
    if report.never:
        raise typer.Exit(DEGRADED)


@app.command()
def probe(
    practice: Practice,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with the evidence.")] = False,
    stored: Annotated[bool, typer.Option(help="What was found last; the practice is not asked.")] = False,
) -> None:
    """Ask a practice what it allows, in few calls of its budget: what can be read, how, and why not.

    Exits 3 if something cannot be read, 4 for the store, 6 for an unknown practice. Example: poller probe FAMLYM
    """
    with Installation(load(config)) as installation:
        chosen = installation.practice(practice)
        report = last_report(installation, chosen) if stored else probe_practice(installation, chosen)
    if as_json:
        typer.echo(json.dumps(to_json(report)))
    else:
        display_probe.show(report, chosen, display.console())
    if display_probe.is_degraded(report, chosen):
        raise typer.Exit(DEGRADED)


@app.command()
def migrate(config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Bring the database's schema and roles to this release; `run` does it too.

    Exits 0 when it is there, 2 for the configuration, 4 for the store. Example: poller migrate --config /etc/poller/poller.yaml
    """
    with Installation(load(config)) as installation:
        installation.prepare()
    display.answer("the schema is up to date", in_json=as_json, migrated=True)
