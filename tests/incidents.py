"""A practice whose store a test prepares as an incident leaves it, and what the commands for on-call say of it. No poller runs."""

from __future__ import annotations

import copy
import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from poller import cli
from poller.core.ladder import Footing
from poller.core.model import Kind, Strategy, Target
from poller.store.configurations import ConfigurationStore
from poller.store.control import ControlStore
from poller.store.engine import RELAY, open_engine
from poller.store.heartbeat import HeartbeatStore
from poller.store.sinks import SinkLog
from poller.store.vault import PLAIN
from tests.integration.conftest import Practice

CODE = "FAMLYM"
RUNNER = CliRunner()
SECOND = dt.timedelta(seconds=1)


@dataclass
class Present(Practice):
    """A practice whose reads are of the last minute: second 60 of it is now."""

    code: str = CODE
    began: dt.datetime = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

    def __post_init__(self) -> None:
        self.began = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=60)
        super().__post_init__()

    def at(self, second: float) -> dt.datetime:
        return self.began + dt.timedelta(seconds=second)


class Scene:
    """The practice with two feeds read by sweeps, a sink, and a poller that looks after it: nothing is wrong.

    However slow the machine is on which this runs: the poller will have been there for the next ten minutes.
    """

    def __init__(self, engine: Engine, database: str, directory: Path) -> None:
        self.practice = Present(engine)
        self.control = ControlStore(engine)
        self.configurations = ConfigurationStore(engine)
        self.relay = open_engine(database, RELAY)
        self.sinks = SinkLog(self.relay)
        self.file = directory / "poller.yaml"
        at = conninfo_to_dict(database)
        self._store = f"postgresql://{at['user']}@{at['host']}:{at.get('port', 5432)}/{at['dbname']}"
        self.write(["Observation", "Condition"])
        self.accept()
        for feed in ("Observation", "Condition"):
            self.read_by(feed, Strategy.SWEEP)
        self.practice.whole(self.practice.observation(), target=self.sweep("Observation"))
        self.practice.whole(target=self.sweep("Condition"))
        self._is_looked_after = True
        self.change("UPDATE poller.lease SET taken_at = now() + interval '10 minutes' WHERE practice = :code")

    def close(self) -> None:
        self.practice.keeper.close()
        self.relay.dispose()

    def write(self, feeds: list[str], *, more: str = "", every: str = "5m", sinks: str = "") -> None:
        """Write the configuration."""
        said = ", ".join(f"{feed}: {{every: {every}}}" for feed in feeds)
        self.file.write_text(
            f"store: {{url: '{self._store}', digest_key: {{env: KEY}}}}\n"
            f"encryption: {{keys: [{'{name: k1, env: MASTER}' if PLAIN.seals else ''}]}}\n"
            f"sinks: {sinks or '{changes: {exchange: fhir.changes, queues: [q], baseline: publish}}'}\n"
            f"practices: {{{CODE}: {{base_url: 'https://ehr.example/A', auth: none, feeds: {{{said}}}{more}}}}}\n",
            "utf-8",
        )

    def accept(self) -> int:
        """Have it in force."""
        return self.configurations.accept("poller", self.file.read_text("utf-8"), actor="ann@host", reason="start")

    def sweep(self, feed: str) -> Target:
        return Target(CODE, feed, Kind.SWEEP)

    def read_by(self, feed: str, rung: Strategy, *targets: Target) -> None:
        """Have a feed read so."""
        self.practice.register(*(targets or [self.sweep(feed)]))
        footing = Footing(rung, (rung,), {})
        self.practice.state.save_rung(self.practice.lease, feed, footing, "proven", {}, self.practice.at(0))

    def beat(self, seconds_ago: float) -> None:
        """A poller looked after the practice so long ago, and has not since."""
        self._is_looked_after = False
        HeartbeatStore(self.practice.engine).note(None, {CODE: dt.timedelta(seconds=seconds_ago)})

    def change(self, statement: str, **binds: Any) -> None:
        with self.practice.engine.begin() as connection:
            connection.execute(text(statement), {"code": CODE} | binds)

    def poller(self, *words: str) -> Result:
        """Run a command by the file."""
        if self._is_looked_after:
            self.beat(0)
            self._is_looked_after = True
        return RUNNER.invoke(
            cli.app, [*words, "-c", str(self.file)], env={"COLUMNS": "100", "KEY": "k" * 32, "MASTER": "6d" * 32}
        )

    def told(self, exit_code: int, *words: str, schema: dict[str, Any]) -> dict[str, Any]:
        """The same with --json: an object that fits the schema, and has no member besides."""
        result = self.poller(*words, "--json")
        assert result.exit_code == exit_code, (result.output, result.exception)
        found: dict[str, Any] = json.loads(result.stdout)
        jsonschema.validate(found, closed(schema), format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)
        return found


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, in which a member without a name is a mistake, at any depth."""
    shut = copy.deepcopy(schema)

    def close(part: Any) -> None:
        if isinstance(part, dict):
            if "properties" in part:
                part["additionalProperties"] = False
            for below in part.values():
                close(below)

    close(shut)
    return shut
