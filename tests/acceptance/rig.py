"""The whole engine against a simulator: configuration, the poller as a process, a plain consumer, and what to wait for."""

# mypy: disable-error-code="no-untyped-call"
# kombu says it is typed and is not.

from __future__ import annotations

import contextlib
import datetime as dt
import json
import secrets
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kombu.connection import Connection
from structlog.testing import capture_logs

from poller.app import Engine, Installation
from poller.broker.pgmq import consumer_options
from poller.config import Config, load
from poller.demo import running
from poller.simulator.alignment import content_of
from poller.simulator.command import demo_server
from poller.simulator.judge import FeedSchedule
from poller.simulator.spec import PracticeSpec
from poller.store.deletes import DeleteStore
from poller.store.engine import READER
from poller.store.state import StateStore
from tests.acceptance.parts import Collector, Poller, Services, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Engine as Database

ECW, OPEN = "ACCEC", "ACCOP"
TYPES = ("Encounter", "Observation", "Condition")
CATEGORIES = ("laboratory", "vital-signs")
NAMES = ("A", "B", "C", "D")
FAST = 6000
"""Calls a minute, where the budget is not what is tested."""
_DAY = 2.0 / 86_400

FEEDS: dict[str, Any] = {
    "Patient": {},
    "Encounter": {},
    "Observation": {"categories": list(CATEGORIES)},
    "Condition": {},
}


def spec(code: str, **more: Any) -> PracticeSpec:
    """A small practice: ecw or open, as its code says."""
    usual: dict[str, Any] = {
        "mode": "ecw" if code == ECW else "open",
        "patients": 3 if code == ECW else 6,
        "types": TYPES,
        "name_initials": "".join(NAMES),
        "labs_per_patient": 4,
        "tempo": _DAY,
        "page_size": 10,
        "limit": FAST,
    }
    return PracticeSpec(code, **(usual | more))


