"""For services that consume events: each change once, in order, in the transaction of its effect.

    from sqlalchemy import create_engine
    from poller.consumer import Consumer, Memory

    def apply(change, connection): ...

    memory = Memory(create_engine("sqlite:///consumer.db"))
    Consumer("amqp://guest:guest@localhost//", "fhir.changes.all", memory, apply).run()

It stands alone: nothing of the engine is imported here, and nothing of the engine imports it. It is the second place, beside
``poller.broker``, that speaks kombu.
"""

from poller.consumer.change import Change, Gap, Malformed
from poller.consumer.memory import Memory
from poller.consumer.run import Consumer, TooManyAside, TryAgain, pgmq_options

__all__ = ["Change", "Consumer", "Gap", "Malformed", "Memory", "TooManyAside", "TryAgain", "pgmq_options"]
