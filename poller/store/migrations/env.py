"""Alembic's entry: runs the revisions on the connection that :func:`poller.store.engine.migrate` passes in."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="poller_revision", transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