@dataclass
class Rig:
    """Simulated practices, and the configuration of a poller of them."""

    home: Path
    services: Services
    specs: Sequence[PracticeSpec]
    rate: float = 0.0
    """Changes a second in each practice."""
    seed: int = 1
    every: Mapping[str, str] = field(default_factory=lambda: {"every": "1s", "sweep_every": "2s"})
    practice: Mapping[str, Any] = field(default_factory=dict)
    """More settings of every practice."""
    sinks: Mapping[str, Any] = field(default_factory=dict)
    """More sinks; ``{mark}`` in names is replaced."""
    level: str = "info"
    mark: str = field(default_factory=lambda: secrets.token_hex(3))

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.server = demo_server(
            self.home / "keys" / "client.pem",
            port=0,
            changes_per_second=self.rate,
            seed=self.seed,
            practices=self.specs,
        )
        self.world = self.server.world
        self.path = self.home / "poller.yaml"
        self.path.write_text(json.dumps(self.settings()), encoding="utf-8")  # JSON is YAML
        self._stack = contextlib.ExitStack()
        self._pollers: list[Poller] = []

    def __enter__(self) -> Self:
        self._stack.enter_context(self.server)
        self._stack.callback(self._clear_broker)
        self._stack.callback(self._end_pollers)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def queue(self) -> str:
        """Where the full-resource events go."""
        return f"{self.mark}.full"

    def settings(self) -> dict[str, Any]:
        """The configuration, as YAML would hold it."""
        full = {
            "exchange": f"{self.mark}.x.full",
            "payload": "full-resource",
            "baseline": "publish",
            "queues": [self.queue],
        }
        more = json.loads(json.dumps(dict(self.sinks)).replace("{mark}", self.mark))
        common = {
            "token_url": self.server.token_url,
            "key": {"file": str(self.home / "keys" / "client.pem")},
            "overlap": "3s",
            "timeout": "5s",
            "budget": {"calls_per_minute": self.specs[0].limit, "max_in_flight": 6},
            "patients": {"names": list(NAMES)},
            "every_feed": dict(self.every),
            "feeds": FEEDS,
        }
        practices = {
            one.code: common
            | {"base_url": self.server.base_url(one.code), "client_id": one.client}
            | dict(self.practice)
            for one in self.specs
        }
        return {
            "data_dir": str(self.home),
            **self.services.settings,
            "sinks": {"full": full, **more},
            "http": {"listen": "127.0.0.1:0"},
            "logging": {"format": "json", "level": self.level},
            "practices": practices,
        }

    def config(self) -> Config:
        """As the poller reads it."""
        return load(self.path)

    def installation(self) -> Installation:
        """The store and broker, from the test's process; one for the rig's life."""
        if not hasattr(self, "_installation"):
            self._installation = self._stack.enter_context(Installation(self.config()))
        return self._installation

    @cached_property
    def reader(self) -> Database:
        """One connection for all looks at the store: each look with its own would take all that the server has."""
        return self.installation().engine(READER, 1)

    def poller(self, variant: str | None = None, name: str = "poller", options: Sequence[str] = ()) -> Poller:
        """Start one; it is killed with the rig, if it is still there."""
        made = Poller(self.path, self.home / f"{name}.log", variant, options)
        self._pollers.append(made)
        return made

    def connect(self) -> Any:
        """A kombu connection as any consumer would make it."""
        if self.services.amqp is not None:
            return Connection(self.services.amqp)
        options = consumer_options(self.installation().queue_conninfo)
        return Connection("pgmq://", transport_options=options)

    def collector(self, queue: str | None = None) -> Collector:
        """A consumer of a queue, by default of the full-resource one."""
        if self.services.amqp is None:
            self.installation().queue_conninfo  # noqa: B018 - started here, not on the consumer's thread
        return Collector(self.connect, queue or self.queue, self.server.clock)

    @contextlib.contextmanager
    def engine(self, make: Callable[[Installation], Engine] = Engine) -> Iterator[Engine]:
        """An engine in this process, on a thread; raises what ended it early, and says with a failure what was logged last."""
        installation = self.installation()  # two of one process would stop the embedded server for each other
        with capture_logs() as lines:
            try:
                installation.prepare()
                with running(make(installation)) as engine:
                    yield engine
            except BaseException as error:
                error.add_note("logged last:\n" + "\n".join(str(line) for line in lines[-60:]))
                raise

    def has_baselines(self) -> bool:
        """Whether all that is read now has been read whole once: what is found from then on is a change."""
        states = StateStore(self.reader)
        found = [state for one in self.specs for state in states.targets(one.code, ())]
        kinds = {state.target.resource_type for state in found}
        return kinds >= set(FEEDS) and all(state.baseline_at or state.target.kind.is_window for state in found)

    def come_round(self, received: Callable[[], int], seconds: float = 120) -> None:
        """Wait until every target has been read whole since now, absences are settled, and nothing more arrives."""
        states, deletes = StateStore(self.reader), DeleteStore(self.reader)
        codes = [one.code for one in self.specs]
        quiet_at = self.server.clock() + dt.timedelta(seconds=0.5)
        looks: list[int] = []
        open_: list[str] = []
        """What is not settled yet, by practice and kind; no ids."""

        def settled() -> bool:
            open_[:] = [
                f"{code} {state.target.resource_type} {state.target.kind.value} unread, {state.failures} failures"
                for code in codes
                for state in states.targets(code, ())
                if state.complete_began is None or state.complete_began <= quiet_at
            ]
            open_.extend(
                f"{code} {absence.resource_type} {absence.state}: {absence.reason}"
                for code in codes
                for absence in deletes.listed(code, ["missing", "released"])
            )
            open_.extend(() if self.drained() else ["events behind a cursor"])
            if open_:
                looks.clear()
            looks.append(received())
            return len(looks) > 3 and len(set(looks[-3:])) == 1

        try:
            wait_until("every schedule comes round, and all is consumed", settled, seconds, every=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}; open: {Counter(open_)}") from None

    def drained(self) -> bool:
        """Whether every sink has passed the whole log."""
        log = self.installation().reading_log
        return all(
            (at.epoch, at.sequence) == (at.head_epoch, at.head)
            for sink in self.config().sinks
            for at in log.positions(sink)
        )

    def schedules(self) -> dict[str, list[FeedSchedule]]:
        """What the judge is told of the feeds."""
        return {one.code: list(_schedules(self.config(), one)) for one in self.specs}

    def truth(self, code: str) -> dict[str, bytes]:
        """Reference → content of all that the practice's feeds cover, as it truly is."""
        state = {}
        for resource_type in FEEDS:
            for name, resource in self.world.written(code, resource_type).items():
                if resource_type == "Observation" and not _has_category(resource):
                    continue
                content = content_of(resource)
                if content is not None:
                    state[f"{resource_type}/{name}"] = content
        return state

    def _end_pollers(self) -> None:
        for poller in self._pollers:
            if poller.process.poll() is None:
                poller.kill()

    def _clear_broker(self) -> None:
        if self.services.amqp is None:
            return
        with Connection(self.services.amqp) as connection:
            channel = connection.channel()
            for sink in self.settings()["sinks"].values():  # whatever a test has made of the file
                channel.exchange_delete(sink["exchange"])
                for queue in sink["queues"]:
                    channel.queue_delete(queue)
                    channel.queue_delete(f"{queue}.dead")


def _has_category(resource: Mapping[str, Any]) -> bool:
    codes = {coding.get("code") for concept in resource.get("category", ()) for coding in concept.get("coding", ())}
    return not codes.isdisjoint(CATEGORIES)


def _schedules(config: Config, one: PracticeSpec) -> Iterator[FeedSchedule]:
    practice, windows = config.practices[one.code], one.mode == "open"
    for resource_type, feed in practice.feeds.items():
        assert feed.every is not None
        yield FeedSchedule(
            resource_type,
            every=feed.every.total_seconds(),
            categories=feed.categories,
            sweep_every=feed.sweep_every.total_seconds() if windows and feed.sweep_every is not None else None,
            names=practice.patients.names if not windows and resource_type == "Patient" else (),
        )
