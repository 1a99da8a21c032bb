"""The command that polls."""

from __future__ import annotations

import asyncio
import resource
import signal
from typing import Annotated

import structlog
import typer

from poller import metrics, spans
from poller.app import Engine, Installation, collect_seldom
from poller.commands.options import DEFAULT_CONFIG, ConfigOption, DataDirOption, last_good, load_written
from poller.errors import ConfigError
from poller.reloading import Written

log = structlog.get_logger(__name__)


def run(
    config: ConfigOption = DEFAULT_CONFIG,
    fall_back: Annotated[
        bool, typer.Option("--last-good", help="If the file is broken, run by what was accepted last, and say so.")
    ] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Poll, record and publish until stopped (SIGINT or SIGTERM); SIGHUP reads the configuration again.

    Example: poller run --config /etc/poller/poller.yaml --last-good

    Exits 0 when stopped, 2 if the configuration is refused (with --last-good: and none was accepted before), 4 for the store.
    """
    try:
        written = load_written(config)
    except ConfigError as broken:
        if not fall_back:
            raise
        written, revision = last_good(config, data_dir, broken)
        metrics.CONFIG_REFUSED.set(1)
        log.bind(problems=broken.problems).error(
            "the configuration file is broken; this runs by what was accepted last. Mend the file, then `poller reload`",
            action="config.last-good",
            revision=revision.revision,
            accepted_at=revision.accepted_at,
        )
    asyncio.run(_serve(written))


async def _serve(written: Written) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with Installation(written.config) as installation:
        await asyncio.to_thread(installation.prepare)
        engine = Engine(installation, written)
        collect_seldom()
        spans.configure()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold patients' data and keys
        asked: set[asyncio.Task[None]] = set()

        def ask_reload() -> None:
            task = loop.create_task(engine.ask_reload("SIGHUP"))
            asked.add(task)
            task.add_done_callback(asked.discard)

        loop.add_signal_handler(signal.SIGHUP, ask_reload)
        await engine.run(stop)
