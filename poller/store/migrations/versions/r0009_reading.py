"""Tokens and the audit of the reading API, replays and holds: see r0009_reading.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables by which versions are read, and the past is replayed."""
    script = files("poller.store.migrations.versions").joinpath("r0009_reading.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: an audit is not to be undone."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
