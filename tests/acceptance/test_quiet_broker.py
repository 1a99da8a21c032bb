"""Guarantee 6, quiet: RabbitMQ's log holds nothing of a patient, whatever it has refused of us, or lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kombu.connection import Connection

from poller.broker.port import Cause
from poller.core.envelope import Message
from poller.errors import BrokerError
from tests.acceptance.parts import wait_until
from tests.acceptance.story import MARK

if TYPE_CHECKING:
    from tests.broker_bench import Rabbit

pytest_plugins = ["tests.broker_bench"]

LOGS = Path("/var/log/rabbitmq")


@pytest.fixture
def logs() -> dict[Path, int]:
    """RabbitMQ's logs on this machine, and how long they are."""
    found = {path: path.stat().st_size for path in LOGS.glob("*.log")} if os.access(LOGS, os.R_OK) else {}
    if not found:
        reason = "RabbitMQ's log cannot be read here"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return found


def written(logs: dict[Path, int]) -> bytes:
    """What has been logged since; it comes to the disk a while later."""
    return b"".join(path.read_bytes()[before:] for path, before in logs.items())


def a_message(number: int, size: int = 0) -> Message:
    id_ = f"{MARK}-{number}"
    body = f'{{"specversion":"1.0","id":"{id_}","subject":"Observation/{id_}","x":"{"x" * size}"}}'.encode()
    return Message(
        id_, f"P/Observation/{id_}", "fhir.P.Observation.updated", body, {"id": id_, "subject": f"Observation/{id_}"}
    )


def test_rabbitmq_logs_no_mark(rabbit: Rabbit, logs: dict[Path, int]) -> None:
    """Unroutable, refused by a full queue, too large, a second relay shut out, and a line cut with messages in flight."""
    broker = rabbit.broker()
    publisher, second = broker.publisher(rabbit.sink), broker.publisher(rabbit.sink)
    try:
        assert publisher.publish([a_message(n) for n in range(50)]).confirmed == 50
        with pytest.raises(BrokerError, match="another relay"):
            second.open()
        rabbit.unbind()
        assert publisher.publish([a_message(51)]).cause is Cause.UNROUTABLE
        rabbit.bind()
        assert publisher.publish([a_message(52, 140_000_000)]).cause is Cause.UNACCEPTABLE
        proxy = rabbit.proxy()
        through = rabbit.broker(proxy)
        publisher.close()
        publisher = through.publisher(rabbit.sink)
        publisher.publish([a_message(53)])
        proxy.cut()
        with pytest.raises(BrokerError):
            publisher.publish([a_message(54)])
    finally:
        publisher.close()
        second.close()
    wanted = (b"resource_locked", b"larger than", b"client unexpectedly closed")
    wait_until("it has logged what went wrong", lambda: all(one in written(logs).lower() for one in wanted), 60)
    assert MARK.encode() not in written(logs)


def test_a_mark_that_is_in_the_log_would_be_found(rabbit: Rabbit, logs: dict[Path, int]) -> None:
    """RabbitMQ names queues when it refuses one: so no queue of ours may bear a patient's id, and none does."""
    with Connection(rabbit.url) as connection:  # type: ignore[no-untyped-call] # kombu says it is typed and is not
        channel = connection.channel()
        name = f"{MARK}.{os.getpid()}"
        channel.queue_declare(name, durable=True, auto_delete=False)
        with pytest.raises(Exception, match="PRECONDITION_FAILED"):
            channel.queue_declare(name, durable=False, auto_delete=False)
        connection.channel().queue_delete(name)
    wait_until("it is in the log", lambda: MARK.encode() in written(logs), 60)
