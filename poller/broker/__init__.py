"""Where events go, over kombu: one port (:mod:`poller.broker.port`), adapters for RabbitMQ and for pgmq (queues in Postgres).

A third, :mod:`poller.broker.plain`, takes whatever else kombu reaches by a URL, and promises nothing.

Bodies are the event's JSON in UTF-8, content type ``application/cloudevents+json``: on either broker a plain kombu consumer does
``json.loads(message.body)``.
"""
