"""Sees each change exactly once, on RabbitMQ and on the embedded queue, however often it is killed.

BROKER_URL=amqp://guest:guest@localhost//  QUEUE=fhir.changes.all  python plain_consumer.py
BROKER_URL=pgmq://  QUEUE_DATABASE="host=… dbname=queue user=postgres"  QUEUE=fhir.changes.all  python plain_consumer.py
"""

# ruff: noqa: ANN001, ANN201, ARG002
# mypy: ignore-errors

import json
import os
import sqlite3

from kombu import Connection, Queue
from kombu.mixins import ConsumerMixin

db = sqlite3.connect(os.environ.get("CONSUMER_DB", "consumer.db"))
db.executescript("""
    CREATE TABLE IF NOT EXISTS known (id TEXT PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS applied (source TEXT, subject TEXT, version INTEGER, PRIMARY KEY (source, subject));
    CREATE TABLE IF NOT EXISTS journal (id TEXT, source TEXT, subject TEXT, version INTEGER, type TEXT, data TEXT);
""")


def is_new(event: dict, version: int) -> bool:
    """Delivery is at least once: drop what is known, and versions not newer than the last one applied."""
    known = db.execute("INSERT OR IGNORE INTO known VALUES (?)", [event["id"]]).rowcount == 0
    newer = db.execute(
        "INSERT INTO applied VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET version = excluded.version"
        " WHERE excluded.version > applied.version",
        [event["source"], event["subject"], version],
    ).rowcount
    return not known and newer == 1


def apply(event: dict, version: int) -> None:
    """Do here what a change is for, in the same transaction."""
    row = [event["id"], event["source"], event["subject"], version, event["type"], json.dumps(event["data"])]
    db.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)", row)


class SampleConsumer(ConsumerMixin):
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def get_consumers(self, consumer, channel):
        queue = Queue(os.environ["QUEUE"], no_declare=True)  # the poller has declared it
        return [
            consumer([queue], on_message=self.on_message, accept=["application/cloudevents+json"], prefetch_count=100)
        ]

    def on_message(self, message) -> None:
        event = json.loads(message.body)
        version = int(event["data"]["response"]["etag"].strip('W/"'))
        with db:  # the effect and the memory of it: both or neither
            if is_new(event, version):
                apply(event, version)
        message.ack()  # only now: killed before this line, it comes again and is dropped


options = {}
if os.environ["BROKER_URL"].startswith("pgmq:"):
    options = {
        "conn_string": os.environ["QUEUE_DATABASE"],
        "init_extension": False,
        "fifo_mode": "round_robin",  # strict order; without it there is none
        "visibility_timeout": int(os.environ.get("VISIBILITY_TIMEOUT", "30")),  # a killed one's messages come again
        "polling_interval": 0.2,
    }

if __name__ == "__main__":
    SampleConsumer(Connection(os.environ["BROKER_URL"], heartbeat=10, transport_options=options)).run()
