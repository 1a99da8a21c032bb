"""Where events go, over kombu: one port (:mod:`poller.broker.port`), two adapters: RabbitMQ, and pgmq (queues in Postgres).

Bodies are the event's JSON in UTF-8, content type ``application/cloudevents+json``: on either broker a plain kombu consumer does
``json.loads(message.body)``.
"""
