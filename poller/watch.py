"""What the demo shows: a live table while it runs, the judge's figures at its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from poller.demo import Demo
from poller.display import action_of, changed_in
from poller.simulator.judge import Received

_LATEST = 12
_REFRESH = 0.5


def watch(demo: Demo) -> dict[str, Any]:
    """Run the demo with a live table; where there is no terminal, with a line for each event."""
    console = Console()
    verdict: dict[str, Any] = {}
    failure: list[BaseException] = []

    def work() -> None:
        try:
            verdict.update(demo.run())
        except BaseException as error:  # noqa: BLE001 - raised again below, on the main thread
            failure.append(error)

    thread = threading.Thread(target=work, name="demo")
    thread.start()
    (_live if console.is_terminal else _plain)(console, demo, thread)
    thread.join()
    if failure:
        raise failure[0]
    return verdict


def _live(console: Console, demo: Demo, thread: threading.Thread) -> None:
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while thread.is_alive():
            live.update(_screen(demo))
            thread.join(_REFRESH)
        live.update(_screen(demo))


def _plain(console: Console, demo: Demo, thread: threading.Thread) -> None:
    shown = 0
    while thread.is_alive():
        thread.join(_REFRESH)
        received = list(demo.view.received)
        for one in received[shown:]:
            console.print(_row_text(one), highlight=False)
        shown = len(received)


def _screen(demo: Demo) -> Group:
    view = demo.view
    practices = Table(
        "practice", "read", "patients", "calls/60 s", "limit", "events", "created", "updated", "deleted", "baseline",
        title=f"poller demo: {view.phase}  (Ctrl-C stops the changes and judges the run)", expand=False,
    )  # fmt: skip
    world = view.server.world
    for code, practice in world.practices.items():
        events = view.events(code)
        recent = [call for call in world.calls(code) if call.arrived > time.monotonic() - 60]
        news = [one for one in events if one.event["origin"] != "baseline"]
        actions = [action_of(one.event) for one in news]
        practices.add_row(
            code,
            "by patient" if practice.spec.mode == "ecw" else "by window",
            str(len(world.written(code, "Patient"))),
            str(len(recent)),
            str(practice.spec.limit),
            str(len(events)),
            str(actions.count("created")),
            str(actions.count("updated")),
            str(actions.count("deleted")),
            str(len(events) - len(news)),
        )
    latest = Table("at", "practice", "event", "what changed", title="latest events on the queue", expand=False)
    for one in [one for one in list(view.received) if one.event["origin"] != "baseline"][-_LATEST:]:
        latest.add_row(
            f"{one.arrived:%H:%M:%S}", one.practice, f"{one.key[0]} {action_of(one.event)}", changed_in(one.event)
        )
    return Group(practices, latest)


def _row_text(one: Received) -> Text:
    said = f"{one.key[0]:<18} {action_of(one.event):<10} {one.event['origin']:<9} {changed_in(one.event)}"
    return Text(f"{one.arrived:%H:%M:%S} {one.practice} {said}")


_FIGURES = {
    "mode": "read as",
    "calls": "calls",
    "max_calls_in_60s": "most calls in 60 s",
    "changes": "changes owed",
    "events": "events of changes",
    "missed": "missed",
    "false": "false",
    "out_of_order": "out of order",
    "duplicates": "duplicates",
    "deletes": "deletes confirmed",
    "found_only_by_sweep": "found only by sweep",
}


def print_verdict(verdict: Mapping[str, Any]) -> None:
    """The judge's figures, a practice a column."""
    practices = verdict["practices"]
    table = Table("", *practices, title="judged against the simulator's truth")
    for name, said in _FIGURES.items():
        table.add_row(said, *(str(row[name]) for row in practices.values()))
    for name in ("p50", "p95", "p99"):
        delays = [row["delay_seconds"][name] for row in practices.values()]
        table.add_row(f"delay {name}", *(f"{delay:.1f} s" if delay is not None else "-" for delay in delays))
    console = Console()
    console.print(table)
    console.print("[green]every promise kept[/]" if verdict["ok"] else "[red]a promise was broken[/]")
