"""Rungs, patients' sources, pauses, bulk exports and attachments: see r0002_sources.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and columns by which a practice is read by every way there is."""
    script = files("poller.store.migrations.versions").joinpath("r0002_sources.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: what these tables hold cannot be had again from the ones before."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
