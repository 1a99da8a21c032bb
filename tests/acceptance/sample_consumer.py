"""Sees each change exactly once, on RabbitMQ and on the embedded queue, however often it is killed.

BROKER_URL=amqp://guest:guest@localhost//  QUEUE=fhir.changes.all  python sample_consumer.py
BROKER_URL=pgmq://  QUEUE_DATABASE="host=… dbname=queue user=postgres"  QUEUE=fhir.changes.all  python sample_consumer.py
"""

import json
import os

from sqlalchemy import Connection, create_engine, text

from poller.consumer import Change, Consumer, Memory, pgmq_options

engine = create_engine(os.environ.get("CONSUMER_DB", "sqlite:///consumer.db"))  # or postgresql+psycopg://…


def apply(change: Change, transaction: Connection) -> None:
    """Do here what a change is for, by this connection: effect and memory are committed together, or neither."""
    row = {name: getattr(change, name) for name in ("id", "source", "subject", "version", "action")}
    insert = text("INSERT INTO journal VALUES (:id, :source, :subject, :version, :action, :data)")
    transaction.execute(insert, row | {"data": json.dumps(dict(change.data))})


options = {}
if os.environ["BROKER_URL"].startswith("pgmq:"):
    seconds = int(os.environ.get("VISIBILITY_TIMEOUT", "30"))  # then what a killed one had read comes again
    options = pgmq_options(os.environ["QUEUE_DATABASE"], visibility_timeout=seconds)

if __name__ == "__main__":
    with engine.begin() as connection:
        columns = "id TEXT, source TEXT, subject TEXT, version BIGINT, action TEXT, data TEXT"
        connection.execute(text(f"CREATE TABLE IF NOT EXISTS journal ({columns})"))
    Consumer(
        os.environ["BROKER_URL"], os.environ["QUEUE"], Memory(engine), apply, transport_options=options
    ).run()  # until SIGTERM: the message in hand is finished first
