"""kombu's other transports: our side of them, over the ones that need nothing but kombu. What they keep is not ours to promise."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import contextlib
import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from kombu import transport
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from poller import cli
from poller.app import Engine, Installation
from poller.broker import plain
from poller.broker.plain import PlainBroker, PlainPublisher, kombu_options
from poller.broker.port import Outcome
from poller.config import load
from poller.config.values import OTHER_TRANSPORTS, check_broker_url
from poller.core.envelope import CONTENT_TYPE, Message
from poller.core.sink import Only, Sink
from poller.demo import running as engine_running
from poller.errors import BrokerError, ConfigError
from tests.relaying import Consumed, passed, running, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.relaying import History

pytest_plugins = ["tests.relay_bench"]

SINK = Sink("s", "plain.x", ("plain.q",))


def a_message(number: int, type_: str = "Observation") -> Message:
    return Message(
        f"e{number}",
        f"{type_}/{number}",
        f"fhir.A.{type_}.created",
        b'{"n":%d,"v":13.20}' % number,
        {"id": f"e{number}"},
    )


def taken(url: str, queue: str, count: int) -> list[Any]:
    """So many messages, as a plain kombu consumer has them."""
    found: list[Any] = []

    def take(message: Any) -> None:
        message.ack()
        found.append(message)

    address, options = kombu_options(url)
    with (
        Connection(address, transport_options=options | {"polling_interval": 0.01}) as connection,
        Consumer(connection.channel(), [Queue(queue)], on_message=take, accept=[CONTENT_TYPE]),
    ):
        while len(found) < count:
            connection.drain_events(timeout=20)
    return found


def octets(message: Any) -> bytes:
    return message.body.encode() if isinstance(message.body, str) else bytes(message.body)


def test_what_is_published_reaches_the_queues_that_want_it(tmp_path: Path) -> None:
    url = f"filesystem://{tmp_path}/spool"
    narrow = Sink("s", "plain.x", ("plain.q",), only=Only(types=("Observation",)))
    with contextlib.closing(PlainBroker(url).publisher(narrow)) as publisher:
        messages = [*map(a_message, range(20)), a_message(99, "Patient")]
        assert publisher.publish(messages) == Outcome(21)
        publisher.declare()
    found = taken(url, "plain.q", 20)
    assert {octets(one) for one in found} == {one.body for one in messages[:20]}
    assert {one.content_type for one in found} == {CONTENT_TYPE}
    assert {one.headers["ce-id"] for one in found} == {f"e{n}" for n in range(20)}


def test_a_replay_goes_past_the_exchange(tmp_path: Path) -> None:
    url = f"filesystem://{tmp_path}/spool"
    with contextlib.closing(PlainBroker(url).queue_publisher("again")) as publisher:
        assert publisher.publish([a_message(1)]) == Outcome(1)
    assert [octets(one) for one in taken(url, "again", 1)] == [b'{"n":1,"v":13.20}']


def test_order_is_what_the_transport_makes_of_it() -> None:
    def connect() -> Any:
        connection = Connection("memory://")
        connection.connect()
        return connection

    broker = PlainPublisher(connect, SINK.exchange, lambda channel: plain._declare(channel, SINK))
    messages = list(map(a_message, range(50)))
    with contextlib.closing(broker):
        assert broker.publish(messages) == Outcome(50)
        assert [octets(one) for one in taken("memory://", "plain.q", 50)] == [one.body for one in messages]


def test_a_relay_carries_the_log_and_its_books_balance(history: History, tmp_path: Path) -> None:
    url = f"filesystem://{tmp_path}/spool"
    for n in range(7):
        history.change("A", f"o{n % 3}", str(n))
    with running(history.log, PlainBroker(url), SINK):
        until(lambda: passed(history.log, SINK, "A"))
    books = history.books(SINK)
    assert (books.recorded, books.delivered, books.parked, books.waiting, books.missing) == (7, 7, 0, 0, 0)
    bodies = sorted(map(octets, taken(url, "plain.q", 7)), key=lambda body: str(json.loads(body)["sequence"]))
    consumed = Consumed().take(bodies)
    assert (consumed.complaints, consumed.gaps, consumed.versions) == ([], set(), history.versions())


def test_a_broker_that_is_not_there_is_told_without_its_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    publisher = PlainBroker(f"filesystem://{tmp_path}/file/spool").publisher(SINK)
    with pytest.raises(BrokerError) as refused:
        publisher.publish([a_message(1)])
    assert str(refused.value) == "the broker cannot be reached or refused (NotADirectoryError)"
    publisher.halt()
    publisher.close()


def test_a_publisher_that_is_halted_sends_no_more(tmp_path: Path) -> None:
    broker = PlainBroker(f"filesystem://{tmp_path}/spool")
    publisher = broker.publisher(SINK)
    publisher.open()
    publisher.halt()
    with pytest.raises(BrokerError, match="told to stop"):
        publisher.publish([a_message(1)])
    assert not list((tmp_path / "spool").glob("*.msg"))
    with pytest.raises(BrokerError, match="tail"):
        broker.tail("plain.x", (), None)  # type: ignore[arg-type]


def test_the_engine_says_at_its_start_that_it_is_untested(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "k" * 32)
    at = conninfo_to_dict(database_url)
    store = f"postgresql://{at['user']}@{at['host']}:{at.get('port', 5432)}/{at['dbname']}"
    file = tmp_path / "poller.yaml"
    file.write_text(
        f"store: {{url: '{store}', digest_key: {{env: KEY}}}}\nbroker: {{url: 'filesystem://{tmp_path}/spool'}}\n"
        "http: {listen: '127.0.0.1:0'}\nsinks: {s: {exchange: plain.x, queues: [plain.q]}}\n"
        "practices: {A: {base_url: 'http://127.0.0.1:1/A', auth: none, feeds: {Observation: {every: 5m}}}}\n"
    )
    loaded = load(file)
    assert loaded.untested_transport == "filesystem"
    with structlog.testing.capture_logs() as lines, Installation(loaded) as installation:
        installation.prepare()
        with engine_running(Engine(installation)):
            until(lambda: bool(list((tmp_path / "spool").iterdir()) if (tmp_path / "spool").exists() else []))
    told = [line for line in lines if line.get("action") == "broker.untested"]
    assert [(line["log_level"], line["transport"]) for line in told] == [("warning", "filesystem")]
    assert "at-least-once as far as that transport keeps what it has accepted" in told[0]["event"]


@pytest.mark.parametrize(("transport_", "package"), [("redis", "redis"), ("gcpubsub", "google-cloud-pubsub")])
def test_a_package_that_is_missing_is_named(transport_: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        if "." in name:
            raise ModuleNotFoundError(name)

    monkeypatch.setattr(plain, "find_spec", missing)
    with pytest.raises(ConfigError, match=f"needs the Python package {package}, which is not installed"):
        PlainBroker(f"{transport_}://127.0.0.1")


def test_every_transport_that_is_taken_is_one_of_kombu_and_what_it_needs_is_known() -> None:
    assert plain.NEEDS.keys() == OTHER_TRANSPORTS
    assert set(transport.TRANSPORT_ALIASES) > OTHER_TRANSPORTS


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:6379/1", "rediss://user@h.example.org", "sqs://", "filesystem:///var/spool/poller"]
)
def test_urls_that_are_taken(url: str) -> None:
    assert check_broker_url(url) == url


def test_queue_url_names_the_directory(tmp_path: Path) -> None:
    file = tmp_path / "poller.yaml"
    file.write_text(
        f"broker: {{url: 'filesystem://{tmp_path}/a%20spool'}}\nsinks: {{s: {{exchange: plain.x, queues: [plain.q]}}}}\n"
        "practices: {A: {base_url: 'http://127.0.0.1:1/A', auth: none, feeds: {Observation: {every: 5m}}}}\n"
    )
    folder = f"{tmp_path}/a spool"
    options = {"data_folder_in": folder, "data_folder_out": folder, "control_folder": f"{folder}/control"}
    said = CliRunner().invoke(cli.app, ["queue-url", "-c", str(file)])
    names = dict(line.removeprefix("export ").partition("=")[::2] for line in said.stdout.splitlines())
    assert shlex.split(names["BROKER_URL"]) == [f"filesystem://{tmp_path}/a%20spool"]
    assert json.loads(shlex.split(names["TRANSPORT_OPTIONS"])[0]) == options
    in_json = CliRunner().invoke(cli.app, ["queue-url", "--json", "-c", str(file)])
    assert json.loads(in_json.stdout) == {"url": "filesystem://", "transport_options": options}
